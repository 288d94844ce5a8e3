"""Uniformly random actions: what any agent must at least do better than."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtri
from torch import Tensor

from metarl.experience.agent import TaskSpec, TrialShape
from metarl.experience.data import Context, Episodes, Record, Timestep
from metarl.seeding import LaneGenerator
from metarl.stepping.spaces import ActionCodec
from metarl.tasks.distribution import TaskDistribution


class RandomActions:
    """Draws every action from the whole action space and learns nothing.

    A dimension of a Box without bounds is standard normal, and one with a single bound is that
    bound plus or minus a standard exponential, as in Gymnasium's ``Box.sample``. No action is more
    likely than another, so that greedy actions are the middle of a Box, or index 0.
    """

    def __init__(
        self, tasks: TaskDistribution, shape: TrialShape, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        self.spec, self.shape, self.device = TaskSpec.of(tasks), shape, device
        self._codec = ActionCodec(tasks.action_space)

    def begin(self, num_tasks: int) -> Context:
        """Return a context without content."""
        return torch.zeros(num_tasks, 0, device=self.device)

    def act(
        self, context: Context, timestep: Timestep, generator: LaneGenerator, greedy: bool = False
    ) -> tuple[Tensor, Record, Context]:
        """Draw every lane's action."""
        u = generator.uniform(1 if self._codec.discrete else self._codec.size)
        if self._codec.discrete:
            u = np.zeros_like(u) if greedy else u
            action = torch.from_numpy((u[..., 0] * self._codec.size).astype(np.int64))
        else:
            u = np.full_like(u, 0.5) if greedy else u
            action = torch.from_numpy(_spread(u, self._codec))
        return action.to(self.device), {}, context

    def adapt(self, context: Context, episodes: Episodes, generator: torch.Generator) -> Context:
        """Learn nothing."""
        return context


def _spread(u: npt.NDArray[np.float64], codec: ActionCodec) -> npt.NDArray[np.float32]:
    """Return actions in policy units whose distribution functions have the values ``u``."""
    infinite = np.full(codec.size, np.inf, np.float32)
    low, high = codec.taken(-infinite), codec.taken(infinite)
    largest = np.finfo(np.float32).max / 2  # An infinite bound is the largest number.
    has_low, has_high = low > -largest, high < largest
    with np.errstate(over="ignore"):  # Infinite bounds are computed with, but not selected.
        action = np.select(
            [has_low & has_high, has_low, has_high],
            [low + (high - low) * u, low - np.log1p(-u), high + np.log(u)],
            ndtri(u),
        )
    return np.asarray(action, np.float32)

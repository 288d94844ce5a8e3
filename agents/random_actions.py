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
from metarl.stepping.actions import ActionCodec
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
        codec = self._codec
        u = generator.uniform(len(codec.choices) + codec.numbers)
        if greedy:
            u = np.full_like(u, 0.5)
            u[..., : len(codec.choices)] = 0.0
        chosen = np.floor(u[..., : len(codec.choices)] * codec.choices)
        if codec.discrete:
            action = torch.from_numpy(chosen[..., 0].astype(codec.dtype))
        else:
            number = _spread(u[..., len(codec.choices) :], codec)
            action = torch.from_numpy(np.concatenate([chosen, number], -1).astype(codec.dtype))
        return action.to(self.device), {}, context

    def adapt(self, context: Context, episodes: Episodes, generator: torch.Generator) -> Context:
        """Learn nothing."""
        return context


def _spread(u: npt.NDArray[np.float64], codec: ActionCodec) -> npt.NDArray[np.float32]:
    """Return actions in policy units whose distribution functions have the values ``u``."""
    low, high = codec.number_bounds
    largest = np.finfo(np.float32).max / 2  # An infinite bound is the largest number.
    has_low, has_high = low > -largest, high < largest
    with np.errstate(over="ignore"):  # Infinite bounds are computed with, but not selected.
        action = np.select(
            [has_low & has_high, has_low, has_high],
            [low + (high - low) * u, low - np.log1p(-u), high + np.log(u)],
            ndtri(u),
        )
    return np.asarray(action, np.float32)

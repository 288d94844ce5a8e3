"""What the algorithms for Bernoulli bandits share: which tasks these are, and the counts of an arm.

The posterior of an arm that has won w and lost l times is Beta(1 + w, 1 + l), since the arms'
probabilities are uniform beforehand. The RL² paper (Duan et al., 2016, arXiv 1611.02779, section
3.1) gives all its algorithms this prior, and so its table is comparable.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from metarl.errors import UserError
from metarl.experience.agent import TaskSpec, TrialShape
from metarl.experience.data import Context, Episodes, Record, Timestep
from metarl.seeding import LaneGenerator
from metarl.tasks.distribution import TaskDistribution

ACCEPTED = "bandits, whose episodes are one step with a Discrete action and a constant observation"


def does_not_apply(name: str, tasks: TaskDistribution, accepted: str) -> UserError:
    """Return the error of a baseline that cannot act in ``tasks``."""
    return UserError(f"--baselines: {name}: got tasks {tasks.name}; accepted: {accepted}")


def is_bandit(tasks: TaskDistribution) -> bool:
    """Return whether nothing but its rewards tells one task from another, a pull an episode."""
    return (
        tasks.horizon == 1
        and isinstance(tasks.action_space, gym.spaces.Discrete)
        and _is_constant(tasks.observation_space)
    )


def _is_constant(space: gym.Space[Any]) -> bool:
    if isinstance(space, gym.spaces.Discrete):
        return bool(space.n == 1)
    return isinstance(space, gym.spaces.Box) and bool(np.all(space.low == space.high))


class BanditAlgorithm(ABC):
    """Counts each arm's wins and losses and pulls the arm with the highest score.

    A subclass sets ``name`` and writes :meth:`scores`. The context is ``[task, arm, 2]``: wins and
    losses.
    """

    name: ClassVar[str]
    """The name in the registry, for messages."""
    exact_rewards: ClassVar[bool] = True
    """A reward that is neither 0 nor 1 is no win and no loss."""

    def __init__(
        self, tasks: TaskDistribution, shape: TrialShape, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        if not is_bandit(tasks):
            raise does_not_apply(self.name, tasks, ACCEPTED)
        self.spec, self.device = TaskSpec.of(tasks), device
        self.shape = TrialShape(shape.num_episodes)
        self.num_arms = int(tasks.action_space.n)  # type: ignore[attr-defined]  # is_bandit

    @abstractmethod
    def scores(
        self,
        wins: Float[Tensor, "task arm"],
        losses: Float[Tensor, "task arm"],
        generator: LaneGenerator,
        greedy: bool,
    ) -> Float[Tensor, "task arm"]:
        """Return a score of every arm; of equal ones the first arm is pulled.

        Args:
            wins: how often each arm has paid, in float64.
            losses: how often it has not.
            generator: the random numbers of this step.
            greedy: whether the result must not depend on the generator.
        """

    def begin(self, num_tasks: int) -> Context:
        """Return counts of zero."""
        return torch.zeros(num_tasks, self.num_arms, 2, device=self.device)

    def act(
        self, context: Context, timestep: Timestep, generator: LaneGenerator, greedy: bool = False
    ) -> tuple[Tensor, Record, Context]:
        """Count the outcome of the last pull, then pull the arm with the highest score.

        Raises:
            UserError: if a reward is neither 0 nor 1.
        """
        known = (timestep.active & ~timestep.trial_start).to(self.device)
        won = timestep.previous_reward.to(self.device)
        odd = known & (won != 0) & (won != 1)
        if odd.any():
            raise UserError(
                f"--baselines: {self.name}: got a reward of {float(won[odd][0]):g}; accepted: "
                "rewards of 0 or 1"
            )
        pulled = one_hot(timestep.previous_action[:, 0].to(self.device), self.num_arms)
        outcome = torch.stack([pulled * won, pulled * (1 - won)], -1)
        context = context + outcome * known[..., None]
        wins, losses = context.double().unbind(-1)
        score = self.scores(wins, losses, generator, greedy)
        return score.argmax(-1, keepdim=True), {}, context

    def adapt(self, context: Context, episodes: Episodes, generator: torch.Generator) -> Context:
        """Leave everything to ``act``."""
        return context

    def pulls_left(
        self, wins: Float[Tensor, "task arm"], losses: Float[Tensor, "task arm"]
    ) -> Float[Tensor, " task"]:
        """Return how many pulls of the trial are left, at least 1: any later one counts as last."""
        return (self.shape.num_episodes - (wins + losses).sum(-1)).clamp(min=1)

"""Algorithms for Bernoulli bandits without a table: greedy, ε-greedy, UCB1, Thompson sampling.

They are those of the RL² paper (Duan et al., 2016, arXiv 1611.02779, section 3.1), where every arm
starts with one win and one loss more than it has had: the prior Beta(1, 1).
"""

from __future__ import annotations

import math

import torch
from scipy.special import betaincinv
from torch import Tensor

from metarl.errors import UserError
from metarl.experience.agent import TrialShape
from metarl.experience.bandits import BanditAlgorithm
from metarl.seeding import LaneGenerator
from metarl.tasks.distribution import TaskDistribution


class Greedy(BanditAlgorithm):
    """Pulls the arm with the highest posterior mean."""

    name = "greedy"

    def scores(
        self, wins: Tensor, losses: Tensor, generator: LaneGenerator, greedy: bool
    ) -> Tensor:
        """Return the posterior means."""
        return _posterior_mean(wins, losses)


class EpsilonGreedy(BanditAlgorithm):
    """Pulls an arm at random with probability ``epsilon``, else the highest posterior mean's."""

    name = "epsilon-greedy"

    def __init__(
        self,
        tasks: TaskDistribution,
        shape: TrialShape,
        *,
        seed: int = 0,
        device: str = "cpu",
        epsilon: float = 0.1,
    ) -> None:
        super().__init__(tasks, shape, seed=seed, device=device)
        if not 0 <= epsilon <= 1:
            raise UserError(
                f"--baselines: epsilon-greedy: epsilon: got {epsilon}; accepted: 0 to 1"
            )
        self.epsilon = epsilon

    def scores(
        self, wins: Tensor, losses: Tensor, generator: LaneGenerator, greedy: bool
    ) -> Tensor:
        """Return the posterior means, or random numbers where the agent explores."""
        mean = _posterior_mean(wins, losses)
        if greedy:
            return mean
        u = torch.from_numpy(generator.uniform(1 + self.num_arms)[:, 0]).to(mean)
        return torch.where(u[:, :1] < self.epsilon, u[:, 1:], mean)


class UCB1(BanditAlgorithm):
    """Pulls the arm with the highest upper confidence bound (Auer et al., 2002).

    The bound at pull t is the posterior mean plus ``c`` √(2 ln t / (2 + pulls of the arm)), as in
    the RL² paper: the prior counts as two pulls, so that no arm has to be tried first. The bound of
    Auer et al. has c = 1, which explores too much in trials as short as these. The default of ``c``
    was chosen on validation tasks (``benchmarks/README.md``) and gives the paper's results.
    """

    name = "ucb1"

    def __init__(
        self,
        tasks: TaskDistribution,
        shape: TrialShape,
        *,
        seed: int = 0,
        device: str = "cpu",
        c: float = 0.2,
    ) -> None:
        super().__init__(tasks, shape, seed=seed, device=device)
        if not 0 <= c < math.inf:
            raise UserError(f"--baselines: ucb1: c: got {c}; accepted: a finite number from 0")
        self.c = c

    def scores(
        self, wins: Tensor, losses: Tensor, generator: LaneGenerator, greedy: bool
    ) -> Tensor:
        """Return the upper confidence bounds."""
        pulls = wins + losses
        bonus = (2 * (1 + pulls.sum(-1, keepdim=True)).log() / (2 + pulls)).sqrt()
        return _posterior_mean(wins, losses) + self.c * bonus


class Thompson(BanditAlgorithm):
    """Pulls the arm whose probability is the highest in a draw from the posterior.

    A greedy action is that of the highest posterior mean. Source: Thompson, 1933, "On the
    likelihood that one unknown probability exceeds another", Biometrika 25.
    """

    name = "thompson"

    def scores(
        self, wins: Tensor, losses: Tensor, generator: LaneGenerator, greedy: bool
    ) -> Tensor:
        """Return a draw from the posterior of every arm, by its inverse distribution function."""
        if greedy:
            return _posterior_mean(wins, losses)
        u = generator.uniform(self.num_arms)[:, 0]
        drawn = betaincinv(1 + wins.cpu().numpy(), 1 + losses.cpu().numpy(), u)
        return torch.from_numpy(drawn).to(wins)


def _posterior_mean(wins: Tensor, losses: Tensor) -> Tensor:
    return (1 + wins) / (2 + wins + losses)

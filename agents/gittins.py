"""The finite-horizon Gittins index of Bernoulli arms.

The index of an arm is the highest mean reward per pull that can be had from it alone, by pulling it
at least once and stopping at the best time within the pulls that are left. Pulling the arm with the
highest index is optimal with discounting and for ever (Gittins, 1979, "Bandit processes and dynamic
allocation indices", JRSS B 41), and close to optimal with a finite number of pulls (Kaufmann, 2018,
"On Bayesian index policies for sequential resource allocation", Annals of Statistics 46, where this
is the index FH-Gittins).
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metarl.experience.agent import TrialShape
from metarl.experience.bandits import BanditAlgorithm, does_not_apply
from metarl.seeding import LaneGenerator
from metarl.tasks.distribution import TaskDistribution

MOST_PULLS = 200
"""The longest trial whose table is computed, of 1.4 million indices, in about 20 seconds."""

PRICES, PRICES_AT_ONCE = 512, 32


class Gittins(BanditAlgorithm):
    """Pulls the arm with the highest finite-horizon Gittins index."""

    name = "gittins"

    def __init__(
        self, tasks: TaskDistribution, shape: TrialShape, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        super().__init__(tasks, shape, seed=seed, device=device)
        self.num_pulls = self.shape.num_episodes
        if self.num_pulls > MOST_PULLS:
            raise does_not_apply(self.name, tasks, f"bandits of at most {MOST_PULLS} pulls a trial")
        table, first = gittins_indices(self.num_pulls)
        self._table, self._first = (torch.from_numpy(x).to(device) for x in (table, first))

    def scores(
        self, wins: Tensor, losses: Tensor, generator: LaneGenerator, greedy: bool
    ) -> Tensor:
        """Return the arms' indices, or posterior means once the trial is over."""
        left = self.pulls_left(wins, losses).long()
        pulls = wins + losses
        place = self._first[left - 1][:, None] + (pulls * (pulls + 1) / 2 + wins).long()
        index = self._table[place.clamp(max=len(self._table) - 1)].double()
        over = pulls.sum(-1, keepdim=True) >= self.num_pulls
        return torch.where(over, (1 + wins) / (2 + pulls), index)


@functools.lru_cache(maxsize=4)
def gittins_indices(
    num_pulls: int,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return the indices of all arms that a trial of ``num_pulls`` pulls can meet.

    For a price per pull λ, the most that an arm can yield above the price with h pulls left is
    V(h) = max(0, p - λ + p V(h - 1, after a win) + (1 - p) V(h - 1, after a loss)), where p is the
    posterior mean (Kaufmann, 2018, section 4). The index is the price at which going on yields
    nothing. It is found for 512 prices at a time and interpolated in between, where the yield is
    nearly straight: the error is below 1e-4.

    Returns:
        The indices, and where those with h pulls left begin, at h - 1. From there on, an arm that
        won w of s pulls has number s (s + 1) / 2 + w.
    """
    pulls = np.repeat(np.arange(num_pulls + 1), np.arange(1, num_pulls + 2))
    wins = np.concatenate([np.arange(s + 1) for s in range(num_pulls + 1)])
    mean = ((1 + wins) / (2 + pulls))[:, None]
    after_loss = np.arange(len(pulls)) + pulls + 1
    sizes = [(num_pulls - h + 1) * (num_pulls - h + 2) // 2 for h in range(1, num_pulls + 1)]
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    table = np.empty(sum(sizes), np.float32)
    grid = np.linspace(0, 1, PRICES)
    for start in range(0, PRICES - 1, PRICES_AT_ONCE - 1):
        price = grid[start : start + PRICES_AT_ONCE]
        value = np.zeros((len(pulls), len(price)))
        for begin, size in zip(first, sizes, strict=True):
            p, loss = mean[:size], after_loss[:size]
            after = value[loss]
            profit = p - price + after + p * (value[loss + 1] - after)
            positive = np.count_nonzero(profit > 0, axis=1)
            (rows,) = np.nonzero((positive > 0) & (positive < len(price)))
            column = positive[rows]
            above, below = profit[rows, column - 1], profit[rows, column]
            step = price[column] - price[column - 1]
            table[begin + rows] = price[column - 1] + step * above / (above - below)
            value = np.maximum(profit, 0)
    return table, first

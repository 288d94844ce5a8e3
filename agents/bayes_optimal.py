"""The best that can be done without being told the task, by exact dynamic programming.

A trial is a decision problem whose state holds what has been learned, and an optimal policy of it
is the limit that every meta-learner approaches (Duff, 2002, "Optimal learning: computational
procedures for Bayes-adaptive Markov decision processes"). Two kinds of tasks are small enough.

On Bernoulli bandits the state is every arm's wins and losses. Arms are alike beforehand, so that
their order does not matter. In families such as gridworld it is a cell and the tasks that are still
possible (:mod:`metarl.experience.tabular`).
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metarl.experience import tabular
from metarl.experience.agent import TaskSpec, TrialShape
from metarl.experience.bandits import BanditAlgorithm, does_not_apply, is_bandit
from metarl.experience.data import Context, Episodes, Record, Timestep
from metarl.seeding import LaneGenerator
from metarl.tasks.distribution import TaskDistribution

MOST_STATES = 1_000_000
"""The largest number of states of a bandit's trial: 10 pulls of 10 arms have 11 thousand."""


class BayesOptimal:
    """Acts as the dynamic programme says; greedy actions are the same."""

    name = "bayes-optimal"

    def __init__(
        self, tasks: TaskDistribution, shape: TrialShape, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        kind = CountedBandit if is_bandit(tasks) else Search
        self._planned = kind(tasks, shape, seed=seed, device=device)
        self.spec, self.shape = self._planned.spec, self._planned.shape

    def begin(self, num_tasks: int) -> Context:
        """Return what is known of every task: nothing."""
        return self._planned.begin(num_tasks)

    def act(
        self, context: Context, timestep: Timestep, generator: LaneGenerator, greedy: bool = False
    ) -> tuple[Tensor, Record, Context]:
        """Take in the last reward and choose the best action."""
        return self._planned.act(context, timestep, generator, greedy)

    def adapt(self, context: Context, episodes: Episodes, generator: torch.Generator) -> Context:
        """Leave everything to ``act``."""
        return context


class Search:
    """Looks for the hidden task by the best plan there is, and goes for it when it is found."""

    def __init__(
        self, tasks: TaskDistribution, shape: TrialShape, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        self.spec, self.device = TaskSpec.of(tasks), device
        self.shape = TrialShape(shape.num_episodes)
        model = tabular.hidden_rewards(tasks)
        if model is None:
            accepted = f"small Bernoulli bandits, and {tabular.ACCEPTED}"
            raise does_not_apply(BayesOptimal.name, tasks, accepted)
        plan = tabular.search_plan(model, self.shape.num_episodes)
        if plan is None:
            accepted = f"families with at most {tabular.MOST_BELIEFS:,} states of knowledge a step"
            raise does_not_apply(BayesOptimal.name, tasks, accepted)
        self._follower = tabular.Follower(model, plan)

    def begin(self, num_tasks: int) -> Context:
        """Return the start of a trial."""
        return self._follower.begin(num_tasks).to(self.device)

    def act(
        self, context: Context, timestep: Timestep, generator: LaneGenerator, greedy: bool = False
    ) -> tuple[Tensor, Record, Context]:
        """See whether the last reward gave the task away; take the best action."""
        context = self._follower.advance(context, timestep)
        return self._follower.actions(context), {}, context


class CountedBandit(BanditAlgorithm):
    """Pulls the arm that the dynamic programme over all counts says."""

    name = BayesOptimal.name

    def __init__(
        self, tasks: TaskDistribution, shape: TrialShape, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        super().__init__(tasks, shape, seed=seed, device=device)
        self.num_pulls = self.shape.num_episodes
        if not _is_small(self.num_pulls, self.num_arms):
            accepted = f"bandits with at most {MOST_STATES:,} states of knowledge, such as n10-k5"
            raise does_not_apply(self.name, tasks, accepted)
        self._plan = bandit_plan(self.num_pulls, self.num_arms)

    def scores(
        self, wins: Tensor, losses: Tensor, generator: LaneGenerator, greedy: bool
    ) -> Tensor:
        """Return 1 for arms with the best arm's counts, else 0; posterior means after the end."""
        pulls = wins + losses
        arms = (pulls * (pulls + 1) / 2 + wins).long().cpu().numpy()
        over = (pulls.sum(-1) >= self.num_pulls).cpu().numpy()
        rows = -np.sort(-np.where(over[:, None], 0, arms), axis=1)[:, : self.num_pulls]
        weights = _weights(self.num_pulls, rows.shape[1])
        best = self._plan.best[np.searchsorted(self._plan.keys, rows @ weights)]
        score = np.where(over[:, None], ((1 + wins) / (2 + pulls)).cpu(), arms == best[:, None])
        return torch.from_numpy(score).to(wins)


class BanditPlan:
    """An optimal policy of a bandit: for every state, by its key, the counts of the best arm."""

    def __init__(
        self, keys: npt.NDArray[np.int64], best: npt.NDArray[np.int64], value: float
    ) -> None:
        order = np.argsort(keys)
        self.keys, self.best = keys[order], best[order]
        self.value = value
        """The expected total reward of a trial."""


@functools.lru_cache(maxsize=4)
def bandit_plan(num_pulls: int, num_arms: int) -> BanditPlan:
    """Return an optimal policy for trials of ``num_pulls`` pulls of ``num_arms`` arms.

    An arm that won w of s pulls has number s (s + 1) / 2 + w. A state is its arms' numbers in
    falling order, and its key writes them as digits. No more arms than pulls are needed: the others
    stay untouched.
    """
    columns = min(num_arms, num_pulls)
    weights = _weights(num_pulls, columns)
    pulls = np.repeat(np.arange(num_pulls + 1), np.arange(1, num_pulls + 2))
    wins = np.concatenate([np.arange(s + 1) for s in range(num_pulls + 1)])
    after_loss = np.arange(len(pulls)) + pulls + 1
    layers = [np.zeros((1, columns), np.int64)]
    for _ in range(num_pulls - 1):
        after = [
            _pulled(layers[-1], column, after_loss + won)
            for column in range(columns)
            for won in (0, 1)
        ]
        _, first = np.unique(np.concatenate([rows @ weights for rows in after]), return_index=True)
        layers.append(np.concatenate(after)[first])
    every_key, every_best = [], []
    later, later_keys = np.zeros(0), np.zeros(0, np.int64)
    for rows in reversed(layers):
        yields = []
        for column in range(columns):
            arm = rows[:, column]
            p = (1 + wins[arm]) / (2 + pulls[arm])
            lost, won = (
                later[np.searchsorted(later_keys, _pulled(rows, column, after_loss + w) @ weights)]
                if len(later)
                else 0.0
                for w in (0, 1)
            )
            yields.append(p * (1 + won) + (1 - p) * lost)
        value = np.stack(yields, 1)
        later, later_keys = value.max(1), rows @ weights
        every_key.append(later_keys)
        every_best.append(rows[np.arange(len(rows)), value.argmax(1)])
    return BanditPlan(np.concatenate(every_key), np.concatenate(every_best), float(later[0]))


def _pulled(
    rows: npt.NDArray[np.int64], column: int, after: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return the states after a pull of the arms of one column, in falling order again."""
    changed = -rows
    changed[:, column] = -after[rows[:, column]]
    changed.sort(axis=1)
    return -changed


def _weights(num_pulls: int, columns: int) -> npt.NDArray[np.int64]:
    digits = (num_pulls + 1) * (num_pulls + 2) // 2
    return digits ** np.arange(columns, dtype=np.int64)[::-1]


def _is_small(num_pulls: int, num_arms: int) -> bool:
    """Return whether the states are few enough, and their keys fit into 63 bits."""
    digits = (num_pulls + 1) * (num_pulls + 2) // 2
    columns = min(num_arms, num_pulls)
    if columns * math.log2(digits) >= 63:
        return False
    # States of so many pulls (first index) in so many arms: arms of s pulls are of s + 1 kinds.
    count = [[0] * (columns + 1) for _ in range(num_pulls)]
    count[0][0] = 1
    for s in range(1, num_pulls):
        for total in reversed(range(num_pulls)):
            for used in reversed(range(columns + 1)):
                for arms in range(1, min(used, total // s) + 1):
                    fewer = count[total - arms * s][used - arms]
                    count[total][used] += fewer * math.comb(s + arms, arms)
    return sum(map(sum, count)) <= MOST_STATES

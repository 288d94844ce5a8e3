"""What scores of runs and tasks say: averages, improvement, profiles, how many seeds it takes.

Scores are ``[seed, task]``. Most of these are recommended by Agarwal et al., 2021, "Deep
Reinforcement Learning at the Edge of the Statistical Precipice" (arXiv 2108.13264).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy import stats

from metarl.evaluation.statistics import FEWEST_SEEDS, Estimate, Floats

FEWEST_EPISODES = 10
"""The least number of episodes of a task whose mean is a score that has a median."""

MOST_SEEDS = 1000
"""The largest number of seeds that is planned for."""

RESAMPLES = 2000
"""The number of bootstrap resamples of runs."""

_GAPS = {3: 46.7, 4: 11.8, 5: 7.09, 6: 5.41, 7: 4.48, 8: 3.85, 10: 3.12, 15: 2.33, 30: 1.69}
"""Number of seeds -> the gap that 5% of Gaussian samples exceed (simulated, 100 000 samples)."""


def robust_means(scores: Floats, episodes_per_score: int) -> dict[str, list[float] | None]:
    """Return the ``median`` and the interquartile mean ``iqm`` of each point's scores.

    Both are None unless every score is a mean over at least ten episodes: of single episodes they
    describe the noise of an episode, and of single successes they are almost always 0 or 1.

    Args:
        scores: ``[point, …]``.
        episodes_per_score: the number of episodes that every score is a mean over.
    """
    if episodes_per_score < FEWEST_EPISODES:
        return {"median": None, "iqm": None}
    flat = np.asarray(scores, np.float64).reshape(len(scores), -1)
    middle = np.atleast_1d(stats.trim_mean(flat, 0.25, axis=1))
    return {"median": np.median(flat, 1).tolist(), "iqm": middle.tolist()}


def area_under_curve(values: Floats, episodes: Sequence[int]) -> Floats:
    """Return the mean height of adaptation curves: their area divided by its width.

    Args:
        values: ``[point, …]``, joined by straight lines.
        episodes: the episodes of experience at each point. The only point is its own mean.
    """
    values = np.asarray(values, np.float64)
    if len(episodes) == 1:
        return np.asarray(values[0])
    area = np.trapezoid(values, np.asarray(episodes, np.float64), axis=0)
    return np.asarray(area / (episodes[-1] - episodes[0]))


class Improvement(NamedTuple):
    """How often a run of one group beats a run of another on the same task."""

    probability: float
    """The probability, ties counted as half."""
    low: float | None
    """The lower bound of its 95% interval; None below three runs in a group."""
    high: float | None
    """The upper bound."""


def probability_of_improvement(first: Floats, second: Floats, weights: Floats) -> Improvement:
    """Return the probability that a run of ``first`` beats one of ``second`` on a task.

    It is the share of pairs of runs on each task, averaged over tasks. The percentile interval
    resamples the runs of both groups, so that it is narrow where there are few runs.

    Args:
        first: ``[seed, task]``.
        second: the other group's scores on the same tasks.
        weights: what each task counts, ``[task]``; they add up to 1.
    """
    pairs = np.stack([((own > second) + 0.5 * (own == second)) @ weights for own in first])
    share = float(pairs.mean())
    if min(pairs.shape) < FEWEST_SEEDS:
        return Improvement(share, None, None)
    rng = np.random.default_rng(0)
    drawn = [rng.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n for n in pairs.shape]
    low, high = np.quantile(np.einsum("bi,ij,bj->b", drawn[0], pairs, drawn[1]), (0.025, 0.975))
    return Improvement(share, float(low), float(high))


def performance_profile(scores: Floats, thresholds: Floats, weights: Floats) -> Floats:
    """Return the share of runs and tasks whose score is above each threshold: ``[threshold]``."""
    return np.array([((scores > least) @ weights).mean() for least in thresholds])


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values that are corrected for their number (Holm, 1979).

    The smallest of n is multiplied by n, the next one by n − 1 and so on; none becomes smaller
    than one before it, or larger than 1.
    """
    order = np.argsort(p_values)
    factors = len(p_values) - np.arange(len(p_values))
    corrected = np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factors), 1)
    return [float(corrected[place]) for place in np.argsort(order)]


def has_two_kinds(values: Floats) -> bool:
    """Return whether the seeds look like two kinds, such as those that succeed and that fail.

    The largest gap between neighbours of the sorted seed scores divides them in two. They are two
    kinds if the gap is many times the deviation of a score from the mean of its side, pooled over
    both sides, or the noise of a score if that is larger. How many times depends on the number of
    seeds: as many as 5% of Gaussian samples exceed (47 of three seeds, 7.1 of five, 3.1 of ten).
    Of three seeds one that fails is hardly ever told from a Gaussian's, and of two never.

    It does not say that an interval misses. Where seeds succeed or fail, the intervals of three or
    four seeds that miss are those of seeds that all came out alike, a quarter and an eighth of
    the groups if both are as likely; such seeds look like one kind and are never flagged.

    Args:
        values: ``[seed, task]``.
    """
    number = len(values)
    if number < FEWEST_SEEDS:
        return False
    scores = np.sort(values.mean(1))
    gaps = np.diff(scores)
    sides = np.split(scores, [int(gaps.argmax()) + 1])
    within = np.sqrt(sum(((side - side.mean()) ** 2).sum() for side in sides) / (number - 2))
    rest = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
    noise = np.sqrt((rest**2).mean() / values.shape[1] * number / (number - 1))
    least = float(np.interp(number, list(_GAPS), list(_GAPS.values())))
    return bool(gaps.max() > least * max(within, noise, 1e-9 * np.abs(scores).max()))


def planned(estimate: Estimate, num_seeds: int) -> Estimate:
    """Return the estimate that more seeds of the same kind can be expected to give.

    Args:
        estimate: the present one, of at least two seeds.
        num_seeds: their future number; of two groups that of the smaller one, and the other grows
            in proportion.
    """
    grown, freedom = num_seeds / estimate.num_seeds, (num_seeds - 1) / (estimate.num_seeds - 1)
    return replace(
        estimate,
        num_seeds=num_seeds,
        by_seeds=np.asarray(estimate.by_seeds / grown),
        seed_freedom=np.asarray(estimate.seed_freedom * freedom),
        over_tasks=estimate.by_tasks,
    )


def seeds_for_half_width(estimate: Estimate, half_width: float) -> int | None:
    """Return how many seeds an interval of mean ± ``half_width`` would take.

    It is None if 1000 are not enough: then tasks are too few, not seeds.
    """
    return _fewest(estimate, lambda plan, half: half <= half_width)


def seeds_for_significance(estimate: Estimate, power: float = 0.8) -> int | None:
    """Return how many seeds would show the present difference with a probability of ``power``.

    It plans as if the difference and the variances were the true ones. None: 1000 do not suffice.
    """
    spare = stats.norm.ppf(power)

    def shown(plan: Estimate, half: float) -> bool:
        return bool(abs(plan.mean) >= half + spare * np.sqrt(plan.by_seeds + plan.by_tasks))

    return _fewest(estimate, shown)


def _fewest(estimate: Estimate, enough: Callable[[Estimate, float], bool]) -> int | None:
    """Return the fewest seeds with which an estimate is good enough; more are never worse."""

    def suffice(number: int) -> bool:
        plan = planned(estimate, number)
        half = plan.half_width()
        return half is not None and enough(plan, float(half))

    if estimate.num_seeds < 2 or not suffice(MOST_SEEDS):
        return None
    return FEWEST_SEEDS + bisect_left(range(FEWEST_SEEDS, MOST_SEEDS), True, key=suffice)

"""Estimates over training seeds and tasks, with intervals that cover as often as they say.

The estimand is the mean over training seeds and the task distribution. Where all seeds meet the
same tasks, the two are crossed: ``values[seed, task]`` is ``mean + seed + task + rest``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

Floats: TypeAlias = npt.NDArray[np.floating[Any]]

FEWEST_SEEDS = 3
"""The least number of seeds whose spread an interval is made of."""


@dataclass(frozen=True)
class Estimate:
    """A mean, or a difference of two, and the variance that seeds and tasks each give it.

    All arrays have the leading axes of the values, such as points of a curve.
    """

    mean: Floats
    """The estimate."""
    num_seeds: int
    """The number of seeds; of two groups, the smaller number."""
    by_seeds: Floats
    """The variance that seeds give the mean; NaN for a single seed."""
    seed_freedom: Floats
    """The degrees of freedom of ``by_seeds``."""
    by_tasks: Floats
    """The variance that tasks give the mean, 0 where they are fixed: an estimate, at least 0."""
    over_tasks: Floats
    """The variance of the mean over tasks with these seeds only: ``by_tasks`` and noise."""
    task_freedom: Floats
    """The degrees of freedom of the variances over tasks."""

    def half_width(self, level: float = 0.95) -> Floats | None:
        """Return half of the width of the confidence interval; None below three seeds.

        Each source of variance has its own quantile of Student's t (Banerjee, 1960, "Approximate
        confidence interval for linear functions of means of k populations …"):
        ``h² = t²(seed_freedom) · by_seeds + t²(task_freedom) · by_tasks``. A single t with
        Satterthwaite's degrees of freedom for the sum covers 92.2 to 93.5% at three Gaussian seeds
        (benchmarks/interval_coverage.py), since its degrees are many whenever few seeds happen to
        agree.
        """
        if self.num_seeds < FEWEST_SEEDS:
            return None
        seeds, tasks = (_t(level, k) ** 2 for k in (self.seed_freedom, self.task_freedom))
        crossed = seeds * self.by_seeds + tasks * self.by_tasks
        return np.asarray(np.sqrt(np.maximum(crossed, tasks * self.over_tasks)))

    def half_width_over_tasks(self, level: float = 0.95) -> Floats:
        """Return half of the width of the interval over tasks, which is of these seeds only."""
        return np.asarray(_t(level, self.task_freedom) * np.sqrt(self.over_tasks))

    def p_value(self) -> float | None:
        """Return the two-sided p-value of a mean of 0: 1 minus the level whose bound is 0."""
        if self.num_seeds < FEWEST_SEEDS:
            return None

        def beyond(p: float) -> float:
            half = self.half_width(1 - p)
            assert half is not None
            return float(half - abs(self.mean))

        if beyond(1.0) >= 0:  # The mean is 0.
            return 1.0
        return float(optimize.brentq(beyond, 1e-12, 1.0)) if beyond(1e-12) > 0 else 1e-12


def crossed_mean(
    values: Floats, strata: npt.NDArray[Any] | None = None, fixed_tasks: bool = False
) -> Estimate:
    """Estimate the mean over seeds and tasks from a two-way analysis of variance.

    With mean squares of seeds, tasks and rest, S seeds and T tasks, the grand mean has the variance
    ``(MS_seed + MS_task − MS_rest) / (S·T)`` (Searle, Casella & McCulloch, 1992, Variance
    Components, section 4.3): ``by_seeds`` is ``MS_seed / (S·T)``, ``over_tasks``
    ``MS_task / (S·T)`` and ``by_tasks`` what that exceeds ``MS_rest / (S·T)`` by, at least 0.

    Args:
        values: ``[…, seed, task]``; every seed has the same tasks.
        strata: the kind of each task, ``[task]``. Kinds are fixed and count equally, tasks within
            a kind are a sample: the mean is that of the kinds' means, and variances over tasks are
            those within kinds. A kind of one task is fixed. By default all are of one kind.
        fixed_tasks: whether these are all tasks there are, which gives no variance. The interval
            is then the t interval of the seeds' means.
    """
    return _estimate([values], strata, fixed_tasks)


def difference(
    first: Floats, second: Floats, strata: npt.NDArray[Any] | None = None, fixed_tasks: bool = False
) -> Estimate:
    """Estimate the mean of ``first`` minus that of ``second``, paired by task.

    Args:
        first: ``[…, seed, task]``.
        second: the other group's values, of its own seeds on the same tasks.
        strata: the kind of each task; see :func:`crossed_mean`.
        fixed_tasks: whether these are all tasks there are.
    """
    return _estimate([first, second], strata, fixed_tasks)


def _estimate(
    groups: Sequence[Floats], strata: npt.NDArray[Any] | None, fixed_tasks: bool
) -> Estimate:
    arrays = [np.asarray(group, np.float64) for group in groups]
    weights = task_weights(arrays[0].shape[-1], strata)
    seeds = [x.shape[-2] for x in arrays]
    scores = [x @ weights for x in arrays]
    if min(seeds) > 1:
        parts = np.stack([y.var(-1, ddof=1) / n for y, n in zip(scores, seeds, strict=True)])
    else:
        parts = np.full((len(groups), *scores[0].shape[:-1]), np.nan)
    by_seeds, seed_freedom = _satterthwaite(parts, np.array(seeds) - 1)
    rests = [x - x.mean(-2, keepdims=True) for x in arrays]
    means = arrays[0].mean(-2) - (arrays[1].mean(-2) if len(groups) > 1 else 0.0)
    samples, noise = [], np.zeros(means.shape[:-1])
    for own in [] if fixed_tasks else _samples(weights, strata):
        number, scale = own.sum(), weights[own].sum() ** 2 / own.sum()
        samples.append((means[..., own].var(-1, ddof=1) * scale, number - 1))
        for rest, n in zip(rests, seeds, strict=True):
            if n > 1:
                within = rest[..., own] - rest[..., own].mean(-1, keepdims=True)
                squares = (within**2).sum((-2, -1)) / ((n - 1) * (number - 1))
                noise += squares * scale / n
    kinds = np.stack([v for v, _ in samples]) if samples else np.zeros((1, *noise.shape))
    over_tasks, task_freedom = _satterthwaite(kinds, np.array([k for _, k in samples] or [1]))
    return Estimate(
        np.asarray(means @ weights),
        min(seeds),
        by_seeds,
        seed_freedom,
        np.asarray(np.maximum(over_tasks - noise, 0)),
        over_tasks,
        task_freedom,
    )


def _satterthwaite(parts: Floats, freedom: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return the sum of independent variances and its degrees of freedom (Satterthwaite, 1946).

    ``(Σ vᵢ)² / Σ (vᵢ² / kᵢ)`` for variances ``vᵢ`` ``[part, …]`` of ``kᵢ`` degrees; for the means
    of two groups it is Welch's.
    """
    total = np.asarray(parts.sum(0))
    shape = (-1, *[1] * total.ndim)
    # A single part has k degrees whatever its size; dividing by the largest avoids underflow.
    relative = parts / np.where(parts.max(0) > 0, parts.max(0), 1)
    below = (relative**2 / np.maximum(freedom, 1).reshape(shape)).sum(0)
    degrees = relative.sum(0) ** 2 / np.where(below > 0, below, np.inf)
    return total, np.asarray(np.maximum(degrees, max(int(freedom.min()), 1)))


def _t(level: float, freedom: Floats) -> Floats:
    return np.asarray(stats.t.ppf((1 + level) / 2, freedom))


def task_weights(num_tasks: int, strata: npt.NDArray[Any] | None = None) -> Floats:
    """Return what each task counts in a mean, ``[task]``: kinds count equally (see strata)."""
    if strata is None:
        return np.full(num_tasks, 1 / num_tasks)
    _, kind, counts = np.unique(strata, return_inverse=True, return_counts=True)
    return 1 / (len(counts) * counts[kind])


def _samples(weights: Floats, strata: npt.NDArray[Any] | None) -> list[npt.NDArray[np.bool_]]:
    """Return the tasks of each kind that has several: ``[task]`` each."""
    kinds = np.zeros(len(weights)) if strata is None else strata
    masks = [kinds == kind for kind in np.unique(kinds)]
    return [mask for mask in masks if mask.sum() > 1]

"""Compare groups of runs that were evaluated on the same tasks: how much, and how surely."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from metarl.evaluation.scores import (
    has_two_kinds,
    holm,
    performance_profile,
    probability_of_improvement,
    robust_means,
    seeds_for_half_width,
    seeds_for_significance,
)
from metarl.evaluation.statistics import Estimate, Floats, crossed_mean, difference, task_weights

PROFILE_POINTS = 51
"""The number of thresholds of a performance profile."""

SIGNIFICANT = 0.05
"""The p-value below which one group is said to be better."""


@dataclass(frozen=True)
class Scores:
    """The scores of a group of runs, one per training seed, on the same tasks."""

    label: str
    """The group's name."""
    runs: tuple[str, ...]
    """The name of each run."""
    values: Floats
    """``[seed, task]``."""
    episodes_per_score: int = 1
    """The number of episodes that each score is a mean over; 0 for success and other values that
    have no median."""


def compare_scores(
    groups: Sequence[Scores],
    strata: npt.NDArray[Any] | None = None,
    *,
    kinds: npt.NDArray[Any] | None = None,
    half_width: float | None = None,
) -> dict[str, Any]:
    """Return what is known of groups of runs and of all their pairs, as JSON represents it.

    Args:
        groups: scores on the same tasks.
        strata: what is fixed of the tasks, ``[task]``, if anything.
        kinds: the kind of each task, ``[task]``, if there are several.
        half_width: the half-width of an interval of a difference to plan seeds for.

    Returns:
        ``groups``: mean, interval, median, interquartile mean, each seed's mean and performance
        profile, and the mean of each kind of task. ``pairs``: the difference paired by task with
        its interval (``over`` says what it is over), p-value (``corrected_p`` by Holm's method for
        the number of pairs), probability of improvement and planned numbers of seeds, which are
        None if 1000 do not suffice or a group has a single seed. ``profiles``: the share of seeds
        and tasks above each threshold.
    """
    weights = task_weights(groups[0].values.shape[1], strata)
    bounds = [f([f(group.values) for group in groups]) for f in (np.min, np.max)]
    thresholds = np.linspace(float(bounds[0]), float(bounds[1]), PROFILE_POINTS)
    pairs = [
        _pair(first, second, strata, half_width)
        for first, second in itertools.combinations(groups, 2)
    ]
    known = [pair for pair in pairs if pair["p"] is not None]
    for pair, p in zip(known, holm([pair["p"] for pair in known]), strict=True):
        pair["corrected_p"] = p
    for pair in pairs:
        pair["better"] = _better(pair)
    return {
        "groups": [_group(group, strata, kinds) for group in groups],
        "pairs": pairs,
        "profiles": {
            "thresholds": thresholds.tolist(),
            **{
                g.label: performance_profile(g.values, thresholds, weights).tolist() for g in groups
            },
        },
    }


def _group(
    group: Scores, strata: npt.NDArray[Any] | None, kinds: npt.NDArray[Any] | None
) -> dict[str, Any]:
    estimate = crossed_mean(group.values, strata)
    seeds = group.values @ task_weights(group.values.shape[1], strata)
    robust = robust_means(group.values[None], group.episodes_per_score)
    return {
        "label": group.label,
        "runs": list(group.runs),
        **_interval(estimate),
        **{name: x and x[0] for name, x in robust.items()},
        "seed_means": seeds.tolist(),
        "two_kinds": has_two_kinds(group.values),
        "by_kind": {
            str(kind): float(group.values[:, kinds == kind].mean())
            for kind in ([] if kinds is None else dict.fromkeys(kinds.tolist()))
        },
    }


def _pair(
    first: Scores, second: Scores, strata: npt.NDArray[Any] | None, half_width: float | None
) -> dict[str, Any]:
    estimate = difference(first.values, second.values, strata)
    weights = task_weights(first.values.shape[1], strata)
    improvement = probability_of_improvement(first.values, second.values, weights)
    found = {
        "first": first.label,
        "second": second.label,
        **_interval(estimate),
        "num_seeds": estimate.num_seeds,
        "p": estimate.p_value(),
        "corrected_p": None,
        "improvement": improvement._asdict(),
        "seeds_for_significance": seeds_for_significance(estimate),
    }
    if half_width is not None:
        found["seeds_for_half_width"] = seeds_for_half_width(estimate, half_width)
    return found


def _interval(estimate: Estimate) -> dict[str, Any]:
    """Return a mean and its interval: over seeds and tasks, or over tasks where seeds are few."""
    mean, half = float(estimate.mean), estimate.half_width()
    if half is not None:
        bounds = {"low": mean - float(half), "high": mean + float(half)}
        return {"mean": mean, **bounds, "over": "seeds and tasks"}
    half = estimate.half_width_over_tasks()
    if half == 0:  # Nothing was a sample: each task is fixed and was met once.
        return {"mean": mean, "low": None, "high": None, "over": None}
    bounds = {"low": mean - float(half), "high": mean + float(half)}
    return {"mean": mean, **bounds, "over": "tasks, these runs only"}


def _better(pair: dict[str, Any]) -> str | None:
    """Return the label of the group that is better by the corrected p-value, if one is."""
    if pair["corrected_p"] is None or pair["corrected_p"] >= SIGNIFICANT:
        return None
    name: str = pair["first"] if pair["mean"] > 0 else pair["second"]
    return name

"""What the contexts of controls are worth: differences, normalised scores and verdicts.

Intervals of own minus another task's context take tasks as independent, although each context
counts twice: in the return of its own task, and in that of the task that it is lent to. For
Thompson sampling the two differences hardly correlate (a test measures it). The correlation is 1/2
at worst, if every context harms another task by just what it gains its own: the variance is then
twice what is taken, and 95% intervals hold 83%.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from metarl.evaluation.curve import AdaptationCurve
from metarl.evaluation.statistics import FEWEST_SEEDS, crossed_mean
from metarl.evaluation.summaries import (
    RESAMPLES,
    Summary,
    first_row,
    summarize,
    summarize_over_seeds,
)
from metarl.evaluation.tables import with_bounds
from metarl.experience.controls import Control

Values: TypeAlias = npt.NDArray[np.floating[Any]]

Curves: TypeAlias = Mapping[Control, AdaptationCurve]
"""The curves of an agent by the context that it has."""


def difference_of(curves: Curves, control: Control, metric: str) -> Values:
    """Return what the own context is worth more than that of a control: ``[point, task]``."""
    return curves["own"].metrics[metric].astype(np.float64) - curves[control].metrics[metric]


def overall_of(curves: Curves, control: Control, difference: Values) -> Values | None:
    """Return the mean difference over all points at which it need not be 0: ``[1, …]``.

    Contexts of another task and those that are reset every episode are the agent's own at the
    first point, unless it is told its task.
    """
    first = 0 if control == "reset-every-step" or curves[control].told_task else 1
    return difference[first:].mean(0)[None] if len(difference) > first else None


def rows_over_seeds(
    label: str, seeds: Sequence[Curves], metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """Return what contexts are worth over the training seeds of an agent: a row for each control.

    Args:
        label: the name of the agent.
        seeds: the curves of every seed, on the same tasks at the same points.
        metrics: the metrics that are wanted.

    Returns:
        ``difference`` and ``overall`` as in the table of controls, with intervals over seeds and
        tasks (:func:`metarl.evaluation.statistics.crossed_mean`), which have no bounds below three
        seeds.
    """
    rows, first = [], seeds[0]
    strata = first["own"].strata
    for metric in metrics:
        for control in (c for c in first if c != "own"):
            difference = np.stack([difference_of(each, control, metric) for each in seeds], 1)
            overall = overall_of(first, control, difference)
            rows.append(
                {
                    "metric": metric,
                    "label": label,
                    "control": control,
                    "told_task": first[control].told_task,
                    "num_seeds": len(seeds),
                    "episodes": list(first["own"].episodes),
                    "difference": summarize_over_seeds(difference, strata),
                    "overall": None
                    if overall is None
                    else first_row(summarize_over_seeds(overall, strata)),
                }
            )
    return rows


def normalized(
    own: Values, multitask: Values, oracle: Values, strata: npt.NDArray[Any] | None = None
) -> Summary | None:
    """Return (own − multitask) / (oracle − multitask) of the means over tasks, at every point.

    0 is what is had without telling tasks apart, 1 what is had if the task is known. The interval
    is the percentile bootstrap over tasks, each drawn with its own three values. Where strata are
    fixed it is Student's t interval of the linearised ratio (Cochran, 1977, Sampling Techniques,
    section 6.11): a stratum of two or three tasks cannot be resampled.

    Args:
        own: the score at every point, ``[point, task]``.
        multitask: the score of the multi-task policy, ``[task]``.
        oracle: the score of the oracle, ``[task]``.
        strata: what is fixed of the tasks, ``[task]``, if anything.

    Returns:
        The statistics; None unless the oracle is better by more than chance explains: a ratio to
        next to nothing says nothing.
    """
    room = np.asarray(oracle, np.float64) - multitask
    least = first_row(summarize(room[None], strata))
    if least["low"] is None or least["low"] <= 0:
        return None
    gained = np.asarray(own, np.float64) - multitask
    if strata is not None:
        span = crossed_mean(room[None], strata).mean
        mean = crossed_mean(gained[:, None], strata).mean / span
        beside = crossed_mean((gained - mean[:, None] * room)[:, None], strata)
        half = beside.half_width_over_tasks() / span
        bounds = {"low": (mean - half).tolist(), "high": (mean + half).tolist()}
        return {"mean": mean.tolist(), **bounds}
    number, rng = len(room), np.random.default_rng(0)
    times = rng.multinomial(number, np.full(number, 1 / number), size=RESAMPLES)
    ratios = (times @ gained.T) / (times @ room)[:, None]
    lows, highs = np.percentile(ratios, [2.5, 97.5], axis=0)
    return {
        "mean": (gained.mean(1) / room.mean()).tolist(),
        "low": lows.tolist(),
        "high": highs.tolist(),
    }


def verdict_of(row: Mapping[str, Any]) -> str:
    """Return whether the own context is worth more than another task's, in one sentence."""
    overall, seeds = row["overall"], row.get("num_seeds")
    over = "" if seeds is None else f" over {seeds} seeds"
    if row["told_task"]:
        said = "it is told its task"
    elif overall["low"] is None and seeds is not None:
        said = f"there is no interval over seeds below {FEWEST_SEEDS}, and no verdict over them"
    elif overall["low"] is None:
        said = (
            "there is no interval, and no verdict, since nothing of the tasks is a sample; more "
            "--evaluation-tasks may meet each several times"
        )
    elif overall["low"] > 0:
        said = "it adapts to its task"
    elif overall["high"] < 0:
        said = "what it learns of its task does harm there"
    else:
        said = "this does not show that it adapts to its task"
    text = with_bounds(overall)
    return f"{row['label']}{over}: own minus another task's context is {text}: {said}."

"""How an agent recovers when its task has changed within the trial, without a notice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

REGAINED = 0.9
"""The share of the gain before the change that has to be regained."""


def recovery_of(
    returns: npt.NDArray[np.floating[Any]], episodes: Sequence[int], after: int
) -> dict[str, Any] | None:
    """Return how long an agent takes to regain, with the new tasks, what it had gained before.

    The gain is the rise of the mean return from the first point to the last one before the
    change. It is regained at the first later point where the mean is not below the first point
    plus 90% of the gain, and where the mean of that point and all later ones is not either, so
    that a single lucky episode does not count. The tasks before and after the change are the same
    as a set, so that both means are of equally hard tasks.

    Args:
        returns: the return at every point, ``[point, task]``.
        episodes: the episodes of experience at every point.
        after: the number of episodes before the change.

    Returns:
        ``start``, ``before``, ``change`` and ``end``: the mean returns of the first point, of the
        last one before the change, of the first one after it and of the last; ``target``;
        ``gained``: whether the gain is more than chance explains (95%, paired by task); and
        ``episodes``: the episodes with the new task after which the target is reached, None if it
        is not within ``within``, or if there was no gain. None if no point is before the change.

    >>> curve = np.array([[0.0], [8.0], [10.0], [2.0], [9.5], [9.5]])
    >>> recovery_of(curve, range(6), 3)["episodes"]
    1
    """
    points = np.asarray(episodes)
    if not (points < after).any() or not (points >= after).any():
        return None
    values = np.asarray(returns, np.float64)
    means, own = values.mean(1), values[points < after]
    start, before = means[0], own[-1].mean()
    later, at = means[points >= after], points[points >= after] - after
    target = start + REGAINED * (before - start)
    onward = np.cumsum(later[::-1])[::-1] / np.arange(len(later), 0, -1)
    reached = np.flatnonzero((later >= target) & (onward >= target))
    gained = _exceeds_chance(own[-1] - own[0])
    regained = int(at[reached[0]]) if len(reached) and gained else None
    return {
        "start": float(start),
        "before": float(before),
        "change": float(later[0]),
        "end": float(later[-1]),
        "target": float(target),
        "gained": gained,
        "episodes": regained,
        "within": int(at[-1]),
    }


def _exceeds_chance(gains: npt.NDArray[np.float64]) -> bool:
    """Return whether the mean of the tasks' gains is above 0 by 1.96 standard errors."""
    error = gains.std(ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else 0.0
    return bool(gains.mean() > 1.96 * error)


def recovery_text(recovery: dict[str, Any], after: int) -> str:
    """Return in one sentence how an agent recovers."""
    start, before, change, end = (recovery[key] for key in ("start", "before", "change", "end"))
    if not recovery["gained"]:
        said = "no gain before the change is shown, so that there is none to regain"
    elif recovery["episodes"] is None:
        said = f"90% of the gain is not regained within {recovery['within']} episodes"
    else:
        said = (
            f"90% of the gain is regained after {recovery['episodes']} episodes with the new task"
        )
    return (
        f"the task changed after {after} episodes: return {start:.3f} at the start, {before:.3f} "
        f"before the change, {change:.3f} after it, {end:.3f} at the end; {said}"
    )

"""What ``metarl tune`` has found: a table, a picture, and settings to train with."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from metarl.evaluation.plotting import finish, save_figure
from metarl.evaluation.tables import Cells, print_rows
from metarl.files import write_whole
from metarl.search import Searched, Tuned

State: TypeAlias = Literal["complete", "pruned", "failed"]
"""How a trial ended."""

PANELS = 4
"""The largest number of options that the picture shows the scores of."""

_MARKERS: dict[State, dict[str, Any]] = {
    "complete": {"marker": "o", "color": "C0", "s": 24},
    "pruned": {"marker": "v", "color": "0.6", "s": 24},
}


@dataclass(frozen=True)
class TrialRecord:
    """A trial that has ended."""

    number: int
    """The number of the trial."""
    state: State
    """How it ended."""
    score: float | None
    """The last score on validation tasks, if there is one."""
    values: Mapping[str, Any]
    """The value of every option that was searched."""
    seconds: float | None
    """How long it took."""
    error: str | None = None
    """Why it failed, if it did."""


def best_of(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """Return the complete trial with the highest score, the first one of equals, if any."""
    complete = [record for record in records if record.state == "complete"]
    return max(complete, key=_score, default=None)


def print_trials(records: Sequence[TrialRecord]) -> None:
    """Print a table of all trials, the best first, then pruned and failed ones."""
    order = get_args(State)
    ranked = sorted(records, key=lambda r: (order.index(r.state), -_score(r), r.number))
    names = list(dict.fromkeys(name for record in records for name in record.values))
    rows: list[Cells] = []
    for record in ranked:
        took = "" if record.seconds is None else f"{record.seconds:.0f}"
        row: Cells = {"trial": str(record.number), "": record.state, "score": _text(record.score)}
        values = {name.replace("_", "-"): _text(record.values.get(name)) for name in names}
        rows.append(row | {"seconds": took} | values)
    print_rows(rows, left=2)


def write_trials(records: Sequence[TrialRecord], path: Path) -> None:
    """Write all trials as comma-separated values, in the order of their numbers."""
    names = list(dict.fromkeys(name for record in records for name in record.values))
    text = io.StringIO()
    columns = ["trial", "state", "score", "seconds", *names, "error"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for record in records:
        own: dict[str, Any] = {"trial": record.number, "state": record.state, "score": record.score}
        own |= {"seconds": record.seconds, "error": record.error}
        writer.writerow(own | {name: _cell(value) for name, value in record.values.items()})
    write_whole(path, text.getvalue().encode())


def plot_trials(
    records: Sequence[TrialRecord],
    importances: Mapping[str, float],
    space: Mapping[str, Searched],
    path: Path,
    *,
    title: str,
    metric: str,
) -> None:
    """Draw the scores in the order of the trials, what mattered, and the scores by option.

    Args:
        records: all trials that have ended.
        importances: how much each option matters, the largest first; may be empty.
        space: what was searched, by option; it says which axes are logarithmic.
        path: the picture's file; its suffix determines the format.
        title: the words above the picture.
        metric: the words for the score.
    """
    shown = list(importances or space)[:PANELS]
    figure = Figure(figsize=(11, 7), layout="constrained")
    upper, lower = np.asarray(figure.subfigures(2, 1))
    top = upper.subplots(1, 2, width_ratios=[3, 2])
    _draw_history(top[0], records, metric)
    _draw_importances(top[1], importances)
    panels = lower.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, shown, strict=True):
        _draw_option(axes, records, name, space[name])
    panels[0].set_ylabel(metric)
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path, 110)


def _draw_history(axes: Axes, records: Sequence[TrialRecord], metric: str) -> None:
    """Draw every trial's score, and the best of the complete ones so far."""
    best: list[tuple[int, float]] = []
    for record in records:
        if record.state == "complete":
            before = best[-1][1] if best else -math.inf
            best.append((record.number, max(_score(record), before)))
    for state, style in _MARKERS.items():
        points = [(r.number, r.score) for r in records if r.state == state and r.score is not None]
        if points:
            axes.scatter(*zip(*points, strict=True), label=state, **style)
    failed = [record.number for record in records if record.state == "failed"]
    if failed:
        low = axes.get_ylim()[0]
        axes.scatter(failed, [low] * len(failed), marker="x", color="C3", s=24, label="failed")
    if best:
        axes.step(
            *zip(*best, strict=True), where="post", color="C0", alpha=0.5, label="best so far"
        )
    axes.set(xlabel="trial", ylabel=metric)
    finish(axes)


def _draw_importances(axes: Axes, importances: Mapping[str, float]) -> None:
    """Draw how much each option matters as horizontal bars, the largest at the top."""
    names = [name.replace("_", "-") for name in importances]
    axes.barh(names[::-1], list(importances.values())[::-1], color="C0")
    axes.set_xlabel("importance (PED-ANOVA)")
    axes.spines[["top", "right"]].set_visible(False)
    if not importances:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "too few complete trials", ha="center", transform=axes.transAxes)


def _draw_option(axes: Axes, records: Sequence[TrialRecord], name: str, searched: Searched) -> None:
    """Draw the scores against the values of one option."""
    ranged = isinstance(searched, Tuned)
    if isinstance(searched, Tuned) and searched.log:
        axes.set_xscale("log")
        axes.set_xlim(searched.low / 1.15, searched.high * 1.15)
        few = searched.high < 50 * searched.low  # Too few decades to tell where a point is.
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    for state, style in _MARKERS.items():
        points = [
            (r.values[name] if ranged else _text(r.values[name]), r.score)
            for r in records
            if r.state == state and r.score is not None and name in r.values
        ]
        if points:
            axes.scatter(*zip(*points, strict=True), **style)
    axes.set_xlabel(name.replace("_", "-"))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _score(record: TrialRecord) -> float:
    return -math.inf if record.score is None else record.score


def _text(value: Any) -> str:
    """Return a value in few characters."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else _cell(value)


def _cell(value: Any) -> Any:
    """Return a value as a cell of a table of numbers holds it."""
    return json.dumps(value) if isinstance(value, tuple | list) else str(value)

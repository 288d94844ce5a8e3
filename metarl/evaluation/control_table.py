"""Say what contexts are worth: tables of controls, their files, and the verdict on each agent."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from metarl.console import console
from metarl.evaluation.control_statistics import (
    Curves,
    Values,
    difference_of,
    normalized,
    overall_of,
    rows_over_seeds,
    verdict_of,
)
from metarl.evaluation.curve import AdaptationCurve
from metarl.evaluation.summaries import at_point, first_row, summarize
from metarl.evaluation.tables import (
    Cells,
    conditions_text,
    markdown_rows,
    print_rows,
    with_bounds,
    with_half,
)
from metarl.experience.controls import Control
from metarl.files import write_json, write_whole
from metarl.task import SPLIT_NAMES

FORMAT = 1
"""The format of the JSON file of controls."""

SHOWN_POINTS = 3
"""The largest number of points that the console and Markdown show."""


class Controlled(NamedTuple):
    """An agent or a baseline with its own context, and with those of the controls."""

    label: str
    """The name that tells it apart from the others."""
    kind: Literal["agent", "baseline"]
    """What it is."""
    curves: Curves
    """The curves, all with the points of ``own``."""
    group: str = ""
    """The name that it shares with runs that differ from it in the training seed alone."""


class Reference(NamedTuple):
    """A policy that does not adapt, beside which a score is put."""

    role: Literal["multi-task", "oracle"]
    """``multi-task`` is one policy for all tasks; ``oracle`` is told the task."""
    label: str
    """The name of the agent or baseline."""
    curve: AdaptationCurve
    """The curve; its points differ by chance alone."""

    def values(self, metric: str) -> Values | None:
        """Return the mean over all episodes of every task, ``[task]``; None if not reported."""
        found = self.curve.metrics.get(metric)
        return None if found is None else found.mean(0, dtype=np.float64)


@dataclass(frozen=True)
class Controls:
    """Agents and baselines with their own contexts and those of controls, on the same tasks."""

    participants: Sequence[Controlled] = field(repr=False)
    """The agents and baselines, an agent first."""
    references: Sequence[Reference] = field(default=(), repr=False)
    """A multi-task policy and an oracle, if there are any."""
    remarks: Sequence[str] = field(default=(), repr=False)
    """What else is to be said, such as why there is no oracle."""

    @functools.cached_property
    def rows(self) -> list[dict[str, Any]]:
        """What the tables hold, as JSON represents it: a row for each metric, agent and control.

        ``value`` is the metric at each of ``episodes``. ``difference`` is the value with the own
        context minus that of the control, paired by task, and ``overall`` its mean over all points
        at which they can differ: without the first for contexts of another task and for those
        that are reset every episode, since there is no experience before it. ``normalized`` is
        (value − multi-task) / (oracle − multi-task) of the own context. Means and intervals are
        those of plain evaluations: what is fixed of the tasks counts equally and is no sample.
        """
        rows = []
        for metric in self.metrics:
            for participant in self.participants:
                rows += [self._row(metric, participant, c) for c in participant.curves]
            for reference in self.references:
                values = reference.values(metric)
                if values is not None:
                    rows.append(_reference_row(metric, reference, values))
        return rows

    @property
    def metrics(self) -> list[str]:
        """``return``, and ``success`` where it is reported."""
        own = self.participants[0].curves["own"]
        return ["return"] + (["success"] if own.success is not None else [])

    def _row(self, metric: str, participant: Controlled, control: Control) -> dict[str, Any]:
        curve, own = participant.curves[control], participant.curves["own"]
        strata = own.strata
        row: dict[str, Any] = {
            "metric": metric,
            "label": participant.label,
            "kind": participant.kind,
            "control": control,
            "told_task": curve.told_task,
            "env_steps": curve.env_steps,
            "episodes": list(curve.episodes),
            "value": summarize(curve.metrics[metric], strata),
            "difference": None,
            "overall": None,
            "normalized": None,
        }
        if control == "own":
            multitask, oracle = (self._reference(role, metric) for role in ("multi-task", "oracle"))
            if multitask is not None and oracle is not None:
                row["normalized"] = normalized(own.metrics[metric], multitask, oracle, strata)
            return row
        difference = difference_of(participant.curves, control, metric)
        overall = overall_of(participant.curves, control, difference)
        row["difference"] = summarize(difference, strata)
        row["overall"] = None if overall is None else first_row(summarize(overall, strata))
        return row

    def _reference(self, role: str, metric: str) -> Values | None:
        return next((r.values(metric) for r in self.references if r.role == role), None)

    @functools.cached_property
    def over_seeds(self) -> list[dict[str, Any]]:
        """What contexts are worth over the seeds of each group (:func:`rows_over_seeds`)."""
        groups: dict[str, list[Curves]] = {}
        for participant in self.participants:
            if participant.group:
                groups.setdefault(participant.group, []).append(participant.curves)
        rows = [rows_over_seeds(name, x, self.metrics) for name, x in groups.items() if len(x) > 1]
        return [row for group in rows for row in group]

    @property
    def verdicts(self) -> list[str]:
        """One sentence for each agent, baseline and group: is its context worth anything?"""
        return [
            verdict_of(row)
            for row in (*self.rows, *self.over_seeds)
            if row["control"] == "another-task" and row["metric"] == "return" and row["overall"]
        ]

    @property
    def title(self) -> str:
        """One line that says what the table is about."""
        curve = self.participants[0].curves["own"]
        shared = ", the same tasks as in training" if curve.shared_split else ""
        best = ", best checkpoints" if curve.checkpoint == "best" else ""
        said = f", {conditions_text(curve.conditions)}" if curve.conditions else ""
        actions = "greedy" if curve.greedy else "sampled"
        return (
            f"{curve.returns.shape[1]:,} {SPLIT_NAMES[curve.split]} tasks of {curve.env}{shared}, "
            f"the same in every control ({actions} actions{best}{said})"
        )

    @property
    def notes(self) -> list[str]:
        """What the columns mean, what to know of the references, and what is missing."""
        notes = [
            "Own − it: the return with the agent's own context minus the return in this row, "
            "paired by task; all points: the mean over those at which the two can differ."
        ]
        own = self.participants[0].curves["own"]
        for reference in self.references:
            steps = reference.curve.env_steps
            if reference.role == "multi-task" and steps != own.env_steps:
                notes.append(
                    f"{reference.label} was trained on {steps or 0:,} steps, "
                    f"{self.participants[0].label} on {own.env_steps or 0:,}."
                )
        if any(row["normalized"] for row in self.rows):
            notes.append("Normalised: (score − multi-task) / (oracle − multi-task), last point.")
        notes += [
            f"{row['label']}: no verdict, since its trials have one point, at which it has no "
            "experience; --episodes-per-trial makes them longer."
            for row in self.rows
            if row["control"] == "another-task" and row["metric"] == "return" and not row["overall"]
        ]
        return [*notes, *self.remarks]

    def _cells(self, row: Mapping[str, Any], cell: Callable[[Mapping[str, Any]], str]) -> Cells:
        """Return the texts of a row by the titles of their columns; ``cell`` gives one's text."""

        def at(statistics: Mapping[str, Any] | None, index: int) -> str:
            return cell(at_point(statistics, index)) if statistics else ""

        told = " (told the task)" if row["told_task"] else ""
        cells = {"agent": row["label"] + told, "context": context_name(row)}
        for point in self._points:
            known = point in row["episodes"]
            index = row["episodes"].index(point) if known else -1
            cells[f"{row['metric']},\nafter {point}"] = at(row["value"], index) if known else ""
        last = self._points[-1]
        shown = row["difference"] and last in row["episodes"]
        index = row["episodes"].index(last) if shown else -1
        cells[f"own − it,\nafter {last}"] = at(row["difference"], index) if shown else ""
        cells["own − it,\nall points"] = cell(row["overall"]) if row["overall"] else ""
        if any(each["normalized"] for each in self.rows):
            cells["normalised"] = at(row["normalized"], -1)
        return cells

    @property
    def _points(self) -> list[int]:
        """The points that the console and Markdown show: those of the first agent, not all."""
        points = self.participants[0].curves["own"].episodes
        number = min(SHOWN_POINTS, len(points))
        return [points[i] for i in np.linspace(0, len(points) - 1, number).round().astype(int)]

    def print(self) -> None:
        """Print a table for each metric, and the verdicts."""
        console.print(self.title)
        for metric in self.metrics:
            rows = [row for row in self.rows if row["metric"] == metric]
            print_rows([_narrow(row, self._cells(row, with_half)) for row in rows])
        console.print("± is the wider side of the 95% interval over tasks.")
        for line in (*self.notes, *self.verdicts):
            console.print(line)

    def to_markdown(self) -> str:
        """Return the tables as Markdown, with a few of the points."""
        lines = [f"**{self.title}**", ""]
        for metric in self.metrics:
            rows = [row for row in self.rows if row["metric"] == metric]
            lines += [*markdown_rows([self._cells(row, with_bounds) for row in rows], 2), ""]
        said = ["Means, with 95% intervals over tasks.", *self.notes]
        return "\n".join([*lines, *said, "", *(f"- {line}" for line in self.verdicts), ""])

    def to_csv(self) -> str:
        """Return all points of all rows, one line for each."""
        text = io.StringIO()
        columns = ["metric", "label", "kind", "control", "told_task", "env_steps", "episodes"]
        statistics = ("value", "difference", "normalized")
        bounds = {name: [name, f"{name}_low", f"{name}_high"] for name in statistics}
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*columns, *(column for name in statistics for column in bounds[name])])
        for row in self.rows:
            for i, episodes in enumerate(row["episodes"]):
                line = [row[name] for name in columns[:-1]] + [episodes]
                for name in statistics:
                    found = row[name]
                    keys = ("mean", "low", "high")
                    values = at_point(found, i) if found else {}
                    line += [values.get(key, "") for key in keys]
                writer.writerow(line)
        return text.getvalue()

    def to_json(self) -> dict[str, Any]:
        """Return the content of the JSON file."""
        curve = self.participants[0].curves["own"]
        return {
            "format": FORMAT,
            "env": curve.env,
            "split": curve.split,
            "shared_split": curve.shared_split,
            "seed": curve.seed,
            "actions": "greedy" if curve.greedy else "sampled",
            "checkpoint": curve.checkpoint,
            "num_tasks": curve.returns.shape[1],
            "rows": self.rows,
            **({"over_seeds": self.over_seeds} if self.over_seeds else {}),
            "verdicts": self.verdicts,
        }

    def save(self, folder: Path, name: str) -> list[Path]:
        """Write the table to ``name.csv``, ``.md`` and ``.json``; return these files."""
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"{name}.csv", self.to_csv().encode())
        write_whole(folder / f"{name}.md", self.to_markdown().encode())
        write_json(folder / f"{name}.json", self.to_json())
        return [folder / f"{name}{suffix}" for suffix in (".csv", ".md", ".json")]


def _reference_row(metric: str, reference: Reference, values: Values) -> dict[str, Any]:
    """Return the row of a reference: one value for all of its episodes, at every point."""
    curve, points = reference.curve, len(reference.curve.episodes)
    one = first_row(summarize(values[None], curve.strata))
    return {
        "metric": metric,
        "label": reference.label,
        "kind": "reference",
        "control": reference.role,
        "told_task": curve.told_task,
        "env_steps": curve.env_steps,
        "episodes": list(curve.episodes),
        "value": {name: None if x is None else [x] * points for name, x in one.items()},
        "difference": None,
        "overall": None,
        "normalized": None,
    }


_NAMES = {
    "own": "own",
    "another-task": "another task's",
    "reset-every-episode": "reset every episode",
    "reset-every-step": "reset every step",
    "multi-task": "one policy for all tasks",
    "oracle": "the task itself",
}


def context_name(row: Mapping[str, Any]) -> str:
    """Return the name of a row's context in tables."""
    return _NAMES[row["control"]]


def _narrow(row: Mapping[str, Any], cells: Cells) -> Cells:
    """Return the cells with agent and context in one column, since consoles are narrow."""
    cells = dict(cells)
    agent, context = cells.pop("agent"), cells.pop("context")
    control = row["kind"] != "reference" and row["control"] != "own"
    return {"agent": f"  {context}" if control else agent, **cells}

"""Compare agents and baselines that were evaluated on the same tasks: tables and their files."""

from __future__ import annotations

import csv
import functools
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from metarl.console import console
from metarl.evaluation.curve import AdaptationCurve
from metarl.evaluation.recovery import recovery_text
from metarl.evaluation.statistics import task_weights
from metarl.evaluation.summaries import at_point, first_row, summarize
from metarl.evaluation.tables import (
    Cells,
    conditions_text,
    markdown_rows,
    print_rows,
    with_bounds,
    with_half,
)
from metarl.files import write_json, write_whole
from metarl.task import SPLIT_NAMES

FORMAT = 1
"""The format of a comparison's JSON file."""

_CHANGE = "change_task_after"

SHOWN_POINTS = 5
"""The number of points of the curves that the console and Markdown show; the last point of every
agent is shown in any case."""

OVER = "tasks, these runs only: other training seeds would move them further"
"""What the intervals of a comparison are over."""

Kind: TypeAlias = Literal["agent", "untrained", "baseline"]
"""An agent of a run, the same before its first update, or what needs no meta-training of ours."""

Statistics: TypeAlias = Mapping[str, Any]
"""A ``mean`` and the bounds ``low`` and ``high`` of its 95% confidence interval, or lists of
them."""


class Participant(NamedTuple):
    """An agent or a baseline, and the curve that it was measured at."""

    label: str
    """The name that tells it apart from the others."""
    kind: Kind
    """What it is."""
    curve: AdaptationCurve
    """The adaptation curve, with every task's values."""
    summary: dict[str, Any]
    """The curve's summary, which :meth:`AdaptationCurve.save` has returned."""
    num_episodes: int
    """The number of episodes of a trial, those of the last point included."""
    file: Path | None = None
    """The file of the summary, if there is one."""


@dataclass(frozen=True)
class Comparison:
    """Agents and baselines that were evaluated on the same tasks.

    Tables have one row for each. Baselines are shown at the agents' points, so that a baseline
    with a point at every episode is measured by the same yardstick as an agent that adapts every
    20 episodes. Differences are to the first agent, and paired by task.

    >>> comparison = metarl.compare(["runs/first"], ["thompson"], evaluation_tasks=100)
    >>> [participant.label for participant in comparison.participants]
    ['rl2', 'untrained', 'thompson']
    >>> comparison.curves["thompson"].returns.shape  # [point, task]
    (10, 100)
    >>> comparison.rows[1]["difference"]["mean"] < 0  # the untrained agent's return minus rl2's
    True
    """

    participants: Sequence[Participant] = field(repr=False)
    """The first one is an agent."""

    def __post_init__(self) -> None:
        """Refuse curves that are not of the same tasks."""
        if not self.participants or self.participants[0].kind != "agent":
            raise ValueError("the first participant of a comparison is an agent")
        shared = ("env", "split", "seed", "score")
        kinds = {
            (
                *(getattr(p.curve, name) for name in shared),
                p.summary["actions"],
                str(p.curve.conditions),
            )
            for p in self.participants
        }
        if len(kinds) > 1:
            raise ValueError(f"curves of one comparison have tasks in common, got {kinds}")
        if len({p.label for p in self.participants}) < len(self.participants):
            raise ValueError("labels of one comparison differ")

    @property
    def curves(self) -> dict[str, AdaptationCurve]:
        """The adaptation curves by label, with all their points and every task's values."""
        return {p.label: p.curve for p in self.participants}

    @property
    def points(self) -> tuple[int, ...]:
        """The points of the tables: those of all agents, in episodes of experience."""
        agents = [p for p in self.participants if p.kind == "agent"]
        return tuple(sorted({e for p in agents for e in p.curve.episodes}))

    @property
    def few_points(self) -> tuple[int, ...]:
        """The points that the console and Markdown show: first, last, and some between."""
        agents = [p for p in self.participants if p.kind == "agent"]
        shown = {self.points[0], *(p.curve.episodes[-1] for p in agents)}
        spread = np.linspace(0, len(self.points) - 1, SHOWN_POINTS).round().astype(int)
        for index in (0, 4, 2, 1, 3):  # Halves first, then quarters.
            if len(shown) < SHOWN_POINTS:
                shown.add(self.points[spread[index]])
        return tuple(sorted(shown))

    @functools.cached_property
    def rows(self) -> list[dict[str, Any]]:
        """What the tables hold: one row for each participant, as JSON represents it.

        ``return`` and ``success`` are lists that go with the row's own ``episodes``.
        ``difference`` is the return minus that of the first agent, paired by task, at the last
        point that both have; ``total_difference`` is the same of ``trial_return``, None unless
        both trials have the same number of episodes. ``crossover`` tells after how many episodes
        a participant equals what the first agent has reached at its last point
        and stays there on average.
        """
        return [self._row(p) for p in self.participants]

    def _row(self, participant: Participant) -> dict[str, Any]:
        label, kind, curve, summary, num_episodes, _ = participant
        points = set(self.points)
        shown = [i for i, e in enumerate(curve.episodes) if e in points]
        gain = summary["gain"]
        if shown[-1] != len(curve.episodes) - 1:
            gain = _paired(curve.returns[shown[-1]], curve.returns[shown[0]], curve.strata)
        return {
            "label": label,
            "kind": kind,
            "agent": curve.agent,
            "told_task": curve.told_task,
            "iteration": curve.iteration,
            "env_steps": curve.env_steps,
            "num_tasks": curve.returns.shape[1],
            "episodes_per_trial": num_episodes,
            "episodes": [curve.episodes[i] for i in shown],
            "return": _at(summary["return"], shown),
            "success": summary["success"] and _at(summary["success"], shown),
            "gain": gain if len(shown) > 1 else None,
            "trial_return": summary["trial_return"],
            **self._differences(participant, {curve.episodes[i] for i in shown}),
            "crossover": self._crossover(participant),
            **({"recovery": summary["recovery"]} if summary.get("recovery") else {}),
        }

    def _crossover(self, participant: Participant) -> dict[str, Any] | None:
        """Return after how many episodes a participant equals the first agent's last point.

        It does at the first of all its points where its mean return on the same tasks, and also
        the mean of that point and all later ones, are not below the agent's, so that a single lucky
        episode does not count. ``episodes`` is None if there is no such point up to ``within``.
        """
        first, curve = self.participants[0], participant.curve
        if participant is first:
            return None
        number = min(c.returns.shape[1] for c in (curve, first.curve))
        strata = first.curve.strata
        strata = None if strata is None else strata[:number]
        target = float(_means(first.curve.returns[-1:, :number], strata)[0])
        means = _means(curve.returns[:, :number], strata)
        later = np.cumsum(means[::-1])[::-1] / np.arange(len(means), 0, -1)
        reached = np.flatnonzero((means >= target) & (later >= target))
        return {
            "to": first.label,
            "return": target,
            "episodes": curve.episodes[reached[0]] if len(reached) else None,
            "within": curve.episodes[-1],
        }

    def _differences(self, participant: Participant, shown: set[int]) -> dict[str, Any]:
        first, curve = self.participants[0], participant.curve
        if participant is first:
            return {"difference": None, "total_difference": None}
        base = first.curve
        at = max(shown & set(base.episodes))
        own, other = (c.returns[c.episodes.index(at)] for c in (curve, base))
        difference = {"to": first.label, "episodes": at, **_paired(own, other, base.strata)}
        totals = curve.trial_return, base.trial_return
        if participant.num_episodes != first.num_episodes or totals[0] is None or totals[1] is None:
            return {"difference": difference, "total_difference": None}
        total = {"to": first.label, **_paired(*totals, base.strata)}
        return {"difference": difference, "total_difference": total}

    def to_json(self, folder: Path | None = None) -> dict[str, Any]:
        """Return the content of the JSON file; ``folder`` is where it lies.

        ``curve`` of a row is the file with the whole curve, relative to that folder.
        """
        curve, rows = self.participants[0].curve, []
        for row, participant in zip(self.rows, self.participants, strict=True):
            path = participant.file
            if path is not None and folder is not None:
                path = Path(os.path.relpath(path, folder))
            rows.append({**row, "curve": None if path is None else str(path)})
        return {
            "format": FORMAT,
            "env": curve.env,
            "split": curve.split,
            "shared_split": curve.shared_split,
            "seed": curve.seed,
            "score": curve.score,
            **({"conditions": curve.conditions} if curve.conditions else {}),
            "actions": self.participants[0].summary["actions"],
            "checkpoint": curve.checkpoint,
            "num_tasks": curve.returns.shape[1],
            "points": list(self.points),
            "rows": rows,
        }

    def to_csv(self) -> str:
        """Return the table with all points, one line for each participant."""
        lines = [self._csv_line(row) for row in self.rows]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        return text.getvalue()

    def _csv_line(self, row: Mapping[str, Any]) -> dict[str, Any]:
        simple = ("label", "kind", "agent", "told_task", "iteration", "env_steps", "num_tasks")
        line = {name: row[name] for name in (*simple, "episodes_per_trial")}
        for metric in ("return", "success"):
            for point in self.points if self._has(metric) else ():
                values: Statistics = {}
                if row[metric] is not None and point in row["episodes"]:
                    index = row["episodes"].index(point)
                    values = {k: x[index] for k, x in row[metric].items() if x is not None}
                line |= _columns(f"{metric}_{point}", values)
        for name in ("gain", "trial_return", "difference", "total_difference"):
            line |= _columns(name, row[name] or {})
        line["difference_episodes"] = (row["difference"] or {}).get("episodes", "")
        crossover = row["crossover"] or {}
        after = crossover.get("episodes")
        line["crossover_episodes"] = "" if after is None else after
        line["crossover_within"] = crossover.get("within", "")
        return line

    @property
    def has_longer(self) -> bool:
        """Whether a baseline has more experience than any agent."""
        longest = max(p.num_episodes for p in self.participants if p.kind == "agent")
        return any(p.num_episodes > longest for p in self.participants)

    def _has(self, metric: str) -> bool:
        return any(p.summary[metric] is not None for p in self.participants)

    @property
    def title(self) -> str:
        """One line that says what the table is about."""
        first = self.participants[0]
        curve, summary = first.curve, first.summary
        shared = ", the same tasks as in training" if curve.shared_split else ""
        best = ", best checkpoints" if curve.checkpoint == "best" else ""
        said = f", {conditions_text(curve.conditions)}" if curve.conditions else ""
        copies = ", greedy copies" if curve.score == "greedy-copy" else ""
        return (
            f"{curve.returns.shape[1]:,} {SPLIT_NAMES[curve.split]} tasks of {curve.env}{shared}, "
            f"the same for all ({summary['actions']} actions{copies}{best}{said})"
        )

    @property
    def notes(self) -> list[str]:
        """What the columns of the table mean, and where a row differs from the others."""
        first = self.participants[0]
        notes = [
            f"Differences (−) are to {first.label}, paired by task; those of returns are after "
            f"{first.curve.episodes[-1]} episodes."
        ]
        lengths = sorted({p.num_episodes for p in self.participants if p.kind == "agent"})
        if len(lengths) > 1:
            numbers = ", ".join(map(str, lengths))
            notes.append(
                f"Trials have different numbers of episodes ({numbers}), so that totals are "
                "compared only where they are equal; --episodes-per-trial gives all the same."
            )
        notes += [
            f"{p.label} is {p.curve.agent}."
            for p in self.participants
            if p.kind == "baseline" and p.curve.agent not in p.label
        ]
        if self.has_longer:
            last = first.curve.episodes[-1]
            notes.append(
                f"Equals: the episodes after which the return is that of {first.label} after "
                f"{last} (and stays there on average), or how many were not enough."
            )
        notes += [
            f"{p.label}: {recovery_text(p.summary['recovery'], p.curve.conditions[_CHANGE])}."
            for p in self.participants
            if p.summary.get("recovery") and p.kind != "untrained"
        ]
        few = {p.label: p.curve.returns.shape[1] for p in self.participants}
        most = max(few.values())
        fewer = [f"{label} {n:,}" for label, n in few.items() if n < most]
        if fewer:
            notes.append(f"The first of the tasks only: {', '.join(fewer)}.")
        return notes

    def _cells(self, row: Mapping[str, Any], cell: Callable[[Statistics], str]) -> Cells:
        """Return the texts of a row by the titles of their columns; ``cell`` gives one's text."""

        def text(statistics: Statistics | None) -> str:
            return cell(statistics) if statistics else ""

        def at(metric: str, point: int) -> str:
            if row[metric] is None or point not in row["episodes"]:
                return ""
            return text(at_point(row[metric], row["episodes"].index(point)))

        first = self.participants[0]
        last, base = first.curve.episodes[-1], first.label if len(first.label) <= 16 else "first"
        cells = {"agent": row["label"] + (" (told the task)" if row["told_task"] else "")}
        cells |= {f"return,\nafter {point}": at("return", point) for point in self.few_points}
        if self._has("success"):
            cells[f"success,\nafter {last}"] = at("success", last)
        difference = row["difference"]
        other = difference and difference["episodes"] != last
        at_other = f", after {difference['episodes']}" if other else ""
        cells[f"return,\n− {base}"] = text(difference) + at_other
        cells["gain"] = text(row["gain"])
        if self._has("trial_return"):
            cells["total of\na trial"] = text(row["trial_return"])
            cells[f"total,\n− {base}"] = text(row["total_difference"])
        if self.has_longer:
            cells[f"equals {base}\nafter"] = _crossing(row["crossover"])
        steps = row["env_steps"]
        cells["steps of\ntraining"] = "" if steps is None else f"{steps:,}"
        return cells

    def to_markdown(self) -> str:
        """Return the table as Markdown, with a few of the points."""
        rows = [self._cells(row, with_bounds) for row in self.rows]
        lines = [f"**{self.title}**", "", *markdown_rows(rows)]
        return "\n".join([*lines, "", f"Means, with 95% intervals over {OVER}.", *self.notes, ""])

    def print(self) -> None:
        """Print the table with a few of the points, in parts if the console is too narrow."""
        rows = [self._cells(row, with_half) for row in self.rows]
        console.print(self.title)
        print_rows(rows)
        console.print(f"± is the wider side of the 95% interval over {OVER}.")
        for note in self.notes:
            console.print(note)

    def save(self, folder: Path, name: str) -> list[Path]:
        """Write the table to ``name.csv``, ``.md`` and ``.json``; return these files."""
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"{name}.csv", self.to_csv().encode())
        write_whole(folder / f"{name}.md", self.to_markdown().encode())
        write_json(folder / f"{name}.json", self.to_json(folder))
        return [folder / f"{name}{suffix}" for suffix in (".csv", ".md", ".json")]


def _paired(own: Any, other: Any, strata: npt.NDArray[Any] | None) -> dict[str, float | None]:
    """Return the mean of a difference, paired by task, and its 95% interval.

    Args:
        own: one value per task, ``[task]``.
        other: the values that are subtracted; only tasks that both have are counted.
        strata: what is fixed of the tasks, ``[task]``, if anything.
    """
    number = min(len(own), len(other))
    difference = np.asarray(own[:number], np.float64) - np.asarray(other[:number], np.float64)
    own_strata = None if strata is None else strata[:number]
    return first_row(summarize(difference[None], own_strata))


def _means(values: Any, strata: npt.NDArray[Any] | None) -> npt.NDArray[np.float64]:
    """Return the mean over tasks at every point, as summaries have it: ``[point]``."""
    if strata is None:
        return np.asarray(values.mean(1, dtype=np.float64))
    return np.asarray((values * task_weights(len(strata), strata)).sum(1))


def _at(statistics: Statistics, points: Sequence[int]) -> dict[str, list[float] | None]:
    """Return statistics at some of their points."""
    return {k: x and [x[i] for i in points] for k, x in statistics.items()}


def _crossing(crossover: Mapping[str, Any] | None) -> str:
    """Return after how many episodes a participant equals the first agent, as text."""
    if crossover is None:
        return ""
    after, within = crossover["episodes"], crossover["within"]
    return f"not within {within:,}" if after is None else f"{after:,}"


def _columns(name: str, statistics: Statistics) -> dict[str, Any]:
    """Return the three columns of a mean and its interval."""
    keys = {name: "mean", f"{name}_low": "low", f"{name}_high": "high"}
    found = {column: statistics.get(key) for column, key in keys.items()}
    return {column: "" if value is None else value for column, value in found.items()}

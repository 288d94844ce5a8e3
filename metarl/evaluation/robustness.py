"""How much of its return an agent keeps as a disturbance grows: tables, their files, pictures."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from metarl.console import console
from metarl.evaluation.comparison import Comparison
from metarl.evaluation.summaries import at_point, summarize
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
"""The format of the JSON file."""


@dataclass(frozen=True)
class Robustness:
    """The same agents and baselines on the same tasks, under more and more of a disturbance."""

    disturbance: str
    """The field of :class:`metarl.stepping.disturbances.Disturbances` that is varied."""
    levels: tuple[float | int, ...]
    """Its values."""
    comparisons: Sequence[Comparison] = field(repr=False)
    """The evaluations at every level, of the same participants in the same order."""

    @functools.cached_property
    def rows(self) -> list[dict[str, Any]]:
        """What the tables hold, as JSON represents it: one row for each participant.

        ``before`` and ``after`` are the returns at the first and the last point of the curve at
        every level, and ``difference`` that at the last point minus the one at the first level,
        paired by task.
        """
        return [self._row(i) for i in range(len(self.comparisons[0].participants))]

    def _row(self, index: int) -> dict[str, Any]:
        every = [comparison.participants[index] for comparison in self.comparisons]
        before, after = (np.stack([p.curve.returns[i] for p in every]) for i in (0, -1))
        first = every[0]
        strata = first.curve.strata
        return {
            "label": first.label,
            "kind": first.kind,
            "told_task": first.curve.told_task,
            "env_steps": first.curve.env_steps,
            "episodes": first.curve.episodes[-1],
            "before": summarize(before, strata),
            "after": summarize(after, strata),
            "difference": summarize(after.astype(np.float64) - after[:1], strata),
        }

    @property
    def words(self) -> str:
        """The disturbance in words."""
        return self.disturbance.replace("_", " ")

    @property
    def conditions(self) -> dict[str, Any]:
        """What else distinguishes the evaluations from plain ones, the same at every level."""
        own = self.comparisons[0].participants[0].curve.conditions
        return {name: value for name, value in own.items() if name != self.disturbance}

    @property
    def title(self) -> str:
        """One line that says what the table is about."""
        first = self.comparisons[0].participants[0]
        curve = first.curve
        shared = ", the same tasks as in training" if curve.shared_split else ""
        said = [f"{first.summary['actions']} actions"]
        said += ["greedy copies"] if curve.score == "greedy-copy" else []
        said += ["best checkpoints"] if curve.checkpoint == "best" else []
        said += [conditions_text(self.conditions)] if self.conditions else []
        return (
            f"return under {self.words}, {curve.returns.shape[1]:,} {SPLIT_NAMES[curve.split]} "
            f"tasks of {curve.env}{shared}, the same at every level ({', '.join(said)})"
        )

    def _cells(self, row: Mapping[str, Any], cell: Callable[[Mapping[str, Any]], str]) -> Cells:
        told = " (told the task)" if row["told_task"] else ""
        cells = {"agent": row["label"] + told, "after\nepisodes": str(row["episodes"])}
        for i, level in enumerate(self.levels):
            cells[f"{self.words}\n{level:g}"] = cell(at_point(row["after"], i))
        last = at_point(row["difference"], -1)
        cells[f"{self.levels[-1]:g} − {self.levels[0]:g},\npaired"] = cell(last)
        return cells

    def print(self) -> None:
        """Print the table."""
        console.print(self.title)
        print_rows([self._cells(row, with_half) for row in self.rows])
        console.print("± is the wider side of the 95% interval over tasks.")

    def to_markdown(self) -> str:
        """Return the table as Markdown."""
        lines = markdown_rows([self._cells(row, with_bounds) for row in self.rows])
        said = "Return at the last point of the adaptation curve, with 95% intervals over tasks."
        return "\n".join([f"**{self.title}**", "", *lines, "", said, ""])

    def to_csv(self) -> str:
        """Return one line for each participant and level."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        statistics = ("before", "after", "difference")
        bounds = [f"{name}{end}" for name in statistics for end in ("", "_low", "_high")]
        writer.writerow(["label", "kind", "told_task", "episodes", self.disturbance, *bounds])
        for row in self.rows:
            start = [row[name] for name in ("label", "kind", "told_task", "episodes")]
            for i, level in enumerate(self.levels):
                found = [at_point(row[name], i) for name in statistics]
                values = [x.get(key, "") for x in found for key in ("mean", "low", "high")]
                writer.writerow([*start, level, *values])
        return text.getvalue()

    def to_json(self) -> dict[str, Any]:
        """Return the content of the JSON file."""
        content = self.comparisons[0].to_json()
        named = ("env", "split", "shared_split", "seed", "score", "actions", "checkpoint")
        return {
            "format": FORMAT,
            **{name: content[name] for name in (*named, "num_tasks")},
            **({"conditions": self.conditions} if self.conditions else {}),
            "disturbance": self.disturbance,
            "levels": list(self.levels),
            "rows": self.rows,
        }

    def save(self, folder: Path, name: str) -> list[Path]:
        """Write the table to ``name.csv``, ``.md`` and ``.json``; return these files."""
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"{name}.csv", self.to_csv().encode())
        write_whole(folder / f"{name}.md", self.to_markdown().encode())
        write_json(folder / f"{name}.json", self.to_json())
        return [folder / f"{name}{suffix}" for suffix in (".csv", ".md", ".json")]

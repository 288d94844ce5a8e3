"""Where a run's metrics go: TensorBoard, JSON lines, and a line on the console."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from metarl.errors import UserError

console = Console(highlight=False, markup=False, soft_wrap=True)


class MetricsLog:
    """Writes ``metrics.jsonl`` and ``tensorboard/`` of a run directory."""

    def __init__(self, directory: Path, first_iteration: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._path = directory / "metrics.jsonl"
        if self._path.exists():  # a resumed run does the iterations after its checkpoint again
            kept = [x for x in read_metrics(self._path) if x["iteration"] <= first_iteration]
            self._path.write_text("".join(json.dumps(x) + "\n" for x in kept))
        self._file = self._path.open("a", buffering=1)
        self._writer = SummaryWriter(str(directory / "tensorboard"), purge_step=first_iteration + 1)

    def write(self, iteration: int, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Record ``metrics`` after ``iteration`` meta-updates."""
        line = {"iteration": iteration, "env_steps": env_steps, **metrics}
        self._file.write(json.dumps(line) + "\n")
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, iteration)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        self._writer.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read ``metrics.jsonl``; a last line that was cut off is left out."""
    if not path.is_file():
        raise UserError(f"{path}: there is none, nothing has been trained")
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


class Ticker:
    """Progress of a long job: a bar with rate and ETA on a terminal, sparse lines elsewhere."""

    def __init__(self, title: str, total: int, done: int, unit: str, progress: Progress) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._progress = progress
        self._bar = progress.add_task(title, total=total, completed=done, note="")
        self._done, self._first = done, done
        self._start = self._last = time.monotonic()

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Count ``amount`` more; ``note`` is shown beside the bar."""
        self._done += amount
        self._progress.update(self._bar, advance=amount, note=note)
        now = time.monotonic()
        finished = self._done >= self._total
        if not console.is_terminal and (now - self._last > 15 or finished):
            self._last = now
            rate = (self._done - self._first) / max(now - self._start, 1e-9)
            remaining = (self._total - self._done) / max(rate, 1e-9)
            console.print(
                f"{self._title} {self._done}/{self._total} {self._unit}, {rate:.3g}/s, "
                f"{remaining:.0f} s left  {note}"
            )


@contextmanager
def ticker(title: str, total: int, *, unit: str, done: int = 0) -> Iterator[Ticker]:
    """Show the progress of a job of ``total`` units, ``done`` of which are behind it."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,
    )
    with progress:
        yield Ticker(title, total, done, unit, progress)


def print_adaptation(summary: Mapping[str, Any], untrained: Mapping[str, Any]) -> None:
    """Print the adaptation table: one row a point, an untrained agent's mean beside it."""
    kind = {"test": "held-out", "train": "training"}[summary["split"]]
    shared = ", the same tasks as in training" if summary["shared_split"] else ""
    console.print(
        f"{summary['agent']} on {summary['num_tasks']:,} {kind} tasks of "
        f"{summary['env']}{shared} ({summary['actions']} actions, {summary['checkpoint']} "
        f"checkpoint, iteration {summary['iteration']})"
    )
    metrics = ["return"] + (["success"] if summary["success"] is not None else [])
    for metric in metrics:
        _print_points(metric, summary, untrained)
        if summary["groups"] and len(summary["groups"]) > 1:
            _print_groups(metric, summary, untrained)
    gain = summary["gain"]
    if len(summary["episodes"]) > 1:
        console.print(
            f"gain from first to last, paired by task: {gain['mean']:.3f} "
            f"({gain['low']:.3f} to {gain['high']:.3f}), untrained {untrained['gain']['mean']:.3f}"
        )
    total = summary["trial_return"]
    if total is not None:
        console.print(
            f"total of a trial: {total['mean']:.3f} ({total['low']:.3f} to {total['high']:.3f}), "
            f"untrained {untrained['trial_return']['mean']:.3f}"
        )


def _print_points(metric: str, summary: Mapping[str, Any], untrained: Mapping[str, Any]) -> None:
    table = Table()
    table.add_column("episodes of\nexperience", justify="right")
    for column in (f"{metric},\nmean", "95% interval\nover tasks", "IQM", "untrained,\nmean"):
        table.add_column(column, justify="right")
    values = summary[metric]
    for i, episodes in enumerate(summary["episodes"]):
        table.add_row(
            str(episodes),
            f"{values['mean'][i]:.3f}",
            f"{values['low'][i]:.3f} to {values['high'][i]:.3f}",
            f"{values['iqm'][i]:.3f}",
            f"{untrained[metric]['mean'][i]:.3f}",
        )
    console.print(table)


def _print_groups(metric: str, summary: Mapping[str, Any], untrained: Mapping[str, Any]) -> None:
    """Print each kind of tasks: its means before and after adaptation, and an untrained agent's."""
    first, last = summary["episodes"][0], summary["episodes"][-1]
    table = Table()
    table.add_column("kind of task")
    for column in ("tasks", f"{metric},\n{first} episodes", f"{last} episodes", "untrained"):
        table.add_column(column, justify="right")
    for label, group in summary["groups"].items():
        means = group[metric]["mean"]
        other = (untrained["groups"] or {}).get(label)
        beside = "" if other is None else f"{other[metric]['mean'][-1]:.3f}"
        table.add_row(label, str(group["num_tasks"]), f"{means[0]:.3f}", f"{means[-1]:.3f}", beside)
    console.print(table)

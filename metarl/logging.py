"""Where a run's metrics go: TensorBoard, JSON lines, and a line on the console."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

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

from metarl.checkpoints import write_whole
from metarl.errors import UserError
from metarl.tasks import SPLIT_NAMES

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

console = Console(highlight=False, markup=False, soft_wrap=True)


class MetricsLog:
    """Writes a run's metrics: ``metrics.jsonl``, ``tensorboard/``, Weights & Biases if asked for.

    TensorBoard and Weights & Biases draw all against environment steps, so that agents whose
    iterations differ in length can be laid over each other; the iteration is a value beside them
    (``time/iteration`` in TensorBoard).

    All are cut back to the iteration that a resumed run starts after. What cannot be written, to
    a full disk say, is kept and tried again with the next line; :meth:`flush` tells of it.

    Args:
        directory: the run's.
        first_iteration: the last one whose metrics stand.
        wandb: project of Weights & Biases, if any.
    """

    def __init__(self, directory: Path, first_iteration: int = 0, wandb: str | None = None) -> None:
        # now: it takes a second, and one that a signal cuts off cannot be made up for
        from torch.utils.tensorboard import SummaryWriter

        self._make_events = SummaryWriter
        path = directory / "metrics.jsonl"
        if path.exists():  # a resumed run does the iterations after its checkpoint again
            kept = [x for x in read_metrics(path) if x["iteration"] <= first_iteration]
            write_whole(path, "".join(json.dumps(x) + "\n" for x in kept).encode())
        self._file = path.open("ab", buffering=0)
        self._written = self._file.tell()
        self._unwritten = b""
        self._events_path = directory / "tensorboard"
        self._events: SummaryWriter | None = None
        self._unshown: list[tuple[int, Mapping[str, float]]] = []
        """Environment steps and metrics that TensorBoard's file may not hold yet, …"""
        self._handed = 0
        """… and how many of these its writer has been given."""
        self._wandb = None if wandb is None else _start_wandb(wandb, directory)

    def write(self, iteration: int, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Record ``metrics`` after ``iteration`` meta-updates."""
        line = {"iteration": iteration, "env_steps": env_steps, **metrics}
        self._unwritten += json.dumps(line).encode() + b"\n"
        self._unshown.append((env_steps, {**metrics, "time/iteration": iteration}))
        with contextlib.suppress(OSError):  # flush() tells
            self._append()
            self._show()
        self._tell_wandb("log", line)

    def flush(self) -> None:
        """Bring everything to the disk.

        Raises:
            OSError: where it cannot be; nothing is lost, and it is tried again.
        """
        self._append()
        os.fsync(self._file.fileno())
        try:
            if self._unshown:
                self._show()
            if self._events is not None:
                self._events.flush()
        except OSError:
            self._close_events()
            raise
        self._unshown.clear()
        self._handed = 0

    def _append(self) -> None:
        rest = self._unwritten
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.truncate(self._written)  # no half lines
            raise
        self._written += len(self._unwritten)
        self._unwritten = b""

    def _show(self) -> None:
        """Hand TensorBoard what it has not been given, all that it may not hold where it failed."""
        try:
            if self._events is None:
                self._handed = 0
                first = self._unshown[0][0]  # from there on, what a run cut off has left is void
                self._events = self._make_events(str(self._events_path), purge_step=first)
            for env_steps, metrics in self._unshown[self._handed :]:
                for name, value in metrics.items():
                    self._events.add_scalar(name, value, env_steps)
                self._handed += 1
        except OSError:
            self._close_events()
            raise

    def _close_events(self) -> None:
        events, self._events = self._events, None
        if events is not None:
            with contextlib.suppress(OSError):
                events.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self.flush()
        self._file.close()
        self._close_events()
        self._tell_wandb("finish", 0 if kind is None else 1)

    def _tell_wandb(self, method: str, argument: object) -> None:
        """Call Weights & Biases; a run does not end because that fails."""
        if self._wandb is None:
            return
        try:
            getattr(self._wandb, method)(argument)
        except Exception as error:
            warnings.warn(f"Weights & Biases: {error}; nothing more is logged there", stacklevel=2)
            self._wandb = None


def _start_wandb(project: str, directory: Path) -> Any:
    """Start or continue the run of Weights & Biases that belongs to ``directory``."""
    config = {}
    with contextlib.suppress(FileNotFoundError):
        config = json.loads((directory / "config.json").read_text())
    try:
        run = import_wandb().init(
            project=project,
            id=config.get("id"),
            resume="allow",
            name=directory.name,
            dir=str(directory),
            config=config,
        )
    except Exception as error:  # its own, of many classes
        raise UserError(f"--wandb: {error}") from error
    run.define_metric("*", step_metric="env_steps")  # a resumed run says some of them again
    return run


def import_wandb() -> Any:
    """Import Weights & Biases, or say how to install it."""
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise UserError(f"--wandb: needs its package: pip install wandb ({error})") from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read ``metrics.jsonl``; a last line that was cut off is left out.

    Raises:
        UserError: where there is none, or a line of it is damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is none, nothing has been trained")
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    lines = []
    for number, text in enumerate(whole.splitlines(), 1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: cannot be read: {error}") from error
        if not (isinstance(line, dict) and isinstance(line.get("iteration"), int)):
            raise UserError(f"{path}, line {number}: has no iteration")
        lines.append(line)
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
    kind = SPLIT_NAMES[summary["split"]]
    shared = ", the same tasks as in training" if summary["shared_split"] else ""
    console.print(
        f"{summary['agent']} on {summary['num_tasks']:,} {kind} tasks of "
        f"{summary['env']}{shared} ({summary['actions']} actions, {summary['checkpoint']} "
        f"checkpoint, iteration {summary['iteration']})"
    )
    for metric in metric_names(summary):
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


def metric_names(summary: Mapping[str, Any]) -> list[str]:
    """Return what an evaluation has measured: the return, success if reported, other values."""
    success = ["success"] if summary["success"] is not None else []
    return ["return", *success, *summary.get("info", {})]


def metric_of(summary: Mapping[str, Any], metric: str) -> dict[str, list[float]]:
    """Return the numbers of a metric of :func:`metric_names`, one a point."""
    found: dict[str, list[float]] = {**summary, **summary.get("info", {})}[metric]
    return found


def _print_points(metric: str, summary: Mapping[str, Any], untrained: Mapping[str, Any]) -> None:
    table = Table()
    table.add_column("episodes of\nexperience", justify="right")
    over = "seeds, tasks" if isinstance(summary.get("seed"), list) else "tasks"
    values, other = metric_of(summary, metric), metric_of(untrained, metric)
    columns = [f"{metric},\nmean", f"95% interval\nover {over}", "untrained,\nmean"]
    if metric == "return":
        columns.insert(2, "IQM")
    for column in columns:
        table.add_column(column, justify="right")
    for i, episodes in enumerate(summary["episodes"]):
        row = [
            str(episodes),
            f"{values['mean'][i]:.3f}",
            f"{values['low'][i]:.3f} to {values['high'][i]:.3f}",
            f"{other['mean'][i]:.3f}",
        ]
        if metric == "return":  # it has none where a return takes two values at most
            row.insert(3, f"{values['iqm'][i]:.3f}" if values.get("iqm") else "")
        table.add_row(*row)
    console.print(table)


def _print_groups(metric: str, summary: Mapping[str, Any], untrained: Mapping[str, Any]) -> None:
    """Print each kind of tasks: its means before and after adaptation, and an untrained agent's."""
    first, last = summary["episodes"][0], summary["episodes"][-1]
    table = Table()
    table.add_column("kind of task")
    for column in ("tasks", f"{metric},\n{first} episodes", f"{last} episodes", "untrained"):
        table.add_column(column, justify="right")
    for label, group in summary["groups"].items():
        means = metric_of(group, metric)["mean"]
        other = (untrained["groups"] or {}).get(label)
        beside = "" if other is None else f"{metric_of(other, metric)['mean'][-1]:.3f}"
        table.add_row(label, str(group["num_tasks"]), f"{means[0]:.3f}", f"{means[-1]:.3f}", beside)
    console.print(table)

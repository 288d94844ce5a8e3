"""The console that scripts print to, and progress bars for long jobs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(highlight=False, markup=False, soft_wrap=True)


def print_names(title: str, entries: Mapping[str, str]) -> None:
    """Print a heading, and below it each name with a word about it, in alphabetical order."""
    console.print(f"{title}:")
    width = max(map(len, entries))
    for name, about in sorted(entries.items()):
        console.print(f"  {name:{width}}  {about}".rstrip())


class Ticker:
    """Progress of a long job: a bar on a terminal, otherwise a line every 15 seconds."""

    def __init__(self, title: str, total: int, done: int, unit: str, progress: Progress) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._progress = progress
        self._bar = progress.add_task(title, total=total, completed=done, note="")
        self._done, self._first = done, done
        self._start = self._last = time.monotonic()

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Count ``amount`` more units and show ``note`` beside the bar."""
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
    """Show the progress of a job of ``total`` units, ``done`` of which are finished already."""
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

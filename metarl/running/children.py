"""Processes that train for this one, several at a time, and how they are stopped in order."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType

from metarl.console import console
from metarl.stepping.workers import usable_cores

_PROGRAM = "from metarl.running.auto import child; child()"
"""The program of a process that trains: ``metarl train`` that stops when its parent has ended."""


class Child:
    """A process that runs ``metarl train``.

    Args:
        name: what the process is called where its output is printed.
        arguments: the words after ``metarl train``.
        log: the file that its output is appended to; by default it is printed here line by line.
    """

    def __init__(self, name: str, arguments: Sequence[str], log: Path | None = None) -> None:
        self.name, self.log = name, log
        self._stopping = False
        self._reader: threading.Thread | None = None
        command = [sys.executable, "-c", _PROGRAM, *arguments]
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
        with nullcontext(subprocess.PIPE) if log is None else log.open("a") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # The child stops when this pipe closes.
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                process_group=0,  # Ctrl-C reaches the child only through stop().
            )
        if log is None:
            self._reader = threading.Thread(target=self._pass_on, daemon=True)
            self._reader.start()

    @property
    def running(self) -> bool:
        """Whether the process runs or some of its output is still to be printed."""
        reading = self._reader is not None and self._reader.is_alive()
        return self.process.poll() is None or reading

    def stop(self) -> None:
        """Ask the process to save a checkpoint and end, once.

        It is not sent a signal, since a cluster may have sent it one already.
        """
        if self.process.stdin is not None and not self._stopping:
            self._stopping = True
            self.process.stdin.close()

    def wait(self) -> None:
        """Wait until the process has ended and all of its output is printed."""
        self.process.wait()
        if self._reader is not None:
            self._reader.join()

    def _pass_on(self) -> None:
        for line in self.process.stdout or ():
            console.print(f"[{self.name}] {line.rstrip()}")


class Children:
    """The processes that have been started; an error that ends the body stops those that run.

    Used as a context manager.
    """

    def __init__(self) -> None:
        self.all: list[Child] = []
        """Every process, in the order in which they were started."""

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            for child in self.all:
                child.stop()
            for child in self.all:
                child.wait()

    def run(
        self,
        waiting: Sequence[Callable[[], Child]],
        at_once: int,
        ended: Callable[[Child], None] = lambda child: None,
    ) -> None:
        """Start processes, some at a time, until all have ended.

        Args:
            waiting: functions that start a process each.
            at_once: how many run at a time.
            ended: called with every process when it has ended.
        """
        left, running = list(waiting), list[Child]()
        while left or running:
            for child in [child for child in running if not child.running]:
                running.remove(child)
                ended(child)
            if left and len(running) < at_once:
                running.append(left.pop(0)())
                self.all.append(running[-1])
            else:
                time.sleep(0.05)


def share_of_cores(at_once: int, num_workers: int | None, typed: bool) -> list[str]:
    """Return the options that give each of several processes its share of the cores.

    Args:
        at_once: how many run at a time.
        num_workers: the number of worker processes in the settings; None for as many as cores.
        typed: whether that number is among the words of the command already.
    """
    if num_workers is not None or typed:
        return []
    share = len(usable_cores()) // at_once
    return ["--num-workers", str(share if share > 1 else 0)]

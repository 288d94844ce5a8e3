"""Log a run's metrics to JSON lines, TensorBoard and Weights & Biases (W&B)."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from metarl.errors import UserError
from metarl.files import write_whole
from metarl.running.tensorboard import add_settings
from metarl.running.wandb_run import WandbRun


class MetricsLog:
    """Writes a run's metrics to ``metrics.jsonl``, ``tensorboard/`` and, if wanted, to W&B.

    TensorBoard and W&B plot metrics against environment steps, so that agents
    whose iterations differ in length can be compared; the iteration is logged as a metric
    (``time/iteration`` in TensorBoard).

    If the run is resumed from a checkpoint, metrics of later iterations are discarded. If a line
    cannot be written, for example to a full disk, it is kept and written together with the next
    one; only :meth:`flush` raises the error.

    Args:
        directory: the run's directory.
        first_iteration: the iteration that the run is resumed after; 0 for a new run.
        wandb: the run in W&B to log to as well, if any; it is left open.

    Raises:
        UserError: if the metrics of the run are damaged.
    """

    def __init__(
        self, directory: Path, first_iteration: int = 0, wandb: WandbRun | None = None
    ) -> None:
        # Import here, not later: a signal during the import would leave it half done for good.
        from torch.utils.tensorboard import SummaryWriter

        self._make_events = SummaryWriter
        path = directory / "metrics.jsonl"
        if path.exists():  # A resumed run repeats the iterations after its checkpoint.
            kept = [x for x in read_metrics(path) if x["iteration"] <= first_iteration]
            write_whole(path, "".join(json.dumps(x) + "\n" for x in kept).encode())
        self._file = path.open("ab", buffering=0)
        self._written = self._file.tell()
        self._unwritten = b""
        self._events_path = directory / "tensorboard"
        self._events: SummaryWriter | None = None
        self._unshown: list[tuple[int, Mapping[str, float]]] = []
        """Pairs of environment steps and metrics that may be missing in TensorBoard's file."""
        self._handed = 0
        """The number of these pairs that have been passed to TensorBoard's writer."""
        settings = directory / "config.json"
        new = first_iteration == 0 and settings.is_file()
        self._settings = json.loads(settings.read_text()) if new else None
        """What TensorBoard is still to show of the run's settings."""
        self._wandb = wandb

    def write(self, iteration: int, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of one iteration.

        Args:
            iteration: the number of meta-updates so far.
            env_steps: the number of environment steps so far.
            metrics: values by name.
        """
        line = {"iteration": iteration, "env_steps": env_steps, **metrics}
        self._unwritten += json.dumps(line).encode() + b"\n"
        self._unshown.append((env_steps, {**metrics, "time/iteration": iteration}))
        with contextlib.suppress(OSError):  # flush() raises the error if it persists.
            self._append()
            self._show()
        if self._wandb is not None:
            self._wandb.log(line)

    def flush(self) -> None:
        """Write everything to the disk.

        Raises:
            OSError: if that fails; nothing is lost, and the next call tries again.
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
            self._file.truncate(self._written)  # Leave no half lines.
            raise
        self._written += len(self._unwritten)
        self._unwritten = b""

    def _show(self) -> None:
        """Pass new metrics to TensorBoard, or all that its file may lack after an error."""
        try:
            if self._events is None:
                self._handed = 0
                # Discard events that an interrupted run wrote after its checkpoint.
                first = self._unshown[0][0]
                self._events = self._make_events(str(self._events_path), purge_step=first)
            if self._settings is not None:
                add_settings(self._events, self._settings)
                self._settings = None
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


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read ``metrics.jsonl``; an incomplete last line is ignored.

    Raises:
        UserError: if the file is missing or a line of it is damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: does not exist; nothing has been trained")
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

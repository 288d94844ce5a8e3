"""Points of adaptation curves: those of finished tasks are kept until the evaluation is whole."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from metarl.experience.agent import TrialShape
from metarl.experience.data import Trial
from metarl.files import write_whole

_TOTAL = "total of a trial"


@dataclass(frozen=True)
class Points:
    """The points of some tasks' curves."""

    episodes: tuple[int, ...]
    """The number of episodes of experience at each point."""
    metrics: dict[str, Tensor]
    """``return`` and what the environment reports: ``[task, point]`` each."""
    total: Tensor | None
    """The sum of all returns, ``[task]``; None if probes are measured."""

    def __len__(self) -> int:
        """Return the number of tasks."""
        return len(self.metrics["return"])


def adaptation_points(shape: TrialShape, trial: Trial) -> Points:
    """Return the points of a trial.

    A point is the mean of a round, or one episode if the agent learns while it acts.
    """
    return points_of(shape, [episodes.metrics for episodes in trial.rounds])


def points_of(shape: TrialShape, metrics: Sequence[Mapping[str, Tensor]]) -> Points:
    """Return the points of a trial from the metrics of its rounds, ``[task, episode]`` each."""
    rounds = [measured(each) for each in metrics]
    total = torch.stack([r["return"].sum(1) for r in rounds]).sum(0)
    if shape.learns_while_acting:
        return Points(shape.points, rounds[0], total)
    means = {name: torch.stack([r[name].mean(1) for r in rounds], 1) for name in rounds[0]}
    return Points(shape.points, means, total)


def measured(metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the metrics that curves show, ``[task, episode]`` each."""
    return {name: x for name, x in metrics.items() if name != "length"}


class Unfinished:
    """Keeps the points of finished tasks in a file, so that an evaluation can be cut off.

    A task's points do not depend on the tasks beside it, so that what is left can be evaluated by
    itself.

    Args:
        file: the file; it is there from the first write until :meth:`remove`.
        said: what tells the evaluation from others. The points of another one are not read.
        seconds: how long to wait from one write to the next.
    """

    def __init__(self, file: Path, said: Mapping[str, Any], seconds: float = 20.0) -> None:
        self.file, self._said, self._seconds = file, json.dumps(said, sort_keys=True), seconds
        self._last = time.monotonic()

    def read(self) -> list[Points]:
        """Return the points that are kept, as those of one batch, or nothing."""
        try:
            with safe_open(self.file, framework="pt") as content:
                said = content.metadata()
                if said is None or said.get("said") != self._said:
                    return []
                tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
                episodes = tuple(json.loads(said["episodes"]))
        except (OSError, SafetensorError):
            return []
        total = tensors.pop(_TOTAL, None)
        return [Points(episodes, tensors, total)]

    def write(self, parts: Sequence[Points]) -> None:
        """Keep the points of all finished batches, unless some were kept a short time ago.

        A file that cannot be written is no error: it is the result that has to be.
        """
        if time.monotonic() - self._last < self._seconds:
            return
        names = parts[0].metrics
        tensors = {name: torch.cat([part.metrics[name] for part in parts]) for name in names}
        totals = [part.total for part in parts if part.total is not None]
        if totals:
            tensors[_TOTAL] = torch.cat(totals)
        said = {"said": self._said, "episodes": json.dumps(parts[0].episodes)}
        with contextlib.suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.file, save(tensors, said))
        self._last = time.monotonic()

    def remove(self) -> None:
        """Remove the file, now that the evaluation is whole."""
        with contextlib.suppress(OSError):
            self.file.unlink(missing_ok=True)

"""Read what a run has written: its settings, metrics and evaluations."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from metarl.errors import UserError, bad_option
from metarl.evaluation.curve import AdaptationCurve
from metarl.running.metrics import read_metrics
from metarl.running.run import Run


class OverTraining(NamedTuple):
    """A metric at the end of training and at its best, which are different figures."""

    final: float
    """The last value."""
    maximum: float
    """The largest value of all that were logged; that of a noisy metric is too high."""
    env_steps: int
    """The number of environment steps after which the maximum was logged."""


@dataclass(frozen=True)
class RunRecord:
    """What a run has written."""

    path: Path
    """The run directory."""
    settings: dict[str, Any]
    """The content of ``config.json``."""
    metrics: dict[str, npt.NDArray[np.float64]] = field(repr=False)
    """Every metric by name, ``[line]``: one value for each line of ``metrics.jsonl``, NaN where it
    was not logged. ``iteration`` and ``env_steps`` say where in training a line is."""
    evaluations: dict[str, AdaptationCurve] = field(repr=False)
    """Every evaluation in the folder ``evaluation`` that can be read, with every task's values, by
    the name of its file without suffix: ``test``, ``test-untrained``, …"""

    def over_training(self, metric: str = "validation/return_after") -> OverTraining:
        """Return a metric's final value and its maximum over training.

        Raises:
            UserError: if the metric has not been logged.
        """
        return over_training(self.metrics, metric)

    def metrics_frame(self) -> Any:
        """Return the metrics as a pandas DataFrame, one row for each line.

        Raises:
            UserError: if pandas is not installed.
        """
        return _pandas().DataFrame(self.metrics)

    def evaluations_frame(self) -> Any:
        """Return the evaluations as a pandas DataFrame: one row for each point and task.

        Its columns are ``evaluation``, ``episodes``, ``task``, ``kind`` and the metrics.

        Raises:
            UserError: if pandas is not installed.
        """
        pandas = _pandas()
        parts = [pandas.DataFrame(_columns(n, curve)) for n, curve in self.evaluations.items()]
        return pandas.concat(parts, ignore_index=True) if parts else pandas.DataFrame()


def read_run(path: str | Path, agent: str | None = None) -> RunRecord:
    """Read a run's settings, metrics and evaluations as NumPy arrays.

    An evaluation that is damaged is left out, with a warning that names its file.

    Args:
        path: the run directory.
        agent: the agent's ``package.module:Name``, if it is a module of yours.

    Raises:
        UserError: if the path is no run directory, or its settings or metrics are damaged.

    >>> sizes = {"tasks_per_update": 20, "evaluation_tasks": 20, "validation_tasks": 10}
    >>> run = metarl.train("rl2", env="bandit/n10-k5", iterations=2, run_dir="runs/two", **sizes)
    >>> record = metarl.read_run("runs/two")
    >>> record.metrics["env_steps"].tolist()
    [200.0, 400.0]
    >>> record.evaluations["test"].returns.shape  # [point, task]
    (10, 20)
    >>> record.over_training("validation/return_after").env_steps in (200, 400)
    True
    """
    run = Run.open(Path(path), agent)
    file, folder = run.directory / "metrics.jsonl", run.directory / "evaluation"
    lines = read_metrics(file) if file.is_file() else []
    names = sorted(file.stem for file in folder.glob("*.json") if file.with_suffix(".npz").exists())
    curves = {}
    for name in names:
        try:
            curves[name] = AdaptationCurve.load(folder, name)
        except UserError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)
    return RunRecord(run.directory, run.content, metric_arrays(lines), curves)


def metric_arrays(lines: Sequence[Mapping[str, Any]]) -> dict[str, npt.NDArray[np.float64]]:
    """Return the lines of ``metrics.jsonl`` by metric, ``[line]``, NaN where one is missing."""
    names = list(dict.fromkeys(name for line in lines for name in line))
    return {n: np.array([line.get(n, np.nan) for line in lines], np.float64) for n in names}


def over_training(
    metrics: Mapping[str, npt.NDArray[np.float64]], metric: str = "validation/return_after"
) -> OverTraining:
    """Return a metric's final value and its maximum over training.

    Raises:
        UserError: if the metric has not been logged.
    """
    values = metrics.get(metric, np.array([]))
    logged = np.flatnonzero(~np.isnan(values))
    if not len(logged):
        raise bad_option("metric", metric, ", ".join(metrics))
    best = logged[np.argmax(values[logged])]
    steps = int(metrics["env_steps"][best])
    return OverTraining(float(values[logged[-1]]), float(values[best]), steps)


def validation_over_training(run: Run) -> list[str]:
    """Return lines that tell the final from the maximal values on validation tasks, if any.

    Published figures are often maxima over training. They are another quantity than the final
    checkpoint's, and too high where values are noisy, so that each has its name. Metrics that
    cannot be read have no lines.
    """
    try:
        metrics = metric_arrays(read_metrics(run.directory / "metrics.jsonl"))
    except UserError:
        return []
    found = []
    for name in ("return", "success"):
        try:
            final, maximum, steps = over_training(metrics, f"validation/{name}_after")
        except UserError:  # It has not been logged, or never as a number.
            continue
        found.append(
            f"{name} after adaptation on validation tasks: final {final:.3f}, maximum over "
            f"training {maximum:.3f} (at {steps:,} steps)"
        )
    return found


def _columns(name: str, curve: AdaptationCurve) -> dict[str, Any]:
    points, tasks = curve.returns.shape
    kinds = np.full(tasks, "") if curve.groups is None else curve.groups
    return {
        "evaluation": [name] * (points * tasks),
        "episodes": np.repeat(curve.episodes, tasks),
        "task": np.tile(np.arange(tasks), points),
        "kind": np.tile(kinds, points),
        **{metric: values.ravel() for metric, values in curve.metrics.items()},
    }


def _pandas() -> Any:
    try:
        return importlib.import_module("pandas")
    except ImportError as error:
        raise UserError(f"a DataFrame needs its package: pip install pandas ({error})") from error

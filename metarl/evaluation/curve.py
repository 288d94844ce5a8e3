"""Adaptation curves, their files, and the statistics that summarize them."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats

from metarl.errors import UserError
from metarl.evaluation.recovery import recovery_of
from metarl.files import read_object, write_json, write_whole
from metarl.task import Split

FORMAT = 1
"""The format of ``evaluation/<split>.json``."""

RESAMPLES = 2000
"""The number of bootstrap resamples of a confidence interval."""

RESAMPLES_AT_ONCE = 50
"""The number of resamples that are drawn together, which bounds the memory."""

Score: TypeAlias = Literal["adapting-episodes", "greedy-copy"]
"""Which episodes are measured: those the agent also adapts on, or greedy ones of a copy of it."""

_FIRST_EDITION_SCORES: dict[str, Score] = {
    "experience": "adapting-episodes",
    "probe": "greedy-copy",
}
"""The names of scores in evaluations that the first edition has written."""


@dataclass(frozen=True)
class AdaptationCurve:
    """How an agent's return on a set of tasks depends on the episodes of experience it has had."""

    env: str
    """The name of the task distribution."""
    agent: str
    """The name of the agent."""
    seed: int
    """The seed of tasks, episodes and actions."""
    split: Split
    """The split that the tasks belong to."""
    shared_split: bool
    """Whether this split has the same tasks as training, so that they are not held out."""
    score: Score
    """Which episodes are measured."""
    greedy: bool
    """Whether the agent takes its most likely actions; probes are always greedy."""
    episodes: tuple[int, ...]
    """Point i is measured with what the agent knows after ``episodes[i]`` episodes."""
    returns: npt.NDArray[np.float32] = field(repr=False)
    """The mean return of an episode: ``[point, task]``."""
    success: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    """The share of successful episodes, ``[point, task]``; None if no success is reported."""
    info: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict, repr=False)
    """Other values that the environment reports, each averaged over an episode's steps:
    ``[point, task]`` by name."""
    trial_return: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    """The sum of the returns of a trial's episodes, ``[task]``; None if ``score`` is
    ``greedy-copy``."""
    groups: npt.NDArray[Any] | None = field(default=None, repr=False)
    """The kind of each task, ``[task]``; None if the distribution does not tell kinds apart."""
    told_task: bool = False
    """Whether the agent is an oracle that is told its tasks; tables and pictures mark its curve."""
    iteration: int | None = None
    """The number of meta-updates that the agent has been trained for."""
    env_steps: int | None = None
    """The number of environment steps that the agent has been trained on."""
    checkpoint: str = "final"
    """The checkpoint that was evaluated, ``final`` or ``best``."""
    conditions: dict[str, Any] = field(default_factory=dict)
    """What distinguishes the evaluation from a plain one, as JSON data: the control of the
    context, a change of the task, noise; empty for a plain evaluation."""
    seconds: float | None = None
    """The wall-clock time of the evaluation."""

    def summary(self) -> dict[str, Any]:
        """Return the content of ``evaluation/<split>.json``."""
        return {
            "format": FORMAT,
            "env": self.env,
            "agent": self.agent,
            "seed": self.seed,
            "split": self.split,
            "shared_split": self.shared_split,
            "told_task": self.told_task,
            "iteration": self.iteration,
            "env_steps": self.env_steps,
            "checkpoint": self.checkpoint,
            "score": self.score,
            "actions": "greedy" if self.greedy or self.score == "greedy-copy" else "sampled",
            "episodes": list(self.episodes),
            "num_tasks": self.returns.shape[1],
            **({"conditions": self.conditions} if self.conditions else {}),
            "seconds": self.seconds,
            **summarize_metrics(self.metrics),
            "trial_return": None
            if self.trial_return is None
            else first_row(summarize_returns(self.trial_return[None])),
            "groups": self._group_summaries(),
            **self._recovery(),
        }

    def _recovery(self) -> dict[str, Any]:
        """Return how the agent recovers from a change of its task, if there was one."""
        after = self.conditions.get("change_task_after")
        return {} if not after else {"recovery": recovery_of(self.returns, self.episodes, after)}

    @property
    def metrics(self) -> dict[str, npt.NDArray[np.float32]]:
        """Every metric that was measured, by name: ``[point, task]`` each."""
        success = {} if self.success is None else {"success": self.success}
        return {"return": self.returns, **success, **self.info}

    def _group_summaries(self) -> dict[str, dict[str, Any]] | None:
        if self.groups is None:
            return None
        return {
            label: {
                "num_tasks": int(own.sum()),
                **summarize_metrics({k: x[:, own] for k, x in self.metrics.items()}),
            }
            for label in dict.fromkeys(self.groups.tolist())
            for own in [self.groups == label]
        }

    def save(self, directory: Path, name: str) -> dict[str, Any]:
        """Write the summary to ``name.json`` and every task's values to ``name.npz``.

        Returns:
            The summary.
        """
        directory.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, npt.NDArray[Any]] = {"return": self.returns}
        arrays |= {f"info.{key}": values for key, values in self.info.items()}
        optional = {
            "success": self.success,
            "trial_return": self.trial_return,
            "group": self.groups,
        }
        for key, values in optional.items():
            if values is not None:
                arrays[key] = values
        packed = io.BytesIO()
        np.savez_compressed(packed, allow_pickle=False, **arrays)
        summary = self.summary()
        write_whole(directory / f"{name}.npz", packed.getvalue())
        write_json(directory / f"{name}.json", summary)
        return summary

    @staticmethod
    def load(directory: Path, name: str) -> AdaptationCurve:
        """Read what :meth:`save` wrote; actions of greedy copies are read as ``greedy``.

        Raises:
            UserError: if a file is missing or damaged, or the two are not of one evaluation.
        """
        path = directory / f"{name}.json"
        summary = read_summary(path)
        arrays = read_values(path.with_suffix(".npz"))
        fields = ("env", "agent", "seed", "split", "shared_split", "score", "actions", "num_tasks")
        missing = [field for field in fields if field not in summary]
        if missing:
            raise UserError(f"{path}: has no {', '.join(missing)}")
        size = len(summary["episodes"]), summary["num_tasks"]
        if "return" not in arrays or arrays["return"].shape != size:
            raise UserError(f"{path.with_suffix('.npz')}: is not of the evaluation in {path.name}")
        return AdaptationCurve(
            **{field: summary[field] for field in fields[:6]},
            greedy=summary["actions"] == "greedy",
            episodes=tuple(summary["episodes"]),
            returns=arrays["return"],
            success=arrays.get("success"),
            info={k[5:]: values for k, values in arrays.items() if k.startswith("info.")},
            trial_return=arrays.get("trial_return"),
            groups=arrays.get("group"),
            told_task=bool(summary.get("told_task")),
            iteration=summary.get("iteration"),
            env_steps=summary.get("env_steps"),
            checkpoint=summary.get("checkpoint", "final"),
            conditions=dict(summary.get("conditions") or {}),
            seconds=summary.get("seconds"),
        )


Summary: TypeAlias = dict[str, list[float]]
"""Each point's ``mean``, and the bounds ``low`` and ``high`` of its 95% confidence interval."""


def summarize_metrics(
    metrics: Mapping[str, npt.NDArray[np.floating[Any]]],
    summarized: Callable[[npt.NDArray[np.floating[Any]]], Summary] | None = None,
) -> dict[str, Any]:
    """Return the statistics of ``metrics`` that every summary of an evaluation contains.

    Args:
        metrics: arrays by name, ``[point, task]`` each, or ``[point, seed, task]``: ``return``,
            ``success`` if it is reported, and any other values.
        summarized: a function that returns the mean and the interval of such an array (default:
            :func:`summarize`).

    Returns:
        Statistics of ``return``, ``success`` and ``info`` (all other metrics), and ``gain``: the
        increase of the return from the first to the last point, paired by task.
    """
    of = summarized or summarize
    returns = summarize_returns(metrics["return"], of)
    difference = metrics["return"][-1:] - metrics["return"][:1]
    gain = {**of(difference), "iqm": returns["iqm"] and _iqm(difference)}
    return {
        "return": returns,
        "success": of(metrics["success"]) if "success" in metrics else None,
        "info": {k: of(x) for k, x in metrics.items() if k not in ("return", "success")},
        "gain": first_row(gain),
    }


def summarize_returns(
    values: npt.NDArray[np.floating[Any]],
    summarized: Callable[[npt.NDArray[np.floating[Any]]], Summary] | None = None,
) -> dict[str, list[float] | None]:
    """Return each point's mean, confidence interval and interquartile mean (``iqm``).

    ``iqm`` is None if there are at most two different values, as in the pulls of a Bernoulli
    bandit: the middle half of zeros and ones is almost always only zeros or only ones.

    Args:
        values: returns, ``[point, task]`` or ``[point, seed, task]``.
        summarized: a function that returns the mean and the interval of such an array (default:
            :func:`summarize`).
    """
    binary = len(np.unique(values)) <= 2
    return {**(summarized or summarize)(values), "iqm": None if binary else _iqm(values)}


def _iqm(values: npt.NDArray[np.floating[Any]]) -> list[float]:
    """Return each point's interquartile mean: the mean of the middle half of its values."""
    flat = np.asarray(values, np.float64).reshape(len(values), -1)
    return [float(x) for x in np.atleast_1d(stats.trim_mean(flat, 0.25, axis=1))]


def summarize(values: npt.NDArray[np.floating[Any]]) -> Summary:
    """Return each point's mean over tasks and its 95% confidence interval.

    Up to 1000 tasks, the interval is SciPy's percentile bootstrap; for more tasks, it is the
    normal approximation that the bootstrap converges to.

    Args:
        values: ``[point, task]``.
    """
    values = np.asarray(values, np.float64)
    mean = values.mean(1)
    n = values.shape[1]
    if n == 1:
        low = high = mean
    elif n <= 1000:
        whole = bool((values == np.rint(values)).all())
        interval = stats.bootstrap(
            (values,),
            np.mean,
            axis=1,
            n_resamples=0 if whole else RESAMPLES,
            batch=RESAMPLES_AT_ONCE,
            method="percentile",
            bootstrap_result=_resampled(values) if whole else None,
            rng=np.random.default_rng(0),
        ).confidence_interval
        low, high = interval.low, interval.high
    else:
        half = stats.norm.ppf(0.975) * values.std(1, ddof=1) / np.sqrt(n)
        low, high = mean - half, mean + half
    return {
        "mean": mean.tolist(),
        "low": np.asarray(low).tolist(),
        "high": np.asarray(high).tolist(),
    }


def _resampled(values: npt.NDArray[np.floating[Any]]) -> Any:
    """Return SciPy's bootstrap of the mean of whole numbers, 30 times faster and to the same bits.

    Sums of whole numbers are exact in any order, so that a matrix product may take them. A trial
    of 100 pulls of a bandit has 100 points, which took three seconds.
    """
    number, rng, parts = values.shape[1], np.random.default_rng(0), []
    for start in range(0, RESAMPLES, RESAMPLES_AT_ONCE):
        rows = min(RESAMPLES_AT_ONCE, RESAMPLES - start)
        drawn = rng.integers(0, number, (rows, number)) + number * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * number).reshape(rows, number)
        parts.append(values @ times.T.astype(np.float64) / number)
    return SimpleNamespace(bootstrap_distribution=np.concatenate(parts, axis=1))


def first_row(summary: Mapping[str, list[float] | None]) -> dict[str, float | None]:
    """Return the statistics of a summary's only point as numbers instead of lists."""
    return {name: None if x is None else x[0] for name, x in summary.items()}


def read_summary(path: Path) -> dict[str, Any]:
    """Read ``evaluation/<split>.json``.

    Raises:
        UserError: if the file is missing, damaged or of another format.
    """
    content = read_object(path, FORMAT)
    missing = {"episodes", "return", "success"} - content.keys()
    if missing:
        raise UserError(f"{path}: is no evaluation, has no {', '.join(sorted(missing))}")
    if "measure" in content:  # The first edition wrote it.
        content["score"] = _FIRST_EDITION_SCORES.get(content.pop("measure"))
    return content


def read_values(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read ``evaluation/<split>.npz``: every task's values, by name.

    Raises:
        UserError: if the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error

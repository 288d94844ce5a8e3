"""Adaptation curves, and the numbers that sum them up."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats

from metarl.errors import UserError
from metarl.files import read_object, write_json, write_whole
from metarl.task import Split

FORMAT = 1


Score: TypeAlias = Literal["adapting-episodes", "greedy-copy"]


_FIRST_EDITION_SCORES: dict[str, Score] = {
    "experience": "adapting-episodes",
    "probe": "greedy-copy",
}
"""The names of scores in evaluations that the first edition has written."""


@dataclass(frozen=True)
class AdaptationCurve:
    """Returns on held-out tasks against episodes of experience."""

    env: str
    agent: str
    seed: int
    split: Split
    shared_split: bool
    score: Score
    greedy: bool
    episodes: tuple[int, ...]
    """Point i was measured with the context after ``episodes[i]`` episodes."""
    returns: npt.NDArray[np.float32] = field(repr=False)
    """``[point, task]``."""
    success: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    """``[point, task]``, where the environment reports success."""
    info: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict, repr=False)
    """``[point, task]`` by name: what the environment reports beside success, averaged over an
    episode's steps."""
    trial_return: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    """``[task]``: the total over all episodes; None with the score ``greedy-copy``."""
    groups: npt.NDArray[Any] | None = field(default=None, repr=False)
    """``[task]``: of which kind each task is, where its distribution tells kinds apart."""
    told_task: bool = False
    """Whether the agent is an oracle that is told its tasks; wherever it is shown, this is said."""
    iteration: int | None = None
    env_steps: int | None = None
    checkpoint: str = "final"
    seconds: float | None = None
    """What the evaluation took."""

    def summary(self) -> dict[str, Any]:
        """Return what ``evaluation/<split>.json`` holds."""
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
            "seconds": self.seconds,
            **summarize_metrics(self.metrics),
            "trial_return": None
            if self.trial_return is None
            else first_row(summarize_returns(self.trial_return[None])),
            "groups": self._group_summaries(),
        }

    @property
    def metrics(self) -> dict[str, npt.NDArray[np.float32]]:
        """All that was measured, by name: ``[point, task]`` each."""
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

    def save(self, directory: Path, name: str) -> None:
        """Write ``name.json`` and, with the values of each task, ``name.npz``."""
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
        write_whole(directory / f"{name}.npz", packed.getvalue())
        write_json(directory / f"{name}.json", self.summary())


Summary: TypeAlias = dict[str, list[float]]
"""The mean of each point and the bounds of its 95% interval: ``mean``, ``low``, ``high``."""


def summarize_metrics(
    metrics: Mapping[str, npt.NDArray[np.floating[Any]]],
    summarized: Callable[[npt.NDArray[np.floating[Any]]], Summary] | None = None,
) -> dict[str, Any]:
    """Return what summaries of evaluations say of ``metrics``: the fields they all share.

    Args:
        metrics: ``return``, ``success`` where it is reported, and other values by name,
            ``[point, task]`` each, or with an axis of seeds between the two.
        summarized: gives means and intervals of such an array, by default :func:`summarize`.
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
    """Return mean, interval and, as ``iqm``, the interquartile mean of each point.

    The latter is None where there are two different values at most, as in the pulls of a bandit:
    the middle half of zeros and ones is next to always all zeros or all ones.

    Args:
        values: as those of ``return`` in :func:`summarize_metrics`.
        summarized: as there.
    """
    binary = len(np.unique(values)) <= 2
    return {**(summarized or summarize)(values), "iqm": None if binary else _iqm(values)}


def _iqm(values: npt.NDArray[np.floating[Any]]) -> list[float]:
    """Return the mean of the middle half of each point's values."""
    flat = np.asarray(values, np.float64).reshape(len(values), -1)
    return [float(x) for x in np.atleast_1d(stats.trim_mean(flat, 0.25, axis=1))]


def summarize(values: npt.NDArray[np.floating[Any]]) -> Summary:
    """Return the mean and its 95% interval over tasks, per point.

    The interval is SciPy's percentile bootstrap up to 1000 tasks, and the normal
    approximation it converges to above.

    Args:
        values: ``[point, task]``.
    """
    values = np.asarray(values, np.float64)
    mean = values.mean(1)
    n = values.shape[1]
    if n == 1:
        low = high = mean
    elif n <= 1000:
        interval = stats.bootstrap(
            (values,),
            np.mean,
            axis=1,
            n_resamples=2000,
            batch=50,
            method="percentile",
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


def first_row(summary: Mapping[str, list[float] | None]) -> dict[str, float | None]:
    """Return the numbers of the only point of a summary."""
    return {name: None if x is None else x[0] for name, x in summary.items()}


def read_summary(path: Path) -> dict[str, Any]:
    """Read ``evaluation/<split>.json``.

    Raises:
        UserError: where it is missing, damaged or of another format.
    """
    content = read_object(path, FORMAT)
    missing = {"episodes", "return", "success"} - content.keys()
    if missing:
        raise UserError(f"{path}: an evaluation without {', '.join(sorted(missing))}")
    if "measure" in content:  # The first edition wrote it.
        content["score"] = _FIRST_EDITION_SCORES.get(content.pop("measure"))
    return content

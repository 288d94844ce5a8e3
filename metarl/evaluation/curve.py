"""Adaptation curves, their files, and what a file says of one run or of several seeds."""

from __future__ import annotations

import dataclasses
import functools
import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from metarl.errors import UserError
from metarl.evaluation.recovery import recovery_of
from metarl.evaluation.scores import has_two_kinds
from metarl.evaluation.statistics import task_weights
from metarl.evaluation.summaries import (
    first_row,
    summarize,
    summarize_metrics,
    summarize_over_seeds,
    summarize_returns,
)
from metarl.files import read_object, write_json, write_whole
from metarl.task import Split

FORMAT = 1
"""The format of ``evaluation/<split>.json``."""

Score: TypeAlias = Literal["adapting-episodes", "greedy-copy"]
"""Which episodes are measured: those the agent also adapts on, or greedy ones of a copy of it."""

_FIRST_EDITION_SCORES: dict[str, Score] = {
    "experience": "adapting-episodes",
    "probe": "greedy-copy",
}
"""The names of scores in evaluations that the first edition has written."""


@dataclass(frozen=True)
class AdaptationCurve:
    """How an agent's return on a set of tasks depends on the episodes of experience it has had.

    >>> agent, tasks = metarl.load("runs/first"), metarl.make("bandit/n10-k5")
    >>> curve = metarl.evaluate_adaptation(agent, tasks, num_tasks=200)
    >>> curve.episodes, curve.returns.shape  # [point, task]
    ((0, 1, 2, 3, 4, 5, 6, 7, 8, 9), (10, 200))
    >>> gain = curve.summary()["gain"]  # last point minus first, paired by task
    >>> gain["low"] < gain["mean"] < gain["high"]
    True
    """

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
    strata: npt.NDArray[Any] | None = field(default=None, repr=False)
    """What is fixed of the tasks, ``[task]``: the number in a finite set that was gone through
    whole, or the kind if the tasks of a kind are a sample; None if all tasks are one sample."""
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
        over = functools.partial(summarize, strata=self.strata)
        in_trial = len(self.episodes) * self.episodes_per_point
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
            "fixed": self.fixed,
            **({"conditions": self.conditions} if self.conditions else {}),
            "seconds": self.seconds,
            **summarize_metrics(self.metrics, over, self.episodes_per_point),
            "trial_return": None
            if self.trial_return is None
            else first_row(summarize_returns(self.trial_return[None], over, in_trial)),
            "groups": self._group_summaries(),
            **self._recovery(),
        }

    def _recovery(self) -> dict[str, Any]:
        """Return how the agent recovers from a change of its task, if there was one."""
        after = self.conditions.get("change_task_after")
        return {} if not after else {"recovery": recovery_of(self.returns, self.episodes, after)}

    @property
    def episodes_per_point(self) -> int:
        """The number of episodes that each task's values at a point are a mean over."""
        if self.score == "greedy-copy" or len(self.episodes) == 1:
            return 1
        return self.episodes[1] - self.episodes[0]

    @property
    def fixed(self) -> Literal["tasks", "kinds"] | None:
        """What of the tasks is fixed, so that intervals do not count it as a sample."""
        if self.strata is None:
            return None
        kinds = self.groups is not None and np.array_equal(self.strata, self.groups)
        return "kinds" if kinds else "tasks"

    @property
    def metrics(self) -> dict[str, npt.NDArray[np.float32]]:
        """Every metric that was measured, by name: ``[point, task]`` each."""
        success = {} if self.success is None else {"success": self.success}
        return {"return": self.returns, **success, **self.info}

    def _group_summaries(self) -> dict[str, dict[str, Any]] | None:
        if self.groups is None:
            return None
        found = {}
        for label in dict.fromkeys(self.groups.tolist()):
            own = self.groups == label
            strata = None if self.strata is None else self.strata[own]
            found[label] = {
                "num_tasks": int(own.sum()),
                **summarize_metrics(
                    {k: x[:, own] for k, x in self.metrics.items()},
                    functools.partial(summarize, strata=strata),
                    self.episodes_per_point,
                ),
            }
        return found

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
            "stratum": self.strata,
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
            # Earlier versions do not say what is fixed: their kinds were classes or finite sets.
            strata=arrays.get("stratum" if "fixed" in summary else "group"),
            told_task=bool(summary.get("told_task")),
            iteration=summary.get("iteration"),
            env_steps=summary.get("env_steps"),
            checkpoint=summary.get("checkpoint", "final"),
            conditions=dict(summary.get("conditions") or {}),
            seconds=summary.get("seconds"),
        )


def summarize_curves(curves: Sequence[AdaptationCurve]) -> dict[str, Any]:
    """Return the part of a summary that is of the evaluations of several training seeds together.

    Args:
        curves: evaluations on the same tasks at the same points, one of each seed, in order.

    Returns:
        What :meth:`AdaptationCurve.summary` has of them, with intervals over seeds and tasks;
        ``seed_means``: every metric's mean at each point, ``[seed][point]``, by name;
        ``two_kinds``: whether the seeds' returns at the last point look like two kinds; and, after
        a change of the task, the ``recovery`` of the mean over these seeds.
    """
    first = curves[0]
    number = first.episodes_per_point
    shared = [name for name in first.metrics if all(name in c.metrics for c in curves)]
    stacked = {name: np.stack([c.metrics[name] for c in curves], 1) for name in shared}
    totals = [c.trial_return for c in curves if c.trial_return is not None]
    total = None
    if len(totals) == len(curves):
        over = functools.partial(summarize_over_seeds, strata=first.strata)
        of_trial = number * len(first.episodes)
        total = first_row(summarize_returns(np.stack(totals)[None], over, of_trial))
    kinds = [] if first.groups is None else list(dict.fromkeys(first.groups.tolist()))
    return {
        "seconds": sum(c.seconds or 0.0 for c in curves),
        **_summarize_stacked(stacked, first.strata, number),
        "trial_return": total,
        "groups": {kind: _of_kind(stacked, first, kind) for kind in kinds} or None,
        "seed_means": {k: _means_of_seeds(x, first.strata) for k, x in stacked.items()},
        "two_kinds": has_two_kinds(stacked["return"][-1]),
        **dataclasses.replace(first, returns=stacked["return"].mean(1))._recovery(),
    }


def _summarize_stacked(
    stacked: Mapping[str, npt.NDArray[np.floating[Any]]],
    strata: npt.NDArray[Any] | None,
    episodes_per_score: int,
) -> dict[str, Any]:
    over = functools.partial(summarize_over_seeds, strata=strata)
    return summarize_metrics(stacked, over, episodes_per_score)


def _of_kind(
    stacked: Mapping[str, npt.NDArray[np.floating[Any]]], curve: AdaptationCurve, kind: str
) -> dict[str, Any]:
    own = curve.groups == kind
    strata = None if curve.strata is None else curve.strata[own]
    values = {name: x[..., own] for name, x in stacked.items()}
    found = _summarize_stacked(values, strata, curve.episodes_per_point)
    return {"num_tasks": int(np.sum(own)), **found}


def _means_of_seeds(
    values: npt.NDArray[np.floating[Any]], strata: npt.NDArray[Any] | None
) -> list[list[float]]:
    weighted = values @ task_weights(values.shape[-1], strata)
    return [[float(x) for x in seed] for seed in weighted.T]


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

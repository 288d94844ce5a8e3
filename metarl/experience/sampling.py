"""Task samplers, which choose the training tasks that a distribution provides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np

from metarl.errors import UserError, near_matches
from metarl.experience.data import Trial
from metarl.imports import load_object
from metarl.task import Task
from metarl.tasks.distribution import TaskDistribution


@runtime_checkable
class TaskSampler(Protocol):
    """Chooses the training tasks of every iteration, and may learn from the trials.

    A sampler is made as ``Class(tasks)``. All its random numbers come from the generator that
    ``sample`` gets, so that a training can be repeated exactly. ``task_sampler`` of
    :func:`metarl.train` takes the name of such a class, ``package.module:Name``.

    >>> class Few:  # trains on the same hundred tasks again and again
    ...     def __init__(self, tasks):
    ...         self.tasks = tasks.sample(np.random.default_rng(0), 100, "train")
    ...     def sample(self, rng, n):
    ...         return [self.tasks[i] for i in rng.integers(100, size=n)]
    ...     def update(self, tasks, trial):
    ...         pass
    ...     def state(self):
    ...         return {}
    ...     def load_state(self, state):
    ...         pass
    >>> sampler = Few(metarl.make("navigation"))
    >>> isinstance(sampler, metarl.TaskSampler), len(sampler.sample(np.random.default_rng(0), 20))
    (True, 20)
    """

    def sample(self, rng: np.random.Generator, n: int) -> list[Task]:
        """Return ``n`` training tasks."""

    def update(self, tasks: list[Task], trial: Trial) -> None:
        """Learn from an iteration's tasks and its trial."""

    def state(self) -> dict[str, Any]:
        """Return everything that :meth:`update` has changed, as JSON data."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned."""


class Uniform:
    """Draws every task anew from the distribution's training tasks."""

    def __init__(self, tasks: TaskDistribution) -> None:
        self._tasks = tasks

    def sample(self, rng: np.random.Generator, n: int) -> list[Task]:
        """Return ``n`` training tasks."""
        return self._tasks.sample(rng, n, "train")

    def update(self, tasks: list[Task], trial: Trial) -> None:
        """Learn nothing."""

    def state(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore nothing."""


class Hardest:
    """Repeats tasks with low returns: half of a meta-batch is drawn from the worst tail.

    The tail is the worst tenth of the last 1000 tasks by the return of their trial; the mean return
    over it is the conditional value at risk (CVaR). Training on more such tasks makes an agent
    robust to hard tasks (Greenberg et al., 2023, "Train hard, fight easy", arXiv 2301.11147, which
    re-weights the tail instead). The other half is drawn anew, so that the remembered tasks keep
    changing.
    """

    SHARE, TAIL, MEMORY = 0.5, 0.1, 1000

    def __init__(self, tasks: TaskDistribution) -> None:
        self._tasks = tasks
        self._met: list[tuple[Task, float]] = []

    def sample(self, rng: np.random.Generator, n: int) -> list[Task]:
        """Return ``n`` training tasks, new ones first."""
        tail = self.tail()
        again = int(self.SHARE * n) if tail else 0
        new = self._tasks.sample(rng, n - again, "train")
        return new + [tail[i] for i in rng.integers(len(tail), size=again)] if again else new

    def tail(self) -> list[Task]:
        """Return the remembered tasks whose trials had the lowest returns, the worst first."""
        ordered = sorted(self._met, key=lambda entry: entry[1])
        return [task for task, _ in ordered[: int(np.ceil(self.TAIL * len(ordered)))]]

    def update(self, tasks: list[Task], trial: Trial) -> None:
        """Remember the newest return of each task's trial."""
        total = sum(episodes.metrics["return"].sum(1) for episodes in trial.rounds)
        met = {task: value for task, value in self._met}
        for task, value in zip(tasks, total.tolist(), strict=True):  # type: ignore[union-attr]
            met.pop(task, None)
            met[task] = value
        self._met = list(met.items())[-self.MEMORY :]

    def state(self) -> dict[str, Any]:
        """Return the tasks that are remembered, and their returns."""
        return {"met": [[task.to_json(), value] for task, value in self._met]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned."""
        self._met = [(Task.from_json(task), float(value)) for task, value in state.get("met", [])]


SAMPLERS: dict[str, Callable[[TaskDistribution], TaskSampler]] = {
    "uniform": Uniform,
    "hardest": Hardest,
}
"""Name -> class, as ``--task-sampler`` takes it."""


def make_sampler(name: str, tasks: TaskDistribution) -> TaskSampler:
    """Make the task sampler ``name``: one of :data:`SAMPLERS` or ``package.module:Name``.

    Raises:
        UserError: if there is no such sampler, or the class makes none.
    """
    if name not in SAMPLERS and ":" not in name:
        known = near_matches(name, SAMPLERS)
        raise UserError(f"--task-sampler: unknown sampler {name!r}; {known}, package.module:Name")
    kind = SAMPLERS.get(name) or load_object(name)
    sampler: TaskSampler = kind(tasks)
    methods = ("sample", "update", "state", "load_state")
    missing = [method for method in methods if not callable(getattr(sampler, method, None))]
    if missing:
        raise UserError(f"--task-sampler: {name} lacks {', '.join(missing)}")
    return sampler

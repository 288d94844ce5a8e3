"""Tasks and their splits: data only, never environments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from metarl.errors import UserError

Split: TypeAlias = Literal["train", "validation", "test"]
"""Purpose of a set of tasks: ``train`` is for meta-training, ``validation`` for choosing
checkpoints and settings, and ``test`` is held out for one evaluation at the end.

>>> tasks, splits = metarl.make("navigation"), ("train", "validation", "test")
>>> drawn = [tasks.sample(np.random.default_rng(0), 1, split)[0] for split in splits]
>>> len(set(drawn))  # no two splits share a task
3
"""


SPLITS: tuple[Split, ...] = ("train", "validation", "test")


SPLIT_NAMES = {"train": "training", "validation": "validation", "test": "held-out"}
"""Names of the splits in tables and pictures."""


Value: TypeAlias = "bool | int | float | str | tuple[Value, ...]"
"""Type of a task's parameters: immutable, hashable and JSON-serialisable."""


Env: TypeAlias = "gym.Env[Any, Any]"
"""A Gymnasium environment with observations and actions of any type."""


_PLAIN = (bool, int, float, str)


def _freeze(value: Any) -> Value:
    """Return a parameter's value without NumPy types and lists."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        # Most sequences are long and plain: spare them a call for every number.
        return tuple(v if type(v) in _PLAIN else _freeze(v) for v in value)
    if isinstance(value, _PLAIN):
        return value
    raise TypeError(f"a task parameter is made of numbers, strings and sequences; got {value!r}")


@dataclass(frozen=True, slots=True)
class Task:
    """Name of an environment and the parameters that make it this task.

    >>> task = Task.of("half-cheetah/velocity", velocity=1.5)
    >>> task["velocity"], Task.from_json(task.to_json()) == task
    (1.5, True)
    """

    env: str
    params: tuple[tuple[str, Value], ...] = ()

    @classmethod
    def of(cls, env: str, /, **params: Any) -> Task:
        """Make a task; NumPy values become Python numbers, and lists become tuples."""
        # Most values are plain numbers: spare them a call.
        frozen = ((k, v if type(v) in _PLAIN else _freeze(v)) for k, v in params.items())
        return cls(env, tuple(frozen))

    def __getitem__(self, name: str) -> Any:
        """Return the value of parameter ``name``."""
        for key, value in self.params:
            if key == name:
                return value
        raise KeyError(f"task of {self.env!r} has no parameter {name!r}")

    def to_json(self) -> dict[str, Any]:
        """Return the task as data for ``json.dumps``."""
        return {"env": self.env, "params": dict(self.params)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Task:
        """Rebuild a task from the result of :meth:`to_json`, as JSON returns it."""
        return cls.of(data["env"], **data["params"])

    def __str__(self) -> str:
        """Return a short text for messages and plots."""
        return f"{self.env}({', '.join(f'{k}={v}' for k, v in self.params)})"


def numbers_of(tasks: Sequence[Task]) -> npt.NDArray[np.float32]:
    """Return the numbers that tasks' parameters consist of, in their order: ``[task, number]``.

    They are what an agent sees that is told its tasks.

    Raises:
        UserError: if a parameter is text, or if tasks do not have equally many numbers.

    >>> numbers_of([Task.of("point", goal=(0.5, -1.0), sparse=True)]).tolist()
    [[0.5, -1.0, 1.0]]
    """
    rows: list[list[float]] = []
    for task in tasks:
        rows.append([])
        for name, value in task.params:
            try:
                rows[-1] += np.asarray(value, np.float64).reshape(-1).tolist()
            except ValueError:
                raise UserError(
                    f"--observe-task: got {task}; accepted: tasks whose parameters are numbers; "
                    f"{name} is not"
                ) from None
    if len({len(row) for row in rows}) > 1:
        raise UserError(
            f"--observe-task: got tasks of {tasks[0].env}; accepted: tasks with equally many "
            "numbers each"
        )
    return np.array(rows, np.float32)


def mark_split(drawn: npt.NDArray[np.int64], split: Split) -> npt.NDArray[np.int64]:
    """Write ``split`` into the last bits of drawn integers, so that no two splits share one.

    In binary, training numbers end in 0, validation numbers in 01 and test numbers in 11.
    """
    if split == "train":
        return drawn & ~1
    return (drawn & ~3) | {"validation": 1, "test": 3}[split]


def draw_unit(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    split: Split,
    *,
    bits: int = 40,
    marked: Any = ...,
) -> npt.NDArray[np.float64]:
    """Draw uniform numbers of [0, 1) that no other split can draw.

    Args:
        rng: source of the numbers.
        shape: shape of the result.
        split: the split, which is written into the last bits of the numbers.
        bits: number of bits that are drawn for each number.
        marked: index of the numbers that tell the splits apart; by default all do.

    >>> train, test = (draw_unit(np.random.default_rng(0), (1,), s) for s in ("train", "test"))
    >>> train.round(6).tolist(), bool(train == test)
    ([0.636962], False)
    """
    drawn = rng.integers(2**bits, size=shape)
    drawn[marked] = mark_split(drawn[marked], split)
    return np.asarray(drawn * 2.0**-bits)


def require_task(task: Task | None) -> None:
    """Refuse to start an episode without a task."""
    if task is None:
        raise ValueError(
            "this environment has no task yet: reset it with "
            "options={'task': task}, or make it with one: tasks.make(task)"
        )

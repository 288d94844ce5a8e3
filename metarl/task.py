"""What a task is: data, never an environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import gymnasium as gym
import numpy as np
import numpy.typing as npt

Split: TypeAlias = Literal["train", "validation", "test"]
"""Tasks to meta-train on; tasks that choose checkpoints and settings; and held-out tasks, which
are looked at once, when everything is chosen."""


SPLITS: tuple[Split, ...] = ("train", "validation", "test")


SPLIT_NAMES = {"train": "training", "validation": "validation", "test": "held-out"}
"""What tables and pictures call the tasks of a split."""


Value: TypeAlias = "bool | int | float | str | tuple[Value, ...]"


# An environment or an array of any library: Gymnasium's own type parameters say nothing here.
Env: TypeAlias = "gym.Env[Any, Any]"


def _freeze(value: object) -> Value:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(_freeze(v) for v in value)
    if isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a task parameter is made of numbers, strings and sequences; got {value!r}")


@dataclass(frozen=True, slots=True)
class Task:
    """Which environment, and the parameters that make it this task. Data, never an environment.

    >>> task = Task.of("half-cheetah/velocity", velocity=1.5)
    >>> task["velocity"], Task.from_json(task.to_json()) == task
    (1.5, True)
    """

    env: str
    params: tuple[tuple[str, Value], ...] = ()

    @classmethod
    def of(cls, env: str, /, **params: object) -> Task:
        """Make a task; NumPy values and lists become numbers and tuples."""
        return cls(env, tuple((name, _freeze(value)) for name, value in params.items()))

    def __getitem__(self, name: str) -> Any:
        """Return parameter ``name``; its type is the family's to know."""
        for key, value in self.params:
            if key == name:
                return value
        raise KeyError(f"task of {self.env!r} has no parameter {name!r}")

    def to_json(self) -> dict[str, Any]:
        """Return what ``json.dumps`` takes."""
        return {"env": self.env, "params": dict(self.params)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Task:
        """Rebuild a task from :meth:`to_json`'s result, after any trip through JSON."""
        return cls.of(data["env"], **data["params"])

    def __str__(self) -> str:
        """Return a short form for messages and plots."""
        return f"{self.env}({', '.join(f'{k}={v}' for k, v in self.params)})"


def mark_split(drawn: npt.NDArray[np.int64], split: Split) -> npt.NDArray[np.int64]:
    """Write ``split`` into the last bits of drawn integers: no two splits then share one.

    A training number ends in 0, a validation number in 01 and a test number in 11.
    """
    if split == "train":
        return drawn & ~1
    return (drawn & ~3) | {"validation": 1, "test": 3}[split]


def require_task(task: Task | None) -> None:
    """Refuse to go on without a task."""
    if task is None:
        raise ValueError(
            "this environment has no task yet: reset it with "
            "options={'task': task}, or make it with one: tasks.make(task)"
        )

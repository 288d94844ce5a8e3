"""Ranges that a task's parameters are drawn from, their text, and tasks made of them.

Uniform(8, 12)                       8..12
Uniform(0.5, 2, factor=True)         0.5x..2x
LogUniform(0.5, 2, each=True)        each:log:0.5..2
Choice(-10, 10)                      -10/10
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from metarl.errors import UserError, bad_option
from metarl.tasks import (
    Env,
    Split,
    Task,
    TaskDistribution,
    TaskEnv,
    close_quietly,
    mark_split,
)

Number: TypeAlias = int | float

Interval: TypeAlias = tuple[Number, Number]


@dataclass(frozen=True)
class Uniform:
    """A number between ``low`` and ``high``, every one as likely."""

    low: Number
    high: Number
    factor: bool = False
    """The number multiplies the environment's own value."""
    each: bool = False
    """A number for every entry (body, joint, …) instead of one for all."""
    test: Interval | None = None
    """Held-out interval; without one, train and test numbers come from the same range and
    differ in their last bit."""
    logarithmic: bool = False
    """The number's logarithm is uniform."""

    def __post_init__(self) -> None:
        """Refuse what is no interval."""
        for low, high in [(self.low, self.high), *([self.test] if self.test else [])]:
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise bad_option("range", f"{low}..{high}", "finite low < high")
            if self.logarithmic and low <= 0:
                raise bad_option("logarithmic range", f"{low}..{high}", "above 0")

    def values(self, unit: npt.NDArray[np.floating[Any]], split: Split) -> npt.NDArray[np.float64]:
        """Map numbers of [0, 1) onto the range."""
        low, high = self.test if self.test and split == "test" else (self.low, self.high)
        if self.logarithmic:
            return np.asarray(np.exp(np.log(low) + (np.log(high) - np.log(low)) * unit))
        return np.asarray(low + (high - low) * unit)


def LogUniform(low: Number, high: Number, **options: Any) -> Uniform:  # noqa: N802  # a kind
    """Return a :class:`Uniform` whose number's logarithm is uniform."""
    return Uniform(low, high, logarithmic=True, **options)


@dataclass(frozen=True, init=False)
class Choice:
    """One of a few values, each as likely."""

    options: tuple[Number, ...]
    factor: bool
    each: bool
    test: tuple[Number, ...] | None
    """Held-out values; without them, train and test share the same few."""

    def __init__(
        self,
        *options: Number,
        factor: bool = False,
        each: bool = False,
        test: tuple[Number, ...] | None = None,
    ) -> None:
        if not options or test == ():
            raise bad_option("choice", options, "one value or more")
        for name, value in {
            "options": options,
            "factor": factor,
            "each": each,
            "test": test,
        }.items():
            object.__setattr__(self, name, value)

    def values(self, unit: npt.NDArray[np.floating[Any]], split: Split) -> npt.NDArray[np.float64]:
        """Map numbers of [0, 1) onto the values."""
        options = np.array(self.test if self.test and split == "test" else self.options, float)
        return np.asarray(options[(unit * len(options)).astype(np.int64)])


Range: TypeAlias = Uniform | Choice


class ParametricTasks(TaskDistribution):
    """Tasks that differ in parameters, each drawn from a range of its own.

    Args:
        params: what varies.
    """

    def __init__(self, params: Mapping[str, Range]) -> None:
        self.params = dict(params)
        fixed = [isinstance(r, Choice) and r.test is None for r in self.params.values()]
        self.shared_split = all(fixed)

    def num_entries(self, key: str) -> int:
        """Return how many numbers a parameter with ``each`` has."""
        raise NotImplementedError

    def sample(self, rng: np.random.Generator, n: int, split: Split) -> list[Task]:
        """Draw parameters; the last bit of every continuous draw tells the splits apart."""
        columns: dict[str, list[Any]] = {}
        for key, kind in self.params.items():
            entries = self.num_entries(key) if kind.each else 1
            bits = mark_split(rng.integers(2**40, size=(n, entries)), split)
            drawn = kind.values(bits * 2.0**-40, split).tolist()
            columns[key] = [tuple(row) if kind.each else row[0] for row in drawn]
        return [
            Task.of(self.name, **{key: columns[key][i] for key in self.params}) for i in range(n)
        ]

    def tasks(self, split: Split) -> list[Task]:
        """Return every combination, where there are choices only."""
        if not all(isinstance(r, Choice) and not r.each for r in self.params.values()):
            return super().tasks(split)
        found = [Task(self.name)]
        for key, kind in self.params.items():
            assert isinstance(kind, Choice)
            options = kind.test if kind.test and split == "test" else kind.options
            found = [Task(t.env, (*t.params, (key, float(v)))) for t in found for v in options]
        return found


class FunctionTasks(ParametricTasks):
    """Tasks whose environments a function makes from their parameters.

        FunctionTasks(lambda params: Room(**params), {"wanted": Uniform(15, 25)}, horizon=50)

    Args:
        function: gets a dict with a number for each parameter and returns an environment; it
            is called again where the parameters change. It travels to worker processes by
            cloudpickle.
        params: what varies.
        horizon: steps of an episode; by default the limit that ``gymnasium.make`` gave.
        episodes_per_trial: that an agent gets with one task, where that is prescribed.
        info_keys: scalars of every step's ``info``.
        name: what makes it again, by default ``module:function``.
    """

    def __init__(
        self,
        function: Callable[[dict[str, Any]], Env],
        params: Mapping[str, Range],
        *,
        horizon: int | None = None,
        episodes_per_trial: int | None = None,
        info_keys: tuple[str, ...] = (),
        name: str = "",
    ) -> None:
        for key, kind in params.items():
            if kind.each or kind.factor:
                raise bad_option(key, kind, "a range of numbers: a function has no own values")
        super().__init__(params)
        self.function = function
        self.name = name or f"{function.__module__}:{function.__qualname__}"
        self.episodes_per_trial, self.info_keys = episodes_per_trial, info_keys
        env = self.build(self.sample(np.random.default_rng(0), 1, "train")[0])
        limit = horizon or (env.spec.max_episode_steps if env.spec else None)
        if limit is None or limit < 1:
            raise bad_option(
                f"{self.name} horizon", limit, "at least 1: it has no limit of its own"
            )
        self.horizon = int(limit)
        self.observation_space, self.action_space = env.observation_space, env.action_space
        close_quietly(env)

    def build(self, task: Task) -> Env:
        """Call the function with the parameters of ``task``."""
        env = self.function(dict(task.params))
        if not isinstance(env, gym.Env):
            raise bad_option(f"{self.name} returned", type(env).__name__, "a gymnasium.Env")
        return env

    def make(self, task: Task | None = None) -> Env:
        """Make the environment."""
        return _FunctionEnv(self, task)


class _FunctionEnv(TaskEnv):
    """Built anew where a task changes the parameters."""

    def __init__(self, tasks: FunctionTasks, task: Task | None) -> None:
        self._tasks = tasks
        self._built = task or tasks.sample(np.random.default_rng(0), 1, "train")[0]
        super().__init__(tasks.build(self._built), tasks.horizon, task)

    def apply_task(self, task: Task) -> None:
        if task.params != self._built.params:
            close_quietly(self.env)
            self.env = self._tasks.build(task)
            self._built = task


_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})(x?)\.\.({_NUMBER})(x?)")


def parse_range(id: str, key: str, text: str) -> Range:
    """Read the range of ``key``; ``id`` is for messages.

    Raises:
        UserError: for text that is no range.
    """
    each, logarithmic = False, False
    rest = text
    while rest.startswith(("each:", "log:")):
        prefix, _, rest = rest.partition(":")
        each, logarithmic = each or prefix == "each", logarithmic or prefix == "log"
    found = _RANGE.fullmatch(rest)
    if found and found[2] == found[4]:
        options: dict[str, Any] = {"factor": bool(found[2]), "each": each}
        try:
            return Uniform(float(found[1]), float(found[3]), logarithmic=logarithmic, **options)
        except UserError as error:
            raise UserError(f"--env: gym/{id}: {key}: {error}") from None
    parts = rest.split("/")
    factor = all(part.endswith("x") for part in parts)
    bare = [part[:-1] if factor else part for part in parts]
    if not logarithmic and all(re.fullmatch(_NUMBER, part) for part in bare):
        return Choice(*map(float, bare), factor=factor, each=each)
    raise UserError(
        f"--env: gym/{id}: {key}: got {text!r}; accepted: low..high, values a/b/c, factors "
        "0.5x..2x, with log: or each: before it"
    )


def text_of(key: str, kind: Range) -> str:
    """Return the part of a name that :func:`parse_range` reads as this range."""
    mark = "x" if kind.factor else ""
    prefix = "each:" if kind.each else ""
    values: tuple[Number, ...]
    test: tuple[Number, ...] | None
    if isinstance(kind, Uniform):
        prefix += "log:" if kind.logarithmic else ""
        between, values, test = "..", (kind.low, kind.high), kind.test
    else:
        between, values, test = "/", kind.options, kind.test

    def text(numbers: tuple[Number, ...]) -> str:
        return prefix + between.join(f"{float(v)!r}".removesuffix(".0") + mark for v in numbers)

    return f"{key}={text(values)}" + (f",test.{key}={text(test)}" if test else "")

"""Tasks whose parameters are drawn from ranges, and families made of a plain function."""

from __future__ import annotations

import ctypes
import gc
import itertools
import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import psutil

from metarl.errors import UserError, bad_option
from metarl.stepping.slots import close_quietly
from metarl.task import Env, Split, Task, draw_unit
from metarl.tasks.distribution import TaskDistribution, TaskEnv, time_limit
from metarl.tasks.ranges import Range, Scalar, Uniform, is_number
from metarl.tasks.wrappers import NamedWrapper

Wrapper: TypeAlias = Callable[[Any], Any]
"""A function from an environment to an environment, or a class such as ``gymnasium.Wrapper``."""


_MOST_TASKS = 10_000
"""Largest set of tasks that is listed; larger ones are only sampled."""


class ParametricTasks(TaskDistribution):
    """Tasks that differ in parameters, each drawn from a range of its own.

    Args:
        params: range of every parameter that varies.
        wrappers: functions from an environment to an environment, or classes of wrappers,
            applied in this order to every environment that is built. They see all steps,
            including the last before the horizon.
        info_keys: names of numbers that every step's ``info`` holds.
        success_key: the entry of ``info_keys`` that tells success; without ``info_keys`` it is
            their only entry.
        episodes_per_trial: episodes an agent gets with one task, if the benchmark prescribes it.
        max_slots: environments stepped at once; by default 400, or as many as fit into half of
            the free memory if that is fewer.
        fresh: whether every episode begins with a new environment, for those whose ``reset`` leaves
            something of the episode before, as a world of Box2D may.

    Raises:
        UserError: if a value has the wrong type, or if ``info_keys`` lack ``success_key``.
    """

    def __init__(
        self,
        params: Mapping[str, Range],
        *,
        wrappers: Sequence[Wrapper] = (),
        info_keys: Sequence[str] = (),
        success_key: str | None = None,
        episodes_per_trial: int | None = None,
        max_slots: int | None = None,
        fresh: bool = False,
    ) -> None:
        self.params = dict(params)
        for key, kind in self.params.items():
            if not isinstance(kind, Range):
                raise bad_option(key, kind, "metarl.Uniform, metarl.Integers or metarl.Choice")
        kinds = self.params.values()
        self.shared_split = all(kind.shared_with("test") for kind in kinds)
        self.shared_validation = not self.shared_split and all(
            kind.shared_with("validation") for kind in kinds
        )
        if callable(wrappers) or not all(callable(wrapper) for wrapper in wrappers):
            raise bad_option("wrappers", wrappers, "a sequence of functions env -> env")
        self.wrappers = tuple(wrappers)
        if isinstance(info_keys, str) or not all(isinstance(key, str) for key in info_keys):
            raise bad_option("info_keys", info_keys, "a sequence of names, such as ('success',)")
        self.info_keys = tuple(info_keys)
        if success_key is not None:
            self.info_keys = self.info_keys or (success_key,)
            if success_key not in self.info_keys:
                raise bad_option("success_key", success_key, f"one of {', '.join(self.info_keys)}")
            self.success_key = success_key
        self.episodes_per_trial = one_or_more("episodes_per_trial", episodes_per_trial)
        self._given_slots = one_or_more("max_slots", max_slots)
        if self._given_slots is not None:
            self.max_slots = self._given_slots
        self.fresh = fresh

    def num_entries(self, key: str) -> int:
        """Return how many numbers a parameter with ``each`` has."""
        raise NotImplementedError

    def sample(self, rng: np.random.Generator, n: int, split: Split) -> list[Task]:
        """Draw tasks; the last bits of every draw tell the splits apart."""
        columns: dict[str, list[Any]] = {}
        for key, kind in self.params.items():
            entries = self.num_entries(key) if kind.each else 1
            drawn = kind.values(draw_unit(rng, (n, entries), split), split).tolist()
            columns[key] = [tuple(row) if kind.each else row[0] for row in drawn]
        return [
            Task.of(self.name, **{key: columns[key][i] for key in self.params}) for i in range(n)
        ]

    def tasks(self, split: Split) -> list[Task]:
        """Return every combination, if all ranges are choices or integers.

        Raises:
            NotImplementedError: if there are infinitely many tasks, or more than 10 000.
        """
        values: list[list[Scalar]] = []
        for kind in self.params.values():
            if isinstance(kind, Uniform) or kind.each:
                return super().tasks(split)
            if kind.count(split) * math.prod(map(len, values)) > _MOST_TASKS:
                raise NotImplementedError(
                    f"{self.name} has more than {_MOST_TASKS} tasks: use sample()"
                )
            values.append([kind.value(i, split) for i in range(kind.count(split))])
        return [
            Task(self.name, tuple(zip(self.params, combination, strict=True)))
            for combination in itertools.product(*values)
        ]

    def ends(self) -> dict[str, tuple[Task, Task]]:
        """Return, for every parameter that varies, two tasks that differ in it alone.

        The first task has the parameter's lowest value or first option, the second its
        highest or last; all other parameters have a value in the middle of their range.
        """

        def entries(key: str, value: Scalar) -> Any:
            return (value,) * self.num_entries(key) if self.params[key].each else value

        middle = {key: entries(key, kind.middle()) for key, kind in self.params.items()}
        found = {}
        for key, kind in self.params.items():
            first, last = kind.ends()
            if first != last:
                found[key] = (
                    Task.of(self.name, **middle | {key: entries(key, first)}),
                    Task.of(self.name, **middle | {key: entries(key, last)}),
                )
        return found

    def wrap(self, env: Env) -> Env:
        """Apply the wrappers to an environment that was just built.

        Raises:
            UserError: if a wrapper fails, or does not return an environment.
        """
        for wrapper in self.wrappers:
            try:
                env = wrapper(env)
            except Exception as error:
                raise UserError(
                    f"{self.name}: wrapper {wrapper_text(wrapper)} failed: "
                    f"{type(error).__name__}: {error}"
                ) from error
            if not isinstance(env, gym.Env):
                raise bad_option(
                    f"{self.name}: wrapper {wrapper_text(wrapper)} returned",
                    type(env).__name__,
                    "a gymnasium.Env",
                )
        return env

    def limit_slots(self, build: Callable[[], Env], first: int) -> None:
        """Lower ``max_slots`` if that many environments would not fit into memory.

        Args:
            build: makes one more environment, whose memory is measured.
            first: bytes that the first environment took, including all that is loaded only once.
                If they are few, no other environment is built.
        """
        if self._given_slots is not None or first < _SMALL:
            return
        env, size = measured(self.name, build)
        close_quietly(env)
        fitting = psutil.virtual_memory().available // 2 // max(size, 1)
        if fitting < self.max_slots:
            self.max_slots = max(1, fitting)
            warnings.warn(
                f"one environment of {self.name} takes {size / 2**20:.0f} MiB: at most "
                f"{self.max_slots} are stepped at once (max_slots)",
                stacklevel=3,
            )


_SMALL = 8 * 2**20
"""Environments of fewer bytes are not measured: 400 of them fit into any memory."""


def resident_bytes() -> int:
    """Return the memory that this process occupies, without files mapped into it, in bytes."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))


def give_back_free_memory() -> None:
    """Hand memory that this process holds but does not use back to the system, where it can.

    What is allocated from such memory would not be seen, since the process occupies it already.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:  # It is a function of the GNU C library.
        trim(0)


def measured(name: str, build: Callable[[], Env]) -> tuple[Env, int]:
    """Build and reset an environment; return it and the bytes of memory it took.

    Garbage of before is not collected meanwhile: what it gives back would hide what was taken.

    Raises:
        UserError: if it cannot be reset; the message names the tasks by ``name``.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        give_back_free_memory()
        before = resident_bytes()
        env = build()
        try:
            env.reset(seed=0)
        except Exception as error:
            raise UserError(
                f"{name}: resetting a new environment failed: {type(error).__name__}: {error}"
            ) from error
        return env, max(0, resident_bytes() - before)
    finally:
        if collecting:
            gc.enable()


def one_or_more(name: str, value: int | None) -> int | None:
    """Return ``value``, after checking that it is None or a whole number above 0."""
    if value is None:
        return None
    if not (isinstance(value, int | np.integer) and is_number(value) and value >= 1):
        raise bad_option(name, value, "a whole number, 1 or more")
    return int(value)


class FunctionTasks(ParametricTasks):
    """Tasks whose environments are made by a function of their parameters.

    Args:
        function: takes a dict with a value for each parameter and returns an environment. It is
            called again when the parameters change, and travels to workers by cloudpickle.
        params: range of every parameter that varies.
        horizon: steps of an episode; by default the limit that the environment's own
            ``TimeLimit`` or ``spec`` sets.
        wrappers: see :class:`ParametricTasks`.
        info_keys: names of numbers that every step's ``info`` holds.
        success_key: the entry of ``info_keys`` that tells success; without ``info_keys`` it is
            their only entry.
        episodes_per_trial: episodes an agent gets with one task, if the benchmark prescribes it.
        max_slots: environments stepped at once, by default as many as memory allows, up to 400.
        fresh: whether every episode begins with a new environment, for those whose ``reset`` leaves
            something of the episode before, as a world of Box2D may.
        name: name that :func:`metarl.make` makes these tasks of; by default ``module:function``.

    Raises:
        UserError: if the function fails or returns no environment, or if no horizon is known.

    >>> def pendulum(params):
    ...     return gym.make("Pendulum-v1", g=params["g"])
    >>> tasks = metarl.FunctionTasks(pendulum, {"g": metarl.Uniform(8, 12)}, episodes_per_trial=3)
    >>> tasks.horizon, tasks.episodes_per_trial
    (200, 3)
    >>> [task] = tasks.sample(np.random.default_rng(0), 1, "test")
    >>> tasks.make(task).unwrapped.g == task["g"]
    True
    """

    def __init__(
        self,
        function: Callable[[dict[str, Any]], Env],
        params: Mapping[str, Range],
        *,
        horizon: int | None = None,
        wrappers: Sequence[Wrapper] = (),
        info_keys: Sequence[str] = (),
        success_key: str | None = None,
        episodes_per_trial: int | None = None,
        max_slots: int | None = None,
        fresh: bool = False,
        name: str = "",
    ) -> None:
        super().__init__(
            params,
            wrappers=wrappers,
            info_keys=info_keys,
            success_key=success_key,
            episodes_per_trial=episodes_per_trial,
            max_slots=max_slots,
            fresh=fresh,
        )
        for key, kind in self.params.items():
            if kind.each or kind.factor:
                raise bad_option(key, kind, "a range of numbers: a function has no own values")
        self.function = function
        self.name = name or f"{function.__module__}:{function.__qualname__}"
        task = self.sample(np.random.default_rng(0), 1, "train")[0]
        env, size = measured(self.name, lambda: self.build(task))
        self.horizon = choose_horizon(self.name, horizon, time_limit(env))
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.limit_slots(lambda: self.build(task), size)
        close_quietly(env)

    def build(self, task: Task) -> Env:
        """Call the function with the parameters of ``task``, and apply the wrappers."""
        values = dict(task.params)
        try:
            env = self.function(dict(values))
        except Exception as error:
            whole = [key for key in values if isinstance(self.params.get(key), Uniform)]
            raise build_error(self.name, values, error, whole) from error
        if not isinstance(env, gym.Env):
            raise bad_option(f"{self.name} returned", type(env).__name__, "a gymnasium.Env")
        return self.wrap(env)

    def make(self, task: Task | None = None) -> Env:
        """Make an environment; it is built again when a task changes the parameters."""
        return _FunctionEnv(self, task)


class _FunctionEnv(TaskEnv):
    """Builds its environment again when a task changes the parameters."""

    def __init__(self, tasks: FunctionTasks, task: Task | None) -> None:
        self._tasks, self.fresh = tasks, tasks.fresh
        self._built = task or tasks.sample(np.random.default_rng(0), 1, "train")[0]
        super().__init__(tasks.build(self._built), tasks.horizon, task)

    def apply_task(self, task: Task) -> None:
        if task.params != self._built.params or self.stale:
            close_quietly(self.env)
            self.env = self._tasks.build(task)
            self._built = task


def choose_horizon(name: str, wanted: int | None, limit: int | None) -> int:
    """Return the steps of an episode: the number wanted, or the environment's own ``limit``.

    Raises:
        UserError: if neither is known, or if more is wanted than the environment allows.
    """
    horizon = one_or_more(f"{name} horizon", wanted) or limit
    if horizon is None or horizon < 1:
        raise bad_option(f"{name} horizon", horizon, "at least 1: it has no limit of its own")
    if limit is not None and horizon > limit:
        raise bad_option(
            f"{name} horizon", horizon, f"at most {limit}, where the environment ends an episode"
        )
    return horizon


def build_error(
    name: str, values: Mapping[str, Any], error: Exception, whole: Sequence[str], doing: str = ""
) -> UserError:
    """Return the error for an environment that cannot be built, reset or stepped.

    Args:
        name: the tasks' name.
        values: the parameters that the environment got.
        error: the exception that it raised.
        whole: parameters that may need an int if they got a float.
        doing: the action that failed, by default building the environment.
    """
    given = ", ".join(f"{key}={value!r}" for key, value in values.items())
    message = f"{name}: {doing or 'building it'} with {given or 'its defaults'} failed: "
    message += f"{type(error).__name__}: {error}"
    floats = [key for key in whole if isinstance(values.get(key), float)]
    if floats and not isinstance(error, UserError):
        message += (
            f"; where {' or '.join(floats)} must be a whole number, write "
            f"{floats[0]}=int:low..high, or metarl.Integers(low, high)"
        )
    return UserError(message)


def wrapper_text(wrapper: Wrapper) -> str:
    """Return the text of a wrapper, or its name in angle brackets if it has none.

    A lambda, an inner function or one of the main program cannot be imported by its name.
    """
    if isinstance(wrapper, NamedWrapper):
        return wrapper.text
    name = getattr(wrapper, "__qualname__", type(wrapper).__qualname__)
    module = getattr(wrapper, "__module__", "__main__")
    home = sys.modules.get(module)
    if module != "__main__" and name.isidentifier() and getattr(home, name, None) is wrapper:
        return f"{module}:{name}"
    return f"<{name.rpartition('.')[2].strip('<>')}>"

"""Slots: environments that report into shared arrays, and the arrays themselves.

No module of this folder imports torch, which takes a worker process seconds to load.
"""

from __future__ import annotations

import math
import traceback
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from metarl.errors import UserError, described
from metarl.stepping.actions import ActionRows
from metarl.stepping.spaces import Flattener, fit, indices_inside, reported_space
from metarl.task import Env, Task

_NUMBERS = (float, int, np.floating, np.integer, np.bool_)
_FLAGS = (bool, np.bool_)


def one_number(value: Any, name: str) -> float:
    """Return a number that a step returned as a float; an array of one number is accepted.

    Args:
        value: what the step returned.
        name: the number's name for the message, such as ``reward``.

    Raises:
        ValueError: if ``value`` is not exactly one number.
    """
    if isinstance(value, _NUMBERS):
        return float(value)
    array = np.asarray(value)
    if array.dtype.kind in "biuf" and array.size == 1:
        return float(array.item())
    got = f"a {name} of shape {array.shape}" if array.ndim else f"the {name} {value!r}"
    raise ValueError(f"step returned {got}; accepted: one number")


def one_flag(value: Any, name: str) -> bool:
    """Return a flag that a step returned as a bool; an array of one flag is accepted.

    Args:
        value: what the step returned.
        name: the flag's name for the message, such as ``terminated``.

    Raises:
        ValueError: if ``value`` is neither true nor false.
    """
    if isinstance(value, _FLAGS):
        return bool(value)
    array = np.asarray(value)
    if array.dtype.kind in "biuf" and array.size == 1 and array.item() in (0, 1):
        return bool(array.item())
    raise ValueError(f"step returned {name} {value!r}; accepted: True or False")


def close_quietly(env: Any) -> None:
    """Close an environment; if that fails, warn instead of losing the results so far."""
    try:
        env.close()
    except (Exception, SystemExit) as error:
        kind = type(getattr(env, "unwrapped", env)).__name__
        warnings.warn(f"{kind}.close() failed: {described(error)}", stacklevel=2)


@runtime_checkable
class MakesEnvs(Protocol):
    """The part of a task distribution that stepping uses."""

    name: str
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    info_keys: tuple[str, ...]
    success_key: str

    def make(self) -> Env:
        """Make an environment that takes its task on reset."""

    def release(self, env: Env, task: Task) -> None:
        """Free resources that ``env`` holds and its next ``task`` does not need."""


def reported_keys(tasks: MakesEnvs) -> tuple[str, ...]:
    """Return the names under which slots report ``info_keys``, in the same order.

    Raises:
        UserError: if ``success_key`` has no effect, or another key is named ``success``.
    """
    if tasks.success_key == "success":
        return tuple(tasks.info_keys)
    if tasks.success_key not in tasks.info_keys:
        raise UserError(
            f"{tasks.name} success_key: got {tasks.success_key!r}; accepted: one of info_keys, "
            f"{list(tasks.info_keys)}"
        )
    if "success" in tasks.info_keys:
        raise UserError(
            f"{tasks.name} info_keys: got 'success' beside {tasks.success_key!r}, which "
            "success_key reports under that name; accepted: one of the two"
        )
    return tuple("success" if key == tasks.success_key else key for key in tasks.info_keys)


class Start(NamedTuple):
    """An episode to start."""

    slot: int
    seed: int
    task: Task | None
    """The episode's task; None keeps the task that the slot has."""


class Unfinished(NamedTuple):
    """A slot of a process that was lost, with all that a new process needs to restore it."""

    slot: int
    task: Task
    seed: int | None
    """Seed of the slot's episode; None if no episode is going on."""
    actions: npt.NDArray[Any]
    """Actions taken in the episode so far: ``[time, …]``."""


class SlotError(Exception):
    """An environment failed; the error holds its slot, the cause and the traceback."""

    def __init__(self, slot: int, cause: str, trace: str = "") -> None:
        super().__init__(slot, cause, trace)
        self.slot, self.cause, self.trace = slot, cause, trace


_CACHE_LINE = 64

NO_SLOT = -1
"""Stands for a slot number when no environment is being called."""

CALLS, SLOT = 0, 1
"""Columns of the array ``progress``: environment calls so far, and the slot being called."""


@dataclass(frozen=True)
class SharedLayout:
    """Names, shapes and types of the arrays that slots and their pool share in one buffer."""

    fields: tuple[tuple[str, tuple[int, ...], str], ...]
    """Name, shape and dtype of every array, in the order they lie in the buffer."""

    @classmethod
    def of(cls, tasks: MakesEnvs, num_envs: int, num_workers: int) -> SharedLayout:
        """Lay out the arrays of ``num_envs`` slots in ``num_workers`` processes."""
        observation = reported_space(tasks.observation_space)
        action = ActionRows(tasks.action_space)
        # Each worker's progress fills a cache line, so that workers do not slow each other down.
        progress = (max(1, num_workers), _CACHE_LINE // 8)
        return cls(
            (
                ("observation", (num_envs, *(observation.shape or ())), str(observation.dtype)),
                ("action", (num_envs, *action.shape), str(action.dtype)),
                ("reward", (num_envs,), "float64"),
                ("terminated", (num_envs,), "bool"),
                ("truncated", (num_envs,), "bool"),
                ("live", (num_envs,), "bool"),
                ("progress", progress, "int64"),
                *((f"info.{key}", (num_envs,), "float64") for key in reported_keys(tasks)),
            )
        )

    @property
    def num_bytes(self) -> int:
        """Size of the buffer."""
        return sum(self._padded_size(shape, dtype) for _, shape, dtype in self.fields)

    def views(self, buffer: Any) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays by name, as views of ``buffer``."""
        views, offset = {}, 0
        for name, shape, dtype in self.fields:
            flat = np.frombuffer(buffer, dtype, math.prod(shape), offset)
            views[name] = flat.reshape(shape)
            offset += self._padded_size(shape, dtype)
        return views

    @staticmethod
    def _padded_size(shape: tuple[int, ...], dtype: str) -> int:
        """Return the bytes of an array, rounded up to whole cache lines, at least one."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        return -(-max(1, size) // _CACHE_LINE) * _CACHE_LINE


def index_of(slots: range) -> slice:
    """Return slots as an index of the shared arrays, which reads their rows without a copy."""
    return slice(slots.start, slots.stop, slots.step)


class Slots:
    """The slots of a vector environment that one process steps.

    Args:
        tasks: makes the environments.
        views: the arrays of :class:`SharedLayout`, with rows for the slots of all processes.
        mine: the slots that this process steps.
        worker: row of ``progress`` that this process writes.
    """

    def __init__(
        self,
        tasks: MakesEnvs,
        views: Mapping[str, npt.NDArray[Any]],
        mine: range,
        worker: int = 0,
    ) -> None:
        self._tasks = tasks
        self._flattener = Flattener(tasks.observation_space)
        self._reported = self._flattener.space
        self._needs_flattening = self._reported is not tasks.observation_space
        self._observation, self._action = views["observation"], views["action"]
        rows = ActionRows(tasks.action_space)
        self._unpack = rows.unpack if rows.structured else None
        self._reward, self._live = views["reward"], views["live"]
        self._terminated, self._truncated = views["terminated"], views["truncated"]
        self._info = {
            key: views[f"info.{reported}"]
            for key, reported in zip(tasks.info_keys, reported_keys(tasks), strict=True)
        }
        self._progress = memoryview(views["progress"][worker])  # Faster to write than the array.
        self._slots, self._mine = mine, index_of(mine)
        self._shape = self._observation.shape[1:]
        self._calls = 0
        self._dtype = self._observation.dtype
        self._floating = np.issubdtype(self._dtype, np.floating)
        self._discrete = isinstance(self._reported, gym.spaces.Discrete)
        self._postponed: dict[int, Task] = {}
        """Tasks that :meth:`restore` left for the next reset of their slots."""
        self.envs: dict[int, Env] = {}
        for slot in mine:
            self._note_call(slot)
            try:
                self.envs[slot] = tasks.make()
            except (Exception, SystemExit) as error:
                raise _failure(slot, error) from error
        self._note_call(NO_SLOT)

    def reset(self, starts: Iterable[Start]) -> None:
        """Start episodes."""
        starts = list(starts)
        for slot, _, new in starts:
            if new is not None:
                self._note_call(slot)
                try:
                    self._tasks.release(self.envs[slot], new)
                except (Exception, SystemExit) as error:
                    raise _failure(slot, error) from error
        for slot, seed, new in starts:
            task = self._postponed.pop(slot, None) if new is None else new
            self._note_call(slot)
            try:
                options = None if task is None else {"task": task}
                observation, _ = self.envs[slot].reset(seed=seed, options=options)
                if task is not None:
                    self._check_spaces(slot)
                self._observe(slot, observation)
            except (Exception, SystemExit) as error:
                raise _failure(slot, error) from error
        self._check_numbers([start.slot for start in starts])
        self._note_call(NO_SLOT)

    def step(self) -> None:
        """Step the live slots by the actions in the shared arrays."""
        # Environments may keep their actions: they get rows of a copy.
        actions, live = self._action[self._mine].copy(), self._live[self._mine].tolist()
        stepped = []
        for slot, action, is_live in zip(self._slots, actions, live, strict=True):
            if is_live:
                stepped.append(slot)
                self._step(slot, action)
        self._check_numbers(stepped)
        self._note_call(NO_SLOT)

    def restore(self, unfinished: Iterable[Unfinished]) -> None:
        """Bring slots to where they were by replaying their seeds and actions."""
        for slot, task, seed, actions in unfinished:
            if seed is None:
                self._postponed[slot] = task
                continue
            self.reset([Start(slot, seed, task)])
            for action in actions:
                self._step(slot, action)

    def close(self) -> None:
        """Close every environment; one that fails to close causes a warning."""
        for env in self.envs.values():
            close_quietly(env)

    def _step(self, slot: int, action: Any) -> None:
        if self._unpack is not None:
            action = self._unpack(action)
        self._note_call(slot)
        try:
            observation, reward, terminated, truncated, info = self.envs[slot].step(action)
            self._observe(slot, observation)
            if type(reward) is not float:
                reward = one_number(reward, "reward")
            if not math.isfinite(reward):
                raise ValueError(f"step returned the reward {reward}")
            self._reward[slot] = reward
            if type(terminated) is not bool or type(truncated) is not bool:
                terminated = one_flag(terminated, "terminated")
                truncated = one_flag(truncated, "truncated")
            self._terminated[slot], self._truncated[slot] = terminated, truncated
            for key, values in self._info.items():
                value = info.get(key)
                if type(value) is not float or not math.isfinite(value):
                    value = _info_number(info, key)
                values[slot] = value
        except (Exception, SystemExit) as error:
            raise _failure(slot, error) from error

    def _observe(self, slot: int, observation: Any) -> None:
        if self._needs_flattening:
            self._flattener.write(observation, self._observation[slot])
            return
        array = np.asarray(observation)
        dtype = array.dtype
        # Skip fit() for floats, which may be rounded to the declared type: it would cost time.
        if dtype is not self._dtype and not (self._floating and dtype.kind == "f"):
            array = fit(array, self._dtype, "an observation")
        if array.shape != self._shape:
            raise ValueError(
                f"an observation has shape {array.shape}, observation_space has {self._shape}"
            )
        self._observation[slot] = array

    def _check_numbers(self, slots: Sequence[int]) -> None:
        """Refuse NaN, infinity and indices outside the space, for all slots at once."""
        if not slots:
            return
        # A sum is finite only if all numbers are; a large sum may overflow, so then look at each.
        total = np.add.reduce(self._observation[self._mine], axis=None) if self._floating else 0.0
        if not math.isfinite(total):
            for slot in slots:
                if not np.isfinite(self._observation[slot]).all():
                    cause = f"ValueError: an observation has NaN or inf: {self._observation[slot]}"
                    raise SlotError(slot, cause)
        if self._discrete:
            observed = self._observation[slots]
            inside = indices_inside(self._reported, observed)
            if inside is not None and not inside.all():
                first = int(np.argmin(inside))
                cause = f"an observation is {observed[first]}, outside {self._reported}"
                raise SlotError(slots[first], f"ValueError: {cause}")

    def _check_spaces(self, slot: int) -> None:
        env = self.envs[slot]
        for name in ("observation_space", "action_space"):
            got, declared = getattr(env, name), getattr(self._tasks, name)
            if got is not declared and got != declared:
                raise ValueError(
                    f"spaces differ between tasks: this one has {name} {got}, "
                    f"the distribution declares {declared}"
                )

    def _note_call(self, slot: int) -> None:
        """Count a call of an environment and note its slot, or that none is being called.

        The pool reads both to find a process that hangs, and the slot that hung or killed it.
        """
        self._calls += 1
        self._progress[CALLS], self._progress[SLOT] = self._calls, slot


def _info_number(info: Mapping[str, Any], key: str) -> float:
    """Return a number of a step's info.

    Raises:
        ValueError: if it is missing, not a number, or not finite.
    """
    promise = "info_keys promises a finite number"
    if key not in info:
        raise ValueError(f"step's info has no {key!r}; {promise}")
    try:
        number = one_number(info[key], "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"step's info[{key!r}] is {info[key]!r}; {promise}")
    return number


def _failure(slot: int, error: BaseException) -> SlotError:
    """Return the error for an exception that the environment of ``slot`` raised."""
    return SlotError(slot, described(error), traceback.format_exc())

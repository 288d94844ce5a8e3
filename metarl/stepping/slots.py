"""Tasks, and the distributions they are sampled from.

Nothing in this module, nor in any that steps environments, imports torch: a worker process
that only steps environments should not pay for it.
"""

from __future__ import annotations

import math
import traceback
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from metarl.errors import UserError, described
from metarl.stepping.spaces import Flattener, fit, indices_inside, reported_space
from metarl.task import Env, Task


def one_number(value: Any, name: str) -> float:
    """Return ``value``, the ``name`` that a step gave, as a float; it may be an array of one.

    Raises:
        ValueError: where it is anything else, with what it is.
    """
    if isinstance(value, float | int):
        return float(value)
    array = np.asarray(value)
    if array.dtype.kind in "biuf" and array.size == 1:
        return float(array.item())
    got = f"a {name} of shape {array.shape}" if array.ndim else f"the {name} {value!r}"
    raise ValueError(f"step returned {got}; accepted: one number")


def one_flag(value: Any, name: str) -> bool:
    """Return ``value``, what a step gave as ``name``, as a bool; it may be an array of one.

    Raises:
        ValueError: where it is neither true nor false, with what it is.
    """
    array = np.asarray(value)
    if array.dtype.kind in "biuf" and array.size == 1 and array.item() in (0, 1):
        return bool(array.item())
    raise ValueError(f"step returned {name} {value!r}; accepted: True or False")


def close_quietly(env: Any) -> None:
    """Close an environment; one that fails at it is a warning, since results are worth more."""
    try:
        env.close()
    except (Exception, SystemExit) as error:
        kind = type(getattr(env, "unwrapped", env)).__name__
        warnings.warn(f"{kind}.close() failed: {described(error)}", stacklevel=2)


Field = tuple[str, tuple[int, ...], str]
"""Name, shape and dtype of an array."""


_ALIGNMENT = 64


@runtime_checkable
class MakesEnvs(Protocol):
    """What stepping needs of a task distribution."""

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
    """None keeps the slot's task."""


class Unfinished(NamedTuple):
    """What brings a slot of a new process to where it was in the old one."""

    slot: int
    task: Task
    seed: int | None
    """None where no episode is going on."""
    actions: npt.NDArray[Any]


class SlotError(Exception):
    """An environment failed: in which slot, and how."""

    def __init__(self, slot: int, cause: str, trace: str = "") -> None:
        super().__init__(slot, cause, trace)
        self.slot, self.cause, self.trace = slot, cause, trace


def fields(tasks: MakesEnvs, num_envs: int, num_workers: int) -> list[Field]:
    """Return the arrays that ``num_envs`` slots and their workers share."""
    observation, action = reported_space(tasks.observation_space), tasks.action_space
    result: list[Field] = [
        ("observation", (num_envs, *(observation.shape or ())), str(observation.dtype)),
        ("action", (num_envs, *(action.shape or ())), str(action.dtype)),
        ("reward", (num_envs,), "float64"),
        ("terminated", (num_envs,), "bool"),
        ("truncated", (num_envs,), "bool"),
        ("live", (num_envs,), "bool"),
        ("progress", (max(1, num_workers), 8), "int64"),  # a line each: calls so far, last slot
    ]
    return result + [(f"info.{key}", (num_envs,), "float64") for key in reported_keys(tasks)]


def num_bytes(layout: Iterable[Field]) -> int:
    """Return the size of a buffer for ``layout``."""
    return sum(_padded(field) for field in layout)


def arrays(layout: Iterable[Field], buffer: Any) -> dict[str, npt.NDArray[Any]]:
    """Return views of ``buffer``, one for every field."""
    views, offset = {}, 0
    for field in layout:
        name, shape, dtype = field
        size = math.prod(shape)
        views[name] = np.frombuffer(buffer, dtype, size, offset).reshape(shape)
        offset += _padded(field)
    return views


def _padded(field: Field) -> int:
    size = math.prod(field[1]) * np.dtype(field[2]).itemsize
    return -(-max(1, size) // _ALIGNMENT) * _ALIGNMENT


class Slots:
    """Some of the environments of a vector environment.

    Args:
        tasks: makes them.
        views: what :func:`arrays` returned, for all slots.
        mine: the slots that are kept here.
        worker: its row of ``progress``.
    """

    def __init__(
        self,
        tasks: MakesEnvs,
        views: Mapping[str, npt.NDArray[Any]],
        mine: Sequence[int],
        worker: int = 0,
    ) -> None:
        self._tasks = tasks
        self._flattener = Flattener(tasks.observation_space)
        self._reported = self._flattener.space
        self._as_it_is = self._reported is tasks.observation_space
        self._observation, self._action = views["observation"], views["action"]
        self._reward, self._live = views["reward"], views["live"]
        self._terminated, self._truncated = views["terminated"], views["truncated"]
        self._info = {
            key: views[f"info.{reported}"]
            for key, reported in zip(tasks.info_keys, reported_keys(tasks), strict=True)
        }
        self._progress = views["progress"][worker]
        self._mine = np.array(mine, np.int64)
        self._shape = self._observation.shape[1:]
        self._calls = 0
        self._dtype = self._observation.dtype
        self._floating = np.issubdtype(self._dtype, np.floating)
        self._discrete = isinstance(self._reported, gym.spaces.Discrete)
        self._owed: dict[int, Task] = {}
        """Tasks of slots that :meth:`restore` left to their next reset."""
        self.envs: dict[int, Env] = {}
        for slot in mine:
            self._enter(slot)
            try:
                self.envs[slot] = tasks.make()
            except (Exception, SystemExit) as error:
                raise _failure(slot, error) from error
        self._enter(-1)

    def reset(self, starts: Iterable[Start]) -> None:
        """Start episodes."""
        done, starts = [], list(starts)
        for slot, _, new in starts:
            if new is not None:
                self._enter(slot)
                try:
                    self._tasks.release(self.envs[slot], new)
                except (Exception, SystemExit) as error:
                    raise _failure(slot, error) from error
        for slot, seed, new in starts:
            task = self._owed.pop(slot, None) if new is None else new
            self._enter(slot)
            try:
                options = None if task is None else {"task": task}
                observation, _ = self.envs[slot].reset(seed=seed, options=options)
                if task is not None:
                    self._check_spaces(slot)
                self._observe(slot, observation)
            except (Exception, SystemExit) as error:
                raise _failure(slot, error) from error
            done.append(slot)
        self._check_numbers(done)
        self._enter(-1)

    def step(self) -> None:
        """Step the live slots."""
        stepped = self._mine[self._live[self._mine]].tolist()
        for slot in stepped:
            self._step(slot, self._action[slot].copy())
        self._check_numbers(stepped)
        self._enter(-1)

    def restore(self, unfinished: Iterable[Unfinished]) -> None:
        """Bring slots to where they were: the same task, seed and actions."""
        for slot, task, seed, actions in unfinished:
            if seed is None:
                self._owed[slot] = task
                continue
            self.reset([Start(slot, seed, task)])
            for action in actions:
                self._step(slot, action)

    def close(self) -> None:
        """Close every environment; one that fails at it is a warning."""
        for env in self.envs.values():
            close_quietly(env)

    def _step(self, slot: int, action: Any) -> None:
        self._enter(slot)
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
        if not self._as_it_is:
            observation = self._flattener(observation)
        array = np.asarray(observation)
        dtype = array.dtype
        # floats may be rounded to the declared type: no more to ask here, where it is quick
        if dtype is not self._dtype and not (self._floating and dtype.kind == "f"):
            array = fit(array, self._dtype, "an observation")
        if array.shape != self._shape:
            raise ValueError(
                f"an observation has shape {array.shape}, observation_space has {self._shape}"
            )
        self._observation[slot] = array

    def _check_numbers(self, slots: Sequence[int]) -> None:
        """Refuse NaN, infinity and indices outside the space, all observations at once."""
        if not slots:
            return
        # the sum of finite numbers is finite, or they are worth a closer look
        if self._floating and not math.isfinite(self._observation[slots].sum()):
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

    def _enter(self, slot: int) -> None:
        """Note whose turn it is: what a hung or killed process leaves behind."""
        self._calls += 1
        self._progress[0], self._progress[1] = self._calls, slot


def _info_number(info: Mapping[str, Any], key: str) -> float:
    """Return a number of a step's info.

    Raises:
        ValueError: where it is missing, no number, or not finite.
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
    """Say in which slot an exception was raised."""
    return SlotError(slot, described(error), traceback.format_exc())

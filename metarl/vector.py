"""Vector environments whose slots each hold a task.

Both kinds follow one contract, that of ``gymnasium.vector.VectorEnv`` with autoreset off:

- ``reset(seed=…, options={"tasks": […], "reset_mask": …})``: ``tasks`` has one entry a slot,
  None keeps the slot's task; without the key every slot keeps its own. Slots outside the
  mask return their last observation. ``options`` is never modified.
- ``step(actions)``: a slot that is finished or has no task ignores its action: last
  observation, reward 0, flags stay. Actions that the space cannot hold are refused.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from metarl import seeding
from metarl.errors import EnvError
from metarl.slots import Start
from metarl.spaces import (
    blank_observations,
    fit,
    indices_inside,
    reported_space,
    require_indices,
)
from metarl.tasks import (
    Array,
    ArrayTaskDistribution,
    Noise,
    NoiseSpec,
    State,
    Task,
    TaskDistribution,
    described,
    require_task,
)
from metarl.workers import LocalPool, Pool, WorkerPool, usable_cores

Seed: TypeAlias = "int | Sequence[int | None] | npt.NDArray[np.uint64] | None"

Step: TypeAlias = tuple[
    npt.NDArray[Any],
    npt.NDArray[np.float64],
    npt.NDArray[np.bool_],
    npt.NDArray[np.bool_],
    dict[str, Any],
]
"""Observation, reward, terminated, truncated, info: ``[slot, …]`` each."""


SEEDS = 2**31
"""Seeds that environments get are below: NumPy's RandomState, and others, take no larger ones."""


def shares(total: int, parts: int) -> list[slice]:
    """Divide ``total`` rows into ``parts`` of sizes that differ by one at most."""
    return [slice(total * i // parts, total * (i + 1) // parts) for i in range(parts)]


class _Request(NamedTuple):
    """What a call of ``reset`` asks for."""

    mask: npt.NDArray[np.bool_]
    slots: list[int]
    """The slots that get a new task."""
    tasks: list[Task]
    """Theirs, in the same order."""


class SlotVectorEnv(VectorEnv[Any, Any, Any]):
    """The contract, and the bookkeeping that both kinds share."""

    def __init__(self, tasks: TaskDistribution, num_envs: int) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self.distribution = tasks
        self.num_envs = num_envs
        self._info_names = tasks.reported_keys
        self.single_observation_space = reported_space(tasks.observation_space)
        self.single_action_space = tasks.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(tasks.action_space, num_envs)
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self._observation = blank_observations(self.single_observation_space, num_envs)
        self._has_task = np.zeros(num_envs, np.bool_)
        self._terminated = np.zeros(num_envs, np.bool_)
        self._truncated = np.zeros(num_envs, np.bool_)
        self._live = np.zeros(num_envs, np.bool_)
        self._seed = self.np_random.integers(2**63, size=num_envs, dtype=np.uint64)
        self._parts: dict[int, Sequence[SlotVectorEnv]] = {}
        self.seconds = {"step": 0.0, "act": 0.0}
        """What :func:`metarl.rollout.collect` has spent here: waiting for steps and resets,
        and on the agent's actions. Parts count into the same."""

    def worker_pids(self) -> list[int]:
        """Return the numbers of the processes that step, beside this one."""
        return []

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Ask every live slot to take a step; :meth:`step_wait` returns what came of it.

        Raises:
            ValueError: for actions of another shape, of a type that would change them, or of a
                live slot outside a Discrete or MultiDiscrete space.
        """
        raise NotImplementedError

    def step_wait(self) -> Step:
        """Return what :meth:`step` does, for the actions of :meth:`step_async`."""
        raise NotImplementedError

    def slots_for(self, lanes: int) -> slice | npt.NDArray[np.intp]:
        """Return the slots that ``lanes`` rows of work should take, in the order of the rows."""
        return slice(0, lanes)

    def parts(self, number: int) -> Sequence[SlotVectorEnv]:
        """Return this object's slots as ``number`` parts that can be stepped in turn."""
        if number == 1:
            return [self]
        if number not in self._parts:
            self._parts[number] = self.split(number)
            for part in self._parts[number]:
                part.seconds = self.seconds
        return self._parts[number]

    def split(self, num_parts: int) -> Sequence[SlotVectorEnv]:
        """Make such parts."""
        raise NotImplementedError

    def step(self, actions: npt.NDArray[Any]) -> Step:
        """Advance every live slot by one step."""
        self.step_async(actions)
        return self.step_wait()

    def _accepted(self, actions: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the actions in the space's type; those of slots that are not live are ignored."""
        space, actions = self.single_action_space, np.asarray(actions)
        shape = (self.num_envs, *(space.shape or ()))
        if actions.shape != shape:
            raise ValueError(f"actions must have shape {shape}, got {actions.shape}")
        live, dtype = self._live, np.dtype(space.dtype)
        if actions.dtype != dtype:
            given, actions = actions, np.zeros(shape, dtype)
            actions[live] = fit(given[live], dtype, "an action")
        if not isinstance(space, gym.spaces.Box):
            require_indices(space, actions[live], "an action")
        return actions

    def _parse(self, options: dict[str, Any] | None) -> _Request:
        options = options or {}
        mask = options.get("reset_mask")
        mask = np.ones(self.num_envs, np.bool_) if mask is None else np.asarray(mask, np.bool_)
        if mask.shape != (self.num_envs,):
            raise ValueError(f"reset_mask must have shape ({self.num_envs},), got {mask.shape}")
        entries: Sequence[Task | None] = options.get("tasks") or ()
        if entries and len(entries) != self.num_envs:
            raise ValueError(
                f"options['tasks'] needs one entry for each of the {self.num_envs} slots "
                f"(None keeps a task), got {len(entries)}"
            )
        slots = [i for i, task in enumerate(entries) if task is not None]
        new = [task for task in entries if task is not None]
        for task in new:
            if not isinstance(task, Task):
                raise TypeError(f"options['tasks'] must hold metarl.Task, got {task!r}")
        if not mask[slots].all():
            raise ValueError("a slot was given a task but is not in reset_mask")
        without = mask & ~self._has_task
        without[slots] = False
        if without.all() or ("reset_mask" in options and without.any()):
            require_task(None)
        return _Request(mask & ~without, slots, new)

    def _seeds(self, seed: Seed, index: npt.NDArray[np.intp]) -> npt.NDArray[np.uint64]:
        """Return the seeds of slots ``index``; an integer ``s`` seeds slot ``i`` with ``s + i``.

        Where none is given it is derived from the slot's last.
        """
        if seed is None:
            seeds: Any = [None] * self.num_envs
        elif isinstance(seed, int | np.integer):
            seeds = [int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = seed
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed needs {self.num_envs} entries, got {len(seeds)}")
        if isinstance(seeds, np.ndarray):
            self._seed[index] = seeds[index].astype(np.uint64)
        else:
            fresh = seeding.fold(self._seed[index], 2**63)  # no episode is that long
            given = [seeds[i] for i in index.tolist()]
            self._seed[index] = np.array(
                [f if s is None else s for f, s in zip(fresh, given, strict=True)], np.uint64
            )
        return self._seed[index]

    def _start(self, mask: npt.NDArray[np.bool_]) -> None:
        self._terminated[mask] = self._truncated[mask] = False
        self._live[mask] = True


class TaskVectorEnv(SlotVectorEnv):
    """Slots that are ordinary environments, stepped by a few worker processes.

    A slot's experience depends on its task, seed and actions alone: the number of workers
    changes no bit of it. Dict and Tuple observations are reported flattened. Environments are
    reset with the seed modulo 2**31, since many of them take no larger one.

    Args:
        tasks: makes the environments.
        num_envs: slots.
        num_workers: processes, each with its share of the slots; 0 steps them in this one,
            None takes as many as there are cores.
        timeout: seconds that one call of an environment may take, in a worker.
        restarts: how many times, in all, a killed or hung worker is started again, its
            unfinished episodes replayed from their seeds and recorded actions.
    """

    def __init__(
        self,
        tasks: TaskDistribution,
        num_envs: int,
        *,
        num_workers: int | None = None,
        timeout: float = 60.0,
        restarts: int = 0,
    ) -> None:
        super().__init__(tasks, num_envs)
        workers = default_workers(num_envs) if num_workers is None else num_workers
        if workers < 0 or timeout <= 0 or restarts < 0:
            raise ValueError(
                f"num_workers and restarts must be at least 0 and timeout above 0, "
                f"got {workers}, {restarts}, {timeout}"
            )
        self._first, self._owner = 0, True
        self._pool: Pool
        if workers == 0:
            self._pool = LocalPool(tasks, num_envs)
        else:
            self._pool = WorkerPool(
                tasks, num_envs, min(workers, num_envs), timeout=timeout, restarts=restarts
            )
        space = self.single_observation_space
        self._pool.views["observation"][:] = blank_observations(space, num_envs)
        self._bind()

    def split(self, num_parts: int) -> list[TaskVectorEnv]:
        """Return parts that step their slots independently, in the same workers.

        One part's :meth:`step_async` may come before another's :meth:`step_wait`. Closing
        is this object's.
        """
        parts = []
        for share in shares(self.num_envs, num_parts):
            part = TaskVectorEnv.__new__(TaskVectorEnv)
            SlotVectorEnv.__init__(part, self.distribution, share.stop - share.start)
            part._first, part._owner, part._pool = share.start, False, self._pool
            part._bind()
            parts.append(part)
        return parts

    def worker_pids(self) -> list[int]:
        """Return the numbers of the processes that step, beside this one."""
        return self._pool.pids()

    def slots_for(self, lanes: int) -> slice | npt.NDArray[np.intp]:
        """Return as many slots of every worker as can be, a worker's next to each other.

        Neighbouring rows, which are often of one kind of task, then share a process and
        what it keeps for that kind.
        """
        workers = (self._first + np.arange(lanes)) % max(1, len(self.worker_pids()))
        return np.argsort(workers, kind="stable")

    def _bind(self) -> None:
        """Take this object's rows of what the slots report."""
        rows = slice(self._first, self._first + self.num_envs)
        views = self._pool.views
        self._observation, self._action = views["observation"][rows], views["action"][rows]
        self._reward, self._live = views["reward"][rows], views["live"][rows]
        self._terminated, self._truncated = views["terminated"][rows], views["truncated"][rows]
        self._info = {k: views[f"info.{k}"][rows] for k in self._info_names}
        self._ticket: int | None = None

    def reset(
        self,
        *,
        seed: Seed = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Start episodes; see the module's contract."""
        request = self._parse(options)
        index = np.flatnonzero(request.mask)
        seeds = self._seeds(seed, index)
        tasks = dict(zip(request.slots, request.tasks, strict=True))
        self._has_task[request.slots] = True
        self._live[index] = False
        if index.size:
            starts = [
                Start(self._first + i, slot_seed % SEEDS, tasks.get(i))
                for i, slot_seed in zip(index.tolist(), seeds.tolist(), strict=True)
            ]
            self._pool.wait(self._pool.send(("reset", starts)))
        self._start(request.mask)
        return self._observation.copy(), {}

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Ask every live slot to take a step; :meth:`step_wait` returns what came of it."""
        if self._ticket is not None:
            raise RuntimeError("step_async was called twice without step_wait between")
        self._action[:] = self._accepted(actions)
        first = self._first
        self._ticket = self._pool.send(("step", (first, first + self.num_envs)))

    def step_wait(self) -> Step:
        """Return what :meth:`step` does, for the actions of :meth:`step_async`."""
        if self._ticket is None:
            raise RuntimeError("step_wait was called without step_async")
        ticket, self._ticket = self._ticket, None
        self._pool.wait(ticket)
        live = self._live.copy()
        terminated, truncated = self._terminated.copy(), self._truncated.copy()
        self._live &= ~(terminated | truncated)
        return (
            self._observation.copy(),
            np.where(live, self._reward, 0.0),
            terminated,
            truncated,
            {key: np.where(live, values, 0.0) for key, values in self._info.items()},
        )

    def close_extras(self, **kwargs: Any) -> None:
        """Close every environment and end the workers."""
        if self._owner:
            self._pool.close()


def default_workers(num_envs: int) -> int:
    """Return one worker a core, none where there is one core or one slot."""
    cores = len(usable_cores())
    return 0 if num_envs == 1 or cores == 1 else min(cores, num_envs)


class ArrayVectorEnv(SlotVectorEnv):
    """Slots of a family written as array functions, all stepped by a few NumPy calls.

    A slot's random numbers at a step depend on its seed and on the step alone.
    """

    distribution: ArrayTaskDistribution

    def __init__(self, tasks: ArrayTaskDistribution, num_envs: int) -> None:
        super().__init__(tasks, num_envs)
        self._params: dict[str, npt.NDArray[Any]] = {}
        self._tasks: dict[int, Task] = {}
        self._state: State = {}
        self._elapsed = np.zeros(num_envs, np.int64)
        self._stepped: Step | None = None

    def reset(
        self,
        *,
        seed: Seed = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Start episodes; see the module's contract."""
        mask, slots, tasks = self._parse(options)
        if tasks:
            with _family_exits():
                params = self.distribution.stack(tasks)
            _write(self._params, np.array(slots), params, self.num_envs)
            self._has_task[slots] = True
            self._tasks.update(zip(slots, tasks, strict=True))
        index = np.flatnonzero(mask)
        self._seeds(seed, index)
        if index.size:
            self._elapsed[index] = 0
            params = {name: values[index] for name, values in self._params.items()}
            noise = self._noise(index, self.distribution.initial_noise)
            with _family_exits():
                state, observation = self.distribution.initial(params, noise)
            _write(self._state, index, state, self.num_envs)
            self._observe(index, observation)
            self._start(mask)
        return self._observation.copy(), {}

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Take the step: array code has nothing to wait for."""
        self._stepped = self._step(actions)

    def step_wait(self) -> Step:
        """Return what the step gave."""
        if self._stepped is None:
            raise RuntimeError("step_wait was called without step_async")
        result, self._stepped = self._stepped, None
        return result

    def split(self, num_parts: int) -> list[ArrayVectorEnv]:
        """Return independent vector environments of as many slots together."""
        return [
            ArrayVectorEnv(self.distribution, share.stop - share.start)
            for share in shares(self.num_envs, num_parts)
        ]

    def _step(self, actions: npt.NDArray[Any]) -> Step:
        actions = self._accepted(actions)
        reward = np.zeros(self.num_envs)
        info = {key: np.zeros(self.num_envs) for key in self._info_names}
        index = np.flatnonzero(self._live)
        if index.size:
            self._elapsed[index] += 1
            noise = self._noise(index, self.distribution.transition_noise)
            state = {name: values[index] for name, values in self._state.items()}
            with _family_exits():
                result = self.distribution.transition(state, actions[index], noise)
            _write(self._state, index, result.state, self.num_envs)
            self._observe(index, result.observation)
            reward[index] = self._numbers(index, result.reward, "a reward")
            terminated = self._fit(index, result.terminated, np.bool_, "terminated")
            self._terminated[index] = terminated
            self._truncated[index] = ~terminated & (
                self._elapsed[index] >= self.distribution.horizon
            )
            for key, values in zip(self.distribution.info_keys, info.values(), strict=True):
                if key not in result.info:
                    cause = f"step's info has no {key!r}; info_keys promises a finite number"
                    raise self._failure(None, cause)
                values[index] = self._numbers(index, result.info[key], f"step's info[{key!r}]")
            self._live &= ~(self._terminated | self._truncated)
        return (
            self._observation.copy(),
            reward,
            self._terminated.copy(),
            self._truncated.copy(),
            info,
        )

    def _observe(self, index: npt.NDArray[np.intp], observation: Array) -> None:
        space = self.single_observation_space
        shape, dtype = space.shape or (), np.dtype(space.dtype)
        rows = self._fit(index, observation, dtype, "an observation", shape)
        inside = indices_inside(space, rows)
        if inside is not None and not inside.all():
            first = int(np.argmin(inside))
            raise self._failure(
                int(index[first]), f"an observation is {rows[first]}, outside {space}"
            )
        self._observation[index] = rows

    def _numbers(
        self, index: npt.NDArray[np.intp], values: Array, name: str
    ) -> npt.NDArray[np.float64]:
        """Return one finite number for each of the slots ``index``."""
        rows = self._fit(index, values, np.float64, name)
        finite = np.isfinite(rows)
        if not finite.all():
            first = int(np.argmin(finite))
            cause = f"{name} is {rows[first]}; accepted: a finite number"
            raise self._failure(int(index[first]), cause)
        return rows

    def _fit(
        self,
        index: npt.NDArray[np.intp],
        values: Array,
        dtype: npt.DTypeLike,
        name: str,
        shape: tuple[int, ...] = (),
    ) -> npt.NDArray[Any]:
        """Return what the family gave for the slots ``index``: ``[slot, *shape]`` of ``dtype``."""
        rows, expected = np.asarray(values), (len(index), *shape)
        if not shape and rows.ndim == 0:  # the same for all
            rows = np.broadcast_to(rows, expected)
        if rows.shape != expected:
            raise self._failure(None, f"{name} has shape {rows.shape}, expected {expected}")
        try:
            return fit(rows, dtype, name)
        except ValueError as error:
            raise self._failure(None, str(error)) from error

    def _failure(self, slot: int | None, cause: str) -> EnvError:
        task = None if slot is None else self._tasks.get(slot)
        return EnvError(None, slot, task, f"ValueError: {cause}")

    def _noise(self, index: npt.NDArray[np.intp], spec: NoiseSpec) -> Noise:
        """Draw each slot's numbers for its present step (0 is the reset)."""
        if not any(spec):
            empty = np.zeros((len(index), 0))
            return Noise(empty, empty)
        keys = seeding.fold(self._seed[index], self._elapsed[index])
        return Noise(
            seeding.uniform(seeding.fold(keys, 0), spec.uniform),
            seeding.normal(seeding.fold(keys, 1), spec.normal),
        )


@contextlib.contextmanager
def _family_exits() -> Iterator[None]:
    """Turn a family's ``sys.exit()`` into its failure: else the program would end as if done."""
    try:
        yield
    except SystemExit as error:
        raise EnvError(None, None, None, described(error), traceback.format_exc()) from error


def _write(
    target: dict[str, Array], index: npt.NDArray[Any], rows: dict[str, Array], size: int
) -> None:
    """Write ``rows`` into ``target`` at ``index``, whose arrays are made where absent."""
    for name, values in rows.items():
        values = np.asarray(values)
        if len(index) == size:  # every slot, in order
            target[name] = values.copy()  # it may be shared between names, or read-only
            continue
        if name not in target:
            target[name] = np.zeros((size, *values.shape[1:]), values.dtype)
        kind = np.result_type(target[name], values)  # 0.5 after 1, "right" after "left"
        target[name] = target[name].astype(kind, copy=False)
        target[name][index] = values


class ArrayEnv(gym.Env[Any, Any]):
    """One slot of an array family as an ordinary Gymnasium environment."""

    def __init__(self, tasks: ArrayTaskDistribution, task: Task | None = None) -> None:
        self.metadata = {"render_modes": []}
        self.observation_space = tasks.observation_space
        self.action_space = tasks.action_space
        self.horizon = tasks.horizon
        self._slot = ArrayVectorEnv(tasks, 1)
        self._own_names = dict(zip(tasks.reported_keys, tasks.info_keys, strict=True))
        self.task = task
        self._fresh_task = task

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode, of a new task if ``options`` has one."""
        super().reset(seed=seed)
        new = (options or {}).get("task")
        if new is not None and not isinstance(new, Task):
            raise TypeError(f"options['task'] must be a metarl.Task, got {type(new).__name__}")
        new = new or self._fresh_task
        self.task = new or self.task
        require_task(self.task)
        slot_seed = int(self.np_random.integers(2**63)) if seed is None else seed
        observation, _ = self._slot.reset(
            seed=np.array([slot_seed], np.uint64), options={"tasks": [new]} if new else None
        )
        self._fresh_task = None
        return observation[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance one step."""
        observation, reward, terminated, truncated, info = self._slot.step(np.array([action]))
        return (
            observation[0],
            float(reward[0]),
            bool(terminated[0]),
            bool(truncated[0]),
            {self._own_names[key]: values[0] for key, values in info.items()},
        )

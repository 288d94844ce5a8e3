"""Vector environments whose slots each hold a task.

All of them keep the contract of ``gymnasium.vector.VectorEnv`` with autoreset off:

- ``reset(seed=…, options={"tasks": […], "reset_mask": …})``: ``tasks`` has one entry per slot;
  None keeps the slot's task, and without the key every slot keeps its own. Slots outside the
  mask return their last observation. ``options`` is never modified.
- ``step(actions)``: a slot that is finished or has no task ignores its action and returns its
  last observation, reward 0 and unchanged flags. Actions that the space cannot hold are refused.
  Those of a Dict or Tuple are what its batched space contains, or rows of numbers
  (:class:`metarl.stepping.actions.ActionRows`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from metarl import seeding
from metarl.stepping.actions import ActionRows
from metarl.stepping.pools import LocalPool, Pool, WorkerPool
from metarl.stepping.slots import MakesEnvs, Start, reported_keys
from metarl.stepping.spaces import blank_observations, reported_space
from metarl.stepping.workers import usable_cores
from metarl.task import Task, require_task

Seed: TypeAlias = "int | Sequence[int | None] | npt.NDArray[np.uint64] | None"


Step: TypeAlias = tuple[
    npt.NDArray[Any],
    npt.NDArray[np.float64],
    npt.NDArray[np.bool_],
    npt.NDArray[np.bool_],
    dict[str, Any],
]
"""Observation, reward, terminated, truncated and info, each ``[slot, …]``."""


SEEDS = 2**31
"""Environments get seeds below this bound: NumPy's RandomState, and others, take no larger ones."""


class _Request(NamedTuple):
    """The options of one call of ``reset``, checked."""

    mask: npt.NDArray[np.bool_]
    """Slots that start an episode."""
    slots: list[int]
    """Slots that get a new task."""
    tasks: list[Task]
    """New tasks, in the order of ``slots``."""


class SlotVectorEnv(VectorEnv[Any, Any, Any]):
    """Base of all vector environments: the contract, and the bookkeeping of tasks and seeds."""

    def __init__(self, tasks: MakesEnvs, num_envs: int) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self.distribution = tasks
        self.num_envs = num_envs
        self._info_names = reported_keys(tasks)
        self.single_observation_space = reported_space(tasks.observation_space)
        self.single_action_space, self._rows = tasks.action_space, ActionRows(tasks.action_space)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(tasks.action_space, num_envs)
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self._observation = blank_observations(self.single_observation_space, num_envs)
        self._has_task = np.zeros(num_envs, np.bool_)
        self._terminated = np.zeros(num_envs, np.bool_)
        self._truncated = np.zeros(num_envs, np.bool_)
        self._live = np.zeros(num_envs, np.bool_)
        self._seed = self.np_random.integers(2**63, size=num_envs, dtype=np.uint64)

    def worker_pids(self) -> list[int]:
        """Return the process ids of the workers."""
        return []

    def step_async(self, actions: Any) -> None:
        """Begin a step of every live slot; :meth:`step_wait` returns its results.

        Raises:
            ValueError: if the actions have another shape, if the space's type would change them,
                or if a live slot's index lies outside a Discrete or MultiDiscrete space.
        """
        raise NotImplementedError

    def step_wait(self) -> Step:
        """Return the results of the step that :meth:`step_async` began."""
        raise NotImplementedError

    def resize(self, num_envs: int) -> None:
        """Close all environments and make ``num_envs`` others in the same worker processes.

        Raises:
            NotImplementedError: if this vector environment cannot; make another one then.
        """
        raise NotImplementedError

    def slots_for(self, lanes: int) -> slice | npt.NDArray[np.intp]:
        """Return the slots in which ``lanes`` rows of work should run, in the order of the rows."""
        return slice(0, lanes)

    def step(self, actions: Any) -> Step:
        """Advance every live slot by one step."""
        self.step_async(actions)
        return self.step_wait()

    def _checked_actions(self, actions: Any) -> npt.NDArray[Any]:
        """Return the actions as rows of their type, after checking those of live slots."""
        return self._rows.checked(self._rows.batch(actions, self.num_envs), self._live)

    def _checked_request(self, options: dict[str, Any] | None) -> _Request:
        """Return what the options of ``reset`` ask for, or refuse them."""
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

    def _next_seeds(self, seed: Seed, index: npt.NDArray[np.intp]) -> npt.NDArray[np.uint64]:
        """Set and return the seeds of the slots ``index``.

        An integer ``s`` seeds slot ``i`` with ``s + i``. A slot that is given no seed derives one
        from its last.
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
            # No episode has this many steps, so no step has this key.
            fresh = seeding.fold(self._seed[index], 2**63)
            given = [seeds[i] for i in index.tolist()]
            self._seed[index] = np.array(
                [f if s is None else s for f, s in zip(fresh, given, strict=True)], np.uint64
            )
        return self._seed[index]

    def _mark_started(self, mask: npt.NDArray[np.bool_]) -> None:
        """Note that the slots of ``mask`` have started an episode."""
        self._terminated[mask] = self._truncated[mask] = False
        self._live[mask] = True


class TaskVectorEnv(SlotVectorEnv):
    """Slots that are ordinary environments, stepped by a few worker processes.

    A slot's experience depends on its task, seed and actions alone: the number of workers
    changes no bit of it. Dict and Tuple observations are reported flattened. Environments are
    reset with the seed modulo 2**31, since many of them take no larger one.

    Args:
        tasks: makes the environments.
        num_envs: number of slots.
        num_workers: processes that share the slots; 0 steps the slots in this process, and None
            starts one worker per core.
        timeout: seconds that one call of an environment may take in a worker.
        restarts: how many killed or hung workers may be replaced in all. The unfinished
            episodes of a lost worker are replayed from their seeds and recorded actions.

    >>> tasks = metarl.GymTasks("CartPole-v1", {"length": metarl.Uniform(0.3, 1.0)})
    >>> envs = metarl.TaskVectorEnv(tasks, 4, num_workers=0)  # tasks.make_vec makes one, too
    >>> drawn = tasks.sample(np.random.default_rng(0), 4, "train")
    >>> observations, _ = envs.reset(seed=0, options={"tasks": drawn})
    >>> observations, rewards, terminated, truncated, _ = envs.step(np.zeros(4, np.int64))
    >>> observations.shape, rewards.tolist()
    ((4, 4), [1.0, 1.0, 1.0, 1.0])
    >>> envs.close()
    """

    def __init__(
        self,
        tasks: MakesEnvs,
        num_envs: int,
        *,
        num_workers: int | None = None,
        timeout: float = 60.0,
        restarts: int = 0,
    ) -> None:
        if (num_workers or 0) < 0 or timeout <= 0 or restarts < 0:
            raise ValueError(
                f"num_workers and restarts must be at least 0 and timeout above 0, "
                f"got {num_workers}, {restarts}, {timeout}"
            )
        super().__init__(tasks, num_envs)
        self._num_workers, self._timeout, self._restarts = num_workers, timeout, restarts
        self._pool = self._new_pool()
        self._use_shared_arrays()

    def resize(self, num_envs: int) -> None:
        """Close all environments and make ``num_envs`` others in the same worker processes.

        No slot has a task afterwards. Processes are started or ended if the new size needs
        another number of them.
        """
        super().__init__(self.distribution, num_envs)
        workers = self._workers_for(num_envs)
        if workers > 0 and isinstance(self._pool, WorkerPool):
            self._pool.resize(num_envs, workers)
        else:
            self._pool.close()
            self._pool = self._new_pool()
        self._use_shared_arrays()

    def _workers_for(self, num_envs: int) -> int:
        given = self._num_workers
        return default_workers(num_envs) if given is None else min(given, num_envs)

    def _new_pool(self) -> Pool:
        workers = self._workers_for(self.num_envs)
        if workers == 0:
            return LocalPool(self.distribution, self.num_envs)
        return WorkerPool(
            self.distribution,
            self.num_envs,
            workers,
            timeout=self._timeout,
            restarts=self._restarts,
        )

    def worker_pids(self) -> list[int]:
        """Return the process ids of the workers."""
        return self._pool.pids()

    def slots_for(self, lanes: int) -> slice | npt.NDArray[np.intp]:
        """Return equally many slots of every worker, those of one worker next to each other.

        Neighbouring rows often have the same kind of task; this way they share a process, and
        with it the simulators that the process keeps for that kind.
        """
        workers = np.arange(lanes) % max(1, len(self.worker_pids()))
        return np.argsort(workers, kind="stable")

    def _use_shared_arrays(self) -> None:
        """Read and write the pool's arrays from now on."""
        views, space = self._pool.views, self.single_observation_space
        views["observation"][:] = blank_observations(space, self.num_envs)
        self._observation, self._action = views["observation"], views["action"]
        self._reward, self._live = views["reward"], views["live"]
        self._terminated, self._truncated = views["terminated"], views["truncated"]
        self._info = {k: views[f"info.{k}"] for k in self._info_names}
        self._waiting = False

    def reset(
        self,
        *,
        seed: Seed = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Start episodes; the module's docstring says how."""
        request = self._checked_request(options)
        index = np.flatnonzero(request.mask)
        seeds = self._next_seeds(seed, index)
        tasks = dict(zip(request.slots, request.tasks, strict=True))
        self._has_task[request.slots] = True
        self._live[index] = False
        if index.size:
            starts = [
                Start(i, slot_seed % SEEDS, tasks.get(i))
                for i, slot_seed in zip(index.tolist(), seeds.tolist(), strict=True)
            ]
            self._pool.send(("reset", starts))
            self._pool.wait()
        self._mark_started(request.mask)
        return self._observation.copy(), {}

    def step_async(self, actions: Any) -> None:
        """Begin a step of every live slot; :meth:`step_wait` returns its results."""
        if self._waiting:
            raise RuntimeError("step_async was called twice without step_wait between")
        self._action[:] = self._checked_actions(actions)
        self._pool.send(("step", None))
        self._waiting = True

    def step_wait(self) -> Step:
        """Return the results of the step that :meth:`step_async` began."""
        if not self._waiting:
            raise RuntimeError("step_wait was called without step_async")
        self._waiting = False
        self._pool.wait()
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
        self._pool.close()


def default_workers(num_envs: int) -> int:
    """Return one worker per core, or none if there is only one core or one slot."""
    cores = len(usable_cores())
    return 0 if num_envs == 1 or cores == 1 else min(cores, num_envs)

"""Vector environments whose slots each hold a task.

Both kinds follow one contract, that of ``gymnasium.vector.VectorEnv`` with autoreset off:

- ``reset(seed=…, options={"tasks": […], "reset_mask": …})``: ``tasks`` has one entry a slot,
  None keeps the slot's task; without the key every slot keeps its own. Slots outside the
  mask return their last observation. ``options`` is never modified.
- ``step(actions)``: a slot that is finished or has no task ignores its action: last
  observation, reward 0, flags stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from metarl import seeding
from metarl.tasks import (
    Array,
    ArrayTaskDistribution,
    Noise,
    NoiseSpec,
    State,
    Task,
    TaskDistribution,
    require_task,
)


class _Request(NamedTuple):
    """What a call of ``reset`` asks for."""

    mask: npt.NDArray[np.bool_]
    slots: list[int]
    """The slots that get a new task."""
    tasks: list[Task]
    """Theirs, in the same order."""


class _SlotVectorEnv(VectorEnv[Any, Any, Any]):
    """Spaces, arguments and bookkeeping that both kinds share."""

    def __init__(self, tasks: TaskDistribution, num_envs: int) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self.distribution = tasks
        self.num_envs = num_envs
        self.single_observation_space = tasks.observation_space
        self.single_action_space = tasks.action_space
        self.observation_space = batch_space(tasks.observation_space, num_envs)
        self.action_space = batch_space(tasks.action_space, num_envs)
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        shape, dtype = tasks.observation_space.shape, tasks.observation_space.dtype
        self._observation = np.zeros((num_envs, *(shape or ())), dtype)
        self._has_task = np.zeros(num_envs, np.bool_)
        self._terminated = np.zeros(num_envs, np.bool_)
        self._truncated = np.zeros(num_envs, np.bool_)
        self._live = np.zeros(num_envs, np.bool_)

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

    def _seeds(
        self, seed: int | Sequence[int | None] | npt.NDArray[np.uint64] | None
    ) -> npt.NDArray[np.uint64] | list[int | None]:
        """Return one seed a slot; an integer ``s`` seeds slot ``i`` with ``s + i``."""
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"seed needs {self.num_envs} entries, got {len(seed)}")
        return seed if isinstance(seed, np.ndarray) else list(seed)

    def _start(self, mask: npt.NDArray[np.bool_]) -> None:
        self._terminated[mask] = self._truncated[mask] = False
        self._live |= mask


class TaskVectorEnv(_SlotVectorEnv):
    """Slots that are ordinary environments, stepped one after another in this process."""

    def __init__(self, tasks: TaskDistribution, num_envs: int) -> None:
        super().__init__(tasks, num_envs)
        self.envs = [tasks.make() for _ in range(num_envs)]

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | npt.NDArray[np.uint64] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Start episodes; see the module's contract."""
        request = self._parse(options)
        seeds = self._seeds(seed)
        tasks = dict(zip(request.slots, request.tasks, strict=True))
        self._has_task[request.slots] = True
        for i in np.flatnonzero(request.mask).tolist():
            slot_seed = seeds[i]
            self._observation[i], _ = self.envs[i].reset(
                seed=None if slot_seed is None else int(slot_seed),
                options={"task": tasks.pop(i)} if i in tasks else None,
            )
        self._start(request.mask)
        return self._observation.copy(), {}

    def step(
        self, actions: npt.NDArray[Any]
    ) -> tuple[
        npt.NDArray[Any],
        npt.NDArray[np.float64],
        npt.NDArray[np.bool_],
        npt.NDArray[np.bool_],
        dict[str, Any],
    ]:
        """Advance every live slot by one step."""
        reward = np.zeros(self.num_envs)
        info = {key: np.zeros(self.num_envs) for key in self.distribution.info_keys}
        for i in np.flatnonzero(self._live).tolist():
            (
                self._observation[i],
                reward[i],
                self._terminated[i],
                self._truncated[i],
                slot_info,
            ) = self.envs[i].step(actions[i])
            for key, values in info.items():
                values[i] = slot_info[key]
        self._live &= ~(self._terminated | self._truncated)
        return (
            self._observation.copy(),
            reward,
            self._terminated.copy(),
            self._truncated.copy(),
            info,
        )

    def close_extras(self, **kwargs: Any) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()


class ArrayVectorEnv(_SlotVectorEnv):
    """Slots of a family written as array functions, all stepped by a few NumPy calls.

    A slot's random numbers at a step depend on its seed and on the step alone.
    """

    distribution: ArrayTaskDistribution

    def __init__(self, tasks: ArrayTaskDistribution, num_envs: int) -> None:
        super().__init__(tasks, num_envs)
        self._params: dict[str, npt.NDArray[Any]] = {}
        self._state: State = {}
        self._seed = self.np_random.integers(2**63, size=num_envs, dtype=np.uint64)
        self._elapsed = np.zeros(num_envs, np.int64)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | npt.NDArray[np.uint64] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Start episodes; see the module's contract."""
        mask, slots, tasks = self._parse(options)
        if tasks:
            _write(self._params, np.array(slots), self.distribution.stack(tasks), self.num_envs)
            self._has_task[slots] = True
        index = np.flatnonzero(mask)
        if index.size:
            self._seed[index] = self._slot_seeds(seed, index)
            self._elapsed[index] = 0
            params = {name: values[index] for name, values in self._params.items()}
            noise = self._noise(index, self.distribution.initial_noise)
            state, observation = self.distribution.initial(params, noise)
            _write(self._state, index, state, self.num_envs)
            self._observation[index] = observation
            self._start(mask)
        return self._observation.copy(), {}

    def step(
        self, actions: npt.NDArray[Any]
    ) -> tuple[
        npt.NDArray[Any],
        npt.NDArray[np.float64],
        npt.NDArray[np.bool_],
        npt.NDArray[np.bool_],
        dict[str, Any],
    ]:
        """Advance every live slot by one step."""
        reward = np.zeros(self.num_envs)
        info = {key: np.zeros(self.num_envs) for key in self.distribution.info_keys}
        index = np.flatnonzero(self._live)
        if index.size:
            self._elapsed[index] += 1
            noise = self._noise(index, self.distribution.transition_noise)
            state = {name: values[index] for name, values in self._state.items()}
            result = self.distribution.transition(state, np.asarray(actions)[index], noise)
            _write(self._state, index, result.state, self.num_envs)
            self._observation[index] = result.observation
            reward[index] = result.reward
            terminated = np.asarray(result.terminated)
            self._terminated[index] = terminated
            self._truncated[index] = ~terminated & (
                self._elapsed[index] >= self.distribution.horizon
            )
            for key, values in info.items():
                values[index] = result.info[key]
            self._live = self._live & ~(self._terminated | self._truncated)
        return (
            self._observation.copy(),
            reward,
            self._terminated.copy(),
            self._truncated.copy(),
            info,
        )

    def _slot_seeds(
        self,
        seed: int | Sequence[int | None] | npt.NDArray[np.uint64] | None,
        index: npt.NDArray[np.intp],
    ) -> npt.NDArray[np.uint64]:
        seeds = self._seeds(seed)
        if isinstance(seeds, np.ndarray):
            return seeds[index].astype(np.uint64)
        fresh = seeding.fold(self._seed[index], 2**63)  # no episode is that long
        given = [seeds[i] for i in index.tolist()]
        return np.array(
            [f if s is None else s for f, s in zip(fresh, given, strict=True)], np.uint64
        )

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
        self._slot = ArrayVectorEnv(tasks, 1)
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
            {key: values[0] for key, values in info.items()},
        )

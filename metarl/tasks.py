"""Tasks, and the distributions they are sampled from.

Nothing in this module, nor in any that steps environments, imports torch: a worker process
that only steps environments should not pay for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias

import gymnasium as gym
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from metarl.vector import SlotVectorEnv

Split: TypeAlias = Literal["train", "test"]
"""Tasks to meta-train on, and held-out tasks to evaluate adaptation on."""

SPLITS: tuple[Split, ...] = ("train", "test")

SPLIT_NAMES = {"train": "training", "validation": "validation", "test": "held-out"}
"""What tables and pictures call the tasks of a split."""

Value: TypeAlias = "bool | int | float | str | tuple[Value, ...]"

# An environment or an array of any library: Gymnasium's own type parameters say nothing here.
Env: TypeAlias = "gym.Env[Any, Any]"
Array: TypeAlias = Any


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


class TaskDistribution(ABC):
    """Tasks with common spaces, and how they are sampled and turned into environments.

    A subclass sets the attributes below and writes :meth:`sample` and :meth:`make`.
    :func:`metarl.check_task_distribution` tells whether it keeps the contract.
    """

    name: str
    """The name that makes this distribution again: ``metarl.make(name)``."""
    observation_space: gym.Space[Any]
    """Of every task."""
    action_space: gym.Space[Any]
    """Of every task."""
    horizon: int
    """Steps after which an episode is truncated, if it has not ended before."""
    episodes_per_trial: int | None = None
    """Episodes an agent gets with one task, where the benchmark prescribes it."""
    info_keys: tuple[str, ...] = ()
    """Scalars that every step's ``info`` carries, such as ``"success"``."""
    success_key: str = "success"
    """Which of info_keys tells success; it is reported as `success` whatever its name."""
    shared_split: bool = False
    """True where train and test tasks are the same few: said wherever numbers are shown."""
    group: str | None = None
    """A parameter that tells kinds of tasks apart: evaluations show each kind for itself too."""
    max_slots: int = 400
    """Environments stepped at once where nobody says how many: less where one is large."""
    array_functions: ClassVar[bool] = False
    """True where the dynamics are array code: any number of slots costs little more than one."""

    @property
    def reported_keys(self) -> tuple[str, ...]:
        """The names under which ``info_keys`` are reported, in the same order."""
        return tuple("success" if key == self.success_key else key for key in self.info_keys)

    @abstractmethod
    def sample(self, rng: np.random.Generator, n: int, split: Split) -> list[Task]:
        """Draw ``n`` tasks of ``split``; the two splits never share a task."""

    @abstractmethod
    def make(self, task: Task | None = None) -> Env:
        """Make an environment that takes its task by ``reset(options={"task": task})``.

        Made with a task, it is an ordinary environment. It keeps its task over later resets
        and refuses to be reset before it has one.
        """

    def release(self, env: Env, task: Task) -> None:  # noqa: B027  # most share nothing
        """Let ``env`` hand back what ``task``, which it is about to get, has no use for.

        Slots that get tasks together are all asked before the first of them takes its own;
        a family whose environments share something costly overrides this.
        """

    def tasks(self, split: Split) -> list[Task]:
        """Return all tasks of ``split``, where the set is finite.

        Raises:
            NotImplementedError: where it is not.
        """
        raise NotImplementedError(f"{self.name} has infinitely many tasks: use sample()")

    def make_vec(self, num_envs: int, **options: Any) -> SlotVectorEnv:
        """Make ``num_envs`` slots, each of which holds one task at a time.

        Args:
            num_envs: how many.
            options: ``num_workers``, ``timeout``, ``restarts`` of
                :class:`metarl.vector.TaskVectorEnv`.
        """
        from metarl.vector import TaskVectorEnv

        return TaskVectorEnv(self, num_envs, **options)


def mark_split(drawn: npt.NDArray[np.int64], split: Split) -> npt.NDArray[np.int64]:
    """Write ``split`` into the last bit of drawn integers: the splits then never share one."""
    return (drawn & ~1) | (split == "test")


class TaskEnv(gym.Wrapper[Any, Any, Any, Any]):
    """An environment that takes its task the Gymnasium way and ends after ``horizon`` steps.

    A family subclasses it, writes :meth:`apply_task`, and changes :meth:`step` where a task
    changes the reward.
    """

    def __init__(self, env: Env, horizon: int, task: Task | None = None) -> None:
        super().__init__(env)
        self.horizon = horizon
        self.task: Task | None = None
        self._elapsed = 0
        if task is not None:
            self._take(task)

    @property
    def spec(self) -> None:  # type: ignore[override]  # never set
        """None: a task's environment is made by its distribution, not by ``gymnasium.make``."""
        return None

    def apply_task(self, task: Task) -> None:
        """Make the environment this task."""
        raise NotImplementedError

    def _take(self, task: Task) -> None:
        if not isinstance(task, Task):
            raise TypeError(f"options['task'] must be a metarl.Task, got {type(task).__name__}")
        self.apply_task(task)
        self.task = task

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode, of a new task if ``options`` has one."""
        if options and options.get("task") is not None:
            self._take(options["task"])
        require_task(self.task)
        self._elapsed = 0
        rest = {key: value for key, value in (options or {}).items() if key != "task"}
        return self.env.reset(seed=seed, options=rest or None)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance one step; ``truncated`` once the horizon is reached."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._elapsed += 1
        truncated = truncated or (self._elapsed >= self.horizon and not terminated)
        return observation, float(reward), terminated, truncated, info


def require_task(task: Task | None) -> None:
    """Refuse to go on without a task."""
    if task is None:
        raise ValueError(
            "this environment has no task yet: reset it with "
            "options={'task': task}, or make it with one: tasks.make(task)"
        )


class NoiseSpec(NamedTuple):
    """How many random numbers a slot needs at one reset or step."""

    uniform: int = 0
    normal: int = 0


class Noise(NamedTuple):
    """Random numbers handed to an array family's functions."""

    uniform: Array
    """``[slot, uniform]`` in (0, 1)."""
    normal: Array
    """``[slot, normal]``, standard normal."""


State: TypeAlias = dict[str, Array]
"""Arrays ``[slot, …]`` by name: all that the next step depends on, the task included."""


class Transition(NamedTuple):
    """What one step of an array family returns; every array starts with the slot axis."""

    state: State
    observation: Array
    reward: Array
    terminated: Array
    info: dict[str, Array]
    """One array for each of ``info_keys``."""


class ArrayTaskDistribution(TaskDistribution):
    """A family whose dynamics are two pure functions over arrays of any library.

    They use ``array_api_compat.array_namespace``, draw nothing themselves, and never write
    into their arguments.
    """

    array_functions = True
    max_slots = 5000
    initial_noise: NoiseSpec = NoiseSpec()
    transition_noise: NoiseSpec = NoiseSpec()

    @abstractmethod
    def initial(self, params: Mapping[str, Array], noise: Noise) -> tuple[State, Array]:
        """Return the state and observation that start an episode of the tasks ``params``."""

    @abstractmethod
    def transition(self, state: State, action: Array, noise: Noise) -> Transition:
        """Advance every slot by one step."""

    def stack(self, tasks: Sequence[Task]) -> dict[str, npt.NDArray[Any]]:
        """Return the tasks' parameters as arrays ``[task, …]``."""
        return {name: np.array([task[name] for task in tasks]) for name, _ in tasks[0].params}

    def make(self, task: Task | None = None) -> Env:
        """Make the one-slot case of :meth:`make_vec` as a single Gymnasium environment."""
        from metarl.vector import ArrayEnv

        return ArrayEnv(self, task)

    def make_vec(self, num_envs: int, **options: Any) -> SlotVectorEnv:
        """Make ``num_envs`` slots that are stepped together as arrays.

        ``options`` are those of worker processes, of which this needs none.
        """
        from metarl.vector import ArrayVectorEnv

        return ArrayVectorEnv(self, num_envs)

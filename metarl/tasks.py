"""Tasks, and the distributions they are sampled from.

Nothing in this module, nor in any that steps environments, imports torch: a worker process
that only steps environments should not pay for it.
"""

from __future__ import annotations

import contextlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from metarl.errors import UserError

if TYPE_CHECKING:
    from metarl.vector import SlotVectorEnv

Split: TypeAlias = Literal["train", "validation", "test"]
"""Tasks to meta-train on; tasks that choose checkpoints and settings; and held-out tasks, which
are looked at once, when everything is chosen."""

SPLITS: tuple[Split, ...] = ("train", "validation", "test")

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
    """Finite numbers that every step's ``info`` carries, such as ``"success"``."""
    success_key: str = "success"
    """Which of info_keys tells success; it is reported as ``success`` whatever its name."""
    shared_split: bool = False
    """True where all splits are the same few tasks: said wherever numbers are shown."""
    shared_validation: bool = False
    """True where validation tasks are among the training tasks because there are too few to hold
    some out; test tasks are still others."""
    group: str | None = None
    """A parameter that tells kinds of tasks apart: evaluations show each kind for itself too."""
    max_slots: int = 400
    """Environments stepped at once where nobody says how many: less where one is large."""
    array_functions: ClassVar[bool] = False
    """True where the dynamics are array code: any number of slots costs little more than one."""

    @property
    def reported_keys(self) -> tuple[str, ...]:
        """The names under which slots report ``info_keys``, in the same order.

        Raises:
            UserError: where ``success_key`` has no effect, or another key is named ``success``.
        """
        if self.success_key == "success":
            return tuple(self.info_keys)
        if self.success_key not in self.info_keys:
            raise UserError(
                f"{self.name} success_key: got {self.success_key!r}; accepted: one of info_keys, "
                f"{list(self.info_keys)}"
            )
        if "success" in self.info_keys:
            raise UserError(
                f"{self.name} info_keys: got 'success' beside {self.success_key!r}, which "
                "success_key reports under that name; accepted: one of the two"
            )
        return tuple("success" if key == self.success_key else key for key in self.info_keys)

    @abstractmethod
    def sample(self, rng: np.random.Generator, n: int, split: Split) -> list[Task]:
        """Draw ``n`` tasks of ``split``; no two splits share a task."""

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

    def ends(self) -> dict[str, tuple[Task, Task]]:
        """Return two tasks for every parameter that varies, which are far apart in it.

        :func:`metarl.check_task_distribution` compares them: a parameter that changes nothing
        is named. By default they are the extremes of some training tasks, which may differ in
        other parameters too; a family whose parameters are independent can vary one at a time.
        """
        drawn = self.sample(np.random.default_rng(0), 64, "train")
        found = {}
        for name, _ in drawn[0].params:
            ordered = sorted(drawn, key=lambda task: str(task[name]))
            with contextlib.suppress(TypeError):  # values of several kinds have no order
                ordered = sorted(drawn, key=lambda task: task[name])
            if ordered[0][name] != ordered[-1][name]:
                found[name] = (ordered[0], ordered[-1])
        return found

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
    """Write ``split`` into the last bits of drawn integers: no two splits then share one.

    A training number ends in 0, a validation number in 01 and a test number in 11.
    """
    if split == "train":
        return drawn & ~1
    return (drawn & ~3) | {"validation": 1, "test": 3}[split]


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
        if type(terminated) is not bool or type(truncated) is not bool:
            terminated = one_flag(terminated, "terminated")
            truncated = one_flag(truncated, "truncated")
        if self._elapsed >= self.horizon and not terminated:
            truncated = True
        return observation, one_number(reward, "reward"), terminated, truncated, info


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


def described(error: BaseException) -> str:
    """Return an exception's type and message."""
    message = str(error)
    return type(error).__name__ + (f": {message}" if message else "")


def time_limit(env: Env) -> int | None:
    """Return the steps after which an episode of ``env`` ends at the latest, None if unknown.

    The smallest limit among its wrappers counts; without one, that of the specification that
    ``gymnasium.make`` leaves, or an attribute ``horizon`` of the innermost environment.
    """
    limits: list[int] = []
    layer: Any = env
    while isinstance(layer, gym.Wrapper):
        if isinstance(layer, gym.wrappers.TimeLimit):
            limits.append(layer._max_episode_steps)
        elif isinstance(layer, TaskEnv):
            limits.append(layer.horizon)
        layer = layer.env
    if not limits:
        own = (getattr(layer.spec, "max_episode_steps", None), getattr(layer, "horizon", None))
        limits = [limit for limit in own if isinstance(limit, int) and limit > 0][:1]
    return min((limit for limit in limits if limit > 0), default=None)


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

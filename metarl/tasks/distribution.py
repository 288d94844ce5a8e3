"""Task distributions, and environments that take their task on reset."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from metarl.errors import bad_option
from metarl.stepping.slots import one_flag, one_number, reported_keys
from metarl.stepping.vector import SlotVectorEnv, TaskVectorEnv
from metarl.task import Env, Split, Task, require_task


class TaskDistribution(ABC):
    """Tasks with common spaces, and the functions that sample them and make their environments.

    A subclass sets the attributes below and writes :meth:`sample` and :meth:`make`.
    :func:`metarl.check_task_distribution` checks that it keeps the contract.

    >>> from metarl.task import draw_unit  # numbers that no other split draws
    >>> class PoleEnv(metarl.TaskEnv):
    ...     def apply_task(self, task):
    ...         self.unwrapped.length = task["length"]
    >>> class Poles(metarl.TaskDistribution):
    ...     name, horizon = "poles", 200
    ...     def __init__(self):
    ...         env = gym.make("CartPole-v1")
    ...         self.observation_space = env.observation_space
    ...         self.action_space = env.action_space
    ...     def sample(self, rng, n, split):
    ...         lengths = 0.5 + draw_unit(rng, (n,), split)
    ...         return [metarl.Task.of(self.name, length=length) for length in lengths]
    ...     def make(self, task=None):
    ...         return PoleEnv(gym.make("CartPole-v1").unwrapped, self.horizon, task)
    >>> tasks = Poles()
    >>> [task] = tasks.sample(np.random.default_rng(0), 1, "train")
    >>> tasks.make(task).unwrapped.length == task["length"]
    True
    """

    name: str
    """Name that makes this distribution again: ``metarl.make(name)``."""
    observation_space: gym.Space[Any]
    """Observation space of every task."""
    action_space: gym.Space[Any]
    """Action space of every task."""
    horizon: int
    """Number of steps after which an episode is truncated, unless it has ended before."""
    episodes_per_trial: int | None = None
    """Number of episodes an agent gets with one task, if the benchmark prescribes it."""
    info_keys: tuple[str, ...] = ()
    """Names of finite numbers that every step's ``info`` holds, such as ``"success"``."""
    success_key: str = "success"
    """The entry of ``info_keys`` that tells success; slots report it as ``success``."""
    shared_split: bool = False
    """True if all splits share the same few tasks; every table of results then says so."""
    shared_validation: bool = False
    """True if validation tasks are training tasks, because there are too few to hold some out;
    test tasks are still others."""
    group: str | None = None
    """Name of a parameter that divides tasks into kinds; evaluations also show each kind alone."""
    drawn_set: bool = False
    """True if the finite set of tasks was itself drawn from a larger distribution, as 50 goals of
    each class; otherwise it holds all tasks that there are. Intervals then count tasks as a sample
    and kinds (``group``) as fixed."""
    max_slots: int = 400
    """Default number of environments stepped at once; large environments need a smaller one."""
    array_functions: ClassVar[bool] = False
    """True if the dynamics are array code, so that many slots cost little more than one."""

    @property
    def reported_keys(self) -> tuple[str, ...]:
        """The names under which slots report ``info_keys``, in the same order.

        Raises:
            UserError: if ``success_key`` has no effect, or another key is named ``success``.
        """
        return reported_keys(self)

    @abstractmethod
    def sample(self, rng: np.random.Generator, n: int, split: Split) -> list[Task]:
        """Draw ``n`` tasks of ``split``; no two splits share a task."""

    @abstractmethod
    def make(self, task: Task | None = None) -> Env:
        """Make an environment that takes its task by ``reset(options={"task": task})``.

        An environment made with a task is an ordinary one. It keeps its task over later resets,
        and refuses to be reset before it has one.
        """

    def release(self, env: Env, task: Task) -> None:  # noqa: B027  # most share nothing
        """Free resources that ``env`` holds and its next ``task`` does not need.

        It is called for all slots before any of them receives its new task. A family whose
        environments share something costly overrides it.
        """

    def tasks(self, split: Split) -> list[Task]:
        """Return all tasks of ``split``, if the set is finite.

        Raises:
            NotImplementedError: if it is infinite.
        """
        raise NotImplementedError(f"{self.name} has infinitely many tasks: use sample()")

    def more_tasks(self, split: Split, n: int) -> list[Task]:
        """Return ``n`` tasks: those of :meth:`tasks`, then further ones, drawn in the same way.

        An evaluation of more tasks than a drawn set (``drawn_set``) has meets these.

        Raises:
            NotImplementedError: if there are no further ones; tasks are then met repeatedly.
        """
        raise NotImplementedError(f"{self.name} has no tasks beside those of tasks()")

    def ends(self) -> dict[str, tuple[Task, Task]]:
        """Return, for every parameter that varies, two tasks that are far apart in it.

        :func:`metarl.check_task_distribution` compares the two to find parameters without
        effect. By default they are the extremes of 64 training tasks and may differ in other
        parameters too; a family with independent parameters can vary one at a time.
        """
        drawn = self.sample(np.random.default_rng(0), 64, "train")
        found = {}
        for name, _ in drawn[0].params:
            ordered = sorted(drawn, key=lambda task: str(task[name]))
            with contextlib.suppress(TypeError):  # Values of several types have no order.
                ordered = sorted(drawn, key=lambda task: task[name])
            if ordered[0][name] != ordered[-1][name]:
                found[name] = (ordered[0], ordered[-1])
        return found

    def make_vec(self, num_envs: int, **options: Any) -> SlotVectorEnv:
        """Make ``num_envs`` slots, each of which holds one task at a time.

        Args:
            num_envs: number of slots.
            options: ``num_workers``, ``timeout`` and ``restarts`` of
                :class:`metarl.stepping.vector.TaskVectorEnv`.
        """
        return TaskVectorEnv(self, num_envs, **options)


class TaskEnv(gym.Wrapper[Any, Any, Any, Any]):
    """An environment that takes its task by ``reset`` and truncates after ``horizon`` steps.

    A family subclasses it, writes :meth:`apply_task`, and overrides :meth:`step` if a task
    changes the reward.

    >>> class PoleEnv(metarl.TaskEnv):
    ...     def apply_task(self, task):
    ...         self.unwrapped.length = task["length"]
    >>> env = PoleEnv(gym.make("CartPole-v1").unwrapped, horizon=200)
    >>> task = metarl.Task.of("poles", length=0.7)
    >>> observation, info = env.reset(seed=0, options={"task": task})
    >>> env.task["length"], env.unwrapped.length
    (0.7, 0.7)
    """

    fresh = False
    """Whether every episode begins with a new environment, which :meth:`apply_task` makes."""

    def __init__(self, env: Env, horizon: int, task: Task | None = None) -> None:
        super().__init__(env)
        self.horizon = horizon
        self.task: Task | None = None
        self._elapsed, self._used = 0, False
        if task is not None:
            self._take(task)

    @property
    def spec(self) -> None:  # type: ignore[override]  # never set
        """None: a task's environment is made by its distribution, not by ``gymnasium.make``."""
        return None

    @property
    def stale(self) -> bool:
        """Whether the environment has been used and must not be used again."""
        return self.fresh and self._used

    def apply_task(self, task: Task) -> None:
        """Change the environment into that of ``task``; make a new one if it is ``stale``."""
        raise NotImplementedError

    def _take(self, task: Task) -> None:
        if not isinstance(task, Task):
            raise TypeError(f"options['task'] must be a metarl.Task, got {type(task).__name__}")
        self.apply_task(task)
        self.task = task

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode, with a new task if ``options`` holds one."""
        task = (options or {}).get("task")
        if task is None and self.stale:
            task = self.task
        if task is not None:
            self._take(task)
        require_task(self.task)
        self._elapsed, self._used = 0, True
        rest = {key: value for key, value in (options or {}).items() if key != "task"}
        return self.env.reset(seed=seed, options=rest or None)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance one step; the episode is truncated when it reaches the horizon."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._elapsed += 1
        if type(terminated) is not bool or type(truncated) is not bool:
            terminated = one_flag(terminated, "terminated")
            truncated = one_flag(truncated, "truncated")
        if self._elapsed >= self.horizon and not terminated:
            truncated = True
        if type(reward) is not float:
            reward = one_number(reward, "reward")
        return observation, reward, terminated, truncated, info


def time_limit(env: Env) -> int | None:
    """Return the largest number of steps of an episode of ``env``, or None if it is unknown.

    It is the smallest limit among the wrappers of ``env``. Without one it is the limit of the
    specification that ``gymnasium.make`` sets, or the innermost environment's ``horizon``.
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


def name_with_options(name: str, **options: tuple[object, object]) -> str:
    """Return a family's name, followed by the options that differ from their defaults.

    Args:
        name: the family's name, perhaps with options already.
        options: each option's value and default.

    >>> name_with_options("navigation", squared=(True, False), horizon=(100, 100))
    'navigation:squared=true'
    """
    changed = {key: value for key, (value, default) in options.items() if value != default}
    if not changed:
        return name
    texts = {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in changed.items()}
    return f"{name}{',' if ':' in name else ':'}" + ",".join(f"{k}={v}" for k, v in texts.items())


def require_horizon(name: str, horizon: int, least: int = 2) -> None:
    """Refuse a horizon that is too short for the family ``name``."""
    if horizon < least:
        raise bad_option(f"{name} horizon", horizon, f"at least {least} step{'s' * (least > 1)}")

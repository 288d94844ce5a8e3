"""Where tasks come from: distributions, and environments that take their task on reset."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from metarl.stepping.slots import one_flag, one_number, reported_keys
from metarl.stepping.vector import SlotVectorEnv, TaskVectorEnv
from metarl.task import Env, Split, Task, require_task


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
        return reported_keys(self)

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
        return TaskVectorEnv(self, num_envs, **options)


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

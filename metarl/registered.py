"""Families of tasks as environments of Gymnasium's registry, for other libraries.

>>> import gymnasium
>>> import metarl.envs
>>> env = gymnasium.make("metarl/Navigation-v0", horizon=50)
>>> observation, info = env.reset(seed=0)
>>> info["task"]["goal"]
(0.1369616873198538, -0.2302132862369035)
"""

from __future__ import annotations

from typing import Any, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from metarl import registry
from metarl.errors import bad_option
from metarl.stepping.vector import Seed, SlotVectorEnv, Step
from metarl.stepping.wrapped import WrappedVectorEnv
from metarl.task import SPLITS, Env, Split, Task
from metarl.tasks.distribution import TaskDistribution


class RegisteredEnv(gym.Env[Any, Any]):
    """An environment that draws a task when an episode begins, or takes the one it is given.

    ``reset(options={"task": task})`` sets a task, which stays until the next one is drawn; the
    ``info`` of a reset has the present one as ``task``.

    Args:
        tasks: where tasks come from.
        split: the split that they are drawn from.
        episodes_per_task: the number of episodes after which another one is drawn.
        render_mode: how the environment is drawn.

    Raises:
        UserError: if the environment has no such render mode.
    """

    def __init__(
        self,
        tasks: TaskDistribution,
        split: Split = "train",
        episodes_per_task: int = 1,
        render_mode: str | None = None,
    ) -> None:
        if split not in SPLITS:
            raise bad_option("split", split, ", ".join(SPLITS))
        if episodes_per_task < 1:
            raise bad_option("episodes_per_task", episodes_per_task, "1 or more")
        self.tasks, self.split, self._episodes_per_task = tasks, split, episodes_per_task
        self._left = 0
        self.env: Env = tasks.make()
        """The environment that takes tasks."""
        self.observation_space = self.env.observation_space
        self.action_space = self.env.action_space
        base = self.env.unwrapped
        self.metadata = dict(base.metadata)
        modes = self.metadata.get("render_modes") or []
        if render_mode is not None and render_mode not in modes:
            accepted = ", ".join(map(str, modes)) or "None: it has no pictures"
            raise bad_option("render_mode", render_mode, accepted)
        self.render_mode = base.render_mode = render_mode
        self.task: Task | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; with a seed, the task that is drawn depends on it alone."""
        super().reset(seed=seed)
        given = dict(options or {})
        if given.get("task") is None and (self._left == 0 or seed is not None):
            (given["task"],) = self.tasks.sample(self.np_random, 1, self.split)
        if given.get("task") is not None:
            self.task, self._left = given["task"], self._episodes_per_task
        else:
            given.pop("task", None)
        self._left -= 1
        observation, info = self.env.reset(seed=seed, options=given or None)
        return observation, {**info, "task": self.task}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance one step."""
        return cast(tuple[Any, float, bool, bool, dict[str, Any]], self.env.step(action))

    def render(self) -> Any:
        """Return what the environment's render mode draws."""
        return self.env.render()

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


class DrawingVectorEnv(WrappedVectorEnv):
    """Slots that draw a task when an episode begins, unless they are given one.

    Args:
        envs: the slots, which are closed with this environment.
        split: the split that tasks are drawn from.
    """

    def __init__(self, envs: SlotVectorEnv, split: Split = "train") -> None:
        super().__init__(envs)
        self._split = split
        self.spec = None

    def reset(
        self, *, seed: Seed = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Start episodes; with a seed, the tasks that are drawn depend on it alone.

        ``options["tasks"]`` gives tasks, one entry per slot, where None draws none. The ``info``
        has the tasks that were drawn as ``tasks``, with None for the slots that did not begin.
        """
        if isinstance(seed, int | np.integer):
            self._np_random, self._np_random_seed = gym.utils.seeding.np_random(int(seed))
        options, drawn = dict(options or {}), None
        if not options.get("tasks"):
            index = np.flatnonzero(self._started_by(options))
            tasks = self.distribution.sample(self.np_random, len(index), self._split)  # type: ignore[attr-defined]  # a TaskDistribution
            drawn = dict(zip(index.tolist(), tasks, strict=True))
            options["tasks"] = [drawn.get(i) for i in range(self.num_envs)]
        observation, info = self._envs.reset(seed=cast(Any, seed), options=options)
        if drawn is not None:
            info = {**info, "tasks": options["tasks"]}
        return observation, info

    def step_async(self, actions: Any) -> None:
        """Begin a step of every live slot."""
        self._envs.step_async(actions)

    def step_wait(self) -> Step:
        """Return the results of the step."""
        return self._envs.step_wait()

    def close_extras(self, **kwargs: Any) -> None:
        """Close every environment and end the workers."""
        self._envs.close()


def make_env(
    family: str,
    *,
    split: Split = "train",
    episodes_per_task: int = 1,
    render_mode: str | None = None,
    **options: Any,
) -> RegisteredEnv:
    """Make an environment of a family; ``options`` are the family's."""
    return RegisteredEnv(registry.make(family, **options), split, episodes_per_task, render_mode)


def make_vector_env(
    family: str,
    *,
    num_envs: int,
    split: Split = "train",
    num_workers: int | None = None,
    **options: Any,
) -> DrawingVectorEnv:
    """Make a vector environment of a family on worker processes; ``options`` are the family's."""
    if split not in SPLITS:
        raise bad_option("split", split, ", ".join(SPLITS))
    tasks = registry.make(family, **options)
    return DrawingVectorEnv(tasks.make_vec(num_envs, num_workers=num_workers), split)

"""A task distribution as a vector environment of Stable-Baselines3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from metarl import seeding
from metarl.errors import UserError, bad_option, require_seed
from metarl.seeding import Component, Phase
from metarl.stepping.actions import one_line
from metarl.stepping.options import Workers
from metarl.stepping.slots import close_quietly
from metarl.task import Split, Task, numbers_of
from metarl.tasks.distribution import TaskDistribution


def vec_env(
    tasks: TaskDistribution,
    num_envs: int,
    split: Split = "train",
    *,
    episodes_per_task: int = 1,
    observe_task: bool = False,
    seed: int = 0,
    workers: Workers | None = None,
) -> TaskVecEnv:
    """Return a task distribution as a vector environment of Stable-Baselines3.

    Every environment meets a task of its own and gets another one after ``episodes_per_task``
    episodes, so that any algorithm of Stable-Baselines3 or sb3-contrib trains on the distribution.
    Array families are stepped by NumPy, all others in worker processes.

    Args:
        tasks: the task distribution.
        num_envs: the number of environments that are stepped together.
        split: the split that tasks are drawn from.
        episodes_per_task: the number of episodes that an environment has with each task.
        observe_task: whether observations end with the numbers of the task's parameters, as an
            agent that is told its tasks sees them.
        seed: the seed of tasks and episodes; ``seed(…)``, which algorithms of Stable-Baselines3
            call if they have a seed of their own, replaces it at the next reset.
        workers: how environments are stepped.

    Raises:
        UserError: if an argument is out of range, or if tasks that are to be observed have
            parameters that are no numbers.

    >>> from stable_baselines3 import PPO
    >>> envs = metarl.sb3.vec_env(metarl.make("navigation"), 10)
    >>> model = PPO("MlpPolicy", envs, n_steps=20, batch_size=200, device="cpu")
    >>> model.learn(200).num_timesteps
    200
    """
    if num_envs < 1:
        raise bad_option("num_envs", num_envs, "at least 1")
    if episodes_per_task < 1:
        raise bad_option("episodes_per_task", episodes_per_task, "at least 1")
    require_seed("seed", seed)
    return TaskVecEnv(tasks, num_envs, split, episodes_per_task, observe_task, seed, workers)


class TaskVecEnv(VecEnv):
    """Environments of a task distribution, as algorithms of Stable-Baselines3 step them.

    ``infos[i]`` holds, at the end of an episode, ``terminal_observation``,
    ``TimeLimit.truncated`` and the ``task`` that the episode was of; the numbers that the
    distribution reports (``info_keys``) are there at every step, success as ``is_success``.
    ``get_attr("task")`` returns the tasks that the environments have at present.

    >>> envs = metarl.sb3.vec_env(metarl.make("bandit/n10-k5"), 2, "test")
    >>> observations = envs.reset()
    >>> tasks = envs.get_attr("task")
    >>> observations, rewards, dones, infos = envs.step(np.zeros(2, np.int64))
    >>> dones.tolist(), [info["task"] for info in infos] == tasks
    ([True, True], True)
    >>> envs.close()
    """

    def __init__(
        self,
        tasks: TaskDistribution,
        num_envs: int,
        split: Split,
        episodes_per_task: int,
        observe_task: bool,
        seed: int,
        workers: Workers | None,
    ) -> None:
        if isinstance(tasks.action_space, gym.spaces.Dict | gym.spaces.Tuple):
            got = one_line(tasks.action_space)
            accepted = "by Stable-Baselines3: no Dict or Tuple"
            raise UserError(f"{tasks.name}: got actions of {got}; accepted {accepted}")
        self.distribution, self.split = tasks, split
        self._episodes_per_task, self._observe_task = episodes_per_task, observe_task
        self._seed, self._draws, self._new_seed = seed, 0, True
        self.tasks: list[Task] = []
        """The tasks that the environments have at present."""
        self._left = np.zeros(num_envs, np.int64)
        """The number of episodes that follow with each present task."""
        self._told = np.zeros((num_envs, 0), np.float32)
        first = tasks.sample(np.random.default_rng(0), 1, split)
        told = numbers_of(first) if observe_task else np.zeros((1, 0), np.float32)
        self._envs = (workers or Workers()).make_vec(tasks, num_envs)
        space = self._envs.single_observation_space
        if observe_task:
            space = _with_task(space, told.shape[1])
        actions = self._envs.single_action_space
        self._first_action: Any = 0
        if isinstance(actions, gym.spaces.Discrete):  # Stable-Baselines3 counts from 0.
            self._first_action, actions = int(actions.start), gym.spaces.Discrete(int(actions.n))
        elif isinstance(actions, gym.spaces.MultiDiscrete):
            self._first_action, actions = actions.start, gym.spaces.MultiDiscrete(actions.nvec)
        super().__init__(num_envs, space, actions)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Set the seed of tasks and episodes from the next reset on."""
        if seed is not None:
            self._seed, self._draws, self._new_seed = int(seed), 0, True
        return [self._seed] * self.num_envs

    def reset(self) -> npt.NDArray[Any]:
        """Give every environment a new task, start an episode in each, and return observations."""
        everyone = np.ones(self.num_envs, np.bool_)
        self._left[:] = 0
        keys: Any = None
        if self._new_seed:
            key = seeding.derive(self._seed, Phase.USE, Component.ENVIRONMENT)
            keys, self._new_seed = seeding.fold(key, np.arange(self.num_envs)), False
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return self._start(everyone, keys)

    def step_async(self, actions: Any) -> None:
        """Begin a step of every environment."""
        if isinstance(self.action_space, gym.spaces.Discrete):
            actions = np.asarray(actions).reshape(self.num_envs)
        actions = np.asarray(actions) + self._first_action
        self._envs.step_async(np.asarray(actions, self.action_space.dtype))

    def step_wait(self) -> VecEnvStepReturn:
        """Return the step's observations, rewards, ends and infos; ended episodes start again."""
        observation, reward, terminated, truncated, reported = self._envs.step_wait()
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for key, values in reported.items():
            name = "is_success" if key == "success" else key
            for info, value in zip(infos, values.tolist(), strict=True):
                info[name] = value
        ended = terminated | truncated
        told = self._tell(observation)
        if ended.any():
            for i in np.flatnonzero(ended).tolist():
                infos[i]["terminal_observation"] = told[i]
                infos[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
                infos[i]["task"] = self.tasks[i]
            told = self._start(ended, None)
        return told, reward.astype(np.float32), ended, infos

    def close(self) -> None:
        """End the worker processes."""
        close_quietly(self._envs)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return ``task`` or ``render_mode`` of the environments, which have no other attributes.

        The environments live in worker processes or are rows of arrays.
        """
        chosen = list(self._get_indices(indices))
        if attr_name == "task":
            return [self.tasks[i] if self.tasks else None for i in chosen]
        if attr_name == "render_mode":
            return [None] * len(chosen)
        raise AttributeError(f"environments of a task distribution have no {attr_name!r}")

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refuse to set an attribute: nothing of an environment but its task can change."""
        raise AttributeError(f"environments of a task distribution have no {attr_name!r}")

    def env_method(
        self, method_name: str, *args: Any, indices: VecEnvIndices = None, **options: Any
    ) -> list[Any]:
        """Refuse to call a method: the environments cannot be reached from here."""
        raise AttributeError(f"environments of a task distribution have no {method_name!r}")

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Return that no environment is wrapped."""
        return [False for _ in self._get_indices(indices)]

    def _start(self, mask: npt.NDArray[np.bool_], seeds: Any) -> npt.NDArray[Any]:
        """Start episodes where ``mask`` is true, with new tasks where the old ones are used up."""
        renewed = np.flatnonzero(mask & (self._left == 0)).tolist()
        entries: list[Task | None] = [None] * self.num_envs
        if renewed:
            key = (Phase.USE, Component.TASKS, self._draws)
            drawn = self.distribution.sample(
                seeding.numpy_generator(self._seed, *key), len(renewed), self.split
            )
            self._draws += 1
            self.tasks = self.tasks or list(drawn)
            for i, task in zip(renewed, drawn, strict=True):
                entries[i] = self.tasks[i] = task
            self._left[renewed] = self._episodes_per_task
            if self._observe_task:
                numbers = numbers_of(drawn)
                if not self._told.size:
                    self._told = np.zeros((self.num_envs, numbers.shape[1]), np.float32)
                self._told[renewed] = numbers
        self._left[mask] -= 1
        options = {"tasks": entries, "reset_mask": mask}
        observation, _ = self._envs.reset(seed=seeds, options=options)
        return self._tell(observation)

    def _tell(self, observation: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Append the numbers of the tasks to observations, if they are to be observed."""
        if not self._observe_task:
            return observation
        flat = observation.reshape(self.num_envs, -1).astype(np.float32)
        return np.concatenate([flat, self._told], 1)


def _with_task(space: gym.Space[Any], size: int) -> gym.spaces.Box:
    """Return the space of observations that end with the numbers of a task."""
    if not isinstance(space, gym.spaces.Box):
        raise bad_option("observe_task", True, f"observations in a Box, got {space}")
    bounds = np.full(size, np.inf)
    low, high = space.low.reshape(-1), space.high.reshape(-1)
    return gym.spaces.Box(
        np.concatenate([low, -bounds]).astype(np.float32),
        np.concatenate([high, bounds]).astype(np.float32),
    )

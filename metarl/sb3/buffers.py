"""Advantages over a fitted baseline in Stable-Baselines3's PPO, for agents without a critic."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.preprocessing import preprocess_obs
from torch import Tensor

from metarl.errors import bad_option
from metarl.learning.returns import advantages, linear_values


class LinearBaselineBuffer(RolloutBuffer):
    """A rollout whose advantages are over a linear function fitted to the rollout itself.

    A critic that knows nothing of a task yet says little within a few episodes; maml-ppo has
    none, and fits :func:`metarl.learning.returns.linear_values` to every round instead. With this
    class as ``rollout_buffer_class``, PPO does the same, and ``vf_coef=0`` leaves the critic
    alone. Every episode counts as over at the end of the rollout and where it was truncated, so
    that a rollout should consist of whole episodes (``n_steps`` a multiple of their length).

    >>> tasks = metarl.make("navigation")
    >>> [task] = tasks.sample(np.random.default_rng(0), 1, "test")
    >>> own = {"rollout_buffer_class": metarl.sb3.LinearBaselineBuffer, "vf_coef": 0.0}
    >>> steps = {"n_steps": 200, "batch_size": 200}
    >>> model = metarl.sb3.export("runs/goals", tasks.make(task), **steps, **own)
    >>> model.learn(200).num_timesteps  # two episodes of 100 steps
    200
    """

    def __init__(
        self, buffer_size: int, observation_space: gym.Space[Any], *rest: Any, **options: Any
    ) -> None:
        if isinstance(observation_space, gym.spaces.Dict):
            raise bad_option(
                "rollout_buffer_class", type(self).__name__, "another, for Dict observations"
            )
        super().__init__(buffer_size, observation_space, *rest, **options)

    def compute_returns_and_advantage(
        self, last_values: Tensor, dones: npt.NDArray[np.bool_]
    ) -> None:
        """Fit the baseline to the rollout's episodes and compute GAE(lambda) over it."""
        steps, envs = self.rewards.shape
        starts = self.episode_starts.astype(bool)
        starts[0] = True
        episode = starts.cumsum(0) - 1 + np.arange(envs) * starts.sum(0).max()
        time = np.arange(steps)[:, None] - np.maximum.accumulate(
            np.where(starts, np.arange(steps)[:, None], 0)
        )
        place = torch.from_numpy(episode), torch.from_numpy(time)
        shape = int(episode.max()) + 1, int(time.max()) + 1

        def lay_out(x: Tensor) -> Tensor:
            """Return ``[step, env, …]`` as ``[task, episode, time, …]`` of one task."""
            result = x.new_zeros((*shape, *x.shape[2:]))
            result[place] = x
            return result.unsqueeze(0)

        observations = torch.from_numpy(self.observations).flatten(0, 1)
        flat = preprocess_obs(observations, self.observation_space, normalize_images=False)
        assert isinstance(flat, Tensor)  # A Dict was refused.
        observation = lay_out(flat.reshape(steps, envs, -1))
        reward = lay_out(torch.from_numpy(self.rewards))
        valid = lay_out(torch.ones(steps, envs, dtype=torch.bool))
        value = linear_values(observation, reward, valid, self.gamma)
        advantage = advantages(reward, value, valid, self.gamma, self.gae_lambda)
        self.values, self.advantages = (x[0][place].numpy() for x in (value, advantage))
        self.returns = self.advantages + self.values

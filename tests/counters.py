"""Toy task distributions that are small enough to predict by hand.

This module loads no torch, so that worker processes start fast.
"""

import gymnasium as gym
import numpy as np

from metarl.task import Task
from metarl.tasks.arrays import ArrayTaskDistribution, NoiseSpec
from metarl.tasks.arrays import Transition as ArrayTransition
from metarl.tasks.distribution import TaskDistribution, TaskEnv

LOW, HIGH = np.array([-1.0, 0.0], np.float32), np.array([1.0, 4.0], np.float32)
OBSERVATIONS = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)


def counter_task(length, spread=0):
    return Task.of("counter", length=length, spread=spread)


class _Counter(gym.Env):
    """Reward of step t is t (from 1); observation is (t, noise of the reset, action)."""

    observation_space = OBSERVATIONS
    action_space = gym.spaces.Box(LOW, HIGH)
    length = spread = 0
    noise_scale = 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.noise = 0, self.np_random.random() * self.noise_scale
        self.end = self.length + int(self.noise * (self.spread + 1))
        return np.array([0, self.noise, 0, 0], np.float32), {}

    def step(self, action):
        self.t += 1
        observation = np.array([self.t, self.noise, *action], np.float32)
        ended = self.t >= self.end
        return observation, self.t, ended, False, {"success": float(ended), "clock": self.t}


class _CounterTaskEnv(TaskEnv):
    def apply_task(self, task):
        self.unwrapped.length, self.unwrapped.spread = task["length"], task["spread"]


class CounterTasks(TaskDistribution):
    """Episodes end after length to length + spread steps, or are truncated at the horizon."""

    name = "counter"
    observation_space = OBSERVATIONS
    action_space = gym.spaces.Box(LOW, HIGH)
    info_keys = ("success", "clock")
    env_class = _CounterTaskEnv

    def __init__(self, horizon=6):
        self.horizon = horizon

    def sample(self, rng, n, split):
        """Lengths are 2 or 4 for training, 3 or 5 for testing, 6 or 8 for validation."""
        lengths = 2 * rng.integers(1, 3, n) + {"train": 0, "test": 1, "validation": 4}[split]
        return [counter_task(int(length), 2) for length in lengths]

    def make(self, task=None):
        return self.env_class(_Counter(), self.horizon, task)

    def make_vec(self, num_envs, **options):
        return super().make_vec(num_envs, **{"num_workers": 0} | options)


class ArrayCounterTasks(ArrayTaskDistribution):
    """The same as array code."""

    name = "counter"
    observation_space = OBSERVATIONS
    action_space = gym.spaces.Box(LOW, HIGH)
    info_keys = ("success", "clock")
    initial_noise = NoiseSpec(uniform=1)
    sample = CounterTasks.sample

    def __init__(self, horizon=6):
        self.horizon = horizon

    def initial(self, params, noise):
        u = noise.uniform[:, 0]
        end = params["length"] + np.floor(u * (params["spread"] + 1))
        zero = np.zeros_like(u)
        return {"t": zero, "u": u, "end": end}, np.stack([zero, u, zero, zero], 1)

    def transition(self, state, action, noise):
        t = state["t"] + 1
        ended = t >= state["end"]
        observation = np.stack([t, state["u"], action[:, 0], action[:, 1]], 1)
        info = {"success": ended.astype(float), "clock": t}
        return ArrayTransition(state | {"t": t}, observation, t, ended, info)

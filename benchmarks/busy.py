"""An environment whose step takes 300 µs, to measure the overhead of worker processes.

python scripts/benchmark.py stepping --env benchmarks.busy:tasks
"""

import time

import gymnasium as gym
import numpy as np

import metarl

STEP_SECONDS = 300e-6


class Busy(gym.Env):
    """An environment with HalfCheetah's spaces whose step spins for ``STEP_SECONDS``."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (17,), np.float64)
    action_space = gym.spaces.Box(-1.0, 1.0, (6,), np.float32)

    def __init__(self, task):
        self.task = task

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(17), {}

    def step(self, action):
        started = time.perf_counter()
        observation = np.full(17, self.task)
        while time.perf_counter() - started < STEP_SECONDS:
            pass
        return observation, 0.0, False, False, {}


tasks = metarl.FunctionTasks(
    lambda params: Busy(**params), {"task": metarl.Uniform(0, 1)}, horizon=1000, name="busy"
)

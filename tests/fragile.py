"""Environments that misbehave on demand; no torch, so that worker processes start fast."""

import os
import signal
import threading
from pathlib import Path

import gymnasium as gym
import numpy as np

from metarl.task import Task
from metarl.tasks.distribution import TaskDistribution, TaskEnv


class _Fragile(gym.Env):
    """Misbehaves as its task says, at step 37, in the first life of its process."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float64)
    fault = ""
    marker = ""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.x = 0, self.np_random.random()
        if self.fault == "reset":
            raise RuntimeError("bad start")
        return np.array([self.t, self.x]), {}

    def step(self, action):
        self.t += 1
        self.x += self.np_random.random() + float(action[0])
        observation, reward = np.array([self.t, self.x]), self.x
        if self.t == 37:
            if self.fault == "raise":
                raise RuntimeError("joint 3 left its socket")
            if self.fault in ("kill", "hang") and not os.path.exists(self.marker):
                Path(self.marker or os.devnull).touch()
                if self.fault == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                threading.Event().wait()  # for ever
            if self.fault == "shape":
                observation = np.zeros(3)
            if self.fault == "nan":
                observation[1] = np.nan
            if self.fault == "reward":
                reward = np.inf
            if self.fault == "key":
                return observation, reward, False, False, {}
        return observation, reward, False, False, {"clock": self.t}


class _FragileTask(TaskEnv):
    def apply_task(self, task):
        self.unwrapped.fault, self.unwrapped.marker = task["fault"], task["marker"]
        if task["fault"] == "space":
            self.observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float64)


class Fragile(TaskDistribution):
    name = "fragile"
    observation_space = _Fragile.observation_space
    action_space = _Fragile.action_space
    horizon = 50
    info_keys = ("clock",)

    def sample(self, rng, n, split):
        raise NotImplementedError

    def make(self, task=None):
        return _FragileTask(_Fragile(), self.horizon, task)


def fragile(fault="", marker=""):
    return Task.of("fragile", fault=fault, marker=str(marker))

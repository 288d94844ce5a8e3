"""Environments that return what they are told to; no torch, so that worker processes start fast."""

import gymnasium as gym
import numpy as np

from metarl.task import Task
from metarl.tasks.arrays import ArrayTaskDistribution, Transition
from metarl.tasks.distribution import TaskDistribution, TaskEnv

TASK = Task.of("scripted", number=1)


class ScriptedEnv(gym.Env):
    def __init__(self, tasks):
        self.observation_space, self.action_space = tasks.observation_space, tasks.action_space
        self.tasks, self.seeds = tasks, []

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        return self.tasks.call("reset", self.tasks.first), {}

    def step(self, action):
        self.action = action
        return self.tasks.call("step", self.tasks.result)

    def close(self):
        self.tasks.call("close", None)


class _ScriptedTask(TaskEnv):
    def apply_task(self, task):
        pass


class Scripted(TaskDistribution):
    """Resets give ``first``; steps give ``first`` too, and the other arguments."""

    name = "scripted"
    horizon = 10

    def __init__(
        self,
        observation_space=None,
        first=0,
        *,
        observation=None,
        reward=1.0,
        terminated=False,
        truncated=False,
        info=None,
        info_keys=(),
        success_key="success",
        action_space=None,
        fault="",
        error=RuntimeError,
    ):
        self.observation_space = observation_space or gym.spaces.Discrete(3)
        self.action_space = action_space or gym.spaces.Discrete(2)
        self.first, self.info_keys, self.success_key = first, info_keys, success_key
        observation = first if observation is None else observation
        self.result = observation, reward, terminated, truncated, {} if info is None else info
        self.fault, self.error = fault, error

    def call(self, name, result):
        if name == self.fault:
            raise self.error
        return result

    def sample(self, rng, n, split):
        return [TASK] * n

    def make(self, task=None):
        return self.call("make", _ScriptedTask(ScriptedEnv(self), self.horizon, task))

    def release(self, env, task):
        self.call("release", None)


class ArrayScripted(ArrayTaskDistribution):
    """The same as array code, for two slots: what is given is ``[slot, …]``."""

    name = "scripted"
    horizon = 10
    __init__ = Scripted.__init__
    call, sample = Scripted.call, Scripted.sample

    def initial(self, params, noise):
        return {}, self.call("initial", self.first)

    def transition(self, state, action, noise):
        self.action = action
        observation, reward, terminated, _, info = self.call("transition", self.result)
        return Transition(state, observation, reward, terminated, info)


def started(tasks, num_envs=2, seed=0, **options):
    """Return a vector environment whose slots have all begun an episode."""
    envs = tasks.make_vec(num_envs, **{"num_workers": 0} | options)
    envs.reset(seed=seed, options={"tasks": [TASK] * num_envs})
    return envs


def zeros(envs):
    """Return an action for every slot."""
    return np.zeros(envs.action_space.shape, envs.action_space.dtype)

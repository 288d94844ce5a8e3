"""An environment whose actions have parts; no torch, so that worker processes start fast."""

import os
import signal

import gymnasium as gym
import numpy as np

from metarl.task import Task
from metarl.tasks.functions import FunctionTasks
from metarl.tasks.ranges import Uniform

ACTIONS = gym.spaces.Dict(
    {
        "gear": gym.spaces.Discrete(3, start=1),
        "force": gym.spaces.Box(np.float32([-1, 0]), np.float32([3, np.inf])),
        "both": gym.spaces.Tuple([gym.spaces.MultiBinary(2), gym.spaces.Box(0, 4, (1,), np.int8)]),
    }
)


class Machine(gym.Env):
    """Observes what it was told last; refuses an action that its space does not contain.

    Args:
        load: what is subtracted from the reward.
        kill: a file; the process is killed once, in the third step after it is made.
    """

    action_space = ACTIONS
    observation_space = gym.spaces.Box(-np.inf, np.inf, (6,), np.float32)

    def __init__(self, load, kill=None):
        self.load, self.kill = load, kill
        self.told = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.random(6).astype(np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.told.append(action)
        self.t += 1
        if self.kill and self.t == 3 and not os.path.exists(self.kill):
            open(self.kill, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        lights, dose = action["both"]
        seen = np.float32([action["gear"], *action["force"], *lights, *dose])
        return seen, float(seen.sum() - self.load), False, self.t == 6, {}


def machine(params):
    return Machine(**params)


def tasks():
    """Return tasks with different loads."""
    return FunctionTasks(machine, {"load": Uniform(0, 1)}, horizon=6, episodes_per_trial=2)


def task(load, **more):
    return Task.of("machine", load=load, **more)

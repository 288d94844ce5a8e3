"""An environment of a user's, in a module that loads little: workers import it."""

import gymnasium as gym
import numpy as np


class Drift(gym.Env):
    """A number that drifts by what the task says; observed as a dict."""

    observation_space = gym.spaces.Dict(
        {"x": gym.spaces.Box(-np.inf, np.inf, (2,), np.float64), "odd": gym.spaces.Discrete(2)}
    )
    action_space = gym.spaces.Discrete(2)

    def __init__(self, drift):
        self.drift, self.closed = drift, False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = self.np_random.random(2), 0
        return {"x": self.x.copy(), "odd": 0}, {}

    def step(self, action):
        self.x += self.drift * (1 if action else -1)
        self.t += 1
        return {"x": self.x.copy(), "odd": self.t % 2}, float(self.x[0]), False, False, {}

    def close(self):
        self.closed = True

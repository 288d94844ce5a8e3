"""A package of somebody else's that registers environments when it is imported."""

import gymnasium as gym
import numpy as np


class Lander(gym.Env):
    """Falls, brakes, and is blown sideways where there is wind."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Discrete(2)
    drag = 0.1

    def __init__(self, gravity: float = -10.0, enable_wind: bool = False, wind_power: float = 15.0):
        self.gravity, self.enable_wind, self.wind_power = gravity, enable_wind, wind_power

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = np.array([self.np_random.random(), 10.0])
        return self.place.copy(), {}

    def step(self, action):
        wind = self.wind_power * self.enable_wind
        self.place += 0.01 * np.array([wind, self.gravity + 20 * action]) * (1 - self.drag)
        return self.place.copy(), float(-self.place[1]), False, False, {"landed": 0.0}


class Counted(gym.Wrapper):
    """Adds the number of steps to the observation's first entry."""

    def reset(self, **options):
        self.steps = 0
        return super().reset(**options)

    def step(self, action):
        self.steps += 1
        observation, *rest = super().step(action)
        return observation + np.array([self.steps, 0]), *rest


gym.register("Lander-v0", entry_point="lander:Lander", max_episode_steps=20)
gym.register(
    "five/Lander-v0", entry_point="lander:Lander", max_episode_steps=20, kwargs={"gravity": -5.0}
)

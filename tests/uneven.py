"""Tasks whose episodes end by chance, so that trials have padding in the midst."""

import gymnasium as gym
import numpy as np

from metarl.task import Task
from metarl.tasks.arrays import ArrayTaskDistribution, NoiseSpec, Transition


class Uneven(ArrayTaskDistribution):
    """Episodes of 1 to 5 steps that end by chance; an action moves a point to a target.

    Args:
        discrete: whether actions are Discrete or a Box; or ``"choices"`` for a MultiDiscrete, or
            ``"mixed"`` for a Dict of choices and numbers.
        pixels: whether observations are images.
    """

    name = "uneven"
    horizon = 5
    episodes_per_trial = 3
    transition_noise = NoiseSpec(uniform=1)
    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def __init__(self, discrete, pixels=False):
        self.pixels = pixels
        if pixels:
            self.observation_space = gym.spaces.Box(0, 255, (8, 8, 1), np.uint8)
        box = gym.spaces.Box(np.float32(-2), np.float32(4), (2,), np.float32)
        gears = gym.spaces.MultiDiscrete([3, 2], start=[1, 0])
        self.action_space = {
            True: gym.spaces.Discrete(3, start=1),
            False: box,
            "choices": gears,
            "mixed": gym.spaces.Dict({"box": box, "gears": gears}),
        }[discrete]

    def sample(self, rng, n, split):
        return [Task.of(self.name, target=t + (split == "test")) for t in rng.uniform(size=n)]

    def initial(self, params, noise):
        target = params["target"]
        return {"target": target, "x": 0 * target}, self.seen(0 * target, 0 * target)

    def seen(self, x, u):
        if not self.pixels:
            return np.stack([x, u], 1)
        image = np.zeros((len(x), 8, 8, 1), np.uint8)
        image[:, :4] = np.clip(128 + 99 * x, 0, 255)[:, None, None, None]
        image[:, 4:] = (255 * u)[:, None, None, None]
        return image

    def transition(self, state, action, noise):
        u = noise.uniform[:, 0]
        if isinstance(action, dict):
            action = action["box"] + action["gears"]
        x = state["x"] + 0.1 * action.reshape(len(u), -1)[:, 0]
        reward = -np.abs(x - state["target"])
        return Transition({**state, "x": x}, self.seen(x, u), reward, u < 0.4, {})

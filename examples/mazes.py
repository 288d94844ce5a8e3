"""Procedural mazes: a task is the number that its maze is generated from.

metarl train rl2 --env mazes:mazes --iterations 100
"""

import gymnasium as gym
import numpy as np

import metarl

MOVES = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)])


class Maze(gym.Env):
    """Find the way to a hidden goal; observed are the place and the walls around it."""

    observation_space = gym.spaces.Box(0.0, 8.0, (6,), np.float32)
    action_space = gym.spaces.Discrete(4)

    def __init__(self, layout):
        rng = np.random.default_rng(layout)
        self.wall = np.pad(rng.random((7, 7)) < 0.25, 1, constant_values=True)
        self.wall[1, 1], self.goal = False, np.argwhere(~self.wall)[-1 - rng.integers(5)]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = np.array([1, 1])
        return self.seen(), {}

    def seen(self):
        return np.float32([*self.place, *(self.wall[tuple(self.place + move)] for move in MOVES)])

    def step(self, action):
        there = self.place + MOVES[action]
        self.place = self.place if self.wall[tuple(there)] else there
        found = bool((self.place == self.goal).all())
        return self.seen(), float(found) - 0.02, found, False, {}


def mazes():
    """Return 10 000 mazes; of every five layouts in a row one is for validation, one for tests."""
    layouts = {"layout": metarl.Integers(0, 9999)}
    return metarl.FunctionTasks(
        lambda task: Maze(**task), layouts, horizon=40, episodes_per_trial=2
    )

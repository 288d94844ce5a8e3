"""A grid with a hidden goal: VariBAD's 5×5 (Zintgraf et al., 2020, arXiv 1910.08348, section 5.1).

The agent starts in the corner (0, 0) and moves up, right, down or left, or stays. A step that ends
on the goal pays 1, any other -0.1. An episode has 15 steps, a trial 4 episodes. The goal may be any
cell except the four nearest to the start, and all splits share these 21 tasks.

What differs: the observation is the position divided by 4, in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping

import gymnasium as gym
import numpy as np
from array_api_compat import array_namespace

from metarl.task import Split, Task
from metarl.tasks.arrays import Array, ArrayTaskDistribution, Noise, State, Transition
from metarl.tasks.canvas import BLUE, GREEN, INK, LIGHT_BLUE, PALE, WHITE, Canvas, Frame
from metarl.tasks.distribution import name_with_options, require_horizon
from metarl.tasks.scenes import Scene

SIZE = 5
MOVES = ((0, 1), (1, 0), (0, -1), (-1, 0), (0, 0))
GOALS = [(x, y) for x in range(SIZE) for y in range(SIZE) if x > 1 or y > 1]


def moved(position: Array, action: Array, size: int) -> Array:
    """Return positions ``[row, 2]`` after moves; a wall of the ``size`` × ``size`` cells stops."""
    xp = array_namespace(position)
    moves = xp.asarray(MOVES, dtype=position.dtype)
    return xp.clip(position + xp.take(moves, action, axis=0), 0, size - 1)


class GridWorld(ArrayTaskDistribution):
    """Search the grid for the goal; in later episodes, go there directly."""

    shared_split = True
    info_keys = ("success",)
    render_fps = 5

    def __init__(self, horizon: int = 15) -> None:
        require_horizon("gridworld", horizon)
        self.name = name_with_options("gridworld", horizon=(horizon, 15))
        self.horizon, self.episodes_per_trial = horizon, 4
        self.observation_space = gym.spaces.Box(0.0, 1.0, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(len(MOVES))

    def tasks(self, split: Split) -> list[Task]:
        """Return all 21 goals."""
        return [Task(self.name, (("goal", goal),)) for goal in GOALS]

    def sample(self, rng: np.random.Generator, n: int, split: Split) -> list[Task]:
        """Draw goals with equal probability."""
        goals = self.tasks(split)
        return [goals[i] for i in rng.integers(len(goals), size=n)]

    def initial(self, params: Mapping[str, Array], noise: Noise) -> tuple[State, Array]:
        """Start in the corner."""
        goal = params["goal"]
        xp = array_namespace(goal)
        position = xp.zeros_like(goal)
        return {"goal": goal, "position": position}, self._observe(position)

    def transition(self, state: State, action: Array, noise: Noise) -> Transition:
        """Move, unless a wall is in the way."""
        goal, position = state["goal"], state["position"]
        xp = array_namespace(goal)
        position = moved(position, action, SIZE)
        reached = xp.all(position == goal, axis=-1)
        return Transition(
            {"goal": goal, "position": position},
            self._observe(position),
            xp.where(reached, 1.0, -0.1),
            xp.zeros_like(reached),
            {"success": reached},
        )

    def draw(self, scene: Scene) -> Frame:
        """Draw the agent, the goal, and the cells that the agent has visited in this episode."""
        cell, edge = 60, 10
        canvas = Canvas(SIZE * cell + 2 * edge, SIZE * cell + 2 * edge, PALE)

        def center(position: Array) -> tuple[float, float]:
            x, y = (float(number) for number in position)
            return edge + (x + 0.5) * cell, edge + (SIZE - 0.5 - y) * cell

        visited = {tuple(state["position"].tolist()) for state in scene.states}
        for place in [(x, y) for x in range(SIZE) for y in range(SIZE)]:
            x, y = center(place)
            corners = (x - cell / 2 + 2, y - cell / 2 + 2), (x + cell / 2 - 2, y + cell / 2 - 2)
            canvas.box(*corners, LIGHT_BLUE if place in visited else WHITE)
        x, y = center(scene.params["goal"])
        canvas.box((x - 26, y - 26), (x + 26, y + 26), GREEN)
        canvas.text((x - 24, y - 18), "goal", 10, WHITE, "lm")
        path = [center(state["position"]) for state in scene.states]
        if len(path) > 1:
            canvas.line(path, BLUE)
        canvas.disc(path[-1], 10, BLUE, INK)
        return canvas.frame()

    @staticmethod
    def _observe(position: Array) -> Array:
        xp = array_namespace(position)
        return xp.astype(position, xp.float32) / (SIZE - 1)

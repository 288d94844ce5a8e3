"""A grid with a hidden goal: VariBAD's 5×5 (Zintgraf et al., 2020, arXiv 1910.08348, section 5.1).

The agent starts in the corner (0, 0) and moves up, right, down, left, or stays; a step pays 1
on the goal and -0.1 elsewhere. An episode has 15 steps, a trial 4 episodes. The goal is any
cell but the four around the start. The 21 tasks are shared by the splits.

What differs: the observation is the position divided by 4, in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping

import gymnasium as gym
import numpy as np
from array_api_compat import array_namespace

from metarl.errors import bad_option
from metarl.task import Split, Task
from metarl.tasks.arrays import Array, ArrayTaskDistribution, Noise, State, Transition

SIZE = 5
MOVES = ((0, 1), (1, 0), (0, -1), (-1, 0), (0, 0))
GOALS = [(x, y) for x in range(SIZE) for y in range(SIZE) if x > 1 or y > 1]


class GridWorld(ArrayTaskDistribution):
    """Search the grid for the goal, then go there at once in the episodes after."""

    shared_split = True
    info_keys = ("success",)

    def __init__(self, horizon: int = 15) -> None:
        if horizon < 2:
            raise bad_option("gridworld horizon", horizon, "at least 2 steps")
        self.name = "gridworld" + ("" if horizon == 15 else f":horizon={horizon}")
        self.horizon, self.episodes_per_trial = horizon, 4
        self.observation_space = gym.spaces.Box(0.0, 1.0, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(len(MOVES))

    def tasks(self, split: Split) -> list[Task]:
        """Return all 21 goals."""
        return [Task(self.name, (("goal", goal),)) for goal in GOALS]

    def sample(self, rng: np.random.Generator, n: int, split: Split) -> list[Task]:
        """Draw goals, each as likely."""
        goals = self.tasks(split)
        return [goals[i] for i in rng.integers(len(goals), size=n)]

    def initial(self, params: Mapping[str, Array], noise: Noise) -> tuple[State, Array]:
        """Start in the corner."""
        goal = params["goal"]
        xp = array_namespace(goal)
        position = xp.zeros_like(goal)
        return {"goal": goal, "position": position}, self._observe(position)

    def transition(self, state: State, action: Array, noise: Noise) -> Transition:
        """Move, unless there is a wall."""
        goal, position = state["goal"], state["position"]
        xp = array_namespace(goal)
        moves = xp.asarray(MOVES, dtype=goal.dtype)
        position = xp.clip(position + xp.take(moves, action, axis=0), 0, SIZE - 1)
        there = xp.all(position == goal, axis=-1)
        return Transition(
            {"goal": goal, "position": position},
            self._observe(position),
            xp.where(there, 1.0, -0.1),
            xp.zeros_like(there),
            {"success": there},
        )

    @staticmethod
    def _observe(position: Array) -> Array:
        xp = array_namespace(position)
        return xp.astype(position, xp.float32) / (SIZE - 1)

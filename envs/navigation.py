"""2-D navigation of the MAML paper (Finn et al., 2017, arXiv 1703.03400, section 5.3).

A point starts at the origin and moves to a goal drawn from [-0.5, 0.5]², which it does not
see. A policy's action of 1 is a move of 0.1 (the authors' code normalises actions). An
episode ends when both coordinates are within 0.01 of the goal, or after 100 steps.

What differs: the paper's text says the reward is minus the squared distance; the authors'
code uses minus the distance, and only that fits the published returns. So does this family;
``squared=true`` is the text's reward.
"""

from __future__ import annotations

from collections.abc import Mapping

import gymnasium as gym
import numpy as np
from array_api_compat import array_namespace

from metarl.errors import bad_option
from metarl.task import Split, Task, mark_split
from metarl.tasks.arrays import Array, ArrayTaskDistribution, Noise, State, Transition

MAX_MOVE = 0.1
GOAL_SIZE = 0.01


class Navigation(ArrayTaskDistribution):
    """Reach a hidden goal in the plane: reward minus the distance after each move."""

    def __init__(self, squared: bool = False, horizon: int = 100) -> None:
        if horizon < 1:
            raise bad_option("navigation horizon", horizon, "at least 1 step")
        options = [f"squared={squared}".lower()] if squared else []
        options += [f"horizon={horizon}"] if horizon != 100 else []
        self.name = "navigation" + (f":{','.join(options)}" if options else "")
        self.squared, self.horizon = squared, horizon
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gym.spaces.Box(-MAX_MOVE, MAX_MOVE, (2,), np.float32)

    def sample(self, rng: np.random.Generator, n: int, split: Split) -> list[Task]:
        """Draw goals; the lowest bit of x tells the splits apart."""
        bits = rng.integers(2**40, size=(n, 2))
        bits[:, 0] = mark_split(bits[:, 0], split)
        goals = (bits * 2.0**-40 - 0.5).tolist()
        return [Task(self.name, (("goal", tuple(goal)),)) for goal in goals]

    def initial(self, params: Mapping[str, Array], noise: Noise) -> tuple[State, Array]:
        """Start at the origin."""
        goal = params["goal"]
        xp = array_namespace(goal)
        position = xp.zeros_like(goal)
        return {"goal": goal, "position": position}, xp.astype(position, xp.float32)

    def transition(self, state: State, action: Array, noise: Noise) -> Transition:
        """Move by the action, clipped to 0.1 in each coordinate."""
        goal = state["goal"]
        xp = array_namespace(goal)
        move = xp.clip(xp.astype(action, goal.dtype), -MAX_MOVE, MAX_MOVE)
        position = state["position"] + move
        offset = position - goal
        squared = xp.sum(offset**2, axis=-1)
        reward = -squared if self.squared else -xp.sqrt(squared)
        reached = xp.all(xp.abs(offset) < GOAL_SIZE, axis=-1)
        return Transition(
            {"goal": goal, "position": position},
            xp.astype(position, xp.float32),
            reward,
            reached,
            {},
        )

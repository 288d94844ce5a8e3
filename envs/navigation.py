"""2-D navigation of the MAML paper (Finn et al., 2017, arXiv 1703.03400, section 5.3).

A point starts at the origin and moves to a goal drawn from [-0.5, 0.5]², which it does not
see. A policy's action of 1 is a move of 0.1 (the authors' code normalises actions). An
episode ends when both coordinates are within 0.01 of the goal, or after 100 steps.

What differs: by the paper's text the reward is minus the squared distance, but in the authors'
code it is minus the distance, and only that agrees with the published returns. This family
follows the code; ``squared=true`` follows the text.
"""

from __future__ import annotations

from collections.abc import Mapping

import gymnasium as gym
import numpy as np
from array_api_compat import array_namespace

from metarl.task import Split, Task, draw_unit
from metarl.tasks.arrays import Array, ArrayTaskDistribution, Noise, State, Transition
from metarl.tasks.canvas import (
    BLUE,
    FAINT_BLUE,
    GREEN,
    INK,
    ORANGE,
    PALE,
    Canvas,
    Frame,
    Point,
)
from metarl.tasks.distribution import name_with_options, require_horizon
from metarl.tasks.scenes import Scene

MAX_MOVE = 0.1
GOAL_SIZE = 0.01

DRAWN = 0.8
"""The largest coordinate in a picture."""


def moved(position: Array, action: Array) -> Array:
    """Return positions ``[row, 2]`` after actions, clipped to ±0.1 in each coordinate."""
    xp = array_namespace(position)
    return position + xp.clip(xp.astype(action, position.dtype), -MAX_MOVE, MAX_MOVE)


class Navigation(ArrayTaskDistribution):
    """Reach a hidden goal in the plane: the reward is minus the distance after each move."""

    render_fps = 20

    def __init__(self, squared: bool = False, horizon: int = 100) -> None:
        require_horizon("navigation", horizon, 1)
        self.name = name_with_options(
            "navigation", squared=(squared, False), horizon=(horizon, 100)
        )
        self.squared, self.horizon = squared, horizon
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gym.spaces.Box(-MAX_MOVE, MAX_MOVE, (2,), np.float32)

    def sample(self, rng: np.random.Generator, n: int, split: Split) -> list[Task]:
        """Draw goals; their x tells the splits apart."""
        goals = (draw_unit(rng, (n, 2), split, marked=np.s_[:, 0]) - 0.5).tolist()
        return [Task(self.name, (("goal", tuple(goal)),)) for goal in goals]

    def initial(self, params: Mapping[str, Array], noise: Noise) -> tuple[State, Array]:
        """Start at the origin."""
        goal = params["goal"]
        xp = array_namespace(goal)
        position = xp.zeros_like(goal)
        return {"goal": goal, "position": position}, xp.astype(position, xp.float32)

    def transition(self, state: State, action: Array, noise: Noise) -> Transition:
        """Move by the action, clipped to ±0.1 in each coordinate."""
        goal = state["goal"]
        xp = array_namespace(goal)
        position = moved(state["position"], action)
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

    def draw(self, scene: Scene) -> Frame:
        """Draw the goal, the episode's path, and in pale blue up to 20 paths of earlier episodes.

        The pale square holds all goals. A point outside the picture is shown at its edge, in
        another color.
        """
        size = 320
        canvas = Canvas(size, size)

        def place(position: Array) -> Point:
            x, y = (float(number) * size / (2 * DRAWN) for number in position)
            return size / 2 + x, size / 2 - y

        def path(episode: Scene) -> list[Point]:
            return [place(state["position"]) for state in episode.states]

        canvas.box(place((-0.5, -0.5)), place((0.5, 0.5)), PALE)
        for episode in scene.earlier[-20:]:
            canvas.line(path(episode), FAINT_BLUE, 1)
        goal = scene.params["goal"]
        canvas.disc(place(goal), 9, None, GREEN)
        canvas.box(place(goal - GOAL_SIZE), place(goal + GOAL_SIZE), GREEN)
        canvas.disc(place((0.0, 0.0)), 3, INK)
        now = path(scene)
        if len(now) > 1:
            canvas.line(now, BLUE)
        seen = np.clip(now[-1], 6, size - 6)
        canvas.disc(seen, 5, BLUE if np.allclose(seen, now[-1]) else ORANGE, INK)
        return canvas.frame()

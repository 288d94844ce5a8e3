"""A point that searches for a goal on a half circle (PEARL: Rakelly et al., 2019, 1903.08254).

The point starts at the origin; an action of 1 is a move of 0.1 in a coordinate. The goal lies on
the upper half of a circle of radius 1, at an angle drawn uniformly. Within 0.2 of it a step pays 1
minus the distance, elsewhere nothing; with ``dense=true`` it pays minus the distance everywhere,
which ``info["dense_reward"]`` says in both cases: PEARL trains on it, and adapts to the other. A
trial has 3 episodes of 100 steps, as for VariBAD (Zintgraf et al., 2020, 1910.08348, appendix);
PEARL's have 20 (``horizon=20``).
"""

from __future__ import annotations

from collections.abc import Mapping

import gymnasium as gym
import numpy as np
from array_api_compat import array_namespace

from metarl.envs.navigation import MAX_MOVE, moved
from metarl.task import Split, Task, draw_unit
from metarl.tasks.arrays import Array, ArrayTaskDistribution, Noise, State, Transition
from metarl.tasks.canvas import BLUE, FAINT_BLUE, GREEN, GREY, INK, ORANGE, Canvas, Frame, Point
from metarl.tasks.distribution import name_with_options, require_horizon
from metarl.tasks.scenes import Scene

RADIUS, GOAL_RADIUS = 1.0, 0.2


class PointRobot(ArrayTaskDistribution):
    """Search the half circle for a goal whose reward is seen near it alone; then stay there."""

    info_keys = ("success", "dense_reward")
    render_fps = 20

    def __init__(self, dense: bool = False, horizon: int = 100) -> None:
        require_horizon("point-robot", horizon)
        self.name = name_with_options("point-robot", dense=(dense, False), horizon=(horizon, 100))
        self.dense, self.horizon, self.episodes_per_trial = dense, horizon, 3
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gym.spaces.Box(-MAX_MOVE, MAX_MOVE, (2,), np.float32)

    def sample(self, rng: np.random.Generator, n: int, split: Split) -> list[Task]:
        """Draw angles; they tell the splits apart."""
        angle = np.pi * draw_unit(rng, (n,), split)
        goals = RADIUS * np.stack([np.cos(angle), np.sin(angle)], -1)
        return [Task(self.name, (("goal", tuple(goal)),)) for goal in goals.tolist()]

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
        distance = xp.sqrt(xp.sum((position - goal) ** 2, axis=-1))
        near = distance <= GOAL_RADIUS
        return Transition(
            {"goal": goal, "position": position},
            xp.astype(position, xp.float32),
            -distance if self.dense else xp.where(near, 1 - distance, 0.0),
            xp.zeros_like(near),
            {"success": near, "dense_reward": -distance},
        )

    def draw(self, scene: Scene) -> Frame:
        """Draw the half circle, the goal, this episode's path, and paler those of earlier ones.

        A point outside the picture is shown at its edge, in another color.
        """
        width, height, scale = 360, 260, 120.0
        canvas = Canvas(width, height)

        def place(position: Array) -> Point:
            x, y = (float(number) * scale for number in position)
            return width / 2 + x, 200 - y

        def path(episode: Scene) -> list[Point]:
            return [place(state["position"]) for state in episode.states]

        angles = np.linspace(0, np.pi, 60)
        canvas.line([place((np.cos(a), np.sin(a))) for a in angles], GREY, 1)
        canvas.disc(place(scene.params["goal"]), GOAL_RADIUS * scale, None, GREEN)
        for episode in scene.earlier:
            canvas.line(path(episode), FAINT_BLUE, 1)
        canvas.disc(place((0.0, 0.0)), 3, INK)
        now = path(scene)
        if len(now) > 1:
            canvas.line(now, BLUE)
        seen = np.clip(now[-1], 6, (width - 6, height - 6))
        canvas.disc(seen, 5, BLUE if np.allclose(seen, now[-1]) else ORANGE, INK)
        return canvas.frame()

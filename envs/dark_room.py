"""A dark room with a hidden goal, as in algorithm distillation (Laskin et al., 2022, 2210.14215).

The agent starts in the middle of an N × N grid and moves up, right, down or left, or stays. A step
that ends on the goal pays 1, any other nothing. An episode has 20 steps, a trial 4 episodes. The
goal may be any cell, also the middle one. All splits share these tasks, unless ``split=true``
divides the goals at random, once and for all: a fifth for test, a tenth for validation.

What differs: the observation is the number of the cell, not its coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping

import gymnasium as gym
import numpy as np
from array_api_compat import array_namespace

from metarl.envs.gridworld import MOVES, moved
from metarl.errors import bad_option
from metarl.task import Split, Task
from metarl.tasks.arrays import Array, ArrayTaskDistribution, Noise, State, Transition
from metarl.tasks.canvas import BLUE, GREEN, INK, LIGHT_BLUE, PALE, WHITE, Canvas, Frame
from metarl.tasks.distribution import name_with_options, require_horizon
from metarl.tasks.scenes import Scene


class DarkRoom(ArrayTaskDistribution):
    """Search a room of ``n`` × ``n`` cells; in later episodes, go to the goal directly.

    The observation is the number of the cell.
    """

    info_keys = ("success",)
    render_fps = 5

    def __init__(self, n: int = 9, split: bool = False, horizon: int = 20) -> None:
        if n < 3:
            raise bad_option("dark-room n", n, "at least 3 rows and columns")
        require_horizon("dark-room", horizon)
        self.name = name_with_options(
            f"dark-room/n{n}", split=(split, False), horizon=(horizon, 20)
        )
        self.size, self.horizon, self.episodes_per_trial = n, horizon, 4
        self.shared_split = not split
        self.observation_space = gym.spaces.Discrete(n * n)
        self.action_space = gym.spaces.Discrete(len(MOVES))

    def tasks(self, split: Split) -> list[Task]:
        """Return the goals of a split."""
        cells = np.arange(self.size**2)
        if not self.shared_split:
            mixed = np.random.default_rng(0).permutation(cells)
            ends = round(0.2 * len(cells)), round(0.3 * len(cells))
            parts = dict(zip(("test", "validation", "train"), np.split(mixed, ends), strict=True))
            cells = np.sort(parts[split])
        goals = [(int(cell) // self.size, int(cell) % self.size) for cell in cells]
        return [Task(self.name, (("goal", goal),)) for goal in goals]

    def sample(self, rng: np.random.Generator, n: int, split: Split) -> list[Task]:
        """Draw goals with equal probability."""
        goals = self.tasks(split)
        return [goals[i] for i in rng.integers(len(goals), size=n)]

    def initial(self, params: Mapping[str, Array], noise: Noise) -> tuple[State, Array]:
        """Start in the middle."""
        goal = params["goal"]
        xp = array_namespace(goal)
        position = xp.full_like(goal, self.size // 2)
        return {"goal": goal, "position": position}, self._observe(position)

    def transition(self, state: State, action: Array, noise: Noise) -> Transition:
        """Move, unless a wall is in the way."""
        goal, position = state["goal"], state["position"]
        xp = array_namespace(goal)
        position = moved(position, action, self.size)
        reached = xp.all(position == goal, axis=-1)
        return Transition(
            {"goal": goal, "position": position},
            self._observe(position),
            xp.where(reached, 1.0, 0.0),
            xp.zeros_like(reached),
            {"success": reached},
        )

    def draw(self, scene: Scene) -> Frame:
        """Draw the agent, the goal, the cells visited in the trial, and the way in this episode."""
        edge = 10
        cell = max(12, 300 // self.size)
        side = self.size * cell + 2 * edge
        canvas = Canvas(side, side, PALE)

        def center(position: Array) -> tuple[float, float]:
            x, y = (float(number) for number in position)
            return edge + (x + 0.5) * cell, edge + (self.size - 0.5 - y) * cell

        episodes = (*scene.earlier, scene)
        visited = {tuple(s["position"].tolist()) for e in episodes for s in e.states}
        half = cell / 2 - 1
        for place in np.ndindex(self.size, self.size):
            x, y = center(place)
            corners = (x - half, y - half), (x + half, y + half)
            canvas.box(*corners, LIGHT_BLUE if place in visited else WHITE)
        x, y = center(scene.params["goal"])
        canvas.box((x - half + 3, y - half + 3), (x + half - 3, y + half - 3), GREEN)
        path = [center(state["position"]) for state in scene.states]
        if len(path) > 1:
            canvas.line(path, BLUE)
        canvas.disc(path[-1], cell / 5, BLUE, INK)
        return canvas.frame()

    def _observe(self, position: Array) -> Array:
        return position[:, 0] * self.size + position[:, 1]

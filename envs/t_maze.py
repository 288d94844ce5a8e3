"""A corridor that ends in a junction: a test of memory (T-LN of AMRL, Beck et al., 2020).

The first observation of an episode says which way pays at the junction, N steps later; the
corridor carries the agent along whatever it does. At every step another number of the observation
is drawn from -1 and 1, so that the signal is not the only thing that changes. The right way pays 4,
the wrong one -3. The way is drawn anew for every episode: there is one task, and nothing to adapt
to (AMRL: Aggregated memory for reinforcement learning, ICLR 2020, section 5.1).

What differs: in the version with which hypernetworks are compared (Beck et al., 2022, 2210.11348)
the way is drawn once for the four episodes of a trial, so that a reward tells it too; the agent has
two more actions, which do nothing, and the signal comes one step later.
"""

from __future__ import annotations

from collections.abc import Mapping

import gymnasium as gym
import numpy as np
from array_api_compat import array_namespace

from metarl.errors import bad_option
from metarl.task import Split, Task
from metarl.tasks.arrays import Array, ArrayTaskDistribution, Noise, NoiseSpec, State, Transition
from metarl.tasks.canvas import BLUE, GREEN, GREY, INK, LIGHT_BLUE, ORANGE, PALE, RED, Canvas, Frame
from metarl.tasks.scenes import Scene

RIGHT, WRONG = 4.0, -3.0


class TMaze(ArrayTaskDistribution):
    """Remember a signal for ``n`` steps: 0.5 an episode without memory, up to 4 with one.

    The observation is [the signal in the first step and 0 later, 1 at the junction, noise]. Action
    1 goes up at the junction, action 0 down.
    """

    shared_split = True
    info_keys = ("success",)
    initial_noise = NoiseSpec(uniform=2)
    transition_noise = NoiseSpec(uniform=1)

    def __init__(self, n: int = 100) -> None:
        if n < 1:
            raise bad_option("t-maze n", n, "at least 1 step before the junction")
        self.name, self.length = f"t-maze/n{n}", n
        self.horizon, self.episodes_per_trial = n + 1, 4
        self.render_fps = max(5, n // 4)
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
        self.action_space = gym.spaces.Discrete(2)

    def tasks(self, split: Split) -> list[Task]:
        """Return the only task."""
        return [Task(self.name, (("length", self.length),))]

    def sample(self, rng: np.random.Generator, n: int, split: Split) -> list[Task]:
        """Return the only task as often as asked for."""
        return self.tasks(split) * n

    def initial(self, params: Mapping[str, Array], noise: Noise) -> tuple[State, Array]:
        """Draw the way that pays, and say which it is."""
        length = params["length"]
        xp = array_namespace(length)
        up = noise.uniform[:, 0] < 0.5
        state = {"length": length, "place": xp.zeros_like(length), "up": up, "taken": up}
        signal = xp.where(up, 1.0, -1.0)
        return state, self._observe(signal, xp.zeros_like(signal), noise.uniform[:, 1])

    def transition(self, state: State, action: Array, noise: Noise) -> Transition:
        """Go on by a step; at the junction, take the way of the action and end the episode."""
        length, place, up = state["length"], state["place"], state["up"]
        xp = array_namespace(length)
        chooses, taken = place == length, action == 1
        paid = xp.where(taken == up, RIGHT, WRONG)
        place = place + 1
        at_junction = xp.astype(place == length, noise.uniform.dtype)
        nothing = xp.zeros_like(at_junction)
        return Transition(
            {"length": length, "place": place, "up": up, "taken": taken},
            self._observe(nothing, at_junction, noise.uniform[:, 0]),
            xp.where(chooses, paid, 0.0),
            chooses,
            {"success": chooses & (taken == up)},
        )

    def draw(self, scene: Scene) -> Frame:
        """Draw the corridor, the agent, the way that pays in green, and the one taken."""
        left, right, middle = 40.0, 300.0, 120.0
        canvas = Canvas(360, 240)
        place, up = int(scene.state["place"]), bool(scene.state["up"])
        x = left + (right - left) * min(place / self.length, 1.0)
        y = middle
        canvas.box((left - 12, middle - 12), (right + 12, middle + 12), PALE)
        canvas.box((right - 12, middle - 72), (right + 12, middle + 72), PALE)
        for way, sign in ((True, -1), (False, 1)):
            canvas.disc((right, middle + 60 * sign), 9, GREEN if way == up else RED)
        canvas.text((left, 90), "up" if up else "down", 14, GREY if place else ORANGE)
        canvas.line([(left, middle), (x, y)], LIGHT_BLUE)
        if place > self.length:
            y += -60 if scene.state["taken"] else 60
            canvas.text((180, 215), f"reward {scene.rewards[-1]:.0f}", 14, INK)
        canvas.disc((x, y), 7, BLUE, INK)
        canvas.text((180, 20), f"step {place} of {self.length + 1}", 13, GREY)
        return canvas.frame()

    @staticmethod
    def _observe(signal: Array, junction: Array, uniform: Array) -> Array:
        xp = array_namespace(signal)
        noise = xp.where(uniform < 0.5, -1.0, 1.0)
        return xp.astype(xp.stack([signal, junction, noise], axis=-1), xp.float32)

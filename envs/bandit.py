"""Bernoulli bandits of the RL² paper (Duan et al., 2016, arXiv 1611.02779, section 3.1).

A task has K arms whose success probabilities are uniform in [0, 1], or in [low, high]. An episode
is one pull, and a trial has N episodes. The observation never changes, so an agent learns about the
arms from its own actions and rewards alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import gymnasium as gym
import numpy as np
from array_api_compat import array_namespace

from metarl.errors import bad_option
from metarl.task import Split, Task, draw_unit
from metarl.tasks.arrays import Array, ArrayTaskDistribution, Noise, NoiseSpec, State, Transition
from metarl.tasks.canvas import GREEN, GREY, INK, LIGHT_BLUE, ORANGE, RED, Canvas, Frame
from metarl.tasks.distribution import name_with_options
from metarl.tasks.scenes import Scene


class BernoulliBandit(ArrayTaskDistribution):
    """K-armed Bernoulli bandits with N pulls per trial."""

    horizon = 1
    render_fps = 2
    transition_noise = NoiseSpec(uniform=1)

    def __init__(self, n: int = 10, k: int = 5, low: float = 0.0, high: float = 1.0) -> None:
        if n < 1:
            raise bad_option("bandit n", n, "at least 1 pull per trial")
        if k < 2:
            raise bad_option("bandit k", k, "at least 2 arms")
        if not 0 <= low < high <= 1:
            raise bad_option("bandit low, high", (low, high), "0 <= low < high <= 1")
        self.name = name_with_options(f"bandit/n{n}-k{k}", low=(low, 0.0), high=(high, 1.0))
        self.low, self.high = low, high
        self.num_arms = k
        self.episodes_per_trial = n
        self.observation_space = gym.spaces.Discrete(1)
        self.action_space = gym.spaces.Discrete(k)

    def sample(self, rng: np.random.Generator, n: int, split: Split) -> list[Task]:
        """Draw the arms' probabilities; the first one tells the splits apart."""
        shape, first = (n, self.num_arms), np.s_[:, 0]
        unit = draw_unit(rng, shape, split, bits=53, marked=first)
        rows = (self.low + (self.high - self.low) * unit).tolist()
        return [Task(self.name, (("p", tuple(row)),)) for row in rows]

    def initial(self, params: Mapping[str, Array], noise: Noise) -> tuple[State, Array]:
        """Return the probabilities as the state, and the only observation."""
        p = params["p"]
        xp = array_namespace(p)
        return {"p": p}, xp.zeros(p.shape[0], dtype=xp.int64)

    def transition(self, state: State, action: Array, noise: Noise) -> Transition:
        """Pay 1 with the pulled arm's probability, else 0, and end the episode."""
        p = state["p"]
        xp = array_namespace(p)
        pulled = xp.take_along_axis(p, action[:, None], axis=1)[:, 0]
        reward = xp.astype(noise.uniform[:, 0] < pulled, p.dtype)
        observation = xp.zeros(p.shape[0], dtype=xp.int64)
        return Transition(state, observation, reward, xp.ones_like(reward, dtype=xp.bool), {})

    def draw(self, scene: Scene) -> Frame:
        """Draw every arm's probability as a bar, its pulls so far, and the arm just pulled.

        Below each bar are the rewards that the arm has paid, of how many pulls; of many arms, a
        grey bar is as long as the arm has been pulled often.
        """
        width, floor, top = 320, 200, 30
        canvas = Canvas(width, 250)
        pulls = [e for e in (*scene.earlier, scene) if e.actions]
        arms = np.array([int(episode.actions[0]) for episode in pulls], np.int64)
        paid = np.bincount(arms, [e.rewards[0] for e in pulls], minlength=self.num_arms)
        count = np.bincount(arms, minlength=self.num_arms)
        each = (width - 20) / self.num_arms
        labelled = each > 40  # Labels of more arms would overlap.
        now = int(scene.actions[0]) if scene.actions else None
        for arm, p in enumerate(scene.params["p"].tolist()):
            left, height = 10 + arm * each, (floor - top) * p
            gap = min(4.0, each / 6)
            bar = (left + gap, floor - height), (left + each - gap, floor)
            canvas.box(*bar, ORANGE if arm == now else LIGHT_BLUE)
            if labelled:
                middle = left + each / 2
                canvas.text((middle, floor - height - 9), f"{p:.2f}", 12, GREY)
                canvas.text((middle, floor + 12), f"arm {arm}", 12, INK)
                canvas.text((middle, floor + 30), f"{paid[arm]:.0f} of {count[arm]}", 12, GREY)
            elif count[arm]:
                deep = floor + 4 + 40 * count[arm] / count.max()
                canvas.box((left + gap, floor + 4), (left + each - gap, deep), GREY)
        canvas.line([(10, floor), (width - 10, floor)], INK, 1)
        if now is not None:
            won = scene.rewards[0] > 0
            words = f"arm {now} pays {scene.rewards[0]:.0f}"
            canvas.text((width / 2, 11), words, 13, GREEN if won else RED)
        return canvas.frame()

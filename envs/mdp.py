"""Random tabular MDPs of the RL² paper (Duan et al., 2016, arXiv 1611.02779, section 3.2).

An MDP has ten states and five actions. The reward of a state and action is N(μ, 1) with
μ ~ N(1, 1), and the next state's probabilities are drawn from a flat Dirichlet distribution. An
episode has ten steps and starts in state 0; an agent gets n episodes with one MDP.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace

from metarl import seeding
from metarl.errors import bad_option
from metarl.task import Split, Task, mark_split
from metarl.tasks.arrays import Array, ArrayTaskDistribution, Noise, NoiseSpec, State, Transition
from metarl.tasks.canvas import BLUE, GREY, INK, LIGHT_BLUE, ORANGE, PALE, WHITE, Canvas, Frame
from metarl.tasks.scenes import Scene

STATES, ACTIONS, HORIZON = 10, 5, 10


class TabularMDP(ArrayTaskDistribution):
    """Find out which actions pay and where they lead, in ``n`` episodes of ten steps.

    A task is the seed from which its rewards and transitions are drawn. The observation is the
    state.
    """

    render_fps = 2
    transition_noise = NoiseSpec(uniform=1, normal=1)

    def __init__(self, n: int = 10) -> None:
        if n < 1:
            raise bad_option("mdp n", n, "at least 1 episode")
        self.name = f"mdp/n{n}"
        self.horizon, self.episodes_per_trial = HORIZON, n
        self.observation_space = gym.spaces.Discrete(STATES)
        self.action_space = gym.spaces.Discrete(ACTIONS)

    def sample(self, rng: np.random.Generator, n: int, split: Split) -> list[Task]:
        """Draw seeds."""
        seeds = mark_split(rng.integers(2**52, size=n), split)
        return [Task(self.name, (("seed", seed),)) for seed in seeds.tolist()]

    def stack(self, tasks: Sequence[Task]) -> dict[str, npt.NDArray[Any]]:
        """Draw the MDPs: mean rewards and cumulative transition probabilities."""
        keys = np.array([task["seed"] for task in tasks], np.uint64)
        mean = 1 + seeding.normal(seeding.fold(keys, 0), STATES * ACTIONS)
        # Exponentials divided by their sum follow a flat Dirichlet distribution.
        weights = -np.log(seeding.uniform(seeding.fold(keys, 1), STATES * ACTIONS * STATES))
        weights = weights.reshape(-1, STATES, ACTIONS, STATES)
        cumulated = np.cumsum(weights / weights.sum(-1, keepdims=True), -1)
        return {"mean": mean.reshape(-1, STATES, ACTIONS), "cumulated": cumulated}

    def initial(self, params: Mapping[str, Array], noise: Noise) -> tuple[State, Array]:
        """Start in state 0."""
        mean = params["mean"]
        xp = array_namespace(mean)
        now = xp.zeros(mean.shape[0], dtype=xp.int64)
        return {"mean": mean, "cumulated": params["cumulated"], "now": now}, now

    def transition(self, state: State, action: Array, noise: Noise) -> Transition:
        """Pay N(μ, 1) and draw the next state."""
        mean, cumulated, now = state["mean"], state["cumulated"], state["now"]
        xp = array_namespace(mean)
        at = xp.arange(now.shape[0]) * (STATES * ACTIONS) + now * ACTIONS + action
        reward = xp.take(xp.reshape(mean, (-1,)), at) + noise.normal[:, 0]
        row = xp.take(xp.reshape(cumulated, (-1, STATES)), at, axis=0)
        later = xp.sum(xp.astype(row[:, :-1] <= noise.uniform, xp.int64), axis=-1)
        return Transition(
            state | {"now": later}, later, reward, xp.zeros_like(now, dtype=xp.bool), {}
        )

    def draw(self, scene: Scene) -> Frame:
        """Draw the states on a circle, the way of this episode, and the last action and reward.

        The last move is orange: a line, or a ring if it led back to its state. The mean reward of
        its state and action is below the reward.
        """
        size, radius = 320, 125
        canvas = Canvas(size, size)
        angles = 2 * np.pi * np.arange(STATES) / STATES
        spots = size / 2 + radius * np.stack([np.sin(angles), -np.cos(angles)], -1)
        way = [int(state["now"]) for state in scene.states]
        for move in itertools.pairwise(way):
            canvas.line(spots[list(move)], LIGHT_BLUE)
        if len(way) > 1:
            canvas.line(spots[way[-2:]], ORANGE, 3)
        for state, spot in enumerate(spots):
            now, seen = state == way[-1], state in way
            canvas.disc(spot, 18, BLUE if now else LIGHT_BLUE if seen else PALE, INK)
            if now and way[-2:] == [state, state]:
                canvas.disc(spot, 22, None, ORANGE)
            canvas.text(spot, str(state), 15, WHITE if now else INK)
        if scene.actions:
            state, action = way[-2], int(scene.actions[-1])
            words = [
                f"action {action} in state {state}",
                f"reward {scene.rewards[-1]:.2f}",
                f"on average {scene.params['mean'][state, action]:.2f}",
            ]
            canvas.box((95, 126), (225, 194), WHITE, PALE)
            for line, text in enumerate(words):
                canvas.text((size / 2, 140 + 20 * line), text, 13, INK if line < 2 else GREY)
        return canvas.frame()

"""Random tabular MDPs of the RL² paper (Duan et al., 2016, arXiv 1611.02779, section 3.2).

An MDP has ten states and five actions. The reward of a state and action is N(μ, 1) with
μ ~ N(1, 1), and the next state's probabilities are drawn from a flat Dirichlet distribution. An
episode has ten steps and starts in state 0; an agent gets n episodes with one MDP.
"""

from __future__ import annotations

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

STATES, ACTIONS, HORIZON = 10, 5, 10


class TabularMDP(ArrayTaskDistribution):
    """Find out which actions pay and where they lead, in ``n`` episodes of ten steps.

    A task is the seed from which its rewards and transitions are drawn. The observation is the
    state.
    """

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

"""Adapting to one environment that somebody has, and acting in it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch

from metarl import seeding
from metarl.errors import bad_option
from metarl.rollout import (
    Agent,
    Context,
    Keys,
    Timestep,
    collect,
    one_thread,
    torch_generator,
)
from metarl.seeding import Component, LaneGenerator, Phase
from metarl.spaces import ActionCodec, flatten_observation, flatten_observations, reported_space
from metarl.tasks import Env, Split, Task, TaskDistribution


class AdaptedPolicy:
    """An agent that has adapted to one environment, ready to act in it."""

    def __init__(
        self, agent: Agent, context: Context, timestep: Timestep | None, env: Env, seed: int
    ) -> None:
        self._agent, self._context, self._timestep = agent, context, timestep
        self._space = env.observation_space
        self._codec = ActionCodec(env.action_space)
        self._key = seeding.derive(seed, Phase.USE, Component.ACTIONS, 1)
        self._count = 0

    def act(
        self,
        observation: object,
        reward: float | None = None,
        *,
        boundary: bool = False,
        greedy: bool = False,
    ) -> Any:
        """Return an action for the environment.

        Args:
            observation: the environment's, as it comes.
            reward: of the action before, taken as 0 where it is not given; agents that learn
                while they act (RL²) want it.
            boundary: True at the first step of an episode.
            greedy: take the most likely action.
        """
        one = flatten_observation(self._space, observation)
        flat = flatten_observations(reported_space(self._space), one[None])
        before = self._timestep or _first_timestep(self._codec)
        now = before._replace(
            observation=torch.from_numpy(flat)[:, None],
            previous_reward=before.previous_reward
            if reward is None
            else torch.tensor([[reward]], dtype=torch.float32),
            boundary=before.boundary | boundary,
            active=torch.ones(1, 1, dtype=torch.bool),
        )
        keys = seeding.fold(self._key, np.full((1, 1), self._count))
        with one_thread():
            action, _, self._context = self._agent.act(
                self._context, now, LaneGenerator(keys), greedy
            )
        self._count += 1
        taken = self._codec.taken(action[:, 0].cpu().numpy())
        self._timestep = now._replace(
            previous_action=torch.from_numpy(taken)[:, None],
            previous_reward=torch.zeros(1, 1),
            boundary=torch.zeros(1, 1, dtype=torch.bool),
            trial_start=torch.zeros(1, 1, dtype=torch.bool),
        )
        return self._codec.to_env(taken)[0]

    def predict(
        self,
        observation: object,
        state: object = None,
        episode_start: object = None,
        deterministic: bool = False,
    ) -> tuple[Any, None]:
        """Act as Stable-Baselines3's models do; nothing is learned of the reward."""
        start = bool(np.any(np.asarray(episode_start))) if episode_start is not None else False
        return self.act(observation, boundary=start, greedy=deterministic), None


def _first_timestep(codec: ActionCodec) -> Timestep:
    shape = () if codec.discrete else (codec.size,)
    yes = torch.ones(1, 1, dtype=torch.bool)
    return Timestep(
        observation=torch.zeros(1, 1, 0),
        previous_action=torch.zeros(1, 1, *shape, dtype=torch.int64 if codec.discrete else None),
        previous_reward=torch.zeros(1, 1),
        boundary=yes,
        trial_start=yes,
        active=yes,
    )


def adapt(agent: Agent, env: Env, *, episodes: int, seed: int = 0) -> AdaptedPolicy:
    """Let ``agent`` adapt to one ordinary Gymnasium environment for some episodes.

    Args:
        agent: it is not changed.
        env: with the spaces the agent was trained for; episodes must end.
        episodes: of experience; an agent that adapts in rounds needs a multiple of its round.
        seed: of episodes and actions.

    Returns:
        A policy that knows what the agent has learned: ``policy.act(observation)``.
    """
    each = agent.episodes_per_adaptation or 1
    if episodes < 0 or episodes % each:
        raise bad_option("episodes", episodes, f"a multiple of {each}, 0 or more")
    tasks = _OneEnv(env)
    envs = tasks.make_vec(1, num_workers=0)
    keys = Keys.of(seed, Phase.USE, 0, 1)
    context: Context = agent.begin(1)
    timestep: Timestep | None = None
    for k in range(episodes // each):
        gathered, timestep, context = collect(
            agent, envs, [Task(tasks.name)], context, timestep, num_episodes=each, keys=keys(k)
        )
        if agent.episodes_per_adaptation is not None:
            context = agent.adapt(context, gathered, torch_generator(keys(k).adaptation))
    return AdaptedPolicy(agent, context, timestep, env, seed)


class _OneEnv(TaskDistribution):
    """An environment somebody made, as a distribution with that one task."""

    def __init__(self, env: Env) -> None:
        self.name = "given environment"
        self.env = env
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.horizon = 2**19

    def sample(self, rng: np.random.Generator, n: int, split: Split) -> list[Task]:
        return [Task(self.name)] * n

    def make(self, task: Task | None = None) -> Env:
        return _WithoutTask(self.env)


class _WithoutTask(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps the task from an environment that has one of its own."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        return self.env.reset(seed=seed)

"""Meta-World's own evaluation of our agents, for comparison with published numbers.

``metaworld.evaluation.metalearning_evaluation`` steps vector environments of the official package
and asks the agent for actions. Two things make its success rates differ from those of
:func:`metarl.evaluation.evaluate_adaptation`: it stops an episode at success, and of the slots that
share a class it counts the episodes that end first, so that quick successes fill the quota.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl import seeding
from metarl.errors import UserError
from metarl.experience.agent import Adapter, require_spaces
from metarl.experience.data import Context, Episodes, Timestep, episodes_of
from metarl.experience.lanes import Lanes, Log
from metarl.experience.rollout import torch_generator, torch_threads
from metarl.seeding import Component, LaneGenerator, Phase
from metarl.stepping.slots import close_quietly
from metarl.stepping.spaces import ActionCodec, flatten_observations
from metarl.stepping.workers import usable_cores
from metarl.task import Split
from metarl.tasks.distribution import TaskDistribution

ADAPTATION_EPISODES = 10
EVALUATION_EPISODES = 3
EVALUATIONS = 10
"""The published protocol: so many meta-batches, episodes to adapt with, and episodes after that."""


CORES_FOR_ASYNC = 4
"""From so many cores on, each slot has a process of its own; on two that is no faster."""


@dataclass(frozen=True)
class OfficialResult:
    """What Meta-World's evaluation returns."""

    success: float
    mean_return: float
    """Of the episodes it counted, which end at success."""
    by_class: Mapping[str, float]
    env_steps: int
    """Official steps that were taken."""

    def summary(self) -> dict[str, Any]:
        """Return what ``evaluation/<split>-official.json`` holds."""
        return {
            "format": 1,
            "protocol": "metaworld.evaluation.metalearning_evaluation",
            "evaluations": EVALUATIONS,
            "adaptation_episodes": ADAPTATION_EPISODES,
            "evaluation_episodes": EVALUATION_EPISODES,
            "success": self.success,
            "return": self.mean_return,
            "by_class": dict(self.by_class),
            "env_steps": self.env_steps,
        }


def can_be_official(tasks: TaskDistribution) -> bool:
    """Return whether ``tasks`` are Meta-World's."""
    return hasattr(tasks, "official_envs")


def official_steps(tasks: TaskDistribution, split: Split, meta_batch_size: int = 20) -> int:
    """Return how many steps the evaluation takes at most."""
    slots = cast(Any, tasks).official_slots(split, meta_batch_size)
    episodes = ADAPTATION_EPISODES + EVALUATION_EPISODES
    return EVALUATIONS * episodes * int(slots) * tasks.horizon


def evaluate_officially(
    agent: Adapter,
    tasks: TaskDistribution,
    *,
    split: Split = "test",
    seed: int = 0,
    evaluations: int = EVALUATIONS,
    adaptation_episodes: int = ADAPTATION_EPISODES,
    evaluation_episodes: int = EVALUATION_EPISODES,
    meta_batch_size: int = 20,
    vector_strategy: Literal["sync", "async"] | None = None,
    advance: Callable[[int], None] | None = None,
) -> OfficialResult:
    """Run ``metaworld.evaluation.metalearning_evaluation`` on ``agent``.

    Args:
        agent: it is not changed.
        tasks: Meta-World's.
        split: whose goals.
        seed: of the actions while adapting; those of the evaluation are greedy.
        evaluations: meta-batches, over which the goals are gone through.
        adaptation_episodes: sampled ones.
        evaluation_episodes: greedy ones after that, of each slot about.
        meta_batch_size: slots at most, as many for every class.
        vector_strategy: ``sync`` steps the slots in this process, ``async`` each in one of its
            own, with the same result; by default that where there are ``CORES_FOR_ASYNC``.
        advance: called with the number of steps that have been taken.

    Raises:
        UserError: where ``tasks`` are not Meta-World's.
    """
    if not can_be_official(tasks):
        raise UserError(f"--official: got {tasks.name}; accepted: tasks of Meta-World")
    require_spaces(agent, tasks.observation_space, tasks.action_space, f"--env: {tasks.name}")
    from metaworld import evaluation

    if vector_strategy is None:
        vector_strategy = "async" if len(usable_cores()) >= CORES_FOR_ASYNC else "sync"
    official_envs = cast(Any, tasks).official_envs(split, meta_batch_size, vector_strategy)
    envs = _Watched(official_envs, advance)
    try:
        with torch_threads(1):
            success, mean_return, by_class = evaluation.metalearning_evaluation(
                OfficialAgent(agent, envs, adaptation_episodes, seed),
                cast(Any, envs),
                num_evals=evaluations,
                adaptation_episodes=adaptation_episodes,
                evaluation_episodes=evaluation_episodes,
            )
    finally:
        close_quietly(envs)
    return OfficialResult(
        float(success),
        float(mean_return),
        {name: float(rate) for name, rate in sorted(by_class.items())},
        envs.steps,
    )


class _Watched(gym.vector.VectorWrapper[Any, Any, Any, Any, Any]):
    """Remembers the rewards, which the official evaluation does not hand to agents."""

    def __init__(self, env: Any, advance: Callable[[int], None] | None = None) -> None:
        super().__init__(env)
        self.rewards = np.zeros(env.num_envs, np.float32)
        self.final_observation: npt.NDArray[Any] | None = None
        """Of the episodes that have just ended."""
        self.steps = 0
        self._advance = advance

    def step(self, actions: Any) -> Any:
        """Step, and remember."""
        result = self.env.step(actions)
        self.rewards = np.asarray(result[1], np.float32)
        self.final_observation = result[4].get("final_obs")
        self.steps += len(self.rewards)
        if self._advance is not None:
            self._advance(len(self.rewards))
        return result

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of every environment."""
        return cast(Any, self.env).call(name, *args, **kwargs)

    def get_attr(self, name: str) -> Any:
        """Return an attribute of every environment."""
        return cast(Any, self.env).get_attr(name)


class _Step(NamedTuple):
    """The last actions and what they were chosen from; empty where none wait for an outcome."""

    observation: npt.NDArray[np.float32] = np.zeros(0, np.float32)
    taken: npt.NDArray[Any] = np.zeros(0)
    tensors: Mapping[str, Tensor] = MappingProxyType({})


class OfficialAgent:
    """One of our agents with the methods that Meta-World's evaluation calls.

    Every slot is a task. Adapting is what :func:`metarl.experience.rollout.run_trial` does; each
    episode of the evaluation starts from what the adaptation left.
    """

    def __init__(self, agent: Adapter, envs: _Watched, adaptation_episodes: int, seed: int) -> None:
        self._agent, self._envs, self._episodes = agent, envs, adaptation_episodes
        self._codec = ActionCodec(envs.single_action_space)
        self._seed, self._count, self._acted = seed, 0, 0
        self._size = envs.num_envs
        self.init()

    def init(self) -> None:
        """Forget everything: other tasks come."""
        self._context: Context = self._agent.begin(self._size)
        self._lanes = self._new_lanes(None)
        self._log = Log()
        self._step = _Step()
        self._final: npt.NDArray[np.float32] | None = None
        self._count += 1

    def adapt_action(
        self, observations: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[Any], dict[str, npt.NDArray[Any]]]:
        """Return sampled actions."""
        self._step = self._act(observations, greedy=False)
        return self._codec.to_env(self._step.taken), {}

    def step(self, timestep: Any) -> None:
        """See the outcome of the last actions."""
        lanes, last = self._lanes, self._step
        terminated, truncated = np.asarray(timestep.terminated), np.asarray(timestep.truncated)
        reward = np.asarray(timestep.reward, np.float32)
        if self._final is None:
            size = last.observation.shape[-1]
            self._final = np.zeros((self._size, self._episodes, size), np.float32)
        self._log.add(
            lanes,
            {
                "observation": last.observation,
                "taken": last.taken,
                "reward": reward,
                "terminated": terminated,
                "truncated": truncated,
            },
            last.tensors,
        )
        ended = lanes.active & (terminated | truncated)
        for i in np.flatnonzero(ended).tolist():
            self._final[i, lanes.episode[i]] = cast(Any, self._envs.final_observation)[i]
        lanes.advance(last.taken, reward, ended)

    def adapt(self) -> None:
        """Learn from the episodes; every evaluation starts from what is known now."""
        if not self._agent.shape.learns_while_acting:
            self._context = self._agent.adapt(
                self._context, self._gathered(), torch_generator(self._key(Component.ADAPTATION))
            )
        carried = self._lanes.timestep(np.zeros((self._size, 1), np.float32))
        carried_on = carried if self._agent.shape.sequential else None
        self._adapted = self._context, carried_on
        self._lanes, self._step = self._new_lanes(carried_on), _Step()

    def eval_action(self, observations: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        """Return greedy actions."""
        self._count_last_step()
        self._step = self._act(observations, greedy=True)
        return self._codec.to_env(self._step.taken)

    def reset(self, env_mask: npt.NDArray[np.bool_]) -> None:
        """Start evaluation episodes in these slots, from what the adaptation left."""
        if not env_mask.any():
            return
        self._count_last_step()
        context, carried = self._adapted
        rows = torch.from_numpy(env_mask)

        def choose(now: Any, then: Any) -> Any:
            return torch.where(rows.to(now.device).reshape(-1, *[1] * (now.ndim - 1)), then, now)

        self._context = pytree.tree_map(choose, self._context, context)
        self._lanes.restart(env_mask, self._new_lanes(carried))

    def _count_last_step(self) -> None:
        """Show the lanes the last actions and their rewards, which agents are not handed."""
        if self._step.taken.size:
            never = np.zeros(self._size, np.bool_)  # reset() says which episodes have ended
            self._lanes.advance(self._step.taken, self._envs.rewards, never)
            self._step = _Step()

    def _act(self, observations: npt.NDArray[np.float64], greedy: bool) -> _Step:
        flat = flatten_observations(self._envs.single_observation_space, observations)
        now = self._lanes.timestep(flat)
        own = seeding.fold(np.uint64(self._key(Component.ACTIONS)), np.arange(self._size))
        keys = seeding.fold(own, np.full(self._size, self._acted))
        episodes = seeding.fold(own, self._lanes.episode)
        generator = LaneGenerator(keys.reshape(self._size, 1), episodes.reshape(self._size, 1))
        with torch.no_grad():
            action, record, self._context = self._agent.act(self._context, now, generator, greedy)
        self._acted += 1
        tensors = {"action": action, **{f"record.{k}": value for k, value in record.items()}}
        return _Step(flat, self._codec.taken(action.flatten(0, 1).cpu().numpy()), tensors)

    def _gathered(self) -> Episodes:
        final = torch.from_numpy(cast(Any, self._final))
        return episodes_of(self._log.scatter(self._size, self._episodes), final)

    def _new_lanes(self, carried: Timestep | None) -> Lanes:
        sequential = self._agent.shape.sequential
        return Lanes(self._size, 1, self._episodes, self._codec, carried, sequential)

    def _key(self, component: Component) -> int:
        return int(seeding.derive(self._seed, Phase.USE, component, self._count) >> np.uint64(1))

"""Run Meta-World's own evaluation on our agents, to compare them with published numbers.

``metaworld.evaluation.metalearning_evaluation`` steps vector environments of the official package
and asks the agent for actions. Its success rates differ from those of
:func:`metarl.evaluation.evaluate.evaluate_adaptation` for two reasons: it ends an episode at
success, and it counts the first episodes that end among the slots of a class, so that quick
successes are counted more often than slow failures.
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
from metarl.stepping.actions import ActionCodec
from metarl.stepping.slots import close_quietly
from metarl.stepping.spaces import flatten_observations
from metarl.stepping.workers import usable_cores
from metarl.task import Split
from metarl.tasks.distribution import TaskDistribution

ADAPTATION_EPISODES = 10
"""The number of episodes to adapt with in the published protocol."""

EVALUATION_EPISODES = 3
"""The number of episodes per class that the published protocol counts after adaptation."""

EVALUATIONS = 10
"""The number of meta-batches in the published protocol."""

CORES_FOR_ASYNC = 4
"""The number of cores from which each slot gets its own process; with two, that is no faster."""


@dataclass(frozen=True)
class OfficialResult:
    """The result of Meta-World's evaluation."""

    success: float
    """The success rate of the counted episodes, averaged over classes."""
    mean_return: float
    """The mean return of the counted episodes, which end at success."""
    by_class: Mapping[str, float]
    """The success rate of each class."""
    env_steps: int
    """The number of steps taken in official environments."""

    def summary(self) -> dict[str, Any]:
        """Return the content of ``evaluation/<split>-official.json``."""
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
    """Return whether ``tasks`` are tasks of Meta-World, which alone have an official evaluation."""
    return hasattr(tasks, "official_envs")


def official_steps(tasks: TaskDistribution, split: Split, meta_batch_size: int = 20) -> int:
    """Return an upper bound on the number of steps that the official evaluation takes."""
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
        agent: the agent to evaluate; it is not changed.
        tasks: tasks of Meta-World.
        split: the split that the goals come from.
        seed: the seed of the actions during adaptation; afterwards, actions are greedy.
        evaluations: the number of meta-batches; slots go on to their next goals in each.
        adaptation_episodes: the number of episodes that each slot adapts with, with sampled
            actions.
        evaluation_episodes: the number of episodes per class that are counted after adaptation.
        meta_batch_size: the largest number of slots; every class gets equally many.
        vector_strategy: ``sync`` steps all slots in this process, ``async`` each in a process of
            its own; the result is the same (default: ``async`` from ``CORES_FOR_ASYNC`` cores).
        advance: a function that is called with the number of steps just taken.

    Raises:
        UserError: if ``tasks`` are not tasks of Meta-World, or have other spaces than the agent.
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
    """Remembers the rewards, which the official evaluation does not pass to agents."""

    def __init__(self, env: Any, advance: Callable[[int], None] | None = None) -> None:
        super().__init__(env)
        self.rewards = np.zeros(env.num_envs, np.float32)
        self.final_observation: npt.NDArray[Any] | None = None
        """The last observations of the episodes that ended in the last step."""
        self.steps = 0
        self._advance = advance

    def step(self, actions: Any) -> Any:
        """Step all environments, and remember the rewards and the final observations."""
        result = self.env.step(actions)
        self.rewards = np.asarray(result[1], np.float32)
        self.final_observation = result[4].get("final_obs")
        self.steps += len(self.rewards)
        if self._advance is not None:
            self._advance(len(self.rewards))
        return result

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of every environment and return the results."""
        return cast(Any, self.env).call(name, *args, **kwargs)

    def get_attr(self, name: str) -> Any:
        """Return an attribute of every environment."""
        return cast(Any, self.env).get_attr(name)


class _Step(NamedTuple):
    """The last actions and what they were chosen from; empty if no action awaits its outcome."""

    observation: npt.NDArray[np.float32] = np.zeros(0, np.float32)
    taken: npt.NDArray[Any] = np.zeros(0)
    tensors: Mapping[str, Tensor] = MappingProxyType({})


class OfficialAgent:
    """Gives one of our agents the methods that Meta-World's evaluation calls.

    Every slot is a task. The agent adapts as in :func:`metarl.experience.rollout.run_trial`; each
    evaluation episode starts from what the agent knows after adaptation.
    """

    def __init__(self, agent: Adapter, envs: _Watched, adaptation_episodes: int, seed: int) -> None:
        self._agent, self._envs, self._episodes = agent, envs, adaptation_episodes
        self._codec = ActionCodec(envs.single_action_space)
        self._seed, self._count, self._acted = seed, 0, 0
        self._size = envs.num_envs
        self.init()

    def init(self) -> None:
        """Start a new meta-batch: forget the tasks of the last one."""
        self._context: Context = self._agent.begin(self._size)
        self._lanes = self._new_lanes(None)
        self._log = Log()
        self._step = _Step()
        self._final: npt.NDArray[np.float32] | None = None
        self._count += 1

    def adapt_action(
        self, observations: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[Any], dict[str, npt.NDArray[Any]]]:
        """Return sampled actions to adapt with."""
        self._step = self._act(observations, greedy=False)
        return self._codec.to_env(self._step.taken), {}

    def step(self, timestep: Any) -> None:
        """Record the outcome of the last actions."""
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
        """Adapt to the episodes; every evaluation episode starts from what is known then."""
        if not self._agent.shape.learns_while_acting:
            self._context = self._agent.adapt(
                self._context, self._gathered(), torch_generator(self._key(Component.ADAPTATION))
            )
        carried = self._lanes.timestep(np.zeros((self._size, 1), np.float32))
        carried_on = carried if self._agent.shape.sequential else None
        self._adapted = self._context, carried_on
        self._lanes, self._step = self._new_lanes(carried_on), _Step()

    def eval_action(self, observations: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        """Return greedy actions to evaluate."""
        self._count_last_step()
        self._step = self._act(observations, greedy=True)
        return self._codec.to_env(self._step.taken)

    def reset(self, env_mask: npt.NDArray[np.bool_]) -> None:
        """Start evaluation episodes in these slots, from what is known after adaptation."""
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
        """Pass the last actions and their rewards on to the lanes.

        The official evaluation does not report the outcome of evaluation steps to the agent.
        """
        if self._step.taken.size:
            never = np.zeros(self._size, np.bool_)  # Meta-World calls reset() for ended episodes.
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

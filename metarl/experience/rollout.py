"""The one loop that collects experience for every agent, in training and evaluation."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.utils import _pytree as pytree

from metarl import seeding
from metarl.experience.agent import Adapter, TrialShape, tell_tasks
from metarl.experience.changes import sections_of
from metarl.experience.data import (
    Change,
    Context,
    Episodes,
    Timestep,
    Trial,
    concatenate_rows,
    episodes_of,
    join,
    join_episodes,
    require_finite,
    take_rows,
)
from metarl.experience.lanes import Keys, Lanes, Log, TrialKeys
from metarl.seeding import LaneGenerator
from metarl.stepping.actions import ActionCodec
from metarl.stepping.spaces import flatten_observations
from metarl.stepping.vector import SlotVectorEnv
from metarl.task import Task

Wave: TypeAlias = tuple[Episodes, Timestep | None, Context]
"""The experience with some tasks, the ``timestep`` for the next round, and the context."""

Seconds: TypeAlias = dict[str, float]
"""Time that has been spent, in seconds: ``step`` in environments, ``act`` in the agent."""


def run_trial(
    agent: Adapter,
    envs: SlotVectorEnv,
    tasks: Sequence[Task],
    *,
    shape: TrialShape,
    keys: TrialKeys,
    greedy: bool = False,
    change: Change | None = None,
) -> Trial:
    """Run a trial: the agent begins with prior knowledge only, and adapts between rounds.

    Args:
        agent: the agent that acts and adapts; it is not changed.
        envs: environments of the tasks, in any number of slots.
        tasks: the tasks of the trial.
        shape: the episodes of the trial, and how they are divided into rounds.
        keys: the origin of all random numbers.
        greedy: whether the most likely actions are taken.
        change: other tasks of later episodes. The agent is not told that its task changes, unless
            it is an oracle. Agents whose episodes run side by side get them with a new round.

    Raises:
        DivergenceError: if an observation, a reward, an action or the context is not finite.
    """
    seconds = {"step": 0.0, "act": 0.0}
    context: Context = tell_tasks(agent, agent.begin(len(tasks)), tasks)
    timestep: Timestep | None = None
    rounds = []
    for k in range(shape.num_rounds):
        own = keys.round(k, shape)
        parts = []
        for section in sections_of(k, shape, list(tasks), change):
            if section.changes:
                context = tell_tasks(agent, context, section.tasks)
            part, timestep, context = collect(
                agent,
                envs,
                section.tasks,
                context,
                timestep,
                num_episodes=section.num_episodes,
                sequential=shape.sequential,
                keys=own._replace(first_episode=own.first_episode + section.first_episode),
                greedy=greedy,
                seconds=seconds,
            )
            parts.append(part)
        episodes = join_episodes(parts)
        rounds.append(episodes)
        if k < shape.num_adaptations:
            context = adapted(agent, context, episodes, own, tasks)
    return Trial(list(tasks), rounds, context, seconds, change)


def adapted(
    agent: Adapter, context: Context, episodes: Episodes, keys: Keys, tasks: Sequence[Task]
) -> Context:
    """Return the agent's context after it has adapted to the episodes of a round.

    Raises:
        DivergenceError: if the context is no longer finite.
    """
    context = agent.adapt(context, episodes, torch_generator(keys.adaptation))
    _require_finite_context(context, tasks)
    return context


def collect(
    agent: Adapter,
    envs: SlotVectorEnv,
    tasks: Sequence[Task],
    context: Context,
    timestep: Timestep | None,
    *,
    num_episodes: int,
    sequential: bool,
    keys: Keys,
    greedy: bool = False,
    seconds: Seconds | None = None,
) -> Wave:
    """Collect one round: ``num_episodes`` of every task, in waves if there are fewer slots.

    Args:
        agent: the agent that acts; it is not changed.
        envs: environments of the tasks. The number of slots may move last bits of what a network
            computes, whose batches it sizes; the experience does not depend on it otherwise.
        tasks: one task for each row of ``context``.
        context: what the agent knows, one row per task.
        timestep: the timestep that the previous round returned, or None at the start of a trial;
            it carries a sequential agent's last action and reward into this round.
        num_episodes: the number of episodes of every task.
        sequential: whether a task's episodes run one after another in one lane.
        keys: the origin of this round's random numbers.
        greedy: whether the most likely actions are taken.
        seconds: the time spent so far, to which this round's is added.

    Returns:
        The experience, the ``timestep`` for the next round, and the context after this one.

    Raises:
        DivergenceError: if an observation, a reward, an action or the context is not finite.
    """
    lanes = 1 if sequential else min(num_episodes, max(1, envs.num_envs // len(tasks)))
    rows_at_once = envs.num_envs // lanes
    waves: list[Wave] = []
    with torch_threads(1), torch.no_grad():
        for start in range(0, len(tasks), rows_at_once):
            rows = slice(start, start + rows_at_once)
            waves.append(
                _collect_wave(
                    agent,
                    envs,
                    tasks[rows],
                    take_rows(context, rows),
                    take_rows(timestep, rows),
                    num_episodes,
                    lanes,
                    sequential,
                    keys.rows(rows),
                    greedy,
                    {"step": 0.0, "act": 0.0} if seconds is None else seconds,
                )
            )
    episodes, timesteps, contexts = zip(*waves, strict=True)
    gathered = join(episodes, axis=0)
    require_finite("an observation", gathered.observation, tasks)
    require_finite("a reward", gathered.reward, tasks)
    if not sequential:
        return gathered, None, context
    context = concatenate_rows(contexts)
    _require_finite_context(context, tasks)
    return gathered, concatenate_rows(timesteps), context


def _require_finite_context(context: Context, tasks: Sequence[Task]) -> None:
    for part in pytree.tree_leaves(context):
        require_finite("the agent's context", part, tasks)


def _collect_wave(
    agent: Adapter,
    envs: SlotVectorEnv,
    tasks: Sequence[Task],
    context: Context,
    timestep: Timestep | None,
    num_episodes: int,
    num_lanes: int,
    sequential: bool,
    keys: Keys,
    greedy: bool,
    seconds: Seconds,
) -> Wave:
    """Run ``num_episodes`` of every task; there are enough slots for all tasks at once."""
    codec = ActionCodec(envs.single_action_space)
    space = envs.single_observation_space
    carried = timestep if sequential else None
    lanes = Lanes(len(tasks), num_lanes, num_episodes, codec, carried, sequential)
    used = envs.slots_for(lanes.size)
    log = Log()
    action_keys = np.zeros(lanes.size, np.uint64)

    def start_episodes(which: npt.NDArray[np.bool_], new: dict[str, Any]) -> npt.NDArray[Any]:
        mask, seeds = np.zeros(envs.num_envs, np.bool_), np.zeros(envs.num_envs, np.uint64)
        mask[used] = which
        seeds[used] = keys.environment_seeds(lanes)
        action_keys[:] = keys.action_keys(lanes)
        options = {"reset_mask": mask} | new
        started = time.perf_counter()
        observation, _ = envs.reset(seed=cast(Any, seeds), options=options)
        seconds["step"] += time.perf_counter() - started
        return flatten_observations(space, observation[used])

    new_tasks: list[Task | None] = [None] * envs.num_envs
    slots = np.arange(envs.num_envs)[used]
    for lane in np.flatnonzero(lanes.active).tolist():
        new_tasks[slots[lane]] = tasks[lane // num_lanes]
    observation = start_episodes(lanes.active, {"tasks": new_tasks})
    final_observation = np.zeros(
        (len(tasks), num_episodes, observation.shape[1]), observation.dtype
    )
    actions = np.zeros((envs.num_envs, *lanes.previous_action.shape[1:]), codec.dtype)
    while lanes.active.any():
        now = lanes.timestep(observation)
        generator = LaneGenerator(
            seeding.fold(action_keys, lanes.time).reshape(lanes.shape),
            action_keys.reshape(lanes.shape),
        )
        started = time.perf_counter()
        action, record, context = agent.act(context, now, generator, greedy)
        chosen = action.flatten(0, 1).cpu().numpy()
        if not codec.discrete and not np.isfinite(chosen.sum()):
            idle = ~now.active.unsqueeze(-1)  # Idle lanes may hold anything.
            require_finite("an observation", now.observation.masked_fill(idle, 0.0), tasks)
            ignored = action.masked_fill(idle.to(action.device), 0.0)
            require_finite("the agent's action", ignored, tasks)
        taken = codec.taken(chosen)
        acted = time.perf_counter()
        actions[used] = taken
        next_observation, rewards, terminated, truncated, info = envs.step(codec.to_env(actions))
        seconds["act"] += acted - started
        seconds["step"] += time.perf_counter() - acted
        reward = np.asarray(rewards[used], np.float32)
        ended = lanes.active & (terminated | truncated)[used]
        log.add(
            lanes,
            {
                "observation": observation,
                "taken": taken,
                "reward": reward,
                "terminated": terminated[used],
                "truncated": truncated[used],
                **{f"info.{key}": info[key][used] for key in info if key[0] != "_"},
            },
            {"action": action, **{f"record.{name}": value for name, value in record.items()}},
        )
        observation = flatten_observations(space, next_observation[used])
        final_observation[lanes.row[ended], lanes.episode[ended]] = observation[ended]
        again = lanes.advance(taken, reward, ended)
        if again.any():
            observation = start_episodes(again, {})

    episodes = episodes_of(
        log.scatter(len(tasks), num_episodes), torch.from_numpy(final_observation)
    )
    return episodes, lanes.timestep(observation) if sequential else None, context


def torch_generator(key: int) -> torch.Generator:
    """Return a torch generator on the CPU seeded with ``key``."""
    return torch.Generator().manual_seed(key % 2**63)


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Run the body with this number of torch threads: small batches are slower with more."""
    before = torch.get_num_threads()
    if before == number:
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)

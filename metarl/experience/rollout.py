"""The one loop that gathers experience for every agent, in training and evaluation."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.utils import _pytree as pytree

from metarl import seeding
from metarl.experience.agent import Agent
from metarl.experience.data import (
    Context,
    Episodes,
    Timestep,
    Trial,
    concatenate_rows,
    episodes_of,
    join,
    require_finite,
    take_rows,
)
from metarl.experience.lanes import Lanes, Log
from metarl.seeding import Component, LaneGenerator, Phase
from metarl.stepping.spaces import ActionCodec, flatten_observations
from metarl.stepping.vector import SlotVectorEnv, shares
from metarl.task import Task


class Keys(NamedTuple):
    """Where the random numbers of one round come from, ``[task]`` each."""

    environment: seeding.KeyArray
    action: seeding.KeyArray
    adaptation: int

    @staticmethod
    def of(
        seed: int, phase: Phase, iteration: int, tasks: npt.NDArray[np.int64] | int
    ) -> Callable[[int], Keys]:
        """Return the keys of each round; ``tasks`` are the numbers the tasks go by."""
        numbers = np.arange(tasks) if isinstance(tasks, int) else tasks

        def of_round(adaptation: int) -> Keys:
            def key(component: Component) -> np.uint64:
                return seeding.derive(seed, phase, component, iteration, adaptation)

            return Keys(
                seeding.fold(key(Component.ENVIRONMENT), numbers),
                seeding.fold(key(Component.ACTIONS), numbers),
                int(key(Component.ADAPTATION) >> np.uint64(1)),
            )

        return of_round

    def rows(self, index: slice) -> Keys:
        """Return the keys of some of the tasks."""
        return Keys(self.environment[index], self.action[index], self.adaptation)


def collect(
    agent: Agent,
    envs: SlotVectorEnv,
    tasks: Sequence[Task],
    context: Context,
    timestep: Timestep | None,
    *,
    num_episodes: int,
    keys: Keys,
    greedy: bool = False,
    lookahead: int = 1,
) -> tuple[Episodes, Timestep | None, Context]:
    """Gather one round: ``num_episodes`` of every task, in waves where slots are fewer.

    Args:
        agent: acts; it is not changed.
        envs: as many slots as there are; they need not divide anything.
        tasks: one per row of ``context``.
        context: what the agent knows, one row per task.
        timestep: what the round before returned, None at the start of a trial: the last
            action and reward reach a sequential agent across calls through it.
        num_episodes: of every task.
        keys: of this round's random numbers; the experience does not depend on the slots.
        greedy: take the most likely action.
        lookahead: parts of the slots that take turns: one acts while the others step.

    Returns:
        The experience, what the next round takes as ``timestep``, and the context after it.
    """
    parts = envs.parts(min(lookahead, len(tasks), envs.num_envs))
    with one_thread(), torch.no_grad():
        results = _in_turn(
            [
                _collect_part(
                    agent,
                    part,
                    tasks[rows],
                    take_rows(context, rows),
                    take_rows(timestep, rows),
                    num_episodes,
                    keys.rows(rows),
                    greedy,
                )
                for part, rows in zip(parts, shares(len(tasks), len(parts)), strict=True)
            ]
        )
    episodes, timesteps, contexts = zip(*itertools.chain.from_iterable(results), strict=True)
    return (
        join(episodes, axis=0),
        None if timesteps[0] is None else concatenate_rows(timesteps),
        concatenate_rows(contexts) if agent.sequential else context,
    )


_Wave: TypeAlias = tuple[Episodes, Timestep | None, Context]


def _in_turn(
    running: Sequence[Generator[None, None, list[_Wave]]],
) -> list[list[_Wave]]:
    """Run generators in turn to their ends: while one's environments step, another acts."""
    results: dict[int, list[_Wave]] = {}
    while len(results) < len(running):
        for i, part in enumerate(running):
            if i not in results:
                try:
                    next(part)
                except StopIteration as end:
                    results[i] = end.value
    return [results[i] for i in range(len(running))]


def _collect_part(
    agent: Agent,
    envs: SlotVectorEnv,
    tasks: Sequence[Task],
    context: Context,
    timestep: Timestep | None,
    num_episodes: int,
    keys: Keys,
    greedy: bool,
) -> Generator[None, None, list[_Wave]]:
    """Gather these tasks' episodes in waves; yields while the environments step."""
    lanes = 1 if agent.sequential else min(num_episodes, max(1, envs.num_envs // len(tasks)))
    wave = envs.num_envs // lanes
    waves = []
    for start in range(0, len(tasks), wave):
        rows = slice(start, start + wave)
        waves.append(
            (
                yield from _collect_wave(
                    agent,
                    envs,
                    tasks[rows],
                    take_rows(context, rows),
                    take_rows(timestep, rows),
                    num_episodes,
                    lanes,
                    keys.rows(rows),
                    greedy,
                )
            )
        )
    return waves


def run_trial(
    agent: Agent,
    envs: SlotVectorEnv,
    tasks: Sequence[Task],
    *,
    num_adaptations: int,
    episodes_per_round: int,
    keys: Callable[[int], Keys],
    greedy: bool = False,
    lookahead: int = 1,
) -> Trial:
    """Meet ``tasks`` with prior knowledge only, then adapt ``num_adaptations`` times.

    ``keys`` gives the randomness of each round (:meth:`Keys.of`).
    """
    context, timestep = agent.begin(len(tasks)), None
    rounds = []
    for k in range(num_adaptations + 1):
        episodes, timestep, context = collect(
            agent,
            envs,
            tasks,
            context,
            timestep,
            num_episodes=episodes_per_round,
            keys=keys(k),
            greedy=greedy,
            lookahead=lookahead,
        )
        rounds.append(episodes)
        require_finite("an observation", episodes.observation, tasks)
        require_finite("a reward", episodes.reward, tasks)
        if k < num_adaptations:
            context = agent.adapt(context, episodes, torch_generator(keys(k).adaptation))
        for part in pytree.tree_leaves(context):
            require_finite("the agent's context", part, tasks)
    return Trial(list(tasks), rounds, context)


def torch_generator(key: int) -> torch.Generator:
    """Return a torch generator on the CPU seeded with ``key``."""
    return torch.Generator().manual_seed(key % 2**63)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the body with one torch thread: small batches are slower with more."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _collect_wave(
    agent: Agent,
    envs: SlotVectorEnv,
    tasks: Sequence[Task],
    context: Context,
    timestep: Timestep | None,
    num_episodes: int,
    num_lanes: int,
    keys: Keys,
    greedy: bool,
) -> Generator[None, None, _Wave]:
    """Run ``num_episodes`` of every task, all of which have their slots at once."""
    codec = ActionCodec(envs.single_action_space)
    space = envs.single_observation_space
    carried = timestep if agent.sequential else None
    lanes = Lanes(len(tasks), num_lanes, num_episodes, codec, carried, agent.sequential)
    used = envs.slots_for(lanes.size)
    log = Log()
    action_keys = np.zeros(lanes.size, np.uint64)

    def start(which: npt.NDArray[np.bool_], new: dict[str, Any]) -> npt.NDArray[np.float32]:
        mask, seeds = np.zeros(envs.num_envs, np.bool_), np.zeros(envs.num_envs, np.uint64)
        mask[used] = which
        seeds[used] = seeding.fold(keys.environment[lanes.row], lanes.episode)
        action_keys[:] = seeding.fold(keys.action[lanes.row], lanes.episode)
        options = {"reset_mask": mask} | new
        started = time.perf_counter()
        observation, _ = envs.reset(seed=cast(Any, seeds), options=options)
        envs.seconds["step"] += time.perf_counter() - started
        return flatten_observations(space, observation[used])

    new_tasks: list[Task | None] = [None] * envs.num_envs
    slots = np.arange(envs.num_envs)[used]
    for lane in np.flatnonzero(lanes.active).tolist():
        new_tasks[slots[lane]] = tasks[lane // num_lanes]
    observation = start(lanes.active, {"tasks": new_tasks})
    final_observation = np.zeros((len(tasks), num_episodes, observation.shape[1]), np.float32)
    actions = np.zeros((envs.num_envs, *lanes.previous_action.shape[1:]), codec.dtype)
    while lanes.active.any():
        now = lanes.timestep(observation)
        generator = LaneGenerator(seeding.fold(action_keys, lanes.time).reshape(lanes.shape))
        started = time.perf_counter()
        action, record, context = agent.act(context, now, generator, greedy)
        chosen = action.flatten(0, 1).cpu().numpy()
        if not codec.discrete and not np.isfinite(chosen.sum()):
            idle = ~now.active.unsqueeze(-1)  # these may hold anything
            require_finite("an observation", now.observation.masked_fill(idle, 0.0), tasks)
            ignored = action.masked_fill(idle.to(action.device), 0.0)
            require_finite("the agent's action", ignored, tasks)
        taken = codec.taken(chosen)
        acted = time.perf_counter()
        actions[used] = taken
        envs.step_async(codec.to_env(actions))
        envs.seconds["act"] += acted - started
        envs.seconds["step"] += time.perf_counter() - acted
        yield
        started = time.perf_counter()
        next_observation, rewards, terminated, truncated, info = envs.step_wait()
        envs.seconds["step"] += time.perf_counter() - started
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
            observation = start(again, {})

    episodes = episodes_of(
        log.scatter(len(tasks), num_episodes), torch.from_numpy(final_observation)
    )
    return episodes, lanes.timestep(observation) if agent.sequential else None, context

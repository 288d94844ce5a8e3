"""Tests whether each parameter of a task distribution changes what an agent experiences."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any, cast

import numpy as np

from metarl import seeding
from metarl.stepping.actions import ActionRows
from metarl.stepping.vector import SlotVectorEnv
from metarl.task import SPLITS, Task
from metarl.tasks.distribution import TaskDistribution

NUM_EPISODES = 6
"""Number of episodes in which a parameter may show its effect."""


def effects(
    tasks: TaskDistribution,
    *,
    num_episodes: int = NUM_EPISODES,
    seconds: float = math.inf,
    envs: SlotVectorEnv | None = None,
) -> dict[str, bool | None]:
    """Return for each parameter whether tasks at the two ends of its range behave differently.

    Two slots hold tasks that differ in one parameter (:meth:`TaskDistribution.ends`) and get the
    same seeds and the same random actions. A parameter shows no effect if observations, rewards,
    ends of episodes and ``info_keys`` are the same bits in all episodes. Random actions may never
    reach the place where a parameter matters, so no effect is a sign, not a proof.

    Args:
        tasks: the distribution to test.
        num_episodes: episodes for every parameter.
        seconds: time to spend in all; a parameter without an effect until then gets None.
        envs: environments of the distribution, of which the first two are used if there are two;
            by default two are made in this process.
    """
    ends = tasks.ends()
    if not ends:
        return {}
    with ExitStack() as stack:
        if envs is None or envs.num_envs < 2:
            envs = stack.enter_context(closing(tasks.make_vec(2, num_workers=0)))
        deadline = time.monotonic() + seconds
        return {
            name: _differ(envs, pair, number, num_episodes, deadline)
            for number, (name, pair) in enumerate(ends.items())
        }


def _differ(
    envs: SlotVectorEnv, pair: tuple[Task, Task], number: int, num_episodes: int, deadline: float
) -> bool | None:
    """Return whether two tasks gave different bits in any episode; None if the time ran out."""
    others = envs.num_envs - 2
    used = np.arange(envs.num_envs) < 2
    for episode in range(num_episodes):
        seed = seeding.derive(0, number, episode)
        observation, _ = envs.reset(
            seed=cast(Any, np.full(envs.num_envs, seed, np.uint64)),
            options={"tasks": [*pair, *[None] * others], "reset_mask": used},
        )
        if not _same(observation):
            return True
        # In every other episode, repeat each action for some steps: that explores further.
        actions = _actions(envs, int(seed % 2**31), keep=8 if episode % 2 else 1)
        ended = False
        while not ended:
            if time.monotonic() >= deadline:
                return None
            observation, reward, terminated, truncated, info = envs.step(next(actions))
            if not all(map(_same, (observation, reward, terminated, truncated, *info.values()))):
                return True
            ended = bool((terminated | truncated)[0])
    return False


def _actions(envs: SlotVectorEnv, seed: int, keep: int) -> Iterator[Any]:
    space = copy.deepcopy(envs.single_action_space)
    space.seed(seed)
    rows = ActionRows(space)
    while True:
        action = rows.row(space.sample())
        for _ in range(keep):
            yield np.stack([action] * envs.num_envs)


def _same(pair: Any) -> bool:
    return np.array_equal(pair[0], pair[1])


def shared_tasks(tasks: TaskDistribution, n: int = 1000) -> list[str]:
    """Return a message for each pair of splits that share tasks without declaring it.

    A message says how many of ``n`` tasks drawn from each split are shared, and names one.
    """
    if tasks.shared_split:
        return []
    drawn = {split: tasks.sample(np.random.default_rng(7), n, split) for split in SPLITS}
    found = []
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        common = set(drawn[cast(Any, first)]) & set(drawn[cast(Any, second)])
        declared = tasks.shared_validation and (first, second) == ("train", "validation")
        if common and not declared:
            found.append(
                f"{first} and {second} share {len(common)} of {n} tasks drawn with equal seeds, "
                f"such as {next(iter(common))}"
            )
    return found


def warn_of_tasks(
    tasks: TaskDistribution, *, seconds: float, envs: SlotVectorEnv | None = None
) -> None:
    """Warn of parameters without effect and of shared tasks before a long training begins.

    Args:
        tasks: the distribution that an agent is about to be trained on.
        seconds: time to spend on stepping environments.
        envs: environments of the distribution to step; by default two are made.
    """
    for line in shared_tasks(tasks):
        warnings.warn(f"{tasks.name}: {line}", stacklevel=2)
    for name, changes in effects(tasks, seconds=seconds, envs=envs).items():
        if changes is None:
            warnings.warn(
                f"{tasks.name}: `{name}` has changed nothing within {seconds:g} s, and was not "
                "tested further (metarl.check_task_distribution has no time limit)",
                stacklevel=2,
            )
        elif not changes:
            warnings.warn(
                f"{tasks.name}: `{name}` changed nothing in {NUM_EPISODES} episodes of random "
                "actions from one end to the other: it may have no effect (--no-check skips this "
                "test)",
                stacklevel=2,
            )

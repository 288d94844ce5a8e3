"""Measure what an agent's context is worth: the same episodes with the contexts of controls."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from metarl import seeding
from metarl.errors import bad_option, require_seed
from metarl.evaluation.curve import AdaptationCurve
from metarl.evaluation.drawn_tasks import default_tasks, draw_tasks, kinds_of
from metarl.evaluation.evaluate import (
    curve_of,
    evaluation_shape,
    evaluation_slots,
    tasks_together,
)
from metarl.evaluation.points import points_of
from metarl.experience.agent import Adapter, require_spaces
from metarl.experience.changes import partners_of
from metarl.experience.controls import Batch, Control, run_controlled
from metarl.experience.lanes import TrialKeys
from metarl.seeding import Component, Phase
from metarl.stepping.disturbances import Disturbances, disturbed
from metarl.stepping.options import Workers
from metarl.stepping.slots import close_quietly
from metarl.stepping.vector import SlotVectorEnv
from metarl.task import Split
from metarl.tasks.distribution import TaskDistribution


def control_partners(
    tasks: TaskDistribution, *, split: Split, num_tasks: int, seed: int
) -> npt.NDArray[np.int64]:
    """Return, for every task of an evaluation, the number of the one whose context it is given.

    Raises:
        UserError: if no two of the tasks differ.
    """
    drawn = draw_tasks(tasks, split, np.arange(num_tasks), seed, Phase.EVALUATE, 0)
    return partners_of(drawn, seeding.numpy_generator(seed, Phase.EVALUATE, Component.PARTNERS))


def control_curves(
    agent: Adapter,
    tasks: TaskDistribution,
    *,
    split: Split = "test",
    num_tasks: int | None = None,
    num_episodes: int | None = None,
    seed: int = 0,
    greedy: bool = False,
    workers: Workers | None = None,
    envs: SlotVectorEnv | None = None,
    disturbances: Disturbances | None = None,
    advance: Callable[[int], None] | None = None,
) -> dict[Control, AdaptationCurve]:
    """Measure an adaptation curve with the agent's own contexts, and those of all controls.

    The curve ``own`` is the one of :func:`metarl.evaluate_adaptation` with the same arguments, to
    the last bit; the others are of the same tasks, with the same random numbers in every episode
    (:func:`metarl.experience.controls.run_controlled`). All are as long as ``own``.

    Args:
        agent: the agent to evaluate; it is not changed.
        tasks: the distribution that the tasks come from.
        split: the split that the tasks come from.
        num_tasks: the number of tasks (default: as in an evaluation). The contexts of all at all
            points of the trial are kept in memory.
        num_episodes: the number of episodes of a trial (default: as in an evaluation).
        seed: the seed of tasks, episodes, actions, and of which task gets whose context.
        greedy: whether the most likely actions are taken.
        workers: how environments are stepped; of it ``num_envs`` alone moves last bits of results.
        envs: environments that ``tasks.make_vec`` made; they are left open.
        disturbances: noise, delays and losses between the environments and the agent.
        advance: a function that is called with the number of trials just finished; every task has
            one in each of :func:`metarl.experience.controls.controls_of`.

    Returns:
        A curve for each control; ``reset-every-step`` is only for sequential agents.

    Raises:
        UserError: if an argument is out of range, if the tasks do not have the agent's spaces, or
            if no two of them differ.
    """
    require_spaces(agent, tasks.observation_space, tasks.action_space, f"--env: {tasks.name}")
    require_seed("--seed", seed)
    disturbances = disturbances or Disturbances()
    disturbances.require_effect(tasks, tasks.horizon)
    shape = evaluation_shape(agent, tasks, num_episodes)
    num_tasks = default_tasks(tasks, split) if num_tasks is None else num_tasks
    if num_tasks < 2:
        raise bad_option("--evaluation-tasks", num_tasks, "at least 2 with --controls")
    started = time.perf_counter()
    workers = workers or Workers()
    together = tasks_together(agent, tasks, num_tasks, workers)
    batches, kinds = [], list[str]()
    for start in range(0, num_tasks, together):
        numbers = np.arange(start, min(start + together, num_tasks))
        keys = TrialKeys(seed, Phase.EVALUATE, 0, numbers)
        batches.append(Batch(draw_tasks(tasks, split, numbers, seed, Phase.EVALUATE, 0), keys))
        kinds += kinds_of(tasks, batches[-1].tasks)
    partners = control_partners(tasks, split=split, num_tasks=num_tasks, seed=seed)
    given = envs
    if envs is None:
        slots = evaluation_slots(agent, tasks, num_tasks, workers, num_episodes=num_episodes)
        envs = workers.make_vec(tasks, slots)
    try:
        stepped = disturbed(envs, disturbances)
        run = run_controlled(
            agent,
            stepped,
            batches,
            shape,
            partners,
            greedy=greedy,
            one_step=tasks.horizon == 1,
            advance=advance,
        )
    finally:
        if given is None:
            close_quietly(envs)
    curves = {}
    for control, every in run.items():
        parts = [points_of(shape, rounds) for rounds in every]
        curve = curve_of(agent, tasks, kinds, parts, split=split, seed=seed, greedy=greedy)
        conditions = disturbances.conditions() | control_conditions(control)
        seconds = time.perf_counter() - started
        curves[control] = replace(curve, conditions=conditions, seconds=seconds)
    return curves


def control_conditions(control: Control) -> dict[str, str]:
    """Return what distinguishes the curve of a control from the agent's own."""
    return {} if control == "own" else {"context": control}

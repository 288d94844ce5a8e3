"""Measure how well an agent does on tasks it has not seen, as it gains experience of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metarl import seeding
from metarl.errors import bad_option, require_seed
from metarl.evaluation.curve import AdaptationCurve, Score
from metarl.evaluation.drawn_tasks import (
    default_tasks,
    draw_tasks,
    kinds_of,
    partners_in_blocks,
    strata_of,
)
from metarl.evaluation.points import Points, Unfinished, adaptation_points, measured
from metarl.experience.agent import Adapter, TaskSpec, TrialShape, require_spaces, tell_tasks
from metarl.experience.changes import FLAG, require_change
from metarl.experience.data import Change, Context, Metrics, Timestep
from metarl.experience.lanes import TrialKeys
from metarl.experience.rollout import adapted, collect, run_trial
from metarl.seeding import Component, Phase
from metarl.stepping.disturbances import Disturbances, disturbed
from metarl.stepping.options import Workers
from metarl.stepping.slots import close_quietly
from metarl.stepping.vector import SlotVectorEnv
from metarl.task import Split, Task
from metarl.tasks.distribution import TaskDistribution


def evaluate_adaptation(
    agent: Adapter,
    tasks: TaskDistribution,
    *,
    split: Split = "test",
    num_tasks: int | None = None,
    num_episodes: int | None = None,
    seed: int = 0,
    greedy: bool = False,
    score: Score = "adapting-episodes",
    workers: Workers | None = None,
    envs: SlotVectorEnv | None = None,
    disturbances: Disturbances | None = None,
    change_task_after: int = 0,
    agent_name: str = "",
    phase: Phase = Phase.EVALUATE,
    iteration: int = 0,
    advance: Callable[[int], None] | None = None,
    unfinished: Unfinished | None = None,
) -> AdaptationCurve:
    """Let an agent adapt to tasks it has not seen, and measure how its return changes.

    Args:
        agent: the agent to evaluate; it is not changed.
        tasks: the distribution that the tasks come from.
        split: the split that the tasks come from. A finite task set is evaluated in its own
            order. If ``num_tasks`` is larger than the set, it goes on with further tasks where the
            set was drawn (Meta-World's goals), and otherwise from its start again.
        num_tasks: the number of tasks (default: :func:`default_tasks`). Only the results take
            more memory if there are more tasks.
        num_episodes: the number of episodes of a whole trial, including those of the last point
            (default: see :func:`evaluation_shape`). An agent that adapts every 20 episodes has
            points at 0, 20, 40 and 60 in a trial of 80 episodes.
        seed: the seed of tasks, episodes and actions.
        greedy: whether the agent takes its most likely actions instead of sampling them.
        score: ``adapting-episodes`` measures the episodes that the agent also adapts on;
            ``greedy-copy`` measures one greedy episode per point, which the agent forgets and
            which starts in the same way at every point.
        workers: how environments are stepped; of it ``num_envs`` alone moves last bits of results.
        envs: environments that ``tasks.make_vec`` made; they are left open.
        disturbances: noise, delays and losses between the environments and the agent.
        change_task_after: the number of episodes after which the task of every trial becomes that
            of another trial, which the agent is not told; 0 for never. Trials of two tasks each are
            one sample: the curve has no groups and no strata, which are those of single tasks.
        agent_name: the name to keep in the curve (default: the agent's class).
        phase: the phase whose random numbers are used.
        iteration: the training iteration that the evaluation belongs to; each draws other tasks.
        advance: a function that is called with the number of tasks just finished.
        unfinished: where the points of finished tasks are kept. What an evaluation that was cut off
            has left there is not evaluated again.

    Returns:
        The curve, with the values of every task.

    Raises:
        UserError: if an argument is out of range, or the tasks do not have the agent's spaces.
        EnvError: if an environment fails.
        DivergenceError: if an observation, a reward, an action or the context is not finite.

    >>> agent, tasks = metarl.load("runs/first"), metarl.make("bandit/n10-k5")
    >>> curve = metarl.evaluate_adaptation(agent, tasks, num_tasks=200)
    >>> curve.returns.shape  # [point, task]
    (10, 200)
    >>> before, *_, after = curve.returns.mean(1)
    >>> bool(before + 0.1 < after)
    True
    """
    require_spaces(agent, tasks.observation_space, tasks.action_space, f"--env: {tasks.name}")
    shape = evaluation_shape(agent, tasks, num_episodes)
    if num_tasks is None:
        num_tasks = default_tasks(tasks, split)
    if num_tasks < 1:
        raise bad_option("--evaluation-tasks", num_tasks, "at least 1")
    require_seed("--seed", seed)
    disturbances = disturbances or Disturbances()
    disturbances.require_effect(tasks, tasks.horizon)
    _require_change(change_task_after, shape, score)
    started = time.perf_counter()
    workers = workers or Workers()
    together = tasks_together(agent, tasks, num_tasks, workers)
    later: list[Task] = []
    if change_task_after:
        every = draw_tasks(tasks, split, np.arange(num_tasks), seed, phase, iteration)
        later = _later_tasks(every, seed, phase, iteration)
    given = envs
    if envs is None:
        own = evaluation_slots(agent, tasks, num_tasks, workers, num_episodes=num_episodes)
        envs = workers.make_vec(tasks, own)
    parts = unfinished.read() if unfinished is not None else []
    first = sum(map(len, parts))
    before = draw_tasks(tasks, split, np.arange(first), seed, phase, iteration) if first else []
    kinds = list(kinds_of(tasks, before))
    stepped = disturbed(envs, disturbances)
    try:
        for start in range(first, num_tasks, together):
            numbers = np.arange(start, min(start + together, num_tasks))
            batch = draw_tasks(tasks, split, numbers, seed, phase, iteration)
            kinds += kinds_of(tasks, batch)
            keys = TrialKeys(seed, phase, iteration, numbers)
            if score == "greedy-copy":
                points = _probe(agent, stepped, batch, shape, keys)
            else:
                others = later[start : start + together]
                change = Change(change_task_after, others) if later else None
                trial = run_trial(
                    agent, stepped, batch, shape=shape, keys=keys, greedy=greedy, change=change
                )
                points = adaptation_points(shape, trial)
            parts.append(points)
            if unfinished is not None:
                unfinished.write(parts)
            if advance is not None:
                advance(len(numbers))
    finally:
        if given is None:
            close_quietly(envs)
    curve = curve_of(agent, tasks, kinds, parts, split=split, seed=seed, greedy=greedy)
    if later:  # A trial has two tasks, whose kinds may differ.
        curve = replace(curve, groups=None, strata=None)
    return replace(
        curve,
        agent=agent_name or type(agent).__name__,
        score=score,
        conditions=conditions_of(disturbances, change_task_after),
        seconds=time.perf_counter() - started,
    )


def conditions_of(disturbances: Disturbances, change_task_after: int) -> dict[str, Any]:
    """Return what distinguishes an evaluation from a plain one, as its files name it."""
    change = {"change_task_after": change_task_after} if change_task_after else {}
    return {**change, **disturbances.conditions()}


def _require_change(after: int, shape: TrialShape, score: Score) -> None:
    if after:
        require_change(after, shape)
        if score == "greedy-copy":
            raise bad_option("--score", score, f"adapting-episodes with {FLAG}")


def _later_tasks(tasks: list[Task], seed: int, phase: Phase, iteration: int) -> list[Task]:
    """Return the tasks after a change: every trial gets that of another one."""
    rng = seeding.numpy_generator(seed, phase, Component.PARTNERS, iteration)
    return [tasks[i] for i in partners_in_blocks(tasks, rng, FLAG)]


def curve_of(
    agent: Adapter,
    tasks: TaskDistribution,
    kinds: Sequence[str],
    parts: Sequence[Points],
    *,
    split: Split,
    seed: int,
    greedy: bool,
) -> AdaptationCurve:
    """Return the curve of adapting episodes from the points of batches of tasks.

    Args:
        agent: the one that was evaluated.
        tasks: the distribution that the tasks come from.
        kinds: the kind of every task, in the order of the batches; empty if there are none.
        parts: the points of every batch.
        split: the split that the tasks come from.
        seed: the seed of tasks, episodes and actions.
        greedy: whether the most likely actions were taken.
    """
    metrics = {name: _stack([part.metrics[name] for part in parts]) for name in parts[0].metrics}
    num_tasks = metrics["return"].shape[1]
    totals = [part.total.numpy() for part in parts if part.total is not None]
    return AdaptationCurve(
        env=tasks.name,
        agent=type(agent).__name__,
        seed=seed,
        split=split,
        shared_split=tasks.shared_split or (split == "validation" and tasks.shared_validation),
        score="adapting-episodes",
        greedy=greedy,
        episodes=parts[0].episodes,
        returns=metrics.pop("return"),
        success=metrics.pop("success", None),
        info=metrics,
        trial_return=np.concatenate(totals) if totals else None,
        groups=np.array(kinds) if kinds else None,
        strata=strata_of(tasks, split, num_tasks, kinds),
        told_task=hasattr(agent, "reveal"),
    )


def point_metrics(kind: str, means: Mapping[str, Sequence[float]], total: float) -> Metrics:
    """Return a curve's metrics to log: the values before and after adaptation, and the total.

    Args:
        kind: ``train`` or ``validation``, the prefix of the names.
        means: each metric's means over tasks, one per point, by name.
        total: the sum of the points' returns, averaged over tasks.
    """
    logged = {f"{kind}/trial_return": total}
    for name, points in means.items():
        logged[f"{kind}/{name}_before"] = float(points[0])
        logged[f"{kind}/{name}_after"] = float(points[-1])
    return logged


def _probe(
    agent: Adapter,
    envs: SlotVectorEnv,
    tasks: list[Task],
    shape: TrialShape,
    keys: TrialKeys,
) -> Points:
    """Measure one greedy episode at each point, which the agent then forgets.

    All probes of a task use the same random numbers, so that points differ in what the agent
    knows and not by chance. Probes use the keys of adaptation 1, experience those of even numbers.
    """
    context: Context = tell_tasks(agent, agent.begin(len(tasks)), tasks)
    timestep: Timestep | None = None
    probes = []
    for k, _ in enumerate(shape.points):
        if k > 0:
            own = keys.at(2 * k)
            episodes, timestep, context = collect(
                agent,
                envs,
                tasks,
                context,
                timestep,
                num_episodes=shape.stride,
                sequential=shape.sequential,
                keys=own,
            )
            if not shape.learns_while_acting:
                context = adapted(agent, context, episodes, own, tasks)
        probe, _, _ = collect(
            agent,
            envs,
            tasks,
            context,
            timestep,
            num_episodes=1,
            sequential=shape.sequential,
            keys=keys.at(1),
            greedy=True,
        )
        probes.append(measured(probe.metrics))
    metrics = {name: torch.stack([p[name][:, 0] for p in probes], 1) for name in probes[0]}
    return Points(shape.points, metrics, None)


def evaluation_shape(
    agent: Adapter, tasks: TaskDistribution, num_episodes: int | None = None
) -> TrialShape:
    """Return the shape of an evaluation's trials.

    Args:
        agent: the one that is evaluated.
        tasks: the tasks it is evaluated on.
        num_episodes: the number of episodes of a trial. By default an agent that learns while it
            acts has as many as in training, or as ``tasks`` prescribe if its training followed a
            prescription too. Others have four rounds, as the MAML paper shows: before adaptation,
            and after one to three steps.

    Raises:
        UserError: if the agent's rounds cannot have that many episodes together.
    """
    shape = agent.shape
    if num_episodes is not None:
        return shape.for_episodes(num_episodes)
    if not shape.learns_while_acting:
        return replace(shape, num_adaptations=3)
    spec: TaskSpec | None = getattr(agent, "spec", None)
    followed = spec is not None and spec.episodes_per_trial == shape.num_episodes
    prescribed = tasks.episodes_per_trial if followed else None
    return shape.for_episodes(prescribed or shape.num_episodes)


def evaluation_slots(
    agent: Adapter,
    tasks: TaskDistribution,
    num_tasks: int,
    workers: Workers,
    *,
    num_episodes: int | None = None,
) -> int:
    """Return how many environments an evaluation of ``num_tasks`` tasks makes for itself."""
    shape = evaluation_shape(agent, tasks, num_episodes)
    lanes = 1 if shape.sequential else shape.episodes_per_round
    together = tasks_together(agent, tasks, num_tasks, workers)
    # A simulator costs memory, a row of an array costs nearly nothing.
    wanted = together * lanes if tasks.array_functions else max(together, _FEW_SLOTS)
    return min(workers.slots(tasks, wanted), together * lanes)


_FEW_SLOTS = 40
"""So many environments cost little, and share the cost of a policy's calls: two trials of
``half-cheetah/direction`` (maml-ppo, 20 episodes a round) took 4.4 times as long with two slots."""


def tasks_together(
    agent: Adapter, tasks: TaskDistribution, num_tasks: int, workers: Workers
) -> int:
    """Return the number of tasks that are adapted to at the same time."""
    limit: int = getattr(agent, "tasks_at_once", num_tasks)
    return min(workers.slots(tasks, num_tasks), num_tasks, limit)


def _stack(parts: list[Tensor]) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(torch.cat(parts).numpy().T, np.float32)

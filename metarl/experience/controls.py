"""Controls: trials whose agent knows less than it could, or knows another task.

An agent that adapts to a task does worse if it loses what it has learned of the task, and if it is
given what it has learned of another one. An agent whose return merely rises, because it becomes
used to acting or because later episodes are easier, does not. All controls of a trial meet the
tasks, episodes and random numbers of the trial itself, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl.experience.agent import Adapter, TrialShape, tell_tasks
from metarl.experience.data import (
    Context,
    Episodes,
    Record,
    Timestep,
    branch,
    concatenate_rows,
    episode_metrics,
    join_episodes,
)
from metarl.experience.lanes import Keys, TrialKeys
from metarl.experience.rollout import Wave, adapted, collect, run_trial
from metarl.seeding import LaneGenerator
from metarl.stepping.vector import SlotVectorEnv
from metarl.task import Task

Control: TypeAlias = Literal["own", "another-task", "reset-every-episode", "reset-every-step"]
"""What an agent knows in its episodes: what it has learned of their task (``own``, the trial
itself), what it has learned of another task, or nothing from before the episode or the step."""

Rounds: TypeAlias = list[dict[str, Tensor]]
"""The metrics of each round's episodes, ``[task, episode]`` each, by name."""


class Batch(NamedTuple):
    """Tasks that are gone through together."""

    tasks: list[Task]
    """The tasks."""
    keys: TrialKeys
    """The origin of all random numbers of their trials."""


class ForgetsEveryStep:
    """Acts as another adapter does in the first step of a trial, whatever has happened before.

    It is memoryless: its context is what it was given at the beginning, which for an oracle is
    the task. Everything else that an agent sees at the start of a trial goes with it: no last
    action, no last reward, an episode that begins.
    """

    def __init__(self, adapter: Adapter) -> None:
        self._adapter, self.shape = adapter, adapter.shape
        if hasattr(adapter, "reveal"):
            self.reveal = adapter.reveal

    def begin(self, num_tasks: int) -> Context:
        """Return what the adapter knows before any experience."""
        return self._adapter.begin(num_tasks)

    def act(
        self, context: Context, timestep: Timestep, generator: LaneGenerator, greedy: bool = False
    ) -> tuple[Tensor, Record, Context]:
        """Act as if the trial began, and keep ``context``."""
        start = timestep._replace(
            previous_action=torch.zeros_like(timestep.previous_action),
            previous_reward=torch.zeros_like(timestep.previous_reward),
            boundary=torch.ones_like(timestep.boundary),
            trial_start=torch.ones_like(timestep.trial_start),
        )
        used = branch(context, torch.arange(len(timestep.active)))
        action, record, _ = self._adapter.act(used, start, generator, greedy)
        return action, record, context

    def adapt(self, context: Context, episodes: Episodes, generator: torch.Generator) -> Context:
        """Learn nothing."""
        return context


class InShape:
    """Another adapter in trials of a given shape, to be compared with the agent they are of."""

    def __init__(self, adapter: Adapter, shape: TrialShape) -> None:
        self._adapter, self.shape = adapter, shape

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)


class Unit(NamedTuple):
    """The part of a trial between two moments at which contexts are exchanged."""

    round: int
    """The round that it belongs to."""
    first_episode: int
    """The number of its first episode in the trial, for sequential agents; otherwise 0."""
    num_episodes: int
    """The number of its episodes."""
    ends_round: bool
    """Whether its last episode is the last one of the round."""

    def keys(self, keys: TrialKeys, shape: TrialShape) -> Keys:
        """Return the keys that the episodes have in a trial that is not divided."""
        if not shape.sequential:
            return keys.round(self.round, shape)
        return keys.at(0)._replace(first_episode=self.first_episode)


def units_of(shape: TrialShape) -> list[Unit]:
    """Return the episodes of a sequential trial, or the rounds of another one."""
    each = shape.episodes_per_round
    if not shape.sequential:
        return [Unit(k, 0, each, True) for k in range(shape.num_rounds)]
    numbers = range(shape.num_episodes)
    return [Unit(n // each, n, 1, (n + 1) % each == 0) for n in numbers]


class _Outcome(NamedTuple):
    """The part of episodes that their metrics are computed from."""

    reward: Float[Tensor, "task episode time"]
    valid: Bool[Tensor, "task episode time"]
    info: dict[str, Shaped[Tensor, "task episode time ..."]]

    @staticmethod
    def of(episodes: Episodes) -> _Outcome:
        """Return the part of ``episodes`` that is needed; the rest can be freed."""
        return _Outcome(episodes.reward, episodes.valid, episodes.info)

    @staticmethod
    def join(parts: Sequence[_Outcome]) -> _Outcome:
        """Join the episodes of the same tasks, times padded to the longest."""
        longest = max(part.valid.shape[2] for part in parts)

        def joined(*tensors: Tensor) -> Tensor:
            return torch.cat(
                [
                    torch.cat([x, x.new_zeros(*x.shape[:2], longest - x.shape[2], *x.shape[3:])], 2)
                    for x in tensors
                ],
                1,
            )

        result: _Outcome = pytree.tree_map(joined, *parts)
        return result


@dataclass
class _Life:
    """A batch on its way through its trial."""

    batch: Batch
    rows: slice
    """The numbers of the batch's tasks among all."""
    context: Context
    timestep: Timestep | None = None
    episodes: list[Episodes] = field(default_factory=list)
    """The episodes of the present round so far, if the agent adapts to it."""

    def adapt(self, agent: Adapter, last: Episodes, unit: Unit, shape: TrialShape) -> None:
        """Let the agent adapt to the round that ends with ``last``."""
        episodes, self.episodes = join_episodes([*self.episodes, last]), []
        keys = self.batch.keys.round(unit.round, shape)
        self.context = adapted(agent, self.context, episodes, keys, self.batch.tasks)


def run_controlled(
    agent: Adapter,
    envs: SlotVectorEnv,
    batches: Sequence[Batch],
    shape: TrialShape,
    partners: npt.NDArray[np.int64],
    *,
    greedy: bool = False,
    one_step: bool = False,
    advance: Callable[[int], None] | None = None,
) -> dict[Control, list[Rounds]]:
    """Run trials, and at every point episodes of the same task with other contexts.

    ``own`` is the trial as :func:`metarl.experience.rollout.run_trial` runs it, bit for bit. With
    ``another-task`` the agent has, at the start of every episode (of every round, for agents
    whose episodes run side by side), the context that it has at that moment in the trial of the
    task's partner, and the last action and reward of that trial. With ``reset-every-episode`` it
    begins anew there. These episodes are forgotten. With ``reset-every-step`` a sequential agent
    begins anew at every step.

    A control takes as many steps as the trial, less its first episode or round, which is that of
    the trial unless the agent is told its task.

    Args:
        agent: the agent; it is not changed.
        envs: environments of the tasks, enough for the largest batch.
        batches: the tasks, in the batches in which they are gone through.
        shape: the shape of the trials.
        partners: the number of the task whose context each task is tested with, counted through
            all batches.
        greedy: whether the most likely actions are taken.
        one_step: whether every episode is one step, so that ``reset-every-step`` is the same as
            ``reset-every-episode`` and takes no steps of its own.
        advance: a function that is called with the number of tasks that have finished a unit of
            their trial (:func:`units_of`).

    Returns:
        The metrics of all rounds of every batch, by control.
    """
    told = hasattr(agent, "reveal")
    found: dict[Control, list[list[_Outcome]]] = {
        name: [[] for _ in batches] for name in ("own", "another-task", "reset-every-episode")
    }
    lives = _begin(agent, batches)
    units = units_of(shape)
    for number, unit in enumerate(units):
        contexts = concatenate_rows([life.context for life in lives])
        carried = [life.timestep for life in lives if life.timestep is not None]
        timesteps = concatenate_rows(carried) if carried else None
        for place, life in enumerate(lives):
            run = partial(_run_unit, agent, envs, life.batch, unit, shape, greedy)
            others: dict[Control, _Outcome] = {}
            if number > 0 or told:  # Before any experience all tasks have the same context.
                rows = torch.from_numpy(partners[life.rows])
                known = branch(contexts, rows), branch(timesteps, rows)
                others["another-task"] = _Outcome.of(run(*known)[0])
            if number > 0:
                fresh = _begun(agent, life.batch.tasks)
                others["reset-every-episode"] = _Outcome.of(run(fresh, None)[0])
            episodes, life.timestep, life.context = run(life.context, life.timestep)
            if unit.ends_round and unit.round < shape.num_adaptations:
                life.adapt(agent, episodes, unit, shape)
            elif shape.num_adaptations:
                life.episodes.append(episodes)
            own = _Outcome.of(episodes)
            for name, outcomes in found.items():
                outcomes[place].append(others.get(name, own))
            if advance is not None:
                advance(len(life.batch.tasks))
    metrics = {
        name: [_rounds(outcomes, units) for outcomes in every] for name, every in found.items()
    }
    if shape.sequential and one_step:
        metrics["reset-every-step"] = metrics["reset-every-episode"]
    elif shape.sequential:
        metrics["reset-every-step"] = [
            _memoryless(agent, envs, batch, shape, greedy) for batch in batches
        ]
    return metrics


def _begun(agent: Adapter, tasks: Sequence[Task]) -> Context:
    return tell_tasks(agent, agent.begin(len(tasks)), tasks)


def _begin(agent: Adapter, batches: Sequence[Batch]) -> list[_Life]:
    """Return the batches at the start of their trials."""
    lives, start = [], 0
    for batch in batches:
        rows = slice(start, start + len(batch.tasks))
        lives.append(_Life(batch, rows, _begun(agent, batch.tasks)))
        start = rows.stop
    return lives


def _run_unit(
    agent: Adapter,
    envs: SlotVectorEnv,
    batch: Batch,
    unit: Unit,
    shape: TrialShape,
    greedy: bool,
    context: Context,
    timestep: Timestep | None,
) -> Wave:
    """Run one unit of a trial from what is known, whatever that is."""
    return collect(
        agent,
        envs,
        batch.tasks,
        context,
        timestep,
        num_episodes=unit.num_episodes,
        sequential=shape.sequential,
        keys=unit.keys(batch.keys, shape),
        greedy=greedy,
    )


def _memoryless(
    agent: Adapter, envs: SlotVectorEnv, batch: Batch, shape: TrialShape, greedy: bool
) -> Rounds:
    """Run a trial whose agent begins anew at every step."""
    trial = run_trial(
        ForgetsEveryStep(agent), envs, batch.tasks, shape=shape, keys=batch.keys, greedy=greedy
    )
    return [episodes.metrics for episodes in trial.rounds]


def _rounds(outcomes: Sequence[_Outcome], units: Sequence[Unit]) -> Rounds:
    """Return the metrics of rounds whose units were run one by one.

    They are computed from whole rounds, padded as those of an undivided trial, whose sums of
    single precision they thus equal to the last bit.
    """
    rounds: list[list[_Outcome]] = [[] for _ in range(units[-1].round + 1)]
    for unit, outcome in zip(units, outcomes, strict=True):
        rounds[unit.round].append(outcome)
    return [episode_metrics(*_Outcome.join(parts)) for parts in rounds]

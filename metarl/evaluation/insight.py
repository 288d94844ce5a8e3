"""What an agent knows while it acts: its ``insight``, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metarl.errors import UserError, bad_option
from metarl.evaluation.drawn_tasks import evaluation_tasks
from metarl.evaluation.evaluate import evaluation_shape, evaluation_slots
from metarl.experience.agent import (
    Adapter,
    Insightful,
    TrialShape,
    require_spaces,
    tell_tasks,
)
from metarl.experience.data import Context, Episodes, Record, Timestep
from metarl.experience.lanes import TrialKeys
from metarl.experience.rollout import run_trial
from metarl.seeding import LaneGenerator, Phase
from metarl.stepping.options import SharedEnvs, Workers
from metarl.task import Split, Task
from metarl.tasks.distribution import TaskDistribution

_PREFIX = "insight "
"""What the names of insights begin with in a record."""

MOST_BYTES = 2**29
"""The largest size of what is noted."""


class Insights(NamedTuple):
    """What an agent knew at every step of some trials; arrays are ``[task, step, …]``."""

    tasks: list[Task]
    """The tasks, one for each row."""
    known: dict[str, npt.NDArray[Any]]
    """What ``insight`` returned after every action, by name."""
    boundary: npt.NDArray[np.bool_]
    """True at the first step of an episode."""
    valid: npt.NDArray[np.bool_]
    """True where a step happened, False for padding."""
    reward: npt.NDArray[np.float32]
    """The rewards."""


def watch_insight(
    adapter: Adapter,
    tasks: TaskDistribution,
    *,
    split: Split = "test",
    num_tasks: int = 3,
    num_episodes: int | None = None,
    seed: int = 0,
    greedy: bool = False,
    workers: Workers | None = None,
) -> Insights:
    """Let an agent go through trials, and note its ``insight`` after every action.

    The trials are those of :func:`metarl.evaluate_adaptation` with as many tasks.

    Args:
        adapter: an adapter that learns while it acts; it is not changed.
        tasks: the distribution that the tasks come from.
        split: the split that the tasks come from.
        num_tasks: the number of tasks.
        num_episodes: the number of episodes of a trial (default: as in an evaluation).
        seed: the seed of tasks, episodes and actions.
        greedy: whether the most likely actions are taken.
        workers: how environments are stepped.

    Raises:
        UserError: if the adapter has no insight, or does not learn while it acts.

    >>> agent, tasks = metarl.load("runs/first"), metarl.make("bandit/n10-k5")
    >>> from metarl.evaluation.insight import watch_insight
    >>> insights = watch_insight(agent, tasks, num_tasks=2)
    >>> insights.known["state"].shape  # [task, step, unit of the GRU]
    (2, 10, 64)
    """
    name = type(adapter).__name__
    require_spaces(adapter, tasks.observation_space, tasks.action_space, f"--env: {tasks.name}")
    if not isinstance(adapter, Insightful):
        raise UserError(f"--insight: {name} has no method insight; accepted: an agent that has one")
    shape = evaluation_shape(adapter, tasks, num_episodes)
    if not shape.learns_while_acting:
        raise UserError(
            f"--insight: {name} learns between rounds; accepted: an agent that learns while it acts"
        )
    if num_tasks < 1:
        raise bad_option("--evaluation-tasks", num_tasks, "at least 1")
    steps = num_tasks * shape.num_episodes * tasks.horizon
    one = adapter.insight(adapter.begin(1)).values()
    size = steps * sum(x.numel() * x.element_size() for x in one)
    if size > MOST_BYTES:
        needed = f"{num_tasks} tasks, of which {size / 2**20:,.0f} MiB would be noted"
        accepted = f"fewer tasks or episodes, of {MOST_BYTES / 2**20:,.0f} MiB"
        raise bad_option("--insight", needed, accepted)
    workers = workers or Workers()
    drawn = evaluation_tasks(tasks, split=split, num_tasks=num_tasks, seed=seed)
    slots = evaluation_slots(adapter, tasks, num_tasks, workers, num_episodes=shape.num_episodes)
    keys = TrialKeys(seed, Phase.EVALUATE, 0, np.arange(num_tasks))
    with closing(SharedEnvs(workers, tasks)) as envs:
        trial = run_trial(
            _Watched(adapter), envs.sized(slots), drawn, shape=shape, keys=keys, greedy=greedy
        )
    stream = trial.stream()
    known = {
        key.removeprefix(_PREFIX): x.numpy()
        for key, x in stream.record.items()
        if key.startswith(_PREFIX)
    }
    arrays = (x.numpy() for x in (stream.boundary, stream.valid, stream.reward))
    return Insights(list(drawn), known, *arrays)


class _Watched:
    """An adapter whose records have its insight beside what ``update`` needs."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter, self.shape = adapter, adapter.shape
        spec = getattr(adapter, "spec", None)
        if spec is not None:
            self.spec = spec

    shape: TrialShape

    def begin(self, num_tasks: int) -> Context:
        """Return what is known before any experience."""
        return self._adapter.begin(num_tasks)

    def reveal(self, context: Context, tasks: Sequence[Task]) -> Context:
        """Tell the adapter its tasks, if it is an oracle."""
        return tell_tasks(self._adapter, context, tasks)

    def act(
        self, context: Context, timestep: Timestep, generator: LaneGenerator, greedy: bool = False
    ) -> tuple[Tensor, Record, Context]:
        """Act as the adapter does, and record what it knows then."""
        action, _, context = self._adapter.act(context, timestep, generator, greedy)
        known = cast(Insightful, self._adapter).insight(context)
        record = {_PREFIX + name: x.unsqueeze(1).cpu() for name, x in known.items()}
        return action, record, context

    def adapt(self, context: Context, episodes: Episodes, generator: torch.Generator) -> Context:
        """Adapt as the adapter does."""
        return self._adapter.adapt(context, episodes, generator)

"""The tasks of an evaluation: how many, which ones, of which kinds, and what of them is fixed."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from metarl import seeding
from metarl.experience.changes import partners_of
from metarl.seeding import Component, Phase
from metarl.task import Split, Task
from metarl.tasks.distribution import TaskDistribution

DEFAULT_TASKS = 1000
"""The number of tasks of an evaluation, unless the task set is finite and large enough."""

MANY_TASKS = 50
"""A finite task set with at least this many tasks is evaluated once per task."""

MOST_WHOLE = 1000
"""A finite task set with more tasks, such as 10 000 generated levels, is a population that tasks
are drawn from, not a set that is gone through."""

TASK_BLOCK = 1000
"""Tasks are drawn in blocks of this size, so that they do not depend on the number of slots."""

_SPLIT_KEYS: dict[Split, int] = {"train": 0, "test": 1, "validation": 2}
"""The part of a random key that tells splits apart; changing a number would change the tasks."""


def default_tasks(tasks: TaskDistribution, split: Split) -> int:
    """Return the default number of tasks of an evaluation.

    It is the size of a finite task set of at least ``MANY_TASKS``, and ``DEFAULT_TASKS`` otherwise.
    """
    every = _whole_set(tasks, split)
    return len(every) if every is not None and len(every) >= MANY_TASKS else DEFAULT_TASKS


def _whole_set(tasks: TaskDistribution, split: Split) -> list[Task] | None:
    """Return the tasks of a set that evaluations go through; None if tasks are drawn."""
    try:
        every = tasks.tasks(split)
    except NotImplementedError:
        return None
    return every if len(every) <= MOST_WHOLE else None


def evaluation_tasks(
    tasks: TaskDistribution, *, split: Split = "test", num_tasks: int = 1000, seed: int = 0
) -> list[Task]:
    """Return the tasks that :func:`evaluate_adaptation` uses, in the order of its results."""
    return draw_tasks(tasks, split, np.arange(num_tasks), seed, Phase.EVALUATE, 0)


def draw_tasks(
    tasks: TaskDistribution,
    split: Split,
    numbers: npt.NDArray[np.int64],
    seed: int,
    phase: Phase,
    iteration: int,
) -> list[Task]:
    """Return the tasks with these numbers; equal arguments give a number the same task."""
    with contextlib.suppress(NotImplementedError):
        if tasks.drawn_set:
            return tasks.more_tasks(split, int(numbers[-1]) + 1)[int(numbers[0]) :]
    every = _whole_set(tasks, split)
    if every is not None:
        return [every[number % len(every)] for number in numbers]
    drawn: list[Task] = []
    first, last = int(numbers[0]), int(numbers[-1])
    for block in range(first // TASK_BLOCK, last // TASK_BLOCK + 1):
        rng = seeding.numpy_generator(
            seed, phase, Component.TASKS, iteration, block, _SPLIT_KEYS[split]
        )
        drawn += tasks.sample(rng, TASK_BLOCK, split)
    offset = first - first // TASK_BLOCK * TASK_BLOCK
    return drawn[offset : offset + len(numbers)]


def kinds_of(tasks: TaskDistribution, drawn: Sequence[Task]) -> list[str]:
    """Return the kind of every task; nothing if the distribution does not tell kinds apart."""
    return [] if tasks.group is None else [str(task[tasks.group]) for task in drawn]


def strata_of(
    tasks: TaskDistribution, split: Split, num_tasks: int, kinds: Sequence[str]
) -> npt.NDArray[Any] | None:
    """Return what is fixed of an evaluation's tasks, ``[task]``; None if all are one sample.

    A finite set that is gone through whole has no other tasks; what repeats of a task differ in
    is a sample. Where the set is itself drawn, its kinds are fixed.
    """
    if tasks.drawn_set:
        return np.array(kinds) if kinds else None
    every = _whole_set(tasks, split)
    if every is None or num_tasks < len(every):
        return None
    return np.arange(num_tasks) % len(every)


def partners_in_blocks(
    tasks: Sequence[Task], rng: np.random.Generator, option: str
) -> npt.NDArray[np.int64]:
    """Return :func:`partners_of` within blocks of ``TASK_BLOCK`` tasks: ``[task]``.

    The tasks of whole blocks have the same partners whatever follows them, so that an agent that
    is evaluated on the first of the tasks meets the same changes there. Blocks of equal tasks have
    partners from everywhere.

    Raises:
        UserError: if no two tasks differ.
    """
    found = []
    for start in range(0, len(tasks), TASK_BLOCK):
        block = tasks[start : start + TASK_BLOCK]
        if len(set(block)) > 1:
            found.append(start + partners_of(block, rng, option))
            continue
        others = np.array([i for i, task in enumerate(tasks) if task != block[0]], np.int64)
        if not len(others):
            return partners_of(tasks, rng, option)  # It says that there are none.
        found.append(rng.permutation(others)[np.arange(len(block)) % len(others)])
    return np.concatenate(found)

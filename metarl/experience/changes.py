"""Worlds that change: a trial whose task becomes another one, and who gets which other task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from metarl.errors import UserError, bad_option
from metarl.experience.agent import TrialShape
from metarl.experience.data import Change
from metarl.task import Task

FLAG = "--change-task-after"
"""The option that names the number of episodes before a change."""

DRAWS = 100
"""How often a task that differs is looked for before it is said that there is none."""


class Section(NamedTuple):
    """The part of a round that is with one task."""

    first_episode: int
    """The number of its first episode in the round."""
    num_episodes: int
    """The number of its episodes."""
    tasks: list[Task]
    """The tasks."""
    changes: bool
    """Whether the tasks are others than in the section before."""


def sections_of(
    number: int, shape: TrialShape, tasks: list[Task], change: Change | None
) -> list[Section]:
    """Return the parts of round ``number``: two if the task changes within it, otherwise one."""
    each, start = shape.episodes_per_round, number * shape.episodes_per_round
    if change is None or change.after >= start + each:
        return [Section(0, each, tasks, False)]
    own = change.after - start
    if own <= 0:
        return [Section(0, each, change.tasks, own == 0)]
    return [Section(0, own, tasks, False), Section(own, each - own, change.tasks, True)]


def require_change(after: int, shape: TrialShape) -> None:
    """Refuse a change that is not within a trial of ``shape``; 0 stands for no change.

    Raises:
        UserError: if there is no episode after it, or if it would cut a round of episodes that
            run side by side.
    """
    each = 1 if shape.sequential else shape.episodes_per_round
    if after % each or after >= shape.num_episodes:
        rounds = "" if each == 1 else f", a multiple of {each} (one round each)"
        accepted = f"0 (never), or fewer than the {shape.num_episodes} episodes of a trial{rounds}"
        raise bad_option(FLAG, after, accepted)


def change_drawn(
    after: int, tasks: Sequence[Task], draw: Callable[[int], list[Task]]
) -> Change | None:
    """Return a change to tasks that are drawn anew until each differs from the one before it.

    Args:
        after: the number of episodes before the change; 0 for no change.
        tasks: the tasks before it.
        draw: a function that draws so many tasks.

    Raises:
        UserError: if no tasks that differ are found.
    """
    if after == 0:
        return None
    others = draw(len(tasks))
    for _ in range(DRAWS):
        equal = [i for i, task in enumerate(tasks) if others[i] == task]
        if not equal:
            return Change(after, others)
        for i, task in zip(equal, draw(len(equal)), strict=True):
            others[i] = task
    raise UserError(f"{FLAG}: got tasks that are all {tasks[0]}; accepted: tasks that differ")


def partners_of(
    tasks: Sequence[Task], rng: np.random.Generator, option: str = "--controls"
) -> npt.NDArray[np.int64]:
    """Return, for every task, the number of one that differs from it: a random derangement.

    It is a permutation, so that every task is used once, unless more than half of the tasks
    are equal: then those of the other tasks are used several times, equally often if that can be.

    Args:
        tasks: the tasks; equal ones are the same task.
        rng: the source of the order.
        option: the option that asks for it, for the message.

    Raises:
        UserError: if no two tasks differ.

    >>> forward, backward = (Task.of("run", direction=direction) for direction in (1, -1))
    >>> partners_of([forward, backward], np.random.default_rng()).tolist()
    [1, 0]
    """
    counts = Counter(tasks)
    if len(counts) < 2:
        raise UserError(
            f"{option}: got {len(tasks)} task{'s' * (len(tasks) != 1)}, of which no two differ; "
            "accepted: tasks of which some differ, since each is paired with another one"
        )
    number = {task: i for i, task in enumerate(counts)}
    kind = np.array([number[task] for task in tasks])
    sizes = np.bincount(kind)
    place = rng.permutation(len(sizes))[kind]
    order = np.lexsort((rng.random(len(tasks)), place, -sizes[kind]))  # The largest kind first.
    most = int(sizes.max())
    partners = np.zeros(len(tasks), np.int64)
    if 2 * most <= len(tasks):
        # Equal tasks stand together: going on by as many as there are of any kind leaves them.
        partners[order] = np.roll(order, -most)
        return partners
    large, small = order[:most], order[most:]
    partners[large] = small[np.arange(most) % len(small)]
    partners[small] = large[: len(small)]
    return partners

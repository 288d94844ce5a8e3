"""Controls: trials whose agent knows less than it could, or knows another task.

An agent that adapts to a task does worse if it loses what it has learned of the task, and if it is
given what it has learned of another one. An agent whose return merely rises, because it becomes
used to acting or because later episodes are easier, does not. All controls of a trial meet the
tasks, episodes and random numbers of the trial itself, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl.experience.agent import Adapter, TrialShape, tell_tasks
from metarl.experience.data import Context, Episodes, Record, Timestep, branch
from metarl.experience.lanes import TrialKeys
from metarl.experience.rollout import run_trial
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


class Points:
    """What is known of every task at the points of its trial, with the last action and reward.

    A point is the start of an episode, or of a round for agents whose episodes run side by side.
    """

    def __init__(self) -> None:
        self._parts: dict[int, list[tuple[Tensor, Any]]] = {}
        self._whole: dict[int, Any] = {}

    def put(self, point: int, rows: Int[Tensor, " row"], tree: Any) -> None:
        """Keep what is known at a point of the tasks with the numbers ``rows``."""
        self._parts.setdefault(point, []).append((rows, tree))

    def of(self, point: int, rows: Int[Tensor, " row"]) -> Any:
        """Return copies of what is known at a point of the tasks with the numbers ``rows``.

        Every task has been put by then. Parts of other sizes are padded with zeros.
        """
        if point not in self._whole:
            numbers, trees = zip(*self._parts.pop(point), strict=True)
            whole = pytree.tree_map(_joined, *trees)
            self._whole[point] = branch(whole, torch.cat(numbers).argsort())
        return branch(self._whole[point], rows)


def _joined(*tensors: Tensor) -> Tensor:
    """Join tensors along their first axis, padded with zeros to the largest of each other axis."""
    shape = [max(sizes) for sizes in zip(*(x.shape[1:] for x in tensors), strict=True)]
    joined = tensors[0].new_zeros((sum(map(len, tensors)), *shape))
    start = 0
    for x in tensors:
        joined[(slice(start, start + len(x)), *map(slice, x.shape[1:]))] = x
        start += len(x)
    return joined


class Placed(NamedTuple):
    """A context, and where in the trial its task is."""

    context: Context
    """The agent's own context."""
    row: Int[Tensor, " task"]
    """The number of each task among all."""
    point: Int[Tensor, " task"]
    """The number of the point that each task has come to; -1 before the first episode begins."""


class _Wrapper:
    """Another adapter whose contexts know where in the trial they are.

    Args:
        adapter: the adapter.
        rows: the numbers of the tasks of a batch among all.
    """

    def __init__(self, adapter: Adapter, rows: Int[Tensor, " row"]) -> None:
        self._adapter, self._rows, self.shape = adapter, rows, adapter.shape
        self.sequential = self.shape.sequential

    def begin(self, num_tasks: int) -> Context:
        """Return what the adapter knows beforehand, at the start of the trial."""
        point = torch.full((num_tasks,), -1 if self.sequential else 0)
        return Placed(self._adapter.begin(num_tasks), self._rows, point)

    def act(
        self, context: Context, timestep: Timestep, generator: LaneGenerator, greedy: bool = False
    ) -> tuple[Tensor, Record, Context]:
        """Act as the adapter does, with what :meth:`start` makes of episodes that begin."""
        if self.sequential:
            starts = (timestep.boundary & timestep.active)[:, 0]
            context = context._replace(point=context.point + starts)
            for point in context.point[starts].unique().tolist():
                which = (starts & (context.point == point)).nonzero()[:, 0]
                context, timestep = self.start(point, which, context, timestep)
        own = context.context
        action, record, own = self._adapter.act(own, timestep, generator, greedy)
        return action, record, context._replace(context=own)

    def adapt(self, context: Context, episodes: Episodes, generator: torch.Generator) -> Context:
        """Learn nothing: the next point tells what is known."""
        return context

    def start(
        self, point: int, which: Int[Tensor, " row"], context: Placed, timestep: Timestep
    ) -> tuple[Placed, Timestep]:
        """Return what the tasks ``which`` of the batch know and see at the start of an episode."""
        raise NotImplementedError


class Recording(_Wrapper):
    """The adapter itself, whose points are noted."""

    def __init__(self, adapter: Adapter, rows: Int[Tensor, " row"], points: Points) -> None:
        super().__init__(adapter, rows)
        self._points = points
        if hasattr(adapter, "reveal"):
            self.reveal = self._reveal

    def _reveal(self, context: Context, tasks: Sequence[Task]) -> Context:
        return context._replace(context=tell_tasks(self._adapter, context.context, tasks))

    def adapt(self, context: Context, episodes: Episodes, generator: torch.Generator) -> Context:
        """Adapt, and note the result if the next episodes run side by side."""
        own = self._adapter.adapt(context.context, episodes, generator)
        context = context._replace(context=own)
        if not self.sequential:
            context = context._replace(point=context.point + 1)
            every = torch.arange(len(context.row))
            self._points.put(int(context.point[0]), context.row, branch(own, every))
        return context

    def start(
        self, point: int, which: Int[Tensor, " row"], context: Placed, timestep: Timestep
    ) -> tuple[Placed, Timestep]:
        """Note what is known; the copies are made before the agent goes on from it."""
        known = context.context, timestep.previous_action, timestep.previous_reward
        self._points.put(point, context.row[which], branch(known, which))
        return context, timestep


class Exchanged(_Wrapper):
    """The adapter with the contexts of other tasks, at every point those of that point.

    Args:
        adapter: the adapter.
        rows: the numbers of the tasks of a batch among all.
        points: what was known in the trials of all tasks.
        partners: the number of the other task, for each of all tasks.
    """

    def __init__(
        self,
        adapter: Adapter,
        rows: Int[Tensor, " row"],
        points: Points,
        partners: Int[Tensor, " task"],
    ) -> None:
        super().__init__(adapter, rows)
        self._points, self._partners = points, partners

    def begin(self, num_tasks: int) -> Context:
        """Return what is known of the other tasks, which is what an oracle is told."""
        start = super().begin(num_tasks)
        if self.sequential:  # The first episode brings it.
            return start
        return start._replace(context=self._points.of(0, self._partners[self._rows]))

    def adapt(self, context: Context, episodes: Episodes, generator: torch.Generator) -> Context:
        """Return what is known of the other tasks after as many adaptations."""
        if self.sequential:
            return context
        own = self._points.of(int(context.point[0]) + 1, self._partners[context.row])
        return Placed(own, context.row, context.point + 1)

    def start(
        self, point: int, which: Int[Tensor, " row"], context: Placed, timestep: Timestep
    ) -> tuple[Placed, Timestep]:
        """Begin an episode with all that was known and seen in the trials of the others."""
        known = self._points.of(point, self._partners[context.row[which]])
        own, action, reward = _placed(
            (context.context, timestep.previous_action, timestep.previous_reward), which, known
        )
        timestep = timestep._replace(previous_action=action, previous_reward=reward)
        return context._replace(context=own), timestep


class ForgetsEveryEpisode(_Wrapper):
    """The adapter, which begins its trial anew at every point; an oracle keeps what it is told."""

    def __init__(self, adapter: Adapter, rows: Int[Tensor, " row"], tasks: Sequence[Task]) -> None:
        super().__init__(adapter, rows)
        self._tasks, self._first = tasks, int(rows[0])

    def begin(self, num_tasks: int) -> Context:
        """Return what the adapter knows beforehand and is told."""
        every = torch.arange(num_tasks)
        return super().begin(num_tasks)._replace(context=self._beginning(every))

    def adapt(self, context: Context, episodes: Episodes, generator: torch.Generator) -> Context:
        """Begin anew, if the next episodes run side by side."""
        if self.sequential:
            return context
        return context._replace(context=self._beginning(context.row - self._first))

    def start(
        self, point: int, which: Int[Tensor, " row"], context: Placed, timestep: Timestep
    ) -> tuple[Placed, Timestep]:
        """Begin anew: nothing is known, and nothing was done or paid before."""
        known = self._beginning(context.row[which] - self._first)
        own = _placed(context.context, which, known)
        return context._replace(context=own), _beginning(timestep, which)

    def _beginning(self, numbers: Int[Tensor, " row"]) -> Context:
        """Return what is known beforehand of some of the tasks, by their numbers in the batch."""
        tasks = [self._tasks[i] for i in numbers.tolist()]
        return tell_tasks(self._adapter, self._adapter.begin(len(tasks)), tasks)


def _placed(tree: Any, which: Int[Tensor, " row"], rows: Any) -> Any:
    """Return a copy of a tree of tensors in which some rows are others."""
    leaves = pytree.tree_leaves(tree)
    if not leaves or len(which) == len(leaves[0]):
        return rows
    return pytree.tree_map(lambda x, new: x.index_copy(0, which.to(x.device), new), tree, rows)


def _beginning(timestep: Timestep, which: Int[Tensor, " row"]) -> Timestep:
    """Return what is seen at the start of a trial by the tasks ``which``."""
    filled = {"previous_action": 0, "previous_reward": 0, "boundary": True, "trial_start": True}
    return timestep._replace(
        **{name: getattr(timestep, name).index_fill(0, which, x) for name, x in filled.items()}
    )


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
        every = torch.arange(len(timestep.active))
        used, start = branch(context, every), _beginning(timestep, every)
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


def controls_of(shape: TrialShape) -> list[Control]:
    """Return the controls of trials of a shape, the trial itself first."""
    steps: list[Control] = ["reset-every-step"] if shape.sequential else []
    return ["own", "another-task", "reset-every-episode", *steps]


def _controlled(
    control: Control,
    agent: Adapter,
    rows: Int[Tensor, " row"],
    tasks: Sequence[Task],
    points: Points,
    partners: Int[Tensor, " task"],
) -> Adapter:
    """Return ``agent`` with the contexts of a control, for a batch of tasks."""
    if control == "reset-every-step":
        return ForgetsEveryStep(agent)
    if control == "reset-every-episode":
        return ForgetsEveryEpisode(agent, rows, tasks)
    if control == "another-task":
        return Exchanged(agent, rows, points, partners)
    if not agent.shape.sequential:
        points.put(0, rows, tell_tasks(agent, agent.begin(len(rows)), tasks))
    return Recording(agent, rows, points)


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
    """Run trials, and the same trials with other contexts.

    ``own`` is the trial as :func:`metarl.experience.rollout.run_trial` runs it, bit for bit. With
    ``another-task`` the agent has, at the start of every episode (of every round, for agents
    whose episodes run side by side), the context that it had at that moment in the trial of the
    task's partner, and the last action and reward of that trial. With ``reset-every-episode`` it
    begins anew there, with ``reset-every-step`` a sequential agent begins anew at every step. An
    oracle is told the partner's task with ``another-task``, and otherwise its own.

    A control takes as many steps as the trial. The contexts of all tasks at all points are kept
    in memory.

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
        advance: a function that is called with the number of tasks that have finished a trial, in
            every control.

    Returns:
        The metrics of all rounds of every batch, by control (:func:`controls_of`).
    """
    agent = InShape(agent, shape)
    points, others = Points(), torch.from_numpy(partners)
    starts = np.cumsum([0, *(len(batch.tasks) for batch in batches)])
    found: dict[Control, list[Rounds]] = {}
    for control in controls_of(shape):
        if control == "reset-every-step" and one_step:
            found[control] = found["reset-every-episode"]
            if advance is not None:
                advance(int(starts[-1]))
            continue
        found[control] = []
        for batch, start in zip(batches, starts.tolist(), strict=False):
            rows = torch.arange(start, start + len(batch.tasks))
            adapter = _controlled(control, agent, rows, batch.tasks, points, others)
            trial = run_trial(
                adapter, envs, batch.tasks, shape=shape, keys=batch.keys, greedy=greedy
            )
            found[control].append([episodes.metrics for episodes in trial.rounds])
            if advance is not None:
                advance(len(batch.tasks))
    return found

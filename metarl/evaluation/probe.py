"""A linear probe: how much of its task an agent's context tells, as the agent gains experience.

A probe is a ridge regression from the context to the parameters of the task, fitted on some tasks
and tested on others (Alain and Bengio, 2016, 1610.01644). What it finds, the context holds in a
form that one linear layer can read; what it does not find may still be there in another form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl.errors import UserError, bad_option
from metarl.evaluation.drawn_tasks import evaluation_tasks
from metarl.evaluation.evaluate import evaluation_shape, evaluation_slots, tasks_together
from metarl.experience.agent import (
    ATTENTION,
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

FEWEST_TASKS = 20
"""The smallest number of tasks that a probe is fitted and tested on."""

FEWEST_DISTINCT = 10
"""The smallest number of distinct tasks that are kept apart: two in each of the folds."""

MOST_TASKS = 2000
"""The largest number of tasks: a regression takes time with its third power."""

NUM_FOLDS = 5
"""The tasks are divided into so many parts; each is predicted by a probe fitted on the others."""

NUM_MOMENTS = 20
"""The number of moments of a trial that are probed, if the agent learns while it acts."""

RESAMPLES = 1000
"""The number of bootstrap resamples of tasks behind an interval."""

MARGIN = 0.25
"""How far beyond the targets that a regression was fitted on its predictions may lie, as a share of
their range."""

PENALTIES = 10.0 ** np.arange(-5, 4)
"""The ridge penalties to choose from, for each row that a regression is fitted on, where the
squares of a row's features add up to 1 on average."""

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Features = npt.NDArray[np.float32]
Known = dict[int, tuple[Rows, Features]]
"""By the amount of experience: the rows of tasks that have had it, and their contexts."""


@dataclass(frozen=True)
class ProbeCurve:
    """How much of the variance of tasks' parameters a linear probe of the context explains.

    >>> agent, tasks = metarl.load("runs/first"), metarl.make("bandit/n10-k5")
    >>> curve = metarl.probe_context(agent, tasks, num_tasks=50)
    >>> curve.unit, curve.experience
    ('steps', (0, 1, 2, 3, 4, 5, 6, 7, 8, 9))
    >>> curve.parameters, curve.r2.shape
    (('p[0]', 'p[1]', 'p[2]', 'p[3]', 'p[4]'), (10, 5))
    """

    unit: str
    """What experience is counted in: ``steps`` for agents that learn while they act, or
    ``episodes``."""
    experience: tuple[int, ...]
    """The amount of experience at each point, in units of ``unit``."""
    parameters: tuple[str, ...]
    """The names of the parameters that differ between tasks."""
    r2: Array
    """The share of each parameter's variance that is explained on tasks the probe was not fitted
    on, ``[point, parameter]``: 1 if the context tells it exactly, 0 if it tells nothing."""
    mean: Array
    """The mean over parameters, ``[point]``."""
    low: Array
    """The lower bound of a 95% bootstrap interval of ``mean`` over tasks, ``[point]``."""
    high: Array
    """The upper bound of the same interval."""
    num_tasks: tuple[int, ...]
    """The number of tasks behind each point; fewer where trials have ended before."""

    def summary(self) -> dict[str, Any]:
        """Return what ``json.dumps`` takes."""
        return {
            "unit": self.unit,
            "experience": list(self.experience),
            "parameters": list(self.parameters),
            "num_tasks": list(self.num_tasks),
            "r2": {
                "mean": self.mean.tolist(),
                "low": self.low.tolist(),
                "high": self.high.tolist(),
                "by_parameter": dict(zip(self.parameters, self.r2.T.tolist(), strict=True)),
            },
        }


def probe_context(
    agent: Adapter,
    tasks: TaskDistribution,
    *,
    split: Split = "test",
    num_tasks: int = 200,
    num_episodes: int | None = None,
    seed: int = 0,
    workers: Workers | None = None,
    envs: SharedEnvs | None = None,
    advance: Callable[[int], None] | None = None,
) -> ProbeCurve:
    """Let an agent gain experience of tasks, and probe what its context tells of them.

    The agent goes through the same trials as in :func:`metarl.evaluate_adaptation`. An agent that
    learns while it acts is probed after about ``NUM_MOMENTS`` numbers of steps, another before
    and after each adaptation. The features are the numbers of its context, or of what its method
    ``insight`` returns if it has one.

    A probe is asked only of tasks that it was not fitted on: equal tasks are in one fold. Of fewer
    than ten tasks that differ, such as two directions, it is asked of other trials of the same.

    Args:
        agent: the agent; it is not changed.
        tasks: the distribution that the tasks come from.
        split: the split that the tasks come from.
        num_tasks: the number of tasks.
        num_episodes: the number of episodes of a trial (default: as in an evaluation).
        seed: the seed of tasks, episodes, actions and of the parts that the tasks are divided into.
        workers: how environments are stepped; of it ``num_envs`` alone moves last bits of results.
        envs: environments of ``tasks``; they are left open.
        advance: a function that is called with the number of tasks just finished.

    Raises:
        UserError: if there are too few tasks, if these do not differ, or if the agent's context
            holds no numbers.

    >>> agent, tasks = metarl.load("runs/first"), metarl.make("bandit/n10-k5")
    >>> curve = metarl.probe_context(agent, tasks, num_tasks=200)
    >>> bool(curve.mean[0] < 0.01), bool(curve.mean[-1] > 0.1)  # before and after nine pulls
    (True, True)
    """
    require_spaces(agent, tasks.observation_space, tasks.action_space, f"--env: {tasks.name}")
    if not FEWEST_TASKS <= num_tasks <= MOST_TASKS:
        accepted = f"{FEWEST_TASKS} to {MOST_TASKS} for a probe"
        raise bad_option("--evaluation-tasks", num_tasks, accepted)
    shape = evaluation_shape(agent, tasks, num_episodes)
    drawn = evaluation_tasks(tasks, split=split, num_tasks=num_tasks, seed=seed)
    names, targets = parameters_of(drawn)
    if not names:
        raise UserError(f"--probe: got equal tasks of {tasks.name}; accepted: tasks that differ")
    features_of(agent, agent.begin(1))
    workers = workers or Workers()
    shared = envs or SharedEnvs(workers, tasks)
    try:
        known = _contexts(agent, tasks, drawn, shape, seed, workers, shared, advance)
    finally:
        if envs is None:
            shared.close()
    own = _equal_together(drawn)
    folds = (np.random.default_rng(seed).permutation(int(own.max()) + 1) % NUM_FOLDS)[own]
    points: list[tuple[int, int, Array, float, float]] = []
    for amount, (rows, contexts) in sorted(known.items()):
        target = targets[rows]
        too_few = len(rows) < FEWEST_TASKS or len(np.unique(folds[rows])) < 2
        if too_few or (np.ptp(target, axis=0) == 0).any():
            continue
        predicted, guessed = predict_across(contexts, target, folds[rows])
        errors, spread = (target - predicted) ** 2, (target - guessed) ** 2
        r2 = 1 - errors.sum(0) / spread.sum(0)
        points.append((amount, len(rows), r2, *_interval(errors, spread, own[rows], seed)))
    if not points:
        raise UserError("--probe: too few tasks have trials that go on long enough to be probed")
    amounts, counts, r2s, lows, highs = zip(*points, strict=True)
    return ProbeCurve(
        "steps" if shape.learns_while_acting else "episodes",
        amounts,
        names,
        np.array(r2s),
        np.mean(r2s, axis=1),
        np.array(lows),
        np.array(highs),
        counts,
    )


def parameters_of(tasks: Sequence[Task]) -> tuple[tuple[str, ...], Array]:
    """Return the names and values of the parameters that differ between tasks.

    Numbers are taken as they are; the entries of a vector are named ``name[i]``. A text becomes
    one number for each of its values, ``name=value``, which is 1 where a task has this value.

    Returns:
        The names, and the values ``[task, parameter]``.
    """
    columns: dict[str, Array] = {}
    for name, first in tasks[0].params:
        values = [task[name] for task in tasks]
        if isinstance(first, str):
            for text in sorted(set(values)):
                columns[f"{name}={text}"] = np.array([float(v == text) for v in values])
            continue
        numbers = np.asarray(values, np.float64).reshape(len(tasks), -1)
        for i, column in enumerate(numbers.T):
            columns[name if numbers.shape[1] == 1 else f"{name}[{i}]"] = column
    differing = {name: x for name, x in columns.items() if np.ptp(x) > 0}
    return tuple(differing), np.array(list(differing.values())).T


def predict_across(
    features: npt.NDArray[np.floating[Any]], targets: Array, folds: npt.NDArray[np.int64]
) -> tuple[Array, Array]:
    """Predict every row by a ridge regression that was fitted on the other folds.

    The features are standardised by the rows that a regression is fitted on, and its penalty is
    the one of ``PENALTIES`` with the smallest squared error of those rows, each left out in turn.
    Predictions are kept within the range of the targets fitted on and a margin, since a few rows
    with unusual features would otherwise decide the result.

    Args:
        features: ``[row, feature]``.
        targets: ``[row, target]``.
        folds: the fold of each row, ``[row]``.

    Returns:
        The predictions and, to compare them with, the means of the rows fitted on,
        ``[row, target]`` each.
    """
    predicted, guessed = np.empty_like(targets), np.empty_like(targets)
    for fold in np.unique(folds):
        own, others = folds == fold, folds != fold
        known, mean = features[others].astype(np.float64), targets[others].mean(0)
        center, scale = known.mean(0), known.std(0)
        used = scale > 1e-9 * (1 + np.abs(center))
        guessed[own] = predicted[own] = mean
        if not used.any():
            continue
        known = (known[:, used] - center[used]) / scale[used] / math.sqrt(used.sum())
        new = (features[own][:, used] - center[used]) / scale[used] / math.sqrt(used.sum())
        predicted[own] += new @ known.T @ _dual_weights(known @ known.T, targets[others] - mean)
        low, high = targets[others].min(0), targets[others].max(0)
        margin = MARGIN * (high - low)
        predicted[own] = predicted[own].clip(low - margin, high + margin)
    return predicted, guessed


def _dual_weights(kernel: Array, targets: Array) -> Array:
    """Return the weights of rows in a kernel ridge regression, ``[row, target]``.

    Each target has its own penalty, chosen by the error of rows that are left out in turn:
    residuals divided by one minus the leverage (Hastie, Tibshirani and Friedman, eq. 7.64).
    """
    values, vectors = np.linalg.eigh(kernel)
    values = np.maximum(values, 0.0)
    rotated, squares = vectors.T @ targets, vectors**2
    best = np.full(targets.shape[1], np.inf)
    weights = np.zeros_like(targets)
    for penalty in PENALTIES * len(kernel):
        left = penalty / (values + penalty)  # the part of each component that is not fitted
        # The intercept is fitted too, which has a leverage of 1/n in every row.
        leverage = squares @ (1 - left) + 1 / len(kernel)
        errors = (vectors @ (left[:, None] * rotated)) / np.maximum(1 - leverage, 1e-9)[:, None]
        score = (errors**2).sum(0)
        better = score < best
        best[better] = score[better]
        weights[:, better] = (vectors @ (rotated / (values + penalty)[:, None]))[:, better]
    return weights


def _equal_together(tasks: Sequence[Task]) -> Rows:
    """Return what is in one fold, ``[row]``: the number of each task among those that differ.

    A context that tells a task from others it has met would otherwise be asked of a task that the
    probe was fitted on. Where fewer than ten differ, every row has its own number.
    """
    numbers = {task: i for i, task in enumerate(dict.fromkeys(tasks))}
    if len(numbers) < FEWEST_DISTINCT:
        return np.arange(len(tasks))
    return np.array([numbers[task] for task in tasks])


def _interval(errors: Array, spread: Array, own: Rows, seed: int) -> tuple[float, float]:
    """Return the bounds of a 95% interval of the mean R² over parameters.

    Tasks are resampled, their predictions are kept; ``own`` says which rows are of one task.
    """
    rng = np.random.default_rng(seed)
    _, own = np.unique(own, return_inverse=True)
    number = int(own.max()) + 1
    drawn = rng.multinomial(number, np.full(number, 1 / number), RESAMPLES).astype(np.float64)
    times = drawn[:, own]
    r2 = 1 - (times @ errors) / np.maximum(times @ spread, 1e-12)
    low, high = np.quantile(r2.mean(1), (0.025, 0.975)).tolist()
    return low, high


def _contexts(
    agent: Adapter,
    tasks: TaskDistribution,
    drawn: Sequence[Task],
    shape: TrialShape,
    seed: int,
    workers: Workers,
    envs: SharedEnvs,
    advance: Callable[[int], None] | None,
) -> Known:
    """Return what the agent's context holds at the moments that are probed."""
    moments = _moments(shape, tasks.horizon) if shape.learns_while_acting else None
    together = tasks_together(agent, tasks, len(drawn), workers)
    slots = evaluation_slots(agent, tasks, len(drawn), workers, num_episodes=shape.num_episodes)
    notes: list[tuple[int, Rows, Features]] = []
    for start in range(0, len(drawn), together):
        batch = list(drawn[start : start + together])
        recorder = _Recorder(agent, moments)
        keys = TrialKeys(seed, Phase.EVALUATE, 0, np.arange(start, start + len(batch)))
        run_trial(recorder, envs.sized(slots), batch, shape=shape, keys=keys)
        notes += [(amount, rows + start, x) for amount, rows, x in recorder.notes]
        if advance is not None:
            advance(len(batch))
    known: Known = {}
    for amount in {amount for amount, _, _ in notes}:
        rows, features = zip(*((r, x) for a, r, x in notes if a == amount), strict=True)
        known[amount] = np.concatenate(rows), np.concatenate(features)
    return known


def _moments(shape: TrialShape, horizon: int) -> tuple[int, ...]:
    """Return the numbers of steps after which an agent is probed: dense at first, then sparse.

    After the last step of a trial there is no action, and so no context to probe.
    """
    last = max(1, shape.num_episodes * horizon - 1)
    later = np.geomspace(1, last, NUM_MOMENTS - 1).round().astype(int)
    return (0, *np.unique(later).tolist())


class _Recorder:
    """An adapter that notes what the context of another one holds; it acts and adapts like it."""

    def __init__(self, adapter: Adapter, moments: tuple[int, ...] | None) -> None:
        self._adapter, self._moments = adapter, moments
        self.shape = adapter.shape
        self._steps = np.zeros(0, np.int64)
        self.notes: list[tuple[int, Rows, Features]] = []
        self._adaptations = 0

    def begin(self, num_tasks: int) -> Context:
        """Begin as the adapter does."""
        context = self._adapter.begin(num_tasks)
        self._steps = np.zeros(num_tasks, np.int64)
        if self._moments is None:
            self._note(0, np.arange(num_tasks), context)
        return context

    def reveal(self, context: Context, tasks: Sequence[Task]) -> Context:
        """Tell the adapter its tasks if it is an oracle."""
        return tell_tasks(self._adapter, context, tasks)

    def act(
        self, context: Context, timestep: Timestep, generator: LaneGenerator, greedy: bool = False
    ) -> tuple[Tensor, Record, Context]:
        """Act as the adapter does, and note what it knows after the steps so far.

        At the step after n others, the context has taken in n actions and rewards.
        """
        action, record, context = self._adapter.act(context, timestep, generator, greedy)
        if self._moments is not None:
            active = timestep.active[:, 0].cpu().numpy()
            for moment in np.intersect1d(self._steps[active], self._moments).tolist():
                self._note(moment, np.flatnonzero(active & (self._steps == moment)), context)
            self._steps += active
        return action, record, context

    def adapt(self, context: Context, episodes: Episodes, generator: torch.Generator) -> Context:
        """Adapt as the adapter does, and note what it knows then."""
        context = self._adapter.adapt(context, episodes, generator)
        self._adaptations += 1
        if self._moments is None:
            amount = self._adaptations * self.shape.stride
            self._note(amount, np.arange(len(self._steps)), context)
        return context

    def _note(self, amount: int, rows: npt.NDArray[np.int64], context: Context) -> None:
        features = features_of(self._adapter, context)[rows]
        self.notes.append((amount, rows, features))


def features_of(adapter: Adapter, context: Context) -> npt.NDArray[np.float32]:
    """Return the numbers that a context consists of: ``[task, number]``.

    They are those of the adapter's ``insight`` if it has this method, but for attention, which says
    where the agent looked and not what it knows.

    Raises:
        UserError: if there are none.
    """
    tree = context
    if isinstance(adapter, Insightful):
        tree = {name: x for name, x in adapter.insight(context).items() if name != ATTENTION}
    leaves = [x for x in pytree.tree_leaves(tree) if isinstance(x, Tensor) and x.ndim > 0]
    numbers = [x.detach().reshape(len(x), -1).to("cpu", torch.float32) for x in leaves]
    features = torch.cat(numbers, 1).numpy() if numbers else np.zeros((0, 0), np.float32)
    if features.shape[1] == 0:
        raise UserError(
            f"--probe: {type(adapter).__name__} keeps nothing of its tasks in its context; "
            "accepted: an agent that does"
        )
    return features

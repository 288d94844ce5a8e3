"""Exact planning in families of finitely many tasks whose movement everybody knows.

In VariBAD's grid only the reward tells where the goal is. Such a family is walked through once,
which gives a table of cells; what is best if the task is known, and what is best while it is not,
then follow by dynamic programming.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metarl.experience.data import Timestep
from metarl.task import SPLITS, Task
from metarl.tasks.arrays import ArrayTaskDistribution, Noise, NoiseSpec
from metarl.tasks.distribution import TaskDistribution

MOST_CELLS = 500
MOST_BELIEFS = 1_000_000

ACCEPTED = (
    "finite families of array code without chance, in which a step pays differently in one task at "
    "most and nothing else tells the tasks apart, such as gridworld"
)


class HiddenRewards(NamedTuple):
    """Tasks that move alike, and differ in single rewards that give them away.

    Cell 0 is where every episode starts.
    """

    tasks: dict[Task, int]
    """The tasks of all splits and their numbers; each is as likely as any other."""
    horizon: int
    """The number of steps of every episode."""
    next: npt.NDArray[np.int64]
    """The cell that an action leads to: ``[cell, action]``."""
    reward: npt.NDArray[np.float64]
    """The reward of all tasks but one, ``[cell, action]``."""
    owner: npt.NDArray[np.int64]
    """The number of the task that pays otherwise, or -1: ``[cell, action]``."""
    owners_reward: npt.NDArray[np.float64]
    """The reward of that task."""

    def known(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return values and best actions if the task is known: ``[task, steps left, cell]``."""
        number = np.arange(len(self.tasks))[:, None, None]
        reward = np.where(self.owner == number, self.owners_reward, self.reward)
        values = np.zeros((len(self.tasks), self.horizon + 1, len(self.next)))
        actions = np.zeros(values.shape, np.int64)
        for left in range(1, self.horizon + 1):
            total = reward + values[:, left - 1][:, self.next]
            values[:, left], actions[:, left] = total.max(-1), total.argmax(-1)
        return values, actions


def hidden_rewards(tasks: TaskDistribution) -> HiddenRewards | None:
    """Return the table of a family, or None if it is not of this kind (``ACCEPTED``)."""
    if not isinstance(tasks, ArrayTaskDistribution):
        return None
    if not isinstance(tasks.action_space, gym.spaces.Discrete):
        return None
    if tasks.initial_noise != NoiseSpec() or tasks.transition_noise != NoiseSpec():
        return None
    try:
        every = list(dict.fromkeys(task for split in SPLITS for task in tasks.tasks(split)))
    except NotImplementedError:
        return None
    num_actions = int(tasks.action_space.n)
    noise = Noise(np.zeros((len(every), 0)), np.zeros((len(every), 0)))
    state, observation = tasks.initial(tasks.stack(every), noise)
    states, cells = [state], {_fingerprint(state): 0}
    after: list[list[int]] = []
    rewards = []
    if not _is_same(observation):
        return None
    for state in states:  # It grows on the way.
        after.append([])
        for action in range(num_actions):
            actions = np.full(len(every), int(tasks.action_space.start) + action)
            result = tasks.transition(state, actions, noise)
            if np.any(result.terminated) or not _is_same(result.observation):
                return None
            mark = _fingerprint(result.state)
            if mark not in cells:
                if len(cells) == MOST_CELLS:
                    return None
                cells[mark] = len(cells)
                states.append(result.state)
            after[-1].append(cells[mark])
            rewards.append(np.broadcast_to(result.reward, len(every)))
    found = _owners(np.array(rewards, np.float64))
    if found is None:
        return None
    common, owner, own = (x.reshape(-1, num_actions) for x in found)
    numbers = {task: i for i, task in enumerate(every)}
    return HiddenRewards(numbers, tasks.horizon, np.array(after), common, owner, own)


def _fingerprint(state: dict[str, Any]) -> bytes:
    return b"".join(np.ascontiguousarray(state[name]).tobytes() for name in sorted(state))


def _is_same(observation: Any) -> bool:
    return bool((np.asarray(observation) == np.asarray(observation)[:1]).all())


def _owners(
    rewards: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]] | None:
    """Return the common reward, the task with another one and that one, for rows of rewards."""
    common = np.median(rewards, axis=1)
    differs = rewards != common[:, None]
    count, owner = differs.sum(1), differs.argmax(1)
    if rewards.shape[1] < 3 or (count > 1).any():
        return None
    own = rewards[np.arange(len(rewards)), owner]
    return common, np.where(count == 1, owner, -1), own


class _Layer(NamedTuple):
    """What may be known and where one may be after so many steps, with the best way there."""

    mask: npt.NDArray[np.int64]
    """The tasks that it may still be, one bit each."""
    cell: npt.NDArray[np.int64]
    total: npt.NDArray[np.float64]
    """The most that can be had up to here, summed over the tasks, the later reward of those that
    have been found included."""
    parent: npt.NDArray[np.int64]
    """The row of the layer before."""
    action: npt.NDArray[np.int64]


def search_plan(model: HiddenRewards, num_episodes: int) -> npt.NDArray[np.int64] | None:
    """Return the Bayes-optimal actions as long as the task is not found: ``[episode, time]``.

    Until then nothing is seen that was not expected, so that an optimal policy is a fixed sequence
    of actions and what is best once the task is known. What has been excluded is a set of tasks;
    a layer holds the best way to every set and cell. Sets that an episode can end with are followed
    in the order of a bound: all of their tasks known from the next episode on. The search ends when
    no bound exceeds the best plan, which is therefore optimal.

    Returns:
        The plan, or None if there are more than ``MOST_BELIEFS`` sets and cells at a step.
    """
    if len(model.tasks) + np.log2(len(model.next)) >= 62:
        return None
    values, _ = model.known()
    everything = np.array([(1 << len(model.tasks)) - 1])
    try:
        return _search(model, values, num_episodes, everything, np.zeros(1))[1]
    except MemoryError:
        return None


def _search(
    model: HiddenRewards,
    values: npt.NDArray[np.float64],
    episodes_left: int,
    mask: npt.NDArray[np.int64],
    total: npt.NDArray[np.float64],
) -> tuple[float, npt.NDArray[np.int64], int]:
    """Return the best total, its plan ``[episode, time]`` and the row it starts from."""
    nothing = np.zeros(len(mask), np.int64)
    layers = [_Layer(mask, nothing, total, nothing, nothing)]
    later = (episodes_left - 1) * values[:, -1, 0]
    for left in reversed(range(model.horizon)):
        layers.append(_step(model, layers[-1], values[:, left] + later[:, None]))
    last = layers[-1]
    bound = last.total + (last.mask[:, None] >> np.arange(len(later)) & 1) @ later
    order = np.argsort(-bound, kind="stable")
    best, plan, end = -np.inf, np.zeros((0, model.horizon), np.int64), 0
    for group in _equal(bound[order]):
        rows = order[group]
        if episodes_left == 1:
            best, end = float(last.total[rows[0]]), int(rows[0])
            break
        if bound[rows[0]] <= best + 1e-9:
            break
        found = _search(model, values, episodes_left - 1, last.mask[rows], last.total[rows])
        if found[0] > best:
            best, plan, end = found[0], found[1], int(rows[found[2]])
    actions = []
    for layer in reversed(layers[1:]):
        actions.append(layer.action[end])
        end = int(layer.parent[end])
    return best, np.concatenate([np.array(actions[::-1])[None], plan]), end


def _step(model: HiddenRewards, layer: _Layer, found: npt.NDArray[np.float64]) -> _Layer:
    """Return the next layer; ``found`` is what a task yields once it is known: ``[task, cell]``."""
    num_actions = model.next.shape[1]
    rows = np.repeat(np.arange(len(layer.mask)), num_actions)
    action = np.tile(np.arange(num_actions), len(layer.mask))
    at, cell = layer.cell[rows], model.next[layer.cell].reshape(-1)
    owner = model.owner[at, action]
    bit = np.where(owner < 0, 0, 1 << np.maximum(owner, 0)) & layer.mask[rows]
    mask = layer.mask[rows] & ~bit
    gain = model.owners_reward[at, action] + found[owner, cell]
    total = layer.total[rows] + np.bitwise_count(mask) * model.reward[at, action]
    total += np.where(bit > 0, gain, 0.0)
    key = mask * len(model.next) + cell
    order = np.lexsort((-total, key))
    first = order[np.concatenate([[True], np.diff(key[order]) > 0])]
    if len(first) > MOST_BELIEFS:
        raise MemoryError
    return _Layer(mask[first], cell[first], total[first], rows[first], action[first])


def _equal(ordered: npt.NDArray[np.float64]) -> Sequence[slice]:
    """Return slices of a falling sequence, in each of which the numbers are equal."""
    ends = np.flatnonzero(np.diff(ordered) < -1e-9) + 1
    return [slice(a, b) for a, b in zip([0, *ends], [*ends, len(ordered)], strict=True)]


class Follower:
    """Keeps in mind where an agent is in a :class:`HiddenRewards` and which task it has found.

    The context is ``[task, 4]``: the cell, the step of the episode, the episode of the trial, and
    the number of the task or -1. A policy is the tables that :meth:`actions` looks into.
    """

    def __init__(self, model: HiddenRewards, plan: npt.NDArray[np.int64] | None) -> None:
        self.model, self.plan = model, plan
        self.best = model.known()[1]

    def begin(self, num_tasks: int) -> Tensor:
        """Return the start of a trial with unknown tasks."""
        return torch.tensor([0, 0, 0, -1]).repeat(num_tasks, 1)

    def advance(self, context: Tensor, timestep: Timestep) -> Tensor:
        """Return the context after the last action and its reward."""
        cell, step, episode, task = (x.numpy() for x in context.cpu().unbind(1))
        action = timestep.previous_action[:, 0].cpu().numpy()
        reward = timestep.previous_reward[:, 0].cpu().numpy()
        boundary = timestep.boundary[:, 0].cpu().numpy()
        model = self.model
        usual, own = model.reward[cell, action], model.owners_reward[cell, action]
        owner = model.owner[cell, action]
        found = (owner >= 0) & (np.abs(reward - own) < np.abs(reward - usual))
        after = [
            np.where(boundary, 0, model.next[cell, action]),
            np.where(boundary, 0, np.minimum(step + 1, model.horizon - 1)),
            episode + boundary,
            np.where(found & (task < 0), owner, task),
        ]
        moved = (timestep.active & ~timestep.trial_start).to(context.device)
        return torch.where(moved, torch.from_numpy(np.stack(after, 1)).to(context), context)

    def actions(self, context: Tensor) -> Tensor:
        """Return the best actions, ``[task, 1]``."""
        cell, step, episode, task = (x.numpy() for x in context.cpu().unbind(1))
        action = self.best[task, self.model.horizon - step, cell]
        if self.plan is not None:
            blind = self.plan[np.minimum(episode, len(self.plan) - 1), step]
            action = np.where(task < 0, blind, action)
        return torch.from_numpy(action)[:, None].to(context.device)

"""Lanes: their bookkeeping, the log of their steps, and their random keys.

A lane is a slot that runs episodes of one task. :class:`Lanes` alone knows what an agent sees next:
collecting experience, :func:`metarl.adapt`, Meta-World's own evaluation and the conformance checks
all use it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metarl import seeding
from metarl.experience.agent import TrialShape
from metarl.experience.data import Timestep
from metarl.seeding import Component, Phase
from metarl.stepping.actions import ActionCodec

ENDLESS = 2**31
"""The number of episodes of lanes without a limit."""


class Log:
    """Collects the steps of all lanes, and returns them as ``[task, episode, time]``."""

    def __init__(self) -> None:
        self._episode: list[npt.NDArray[np.int64]] = []
        self._time: list[npt.NDArray[np.int64]] = []
        self._arrays: dict[str, list[npt.NDArray[Any]]] = {}
        self._tensors: dict[str, list[Tensor]] = {}

    def add(
        self, lanes: Lanes, arrays: dict[str, npt.NDArray[Any]], tensors: Mapping[str, Tensor]
    ) -> None:
        """Append one step of the active lanes.

        Args:
            lanes: the lanes as they were in this step.
            arrays: the environments' values, ``[task · lane, …]``; they are not copied.
            tensors: the agent's values, ``[task, lane, …]``.
        """
        place, now = lanes.row * lanes.num_episodes + lanes.episode, lanes.time.copy()
        every = bool(lanes.active.all())
        self._episode.append(place if every else place[lanes.active])
        self._time.append(now if every else now[lanes.active])
        for name, values in arrays.items():
            self._arrays.setdefault(name, []).append(values if every else values[lanes.active])
        mask = None if every else torch.from_numpy(lanes.active.copy())
        for name, value in tensors.items():
            value = value.flatten(0, 1)
            kept = value if mask is None else value[mask.to(value.device)]
            self._tensors.setdefault(name, []).append(kept)

    def scatter(self, num_tasks: int, num_episodes: int) -> dict[str, Tensor]:
        """Return every field as ``[task, episode, time, …]``, with zeros after an episode's end.

        The field ``valid`` is True wherever a step was taken.
        """
        time = np.concatenate(self._time)
        length = int(time.max()) + 1
        rows = torch.from_numpy(np.concatenate(self._episode) * length + time)
        size = num_tasks * num_episodes * length

        fields = {k: torch.from_numpy(np.concatenate(v)) for k, v in self._arrays.items()}
        fields |= {k: torch.cat(v) for k, v in self._tensors.items()}
        fields["valid"] = torch.ones(len(rows), dtype=torch.bool)
        for name, steps in fields.items():
            dense = steps.new_zeros((size, *steps.shape[1:]))
            dense[rows.to(steps.device)] = steps
            fields[name] = dense.reshape(num_tasks, num_episodes, length, *steps.shape[1:])
        return fields


class Lanes:
    """The bookkeeping of all lanes, in arrays ``[task · lane]``.

    Lane l runs the episodes l, l + lanes, … of its task.

    Args:
        num_tasks: the number of tasks.
        lanes: the number of lanes of each task; sequential agents have one.
        num_episodes: the number of episodes of each task; None sets no limit.
        codec: the codec of the action space.
        carried: the timestep that the previous round returned, for sequential agents; None at the
            start of a trial.
        sequential: whether the agent sees its last action and reward across episodes.
    """

    def __init__(
        self,
        num_tasks: int,
        lanes: int,
        num_episodes: int | None,
        codec: ActionCodec,
        carried: Timestep | None,
        sequential: bool,
    ) -> None:
        self.shape = (num_tasks, lanes)
        self.num_episodes = ENDLESS if num_episodes is None else num_episodes
        self.sequential = sequential
        self.size = num_tasks * lanes
        self.row = np.repeat(np.arange(num_tasks), lanes)
        self.episode = np.tile(np.arange(lanes), num_tasks)
        self.time = np.zeros(self.size, np.int64)
        self.active = self.episode < self.num_episodes
        self.boundary = np.ones(self.size, np.bool_)
        self.trial_start = np.full(self.size, carried is None)
        self.previous_action = np.zeros((self.size, *codec.shape), codec.dtype)
        self.previous_reward = np.zeros(self.size, np.float32)
        if carried is not None:
            self.previous_action[:] = carried.previous_action.flatten(0, 1).cpu().numpy()
            self.previous_reward[:] = carried.previous_reward.flatten(0, 1).cpu().numpy()

    def tensor(self, x: npt.NDArray[Any]) -> Tensor:
        """Return a copy of ``[task · lane, …]`` as ``[task, lane, …]``."""
        return torch.from_numpy(np.array(x).reshape(*self.shape, *x.shape[1:]))

    def timestep(self, observation: npt.NDArray[Any]) -> Timestep:
        """Return what the agent sees now."""
        return Timestep(
            observation=self.tensor(observation),
            previous_action=self.tensor(self.previous_action),
            previous_reward=self.tensor(self.previous_reward),
            boundary=self.tensor(self.boundary),
            trial_start=self.tensor(self.trial_start),
            active=self.tensor(self.active),
        )

    def advance(
        self,
        taken: npt.NDArray[Any],
        reward: npt.NDArray[np.float32],
        ended: npt.NDArray[np.bool_],
    ) -> npt.NDArray[np.bool_]:
        """Count a step of the active lanes; return those that now start another episode."""
        active = slice(None) if self.active.all() else self.active
        self.time[active] += 1
        self.previous_action[active] = taken[active]
        self.previous_reward[active] = reward[active]
        self.boundary[active] = ended[active]
        self.trial_start[active] = False
        self.episode[ended] += self.shape[1]
        self.time[ended] = 0
        if not self.sequential:
            self.trial_start[ended] = True
            self.previous_action[ended] = 0
            self.previous_reward[ended] = 0
        self.active = self.active & (self.episode < self.num_episodes)
        return ended & self.active

    def restart(self, rows: npt.NDArray[np.bool_], beginning: Lanes) -> None:
        """Set these rows to those of ``beginning``, which has equally many lanes."""
        for name in _BY_LANE:
            getattr(self, name)[rows] = getattr(beginning, name)[rows]

    def copy(self) -> Lanes:
        """Return an independent copy of these lanes."""
        twin = copy.copy(self)
        for name in _BY_LANE:
            setattr(twin, name, getattr(self, name).copy())
        return twin


_BY_LANE = (
    *("episode", "time", "active", "boundary", "trial_start"),
    *("previous_action", "previous_reward"),
)


class Keys(NamedTuple):
    """The random keys of one round, one for each task."""

    environment: seeding.KeyArray
    action: seeding.KeyArray
    adaptation: int
    first_episode: int = 0
    """Number of the round's first episode in the trial, for sequential agents; otherwise 0."""

    def rows(self, index: slice) -> Keys:
        """Return the keys of some of the tasks."""
        return self._replace(environment=self.environment[index], action=self.action[index])

    def environment_seeds(self, lanes: Lanes) -> seeding.KeyArray:
        """Return the seed of every lane's current episode."""
        return seeding.fold(self.environment[lanes.row], self.first_episode + lanes.episode)

    def environment_seed(self, row: int, episode: int) -> np.uint64:
        """Return the seed of one episode of a task, counted from the start of the round."""
        number = np.full(1, self.first_episode + episode)
        return np.uint64(seeding.fold(self.environment[[row]], number)[0])

    def action_keys(self, lanes: Lanes) -> seeding.KeyArray:
        """Return the key of every lane's current episode, from which actions are drawn."""
        return seeding.fold(self.action[lanes.row], self.first_episode + lanes.episode)


@dataclass(frozen=True)
class TrialKeys:
    """The origin of all random numbers of a trial.

    Args:
        seed: the seed of the run or the evaluation.
        phase: the purpose of the trial; phases never share a random number.
        iteration: the number of the meta-update, 0 outside of training.
        tasks: the numbers of the tasks, or how many tasks there are.
    """

    seed: int
    phase: Phase
    iteration: int
    tasks: npt.NDArray[np.int64] | int

    def round(self, number: int, shape: TrialShape) -> Keys:
        """Return the keys of a round.

        The keys of a sequential agent depend only on the episode's number in the trial, so that a
        trial that is divided into more rounds has the same random numbers.
        """
        if not shape.sequential:
            return self.at(number)
        keys = self.at(0)._replace(first_episode=number * shape.episodes_per_round)
        return keys._replace(adaptation=self.at(number).adaptation) if number else keys

    def at(self, adaptation: int) -> Keys:
        """Return the keys after ``adaptation`` adaptations, for trials of any shape."""
        numbers = np.arange(self.tasks) if isinstance(self.tasks, int) else self.tasks

        environment, actions, adapting = (
            seeding.derive(self.seed, self.phase, component, self.iteration, adaptation)
            for component in (Component.ENVIRONMENT, Component.ACTIONS, Component.ADAPTATION)
        )
        return Keys(
            seeding.fold(environment, numbers),
            seeding.fold(actions, numbers),
            int(adapting >> np.uint64(1)),
        )

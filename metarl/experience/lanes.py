"""What every lane of a wave is doing, what its agent sees next, and a log of its steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metarl.experience.data import Timestep
from metarl.stepping.spaces import ActionCodec


class Log:
    """Steps of all lanes as they come, scattered into ``[task, episode, time]`` at the end."""

    def __init__(self) -> None:
        self._episode: list[npt.NDArray[np.int64]] = []
        self._time: list[npt.NDArray[np.int64]] = []
        self._arrays: dict[str, list[npt.NDArray[Any]]] = {}
        self._tensors: dict[str, list[Tensor]] = {}

    def add(
        self, lanes: Lanes, arrays: dict[str, npt.NDArray[Any]], tensors: dict[str, Tensor]
    ) -> None:
        """Append one step of the active lanes.

        Args:
            lanes: as they were in this step.
            arrays: of the environments, ``[task · lane, …]``; kept as they are, not copied.
            tensors: of the agent, ``[task, lane, …]``.
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
        """Return every field as ``[task, episode, time, …]``, zero where nothing came.

        ``valid`` is one of them.
        """
        time = np.concatenate(self._time)
        length = int(time.max()) + 1
        rows = torch.from_numpy(np.concatenate(self._episode) * length + time)
        size = num_tasks * num_episodes * length

        def dense(steps: Tensor) -> Tensor:
            result = steps.new_zeros((size, *steps.shape[1:]))
            result[rows.to(steps.device)] = steps
            return result.reshape(num_tasks, num_episodes, length, *steps.shape[1:])

        arrays = {k: dense(torch.from_numpy(np.concatenate(v))) for k, v in self._arrays.items()}
        tensors = {k: dense(torch.cat(v)) for k, v in self._tensors.items()}
        return arrays | tensors | {"valid": dense(torch.ones(len(rows), dtype=torch.bool))}


class Lanes:
    """What every lane of a wave is doing; arrays are ``[task · lane]``.

    Lane l has episodes l, l + lanes, … of its task.
    """

    def __init__(
        self,
        num_tasks: int,
        lanes: int,
        num_episodes: int,
        codec: ActionCodec,
        carried: Timestep | None,
        sequential: bool,
    ) -> None:
        self.shape = (num_tasks, lanes)
        self.num_episodes = num_episodes
        self.sequential = sequential
        self.size = num_tasks * lanes
        self.row = np.repeat(np.arange(num_tasks), lanes)
        self.episode = np.tile(np.arange(lanes), num_tasks)
        self.time = np.zeros(self.size, np.int64)
        self.active = self.episode < num_episodes
        self.boundary = np.ones(self.size, np.bool_)
        self.trial_start = np.full(self.size, carried is None)
        shape = (self.size,) if codec.discrete else (self.size, codec.size)
        self.previous_action = np.zeros(shape, codec.dtype)
        self.previous_reward = np.zeros(self.size, np.float32)
        if carried is not None:
            self.previous_action[:] = carried.previous_action.flatten(0, 1).cpu().numpy()
            self.previous_reward[:] = carried.previous_reward.flatten(0, 1).cpu().numpy()

    def tensor(self, x: npt.NDArray[Any]) -> Tensor:
        """Return a copy of ``[task · lane, …]`` as ``[task, lane, …]``."""
        return torch.from_numpy(np.array(x).reshape(*self.shape, *x.shape[1:]))

    def timestep(self, observation: npt.NDArray[np.float32]) -> Timestep:
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

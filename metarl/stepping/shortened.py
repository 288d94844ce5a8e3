"""Episodes that are cut short, to measure how long whole ones take."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from metarl.stepping.vector import Seed, SlotVectorEnv, Step


class ShortenedVectorEnv(SlotVectorEnv):
    """Slots of another vector environment, whose episodes are truncated early.

    Args:
        envs: the slots; whoever made them closes them.
        limit: the number of steps after which an episode is truncated.
    """

    def __init__(self, envs: SlotVectorEnv, limit: int) -> None:
        super().__init__(envs.distribution, envs.num_envs)
        self._envs, self._limit = envs, limit
        self._time = np.zeros(envs.num_envs, np.int64)
        self.reset_seconds = 0.0
        """Seconds that resets have taken."""

    def slots_for(self, lanes: int) -> slice | npt.NDArray[np.intp]:
        """Return the slots that the other environment chooses."""
        return self._envs.slots_for(lanes)

    def worker_pids(self) -> list[int]:
        """Return the process ids of the workers."""
        return self._envs.worker_pids()

    def reset(
        self, *, seed: Seed = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Start episodes."""
        given = (options or {}).get("reset_mask")
        mask = np.ones(self.num_envs, np.bool_) if given is None else np.asarray(given, np.bool_)
        self._time[mask] = 0
        seeds: Any = seed
        started = time.perf_counter()
        result = self._envs.reset(seed=seeds, options=options)
        self.reset_seconds += time.perf_counter() - started
        return result

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Begin a step."""
        self._envs.step_async(actions)

    def step_wait(self) -> Step:
        """Return the results of the step; episodes that have reached the limit are truncated."""
        observation, reward, terminated, truncated, info = self._envs.step_wait()
        self._time += 1
        truncated = truncated | (~terminated & (self._time >= self._limit))
        return observation, reward, terminated, truncated, info

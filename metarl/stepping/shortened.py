"""Episodes that are cut short, to measure how long whole ones take."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from metarl.stepping.vector import Seed, SlotVectorEnv, Step
from metarl.stepping.wrapped import WrappedVectorEnv


class ShortenedVectorEnv(WrappedVectorEnv):
    """Slots of another vector environment, whose episodes are truncated early.

    Args:
        envs: the slots; whoever made them closes them.
        limit: the number of steps after which an episode is truncated.
    """

    def __init__(self, envs: SlotVectorEnv, limit: int) -> None:
        super().__init__(envs)
        self._limit = limit
        self._time = np.zeros(envs.num_envs, np.int64)
        self.reset_seconds = 0.0
        """Seconds that resets have taken."""

    def reset(
        self, *, seed: Seed = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Start episodes."""
        self._time[self._started_by(options)] = 0
        seeds: Any = seed
        started = time.perf_counter()
        result = self._envs.reset(seed=seeds, options=options)
        self.reset_seconds += time.perf_counter() - started
        return result

    def step_async(self, actions: Any) -> None:
        """Begin a step."""
        self._envs.step_async(actions)

    def step_wait(self) -> Step:
        """Return the results of the step; episodes that have reached the limit are truncated."""
        observation, reward, terminated, truncated, info = self._envs.step_wait()
        self._time += 1
        truncated = truncated | (~terminated & (self._time >= self._limit))
        return observation, reward, terminated, truncated, info

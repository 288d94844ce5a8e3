"""Vector environments around another one: what they have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from metarl.stepping.vector import SlotVectorEnv


class WrappedVectorEnv(SlotVectorEnv):
    """Slots of another vector environment, which whoever made them closes.

    Args:
        envs: the slots.
    """

    def __init__(self, envs: SlotVectorEnv) -> None:
        super().__init__(envs.distribution, envs.num_envs)
        self._envs = envs

    def slots_for(self, lanes: int) -> slice | npt.NDArray[np.intp]:
        """Return the slots that the other environment chooses."""
        return self._envs.slots_for(lanes)

    def worker_pids(self) -> list[int]:
        """Return the process ids of the workers."""
        return self._envs.worker_pids()

    def _started_by(self, options: dict[str, Any] | None) -> npt.NDArray[np.bool_]:
        """Return which slots a reset with these options starts."""
        mask = (options or {}).get("reset_mask")
        return np.ones(self.num_envs, np.bool_) if mask is None else np.asarray(mask, np.bool_)

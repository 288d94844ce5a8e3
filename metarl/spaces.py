"""What agents see of Gymnasium's spaces: flat observations, actions in [-1, 1] or integers."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from metarl.errors import UserError


def observation_size(space: gym.Space[Any]) -> int:
    """Return the length of a flattened observation."""
    if isinstance(space, gym.spaces.Box):
        return int(np.prod(space.shape))
    if isinstance(space, gym.spaces.Discrete):
        return int(space.n)
    raise UserError(
        f"observation space {space}: got {type(space).__name__}; accepted: Box, Discrete"
    )


def flatten_observations(
    space: gym.Space[Any], observations: npt.NDArray[Any]
) -> npt.NDArray[np.float32]:
    """Return ``[slot, size]`` float32: a Box raveled, a Discrete one-hot."""
    if isinstance(space, gym.spaces.Discrete):
        one_hot: npt.NDArray[np.float32] = np.eye(int(space.n), dtype=np.float32)
        return np.asarray(one_hot[observations - space.start])
    flat = observations.reshape(len(observations), -1)
    return np.asarray(flat, np.float32)


class ActionCodec:
    """Turns a policy's actions into the environment's.

    A Discrete space has actions ``0 … n-1``. A Box has ``size`` numbers: where it is bounded,
    [-1, 1] is clipped and mapped onto the bounds; where it is not, they pass as they are.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        self.space = space
        self.discrete = isinstance(space, gym.spaces.Discrete)
        self.dtype = np.dtype(np.int64 if self.discrete else np.float32)
        if isinstance(space, gym.spaces.Discrete):
            self.size = int(space.n)
            self._start = int(space.start)
        elif isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
            self.size = int(np.prod(space.shape))
            low = space.low.reshape(-1).astype(np.float64)
            high = space.high.reshape(-1).astype(np.float64)
            bounded = np.isfinite(low) & np.isfinite(high)
            self._low, self._high = low, high
            self._clip = np.where(bounded, 1.0, np.inf)
            low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
            self._scale, self._center = (high - low) / 2, (high + low) / 2
        else:
            raise UserError(f"action space: got {space}; accepted: Discrete, Box of floats")

    def taken(self, action: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the action in policy units as the environment takes it: ``[…, size]`` clipped."""
        if self.discrete:
            return action
        return np.asarray(np.clip(action, -self._clip, self._clip), action.dtype)

    def to_env(self, taken: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return ``[slot, *space.shape]`` in the space's own units and type."""
        if self.discrete:
            return taken + self._start
        scaled = self._center + self._scale * taken
        scaled = np.clip(scaled, self._low, self._high)  # rounding may leave the bounds
        shaped = scaled.reshape(len(taken), *(self.space.shape or ()))
        return np.asarray(shaped, self.space.dtype)

"""What agents see of Gymnasium's spaces: flat observations, actions in [-1, 1] or integers."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.spaces.utils import flatdim, flatten, flatten_space

from metarl.errors import UserError


def reported_space(space: gym.Space[Any]) -> gym.Space[Any]:
    """Return the space of what slots report: a Dict, Tuple or Multi… space becomes a Box.

    Raises:
        UserError: for a space that has no flat form, with the key that is to blame.
    """
    if isinstance(space, gym.spaces.Box | gym.spaces.Discrete):
        return space
    _require_flat(space, "observation space")
    return flatten_space(space)


def flatten_observation(space: gym.Space[Any], observation: Any) -> npt.NDArray[Any]:
    """Return one observation as a member of :func:`reported_space`, Gymnasium's flat form."""
    if isinstance(space, gym.spaces.Box | gym.spaces.Discrete):
        return np.asarray(observation)
    return np.asarray(flatten(space, observation))


def _require_flat(space: gym.Space[Any], name: str) -> None:
    if isinstance(space, gym.spaces.Dict):
        for key, part in space.spaces.items():
            _require_flat(part, f"{name}[{key!r}]")
    elif isinstance(space, gym.spaces.Tuple):
        for i, part in enumerate(space.spaces):
            _require_flat(part, f"{name}[{i}]")
    elif not _is_flat(space):
        raise UserError(
            f"{name}: got {type(space).__name__}; accepted: Box, Discrete, MultiDiscrete, "
            "MultiBinary, and Dict and Tuple of them (a gymnasium wrapper can take it out)"
        )


def _is_flat(space: gym.Space[Any]) -> bool:
    if isinstance(space, gym.spaces.Text):  # flattens, into the numbers of its letters
        return False
    try:
        return space.is_np_flattenable
    except NotImplementedError:  # a space of somebody's own
        return False


def observation_size(space: gym.Space[Any]) -> int:
    """Return the length of a flattened observation."""
    return flatdim(reported_space(space))


def flatten_observations(
    space: gym.Space[Any], observations: npt.NDArray[Any]
) -> npt.NDArray[np.float32]:
    """Return what slots report as ``[slot, size]`` float32: raveled, a Discrete one-hot."""
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
            self._bound = np.where(bounded, 1.0, np.inf).astype(self.dtype)
            low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
            self._scale, self._center = (high - low) / 2, (high + low) / 2
        else:
            raise UserError(f"action space: got {space}; accepted: Discrete, Box of floats")

    def taken(self, action: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the action in policy units as the environment takes it: ``[…, size]`` clipped."""
        if self.discrete:
            return action
        return np.asarray(np.minimum(np.maximum(action, -self._bound), self._bound))

    def from_env(self, action: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return ``[slot, *space.shape]`` of the space in policy units, as to_env takes them.

        An agent that wraps a policy that acts in the environment's units (a scripted one, or one
        of another library) needs this: as they are, its actions would be clipped to [-1, 1].

        >>> codec = ActionCodec(gym.spaces.Box(-2, 2, (1,)))
        >>> codec.from_env(np.array([[-2.0], [1.0]])).tolist()
        [[-1.0], [0.5]]
        """
        if self.discrete:
            return np.asarray(action, self.dtype) - self._start
        flat = np.asarray(action, np.float64).reshape(len(action), self.size)
        scale = np.where(self._scale > 0, self._scale, 1.0)  # 0 where the bounds leave one value
        return np.asarray((flat - self._center) / scale, self.dtype)

    def to_env(self, taken: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return ``[slot, *space.shape]`` in the space's own units and type."""
        if self.discrete:
            return taken + self._start
        scaled = self._center + self._scale * taken
        scaled = np.minimum(np.maximum(scaled, self._low), self._high)  # rounding may leave them
        shaped = scaled.reshape(len(taken), *(self.space.shape or ()))
        return np.asarray(shaped, self.space.dtype)

"""Gymnasium's spaces as JSON data, and back."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from metarl.errors import UserError
from metarl.stepping.spaces import SPACES, fit


def space_to_json(space: gym.Space[Any]) -> dict[str, Any]:
    """Return a space of arrays and indices, or a Dict or Tuple of such, as JSON data.

    Infinite bounds become ``None``.

    Raises:
        UserError: if it is another kind of space.
    """
    if isinstance(space, gym.spaces.Discrete):
        content = {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
        return content if space.dtype == np.int64 else content | {"dtype": str(space.dtype)}
    if isinstance(space, gym.spaces.MultiDiscrete):
        numbers = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
        return {"type": "MultiDiscrete", **numbers, "dtype": str(space.dtype)}
    if isinstance(space, gym.spaces.MultiBinary):
        return {"type": "MultiBinary", "shape": list(space.shape)}
    if isinstance(space, gym.spaces.Dict):
        keyed = [[key, space_to_json(part)] for key, part in space.spaces.items()]
        return {"type": "Dict", "spaces": keyed}
    if isinstance(space, gym.spaces.Tuple):
        return {"type": "Tuple", "spaces": [space_to_json(part) for part in space.spaces]}
    if isinstance(space, gym.spaces.Box):
        low, high = (_bound_to_json(bound) for bound in (space.low, space.high))
        return {
            "type": "Box",
            "low": low,
            "high": high,
            "shape": list(space.shape),
            "dtype": str(space.dtype),
        }
    raise UserError(f"space: got {space}; accepted: {SPACES}")


def space_from_json(data: dict[str, Any]) -> gym.Space[Any]:
    """Rebuild a space from the result of :func:`space_to_json`.

    Raises:
        UserError: if ``data`` does not describe a space.
    """
    try:
        return _space_from_json(data)
    except (LookupError, TypeError, ValueError, AssertionError, OverflowError) as error:
        raise UserError(f"space: got {data!r}; accepted: what space_to_json returns") from error


def _space_from_json(data: dict[str, Any]) -> gym.Space[Any]:
    kind = data["type"]
    if kind == "Discrete":
        dtype = {"dtype": np.dtype(data["dtype"]).type} if "dtype" in data else {}
        return gym.spaces.Discrete(data["n"], start=data["start"], **dtype)
    if kind == "MultiDiscrete":
        of = np.dtype(data["dtype"]).type
        return gym.spaces.MultiDiscrete(data["nvec"], dtype=of, start=data["start"])
    if kind == "MultiBinary":
        return gym.spaces.MultiBinary(data["shape"])
    if kind == "Dict":  # Pairs, since JSON's keys are text and their order is part of the space.
        return gym.spaces.Dict([(key, _space_from_json(part)) for key, part in data["spaces"]])
    if kind == "Tuple":
        return gym.spaces.Tuple([_space_from_json(part) for part in data["spaces"]])
    if kind != "Box":
        raise UserError(f"space: got {kind!r}; accepted: {SPACES}")
    dtype = np.dtype(data["dtype"])
    shape = tuple(data["shape"])
    low = _bound_from_json(data["low"], -np.inf, shape, dtype)
    high = _bound_from_json(data["high"], np.inf, shape, dtype)
    return gym.spaces.Box(low, high, shape, dtype.type)


def _bound_to_json(bound: npt.NDArray[Any]) -> list[float | int | None]:
    """Return a bound's numbers, or a single number if all are equal, as those of images are."""
    flat = bound.reshape(-1)
    flat = flat[:1] if flat.size and (flat == flat[0]).all() else flat
    if flat.dtype.kind != "f":  # A float does not hold the largest int64.
        return [int(x) for x in flat]
    return [float(x) if np.isfinite(x) else None for x in flat]


def _bound_from_json(
    numbers: list[float | int | None],
    infinite: float,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
) -> npt.NDArray[Any]:
    found: Any = [infinite if x is None else x for x in numbers]
    if dtype.kind != "f":  # Files of the first edition hold integers as floats.
        if any(x != int(x) for x in found):
            raise ValueError(f"a bound of {dtype} is whole")
        found = np.array([int(x) for x in found], np.uint64 if dtype == np.uint64 else np.int64)
    flat = fit(found, dtype, "a bound")
    return flat.reshape(shape) if flat.size == math.prod(shape) else np.full(shape, flat[0])

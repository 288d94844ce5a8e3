"""Actions as policies choose them, as environments take them, and as rows between the two."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from metarl.errors import UserError
from metarl.stepping.spaces import SPACES, fit, require_indices

MOST_CHOICES = 256
"""The largest number of values of the integers of a Box that are choices; others are rounded."""


class _Leaf(NamedTuple):
    """A space without parts inside an action space, and its columns in a row."""

    path: tuple[Any, ...]
    """The keys and numbers that lead to it through Dict and Tuple spaces."""
    space: gym.Space[Any]
    columns: slice

    @property
    def name(self) -> str:
        """The leaf's name in messages."""
        return "an action" + "".join(f"[{key!r}]" for key in self.path)

    def array(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the leaf's columns ``[slot, *shape]``, not yet in its type."""
        return rows[:, self.columns].reshape(len(rows), *(self.space.shape or ()))


class ActionRows:
    """Actions of a space as rows of one array, in which they travel to worker processes.

    An action of a space of arrays is its own row. Those of a Dict or Tuple have one float64 row,
    in the order of the parts, so that their integers are exact up to 2⁵³.

    >>> from gymnasium.spaces import Dict, Discrete, MultiBinary
    >>> rows = ActionRows(Dict({"gear": Discrete(3), "on": MultiBinary(2)}))
    >>> rows.row({"gear": 2, "on": [0, 1]})
    array([2., 0., 1.])
    >>> rows.unpack(np.array([2.0, 0.0, 1.0]))
    {'gear': np.int64(2), 'on': array([0, 1], dtype=int8)}
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        self.space = space
        self.leaves = tuple(_leaves(space, (), 0))
        self.width = self.leaves[-1].columns.stop if self.leaves else 0
        """The number of columns of an action, if its arrays are laid out flat."""
        self.structured = isinstance(space, gym.spaces.Dict | gym.spaces.Tuple)
        self.shape = (self.width,) if self.structured else tuple(space.shape or ())
        """The shape of an action's row."""
        self.dtype = np.dtype(np.float64 if self.structured else space.dtype)
        """The type of rows."""
        if not self.width:
            raise UserError(f"action space: got {one_line(space)}; accepted: {SPACES}, not empty")

    def batch(self, actions: Any, number: int) -> npt.NDArray[Any]:
        """Return ``number`` actions as rows ``[number, *shape]``, of a type that may still differ.

        Args:
            actions: rows, or for a Dict or Tuple what its batched space contains.
            number: how many there must be.

        Raises:
            ValueError: if they have another shape.
        """
        if not self.structured or isinstance(actions, np.ndarray):
            rows = np.asarray(actions)
            if rows.shape != (number, *self.shape):
                expected = (number, *self.shape)
                raise ValueError(f"actions must have shape {expected}, got {rows.shape}")
            return rows
        rows = np.zeros((number, self.width))
        for leaf in self.leaves:
            part = np.asarray(_part(actions, leaf))
            shape = (number, *(leaf.space.shape or ()))
            if part.shape != shape:
                raise ValueError(f"{leaf.name} must have shape {shape}, got {part.shape}")
            rows[:, leaf.columns] = part.reshape(number, -1)
        return rows

    def row(self, action: Any) -> npt.NDArray[Any]:
        """Return one action that the space contains as its row.

        Raises:
            ValueError: if it has another shape.
        """
        if not self.structured:
            return np.asarray(action)
        row = np.zeros(self.width)
        for leaf in self.leaves:
            part = np.asarray(_part(action, leaf))
            if part.shape != (leaf.space.shape or ()):
                raise ValueError(f"{leaf.name} has shape {part.shape}, not {leaf.space.shape}")
            row[leaf.columns] = part.reshape(-1)
        return row

    def unpack(self, row: Any) -> Any:
        """Return the action of a row, as the space contains it."""
        if not self.structured:
            return row
        found = iter([leaf.array(row[None])[0].astype(leaf.space.dtype) for leaf in self.leaves])
        return _assembled(self.space, found)

    def unpack_batch(self, rows: npt.NDArray[Any]) -> Any:
        """Return actions ``[slot, *shape]`` as the batched space contains them."""
        if not self.structured:
            return rows
        found = iter([leaf.array(rows).astype(leaf.space.dtype) for leaf in self.leaves])
        return _assembled(self.space, found)

    def checked(self, rows: npt.NDArray[Any], live: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
        """Return rows in their type, after checking those of live slots.

        Raises:
            ValueError: if the type of the space cannot hold a number, or an index lies outside.
        """
        if self.structured:
            for leaf in self.leaves:
                part = fit(leaf.array(rows)[live], np.dtype(leaf.space.dtype), leaf.name)
                require_indices(leaf.space, part, leaf.name)
            return rows
        if rows.dtype != self.dtype:
            given, rows = rows, np.zeros(rows.shape, self.dtype)
            rows[live] = fit(given[live], self.dtype, "an action")
        if not isinstance(self.space, gym.spaces.Box):
            require_indices(self.space, rows[live], "an action")
        return rows


def _leaves(space: gym.Space[Any], path: tuple[Any, ...], first: int) -> Iterator[_Leaf]:
    """Go through the spaces without parts, in order; their columns begin at ``first``."""
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        parts = space.spaces.items() if isinstance(space, gym.spaces.Dict) else enumerate(space)
        for key, part in parts:
            for leaf in _leaves(part, (*path, key), first):
                first = leaf.columns.stop
                yield leaf
        return
    if not isinstance(space, _CHOICES | gym.spaces.Box):
        where = "".join(f"[{key!r}]" for key in path)
        raise UserError(f"action space{where}: got {one_line(space)}; accepted: {SPACES}")
    if width := math.prod(space.shape or ()):
        yield _Leaf(path, space, slice(first, first + width))


_CHOICES = gym.spaces.Discrete | gym.spaces.MultiDiscrete | gym.spaces.MultiBinary


def _part(action: Any, leaf: _Leaf) -> Any:
    """Return the part of an action that belongs to a leaf."""
    for key in leaf.path:
        inside = action.keys() if isinstance(action, Mapping) else range(len(action))
        if key not in inside:
            raise ValueError(f"{leaf.name} is missing: got {action}")
        action = action[key]
    return action


def _assembled(space: gym.Space[Any], parts: Iterator[Any]) -> Any:
    """Return the parts, which are in order, as a Dict or Tuple has them."""
    if isinstance(space, gym.spaces.Dict):
        return {key: _assembled(part, parts) for key, part in space.spaces.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(_assembled(part, parts) for part in space.spaces)
    return next(parts)


def one_line(space: gym.Space[Any]) -> str:
    """Return a space's text without the line breaks of its arrays."""
    return " ".join(str(space).split())


class _Numbers:
    """Columns of real numbers: their bounds, and where a policy's [-1, 1] lies between these."""

    def __init__(self, boxes: Sequence[gym.spaces.Box]) -> None:
        bounds = [_finite_bounds(box) for box in boxes]
        low, high, largest = (
            np.concatenate(x) if bounds else np.zeros(0) for x in _columns(bounds)
        )
        self.low, self.high = low, high
        bounded = (low > -largest) & (high < largest)
        self.lowest = np.where(bounded, -1.0, low).astype(np.float32)
        self.highest = np.where(bounded, 1.0, high).astype(np.float32)
        low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
        self.scale, self.center = (high - low) / 2, (high + low) / 2
        whole = [np.full(math.prod(box.shape), box.dtype.kind != "f") for box in boxes]
        self.whole = np.concatenate(whole) if whole else np.zeros(0, np.bool_)

    def to_env(self, taken: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return clipped numbers ``[slot, column]`` in the environment's units."""
        scaled = self.center + self.scale * taken
        if self.whole.any():
            scaled = np.where(self.whole, np.rint(scaled), scaled)
        # Rounding may exceed the bounds.
        return np.asarray(np.minimum(np.maximum(scaled, self.low), self.high))


def _columns(bounds: Sequence[tuple[Any, Any, Any]]) -> Sequence[Sequence[Any]]:
    return list(zip(*bounds, strict=True)) if bounds else ((), (), ())


def _finite_bounds(box: gym.spaces.Box) -> tuple[Any, Any, Any]:
    """Return the lowest, the highest and the largest number of each column of a Box.

    The largest number of float32 or of the space's type counts as an infinite bound.
    """
    float32, dtype = float(np.finfo(np.float32).max), np.dtype(box.dtype)
    if dtype.kind == "f":
        largest = min(float32, float(np.finfo(cast(Any, dtype)).max))
    else:
        most = int(np.iinfo(cast(Any, dtype)).max)
        largest = float(most)
        if int(largest) > most:  # No float64 is the largest int64: take the one below.
            largest = math.nextafter(largest, 0.0)
    low = np.clip(box.low.reshape(-1).astype(np.float64), -largest, largest)
    high = np.clip(box.high.reshape(-1).astype(np.float64), -largest, largest)
    return low, high, np.full(len(low), largest)


class ActionCodec:
    """Turns a policy's actions into the environment's, and back.

    For a Discrete space, a policy's actions are ``0 … n-1``. For a Box of floats, they are ``size``
    numbers: in a dimension with two finite bounds, a policy's numbers are clipped to [-1, 1] and
    mapped onto the bounds; in any other they are the environment's own, clipped to the bound there
    is. The largest number of float32 or of the space's type counts as an infinite bound.

    In all other spaces an action is one float32 row. It begins with the choices, counted from 0,
    in the order of the space's parts: one for each entry of a Discrete, MultiDiscrete or
    MultiBinary, and of a Box of integers that have at most :data:`MOST_CHOICES` values each. The
    numbers of Boxes follow, as above; integers of larger Boxes are numbers that are rounded.

    >>> from gymnasium.spaces import Box, Dict, Discrete
    >>> codec = ActionCodec(Dict({"gear": Discrete(3, start=1), "pedal": Box(0, 4)}))
    >>> codec.choices, codec.numbers
    ((3,), 1)
    >>> codec.rows.unpack(codec.to_env(np.array([[2.0, 0.5]]))[0])
    {'gear': np.int64(3), 'pedal': array([3.], dtype=float32)}

    Attributes:
        space: the environment's space.
        rows: the space's actions as rows, which is what :meth:`to_env` returns.
        discrete: whether an action is a single index, because the space is Discrete.
        dtype: the type of a policy's actions, int64 if they are indices and else float32.
        choices: the number of values of each choice.
        numbers: how many numbers follow the choices.
        shape: the shape of a policy's action.
        size: how many numbers describe an action where every choice has a number for each value:
            the outputs of a network.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        self.space, self.rows = space, ActionRows(space)
        self.discrete = isinstance(space, gym.spaces.Discrete)
        self.dtype = np.dtype(np.int64 if self.discrete else np.float32)
        counts, firsts = [], []
        chosen: list[int] = []
        numbers: list[int] = []
        boxes: list[gym.spaces.Box] = []
        for _, leaf, columns in self.rows.leaves:
            used = list(range(columns.start, columns.stop))
            options = _options(leaf)
            if options is None:
                numbers += used
                boxes.append(cast(gym.spaces.Box, leaf))
            else:
                chosen += used
                firsts.append(options[0])
                counts.append(options[1])
        self._chosen, self._numbered = np.array(chosen, np.int64), np.array(numbers, np.int64)
        self._first = np.concatenate(firsts) if firsts else np.zeros(0, np.int64)
        self.choices: tuple[int, ...] = tuple(np.concatenate(counts).tolist()) if counts else ()
        self.numbers = len(numbers)
        self._numbers = _Numbers(boxes)
        self.size = sum(self.choices) + self.numbers
        self.shape = () if self.discrete else (len(self.choices) + self.numbers,)

    @property
    def number_bounds(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """The lowest and the highest values of the numbers, each ``[numbers]``, in policy units."""
        return self._numbers.lowest, self._numbers.highest

    def taken(self, action: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the action that the environment takes, in policy units, ``[…, *shape]``."""
        if self.discrete or not self.numbers:
            return action
        low, high = self._numbers.lowest, self._numbers.highest
        if not self.choices:
            return np.asarray(np.minimum(np.maximum(action, low), high))
        number = np.minimum(np.maximum(action[..., len(self.choices) :], low), high)
        return np.concatenate([action[..., : len(self.choices)], number], -1)

    def from_env(self, action: Any) -> npt.NDArray[Any]:
        """Return actions of the space, ``[slot, …]``, in policy units, for to_env.

        An agent needs this to wrap a policy that acts in the environment's units, such as a
        scripted one or another library's: without it, its actions would be clipped to [-1, 1].

        >>> codec = ActionCodec(gym.spaces.Box(-2, 2, (1,)))
        >>> codec.from_env(np.array([[-2.0], [1.0]])).tolist()
        [[-1.0], [0.5]]
        """
        if self.discrete:
            return np.asarray(action, self.dtype) - int(self._first[0])
        if not self.rows.structured or isinstance(action, np.ndarray):
            rows = np.asarray(action)
            rows = rows.reshape(len(rows), self.rows.width)
        else:
            first = np.asarray(_part(action, self.rows.leaves[0]))
            rows = self.rows.batch(action, len(first))
        chosen = rows[:, self._chosen].astype(np.int64) - self._first
        center, scale = self.units()
        number = (rows[:, self._numbered].astype(np.float64) - center) / scale
        return np.concatenate([chosen, number], -1).astype(self.dtype)

    def units(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return ``(center, scale)`` of the numbers in the environment's units, ``[numbers]``.

        A policy's number x is the environment's number center + scale · x before clipping. The
        scale is 1 in dimensions without two finite bounds, and where both bounds are equal.

        >>> ActionCodec(gym.spaces.Box(0, 4, (1,))).units()
        (array([2.]), array([2.]))
        """
        scale = self._numbers.scale
        return self._numbers.center, np.where(scale > 0, scale, 1.0)

    def to_env(self, taken: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return actions ``[slot, *shape]`` as rows in the environment's units and type.

        The rows of a space of arrays are the space's own actions; ``rows.unpack`` gives those of
        a Dict or Tuple.
        """
        if self.discrete:
            return taken + int(self._first[0])
        number = len(self.choices)
        if not number:
            found: npt.NDArray[Any] = self._numbers.to_env(taken)
        else:
            found = np.zeros(
                (len(taken), self.rows.width), np.float64 if self.numbers else np.int64
            )
            found[:, self._chosen] = taken[:, :number].astype(np.int64) + self._first
            if self.numbers:
                found[:, self._numbered] = self._numbers.to_env(taken[:, number:])
        return np.asarray(found.reshape(len(taken), *self.rows.shape), self.rows.dtype)


def _options(space: gym.Space[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
    """Return the first value and the number of values of each entry, or None for numbers."""
    if isinstance(space, gym.spaces.Discrete):
        return np.array([space.start], np.int64), np.array([space.n], np.int64)
    if isinstance(space, gym.spaces.MultiDiscrete):
        return space.start.reshape(-1).astype(np.int64), space.nvec.reshape(-1).astype(np.int64)
    if isinstance(space, gym.spaces.MultiBinary):
        size = math.prod(space.shape)
        return np.zeros(size, np.int64), np.full(size, 2)
    assert isinstance(space, gym.spaces.Box)
    if space.dtype.kind == "f":
        return None
    low, high = ([int(x) for x in bound.reshape(-1)] for bound in (space.low, space.high))
    counts = [b - a + 1 for a, b in zip(low, high, strict=True)]  # Python's integers cannot wrap.
    if max(counts) > MOST_CHOICES:
        return None
    return np.array(low, np.int64), np.array(counts, np.int64)

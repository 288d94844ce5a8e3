"""Gymnasium's spaces of observations as agents see them, which is flat."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.spaces.utils import flatdim, flatten, flatten_space

from metarl.errors import UserError

SPACES = "Box, Discrete, MultiDiscrete, MultiBinary, and Dict and Tuple of them"
"""The spaces that observations and actions may have."""


class Image(NamedTuple):
    """Where an image lies in a flat observation, and in which order its numbers are."""

    first: int
    """The place of its first number."""
    shape: tuple[int, ...]
    """Its shape in the environment: two axes of pixels, with channels before or after them, and
    maybe frames before all."""

    @property
    def size(self) -> int:
        """The number of its numbers."""
        return math.prod(self.shape)

    @property
    def axes(self) -> tuple[tuple[int, ...], int, int]:
        """The axes of ``shape``: those of frames and channels, that of rows, that of columns.

        >>> Image(0, (84, 84, 3)).axes, Image(0, (4, 84, 84)).axes, Image(0, (4, 84, 84, 3)).axes
        (((2,), 0, 1), ((0,), 1, 2), ((0, 3), 1, 2))
        """
        number = len(self.shape)
        if number == 2:
            return (), 0, 1
        start = number - 3
        last = self.shape[-1] <= self.shape[start]
        row = start if last else start + 1
        channel = number - 1 if last else start
        return (*range(start), channel), row, row + 1

    @property
    def planes(self) -> tuple[int, int, int]:
        """The number of planes (frames times channels), rows and columns."""
        channels, row, column = self.axes
        return math.prod(self.shape[i] for i in channels), self.shape[row], self.shape[column]


def images_of(space: gym.Space[Any], first: int = 0) -> tuple[Image, ...]:
    """Return the images in the flat observations of a space.

    An image is a Box of bytes (uint8) with two axes or more, alone or inside a Dict or Tuple.

    Args:
        space: the observation space of the environment.
        first: the place of the space's first number.
    """
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        found: tuple[Image, ...] = ()
        for part in space.spaces.values() if isinstance(space, gym.spaces.Dict) else space.spaces:
            found += images_of(part, first)
            first += flatdim(part)
        return found
    is_image = isinstance(space, gym.spaces.Box) and space.dtype == np.uint8
    shape = space.shape or ()
    return (Image(first, shape),) if is_image and 2 <= len(shape) <= 4 else ()


def has_bytes(space: gym.Space[Any]) -> bool:
    """Return whether reported observations of a space are bytes (uint8)."""
    return isinstance(space, gym.spaces.Box) and space.dtype == np.uint8


def _fits_bytes(space: gym.Space[Any]) -> bool:
    """Return whether all numbers of flat observations are bytes or one-hot vectors."""
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        parts = space.spaces.values() if isinstance(space, gym.spaces.Dict) else space.spaces
        return all(map(_fits_bytes, parts))
    return has_bytes(space) or isinstance(
        space, gym.spaces.Discrete | gym.spaces.MultiDiscrete | gym.spaces.MultiBinary
    )


def reported_space(space: gym.Space[Any]) -> gym.Space[Any]:
    """Return the space of the observations that slots report.

    A Box or Discrete space stays as it is; all others become a flat Box. That of a Dict or Tuple
    with images has bytes if no other part needs more than a byte.

    Raises:
        UserError: if the space has no flat form; the message names the key at fault.
    """
    if isinstance(space, gym.spaces.Box | gym.spaces.Discrete):
        return space
    _require_flat(space, "observation space")
    if images_of(space) and _fits_bytes(space):
        return gym.spaces.Box(0, 255, (flatdim(space),), np.uint8)
    return flatten_space(space)


def flatten_observation(space: gym.Space[Any], observation: Any) -> npt.NDArray[Any]:
    """Return one observation as a member of :func:`reported_space`, Gymnasium's flat form.

    Raises:
        ValueError: if ``space`` cannot hold the observation because of its shape, of numbers that
            the space's type would change, or of an index out of range. The message names the part
            of a Dict or Tuple at fault.
    """
    return Flattener(space)(observation)


def fit(value: Any, dtype: npt.DTypeLike, name: str) -> npt.NDArray[Any]:
    """Return ``value`` as an array of ``dtype`` that holds the same numbers.

    Floats may be rounded to another floating-point type; all other numbers must stay the same.

    Args:
        value: an array, or anything that NumPy makes one of.
        dtype: the type that a space declares.
        name: a name for ``value`` in the message, such as "an observation".

    Raises:
        ValueError: if ``dtype`` cannot hold one of the numbers.
    """
    array = np.asarray(value)
    wanted = np.dtype(dtype)
    if array.dtype == wanted:
        return array
    if not _holds(wanted, array):
        raise ValueError(f"{name} of {array.dtype} does not fit the declared {wanted}: {array}")
    return array.astype(wanted)


def _holds(dtype: np.dtype[Any], array: npt.NDArray[Any]) -> bool:
    """Return whether ``dtype`` can hold every number of ``array``; floats may be rounded."""
    given, wanted = array.dtype.kind, dtype.kind
    if given not in "biuf" or wanted not in "biuf":
        return False
    if not array.size or given == "b":
        return True
    if wanted == "f" and given == "f":
        largest = abs(array).max() if array.itemsize > dtype.itemsize else 0.0
        return not np.finfo(dtype).max < largest < np.inf
    if wanted == "f":
        exact = 2 ** (np.finfo(dtype).nmant + 1)  # A float holds all integers up to here.
        if -exact <= int(array.min()) and int(array.max()) <= exact:
            return True
        with np.errstate(over="ignore"):
            return bool(array.astype(dtype).tolist() == array.tolist())
    low, high = (0, 1) if wanted == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if given == "f":
        numbers = array.astype(np.float64)
        # Compare with high + 1: it is a power of two, which a float holds exactly.
        whole = numbers == np.floor(numbers)
        return bool((whole & (numbers >= float(low)) & (numbers < float(high + 1))).all())
    return bool(int(array.min()) >= low and int(array.max()) <= high)


def require_indices(space: gym.Space[Any], values: npt.NDArray[Any], name: str) -> None:
    """Refuse an index outside a Discrete, MultiDiscrete or MultiBinary space.

    Args:
        space: a space of any kind; every value passes if the space holds no indices.
        values: ``[row, *space.shape]`` integers.
        name: a name for one row in the message, such as "an observation".

    Raises:
        ValueError: if a row lies outside; the message has the first such row and the space.
    """
    inside = indices_inside(space, values)
    if inside is not None and not inside.all():
        raise ValueError(f"{name} is {values[~inside][0]}, outside {space}")


def indices_inside(space: gym.Space[Any], values: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
    """Return whether each row's indices lie in ``space``, or None if it holds no indices."""
    limits = _limits(space)
    if limits is None:
        return None
    inside = (values >= limits[0]) & (values <= limits[1])
    return np.asarray(inside.all(tuple(range(1, inside.ndim))))


def _limits(space: gym.Space[Any]) -> tuple[Any, Any] | None:
    """Return the lowest and highest index of a space of indices, or None for another space."""
    if isinstance(space, gym.spaces.Discrete):
        return int(space.start), int(space.start) + int(space.n) - 1
    if isinstance(space, gym.spaces.MultiDiscrete):
        low = space.start.astype(np.int64)
        return low, low + space.nvec - 1
    return (0, 1) if isinstance(space, gym.spaces.MultiBinary) else None


class Flattener:
    """Turns single observations into members of :func:`reported_space`.

    The constructor inspects ``space`` once, so that a call, which every step makes, is fast.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        self.space = reported_space(space)
        self._read = _Reader(space, "") if space is self.space else None
        self._write = None if self._read else _writer(space, "", 0)[0]

    def __call__(self, observation: Any) -> npt.NDArray[Any]:
        """Return ``observation`` flattened; see :func:`flatten_observation`."""
        if self._read:
            return self._read(observation)
        flat = np.empty(self.space.shape or (), self.space.dtype)
        self.write(observation, flat)
        return flat

    def write(self, observation: Any, flat: npt.NDArray[Any]) -> None:
        """Write ``observation`` flattened into ``flat``, an array of :func:`reported_space`."""
        if self._read:
            flat[...] = self._read(observation)
        elif self._write:
            self._write(observation, flat)


_Write: TypeAlias = Callable[[Any, npt.NDArray[Any]], None]


class _Reader:
    """Turns one part of an observation into an array of its space.

    Args:
        space: the part's own space.
        part: where the part is, for messages, such as ``"['image']"``.
    """

    def __init__(self, space: gym.Space[Any], part: str) -> None:
        self._space, self._part, self._name = space, part, f"an observation{part}"
        self._dtype, self._shape, self._limits = np.dtype(space.dtype), space.shape, _limits(space)

    def __call__(self, value: Any) -> npt.NDArray[Any]:
        array, limits = np.asarray(value), self._limits
        if array.dtype is not self._dtype:
            array = fit(array, self._dtype, self._name)
        if array.shape != self._shape:
            declared = f"observation_space{self._part} has {self._shape}"
            raise ValueError(f"{self._name} has shape {array.shape}, {declared}")
        if limits and not ((array >= limits[0]) & (array <= limits[1])).all():
            raise ValueError(f"{self._name} is {array}, outside {self._space}")
        return array


def _writer(space: gym.Space[Any], part: str, first: int) -> tuple[_Write, int]:
    """Return a function that writes a part of an observation into the flat array, and its end.

    The part fills the flat array from index ``first`` up to the returned index.
    """
    if isinstance(space, gym.spaces.Dict):
        return _writer_of_parts(dict(space.spaces), True, part, first)
    if isinstance(space, gym.spaces.Tuple):
        return _writer_of_parts(dict(enumerate(space.spaces)), False, part, first)
    stop = first + flatdim(space)
    span = slice(first, stop)
    if not isinstance(space, _ARRAYS):

        def write_other(value: Any, flat: npt.NDArray[Any]) -> None:
            if not space.contains(value):
                raise ValueError(f"an observation{part} is {value!r}, outside {space}")
            flat[span] = flatten(space, value)

        return write_other, stop
    read = _Reader(space, part)
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        widths = np.ravel(space.n if isinstance(space, gym.spaces.Discrete) else space.nvec)
        zeros = first + np.cumsum(widths, dtype=np.int64) - widths - np.ravel(space.start)

        def write_one_hot(value: Any, flat: npt.NDArray[Any]) -> None:
            flat[span] = 0
            flat[zeros + np.asarray(read(value), np.int64).reshape(-1)] = 1

        return write_one_hot, stop

    dtype, shape, plain = space.dtype, space.shape, isinstance(space, gym.spaces.Box)
    is_vector = len(shape or ()) == 1

    def write(value: Any, flat: npt.NDArray[Any]) -> None:
        # What the space declares needs no inspection, which would cost every step time.
        if not (
            plain and type(value) is np.ndarray and value.dtype is dtype and value.shape == shape
        ):
            value = read(value)
        flat[span] = value if is_vector else value.reshape(-1)

    return write, stop


def _writer_of_parts(
    parts: Mapping[Any, gym.Space[Any]], named: bool, part: str, first: int
) -> tuple[_Write, int]:
    """Return what :func:`_writer` does, for a Dict (``named``) or a Tuple of ``parts``."""
    writers = []
    for key, inner in parts.items():
        write, first = _writer(inner, f"{part}[{key!r}]", first)
        writers.append((key, write))
    keys = parts.keys()

    def write_parts(value: Any, flat: npt.NDArray[Any]) -> None:
        # A dict is known at once, any other Mapping after a search.
        if named and (not isinstance(value, (dict, Mapping)) or value.keys() != keys):
            got = f"the keys {list(value)}" if isinstance(value, Mapping) else "no keys"
            raise ValueError(
                f"an observation{part} has {got}, observation_space{part} has {list(keys)}"
            )
        if not named and len(value) != len(keys):
            raise ValueError(
                f"an observation{part} has {len(value)} parts, "
                f"observation_space{part} has {len(keys)}"
            )
        for key, write in writers:
            write(value[key], flat)

    return write_parts, first


_ARRAYS = (
    gym.spaces.Box,
    gym.spaces.Discrete,
    gym.spaces.MultiDiscrete,
    gym.spaces.MultiBinary,
)


def _require_flat(space: gym.Space[Any], name: str) -> None:
    if isinstance(space, gym.spaces.Dict):
        for key, part in space.spaces.items():
            _require_flat(part, f"{name}[{key!r}]")
    elif isinstance(space, gym.spaces.Tuple):
        for i, part in enumerate(space.spaces):
            _require_flat(part, f"{name}[{i}]")
    elif not _is_flat(space):
        raise UserError(
            f"{name}: got {type(space).__name__}; accepted: {SPACES} (a gymnasium wrapper can "
            "take it out)"
        )


def _is_flat(space: gym.Space[Any]) -> bool:
    if isinstance(space, gym.spaces.Text):  # Text flattens to character codes, which mean nothing.
        return False
    try:
        return space.is_np_flattenable
    except NotImplementedError:  # It is a user's own kind of space.
        return False


def blank_observations(space: gym.Space[Any], rows: int) -> npt.NDArray[Any]:
    """Return the observations that slots hold before their first episode.

    They are zeros, or a Discrete space's first index, since zero may lie outside that space.

    Args:
        space: a space that :func:`reported_space` returned.
        rows: number of slots.
    """
    start = space.start if isinstance(space, gym.spaces.Discrete) else 0
    return np.full((rows, *(space.shape or ())), start, space.dtype)


def observation_size(space: gym.Space[Any]) -> int:
    """Return the length of a flattened observation."""
    return flatdim(reported_space(space))


def flatten_observations(space: gym.Space[Any], observations: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return reported observations as ``[slot, size]``; indices become one-hot vectors.

    Bytes stay bytes, which take a quarter of the memory; all other numbers become float32.

    Raises:
        ValueError: if an index lies outside a Discrete space.
    """
    if isinstance(space, gym.spaces.Discrete):
        require_indices(space, observations, "an observation")
        one_hot = np.zeros((len(observations), int(space.n)), np.float32)
        # Widen before the subtraction: int8 could overflow.
        index = np.asarray(observations, np.int64) - int(space.start)
        one_hot[np.arange(len(observations)), index] = 1.0
        return one_hot
    flat = observations.reshape(len(observations), -1)
    return flat if has_bytes(space) else np.asarray(flat, np.float32)

"""Derived randomness: every draw is a function of a seed and of where it is used.

No generator lives across iterations. NumPy's ``SeedSequence`` derives one key for a whole round
of experience. A hash then folds the numbers of task, episode and step into it. The hash works on
arrays, so that many lanes cost little more than one, and the random numbers of a lane do not
depend on how many lanes run beside it.

The hash is the output function of SplitMix64 (Steele, Lea and Flood, 2014, "Fast splittable
pseudorandom number generators", OOPSLA).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

KeyArray = npt.NDArray[np.uint64]


# These are 0-d arrays, since NumPy computes faster with them than with its scalars.
_GOLDEN = np.array(0x9E3779B97F4A7C15, np.uint64)

_MIX_1 = np.array(0xBF58476D1CE4E5B9, np.uint64)

_MIX_2 = np.array(0x94D049BB133111EB, np.uint64)

_27, _30, _31 = (np.array(bits, np.uint64) for bits in (27, 30, 31))


class Phase(IntEnum):
    """The purpose that experience is gathered for; phases never share a random number."""

    TRAIN = 0
    VALIDATE = 1
    EVALUATE = 2
    USE = 3


class Component(IntEnum):
    """The part of the program that draws random numbers."""

    TASKS = 0
    ENVIRONMENT = 1
    ACTIONS = 2
    ADAPTATION = 3
    UPDATE = 4
    PARAMETERS = 5
    PARTNERS = 6


def derive(seed: int, *key: int) -> np.uint64:
    """Return 64 bits that depend on all of ``seed`` and ``key`` (non-negative integers)."""
    sequence = np.random.SeedSequence(seed, spawn_key=tuple(int(k) for k in key))
    return np.uint64(sequence.generate_state(1, np.uint64)[0])


def numpy_generator(seed: int, *key: int) -> np.random.Generator:
    """Return a NumPy generator derived from ``seed`` and ``key``."""
    sequence = np.random.SeedSequence(seed, spawn_key=tuple(int(k) for k in key))
    return np.random.Generator(np.random.PCG64(sequence))


def _mix(x: KeyArray) -> KeyArray:
    y = x >> _30
    y ^= x
    y *= _MIX_1
    x = y >> _27
    x ^= y
    x *= _MIX_2
    y = x >> _31
    y ^= x
    return y


def fold(keys: KeyArray | np.uint64, index: npt.NDArray[np.integer] | int) -> KeyArray:
    """Return new keys that depend on ``keys`` and ``index``, which are broadcast together."""
    with np.errstate(over="ignore"):  # Arithmetic modulo 2^64 is intended.
        offset = (np.asarray(index).astype(np.uint64) + np.uint64(1)) * _GOLDEN
        return _mix(_mix(np.asarray(keys, np.uint64) + offset) + _GOLDEN)


def uniform(keys: KeyArray, num: int) -> npt.NDArray[np.float64]:
    """Draw ``num`` values in the open interval (0, 1) for every key: ``[*keys, num]``."""
    bits = fold(keys[..., None], np.arange(num))
    u = (np.asarray(bits >> np.uint64(11), np.float64) + 0.5) * 2.0**-53
    return np.minimum(u, 1 - 2.0**-53)  # The largest value would round to 1.


def normal(keys: KeyArray, num: int) -> npt.NDArray[np.float64]:
    """Draw ``num`` standard normal values for every key: ``[*keys, num]``."""
    return normal_of(uniform(keys, num))


def normal_of(u: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the standard normal values whose distribution function is ``u``, in (0, 1)."""
    # Import here: this takes half the start of a worker process, which draws no normal values.
    from scipy.special import ndtri

    return np.asarray(ndtri(u), np.float64)


_EPISODE = 2**62
"""The index of an episode's own random numbers; no step of an episode has so large an index."""


@dataclass(frozen=True)
class LaneGenerator:
    """The random numbers of one step in every lane, whatever the number of lanes.

    Equal calls return equal numbers: an agent that needs several numbers in one step asks for
    all of them in one call and divides them.
    """

    keys: KeyArray
    """One key for every lane's task, episode and step: ``[task, lane]``."""
    episode_keys: KeyArray | None = None
    """One key for every lane's task and episode, of the same shape."""

    @property
    def episode(self) -> LaneGenerator:
        """The random numbers of the whole episode, which are the same at each of its steps.

        Raises:
            ValueError: if the generator was made without ``episode_keys``.
        """
        if self.episode_keys is None:
            raise ValueError("this generator was made without episode_keys")
        return LaneGenerator(fold(self.episode_keys, _EPISODE))

    def uniform(self, num: int) -> npt.NDArray[np.float64]:
        """Return ``[task, lane, num]`` values in (0, 1)."""
        return uniform(self.keys, num)

    def normal(self, num: int) -> npt.NDArray[np.float64]:
        """Return ``[task, lane, num]`` standard normal values."""
        return normal(self.keys, num)

"""Faster versions of the helpers that Meta-World's rewards and observations call.

Each returns the same bits as the function it replaces. The official ones are written for arrays of
any shape and spend most of their time on checks; rewards call them with single numbers and short
vectors.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from typing import Any

import numpy as np
from metaworld.utils import reward_utils
from scipy.spatial.transform import Rotation

_LONG_TAIL = np.sqrt(1 / reward_utils._DEFAULT_VALUE_AT_MARGIN - 1)


def norm(x: Any, *args: Any, **kwargs: Any) -> Any:
    """Compute ``np.linalg.norm``, with a short cut for vectors of doubles."""
    if not args and not kwargs and type(x) is np.ndarray and x.dtype == np.float64 and x.ndim == 1:
        return np.sqrt(x.dot(x))
    return np.linalg.norm(x, *args, **kwargs)


def _hstack(parts: Any) -> Any:
    """Compute ``np.hstack``, with a short cut for vectors."""
    if all(type(part) is np.ndarray and part.ndim == 1 for part in parts):
        return np.concatenate(parts)
    return np.hstack(parts)


def tolerance(
    x: Any,
    bounds: tuple[Any, Any] = (0.0, 0.0),
    margin: Any = 0.0,
    sigmoid: Any = "gaussian",
    value_at_margin: Any = reward_utils._DEFAULT_VALUE_AT_MARGIN,
) -> Any:
    """Compute ``reward_utils.tolerance``, with a short cut for a single number."""
    lower, upper = bounds
    if not isinstance(x, float) or not margin > 0 or lower > upper:
        return reward_utils.tolerance(x, bounds, margin, sigmoid, value_at_margin)
    if lower <= x <= upper:
        return 1.0
    distance = np.float64((lower - x if x < lower else x - upper) / margin)
    if sigmoid == "long_tail" and value_at_margin == reward_utils._DEFAULT_VALUE_AT_MARGIN:
        return float(1 / ((distance * _LONG_TAIL) ** 2 + 1))
    return float(reward_utils._sigmoids(distance, value_at_margin, sigmoid))


class _FastRotation:
    """The part of SciPy's ``Rotation`` that rewards and observations use."""

    @staticmethod
    def from_matrix(matrix: Any) -> Any:
        return _Quaternion(matrix)


class _Quaternion:
    """A rotation that is asked for its quaternion only."""

    def __init__(self, matrix: Any) -> None:
        self._matrix = matrix

    def as_quat(self) -> Any:
        return _quaternion(self._matrix)


def scipy_quaternion(matrix: Any) -> Any:
    """Compute the quaternion of a rotation matrix by SciPy."""
    return Rotation.from_matrix(matrix).as_quat()


def scalar_quaternion(matrix: Any) -> Any:
    """Compute the quaternion of a rotation matrix with scalars, in SciPy's order of operations."""
    rows = matrix.tolist()
    trace = rows[0][0] + rows[1][1] + rows[2][2]
    largest = max(rows[0][0], rows[1][1], rows[2][2], trace)
    result = [0.0] * 4
    i = next((i for i in range(3) if rows[i][i] == largest), 3)
    if i < 3:
        j, k = (i + 1) % 3, (i + 2) % 3
        result[i] = 1 - trace + 2 * rows[i][i]
        result[j] = rows[j][i] + rows[i][j]
        result[k] = rows[k][i] + rows[i][k]
        result[3] = rows[k][j] - rows[j][k]
    else:
        result[0] = rows[2][1] - rows[1][2]
        result[1] = rows[0][2] - rows[2][0]
        result[2] = rows[1][0] - rows[0][1]
        result[3] = 1 + trace
    w, x, y, z = result
    norm = math.sqrt(w * w + x * x + y * y + z * z)
    return np.array((w / norm, x / norm, y / norm, z / norm))


def _faster_if_equal() -> Callable[[Any], Any]:
    """Return the scalar routine if it gives the same bits as the installed SciPy, else SciPy's."""
    rng = np.random.default_rng(0)
    quaternions = rng.normal(size=(256, 4)) * (10.0 ** rng.integers(-9, 1, size=(256, 4)))
    cases = [*Rotation.from_quat(quaternions).as_matrix(), np.eye(3)]
    agrees = all(np.array_equal(scalar_quaternion(m), scipy_quaternion(m)) for m in cases)
    return scalar_quaternion if agrees else scipy_quaternion


_quaternion = _faster_if_equal()

_FAST_NUMPY = types.SimpleNamespace(**vars(np))
_FAST_NUMPY.linalg = types.SimpleNamespace(**(vars(np.linalg) | {"norm": norm}))
_FAST_NUMPY.hstack = _hstack
_FAST_REWARD_UTILS = types.SimpleNamespace(**(vars(reward_utils) | {"tolerance": tolerance}))
REPLACEMENTS = {"np": _FAST_NUMPY, "reward_utils": _FAST_REWARD_UTILS, "Rotation": _FastRotation}
"""Faster objects for the global names that Meta-World's task modules use."""

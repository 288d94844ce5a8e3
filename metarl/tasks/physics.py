"""Physical parameters of a MuJoCo model that a task can set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from metarl.errors import UserError
from metarl.tasks.ranges import Range

MODEL_FIELDS = (
    "gravity",
    "body_mass",
    "body_inertia",
    "geom_friction",
    "dof_damping",
    "actuator_gear",
)
"""Fields of a MuJoCo model that can vary.

``gravity`` is the magnitude of the acceleration. A range of ``geom_friction`` sets only the
sliding friction; a factor multiplies sliding, torsional and rolling friction.
"""


_COUNTS = {"body": "nbody", "geom": "ngeom", "joint": "njnt", "actuator": "nu"}


def model_of(env: Any) -> Any:
    """Return the MuJoCo model of an unwrapped environment, or None if it has none."""
    model = getattr(env, "model", None)
    return model if type(model).__name__ == "MjModel" else None


def is_field(key: str) -> bool:
    """Return whether ``key`` names a field of a model, or an entry of one."""
    return key.partition(".")[0] in MODEL_FIELDS


def field_of(model: Any, key: str) -> npt.NDArray[np.float64]:
    """Return the array of the model in which ``key`` sets entries."""
    name = key.partition(".")[0]
    field: npt.NDArray[np.float64] = getattr(model.opt if name == "gravity" else model, name)
    return field


def fields(model: Any) -> dict[str, npt.NDArray[np.float64]]:
    """Return copies of all fields that can vary."""
    return {name: field_of(model, name).copy() for name in MODEL_FIELDS}


def num_entries(model: Any, key: str, kind: Range) -> int:
    """Return how many numbers a parameter with ``each`` has."""
    return int(field_of(model, key)[_selected(model, key, kind)].size)


def _selected(model: Any, key: str, kind: Range) -> Any:
    """Return the index of the entries that ``key`` sets in its field of the model."""
    name, _, part = key.partition(".")
    rows = slice(None)
    if part:
        owner = _owner(name)
        if owner == "joint":
            joint = model.joint(part)
            rows = slice(int(joint.dofadr[0]), int(joint.dofadr[0]) + len(joint.damping))
        else:
            number = getattr(model, owner)(part).id
            rows = slice(number, number + 1)
    if name == "geom_friction" and not kind.factor:
        return rows, 0  # Torsional and rolling friction are lengths.
    if name == "actuator_gear" and part and not field_of(model, key)[rows].any():
        return rows, 0  # The other five entries are for forces on a body.
    return rows


def _owner(name: str) -> str:
    """Return the kind of object that field ``name`` belongs to: body, geom, joint or actuator."""
    kind = name.partition("_")[0]
    return "joint" if kind == "dof" else kind


def check_field(model: Any, key: str, kind: Range) -> None:
    """Refuse a parameter that the model does not have, or that would change nothing.

    Raises:
        UserError: with a message that does not name the environment.
    """
    name, _, part = key.partition(".")
    if name == "gravity":
        if part or kind.each:
            got = key if part else "each"
            raise UserError(f"{'each:' * kind.each}gravity: got {got}; accepted: one number")
        if kind.factor and not model.opt.gravity.any():
            raise UserError("gravity: is 0, and so is every multiple; accepted: low..high")
        return
    try:
        index = _selected(model, key, kind)
    except KeyError as error:
        raise UserError(f"{key}: {error.args[0]}") from None
    if part == "world" and _owner(name) == "body":
        raise UserError(f"{key}: the world does not move; accepted: a body of the model")
    if field_of(model, key)[index].any():
        return
    if not part:
        owner = _owner(name)
        count = getattr(model, _COUNTS[owner])
        names = [found for i in range(count) if (found := getattr(model, owner)(i).name)]
        names = [found for found in names if found != "world"]
        raise UserError(
            f"{key}: all its entries are 0, which is kept; name one to set it, such as "
            f"{key}.{(names or ['<name>'])[-1]}=low..high; known: {', '.join(names)}"
        )
    if kind.factor:
        raise UserError(f"{key}: is 0, and so is every multiple; accepted: low..high")


def apply_to_model(
    env: Any,
    values: Mapping[str, Any],
    ranges: Mapping[str, Range],
    original: Mapping[str, npt.NDArray[np.float64]],
) -> None:
    """Write a task's physics into the MuJoCo model of an unwrapped environment.

    Args:
        env: the environment.
        values: a number for each parameter, or several for one with ``each``.
        ranges: the ranges of the same parameters.
        original: the model's own fields, from which the values start.
    """
    import mujoco

    model = env.model
    for name, saved in original.items():
        field_of(model, name)[...] = saved
    inertia_varies = any(key.partition(".")[0] == "body_inertia" for key in values)
    for key, value in values.items():
        name, _, part = key.partition(".")
        field, kind = field_of(model, key), ranges[key]
        if name == "gravity":
            size = float(np.linalg.norm(field))
            down = field / size if size else np.array([0.0, 0.0, -1.0])
            field[...] = field * value if kind.factor else down * value
            continue
        index = _selected(model, key, kind)
        before = field[index].copy()
        given = np.asarray(value, np.float64)
        given = given.reshape(before.shape) if kind.each else given
        if kind.factor:
            field[index] = before * given
        else:  # Keep entries that are 0, unless the parameter names them.
            sets = np.ones_like(before) if part and not before.any() else before
            field[index] = np.where(sets != 0, given, 0.0)
        if name == "body_mass" and not inertia_varies:
            ratio = np.divide(field[index], before, out=np.ones_like(before), where=before != 0)
            model.body_inertia[index] *= ratio[:, None]
    mujoco.mj_setConst(model, env.data)

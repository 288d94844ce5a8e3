"""What can vary in a Gymnasium environment: names, types, values and where they are set."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from metarl.errors import UserError
from metarl.imports import import_module
from metarl.stepping.slots import close_quietly
from metarl.task import Env
from metarl.tasks.distribution import time_limit
from metarl.tasks.physics import field_of, model_of
from metarl.tasks.places import SEED, Place, constructor_of, find_spec, names_that_vary

_PLACES: dict[Place, str] = {
    "model": "MuJoCo model",
    "constructor": "constructor",
    "attribute": "attribute",
    "reset": "seed of reset",
}


class Varying(NamedTuple):
    """A parameter that tasks can differ in."""

    name: str
    place: Place
    """Where it is set."""
    types: str
    """The types that it takes."""
    value: str
    """Its value without a task."""
    example: str | None
    """A range around its value, as it is typed; None if there is none to guess."""

    def __str__(self) -> str:
        """Return the parameter in a line."""
        value = f", {self.value}" if self.value else ""
        return f"{self.name} ({self.types}{value}; {_PLACES[self.place]})"


class Bare(NamedTuple):
    """A Gymnasium environment before anything of it varies."""

    env: Env
    horizon: int | None
    """The number of steps of an episode, if there is a limit."""
    varying: tuple[Varying, ...]
    """What can vary, what changes the physics first."""


def bare(id: str) -> Bare:
    """Make an environment, find out what can vary in it, and close it.

    Args:
        id: the id, or ``module:Id``.

    Raises:
        UserError: if there is no such environment, or it cannot be made.
    """
    module = id.rpartition(":")[0]
    if module:
        import_module(module, f"--env: gym/{id}")
    spec = find_spec(id)
    constructor = constructor_of(id, spec)
    try:
        env: Env = gym.make(spec, disable_env_checker=True)
    except Exception as error:
        raise UserError(f"--env: gym/{id}: {type(error).__name__}: {error}") from error
    constructor = constructor.with_class_of(env.unwrapped)
    defaults = constructor.defaults() | spec.kwargs
    found = []
    for place, names in names_that_vary(env, constructor).items():
        for name in names:
            if place == "model":
                numbers = np.asarray(field_of(model_of(env.unwrapped), name))
                value = f"{numbers.size} numbers" if numbers.size > 1 else f"{numbers.item():g}"
                example = f"{name}=0.5x..2x" if numbers.any() else None
                found.append(Varying(name, place, "float", value, example))
                continue
            if place == "reset":
                found.append(Varying(name, place, "int", "", f"{SEED}=int:0..9999"))
                continue
            own = defaults.get(name) if place == "constructor" else _held(env, name)
            types = constructor.types(name) if place == "constructor" else (type(own),)
            whole = float not in types
            words = " or ".join(kind.__name__ for kind in types if whole or kind is not int)
            found.append(Varying(name, place, words, repr(own), _example(name, own, whole)))
    order = ("model", "constructor", "attribute", "reset")
    found.sort(key=lambda each: order.index(each.place))
    close_quietly(env)
    return Bare(env, time_limit(env), tuple(found))


def _held(env: Env, name: str) -> Any:
    value = getattr(env.unwrapped, name)
    return value.item() if isinstance(value, np.generic) else value


def _example(name: str, value: Any, whole: bool) -> str | None:
    """Return a range around a value, as it is typed."""
    if isinstance(value, bool):
        return f"{name}=true/false"
    if not isinstance(value, int | float) or value == 0:
        return None
    if whole and isinstance(value, int):
        low, high = sorted((value, 2 * value))
        return f"{name}=int:{low}..{high}" if low != high else None
    return f"{name}=0.5x..2x"

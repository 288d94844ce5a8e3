"""Places where parameters of a Gymnasium environment are set, and the values they take there.

A parameter's name is looked for among the physics of a MuJoCo model, then the constructor's
arguments, then the numbers that the environment or its class holds as attributes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import gymnasium as gym
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.envs.registration import EnvSpec

from metarl.errors import UserError, near_matches
from metarl.imports import import_module
from metarl.task import Env
from metarl.tasks.constructors import Constructor
from metarl.tasks.physics import MODEL_FIELDS, check_field, is_field, model_of
from metarl.tasks.ranges import (
    ACCEPTED_RANGES,
    Choice,
    Integers,
    Range,
    Uniform,
    is_number,
    text_of,
)

Place: TypeAlias = Literal["model", "constructor", "attribute", "reset"]
"""Place where a parameter is set: MuJoCo model, argument of the constructor, attribute, or the
argument of ``reset`` that is called ``seed``."""

SEED = "seed"
"""The parameter that is given to ``reset``, unless the constructor has one of this name."""


DERIVED: dict[type, dict[str, Callable[[Any], Any]]] = {
    CartPoleEnv: {
        "total_mass": lambda env: env.masspole + env.masscart,
        "polemass_length": lambda env: env.masspole * env.length,
    }
}
"""Attributes that an environment computes from others, and functions that compute them again."""


def derived(env: Env) -> dict[str, Callable[[Any], Any]]:
    """Return the attributes that ``env`` computes from others, with their functions."""
    found: dict[str, Callable[[Any], Any]] = {}
    for kind, computed in DERIVED.items():
        if isinstance(env.unwrapped, kind):
            found |= computed
    return found


def find_spec(id: str) -> EnvSpec:
    """Return the specification of ``Id`` or ``module:Id``, after importing the module.

    Raises:
        UserError: if there is no such module or id; the message lists near matches.
    """
    module, _, bare = id.rpartition(":")
    if module:
        import_module(module, f"--env: gym/{id}")
    try:
        return gym.spec(bare)
    except gym.error.Error as error:
        versions = [known for known in gym.registry if known.startswith(f"{bare}-v")]
        hint = ""
        if versions:
            hint = f"; did you mean {' or '.join(versions)}?"
        elif not module and isinstance(error, gym.error.NameNotFound | gym.error.NamespaceNotFound):
            hint = " An environment that another package registers is gym/<module>:<Id>."
        raise UserError(f"--env: gym/{id}: {error}{hint}") from error


def constructor_of(id: str, spec: EnvSpec) -> Constructor:
    """Read the signature behind ``spec``; ``id`` is for messages.

    Raises:
        UserError: if the environment's code cannot be imported.
    """
    try:
        return Constructor.of_spec(spec)
    except (gym.error.Error, ImportError, AttributeError) as error:
        raise UserError(f"--env: gym/{id}: {error}") from error


def place_of(env: Env, id: str, key: str, constructor: Constructor) -> Place:
    """Return where the parameter ``key`` of ``env`` is set.

    Raises:
        UserError: if nothing that can vary has this name; the message lists all that can.
    """
    names = names_that_vary(env, constructor)
    if names["model"] and is_field(key):
        return "model"
    if constructor.takes(key):
        return "constructor"
    if key in names["attribute"]:
        return "attribute"
    if key == SEED:
        return "reset"
    every = [name for known in names.values() for name in known]
    if key in derived(env):
        raise UserError(
            f"--env: gym/{id}: {key} is computed from other attributes; known: "
            f"{', '.join(sorted(every))}"
        )
    raise UserError(
        f"--env: gym/{id} has nothing called {key!r} that can vary; {near_matches(key, every)}"
    )


_RENDERING = ("render_mode", "width", "height", "camera_id", "camera_name", "max_geom")
"""Arguments of a constructor that change pictures only."""


def names_that_vary(env: Env, constructor: Constructor) -> dict[Place, list[str]]:
    """Return the names of the parameters that can vary, by the place where they are set."""
    inner = env.unwrapped
    held: dict[str, Any] = {}
    for cls in type(inner).__mro__:
        if cls is gym.Env:
            break
        held = {**vars(cls), **held}
    held |= vars(inner)
    return {
        "model": list(MODEL_FIELDS) if model_of(inner) is not None else [],
        "constructor": [
            name
            for name in constructor.parameters
            if constructor.types(name) and name not in _RENDERING
        ],
        "attribute": [
            name
            for name, value in held.items()
            if is_number(value)
            and not name.startswith("_")
            and name not in constructor.parameters
            and name not in derived(env)
        ],
        "reset": [] if SEED in constructor.parameters else [SEED],
    }


def annotation_of(inner: object, key: str) -> str:
    """Return the text of the annotation of an attribute, or an empty text without one."""
    for cls in type(inner).__mro__:
        found = vars(cls).get("__annotations__", {}).get(key)
        if found is not None:
            return found if isinstance(found, str) else str(getattr(found, "__name__", found))
    return ""


def _described_types(accepted: tuple[type, ...]) -> str:
    words = {bool: "true or false", int: "whole numbers", float: ACCEPTED_RANGES, str: "texts"}
    kinds = [kind for kind in accepted if not (kind is int and float in accepted)]
    return " or ".join(words[kind] for kind in kinds)


def check_entries(env: Env, id: str, key: str, where: Place, kind: Range) -> None:
    """Refuse ``each`` for a single number, and a field that the model does not have."""
    if where != "model":
        if kind.each:
            raise UserError(
                f"--env: gym/{id}: each:{key}: got one number; accepted: an entry of "
                f"{', '.join(MODEL_FIELDS)}"
            )
        return
    try:
        check_field(model_of(env.unwrapped), key, kind)
    except UserError as error:
        raise UserError(f"--env: gym/{id}: {error}") from None


def check_types(
    id: str, key: str, kind: Range, accepted: tuple[type, ...], default: object
) -> None:
    """Refuse values that a parameter does not take, instead of casting them.

    Args:
        id: the environment's id, for messages.
        key: the parameter's name.
        kind: the parameter's range.
        accepted: the types that the parameter takes; empty if it takes any.
        default: the parameter's value without a task, which factors multiply.
    """
    name = f"--env: gym/{id}: {key}"
    if kind.factor and not is_number(default):
        raise UserError(f"{name}: its default is {default!r}; accepted: values, not factors")
    if kind.factor and default == 0:
        raise UserError(f"{name}: is 0, and so is every multiple; accepted: low..high")
    if not accepted:
        return
    whole = accepted == (int,)
    if isinstance(kind, Uniform) and float not in accepted:
        if whole:
            low, high = (-(-kind.low // 1), kind.high // 1) if not kind.factor else (2, 6)
            raise UserError(
                f"{name} takes whole numbers, got {text_of(key, kind)}; accepted: "
                f"{key}=int:{low:.0f}..{high:.0f}, or "
                f"metarl.Integers({low:.0f}, {high:.0f})"
            )
        raise UserError(f"{name}: got a range; accepted: {_described_types(accepted)}")
    if isinstance(kind, Uniform):
        return
    if isinstance(kind, Integers):
        values: tuple[Any, ...] = (kind.low,)
    else:
        values = (*kind.options, *(kind.test or ()))
    for value in values:
        if kind.factor and is_number(value) and is_number(default):
            value = value * default
        if type(value) not in accepted:
            raise UserError(f"{name}: got {value!r}; accepted: {_described_types(accepted)}")


def check_seeds(id: str, kind: Range) -> None:
    """Refuse seeds that are no whole numbers from 0 on."""
    values = (kind.low, *(kind.test or ())) if isinstance(kind, Integers) else ()
    if isinstance(kind, Choice):
        values = (*kind.options, *(kind.test or ()))
    sound = values and all(type(value) is int and value >= 0 for value in values)
    if not sound or kind.factor:
        raise UserError(
            f"--env: gym/{id}: seed: got {text_of('seed', kind).partition('=')[2]}; accepted: "
            "whole numbers from 0 on, int:0..9999"
        )

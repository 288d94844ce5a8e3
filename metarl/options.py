"""Options: the fields of a config and of the configs nested in it, by the names they are typed as.

On the command line, and in :func:`with_options`, nested configs are flat: the option
``--hidden-size`` of RL² sets ``config.core.hidden_size``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_args, get_origin, get_type_hints

from metarl.errors import UserError, near_matches

T = TypeVar("T")
R = TypeVar("R")


def with_options(config: T, **values: Any) -> T:
    """Return a config with other values, whichever of its nested configs they belong to.

    >>> from metarl import RL2Config
    >>> config = with_options(RL2Config(), tasks_per_update=40, core="fast-weights", memory_size=16)
    >>> config.tasks_per_update, config.core.kind, config.core.memory_size
    (40, 'fast-weights', 16)

    A path may be given as text.

    Raises:
        TypeError: if there is no such option.
    """
    paths = option_paths(type(config))
    unknown = [name for name in values if name not in paths]
    if unknown:
        raise TypeError(f"no option {unknown[0]!r}; {near_matches(unknown[0], paths)}")
    own: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        first, *rest = paths[name]
        if rest:
            nested.setdefault(first, {})[name] = value
        else:
            is_text = isinstance(value, str) and _takes_path(field_types(type(config))[first])
            own[first] = Path(value) if is_text else value
    own |= {name: with_options(getattr(config, name), **part) for name, part in nested.items()}
    return cast(T, dataclasses.replace(cast(Any, config), **own))


def fitted(
    build: Callable[[T], R], config: T, given: Collection[str]
) -> tuple[R, dict[str, tuple[Any, Any]]]:
    """Build from a config that was suggested; what does not go with what is given has its default.

    Some options are refused beside a kind of network that is not the suggested one, or cannot be
    cut as suggested. Nobody asked for these values, so they are no errors of the user's.

    Args:
        build: makes something of a config, by values that are given.
        config: the suggested values.
        given: the names of the options that are given, which are never changed.

    Returns:
        What was made, and for each option that was changed, the suggested value and the default.

    Raises:
        UserError: if anything else is refused.
    """
    changed: dict[str, tuple[Any, Any]] = {}
    while True:
        try:
            return build(config), changed
        except UserError as error:
            name = (error.option or "").removeprefix("--").replace("-", "_")
            if name not in option_paths(type(config)) or name in given or name in changed:
                raise
            suggested = option_values(config)[name]
            default = option_values(type(config)())[name]
            if suggested == default:
                raise
            changed[name] = suggested, default
            config = with_options(config, **{name: default})


def _takes_path(hint: Any) -> bool:
    """Return whether a field of type ``hint`` holds a path."""
    hint = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return Path in (hint, *get_args(hint))


def option_values(config: object) -> dict[str, Any]:
    """Return the value of every option of a config, by the option's name."""
    values = {}
    for name, path in option_paths(type(config)).items():
        values[name] = functools.reduce(getattr, path, config)
    return values


def option_paths(kind: type) -> dict[str, tuple[str, ...]]:
    """Return the path of fields to every option of a dataclass, by the option's name."""
    paths = {}
    for field in dataclasses.fields(kind):
        inner = field_types(kind)[field.name]
        if dataclasses.is_dataclass(inner):
            below = option_paths(cast(type, inner))
            paths.update({name: (field.name, *path) for name, path in below.items()})
        else:
            paths[option_name(kind, field.name)] = (field.name,)
    return paths


def nested_values(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """Return options by name as a dataclass and its nested ones hold them: a dict in dicts.

    Names that are no options of ``kind`` stay where they are.
    """
    paths = option_paths(kind)
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *outer, last = paths.get(name, (name,))
        place = nested
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = value
    return nested


def option_name(kind: type, field: str) -> str:
    """Return the name of a field's option: its own, or the one in ``tyro.conf.arg(name=…)``."""
    hint = field_types(kind)[field]
    metadata = hint.__metadata__ if get_origin(hint) is Annotated else ()
    named = [part.name for part in metadata if getattr(part, "name", None)]
    return str(named[0]).replace("-", "_") if named else field


def option_flag(kind: type, field: str) -> str:
    """Return a field's option as it is typed: ``--hidden-size``."""
    return f"--{option_name(kind, field).replace('_', '-')}"


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def field_types(kind: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields, with their annotations."""
    return _hints(cast(Any, kind))

"""Arguments that the constructor of a Gymnasium environment takes, read from its signature."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator

from metarl.tasks.ranges import is_number

_ANNOTATED: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
}


@dataclass(frozen=True)
class Constructor:
    """Names, defaults and types of the arguments an environment can be built with."""

    parameters: dict[str, inspect.Parameter]
    """Named parameters, including those of base classes if ``**kwargs`` are passed on."""
    open: bool
    """True if any other name is accepted too: ``**kwargs`` are passed on to unknown code."""

    @classmethod
    def of(cls, creator: Callable[..., Any]) -> Constructor:
        """Read the signature of a class or function that makes an environment."""
        found: dict[str, inspect.Parameter] = {}
        for function, skip in _signatures(creator):
            parameters = list(inspect.signature(function).parameters.values())[skip:]
            for parameter in parameters:
                if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                    found.setdefault(parameter.name, parameter)
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
                return cls(found, open=False)
        return cls(found, open=True)

    @classmethod
    def of_spec(cls, spec: EnvSpec) -> Constructor:
        """Read the signature behind a registered id, after importing its module."""
        entry = spec.entry_point
        if entry is None:
            raise gym.error.Error(f"{spec.id} registered but entry_point is not specified")
        return cls.of(load_env_creator(entry) if isinstance(entry, str) else entry)

    def with_class_of(self, env: Any) -> Constructor:
        """Add the arguments of the environment's class, if a function passes them on to it."""
        if not self.open:
            return self
        other = Constructor.of(type(env))
        return Constructor(other.parameters | self.parameters, other.open)

    def types(self, name: str) -> tuple[type, ...]:
        """Return the types that parameter ``name`` takes, or none if they are unknown."""
        if name not in self.parameters:
            return ()
        parameter = self.parameters[name]
        annotated = parameter.annotation is not parameter.empty
        text = inspect.formatannotation(parameter.annotation) if annotated else ""
        return types_of(text.strip("'\""), parameter.default)

    def takes(self, name: str) -> bool:
        """Return whether parameter ``name`` may take a number, a truth value or a string."""
        parameter = self.parameters.get(name)
        if parameter is None:
            return False
        return bool(self.types(name)) or any(
            parameter.default is nothing for nothing in (None, parameter.empty)
        )

    def defaults(self) -> dict[str, Any]:
        """Return the default of every parameter that has one."""
        return {
            name: parameter.default
            for name, parameter in self.parameters.items()
            if parameter.default is not parameter.empty
        }


def _signatures(creator: Any) -> Iterator[tuple[Any, int]]:
    """Yield the functions that get the arguments in turn, and 1 if ``self`` comes first, else 0."""
    if not inspect.isclass(creator):
        yield creator, 0
        return
    for cls in creator.__mro__:
        if cls not in (object, gym.Env, gym.Wrapper) and "__init__" in vars(cls):
            yield vars(cls)["__init__"], 1


def types_of(annotation: str, default: object) -> tuple[type, ...]:
    """Return the types a value may have, from its annotation's text or else its default.

    A float parameter also takes an int. A default that is an int says nothing, since ``speed=0``
    is often written for a float.
    """
    words = set(re.findall(r"\w+", annotation)) - {"None", "Optional", "Union", "typing"}
    if words and words <= _ANNOTATED.keys():
        return tuple(sorted({kind for word in words for kind in _ANNOTATED[word]}, key=str))
    if isinstance(default, bool):
        return (bool,)
    if isinstance(default, str):
        return (str,)
    return (int, float) if is_number(default) else ()

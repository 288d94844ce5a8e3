"""Constraints on the values of a config, written into the types of its fields.

>>> @dataclass(frozen=True)
... class Config:
...     discount: Annotated[float, Between(0, 1)] = 0.99
...     def __post_init__(self) -> None:
...         validate(self)
>>> Config(discount=2.0)
Traceback (most recent call last):
metarl.errors.UserError: --discount: got 2.0; accepted: 0 to 1
"""

from __future__ import annotations

import dataclasses
import math
import types
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    Literal,
    Protocol,
    TypeAlias,
    Union,
    get_args,
    get_origin,
    runtime_checkable,
)

from metarl.errors import bad_option
from metarl.options import field_types, option_flag

Number: TypeAlias = int | float
"""A number; run-time type checks do not accept an int as a float."""


@runtime_checkable
class Constraint(Protocol):
    """A condition on one number; it stands in a field's type: ``Annotated[float, Positive]``.

    A field of type ``X | None`` accepts None too; in ``tuple[X, ...]`` every element is checked.
    """

    @property
    def accepted(self) -> str:
        """The values that are accepted, for the error message."""

    def holds(self, value: Any) -> bool:
        """Return whether the value is accepted."""


@dataclass(frozen=True)
class Positive:
    """A finite number above 0."""

    accepted: str = "a number above 0"

    def holds(self, value: Number) -> bool:
        """Return whether the value is accepted."""
        return 0 < value < math.inf


@dataclass(frozen=True)
class NotNegative:
    """A finite number that is not negative."""

    accepted: str = "0 or more"

    def holds(self, value: Number) -> bool:
        """Return whether the value is accepted."""
        return 0 <= value < math.inf


@dataclass(frozen=True)
class Above:
    """A number above a bound; infinity is accepted."""

    bound: Number

    @property
    def accepted(self) -> str:
        """The values that are accepted, for the error message."""
        return f"above {self.bound}"

    def holds(self, value: Number) -> bool:
        """Return whether the value is accepted."""
        return value > self.bound


@dataclass(frozen=True)
class AtLeast:
    """A number that is at least a bound."""

    bound: int

    @property
    def accepted(self) -> str:
        """The values that are accepted, for the error message."""
        return "0 or more" if self.bound == 0 else f"at least {self.bound}"

    def holds(self, value: Number) -> bool:
        """Return whether the value is accepted."""
        return value >= self.bound


@dataclass(frozen=True)
class Between:
    """A number from the lower to the upper bound, both included."""

    low: Number
    high: Number

    @property
    def accepted(self) -> str:
        """The values that are accepted, for the error message."""
        return f"{self.low} to {self.high}"

    def holds(self, value: Number) -> bool:
        """Return whether the value is accepted."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class NotEmpty:
    """A tuple that has at least one element."""

    accepted: str = "at least one number"

    def holds(self, value: tuple[Any, ...]) -> bool:
        """Return whether the value is accepted."""
        return bool(value)


def validate(config: Any) -> None:
    """Refuse a dataclass in which a field's value breaks a constraint of its type.

    Raises:
        UserError: it names the option, the value and what is accepted.
    """
    kind = type(config)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        accepted = _broken(value, field_types(kind)[field.name])
        if accepted is not None:
            raise bad_option(option_flag(kind, field.name), value, accepted)


def refuse_unused(config: Any, unused: tuple[str, ...], because: str) -> None:
    """Refuse optional fields that are set although another field's value makes them unused.

    Args:
        config: a dataclass.
        unused: the fields that must be None.
        because: the option that uses them, such as ``"--std state"``.

    Raises:
        UserError: it names the first such field.
    """
    for name in unused:
        if getattr(config, name) is not None:
            flag = option_flag(type(config), name)
            raise bad_option(flag, getattr(config, name), f"None, unless {because} is given")


def _broken(value: Any, hint: Any) -> str | None:
    """Return a description of the accepted values, or None if ``value`` is accepted."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        accepted = _broken(value, parts[0])
        for constraint in hint.__metadata__:
            one = constraint() if isinstance(constraint, type) else constraint
            if accepted is None and isinstance(one, Constraint) and not one.holds(value):
                accepted = one.accepted
        return accepted
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return next(filter(None, (_broken(value, part) for part in parts)), None)
    if origin is tuple:
        broken = next(filter(None, (_broken(element, parts[0]) for element in value)), None)
        return broken and f"{broken} each"
    if origin is Literal and value not in parts:
        return ", ".join(map(str, parts))
    return None

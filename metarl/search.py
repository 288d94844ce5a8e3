"""Ranges that ``metarl tune`` searches, written into the types of a config's fields.

>>> @dataclass(frozen=True)
... class Config:
...     learning_rate: Annotated[float, Tuned(1e-4, 1e-2, log=True)] = 1e-3
...     core: Annotated[str, TunedAmong("gru", "lstm")] = "gru"
>>> {name: str(searched) for name, searched in tuned_options(Config).items()}
{'learning_rate': 'log:0.0001..0.01', 'core': 'gru,lstm'}
"""

from __future__ import annotations

import functools
import types
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin

from metarl.options import field_types, option_paths

Number: TypeAlias = int | float
"""A number; run-time type checks do not accept an int as a float."""


@dataclass(frozen=True)
class Tuned:
    """Tuning searches the numbers from the lower to the upper bound, both included.

    It stands beside constraints in a field's type: ``Annotated[float, Positive, Tuned(1, 2)]``.
    Fields of type int get whole numbers.

    Raises:
        ValueError: if the bounds do not ascend, or a logarithmic range is not above 0.

    >>> @dataclass(frozen=True)
    ... class Config:
    ...     learning_rate: Annotated[float, metarl.Tuned(1e-4, 1e-2, log=True)] = 1e-3
    >>> str(metarl.Tuned(1e-4, 1e-2, log=True))  # as --search of metarl tune takes it
    'log:0.0001..0.01'
    """

    low: Number
    """The lower bound."""
    high: Number
    """The upper bound."""
    log: bool = False
    """Whether equal factors are searched equally densely, rather than equal differences."""

    def __post_init__(self) -> None:
        """Refuse an empty range."""
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"bounds {self.low} and {self.high}: must ascend, from above 0 if log")

    def __str__(self) -> str:
        """Return the range as ``--search`` reads it."""
        return f"{'log' if self.log else 'linear'}:{self.low}..{self.high}"

    @property
    def ends(self) -> tuple[Any, ...]:
        """The bounds."""
        return self.low, self.high


@dataclass(frozen=True, init=False)
class TunedAmong:
    """Tuning searches these values, which may be of any type that JSON knows, or tuples.

    Raises:
        ValueError: if there are fewer than two.

    >>> @dataclass(frozen=True)
    ... class Config:
    ...     core: Annotated[str, metarl.TunedAmong("gru", "fast-weights")] = "gru"
    >>> str(metarl.TunedAmong("gru", "fast-weights"))  # as --search of metarl tune takes it
    'gru,fast-weights'
    """

    values: tuple[Any, ...]
    """The values."""

    def __init__(self, *values: Any) -> None:
        object.__setattr__(self, "values", values)
        if len(values) < 2:
            raise ValueError(f"values {values}: at least two are needed")

    def __str__(self) -> str:
        """Return the values as ``--search`` reads them."""
        return ",".join(str(value).replace(",", "") for value in self.values)

    @property
    def ends(self) -> tuple[Any, ...]:
        """All values."""
        return self.values


Searched: TypeAlias = Tuned | TunedAmong
"""What tuning searches for one option."""


def tuned_options(kind: type) -> dict[str, Searched]:
    """Return what is searched for every annotated option of a config and of those nested in it."""
    found = {}
    for name in option_paths(kind):
        markers = [part for part in option_type(kind, name)[1] if isinstance(part, Searched)]
        if markers:
            found[name] = markers[0]
    return found


def option_type(kind: type, name: str) -> tuple[Any, tuple[Any, ...]]:
    """Return an option's type without its annotations, and the annotations.

    In ``Annotated[float, Positive] | None`` the type is ``float | None``.
    """
    *outer, last = option_paths(kind)[name]
    owner = functools.reduce(lambda inner, field: field_types(inner)[field], outer, kind)
    return _plain(field_types(owner)[last])


def _plain(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    if get_origin(hint) is Annotated:
        plain, inner = _plain(get_args(hint)[0])
        return plain, (*inner, *hint.__metadata__)
    if get_origin(hint) in (Union, types.UnionType):
        parts = [_plain(part) for part in get_args(hint)]
        joined: Any = functools.reduce(lambda a, b: a | b, [plain for plain, _ in parts])
        return joined, tuple(one for _, metadata in parts for one in metadata)
    return hint, ()

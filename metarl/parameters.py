"""Ranges that a task's parameters are drawn from, and how they are written as text.

Uniform(8, 12)                       8..12
Uniform(0.5, 2, factor=True)         0.5x..2x
LogUniform(0.5, 2, each=True)        each:log:0.5..2
Choice(-10, 10)                      -10/10
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from metarl.errors import UserError, bad_option
from metarl.tasks import Split

Number: TypeAlias = int | float

Interval: TypeAlias = tuple[Number, Number]


@dataclass(frozen=True)
class Uniform:
    """A number between ``low`` and ``high``, every one as likely."""

    low: Number
    high: Number
    factor: bool = False
    """The number multiplies the environment's own value."""
    each: bool = False
    """A number for every entry (body, joint, …) instead of one for all."""
    test: Interval | None = None
    """Held-out interval; without one, train and test numbers come from the same range and
    differ in their last bit."""
    logarithmic: bool = False
    """The number's logarithm is uniform."""

    def __post_init__(self) -> None:
        """Refuse what is no interval."""
        for low, high in [(self.low, self.high), *([self.test] if self.test else [])]:
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise bad_option("range", f"{low}..{high}", "finite low < high")
            if self.logarithmic and low <= 0:
                raise bad_option("logarithmic range", f"{low}..{high}", "above 0")

    def values(self, unit: npt.NDArray[np.floating[Any]], split: Split) -> npt.NDArray[np.float64]:
        """Map numbers of [0, 1) onto the range."""
        low, high = self.test if self.test and split == "test" else (self.low, self.high)
        if self.logarithmic:
            return np.asarray(np.exp(np.log(low) + (np.log(high) - np.log(low)) * unit))
        return np.asarray(low + (high - low) * unit)


def LogUniform(low: Number, high: Number, **options: Any) -> Uniform:  # noqa: N802  # a kind
    """Return a :class:`Uniform` whose number's logarithm is uniform."""
    return Uniform(low, high, logarithmic=True, **options)


@dataclass(frozen=True, init=False)
class Choice:
    """One of a few values, each as likely."""

    options: tuple[Number, ...]
    factor: bool
    each: bool
    test: tuple[Number, ...] | None
    """Held-out values; without them, train and test share the same few."""

    def __init__(
        self,
        *options: Number,
        factor: bool = False,
        each: bool = False,
        test: tuple[Number, ...] | None = None,
    ) -> None:
        if not options or test == ():
            raise bad_option("choice", options, "one value or more")
        for name, value in {
            "options": options,
            "factor": factor,
            "each": each,
            "test": test,
        }.items():
            object.__setattr__(self, name, value)

    def values(self, unit: npt.NDArray[np.floating[Any]], split: Split) -> npt.NDArray[np.float64]:
        """Map numbers of [0, 1) onto the values."""
        options = np.array(self.test if self.test and split == "test" else self.options, float)
        return np.asarray(options[(unit * len(options)).astype(np.int64)])


Range: TypeAlias = Uniform | Choice


_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})(x?)\.\.({_NUMBER})(x?)")


def parse_range(id: str, key: str, text: str) -> Range:
    """Read the range of ``key``; ``id`` is for messages.

    Raises:
        UserError: for text that is no range.
    """
    each, logarithmic = False, False
    rest = text
    while rest.startswith(("each:", "log:")):
        prefix, _, rest = rest.partition(":")
        each, logarithmic = each or prefix == "each", logarithmic or prefix == "log"
    found = _RANGE.fullmatch(rest)
    if found and found[2] == found[4]:
        options: dict[str, Any] = {"factor": bool(found[2]), "each": each}
        try:
            return Uniform(float(found[1]), float(found[3]), logarithmic=logarithmic, **options)
        except UserError as error:
            raise UserError(f"--env: gym/{id}: {key}: {error}") from None
    parts = rest.split("/")
    factor = all(part.endswith("x") for part in parts)
    bare = [part[:-1] if factor else part for part in parts]
    if not logarithmic and all(re.fullmatch(_NUMBER, part) for part in bare):
        return Choice(*map(float, bare), factor=factor, each=each)
    raise UserError(
        f"--env: gym/{id}: {key}: got {text!r}; accepted: low..high, values a/b/c, factors "
        "0.5x..2x, with log: or each: before it"
    )


def text_of(key: str, kind: Range) -> str:
    """Return the part of a name that :func:`parse_range` reads as this range."""
    mark = "x" if kind.factor else ""
    prefix = "each:" if kind.each else ""
    values: tuple[Number, ...]
    test: tuple[Number, ...] | None
    if isinstance(kind, Uniform):
        prefix += "log:" if kind.logarithmic else ""
        between, values, test = "..", (kind.low, kind.high), kind.test
    else:
        between, values, test = "/", kind.options, kind.test

    def text(numbers: tuple[Number, ...]) -> str:
        return prefix + between.join(f"{float(v)!r}".removesuffix(".0") + mark for v in numbers)

    return f"{key}={text(values)}" + (f",test.{key}={text(test)}" if test else "")

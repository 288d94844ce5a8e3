"""Ranges from which a task's parameters are drawn, and their text in names.

    Uniform(8, 12)                       8..12
    Uniform(0.5, 2, factor=True)         0.5x..2x
    LogUniform(0.5, 2, each=True)        each:log:0.5..2
    Integers(2, 6)                       int:2..6
    Choice(-10, 10)                      -10/10
    Choice("4x4", "8x8")                 4x4/8x8

The range determines the type of the values: Uniform draws floats, Integers draws ints, and
Choice returns its options unchanged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt

from metarl.errors import UserError, bad_option
from metarl.task import Split

Number: TypeAlias = int | float


Scalar: TypeAlias = bool | int | float | str


Interval: TypeAlias = tuple[Number, Number]


ACCEPTED_RANGES = (
    "low..high, whole numbers int:low..high, values a/b/c, factors 0.5x..2x, "
    "with log: or each: before it"
)


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether ``value`` is an int or a float, of Python or NumPy; a bool is neither."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


@dataclass(frozen=True)
class Uniform:
    """A float drawn uniformly from ``low`` to ``high``.

    >>> length = metarl.Uniform(0.3, 1.0, test=(1.0, 1.5))
    >>> tasks = metarl.GymTasks("CartPole-v1", {"length": length})
    >>> tasks.name
    'gym/CartPole-v1:length=0.3..1,test.length=1..1.5'
    >>> [task] = tasks.sample(np.random.default_rng(0), 1, "test")
    >>> 1.0 <= task["length"] < 1.5
    True
    """

    low: Number
    """The lower end."""
    high: Number
    """The upper end."""
    factor: bool = False
    """True if the number multiplies the environment's own value."""
    each: bool = False
    """True if every entry (body, joint, …) gets its own number instead of one for all."""
    test: Interval | None = None
    """Interval of the test split; by default all splits draw from the same interval, and their
    numbers differ in the last bits. Validation always draws from the training interval."""
    logarithmic: bool = False
    """True if the number's logarithm is drawn uniformly."""

    def __post_init__(self) -> None:
        """Refuse bounds that form no interval."""
        for low, high in [(self.low, self.high), *([self.test] if self.test else [])]:
            numbers = is_number(low) and is_number(high)
            if not (numbers and math.isfinite(low) and math.isfinite(high) and low < high):
                raise bad_option("range", f"{low}..{high}", "finite low < high")
            if self.logarithmic and low <= 0:
                raise bad_option("logarithmic range", f"{low}..{high}", "above 0")

    def values(self, unit: npt.NDArray[np.floating[Any]], split: Split) -> npt.NDArray[np.float64]:
        """Map numbers of [0, 1) onto the range."""
        low, high = self.test if self.test and split == "test" else (self.low, self.high)
        if self.logarithmic:
            return np.asarray(np.exp(np.log(low) + (np.log(high) - np.log(low)) * unit))
        return np.asarray(low + (high - low) * unit)

    def shared_with(self, split: Split) -> bool:
        """Return whether ``split`` may draw a value that training draws too."""
        return split == "train"

    def count(self, split: Split) -> int | None:
        """Return None: a split draws from infinitely many values."""
        return None

    def ends(self) -> tuple[float, float]:
        """Return the lowest and the highest training value."""
        return float(self.low), float(self.high)

    def middle(self) -> float:
        """Return the value halfway between the ends."""
        if self.logarithmic:
            return math.exp((math.log(self.low) + math.log(self.high)) / 2)
        return (self.low + self.high) / 2


def LogUniform(low: Number, high: Number, **options: Any) -> Uniform:  # noqa: N802  # used like a class
    """Return a :class:`Uniform` that draws the number's logarithm uniformly.

    >>> metarl.GymTasks("Pendulum-v1", {"m": metarl.LogUniform(0.1, 10)}).name
    'gym/Pendulum-v1:m=log:0.1..10'
    """
    return Uniform(low, high, logarithmic=True, **options)


@dataclass(frozen=True)
class Integers:
    """An int drawn uniformly from ``low`` to ``high``, both included.

    Each split has its own values. Of every five consecutive values, the third belongs to
    validation and the fifth to test. Of three or four values in all, the last belongs to test and
    the one before it to validation. One or two values are shared by all splits.

    >>> levels = metarl.Integers(0, 9)
    >>> for split in ("train", "validation", "test"):
    ...     print(split, [levels.value(i, split) for i in range(levels.count(split))])
    train [0, 1, 3, 5, 6, 8]
    validation [2, 7]
    test [4, 9]
    """

    low: int
    """The lowest value."""
    high: int
    """The highest value."""
    test: tuple[int, int] | None = None
    """First and last value of the test split, outside ``low`` to ``high``, whose values then
    belong to training and validation."""

    factor: ClassVar[bool] = False
    each: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse bounds that form no range of integers."""
        for low, high in [(self.low, self.high), *([self.test] if self.test else [])]:
            whole = all(isinstance(v, int | np.integer) and is_number(v) for v in (low, high))
            if not whole or low > high:
                raise bad_option("integers", f"{low}..{high}", "whole numbers low <= high")
        if self.test and self.test[0] <= self.high and self.low <= self.test[1]:
            raise bad_option(
                "held-out integers",
                f"{self.test[0]}..{self.test[1]}",
                f"numbers outside {self.low}..{self.high}, which training draws from",
            )

    def _pattern(self, split: Split) -> tuple[int, int, tuple[int, ...], int]:
        """Return the first value, the number of values, the split's offsets, and their period.

        The split has the values whose offset from the first, modulo the period, is among its own.
        """
        if self.test and split == "test":
            low, n = self.test[0], self.test[1] - self.test[0] + 1
            return low, n, (0,), 1
        n = self.high - self.low + 1
        if n < 3:
            return self.low, n, (0,), 1
        if self.test:
            places = {"train": (0, 1, 3, 4), "validation": (2,)}[split]
        elif n < 5:
            last = n - 1
            places = {"train": tuple(range(last - 1)), "validation": (last - 1,), "test": (last,)}[
                split
            ]
        else:
            places = {"train": (0, 1, 3), "validation": (2,), "test": (4,)}[split]
        return self.low, n, places, 5

    def count(self, split: Split) -> int:
        """Return how many values ``split`` draws from."""
        _, n, places, period = self._pattern(split)
        return n // period * len(places) + sum(place < n % period for place in places)

    def value(self, index: int, split: Split) -> int:
        """Return value number ``index`` of ``split``, counted from 0."""
        low, _, places, period = self._pattern(split)
        return int(low + index // len(places) * period + places[index % len(places)])

    def values(self, unit: npt.NDArray[np.floating[Any]], split: Split) -> npt.NDArray[Any]:
        """Map numbers of [0, 1) onto the split's values; the array holds Python ints."""
        index = (unit * self.count(split)).astype(np.int64)
        found = np.empty(index.size, object)
        found[:] = [self.value(i, split) for i in index.ravel().tolist()]
        return found.reshape(index.shape)

    def shared_with(self, split: Split) -> bool:
        """Return whether ``split`` may draw a value that training draws too."""
        return self.high - self.low < 2 and not (self.test and split == "test")

    def ends(self) -> tuple[int, int]:
        """Return the lowest and the highest value."""
        return int(self.low), int(self.high)

    def middle(self) -> int:
        """Return the value halfway between the ends."""
        return int((self.low + self.high) // 2)


@dataclass(frozen=True, init=False)
class Choice:
    """One of a few values, with equal probability: numbers, booleans or strings.

    >>> slippery = metarl.Choice(True, False)
    >>> metarl.GymTasks("FrozenLake-v1", {"is_slippery": slippery}).name
    'gym/FrozenLake-v1:is_slippery=true/false'
    >>> metarl.Choice(-10, 10, test=[-20, 20]).of("test")
    (-20, 20)
    """

    options: tuple[Scalar, ...]
    """The values."""
    factor: bool
    """True if the number multiplies the environment's own value."""
    each: bool
    """True if every entry (body, joint, …) gets its own value instead of one for all."""
    test: tuple[Scalar, ...] | None
    """Values of the test split; by default all splits share the same few. Validation always
    draws from the training values."""

    def __init__(
        self,
        *options: Scalar | np.generic,
        factor: bool = False,
        each: bool = False,
        test: Sequence[Scalar | np.generic] | None = None,
    ) -> None:
        def plain(values: Sequence[Any]) -> tuple[Scalar, ...]:
            return tuple(v.item() if isinstance(v, np.generic) else v for v in values)

        main, held_out = plain(options), None if test is None else plain(test)
        if not main or held_out == ():
            raise bad_option("choice", main, "one value or more")
        for value in (*main, *(held_out or ())):
            number = is_number(value) and math.isfinite(value)
            if (factor or each) and not number:
                raise bad_option("choice of factors or entries", value, "finite numbers")
            if not number and not isinstance(value, bool | str):
                raise bad_option("choice", value, "finite numbers, booleans and strings")
        common = set(main) & set(held_out or ())
        if common:
            raise bad_option(
                "held-out choice", min(common, key=str), "values that training does not draw"
            )
        for name, given in {
            "options": main,
            "factor": factor,
            "each": each,
            "test": held_out,
        }.items():
            object.__setattr__(self, name, given)

    def of(self, split: Split) -> tuple[Scalar, ...]:
        """Return the values that ``split`` draws from."""
        return self.test if self.test and split == "test" else self.options

    def values(self, unit: npt.NDArray[np.floating[Any]], split: Split) -> npt.NDArray[Any]:
        """Map numbers of [0, 1) onto the values; the array holds them unchanged."""
        options = np.empty(self.count(split), object)
        options[:] = self.of(split)
        return np.asarray(options[(unit * len(options)).astype(np.int64)])

    def count(self, split: Split) -> int:
        """Return how many values ``split`` draws from."""
        return len(self.of(split))

    def value(self, index: int, split: Split) -> Scalar:
        """Return value number ``index`` of ``split``, counted from 0."""
        return self.of(split)[index]

    def shared_with(self, split: Split) -> bool:
        """Return whether ``split`` may draw a value that training draws too."""
        return not (self.test and split == "test")

    def ends(self) -> tuple[Scalar, Scalar]:
        """Return the first value, and the last one that differs from it (or else the first)."""
        others = [value for value in self.options if value != self.options[0]]
        return self.options[0], (others or self.options)[-1]

    def middle(self) -> Scalar:
        """Return the value in the middle of the list."""
        return self.options[len(self.options) // 2]


Range: TypeAlias = Uniform | Integers | Choice


_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"

_INTEGER = r"[-+]?\d+"

_RANGE = re.compile(rf"({_NUMBER})(x?)\.\.({_NUMBER})(x?)")


def read_value(text: str) -> Scalar:
    """Read a value: an int, ``true`` or ``false``, a float, or else a string."""
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(_INTEGER, text):
        return int(text)
    return float(text) if re.fullmatch(_NUMBER, text) else text


def read_range(text: str) -> Range:
    """Read a range from its text.

    Raises:
        UserError: if the text is no range, or its bounds are in the wrong order.
    """
    prefixes: set[str] = set()
    rest = text
    while rest.startswith(("each:", "log:", "int:")):
        prefix, _, rest = rest.partition(":")
        prefixes.add(prefix)
    refused = UserError(f"got {text!r}; accepted: {ACCEPTED_RANGES}")
    each, logarithmic = "each" in prefixes, "log" in prefixes
    found = _RANGE.fullmatch(rest)
    if "int" in prefixes:
        whole = found and all(re.fullmatch(_INTEGER, found[i]) for i in (1, 3))
        if found is None or not whole or found[2] or found[4] or each or logarithmic:
            raise refused
        return Integers(int(found[1]), int(found[3]))
    if found and found[2] == found[4]:
        return Uniform(
            float(found[1]), float(found[3]), bool(found[2]), each, logarithmic=logarithmic
        )
    parts = rest.split("/")
    factor = all(re.fullmatch(_NUMBER + "x", part) for part in parts)
    bare = [part[:-1] if factor else part for part in parts]
    if logarithmic or ".." in rest or "" in parts or any(re.search("[=<>,]", p) for p in parts):
        raise refused
    if each and not all(re.fullmatch(_NUMBER, part) for part in bare):
        raise refused
    return Choice(*map(read_value, bare), factor=factor, each=each)


def parse_range(name: str, key: str, text: str) -> Range:
    """Read the range of parameter ``key``; messages name the tasks by ``name``.

    Raises:
        UserError: if the text is no range.
    """
    try:
        return read_range(text)
    except UserError as error:
        raise UserError(f"--env: {name}: {key}: {error}") from None


def text_of(key: str, kind: Range) -> str:
    """Return the text of parameter ``key`` that :func:`parse_range` reads as this range.

    A range that has no such text, such as one of strings with commas, is written as its type in
    angle brackets.
    """
    mark = "x" if kind.factor else ""
    prefix = "each:" if kind.each else ""
    main: tuple[Any, ...]
    if isinstance(kind, Choice):
        between, main = "/", kind.options
    else:
        between, main = "..", (kind.low, kind.high)
        if isinstance(kind, Integers):
            prefix += "int:"
        elif kind.logarithmic:
            prefix += "log:"

    def one(value: Any) -> str:
        if isinstance(kind, Uniform):
            return repr(float(value)).removesuffix(".0")
        if isinstance(value, bool):
            return str(value).lower()
        return value if isinstance(value, str) else repr(value)

    def text(values: tuple[Any, ...]) -> str:
        written = prefix + between.join(one(value) + mark for value in values)
        return written if _reads_as(written, values, type(kind)) else f"<{type(kind).__name__}>"

    return f"{key}={text(main)}" + (f",test.{key}={text(kind.test)}" if kind.test else "")


def _reads_as(text: str, values: tuple[Any, ...], kind: type) -> bool:
    """Return whether ``text`` is read as a range of this kind with exactly these values."""
    try:
        read = read_range(text)
    except UserError:
        return False
    again = read.options if isinstance(read, Choice) else (read.low, read.high)
    exact = kind is not Choice or [type(v) for v in again] == [type(v) for v in values]
    return type(read) is kind and again == values and exact


def value_text(value: object) -> str:
    """Return the text of one fixed value, or its type in angle brackets if it has none."""
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, bool | int | float | str):
        return f"<{type(value).__name__}>"
    try:
        text = text_of("", Choice(value)).removeprefix("=")
    except UserError:  # The value is not finite.
        text = "<"
    return f"<{type(value).__name__}>" if "<" in text else text

"""Ranges that a task's parameters are drawn from, their text, and tasks made of them.

Uniform(8, 12)                       8..12
Uniform(0.5, 2, factor=True)         0.5x..2x
LogUniform(0.5, 2, each=True)        each:log:0.5..2
Integers(2, 6)                       int:2..6
Choice(-10, 10)                      -10/10
Choice("4x4", "8x8")                 4x4/8x8

The range alone says of which type a value is: Uniform draws floats, Integers draws ints, and
Choice hands out its options as they are.
"""

from __future__ import annotations

import itertools
import math
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, TypeGuard

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import psutil

from metarl.errors import UserError, bad_option
from metarl.tasks import (
    Env,
    Split,
    Task,
    TaskDistribution,
    TaskEnv,
    close_quietly,
    mark_split,
    time_limit,
)

Number: TypeAlias = int | float

Scalar: TypeAlias = bool | int | float | str

Interval: TypeAlias = tuple[Number, Number]

Wrapper: TypeAlias = Callable[[Any], Any]
"""A function from an environment to an environment, or a class such as ``gymnasium.Wrapper``."""

ACCEPTED_RANGES = (
    "low..high, whole numbers int:low..high, values a/b/c, factors 0.5x..2x, "
    "with log: or each: before it"
)

_MOST_TASKS = 10_000
"""A larger set of tasks is not listed but sampled."""


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether ``value`` is an int or a float, of Python or NumPy; a bool is neither."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


@dataclass(frozen=True)
class Uniform:
    """A float between ``low`` and ``high``, every one as likely."""

    low: Number
    high: Number
    factor: bool = False
    """The number multiplies the environment's own value."""
    each: bool = False
    """A number for every entry (body, joint, …) instead of one for all."""
    test: Interval | None = None
    """Held-out interval; without one, the splits draw from the same range and their numbers
    differ in their last bits. Validation numbers always come from the training interval."""
    logarithmic: bool = False
    """The number's logarithm is uniform."""

    def __post_init__(self) -> None:
        """Refuse what is no interval."""
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
        """Return how many values ``split`` draws from: None, since they are not countable."""
        return None

    def ends(self) -> tuple[float, float]:
        """Return the lowest and the highest training value."""
        return float(self.low), float(self.high)

    def middle(self) -> float:
        """Return the value halfway between the ends."""
        if self.logarithmic:
            return math.exp((math.log(self.low) + math.log(self.high)) / 2)
        return (self.low + self.high) / 2


def LogUniform(low: Number, high: Number, **options: Any) -> Uniform:  # noqa: N802  # a kind
    """Return a :class:`Uniform` whose number's logarithm is uniform."""
    return Uniform(low, high, logarithmic=True, **options)


@dataclass(frozen=True)
class Integers:
    """An int from ``low`` to ``high``, both included, every one as likely.

    The splits draw from values of their own: of every five in a row the third is for
    validation and the fifth for testing. Of three or four values the last is for testing and
    the one before it for validation; one or two are shared by all splits.
    """

    low: int
    high: int
    test: tuple[int, int] | None = None
    """First and last held-out value, apart from ``low`` to ``high``, which then belong to
    training and validation."""

    factor: ClassVar[bool] = False
    each: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse what is no range of ints."""
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
        """Return the first value, how many there are, the split's places in a period, and it."""
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
        """Map numbers of [0, 1) onto the split's values; the array holds Python's ints."""
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
    """One of a few values, each as likely: numbers, booleans or strings, handed out unchanged."""

    options: tuple[Scalar, ...]
    factor: bool
    each: bool
    test: tuple[Scalar, ...] | None
    """Held-out values; without them, all splits share the same few. Validation always draws
    from the training values."""

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
        """Map numbers of [0, 1) onto the values; the array holds them as they were given."""
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
        """Return the first value and the last one that differs from it, if there is one."""
        others = [value for value in self.options if value != self.options[0]]
        return self.options[0], (others or self.options)[-1]

    def middle(self) -> Scalar:
        """Return the value halfway through the list."""
        return self.options[len(self.options) // 2]


Range: TypeAlias = Uniform | Integers | Choice


class ParametricTasks(TaskDistribution):
    """Tasks that differ in parameters, each drawn from a range of its own.

    Args:
        params: what varies.
        wrappers: functions from an environment to an environment, or classes of wrappers,
            applied in this order to every environment that is built. They see all steps, those
            that the horizon ends included.
        info_keys: scalars of every step's ``info``.
        success_key: which of ``info_keys`` tells success; alone it adds itself to them.
        episodes_per_trial: episodes an agent gets with one task, where that is prescribed.
        max_slots: environments stepped at once. By default 400, or as many as half of the
            free memory holds where that is less.

    Raises:
        UserError: for a value of the wrong type, or ``info_keys`` without ``success_key``.
    """

    def __init__(
        self,
        params: Mapping[str, Range],
        *,
        wrappers: Sequence[Wrapper] = (),
        info_keys: Sequence[str] = (),
        success_key: str | None = None,
        episodes_per_trial: int | None = None,
        max_slots: int | None = None,
    ) -> None:
        self.params = dict(params)
        for key, kind in self.params.items():
            if not isinstance(kind, Range):
                raise bad_option(key, kind, "metarl.Uniform, metarl.Integers or metarl.Choice")
        kinds = self.params.values()
        self.shared_split = all(kind.shared_with("test") for kind in kinds)
        self.shared_validation = not self.shared_split and all(
            kind.shared_with("validation") for kind in kinds
        )
        if callable(wrappers) or not all(callable(wrapper) for wrapper in wrappers):
            raise bad_option("wrappers", wrappers, "a sequence of functions env -> env")
        self.wrappers = tuple(wrappers)
        if isinstance(info_keys, str) or not all(isinstance(key, str) for key in info_keys):
            raise bad_option("info_keys", info_keys, "a sequence of names, such as ('success',)")
        self.info_keys = tuple(info_keys)
        if success_key is not None:
            self.info_keys = self.info_keys or (success_key,)
            if success_key not in self.info_keys:
                raise bad_option("success_key", success_key, f"one of {', '.join(self.info_keys)}")
            self.success_key = success_key
        self.episodes_per_trial = one_or_more("episodes_per_trial", episodes_per_trial)
        self._given_slots = one_or_more("max_slots", max_slots)
        if self._given_slots is not None:
            self.max_slots = self._given_slots

    def num_entries(self, key: str) -> int:
        """Return how many numbers a parameter with ``each`` has."""
        raise NotImplementedError

    def sample(self, rng: np.random.Generator, n: int, split: Split) -> list[Task]:
        """Draw parameters; the last bits of every continuous draw tell the splits apart."""
        columns: dict[str, list[Any]] = {}
        for key, kind in self.params.items():
            entries = self.num_entries(key) if kind.each else 1
            bits = mark_split(rng.integers(2**40, size=(n, entries)), split)
            drawn = kind.values(bits * 2.0**-40, split).tolist()
            columns[key] = [tuple(row) if kind.each else row[0] for row in drawn]
        return [
            Task.of(self.name, **{key: columns[key][i] for key in self.params}) for i in range(n)
        ]

    def tasks(self, split: Split) -> list[Task]:
        """Return every combination, where all ranges are choices or integers.

        Raises:
            NotImplementedError: where there are infinitely many, or more than 10 000.
        """
        values: list[list[Scalar]] = []
        for kind in self.params.values():
            if isinstance(kind, Uniform) or kind.each:
                return super().tasks(split)
            if kind.count(split) * math.prod(map(len, values)) > _MOST_TASKS:
                raise NotImplementedError(
                    f"{self.name} has more than {_MOST_TASKS} tasks: use sample()"
                )
            values.append([kind.value(i, split) for i in range(kind.count(split))])
        return [
            Task(self.name, tuple(zip(self.params, combination, strict=True)))
            for combination in itertools.product(*values)
        ]

    def ends(self) -> dict[str, tuple[Task, Task]]:
        """Return two tasks for every parameter that varies, which differ in it alone.

        The first task has the parameter's lowest value or first option, the second its
        highest or last; all other parameters have a value in the middle of their range.
        """

        def entries(key: str, value: Scalar) -> Any:
            return (value,) * self.num_entries(key) if self.params[key].each else value

        middle = {key: entries(key, kind.middle()) for key, kind in self.params.items()}
        found = {}
        for key, kind in self.params.items():
            first, last = kind.ends()
            if first != last:
                found[key] = (
                    Task.of(self.name, **middle | {key: entries(key, first)}),
                    Task.of(self.name, **middle | {key: entries(key, last)}),
                )
        return found

    def wrap(self, env: Env) -> Env:
        """Apply the wrappers to an environment that was just built.

        Raises:
            UserError: if one fails, or returns something else than an environment.
        """
        for wrapper in self.wrappers:
            try:
                env = wrapper(env)
            except Exception as error:
                raise UserError(
                    f"{self.name}: wrapper {wrapper_text(wrapper)} failed: "
                    f"{type(error).__name__}: {error}"
                ) from error
            if not isinstance(env, gym.Env):
                raise bad_option(
                    f"{self.name}: wrapper {wrapper_text(wrapper)} returned",
                    type(env).__name__,
                    "a gymnasium.Env",
                )
        return env

    def limit_slots(self, build: Callable[[], Env], first: int) -> None:
        """Lower ``max_slots`` where that many environments would not fit into memory.

        Args:
            build: makes one environment more.
            first: bytes that making the first one took, what it loads once included; nothing
                else is built where they are few.
        """
        if self._given_slots is not None or first < _SMALL:
            return
        env, size = measured(self.name, build)
        close_quietly(env)
        fitting = psutil.virtual_memory().available // 2 // max(size, 1)
        if fitting < self.max_slots:
            self.max_slots = max(1, fitting)
            warnings.warn(
                f"one environment of {self.name} takes {size / 2**20:.0f} MiB: at most "
                f"{self.max_slots} are stepped at once (max_slots)",
                stacklevel=3,
            )


_SMALL = 8 * 2**20
"""400 environments of fewer bytes fit anywhere."""


def resident_bytes() -> int:
    """Return the memory this process holds."""
    return int(psutil.Process().memory_info().rss)


def measured(name: str, build: Callable[[], Env]) -> tuple[Env, int]:
    """Return an environment that was built and reset, and the bytes that took.

    Raises:
        UserError: if it cannot be reset; ``name`` of the tasks is in the message.
    """
    before = resident_bytes()
    env = build()
    try:
        env.reset(seed=0)
    except Exception as error:
        raise UserError(
            f"{name}: resetting a new environment failed: {type(error).__name__}: {error}"
        ) from error
    return env, max(0, resident_bytes() - before)


def one_or_more(name: str, value: int | None) -> int | None:
    """Return ``value``, or refuse what is neither None nor a whole number above 0."""
    if value is None:
        return None
    if not (isinstance(value, int | np.integer) and is_number(value) and value >= 1):
        raise bad_option(name, value, "a whole number, 1 or more")
    return int(value)


class FunctionTasks(ParametricTasks):
    """Tasks whose environments a function makes from their parameters.

        FunctionTasks(lambda params: Room(**params), {"wanted": Uniform(15, 25)}, horizon=50)

    Args:
        function: gets a dict with a value for each parameter and returns an environment; it
            is called again where the parameters change. It travels to worker processes by
            cloudpickle.
        params: what varies.
        horizon: steps of an episode; by default the limit that the environment's own
            ``TimeLimit`` or ``spec`` sets.
        wrappers: see :class:`ParametricTasks`.
        info_keys: scalars of every step's ``info``.
        success_key: which of ``info_keys`` tells success; alone it adds itself to them.
        episodes_per_trial: that an agent gets with one task, where that is prescribed.
        max_slots: environments stepped at once, by default as many as memory allows, up to 400.
        name: what makes it again, by default ``module:function``.

    Raises:
        UserError: if the function fails or returns no environment, or no limit is known.
    """

    def __init__(
        self,
        function: Callable[[dict[str, Any]], Env],
        params: Mapping[str, Range],
        *,
        horizon: int | None = None,
        wrappers: Sequence[Wrapper] = (),
        info_keys: Sequence[str] = (),
        success_key: str | None = None,
        episodes_per_trial: int | None = None,
        max_slots: int | None = None,
        name: str = "",
    ) -> None:
        super().__init__(
            params,
            wrappers=wrappers,
            info_keys=info_keys,
            success_key=success_key,
            episodes_per_trial=episodes_per_trial,
            max_slots=max_slots,
        )
        for key, kind in self.params.items():
            if kind.each or kind.factor:
                raise bad_option(key, kind, "a range of numbers: a function has no own values")
        self.function = function
        self.name = name or f"{function.__module__}:{function.__qualname__}"
        task = self.sample(np.random.default_rng(0), 1, "train")[0]
        env, size = measured(self.name, lambda: self.build(task))
        self.horizon = choose_horizon(self.name, horizon, time_limit(env))
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.limit_slots(lambda: self.build(task), size)
        close_quietly(env)

    def build(self, task: Task) -> Env:
        """Call the function with the parameters of ``task``, and apply the wrappers."""
        values = dict(task.params)
        try:
            env = self.function(dict(values))
        except Exception as error:
            whole = [key for key in values if isinstance(self.params.get(key), Uniform)]
            raise build_error(self.name, values, error, whole) from error
        if not isinstance(env, gym.Env):
            raise bad_option(f"{self.name} returned", type(env).__name__, "a gymnasium.Env")
        return self.wrap(env)

    def make(self, task: Task | None = None) -> Env:
        """Make the environment."""
        return _FunctionEnv(self, task)


class _FunctionEnv(TaskEnv):
    """Built anew where a task changes the parameters."""

    def __init__(self, tasks: FunctionTasks, task: Task | None) -> None:
        self._tasks = tasks
        self._built = task or tasks.sample(np.random.default_rng(0), 1, "train")[0]
        super().__init__(tasks.build(self._built), tasks.horizon, task)

    def apply_task(self, task: Task) -> None:
        if task.params != self._built.params:
            close_quietly(self.env)
            self.env = self._tasks.build(task)
            self._built = task


def choose_horizon(name: str, wanted: int | None, limit: int | None) -> int:
    """Return the steps of an episode: those wanted, or the environment's own ``limit``.

    Raises:
        UserError: if there is neither, or more is wanted than the environment allows.
    """
    horizon = one_or_more(f"{name} horizon", wanted) or limit
    if horizon is None or horizon < 1:
        raise bad_option(f"{name} horizon", horizon, "at least 1: it has no limit of its own")
    if limit is not None and horizon > limit:
        raise bad_option(
            f"{name} horizon", horizon, f"at most {limit}, where the environment ends an episode"
        )
    return horizon


def build_error(
    name: str, values: Mapping[str, Any], error: Exception, whole: Sequence[str], doing: str = ""
) -> UserError:
    """Return the error for an environment that cannot be built, reset or stepped with values.

    Args:
        name: of the tasks.
        values: the parameters it got.
        error: what it raised.
        whole: parameters for which an int may be wanted where they got a float.
        doing: what failed, by default building.
    """
    given = ", ".join(f"{key}={value!r}" for key, value in values.items())
    message = f"{name}: {doing or 'building it'} with {given or 'its defaults'} failed: "
    message += f"{type(error).__name__}: {error}"
    floats = [key for key in whole if isinstance(values.get(key), float)]
    if floats and not isinstance(error, UserError):
        message += (
            f"; where {' or '.join(floats)} must be a whole number, write "
            f"{floats[0]}=int:low..high, or metarl.Integers(low, high)"
        )
    return UserError(message)


_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_INTEGER = r"[-+]?\d+"
_RANGE = re.compile(rf"({_NUMBER})(x?)\.\.({_NUMBER})(x?)")


def read_value(text: str) -> Scalar:
    """Read a value: an int, ``true`` or ``false``, a float, or else the string itself."""
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(_INTEGER, text):
        return int(text)
    return float(text) if re.fullmatch(_NUMBER, text) else text


def read_range(text: str) -> Range:
    """Read a range from its text.

    Raises:
        UserError: for text that is no range, or ends in the wrong order.
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
    """Read the range of ``key``; ``name`` of the tasks is for messages.

    Raises:
        UserError: for text that is no range.
    """
    try:
        return read_range(text)
    except UserError as error:
        raise UserError(f"--env: {name}: {key}: {error}") from None


def text_of(key: str, kind: Range) -> str:
    """Return the part of a name that :func:`parse_range` reads as this range.

    What has no such text, a string with a comma say, is written as the type in angle brackets.
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
    """Return whether ``text`` is read as a range of this kind that has just these values."""
    try:
        read = read_range(text)
    except UserError:
        return False
    again = read.options if isinstance(read, Choice) else (read.low, read.high)
    exact = kind is not Choice or [type(v) for v in again] == [type(v) for v in values]
    return type(read) is kind and again == values and exact


def value_text(value: object) -> str:
    """Return the text of one fixed value, or its type in angle brackets where it has none."""
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, bool | int | float | str):
        return f"<{type(value).__name__}>"
    try:
        text = text_of("", Choice(value)).removeprefix("=")
    except UserError:  # not finite
        text = "<"
    return f"<{type(value).__name__}>" if "<" in text else text


def wrapper_text(wrapper: Wrapper) -> str:
    """Return ``module:Name`` of a wrapper, or its name in angle brackets where that is not enough.

    A lambda, an inner function or one of the main program cannot be imported by its name.
    """
    name = getattr(wrapper, "__qualname__", type(wrapper).__qualname__)
    module = getattr(wrapper, "__module__", "__main__")
    home = sys.modules.get(module)
    if module != "__main__" and name.isidentifier() and getattr(home, name, None) is wrapper:
        return f"{module}:{name}"
    return f"<{name.rpartition('.')[2].strip('<>')}>"

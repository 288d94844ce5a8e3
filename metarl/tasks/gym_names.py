"""Names of tasks made of a Gymnasium environment: ``gym/<id>:<text>``.

``text`` is a comma-separated list of items:

- ``name=range`` varies a parameter. A range is ``low..high``, whole numbers ``int:low..high`` or
  the values ``a/b/c``. ``0.5x..2x`` multiplies the environment's own value. The prefix ``log:``
  draws the logarithm uniformly, and ``each:`` draws a number for every entry of an array.
- ``test.name=range`` is the held-out range of a parameter.
- ``name=value`` fixes an argument of the constructor (``enable_wind=true``).
- ``seed=int:low..high`` varies the seed that every episode of a task is reset with, where the
  constructor has no argument of this name: a generator's level, a goal that ``reset`` draws.
- ``wrap=Name(arguments)+module:Other``, or ``wrappers=…``, puts wrappers around the environment
  (:mod:`metarl.tasks.wrappers`), and ``hide=a+b`` takes parts out of Dict observations, after them.
- ``horizon=N``, ``episodes_per_trial=N``, ``max_slots=N``, ``info_keys=a+b``, ``success_key=a`` and
  ``fresh=true`` are arguments of :class:`metarl.GymTasks`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from metarl.errors import UserError
from metarl.tasks.constructors import Constructor
from metarl.tasks.gymnasium import RESERVED, GymTasks
from metarl.tasks.places import constructor_of, find_spec
from metarl.tasks.ranges import Choice, Integers, Range, Uniform, parse_range
from metarl.tasks.wrappers import Hide, parse_wrappers, split_outside


def parse(id: str, text: str) -> GymTasks:
    """Make the tasks of ``gym/<id>:<text>``, where ``id`` may be ``module:Id``.

    Raises:
        UserError: if ``text`` does not follow the module's grammar, or names nothing that varies.
    """
    given: dict[str, str] = {}
    for item in filter(None, split_outside(text, ",")):
        key, equals, value = item.partition("=")
        if not equals or not value:
            raise UserError(f"--env: gym/{id}: got {item!r}; accepted: name=low..high")
        if key in given:
            raise UserError(f"--env: gym/{id}: {key}: got it twice; accepted: {key} once")
        given[key] = value
    if "wrap" in given and "wrappers" in given:
        raise UserError(f"--env: gym/{id}: wrap: got wrappers too; accepted: one of the two")
    if "wrap" in given:
        given["wrappers"] = given.pop("wrap")
    options = {word: _read_word(id, word, given.pop(word)) for word in RESERVED if word in given}
    if "hide" in given:
        hidden = Hide(tuple(given.pop("hide").split("+")), f"--env: gym/{id}: hide")
        options["wrappers"] = [*options.get("wrappers", ()), hidden]
    params: dict[str, Range] = {}
    held_out: dict[str, Range] = {}
    for key, value in given.items():
        if key.startswith("test."):
            held_out[key[5:]] = parse_range(f"gym/{id}", key, value)
        else:
            params[key] = parse_range(f"gym/{id}", key, value)
    constructor = constructor_of(id, find_spec(id))
    for ranges in (params, held_out):
        ranges |= {key: _integers_if_int(constructor, key, kind) for key, kind in ranges.items()}
    for key, other in held_out.items():
        if key not in params or type(other) is not type(params[key]):
            raise UserError(
                f"--env: gym/{id}: test.{key}: accepted: the same kind of range as {key}'s"
            )
        params[key] = _with_test(id, key, params[key], other)
    return GymTasks(id, params, **options)


def _read_word(id: str, word: str, value: str) -> Any:
    """Return the value of a reserved word."""
    if word == "success_key":
        return value
    if word == "info_keys":
        return tuple(value.split("+"))
    if word == "wrappers":
        return parse_wrappers(value, f"--env: gym/{id}: wrap")
    if word == "fresh":
        if value not in ("true", "false"):
            raise UserError(f"--env: gym/{id}: {word}: got {value!r}; accepted: true or false")
        return value == "true"
    if not value.isdigit() or int(value) < 1:
        raise UserError(f"--env: gym/{id}: {word}: got {value!r}; accepted: 1 or more")
    return int(value)


def _integers_if_int(constructor: Constructor, key: str, kind: Range) -> Range:
    """Turn a range with whole bounds into integers if the parameter is annotated as an int."""
    if (
        isinstance(kind, Uniform)
        and not (kind.factor or kind.each or kind.logarithmic)
        and key in constructor.parameters
        and constructor.types(key) == (int,)
        and float(kind.low).is_integer()
        and float(kind.high).is_integer()
    ):
        return Integers(int(kind.low), int(kind.high))
    return kind


def _with_test(id: str, key: str, kind: Range, other: Range) -> Range:
    """Return the range ``kind`` with ``other``, a range of the same class, as its held-out part."""
    same = ("factor", "each", "logarithmic")
    if any(getattr(kind, mark, False) != getattr(other, mark, False) for mark in same):
        raise UserError(f"--env: gym/{id}: test.{key}: accepted: the same kind of range as {key}'s")
    try:
        if isinstance(kind, Choice) and isinstance(other, Choice):
            return Choice(*kind.options, factor=kind.factor, each=kind.each, test=other.options)
        if isinstance(kind, Integers) and isinstance(other, Integers):
            return replace(kind, test=(other.low, other.high))
        assert isinstance(kind, Uniform) and isinstance(other, Uniform)
        return replace(kind, test=(other.low, other.high))
    except UserError as error:
        raise UserError(f"--env: gym/{id}: test.{key}: {error}") from None

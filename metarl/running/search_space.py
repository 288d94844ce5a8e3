"""Which options ``metarl tune`` searches, and in which ranges: ``--search`` and its default."""

from __future__ import annotations

import math
import re
import types
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from metarl.console import console
from metarl.errors import UserError, bad_option, near_matches
from metarl.options import option_paths, with_options
from metarl.search import Searched, Tuned, TunedAmong, option_type, tuned_options

DECADES = 100
"""Bounds whose ratio is at least this are searched logarithmically, unless they say otherwise."""

_RANGE = re.compile(r"(?:(log|linear):)?([^.,:]\S*?)\.\.(\S+)")


def search_space(
    words: Sequence[str], config: Any, agent: str, typed: Collection[str]
) -> dict[str, Searched]:
    """Return what is searched for each option.

    Args:
        words: the values of ``--search``: ``learning-rate`` takes the range that the config's
            class gives the option, ``learning-rate=1e-4..1e-2`` another one, and
            ``core=gru,fast-weights`` a few values. None at all takes every option that has a
            range, except those in ``typed`` and those whose range these settings do not accept.
        config: the agent's config, which has the values of all other options.
        agent: the agent's name, for messages.
        typed: options that the user has given a value, which is not replaced.

    Raises:
        UserError: if an option is unknown, has no range, or does not accept its ends.
    """
    known = tuned_options(type(config))
    if words:
        return dict(_named(word, config, agent, typed, known) for word in words)
    chosen = {}
    for name, searched in known.items():
        if name in typed:
            continue
        refusal = _refusal(config, name, searched)
        if refusal is None:
            chosen[name] = searched
        else:
            console.print(
                f"{_flag(name)} is not searched, since {searched} does not fit: {refusal}"
            )
    if not chosen:
        fields = "; its config annotates none" if not known else ""
        accepted = f"options to search, such as learning-rate=1e-4..1e-2{fields}"
        raise bad_option("--search", f"nothing for {agent}", accepted)
    return chosen


def _named(
    word: str, config: Any, agent: str, typed: Collection[str], known: Mapping[str, Searched]
) -> tuple[str, Searched]:
    """Return the option that a word of ``--search`` names, and what is searched for it."""
    written, equals, text = word.partition("=")
    name = written.removeprefix("--").replace("-", "_")
    options = option_paths(type(config))
    if name not in options:
        shown = [option.replace("_", "-") for option in options]
        message = near_matches(name.replace("_", "-"), shown)
        raise UserError(f"--search: {agent} has no option {written!r}; {message}")
    if name in typed:
        raise bad_option("--search", word, f"an option without a value: {_flag(name)} is given")
    if not equals and name not in known:
        accepted = f"a range, {written}=LOW..HIGH or {written}=A,B, since the option has none"
        raise bad_option("--search", word, accepted)
    searched = read_searched(name, text, type(config)) if equals else known[name]
    refusal = _refusal(config, name, searched)
    if refusal is not None:
        raise bad_option("--search", word, f"values that the settings accept ({refusal})")
    return name, searched


def read_searched(name: str, text: str, kind: type) -> Searched:
    """Return the range or the values that a text describes, for an option of a config's class.

    >>> from metarl import RL2Config
    >>> read_searched("learning_rate", "1e-4..1e-2", RL2Config)
    Tuned(low=0.0001, high=0.01, log=True)
    >>> read_searched("baseline", "critic,linear", RL2Config)
    TunedAmong(values=('critic', 'linear'))

    Raises:
        UserError: if the option does not take such values.
    """
    hint = option_type(kind, name)[0]
    given = f"{name.replace('_', '-')}={text}"
    match = _RANGE.fullmatch(text)
    if match is None:
        values = tuple(_value(part, hint, given) for part in text.split(","))
        if len(set(values)) < 2:
            raise bad_option("--search", given, "LOW..HIGH, or two values or more: A,B")
        return TunedAmong(*values)
    scale, *bounds = match.groups()
    low, high = (_value(bound, hint, given) for bound in bounds)
    if isinstance(low, bool) or not all(isinstance(x, int | float) for x in (low, high)):
        raise bad_option("--search", given, "values with a comma between them: A,B")
    if not -math.inf < low < high < math.inf or (scale == "log" and low <= 0):
        raise bad_option("--search", given, "bounds that ascend, from above 0 if logarithmic")
    return Tuned(low, high, scale == "log" or (scale is None and 0 < low * DECADES <= high))


def _value(text: str, hint: Any, given: str) -> Any:
    """Return the value of type ``hint`` that a text stands for."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for kind in kinds:
        if kind is type(None) and text == "None":
            return None
        if get_origin(kind) is Literal and text in get_args(kind):
            return text
        if kind is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if kind is str:
            return text
        if kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
    names = ", ".join(
        ", ".join(map(str, get_args(kind)))
        if get_origin(kind) is Literal
        else {int: "a whole number", float: "a number", bool: "true, false"}.get(kind, str(kind))
        for kind in kinds
        if kind is not type(None)
    )
    raise bad_option("--search", given, f"{names} instead of {text!r}")


def _refusal(config: Any, name: str, searched: Searched) -> str | None:
    """Return why a config does not accept an end of what is searched, or None if it accepts all."""
    for value in searched.ends:
        try:
            with_options(config, **{name: value})
        except UserError as error:
            return str(error)
    return None


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"

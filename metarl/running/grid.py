"""A grid of settings: every combination of some options' values, each checked before any starts."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from metarl.errors import UserError, bad_option, near_matches, require_seed
from metarl.options import option_values
from metarl.running.commandline import parse_train
from metarl.running.folders import short_hash, tame
from metarl.running.settings import Settings

T = TypeVar("T")

_KEYS = ("agent", "preset", "config", "folder", "seeds", "options", "grid")
"""What a file of a sweep can have."""

_NOT_HERE = ("seed", "resume", "list", "print-config", "run-dir", "seeds")
"""Options of ``metarl train`` that a sweep neither varies nor sets for all of its runs."""


@dataclass(frozen=True)
class Grid:
    """What a sweep varies, and what all of its runs have in common."""

    words: tuple[str, ...]
    """The words of ``metarl train`` that all runs have, beginning with the agent's name if any."""
    axes: Mapping[str, tuple[Any, ...]]
    """The values of every option that varies, by its name as it is typed: text, numbers, truth
    values, or lists for options of several values."""
    seeds: tuple[int, ...] = ()
    """The seeds of every setting; if there are none, the settings' own."""
    folder: Path | None = None
    """The folder of the sweep, if one is named."""


@dataclass(frozen=True)
class Setting:
    """One combination of the values."""

    name: str
    """The values as the settings have them: ``learning-rate=0.001 hidden-size=64``."""
    folder: str
    """The name of its folder, of letters that every file system takes."""
    words: tuple[str, ...]
    """The words of ``metarl train``, without a seed and a run directory."""
    settings: Settings
    """The settings that the words describe."""


def read_axes(texts: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """Return the options and values that ``--grid`` names, as in ``hidden-size=64,128``.

    Raises:
        UserError: if a text is not of this form.
    """
    axes: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = _plain(name)
        if not (equals and name and all(values.split(","))):
            raise bad_option("--grid", text, "option=value,value, without spaces")
        if name in axes:
            raise bad_option("--grid", text, f"{name} once, with all of its values")
        axes[name] = tuple(values.split(","))
    return axes


def read_grid(path: Path) -> Grid:
    """Read the file of a sweep.

    Raises:
        UserError: if the file is missing, no TOML, or has what no sweep has.
    """
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    for key in content:
        if key not in _KEYS:
            raise UserError(f"{path}: has {key!r}; {near_matches(key, _KEYS)}")
    for key in ("agent", "preset", "config", "folder"):
        _require(path, key, content.get(key, ""), str, "a text")
    seeds = _require(path, "seeds", content.get("seeds", []), list, "a list of whole numbers")
    if not all(type(seed) is int for seed in seeds):
        raise UserError(f"{path}: seeds: got {seeds!r}; accepted: a list of whole numbers")
    options = _require(path, "options", content.get("options", {}), dict, "a table of options")
    axes = _require(path, "grid", content.get("grid", {}), dict, "a table of lists of values")
    for name, values in axes.items():
        _require(path, f"grid: {name}", values, list, "a list of values")
    words = [content["agent"]] if "agent" in content else []
    for key in ("preset", "config"):
        words += [f"--{key}={content[key]}"] if key in content else []
    for name, value in options.items():
        words += _typed(_plain(name), value)
    return Grid(
        tuple(words),
        {_plain(name): tuple(values) for name, values in axes.items()},
        tuple(seeds),
        Path(content["folder"]) if "folder" in content else None,
    )


def settings_of_grid(grid: Grid) -> list[Setting]:
    """Return every combination of a grid's values, all of them parsed.

    Raises:
        UserError: if a value is not accepted, alone or in a combination; the message names it.
    """
    common = {_flag(word) for word in grid.words if word.startswith("--")}
    for name in (*common, *grid.axes):
        if name in _NOT_HERE:
            raise UserError(f"--{name}: accepted: no such option of the runs (--seeds has seeds)")
    for name, values in grid.axes.items():
        if name in common or (name == "agent" and grid.words[:1] and grid.words[0][0] != "-"):
            raise bad_option("--grid", name, f"an option that is not given beside it as --{name}")
        if not values:
            raise bad_option("--grid", f"{name}=", "at least one value")
    first = {name: values[0] for name, values in grid.axes.items()}
    for name, values in grid.axes.items():  # Find out which of the values is wrong, if one is.
        for value in values:
            with _naming(name, value):
                _parsed(grid.words, {**first, name: value})
    found: dict[str, Setting] = {}
    for values in itertools.product(*grid.axes.values()):
        chosen = dict(zip(grid.axes, values, strict=True))
        words, settings = _parsed(grid.words, chosen)
        texts = {name: _value_of(settings, name, value) for name, value in chosen.items()}
        title = " ".join(f"{name}={text}" for name, text in texts.items())
        if title in found:
            raise bad_option("--grid", title, "every setting once")
        found[title] = Setting(title, _folder_name(texts), tuple(words), settings)
    return list(found.values())


def _parsed(common: Sequence[str], chosen: Mapping[str, Any]) -> tuple[list[str], Settings]:
    """Return the words of a setting, and the settings that they describe."""
    words = list(common)
    for name, value in chosen.items():
        if name == "agent":
            words.insert(0, str(value))
        else:
            words += _typed(name, value)
    return words, _in_one_line(lambda: parse_train(words).settings)


def _typed(name: str, value: Any) -> list[str]:
    """Return an option and its value as they are typed."""
    if isinstance(value, list):
        return [f"--{name}", *map(_shown, value)]
    return [f"--{name}={_shown(value)}"]


def _shown(value: Any) -> str:
    """Return a value as text; several numbers have an x between them."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "x".join(map(_shown, value))
    return str(value)


def _value_of(settings: Settings, name: str, typed: Any) -> str:
    """Return a value as the settings have it, so that 1e-3 and 0.001 are one."""
    if name == "agent":
        return settings.agent
    own = {**option_values(settings.agent_config), **option_values(settings.train)}
    return _shown(own.get(name.replace("-", "_"), typed))


def _folder_name(texts: Mapping[str, str]) -> str:
    """Return the name of a setting's folder; it has a hash where letters of a value are lost."""
    plain = "_".join(f"{name}-{text}" for name, text in texts.items())
    name = tame(plain)
    lost = not all(re.fullmatch(r"[a-z0-9.-]*[a-z0-9]", text) for text in texts.values())
    return f"{name}-{short_hash(plain)}" if lost and len(plain) <= len(name) else name


def _plain(name: str) -> str:
    return name.removeprefix("--").replace("_", "-")


def _flag(word: str) -> str:
    return _plain(word.partition("=")[0]).removeprefix("no-")


def _require(path: Path, key: str, value: Any, kind: type, accepted: str) -> Any:
    if not isinstance(value, kind):
        raise UserError(f"{path}: {key}: got {value!r}; accepted: {accepted}")
    return value


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse seeds that are out of range or not different."""
    if len(set(seeds)) < len(seeds):
        raise bad_option("--seeds", list(seeds), "seeds that differ")
    for seed in seeds:
        require_seed("--seeds", seed)


@contextlib.contextmanager
def _naming(name: str, value: Any) -> Iterator[None]:
    """Put a value of the grid before the message of an error that is about its option."""
    try:
        yield
    except UserError as error:
        if f"--{name}" in str(error) or name in ("agent", "env", "preset", "config"):
            raise UserError(f"--grid {name}={_shown(value)}: {error}") from error
        raise


def _in_one_line(parse: Callable[[], T]) -> T:
    """Call a function that parses words; make one line of an error that is printed in a box."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return parse()
    except SystemExit as stop:
        lines = [line.strip("│ ") for line in printed.getvalue().splitlines()[1:]]
        said = itertools.takewhile(lambda line: not line.startswith(("─", "╰")), lines)
        raise UserError(" ".join(said) or f"exit code {stop.code}") from stop

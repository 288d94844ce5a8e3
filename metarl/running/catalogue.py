"""The command ``metarl list``: all names that the command line knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from metarl import registry
from metarl.console import print_names
from metarl.errors import UserError, near_matches
from metarl.running.presets import presets
from metarl.running.trained import trained_agents

_OWN = "package.module:Name"

_HELP = """\
usage: metarl list [environments] [agents] [presets] [baselines] [trained]

Print what there is by name: all of it, or some kinds. `trained` are agents that come with the
toolkit: `metarl evaluate NAME`, `metarl.load(NAME)`."""


def environments() -> dict[str, str]:
    """Return the names of task distributions, each with a description."""
    tasks = {name: entry.description for name, entry in registry.task_distributions().items()}
    gym = {"gym/<Id>:<parameter>=<low>..<high>": "any Gymnasium environment, parameters drawn"}
    return {**tasks, **gym, _OWN: "a distribution of yours, or a function for one"}


def agents() -> dict[str, str]:
    """Return the names of agents, each with a description."""
    known = {name: entry.description for name, entry in registry.agents().items()}
    return {**known, _OWN: "an agent of yours"}


def baselines() -> dict[str, str]:
    """Return the names of baselines, each with a description."""
    known = {name: entry.description for name, entry in registry.baselines().items()}
    return {**known, _OWN: "a baseline of yours"}


def _presets() -> dict[str, str]:
    return {name: chosen.source for name, chosen in presets().items()}


def _trained() -> dict[str, str]:
    return {name: each.line for name, each in trained_agents().items()}


KINDS: Mapping[str, Callable[[], dict[str, str]]] = {
    "environments": environments,
    "agents": agents,
    "presets": _presets,
    "baselines": baselines,
    "trained": _trained,
}
"""Kinds of names, and the function that returns the names of each with their descriptions."""


def print_kinds(kinds: Sequence[str]) -> None:
    """Print all names of some kinds."""
    for kind in kinds:
        print_names(kind, KINDS[kind]())


def run_list(arguments: Sequence[str]) -> None:
    """Print all names, or those of the kinds that are named.

    Raises:
        UserError: if there is no such kind.
    """
    if {"-h", "--help"} & set(arguments):
        print(_HELP)
        return
    for word in arguments:
        if word not in KINDS:
            raise UserError(f"metarl list: got {word!r}; {near_matches(word, KINDS)}")
    print_kinds(arguments or tuple(KINDS))

"""The command ``metarl``, also ``python -m metarl``; the scripts of the source tree call it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib import metadata

from metarl.errors import UserError, near_matches
from metarl.running.exits import exits, stopping_later

COMMANDS = {
    "train": ("running.auto:run_train", "meta-train an agent, then evaluate it"),
    "sweep": ("running.sweep:run_sweep", "train with every combination of some options' values"),
    "tune": ("running.tune:run_tune", "search the settings of an agent by validation tasks"),
    "runs": ("running.listing:run_runs", "list runs, their state, and the commands that go on"),
    "evaluate": ("running.commands:run_evaluate", "evaluate how a run's agent adapts to new tasks"),
    "compare": ("running.groups:run_compare", "say which runs are better, and how surely"),
    "plot": ("running.commands:run_plot", "draw several runs into one picture"),
    "play": ("running.play:run_play", "film how a run's agent adapts to a task"),
    "describe": ("running.describe:run_describe", "say what tasks there are, and show nine"),
    "list": ("running.catalogue:run_list", "list environments, agents, presets, baselines by name"),
    "benchmark": ("running.commands:run_benchmark", "record runs, or time agents and simulators"),
}
"""Command -> its function, and its line in ``metarl --help``."""

USAGE = "usage: metarl [--help] [--version] COMMAND [options]"


@exits
def main() -> None:
    """Run the command that the command line names."""
    run(sys.argv[1:])


def run(arguments: Sequence[str]) -> None:
    """Run a command.

    Args:
        arguments: the command's name and its options.

    Raises:
        UserError: if there is no such command.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        lines = [f"  {name:{width}}  {about}" for name, (_, about) in COMMANDS.items()]
        rest = "metarl COMMAND --help shows the options of a command."
        print("\n".join([USAGE, "", "commands:", *lines, "", rest]))
        return
    if arguments[0] == "--version":
        print(f"metarl {metadata.version('metarl-toolkit')}")
        return
    name, *rest_of_them = arguments
    if name not in COMMANDS:
        raise UserError(f"metarl: unknown command {name!r}; {near_matches(name, COMMANDS)}")
    module, _, function = COMMANDS[name][0].partition(":")
    # Import here: torch takes seconds, in which a signal may come that exits() must handle.
    with stopping_later():
        imported = importlib.import_module(f"metarl.{module}")
    getattr(imported, function)(rest_of_them)


def script(name: str) -> None:
    """Run the script ``<name>.py``: the command ``name`` with the script's arguments."""
    exits(lambda: run([name, *sys.argv[1:]]))()


if __name__ == "__main__":
    main()

"""Start a run, go on with it or leave it, whatever its folder holds: ``--resume auto``.

A job that a cluster stops and queues again has one command for its first start and all others.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from metarl import registry
from metarl.console import console
from metarl.errors import UserError, bad_option
from metarl.options import option_values
from metarl.running import commandline
from metarl.running.commandline import (
    CHANGEABLE,
    Request,
    early_options,
    group_options,
    parse_train,
    print_origin,
    value_of,
    without_option,
)
from metarl.running.exits import end_with_parent, exits
from metarl.running.folders import is_free, remove_unbegun
from metarl.running.lock import held
from metarl.running.run import Run
from metarl.running.seeds import group_content, resume_seeds, train_seeds
from metarl.running.settings import Settings, members
from metarl.running.train import train

AUTO = "auto"
"""The value of ``--resume`` that stands for the folder of ``--run-dir``, whatever it holds."""


def run_train(arguments: Sequence[str]) -> None:
    """Run the command ``metarl train``."""
    words = without_auto(arguments)
    if words is None:
        commandline.run_train(arguments)
    else:
        _start_or_go_on(words)


def child() -> None:
    """Run ``metarl train`` for a parent process, and stop when the parent ends or asks for it."""
    arguments, sys.argv[0] = sys.argv[1:], "metarl"
    end_with_parent()
    exits(lambda: run_train(arguments), patient=True)()


def without_auto(arguments: Sequence[str]) -> list[str] | None:
    """Return a command line without ``--resume auto``; None if it has no such option."""
    words = list(arguments)
    for place, word in enumerate(words):
        if word == f"--resume={AUTO}":
            return words[:place] + words[place + 1 :]
        if word == "--resume" and words[place + 1 : place + 2] == [AUTO]:
            return words[:place] + words[place + 2 :]
    return None


def _start_or_go_on(arguments: Sequence[str]) -> None:
    """Do what is left to do of the run, or of several seeds, in the folder of ``--run-dir``."""
    given = value_of("--run-dir", arguments)
    if given is None:
        parse_train(arguments)  # It may ask for help.
        raise bad_option("--resume", AUTO, "--run-dir FOLDER beside it")
    folder = Path(given)
    with held(folder):
        _remove_cut_off(folder)
        request = parse_train(arguments)
        if request.resume is not None or request.print_config:
            raise bad_option("--resume", AUTO, "no other --resume and no --print-config beside it")
        group = group_content(folder)
        if group is not None and not request.seeds:
            accepted = "--seeds beside it, since the folder holds the runs of several seeds"
            raise bad_option("--run-dir", str(folder), accepted)
        if group is not None:
            _go_on_with_group(folder, group["seeds"], request, arguments)
        elif (folder / "config.json").is_file():
            if request.seeds:
                accepted = f"no seeds, since {folder} holds one run"
                raise bad_option("--seeds", list(request.seeds), accepted)
            _go_on(folder, request, arguments)
        elif request.seeds:
            _start_group(folder, request, request.seeds)
        else:
            print_origin(request)
            train(request.settings, yes=request.yes)


def _start_group(folder: Path, request: Request, seeds: Sequence[int]) -> None:
    """Begin the runs of seeds that no group has; a process may have been killed at that."""
    for seed in seeds:
        remove_unbegun(folder / str(seed))
    print_origin(request)
    train_seeds(request.settings, seeds, yes=request.yes)


def _go_on(folder: Path, request: Request, arguments: Sequence[str]) -> None:
    """Continue a run, unless it is finished."""
    early, rest = early_options(arguments)
    named = [rest[0]] if rest and not rest[0].startswith("-") else []
    again = parse_train([*named, "--resume", str(folder), *rest[len(named) :]])
    assert again.resume is not None
    if early.preset is not None or early.config is not None:
        require_same(request.settings, again.resume, CHANGEABLE)
    if again.settings.train == again.resume.train_config and again.resume.finished():
        console.print(f"{folder}: finished, {again.settings.train.iterations} iterations")
    else:
        train(again.settings, resume=again.resume)


def _go_on_with_group(
    folder: Path, had: Sequence[int], request: Request, arguments: Sequence[str]
) -> None:
    """Continue the runs of several seeds and begin those that are missing, if any are left."""
    new = [seed for seed in request.seeds if seed not in had]
    if new:
        _start_group(folder, request, new)
        return
    early, rest = early_options(arguments)
    early.resume, early.seeds = folder, []
    # The seeds of a group have the number of updates that its minutes had time for.
    options = without_option(without_option(rest, "--run-dir"), "--minutes")
    first = members(folder)[0]
    named = request.settings.agent if registry.is_import(request.settings.agent) else None
    require_same(request.settings, Run.open(first, named), {*CHANGEABLE, "seed"})
    early.preset = early.config = None
    words = group_options(early, options)
    if not words and group_is_finished(folder, had):
        console.print(f"{folder}: finished, seeds {', '.join(map(str, had))}")
    else:
        resume_seeds(folder, words)


def _remove_cut_off(folder: Path) -> None:
    """Remove settings that a process was killed at writing, before anything else was there.

    Raises:
        UserError: if the settings of a folder with more in it are damaged.
    """
    path = folder / "config.json"
    if not path.is_file():
        return
    try:
        json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        if not all(is_free(other) for other in folder.iterdir() if other != path):
            raise UserError(f"{path}: cannot be read: {error}") from error
        path.unlink()


def require_same(asked: Settings, run: Run, changeable: Collection[str]) -> None:
    """Refuse settings that would make another run of one that has begun.

    Args:
        asked: the settings that the command line describes, as for a new run.
        run: the run.
        changeable: names of options that may differ, since they do not reach the agent.

    Raises:
        UserError: for the first option that differs.
    """
    if asked.agent != run.agent_name:
        raise bad_option("agent", asked.agent, f"{run.agent_name}, as {run.directory} has it")
    had = run.settings
    free = {*changeable, "run_dir", "env_steps"}  # Steps become iterations, which may change.
    for old, new in ((had.train, asked.train), (had.agent_config, asked.agent_config)):
        present = option_values(new)
        for name, value in option_values(old).items():
            if old is had.train and (
                name in free or (name in had.derived and present[name] is None)
            ):
                continue
            if value != present[name]:
                accepted = f"{value!r}, as {run.directory} has it"
                raise bad_option(f"--{name.replace('_', '-')}", present[name], accepted)


def group_is_finished(folder: Path, seeds: Sequence[int]) -> bool:
    """Return whether all runs of a group are finished and evaluated together."""
    if not all(Run.open(folder / str(seed)).finished() for seed in seeds):
        return False
    files = [folder / "evaluation" / f"test{end}.json" for end in ("", "-untrained")]
    return all(
        file.is_file() and json.loads(file.read_bytes()).get("seed") == list(seeds)
        for file in files
    )

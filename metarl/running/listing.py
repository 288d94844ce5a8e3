"""The command ``metarl runs``: run directories, their state, and the commands that go on."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from metarl.console import console
from metarl.errors import UserError, bad_option
from metarl.running.manifest import SweepRun, command_of, is_sweep, read_sweep
from metarl.running.parsing import parse
from metarl.running.states import State, read_json, resume_command, state_of

_HELP = """\
List the run directories in folders: state, last figures, age, and the command that goes on.

usage: metarl runs [FOLDER…] [options]

A run is waiting (not begun), running, stopped (cut off), finished (and evaluated), failed (ended by
an error) or damaged. The runs of several seeds, and of a sweep, are in one block."""


@dataclass(frozen=True)
class Runs:
    """Options of ``metarl runs``."""

    folders: Positional[tuple[Path, ...]] = (Path("runs"),)
    """Folders below which runs are searched, or run directories."""
    json: bool = False
    """Print a JSON list with one object for each run instead of tables."""


@dataclass(frozen=True)
class Block:
    """Runs that belong together: one alone, those of several seeds, or those of a sweep."""

    directory: Path
    """The run directory, or the folder of the runs."""
    kind: str
    """What the block is: ``run``, ``seeds`` or ``sweep``."""
    states: tuple[State, ...]
    """The states of the runs."""
    command: str
    """The command that goes on with all of them, if anything is left to do."""
    problem: str = ""
    """What is damaged, if the folder's own file cannot be read."""


def run_runs(arguments: Sequence[str]) -> None:
    """List runs."""
    options: Runs = parse(Runs, _HELP, "runs", arguments)
    for folder in options.folders:
        if not folder.is_dir():
            raise bad_option("FOLDER", str(folder), "a folder")
    blocks = [block for folder in options.folders for block in blocks_below(folder)]
    if options.json:
        print(json.dumps([entry for block in blocks for entry in _entries(block)], indent=1))
        return
    for block in blocks:
        _print(block)
    states = [state.state for block in blocks for state in block.states]
    counts = [f"{states.count(name)} {name}" for name in dict.fromkeys(states)]
    number = f"{len(states)} run{'' if len(states) == 1 else 's'}"
    console.print(f"{number}: {', '.join(counts)}" if states else "no runs")


def blocks_below(folder: Path) -> Iterator[Block]:
    """Yield the runs in a folder and in the folders below it, in order of their names.

    Folders inside run directories are not searched. Nothing is raised for damaged files.
    """
    if is_sweep(folder):
        yield _sweep(folder)
        return
    if (folder / "config.json").is_file():
        yield _run_or_seeds(folder)
        return
    if (folder / "checkpoints").is_dir() or (folder / "metrics.jsonl").is_file():
        lost = State(str(folder), "damaged", problem=f"{folder}: has no config.json")
        yield Block(folder, "run", (lost,), "")
        return
    try:
        with os.scandir(folder) as entries:
            below = sorted(x.name for x in entries if x.is_dir(follow_symlinks=False))
    except FileNotFoundError:  # Another process has removed it meanwhile.
        return
    for name in below:
        if not name.startswith("."):
            yield from blocks_below(folder / name)


def _run_or_seeds(folder: Path) -> Block:
    """Return the block of a folder with a ``config.json``."""
    try:
        content = read_json(folder / "config.json")
        seeds = content.get("seeds")
    except UserError:
        seeds = None
    if seeds is None:
        state = state_of(folder)
        return Block(folder, "run", (state,), state.command)
    try:
        states = tuple(_member(folder / str(seed), seed) for seed in seeds)
        left = any(state.state not in ("finished", "running") for state in states)
        command = resume_command(folder, content) if left else ""
    except (LookupError, TypeError, AttributeError) as error:
        return Block(folder, "seeds", (), "", f"{folder / 'config.json'}: {error!r}")
    return Block(folder, "seeds", states, command)


def _sweep(folder: Path) -> Block:
    """Return the block of a sweep."""
    try:
        states = tuple(_of_sweep(run) for run in read_sweep(folder))
        command = command_of(folder)
    except UserError as error:
        return Block(folder, "sweep", (), "", str(error))
    left = any(state.state not in ("finished", "running") for state in states)
    return Block(folder, "sweep", states, command if left else "")


def _member(directory: Path, seed: int) -> State:
    """Return the state of one of several seeds, which may lack its folder."""
    if directory.is_dir():
        return state_of(directory)
    return State(str(directory), "damaged", seed=seed, problem=f"{directory}: is missing")


def _of_sweep(run: SweepRun) -> State:
    """Return the state of a run of a sweep, which may not have begun."""
    if (run.directory / "config.json").is_file():
        return state_of(run.directory)
    return State(str(run.directory), "waiting", seed=run.seed)


def _entries(block: Block) -> Iterator[dict[str, Any]]:
    """Yield what ``--json`` prints of the runs of a block."""
    if block.problem:
        state = State(str(block.directory), "damaged", problem=block.problem)
        yield {**dataclasses.asdict(state), "kind": block.kind, "group": None}
    for state in block.states:
        group = None if block.kind == "run" else str(block.directory)
        yield {**dataclasses.asdict(state), "kind": block.kind, "group": group}


def _print(block: Block) -> None:
    """Print a block: its folder where it is several runs, a line for each run, and the command."""
    inside = block.kind != "run"
    if inside:
        done = sum(state.state == "finished" for state in block.states)
        what = "sweep" if block.kind == "sweep" else "seeds"
        number = len(block.states)
        console.print(f"{block.directory}: {what}, {done} of {number} runs finished")
    if block.problem:
        console.print(f"  damaged: {block.problem}")
    rows = [_row(state, block.directory if inside else None) for state in block.states]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, state in zip(rows, block.states, strict=True):
        cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        console.print(("  " * inside + "  ".join(cells)).rstrip())
        if state.problem:
            console.print(f"{'  ' * inside}    {' '.join(state.problem.split())}")
    if block.command:
        console.print(f"    {block.command}")


def _row(state: State, folder: Path | None) -> list[str]:
    """Return a run's line, cell by cell."""
    directory = Path(state.directory)
    name = str(directory if folder is None else directory.relative_to(folder))
    progress = f"{state.iteration} of {state.iterations}" if state.iterations else ""
    what = f"{state.state} at {progress}" if state.iteration and progress else state.state
    if state.state == "finished":
        what = f"finished, {state.iteration} iterations"
    elif state.state == "stopped" and state.iteration == state.iterations:
        what = f"{what}, not evaluated"
    figures = [
        f"{label} {value:.4g}" if value is not None else ""
        for label, value in (("validation", state.validation), ("return", state.after))
    ]
    seed = f"seed {state.seed}" if state.seed is not None else ""
    age = f"{_duration(state.age_seconds)} ago" if state.agent else ""
    return [name, state.agent, state.env, seed, what, *figures, age]


def _duration(seconds: float) -> str:
    """Return a duration in its largest unit, such as ``3 h``."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"

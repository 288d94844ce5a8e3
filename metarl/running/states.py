"""What the files of a run directory say of it: its state and its last figures.

Everything is read from JSON, and no torch is loaded, so that hundreds of runs take seconds.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from metarl import registry
from metarl.errors import UserError
from metarl.running.lock import is_held
from metarl.running.parsing import command_line

FAILURE = "failure.json"
"""The file in a run directory that says what error has ended the run, until it is resumed."""

Phase: TypeAlias = Literal["waiting", "running", "stopped", "finished", "failed", "damaged"]
"""The state of a run: not begun, begun by a process that lives, cut off, evaluated, ended by an
error, or with files that cannot be read."""

_BLOCK = 1 << 16
"""Bytes that are read at once from the end of a file."""


@dataclass(frozen=True)
class State:
    """The state of a run, as its files tell it."""

    directory: str
    """Path of the run directory."""
    state: Phase
    """What the run is doing, or how it has ended."""
    agent: str = ""
    """The agent's name."""
    env: str = ""
    """The name of the task distribution."""
    seed: int | None = None
    """The seed of the training."""
    iteration: int = 0
    """The number of updates that are saved."""
    iterations: int | None = None
    """The number of updates that the run is to have."""
    best_by: str = ""
    """The score that validation gives."""
    validation: float | None = None
    """The last score on validation tasks."""
    after: float | None = None
    """The last return after adaptation in training."""
    age_seconds: float = 0.0
    """The time since the run has last written."""
    problem: str = ""
    """The error that ended the run, or what is damaged."""
    command: str = ""
    """The command that goes on with the run, if anything is left to do."""


def state_of(directory: Path) -> State:
    """Return the state of a run from the files in its directory.

    A run whose files cannot be read is ``damaged``; no error is raised.
    """
    try:
        content = read_json(directory / "config.json")
        train = content["train_config"]
        named = {
            "agent": str(content["agent"]),
            "env": str(train["env"]),
            "seed": int(train["seed"]),
            "iterations": train.get("iterations"),
        }
        part = train.get("evaluation")
        best_by = (part if isinstance(part, dict) else train).get("best_by", "return_after")
        saved = _saved(directory)
        evaluated = _evaluated(directory)
        age = time.time() - _last_change(directory)
        validation, after = _figures(directory / "metrics.jsonl", best_by)
        failure = directory / FAILURE
        problem = str(read_json(failure).get("error", "")) if failure.is_file() else ""
    except (UserError, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        reason = str(error) if isinstance(error, UserError | OSError) else f"{error!r} in its files"
        return State(str(directory), "damaged", problem=reason)
    complete = saved is not None and saved == named["iterations"] == evaluated
    if is_held(directory):
        state: Phase = "running"
    elif complete:
        state = "finished"
    elif problem:
        state = "failed"
    else:
        state = "waiting" if saved is None else "stopped"
    return State(
        str(directory),
        state,
        **named,
        iteration=saved or 0,
        best_by=best_by,
        validation=validation,
        after=after,
        age_seconds=max(0.0, age),
        problem=problem if state == "failed" else "",
        command="" if state in ("running", "finished") else resume_command(directory, content),
    )


def resume_command(directory: Path, content: Mapping[str, Any]) -> str:
    """Return the command that resumes a run, which names the user's own modules again.

    Args:
        directory: the run directory, or the folder of several seeds.
        content: the content of its ``config.json``.
    """
    train = content["train_config"]
    agent = [content["agent"]] if registry.is_import(content["agent"]) else []
    env = ["--env", train["env"]] if registry.is_import(train["env"]) else []
    own = [("--task-sampler", train.get("task_sampler")), ("--callback", train.get("callback"))]
    words = [word for flag, name in own if name and ":" in name for word in (flag, name)]
    return command_line("train", *agent, "--resume", str(directory), *env, *words)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of any format.

    Raises:
        UserError: if the file is missing or damaged.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not an object")
    return content


def last_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file from the last to the first; an incomplete last one is left out."""
    with path.open("rb") as file:
        end, rest = file.seek(0, os.SEEK_END), b""
        complete = False
        while end:
            start = max(0, end - _BLOCK)
            file.seek(start)
            *lines, newest = (file.read(end - start) + rest).split(b"\n")[::-1]
            if lines and not complete:
                del lines[0]  # What follows the last line break: nothing, or a part of a line.
                complete = True
            yield from lines
            end, rest = start, newest
        if complete:
            yield rest


def _figures(path: Path, best_by: str) -> tuple[float | None, float | None]:
    """Return the last score on validation tasks and the last return after adaptation, if any."""
    validation = after = None
    for text in last_lines(path) if path.is_file() else ():
        line = json.loads(text)
        if after is None:
            after = line.get("train/return_after")
        validation = line.get(f"validation/{best_by}")
        if validation is not None:
            break
    return validation, after


def _saved(directory: Path) -> int | None:
    """Return the iteration of the newest checkpoint, if there is one."""
    folder = directory / "checkpoints"
    names = [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []
    return max(names, default=None)


def _evaluated(directory: Path) -> int | None:
    """Return the iteration whose evaluation after training is complete, if there is one."""
    folder = directory / "evaluation"
    if not (folder / "test-untrained.json").is_file():  # It is written last.
        return None
    iteration = read_json(folder / "test.json").get("iteration")
    return iteration if isinstance(iteration, int) else None


def _last_change(directory: Path) -> float:
    """Return when the run has last written, in seconds since the epoch."""
    names = ("config.json", "metrics.jsonl", "checkpoints", "evaluation", FAILURE)
    times = [(directory / name).stat().st_mtime for name in names if (directory / name).exists()]
    return max(times)

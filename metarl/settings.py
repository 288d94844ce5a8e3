"""What makes a run the run it is: its settings as JSON, and the folder it lies in."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from typeguard import TypeCheckError, check_type

from metarl.checkpoints import is_leftover, read_object
from metarl.errors import UserError, bad_option, near_matches
from metarl.training import TrainConfig

FORMAT = 1
"""Of ``config.json``."""
LONGEST_NAME = 80
"""Characters of a folder's name that follows from settings; file systems take 255."""


def settings(
    config: TrainConfig, agent: str, agent_config: Any, derived: Sequence[str] = ()
) -> dict[str, Any]:
    """Return what ``train.py --config`` takes: all that makes a run the run it is.

    Fields of the agent's config that are ``derived`` from the run's length are written out, and
    derived again where another run starts from them.
    """
    return {
        "format": FORMAT,
        "agent": agent,
        "agent_config": dataclasses.asdict(agent_config),
        "derived": list(derived),
        "train_config": {**dataclasses.asdict(config), "run_dir": None},
    }


def read_settings(path: Path) -> dict[str, Any]:
    """Read a run's ``config.json``, or what ``train.py --print-config`` printed.

    Raises:
        UserError: where it cannot be one.
    """
    content = read_object(path, FORMAT)
    for name, kind in (("agent", str), ("agent_config", dict), ("train_config", dict)):
        if not isinstance(content.get(name), kind):
            raise UserError(f"{path}: {name!r} is missing or no {kind.__name__}")
    if not isinstance(content["train_config"].get("env"), str):
        raise UserError(f"{path}: 'train_config' names no 'env'")
    for name in ("derived", "seeds"):
        if not isinstance(content.get(name, []), list):
            raise UserError(f"{path}: {name!r} is no list")
    if not all(type(seed) is int for seed in content.get("seeds", [])):
        raise UserError(f"{path}: 'seeds' holds {content['seeds']!r}, not whole numbers alone")
    return content


def dataclass_of(kind: type, values: dict[str, Any], path: Path) -> Any:
    """Return the dataclass with values as read from JSON: lists are tuples there."""
    hints = get_type_hints(kind)
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    for name, value in values.items():
        if name not in hints:
            raise UserError(f"{path}: {kind.__name__} has no {name!r}; {near_matches(name, hints)}")
        try:
            check_type(value, hints[name])
        except TypeCheckError as error:
            raise UserError(f"{path}: {name}: got {value!r}; accepted: {error}") from error
    return kind(**values)


def members(directory: Path) -> list[Path]:
    """Return the run directories in that of several seeds; any other is its own only one."""
    path = directory / "config.json"
    seeds = read_settings(path).get("seeds") if path.is_file() else None
    return [directory] if seeds is None else [directory / str(seed) for seed in seeds]


def tame(name: str) -> str:
    """Return ``name`` as one of a file: small letters, digits, dots and dashes, 80 at most."""
    result = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-")
    if len(result) <= LONGEST_NAME:
        return result
    return f"{result[: LONGEST_NAME - 9]}-{short_hash(name)}"


def short_hash(text: str) -> str:
    """Return eight characters that another text hardly has."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def default_directory(config: TrainConfig, agent: str, label: str) -> Path:
    """Return ``runs/<env>/<agent>/<label>-<time>``, which may exist."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return Path("runs") / tame(config.env) / tame(agent) / f"{tame(label)}-{stamp}"


def evaluation_name(
    split: str,
    *,
    env: str | None,
    tasks: int | None,
    episodes: int | None,
    seed: int,
    greedy: bool,
    probe: bool,
    best: bool,
) -> str:
    """Return the name of an evaluation's files: the split, and how it differs from the run's own.

    Args:
        split: whose tasks.
        env: the name of other tasks than the run's.
        tasks: another number of tasks.
        episodes: another number of episodes of a trial.
        seed: of tasks, episodes and actions; the run's own evaluation has 0.
        greedy: whether the most likely actions are taken.
        probe: whether probes are measured.
        best: whether the best checkpoint is evaluated.
    """
    said = [tame(env)] if env is not None else []
    said += [f"tasks-{tasks}"] if tasks is not None else []
    said += [f"episodes-{episodes}"] if episodes is not None else []
    said += [f"seed-{seed}"] if seed else []
    flags = {"greedy": greedy, "probe": probe, "best": best}
    return "-".join([split, *said, *(word for word, given in flags.items() if given)])


def claim_file(default: Path) -> Path:
    """Make an empty file and return its path: ``default``, or the next free name like it."""
    for path in numbered(default):
        with contextlib.suppress(FileExistsError):
            path.open("xb").close()
            return path
    raise AssertionError("there is always another name")


def numbered(path: Path) -> Iterator[Path]:
    """Yield ``path``, then the same with ``-2``, ``-3``, … at the end of its name."""
    yield path
    for count in itertools.count(2):
        yield path.with_name(f"{path.stem}-{count}{path.suffix}")


@dataclasses.dataclass(frozen=True)
class NewFolder:
    """A folder for new runs, and how to undo that it was made."""

    path: Path
    made: tuple[Path, ...]
    """The folders that were missing: its own, if it was, and those above it, outward."""

    @staticmethod
    def claim(given: Path | None, default: Path) -> NewFolder:
        """Make the folder ``given``, or the first from ``default`` whose name is free.

        Processes that claim from one default get a folder each; one that is given may exist, empty.

        Raises:
            UserError: where ``given`` holds something, or the folder cannot be made.
        """
        wanted = default if given is None else given
        try:
            if given is not None:
                refuse_used(given)
            missing = tuple(p for p in (wanted, *wanted.parents) if not p.exists())
            if given is not None:
                given.mkdir(parents=True, exist_ok=True)
                return NewFolder(given, missing)
            for path in numbered(default):
                default.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileExistsError, FileNotFoundError):
                    path.mkdir()
                    break
        except OSError as error:
            raise bad_option("--run-dir", str(wanted), f"a writable place ({error})") from error
        return NewFolder(path, (path, *(p for p in missing if p != default)))

    def remove(self) -> None:
        """Remove what this process has put into the folder, and the folders it has made."""
        for path in self.path.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        self.abandon()

    def abandon(self) -> None:
        """Remove the folders that were made, those that nothing is in."""
        for path in self.made:
            with contextlib.suppress(OSError):
                path.rmdir()


def refuse_used(directory: Path) -> None:
    """Refuse a place for new runs that holds anything but what a killed one had begun to write."""
    if directory.exists() and (
        not directory.is_dir() or not all(map(is_leftover, directory.iterdir()))
    ):
        raise used(directory)


def used(directory: Path) -> UserError:
    """Return the error for a place for new runs that is taken."""
    accepted = "a new or empty directory (--resume goes on with a run)"
    return bad_option("--run-dir", str(directory), accepted)

"""The folders and files of runs: their names, and how a process claims one."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from metarl.errors import UserError, bad_option
from metarl.files import is_leftover
from metarl.running.settings import TrainConfig

LONGEST_NAME = 80
"""Characters of a folder's name that follows from settings; file systems take 255."""


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
    greedy_copy: bool,
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
        greedy_copy: whether greedy copies of the agent are measured.
        best: whether the best checkpoint is evaluated.
    """
    said = [tame(env)] if env is not None else []
    said += [f"tasks-{tasks}"] if tasks is not None else []
    said += [f"episodes-{episodes}"] if episodes is not None else []
    said += [f"seed-{seed}"] if seed else []
    flags = {"greedy": greedy, "greedy-copy": greedy_copy, "best": best}
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

"""Names of the folders and files of runs, and how a process claims one for itself."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from metarl.errors import UserError, bad_option
from metarl.files import is_leftover
from metarl.running.lock import LOCK
from metarl.running.settings import TrainConfig

LONGEST_NAME = 80
"""The largest number of characters of a name made from settings; file systems allow 255."""


def tame(name: str) -> str:
    """Return ``name`` as a file name: at most 80 lower-case letters, digits and ``._-``."""
    result = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-")
    if len(result) <= LONGEST_NAME:
        return result
    return f"{result[: LONGEST_NAME - 9]}-{short_hash(name)}"


def short_hash(text: str) -> str:
    """Return eight characters that differ, almost surely, from those of another text."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def default_directory(config: TrainConfig, agent: str, label: str) -> Path:
    """Return ``runs/<env>/<agent>/<label>-<time>``; the folder may already exist."""
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
    conditions: Mapping[str, Any] | None = None,
) -> str:
    """Return the name of an evaluation's files, without suffix.

    It consists of the split and of what differs from the evaluation after training.

    Args:
        split: the split of the tasks.
        env: the name of the task distribution, if it is not the run's own.
        tasks: the number of tasks, if it is not the default.
        episodes: the number of episodes of a trial, if it is not the default.
        seed: the seed of tasks, episodes and actions; 0 after training.
        greedy: whether the agent takes its most likely actions.
        greedy_copy: whether greedy copies of the agent are measured.
        best: whether the best checkpoint is evaluated.
        conditions: what else there is: a change of the task, noise, delays, losses.
    """
    said = [tame(env)] if env is not None else []
    said += [f"tasks-{tasks}"] if tasks is not None else []
    said += [f"episodes-{episodes}"] if episodes is not None else []
    said += [f"seed-{seed}"] if seed else []
    said += [f"{k.replace('_', '-')}-{value}" for k, value in (conditions or {}).items()]
    flags = {"greedy": greedy, "greedy-copy": greedy_copy, "best": best}
    return "-".join([split, *said, *(word for word, given in flags.items() if given)])


def claim_file(default: Path) -> Path:
    """Create an empty file with the name ``default``, or the next free one; return its path."""
    for path in numbered(default):
        with contextlib.suppress(FileExistsError):
            path.open("xb").close()
            return path
    raise AssertionError("there is always another name")


def numbered(path: Path) -> Iterator[Path]:
    """Yield ``path``, then the same path with ``-2``, ``-3``, … after the name's stem."""
    yield path
    for count in itertools.count(2):
        yield path.with_name(f"{path.stem}-{count}{path.suffix}")


@dataclasses.dataclass(frozen=True)
class NewFolder:
    """A folder for new runs, which can be removed again if they fail."""

    path: Path
    """The folder."""
    made: tuple[Path, ...]
    """The folders that were missing before, from the innermost to the outermost."""

    @staticmethod
    def claim(given: Path | None, default: Path) -> NewFolder:
        """Create the folder ``given``, or one named ``default`` or the next free name like it.

        If several processes claim the same default, each gets a folder of its own.

        Args:
            given: the folder that the user asked for, if any; it may exist if it is empty.
            default: the folder if none is given.

        Raises:
            UserError: if ``given`` is not empty, or the folder cannot be created.
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
            raise bad_option("--run-dir", str(wanted), f"a writable folder ({error})") from error
        return NewFolder(path, (path, *(p for p in missing if p != default)))

    def remove(self) -> None:
        """Remove the folder's content, and the folders that were missing before."""
        for path in self.path.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        self.abandon()

    def abandon(self) -> None:
        """Remove the folders that were missing before, except those that are not empty."""
        for path in self.made:
            with contextlib.suppress(OSError):
                path.rmdir()


def refuse_used(directory: Path) -> None:
    """Refuse a folder for new runs that contains more than leftovers of a killed process.

    Raises:
        UserError: if it does, or if it is a file.
    """
    if directory.exists() and (
        not directory.is_dir() or not all(map(is_free, directory.iterdir()))
    ):
        raise used(directory)


def is_free(path: Path) -> bool:
    """Return whether a folder is as good as empty with ``path`` in it."""
    return path.name == LOCK or is_leftover(path)


def remove_unbegun(directory: Path) -> bool:
    """Remove the folder of a run that was killed before it could save anything.

    Returns:
        True if there was no more in it than its settings; anything else stays.
    """
    if not directory.is_dir():
        return False
    paths = list(directory.iterdir())
    if not all(path.is_file() and (path.name == "config.json" or is_free(path)) for path in paths):
        return False
    for path in paths:
        path.unlink(missing_ok=True)
    directory.rmdir()
    return True


def used(directory: Path) -> UserError:
    """Return the error for a run directory that is already used."""
    accepted = "a new or empty directory (--resume continues a run)"
    return bad_option("--run-dir", str(directory), accepted)

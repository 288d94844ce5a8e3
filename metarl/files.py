"""Atomic files: a killed process leaves the old content or the new, never a part of it."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from metarl.errors import UserError

_PARTIAL = ".partial"
"""End of the names of files that are being written."""


def read_object(path: Path, *versions: int) -> dict[str, Any]:
    """Read a JSON object whose ``format`` is one of ``versions``.

    Raises:
        UserError: if the file is missing, damaged, or of another format.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not an object")
    if content.get("format") not in versions:
        known = " and ".join(map(str, versions))
        raise UserError(f"{path}: format {content.get('format')!r}; this version reads {known}")
    return content


def write_json(path: Path, content: object) -> None:
    """Write JSON so that ``path`` holds either the old content or the new."""
    write_whole(path, json.dumps(content, indent=1).encode())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that ``path`` holds either the old content or the new.

    If several processes write the file at once, it holds the content of the last one.
    """
    with replacing(path) as temporary:
        write_synced(temporary, data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file's path; after the body, that file takes the place of ``path``.

    If the body fails, ``path`` keeps its old content and the temporary file is removed.
    """
    temporary = _temporary(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def create_json(path: Path, content: object) -> None:
    """Write JSON to a file that must not exist: if several processes try, one succeeds.

    Raises:
        FileExistsError: if ``path`` exists.
        OSError: if the file cannot be written; nothing of it is left then.
    """
    data, temporary = json.dumps(content, indent=1).encode(), _temporary(path)
    try:
        write_synced(temporary, data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # This file system has no hard links.
            _create(path, data)
    finally:
        temporary.unlink(missing_ok=True)


def _create(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            path.unlink(missing_ok=True)
            raise


def _temporary(path: Path) -> Path:
    """Return a path beside ``path`` that no other process writes."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_PARTIAL}")


def is_leftover(path: Path) -> bool:
    """Return whether ``path`` is a temporary file of this module."""
    return path.name.startswith(".") and path.name.endswith(_PARTIAL)


def remove_leftovers(directory: Path) -> None:
    """Remove the temporary files that killed processes have left in ``directory``."""
    for path in directory.glob(f".*{_PARTIAL}"):
        writer = path.name.removesuffix(_PARTIAL).rpartition(".")[2].partition("-")[0]
        if path.is_file() and not (writer.isdigit() and psutil.pid_exists(int(writer))):
            path.unlink(missing_ok=True)


def write_synced(path: Path, data: bytes) -> None:
    """Write a file, and return once its content is on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Return once new, renamed and removed entries of a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

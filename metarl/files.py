"""Files that are whole or absent: a killed process leaves no half of one."""

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
"""How the names of files that are being written end."""


def read_object(path: Path, version: int) -> dict[str, Any]:
    """Read a JSON object whose ``format`` is ``version``.

    Raises:
        UserError: where it is missing, damaged, or of another format.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not an object")
    if content.get("format") != version:
        raise UserError(f"{path}: format {content.get('format')!r}; this version reads {version}")
    return content


def write_json(path: Path, content: object) -> None:
    """Write JSON so that ``path`` holds either the old content or the new."""
    write_whole(path, json.dumps(content, indent=1).encode())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that ``path`` holds either the old content or the new.

    Of several processes that write it at once, the last one's content is there, unmixed.
    """
    with replacing(path) as temporary:
        write_synced(temporary, data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name to write ``path``'s new content under; afterwards it is in its place, whole.

    Where the body fails ``path`` keeps what it held, and nothing else is left.
    """
    temporary = _temporary(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def create_json(path: Path, content: object) -> None:
    """Write JSON to ``path``, where nothing may be: of several processes that try, one succeeds.

    Raises:
        FileExistsError: where there is something.
        OSError: where it cannot be written; nothing is left of it then.
    """
    data, temporary = json.dumps(content, indent=1).encode(), _temporary(path)
    try:
        write_synced(temporary, data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # the file system has no hard links
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
    """Return a name to write ``path``'s content under that nobody else writes."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_PARTIAL}")


def is_leftover(path: Path) -> bool:
    """Return whether :func:`write_whole` or :func:`create_json` named ``path``, as temporary."""
    return path.name.startswith(".") and path.name.endswith(_PARTIAL)


def remove_leftovers(directory: Path) -> None:
    """Remove the files in ``directory`` that killed processes had begun to write."""
    for path in directory.glob(f".*{_PARTIAL}"):
        writer = path.name.removesuffix(_PARTIAL).rpartition(".")[2].partition("-")[0]
        if path.is_file() and not (writer.isdigit() and psutil.pid_exists(int(writer))):
            path.unlink(missing_ok=True)


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until its content is on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

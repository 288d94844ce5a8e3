"""One process at a time writes to a run directory: a lock that ends with its process.

The lock is one of the kernel (``flock``) on a file in the folder, so that none is left by a process
that was killed, on this host or another one. NFS passes such locks on to its server, which releases
those of a host that is gone. Where a file system has no locks, a warning says so and nothing is
locked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metarl.errors import UserError, bad_option

LOCK = ".lock"
"""The name of the file that is locked; it is removed with the lock, but not by a killed process."""

PATIENCE = 10.0
"""Seconds to wait for another process to end: children of a parent that was killed still save."""

_held: set[Path] = set()
"""The files that this process has locked."""


@contextmanager
def held(folder: Path, name: str = LOCK) -> Iterator[None]:
    """Keep other processes out of a folder, which is made if it is missing.

    A process that holds the lock may take it again. Folders that were made are removed at the end
    if they are empty then.

    Args:
        folder: the folder.
        name: the name of the file that is locked.

    Raises:
        UserError: if another process holds the lock and does not end within :data:`PATIENCE`.
    """
    path = folder.resolve() / name
    if path in _held:
        yield
        return
    missing = [p for p in (path.parent, *path.parents[1:]) if not p.exists()]
    descriptor = _take(path, folder)
    _held.add(path)
    try:
        yield
    finally:
        _held.discard(path)
        if descriptor is not None:
            with contextlib.suppress(OSError):
                if _is_open_as(descriptor, path):
                    path.unlink()  # Whoever waits for it sees that this file is gone.
            os.close(descriptor)
        for made in missing:
            with contextlib.suppress(OSError):
                made.rmdir()


def is_held(folder: Path) -> bool:
    """Return whether a process, maybe this one, holds the lock of a folder."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _take(path: Path, folder: Path) -> int | None:
    """Open and lock a file, and write into it who holds it; None if it cannot be locked."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            descriptor = _open(path, folder)
        except OSError as error:
            _warn(folder, error)
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 1000).decode(errors="replace").strip()
            os.close(descriptor)
            if time.monotonic() >= deadline:
                raise UserError(
                    f"{folder}: {holder or 'another process'} writes to this folder, and only one "
                    "at a time can"
                ) from None
            time.sleep(0.1)
            continue
        except OSError as error:
            os.close(descriptor)
            _warn(folder, error)
            return None
        if _is_open_as(descriptor, path):
            os.truncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
            return descriptor
        os.close(descriptor)  # The one that held it has removed the file.


def _open(path: Path, folder: Path) -> int:
    """Open the file for a lock, in a folder that is made if it is missing."""
    for attempt in range(3):  # Another process may just now remove the folder that it has made.
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if attempt == 2 or not isinstance(error, FileNotFoundError):
                accepted = f"a writable folder ({error})"
                raise bad_option("--run-dir", str(folder), accepted) from error
            continue
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue
    raise FileNotFoundError(path)


def _is_open_as(descriptor: int, path: Path) -> bool:
    """Return whether ``path`` is the file that is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _warn(folder: Path, error: OSError) -> None:
    reason = error.strerror or str(error)
    warnings.warn(
        f"{folder}: cannot be locked ({reason}), so that nothing keeps a second process from "
        "writing to it",
        stacklevel=4,
    )

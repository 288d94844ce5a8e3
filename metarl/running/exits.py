"""How a script ends: exit codes, one-line errors and signals.

This module imports nothing slow, so that signals are handled from the start.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from metarl.errors import (
    DivergenceError,
    EnvError,
    SaveError,
    SeedsError,
    Stopped,
    TuningError,
    UserError,
)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""The signals that end a program in order; clusters send SIGUSR1 before a job's time is over."""


def exits(main: Callable[[], None], *, patient: bool = False) -> Callable[[], None]:
    """Make a script's ``main`` print errors as one line and end with the right exit code.

    Errors that a user can correct give exit code 2, failures of a run 1. The first of
    :data:`SIGNALS` lets the program save its work and end with 128 plus the signal's number; the
    second one ends it at once.

    Args:
        main: the function.
        patient: whether the second signal is ignored too: clusters send one to all processes of a
            job, and a parent passes it on to children that have had it.
    """

    @functools.wraps(main)
    def wrapped() -> None:
        _leave_script_folder()
        warnings.formatwarning = lambda message, *rest: f"warning: {message}\n"
        try:
            with _stopped_by_signals(patient):
                main()
        except UserError as error:
            fail(error)
        except (EnvError, DivergenceError, SaveError, SeedsError, TuningError) as error:
            sys.stdout.flush()
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt as stop:
            sys.exit(128 + getattr(stop, "number", signal.SIGINT))
        except BrokenPipeError:
            sys.exit(1)
        except OSError as error:  # For example a full or read-only disk.
            sys.stdout.flush()
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)

    return wrapped


def _leave_script_folder() -> None:
    """Remove the scripts' folder, which Python puts first, from ``sys.path``.

    Otherwise ``scripts/train.py`` would hide a user's own module called ``train``.
    """
    root = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
    scripts = os.path.join(root, "scripts")
    if sys.path and os.path.realpath(sys.path[0] or ".") == scripts:
        del sys.path[0]


_deferring: list[bool] = []
"""One element for each :func:`stopping_later` that makes signals wait."""


@contextmanager
def stopping_later() -> Iterator[None]:
    """Delay the exception of the first signal until the body has ended.

    An exception in the middle of an import may be turned into another one, and leaves the module
    half initialised.
    """
    _deferring.append(True)
    try:
        yield
    finally:
        _deferring.pop()
    Stopped.refuse()


@contextmanager
def _stopped_by_signals(patient: bool) -> Iterator[None]:
    """Turn the first of the signals into an exception; exit at the second unless ``patient``."""

    def leave(number: int, frame: object) -> None:
        if not patient:
            os._exit(128 + number)

    def stop(number: int, frame: object) -> None:
        if Stopped.requested is not None:  # Two signals came before this function could run.
            leave(number, frame)
            return
        for each in SIGNALS:
            signal.signal(each, leave)
        Stopped.requested = number
        if not _deferring:
            raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        Stopped.requested = None
        for number, handler in before.items():
            signal.signal(number, handler)


def fail(error: UserError) -> NoReturn:
    """Print ``error`` and exit with code 2."""
    sys.stdout.flush()
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


def end_with_parent() -> None:
    """Let this process stop, as on SIGTERM, when its standard input ends with the parent."""

    def watch() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()

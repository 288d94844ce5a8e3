"""Errors that a user can mend: a short message instead of a traceback."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable
from typing import ClassVar


def described(error: BaseException) -> str:
    """Return an exception's type and message."""
    message = str(error)
    return type(error).__name__ + (f": {message}" if message else "")


class UserError(Exception):
    """Bad input. Scripts print ``error: <message>`` and exit with code 2."""


def bad_option(name: str, got: object, accepted: str) -> UserError:
    """Return the error for option ``name`` (as typed on a command line)."""
    return UserError(f"{name}: got {got!r}; accepted: {accepted}")


def near_matches(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean …?`` when something alike is known, and the whole list after it."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{hint}known: {', '.join(names)}"


def require(config: object, name: str, holds: bool, accepted: str) -> None:
    """Refuse the value of ``config``'s field ``name`` unless it ``holds``."""
    if not holds:
        raise bad_option(f"--{name.replace('_', '-')}", getattr(config, name), accepted)


def require_seed(name: str, seed: int) -> None:
    """Refuse a seed that a generator cannot take; ``name`` is the option's."""
    if not 0 <= seed < 2**63:
        raise bad_option(name, seed, "0 to 2**63 - 1")


class EnvError(Exception):
    """An environment raised, returned what its spaces forbid, hung, or took its process along.

    Scripts print it and exit with code 1: what has been trained is saved.
    """

    def __init__(
        self, worker: int | None, slot: int | None, task: object, cause: str, trace: str = ""
    ) -> None:
        place = "in this process" if worker is None else f"in worker {worker}"
        where = "" if slot is None else f", slot {slot}"
        doing = "" if task is None else f", task {task}"
        super().__init__(f"environment failed {place}{where}{doing}: {cause}")
        self.worker, self.slot, self.task, self.cause, self.trace = worker, slot, task, cause, trace

    def __str__(self) -> str:
        """Return the message, and the environment's own traceback below it."""
        return f"{self.args[0]}\n{self.trace}".rstrip()


class DivergenceError(Exception):
    """A number that training computes is no longer finite; scripts exit with code 1.

    Args:
        where: the first place it was seen at.
        task: whose number it is, where it is one task's.
    """

    def __init__(self, where: str, task: object = None) -> None:
        whose = "" if task is None else f", of {task}"
        super().__init__(f"diverged: {where} is not finite{whose}")
        self.where, self.task = where, task
        self.cause = ""
        """What probably led there, with what to do about it."""

    def __str__(self) -> str:
        """Return the message, with the probable cause where one is known."""
        return f"{self.args[0]}{f'; {self.cause}' if self.cause else ''}"


class SaveError(Exception):
    """A checkpoint or metrics could not be written, and the run was asked to stop then."""


class SeedsError(Exception):
    """Of several runs, some did not come to an end."""


class Stopped(KeyboardInterrupt):
    """A signal asks the program to end; scripts exit with 128 and its number."""

    requested: ClassVar[int | None] = None
    """A signal that has come."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @staticmethod
    def refuse() -> None:
        """Stop for a signal that came where exceptions are ignored, in a destructor say."""
        if Stopped.requested is not None:
            raise Stopped(Stopped.requested)

"""Errors that a user can correct: a short message replaces the traceback."""

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
    """Bad input. Scripts print ``error: <message>`` and exit with code 2.

    >>> try:
    ...     metarl.Uniform(3, 1)
    ... except metarl.UserError as error:
    ...     print(error)
    range: got '3..1'; accepted: finite low < high
    """

    option: str | None = None
    """The option whose value was refused, as it is typed, if it is one."""


def bad_option(name: str, got: object, accepted: str) -> UserError:
    """Return the error for a value of option ``name`` that is not accepted."""
    error = UserError(f"{name}: got {got!r}; accepted: {accepted}")
    error.option = name
    return error


def near_matches(name: str, known: Iterable[str]) -> str:
    """Return the list of known names, after ``did you mean …?`` if some are similar to ``name``."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{hint}known: {', '.join(names)}"


def require(config: object, name: str, holds: bool, accepted: str) -> None:
    """Refuse the value of ``config``'s field ``name`` unless its condition ``holds``."""
    if not holds:
        raise bad_option(f"--{name.replace('_', '-')}", getattr(config, name), accepted)


def require_seed(name: str, seed: int) -> None:
    """Refuse a seed that is out of range; ``name`` is the option's, for the message."""
    if not 0 <= seed < 2**63:
        raise bad_option(name, seed, "0 to 2**63 - 1")


class EnvError(Exception):
    """An environment raised, hung, ended its process, or returned what its spaces do not hold.

    Scripts save the trained agent, print the message and exit with code 1. ``worker``, ``slot``,
    ``task``, ``cause`` and the environment's traceback, ``trace``, are attributes.

    >>> task = metarl.Task.of("rooms", wanted=20)
    >>> error = metarl.EnvError(1, 3, task, "ValueError: no heat")
    >>> print(error)
    environment failed in worker 1, slot 3, task rooms(wanted=20): ValueError: no heat
    >>> error.task["wanted"]
    20
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
        """Return the message, followed by the environment's own traceback."""
        return f"{self.args[0]}\n{self.trace}".rstrip()


class DivergenceError(Exception):
    """A number that training computed is not finite; scripts exit with code 1.

    Args:
        where: name of the first quantity that was not finite.
        task: the task that the number belongs to, if it belongs to one.
    """

    def __init__(self, where: str, task: object = None) -> None:
        whose = "" if task is None else f", of {task}"
        super().__init__(f"diverged: {where} is not finite{whose}")
        self.where, self.task = where, task
        self.cause = ""
        """The probable cause and its remedy, set by the caller that knows them."""

    def __str__(self) -> str:
        """Return the message, followed by the probable cause if one is known."""
        return f"{self.args[0]}{f'; {self.cause}' if self.cause else ''}"


class SaveError(Exception):
    """Training stopped because a checkpoint or metrics could not be written."""


class SeedsError(Exception):
    """Some of the runs of a group of seeds did not finish."""


class TuningError(Exception):
    """No trial of a search of settings was completed."""


class Stopped(KeyboardInterrupt):
    """A signal asked the program to end; scripts exit with code 128 plus its number."""

    requested: ClassVar[int | None] = None
    """Number of the signal that has arrived, if any."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @staticmethod
    def refuse() -> None:
        """Raise if a signal arrived while exceptions were ignored or delayed.

        Raises:
            Stopped: if one has arrived.
        """
        if Stopped.requested is not None:
            raise Stopped(Stopped.requested)

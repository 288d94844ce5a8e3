"""Errors that a user can mend: a short message instead of a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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

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

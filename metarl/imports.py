"""Import modules and objects that the user has named."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from metarl.errors import UserError, near_matches


def import_module(name: str, wanted_by: str) -> ModuleType:
    """Import a module that the user named; the current folder is searched too.

    Args:
        name: ``package.module``.
        wanted_by: the text that the user typed, for messages.

    Raises:
        UserError: if there is no such module, or if importing it ends the program.
    """
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        with no_exit(wanted_by):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or name).partition(".")[0]
        raise UserError(
            f"{wanted_by}: {error}; accepted: a module of the current folder or an installed "
            f"package (pip install {missing.replace('_', '-')})"
        ) from error


@contextmanager
def no_exit(name: str) -> Iterator[None]:
    """Turn a ``sys.exit()`` of the user's code into an error that names the code."""
    try:
        yield
    except SystemExit as error:
        raise UserError(
            f"{name}: its code called exit({error.code!r}); accepted: code that returns (put what "
            "a script runs below if __name__ == '__main__')"
        ) from error


def load_object(path: str) -> Any:
    """Import ``package.module:Name``; the current folder is searched too."""
    module_name, _, attribute = path.partition(":")
    module = import_module(module_name, path)
    try:
        return getattr(module, attribute)
    except AttributeError:
        names = [n for n in vars(module) if not n.startswith("_")]
        raise UserError(
            f"{path}: module {module_name} has no {attribute!r}; {near_matches(attribute, names)}"
        ) from None

"""Docstrings of attributes as they are written, although napoleon reads ``type: text`` in them."""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx

_KINDS = ("attribute", "data", "property")
_COLON = "\ue000"
"""A character that no docstring has, which stands for a colon while napoleon reads."""


def hide_colons(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Hide the colons of the first line, which napoleon would take for the end of a type."""
    if what in _KINDS and lines:
        lines[0] = lines[0].replace(":", _COLON)


def show_colons(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Put the colons back."""
    if what in _KINDS:
        lines[:] = [line.replace(_COLON, ":") for line in lines]


def setup(app: Sphinx) -> dict[str, Any]:
    """Run before and after napoleon, whose priority is 500."""
    app.connect("autodoc-process-docstring", hide_colons, priority=400)
    app.connect("autodoc-process-docstring", show_colons, priority=600)
    return {"parallel_read_safe": True}

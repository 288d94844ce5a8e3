"""What autodoc and napoleon read otherwise than it is meant in our docstrings and types."""

from __future__ import annotations

import dataclasses
import pkgutil
import re
import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

from metarl.constraints import Constraint
from metarl.options import field_types
from metarl.search import Searched

_COLON = "\ue000"
"""A character that no docstring has, which stands for a colon while napoleon reads."""


def hide_colons(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Hide the colons that napoleon would take for the end of a type: ours begin no description."""
    first = [0] if what in ("attribute", "data", "property") and lines else []
    after = [i + 1 for i, line in enumerate(lines[:-1]) if line.strip() == "Returns:"]
    for i in (*first, *after):
        lines[i] = lines[i].replace(":", _COLON)


def show_colons(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Put the colons back, and say which values of an option are accepted and searched."""
    lines[:] = [line.replace(_COLON, ":") for line in lines]
    if what == "attribute":
        owner, _, field = name.rpartition(".")
        kind = pkgutil.resolve_name(owner)
        if dataclasses.is_dataclass(kind) and field in field_types(kind):
            said = list(dict.fromkeys(_words(field_types(kind)[field])))
            accepted = ", ".join(word for is_accepted, word in said if is_accepted)
            searched = ", ".join(word for is_accepted, word in said if not is_accepted)
            words = [f"Accepted: {accepted}."] if accepted else []
            words += [f"Tuning searches {searched}."] if searched else []
            lines += ["", *words, ""] if words else []


def _words(hint: Any, each: str = "") -> Iterator[tuple[bool, str]]:
    """Yield what the annotations in a type say of accepted values, and of searched ones."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        yield from _words(parts[0], each)
        for one in hint.__metadata__:
            said = one() if isinstance(one, type) else one
            if isinstance(said, Constraint):
                yield True, f"{said.accepted}{each}"
            elif isinstance(said, Searched):
                yield False, f"``{said}``"
    elif origin in (Union, types.UnionType, tuple):
        for part in parts:
            yield from _words(part, " each" if origin is tuple else each)


def plain_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: Any
) -> tuple[str | None, Any]:
    """Leave annotations out of a signature, and the one that all protocols have in common."""
    if getattr(obj, "_is_protocol", False):
        return "", returns
    if signature:  # What is no Python would be shown as it stands, in one long line.
        signature = plain(signature).replace("<factory>", "...")
        signature = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", signature)
    return signature, returns


def plain_types(app: Sphinx, tree: nodes.document) -> None:
    """Leave annotations out of the types of attributes."""
    for node in list(tree.findall(addnodes.desc_annotation)):
        text = _text(node)
        if "Annotated[" in text:
            text = re.sub(r"~(?:\w+\.)*", "", plain(text))
            node.children = []
            node += nodes.Text(text)


def _text(node: nodes.Node) -> str:
    """Return a node's text with short names, of the two that a cross-reference can have."""
    if isinstance(node, nodes.Text):
        return str(node)
    if isinstance(node, addnodes.pending_xref_condition) and node["condition"] != "resolved":
        return ""
    if isinstance(node, addnodes.pending_xref) and "Annotated[" in node["reftarget"]:
        return str(node["reftarget"])  # It could not be read as Python.
    return "".join(map(_text, node.children))


def plain(text: str) -> str:
    """Return a type's text with ``Annotated[X, …]`` replaced by ``X``."""
    while found := re.search(r"~?(?:\w+\.)?Annotated\[", text):
        depth, comma, end = 0, 0, found.end()
        while depth or text[end] != "]":
            depth += (text[end] in "[(") - (text[end] in "])")
            comma = comma or (end if text[end] == "," and not depth else 0)
            end += 1
        text = text[: found.start()] + text[found.end() : comma] + text[end + 1 :]
    return text


def setup(app: Sphinx) -> dict[str, Any]:
    """Run before and after napoleon, whose priority is 500."""
    app.connect("autodoc-process-docstring", hide_colons, priority=400)
    app.connect("autodoc-process-docstring", show_colons, priority=600)
    app.connect("autodoc-process-signature", plain_signature)
    app.connect("doctree-read", plain_types)
    return {"parallel_read_safe": True}

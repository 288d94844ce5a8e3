"""Directives for what is generated: an agent's options, and tables of results."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import table
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from metarl import registry
from metarl.options import field_types, option_flag
from metarl.running.parsing import field_docs


def option_rows(kind: type, default: Any) -> list[tuple[str, str, str]]:
    """Return the options of a config: flag, default and meaning, nested ones in their place."""
    rows = []
    for field in dataclasses.fields(kind):
        inner, value = field_types(kind)[field.name], getattr(default, field.name)
        if dataclasses.is_dataclass(inner):
            rows += option_rows(type(value), value)
        else:
            meaning = field_docs(kind)[field.name]
            rows.append((option_flag(kind, field.name), _said(value), meaning))
    return rows


def _said(value: Any) -> str:
    """Return a default as it is typed."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return " ".join(map(str, value)) or "none"
    return value if isinstance(value, str) else json.dumps(value)


class _Generated(SphinxDirective):
    """A directive that is replaced by text in MyST."""

    required_arguments = 1

    def text(self) -> str:
        """Return the text for the directive's argument."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Parse the text in place."""
        lines = StringList(self.text().splitlines(), source=f"<{self.name} {self.arguments[0]}>")
        node = nodes.Element()
        self.state.nested_parse(lines, self.content_offset, node)
        return node.children


class Options(_Generated):
    """The options of an agent, from its config: ``{options} rl2``."""

    def text(self) -> str:
        """Return a table of options, their defaults and meanings."""
        kind = registry.agent_class(self.arguments[0]).Config
        lines = ["| option | default | meaning |", "|---|---|---|"]
        for flag, default, meaning in option_rows(kind, kind()):
            shown = f"`{default}`" if default else ""
            lines.append(f"| `{flag}` | {shown} | {meaning.replace('|', chr(92) + '|')} |")
        return "\n".join(lines)


class Results(_Generated):
    """Measured results, made by benchmarks/table.py: ``{results} rl2``, ``{results} readme``."""

    def text(self) -> str:
        """Return the table."""
        return table.table(self.arguments[0])


DIRECTIVES: dict[str, type[_Generated]] = {"options": Options, "results": Results}


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directives to Sphinx."""
    for name, directive in DIRECTIVES.items():
        app.add_directive(name, directive)
    return {"parallel_read_safe": True}

"""Tables of means and intervals, on the console and in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from rich.table import Table

from metarl.console import console

Cells: TypeAlias = dict[str, str]
"""The texts of one row of a table, by the name of their column."""


def conditions_text(conditions: Mapping[str, Any]) -> str:
    """Return what distinguishes an evaluation from a plain one, in words.

    >>> conditions_text({"change_task_after": 5, "reward_noise": 0.1})
    'another task after 5 episodes, reward noise 0.1'
    """
    special = {"change_task_after": "another task after {} episodes", "context": "context: {}"}
    return ", ".join(
        special.get(name, f"{name.replace('_', ' ')} {{}}").format(value)
        for name, value in conditions.items()
    )


def print_rows(rows: Sequence[Cells], left: int = 1) -> None:
    """Print a table, in parts if the console is too narrow.

    Args:
        rows: the texts by column, the same columns in every row.
        left: the number of columns that every part begins with, and whose text starts at the left.
    """
    titles = list(rows[0])
    widths = {t: max(map(_width, (t, *(row[t] for row in rows)))) + 3 for t in titles}
    fixed, rest = titles[:left], titles[left:]
    while rest:
        part: list[str] = []
        free = console.width - 1 - sum(widths[title] for title in fixed)
        while rest and (not part or widths[rest[0]] <= free):
            free -= widths[rest[0]]
            part.append(rest.pop(0))
        table = Table()
        for title in (*fixed, *part):
            table.add_column(title, justify="left" if title in fixed else "right")
        for row in rows:
            table.add_row(*(row[title] for title in (*fixed, *part)))
        console.print(table)


def markdown_rows(rows: Sequence[Cells], left: int = 1) -> list[str]:
    """Return the lines of a table in Markdown; ``left`` is that of :func:`print_rows`."""
    titles = [title.replace("\n", " ") for title in rows[0]]
    rules = ["---"] * left + ["--:"] * (len(titles) - left)
    return [markdown_line(titles), markdown_line(rules)] + [
        markdown_line(list(row.values())) for row in rows
    ]


def with_bounds(statistics: Mapping[str, Any]) -> str:
    """Return a mean and its interval, if it has one, as text: ``0.512 (0.480 to 0.545)``."""
    if statistics.get("low") is None:
        return _texts(statistics["mean"])[0]
    mean, low, high = _texts(statistics["mean"], statistics["low"], statistics["high"])
    return f"{mean} ({low} to {high})"


def with_half(statistics: Mapping[str, Any]) -> str:
    """Return a mean and the wider side of its interval as text: ``0.512 ±0.033``."""
    if statistics.get("low") is None:
        return _texts(statistics["mean"])[0]
    mean, low, high = (statistics[key] for key in ("mean", "low", "high"))
    return " ±".join(_texts(mean, max(mean - low, high - mean)))


def _texts(*numbers: float) -> list[str]:
    """Return numbers with three digits after the point, or one if they are large."""
    digits = 3 if max(map(abs, numbers)) < 100 else 1
    return [f"{number:.{digits}f}" for number in numbers]


def _width(text: str) -> int:
    """Return the number of characters of a text's longest line."""
    return max(map(len, text.split("\n")))


def markdown_line(cells: Sequence[str]) -> str:
    """Return a line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

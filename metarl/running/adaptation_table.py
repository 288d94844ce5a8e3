"""An adaptation curve as rows and figures, as programs that show runs take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metarl.evaluation.report import metric_names, metric_of


def adaptation_rows(
    summary: Mapping[str, Any], untrained: Mapping[str, Any]
) -> tuple[list[str], list[list[float | None]]]:
    """Return a table with one row for each point of an adaptation curve.

    Args:
        summary: the content of ``evaluation/<split>.json``.
        untrained: the same of the untrained agent.

    Returns:
        The columns' names, the first of which is ``episodes``, and the rows: for each metric its
        mean, the bounds of its interval, which are None if it has none, and the untrained mean.
    """
    metrics = metric_names(summary)
    columns = ["episodes"]
    for name in metrics:
        columns += [name, f"{name} low", f"{name} high", f"untrained {name}"]
    rows: list[list[float | None]] = []
    for i, episodes in enumerate(summary["episodes"]):
        row: list[float | None] = [episodes]
        for name in metrics:
            values, other = metric_of(summary, name), metric_of(untrained, name)
            bounds = [values[key][i] if values.get(key) else None for key in ("low", "high")]
            row += [values["mean"][i], *bounds, other["mean"][i]]
        rows.append(row)
    return columns, rows


def adaptation_figures(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of an evaluation by name, such as ``test/return_after``."""
    split, figures = summary["split"], {}
    for name in metric_names(summary):
        mean = metric_of(summary, name)["mean"]
        figures[f"{split}/{name}_before"], figures[f"{split}/{name}_after"] = mean[0], mean[-1]
    figures[f"{split}/gain"] = summary["gain"]["mean"]
    if summary["trial_return"] is not None:
        figures[f"{split}/trial_return"] = summary["trial_return"]["mean"]
    return figures

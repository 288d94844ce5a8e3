"""Draw what contexts are worth, what they tell of tasks, and what disturbances cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from metarl.evaluation.control_table import Controls, context_name
from metarl.evaluation.plotting import finish, save_figure
from metarl.evaluation.probe import ProbeCurve
from metarl.evaluation.robustness import Robustness


def plot_probe(curves: Mapping[str, ProbeCurve], path: Path, env: str) -> None:
    """Draw how much of tasks' parameters a linear probe explains against experience.

    Args:
        curves: the curves by their labels; the first is drawn in colour, others dashed and grey.
        path: the picture's file; its suffix determines the format.
        env: the name of the environment, for the title.
    """
    figure = Figure(figsize=(8.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, (label, curve) in enumerate(curves.items()):
        style: dict[str, Any] = {"color": "0.45", "linestyle": "--"} if number else {"color": "C0"}
        axes.plot(curve.experience, curve.mean, marker="o", markersize=4, label=label, **style)
        axes.fill_between(
            curve.experience, curve.low, curve.high, color=style["color"], alpha=0.2, linewidth=0
        )
    first = next(iter(curves.values()))
    if first.unit == "steps" and first.experience[-1] > 20:
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_formatter(ScalarFormatter())
    names = ", ".join(first.parameters[:4]) + (", …" if len(first.parameters) > 4 else "")
    axes.set_title(f"{env}\nwhat a linear probe reads from the context: {names}", fontsize=11)
    axes.set_xlabel(f"{first.unit} of experience with the task")
    axes.set_ylabel("explained share of variance (R²)")
    lowest = min(float(curve.mean.min()) for curve in curves.values())
    axes.set_ylim(max(-0.5, min(-0.05, lowest - 0.05)), 1.05)
    axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    finish(axes, integers=first.unit != "steps")
    save_figure(figure, path, 130)


def plot_controls(controls: Controls, path: Path) -> None:
    """Draw the return with each context against episodes of experience, a panel an agent.

    Args:
        controls: the agents and baselines with the contexts of controls.
        path: the picture's file; its suffix determines the format.
    """
    number = len(controls.participants)
    columns = min(number, 3)
    size = -(-number // columns), columns
    inches = 4.2 * size[1] + 2.4, 3.4 * size[0] + 0.8
    figure = Figure(figsize=inches, layout="constrained")
    grid = figure.subplots(*size, squeeze=False, sharey=True)
    rows = [row for row in controls.rows if row["metric"] == "return"]
    references = [row for row in rows if row["kind"] == "reference"]
    for axes, participant in zip(grid.flat, controls.participants, strict=False):
        for row in (r for r in rows if r["label"] == participant.label and r not in references):
            style = CONTROL_STYLES[row["control"]]
            x, values = row["episodes"], row["value"]
            marker = {"marker": "o", "markersize": 3} if len(x) <= 30 else {}
            axes.plot(x, values["mean"], label=context_name(row), **style, **marker)
            _band(axes, x, values, style["color"])
        for row, dashes in zip(references, ("--", ":"), strict=False):
            label = f"{row['label']} ({context_name(row)})"
            axes.axhline(row["value"]["mean"][0], color="0.45", linestyle=dashes, label=label)
        axes.set_title(participant.label, fontsize=10)
        axes.set_xlabel("episodes of experience")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid.flat[number:]:
        axes.set_visible(False)
    for row in grid:
        row[0].set_ylabel("return of an episode")
    last = grid[0, columns - 1]
    last.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), title="context")
    figure.suptitle(f"{controls.title}\nmean and 95% interval", fontsize=10)
    save_figure(figure, path, 130)


CONTROL_STYLES: dict[str, dict[str, Any]] = {
    "own": {"color": "C0", "linewidth": 2},
    "another-task": {"color": "C3", "linewidth": 1.6},
    "reset-every-episode": {"color": "C2", "linewidth": 1.2, "linestyle": (0, (5, 2))},
    "reset-every-step": {"color": "C4", "linewidth": 1.2, "linestyle": (0, (1, 1.5))},
}
"""The line of each control of the context."""


def plot_robustness(robustness: Robustness, path: Path) -> None:
    """Draw the return after adaptation, and before it (dotted), against a disturbance.

    Args:
        robustness: the agents and baselines at every level.
        path: the picture's file; its suffix determines the format.
    """
    figure = Figure(figsize=(8.5, 4.5), layout="constrained")
    axes = figure.subplots()
    levels = robustness.levels
    for number, row in enumerate(robustness.rows):
        color = f"C{number % 10}"
        wide: dict[str, Any] = {"linewidth": 2 if row["kind"] == "agent" else 0.9, "color": color}
        after, before = row["after"], row["before"]
        label = f"{row['label']}, after {row['episodes']} episodes"
        axes.plot(levels, after["mean"], marker="o", markersize=4, label=label, **wide)
        _band(axes, levels, after, color)
        axes.plot(levels, before["mean"], linestyle=":", **wide)
    axes.plot([], [], color="0.4", linestyle=":", label="before adaptation")
    axes.set_title(f"{robustness.title}\nmean and 95% interval", fontsize=10)
    axes.set_xlabel(robustness.words)
    axes.set_ylabel("return of an episode")
    finish(axes, integers=robustness.disturbance == "action_delay")
    save_figure(figure, path, 130)


def _band(axes: Axes, x: Any, values: Mapping[str, Any], color: str) -> None:
    """Draw an interval, if there is one."""
    if values["low"] is not None:
        axes.fill_between(x, values["low"], values["high"], color=color, alpha=0.15, linewidth=0)

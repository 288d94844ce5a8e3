"""Draw groups of runs beside each other: means with every seed, and performance profiles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metarl.evaluation.plotting import save_figure
from metarl.evaluation.tables import conditions_text
from metarl.task import SPLIT_NAMES


def plot_groups(result: Mapping[str, Any], path: Path) -> None:
    """Draw each measure of a comparison of groups: the means, and the performance profiles.

    A mean has a thick 95% interval over training seeds and tasks, or a thin dashed one over tasks
    where a group has fewer than three seeds, and every seed is a dot. A performance profile
    (Agarwal et al. 2021, section 4.2) is the share of seeds and tasks whose score is above a
    threshold: a profile that lies above another one everywhere is better in every quantile, and
    where two cross, which group is better depends on whether low or high scores count.

    Args:
        result: what :func:`metarl.running.groups.compare_groups` returns.
        path: the picture's file; its suffix determines the format.
    """
    measures = result["measures"]
    labels = [group["label"] for group in next(iter(measures.values()))["groups"]]
    height = len(measures) * (1.9 + 0.35 * len(labels)) + 0.8
    figure = Figure(figsize=(11, height), layout="constrained")
    grid = figure.subplots(len(measures), 2, squeeze=False, width_ratios=(1, 1.1))
    for (title, measure), (means, profiles) in zip(measures.items(), grid, strict=True):
        name = f"{result['metric']}, {title}"
        _draw_means(means, measure["groups"])
        means.set_xlabel(f"{name}: mean, 95% interval, seeds")
        for number, label in enumerate(labels):
            color, style = _style(number)
            profiles.step(
                measure["profiles"]["thresholds"],
                measure["profiles"][label],
                where="post",
                label=label,
                color=color,
                linestyle=style,
            )
        profiles.set_xlabel(f"{name}: threshold")
        profiles.set_ylabel("share of seeds and\ntasks above it")
        profiles.set_ylim(-0.02, 1.02)
        for axes in (means, profiles):
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
    grid[0, 1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    said = [f"{result['actions']} actions", f"{result['checkpoint']} checkpoint"]
    said += filter(None, [conditions_text(result.get("conditions") or {})])
    split = SPLIT_NAMES[result["split"]]
    figure.suptitle(
        f"{result['env']}\n{result['num_tasks']:,} {split} tasks ({', '.join(said)})", fontsize=11
    )
    save_figure(figure, path, 130)


def _draw_means(axes: Axes, groups: Any) -> None:
    """Draw the mean of each group, one below another."""
    for number, group in enumerate(groups):
        color, _ = _style(number)
        if group["low"] is not None:
            sure = group["over"] == "seeds and tasks"
            look: dict[str, Any] = {"linewidth": 5 if sure else 1.2, "alpha": 0.3 if sure else 1.0}
            look["linestyle"] = "-" if sure else "--"
            axes.plot([group["low"], group["high"]], [number] * 2, color=color, **look)
        seeds = group["seed_means"]
        axes.plot(seeds, [number] * len(seeds), linestyle="", marker=".", color=color, alpha=0.6)
        axes.plot(group["mean"], number, marker="|", markersize=16, color=color)
    flagged = [" (two kinds of seeds)" * group["two_kinds"] for group in groups]
    names = [group["label"] + flag for group, flag in zip(groups, flagged, strict=True)]
    axes.set_yticks(range(len(groups)), names)
    axes.set_ylim(len(groups) - 0.5, -0.5)


def _style(number: int) -> tuple[str, str]:
    """Return the colour and the line style of a group."""
    return f"C{number % 10}", ("-", "--", ":", "-.")[number // 10 % 4]

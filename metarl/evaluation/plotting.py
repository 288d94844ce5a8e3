"""Draw adaptation curves, learning curves and paths in the plane."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter

from metarl.evaluation.report import metric_of
from metarl.evaluation.tables import conditions_text
from metarl.files import replacing
from metarl.task import SPLIT_NAMES

THIN_LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)))
"""The dashes of baselines' lines: the next ones are taken whenever all colours have been used."""


Axis: TypeAlias = Literal["episodes", "env-steps"]
"""What the x axis of a picture counts."""

AXES: dict[Axis, str] = {"episodes": "episodes", "env-steps": "environment steps"}
"""The words for an axis."""


class Line(NamedTuple):
    """One adaptation curve of a picture."""

    label: str
    """The curve's name in the legend."""
    summary: dict[str, Any]
    """The content of ``evaluation/<split>.json``."""
    reference: bool = False
    """Whether other curves are compared with this one; it is drawn dashed, and grey if possible."""
    baseline: bool = False
    """Whether the curve is of a baseline, which is drawn thin and has no checkpoint."""
    steps_per_episode: int = 1
    """What the episodes on the x axis are multiplied by: the steps of an episode, or 1."""

    @property
    def x(self) -> list[int]:
        """The places of the points on the x axis."""
        return [episodes * self.steps_per_episode for episodes in self.summary["episodes"]]

    @property
    def change(self) -> float | None:
        """The place halfway between the points before and after a change of the task, if any."""
        after = (self.summary.get("conditions") or {}).get("change_task_after")
        later = [episodes >= after for episodes in self.summary["episodes"]] if after else []
        if len(set(later)) < 2:
            return None
        first = later.index(True)
        return (self.x[first - 1] + self.x[first]) / 2


def plot_adaptation(
    lines: Sequence[Line], path: Path, metric: str = "return", axis: Axis = "episodes"
) -> None:
    """Draw each evaluation's mean and 95% interval against episodes of experience.

    The interval of one run is over tasks; that of several seeds is over seeds and tasks, and every
    seed's mean is a dot.

    If all evaluations have the same kind of tasks, actions and measure, the title and the axis
    labels say so. If these or the checkpoints differ, the legend says which a line has, and a
    reference has the colour of the line before it. The lines of an oracle always say "told the
    task". Baselines have thin lines, whose number is not limited by that of the colours. Where
    baselines have much more experience than the agents, its axis is logarithmic beyond theirs.

    Args:
        lines: the curves, each reference after the line it belongs to.
        path: the picture's file; its suffix determines the format.
        metric: the metric to draw, ``return``, ``success`` or another one that all have.
        axis: what the x axis counts; the lines' ``steps_per_episode`` are to match it.
    """
    kinds = [_kind(line.summary) for line in lines]
    own_kinds = [kind for kind, line in zip(kinds, lines, strict=True) if not line.baseline]
    differ = [
        name
        for name in kinds[0]
        if len({kind[name] for kind in (own_kinds if name == "checkpoint" else kinds)}) > 1
    ]
    figure = Figure(figsize=(8.5, 4.5), layout="constrained")
    axes = figure.subplots()
    colors = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    drawn, named = 0, set()
    for line, kind in zip(lines, kinds, strict=True):
        values, x = metric_of(line.summary, metric), line.x
        if line.reference:
            color = colors[(drawn - 1) % len(colors)] if differ and drawn else "0.45"
            style: dict[str, Any] = {"color": color, "linestyle": "--", "linewidth": 1.4}
        elif line.baseline:
            dashes = THIN_LINES[drawn // len(colors) % len(THIN_LINES)]
            style = {"color": colors[drawn % len(colors)], "linewidth": 0.9, "linestyle": dashes}
            drawn += 1
        else:
            style = {"color": colors[drawn % len(colors)], "linewidth": 2}
            drawn += 1
        if len(x) <= 30 and not line.baseline:
            style |= {"marker": "o", "markersize": 4}
        label = line.label
        shown = [name for name in kind if name in differ or name == "told"]
        without = line.reference or line.baseline
        own = [kind[n] for n in shown if not (without and n == "checkpoint")]
        label += f" ({', '.join(filter(None, own))})" if any(own) else ""
        # References of one name look alike, so only the first one is listed in the legend.
        hidden = line.reference and label in named
        named.add(label)
        label = "_" + label if hidden else label
        axes.plot(x, values["mean"], label=label, **style)
        if values.get("low") is not None:
            alpha = 0.07 if line.baseline else 0.2
            bounds = values["low"], values["high"]
            axes.fill_between(x, *bounds, color=style["color"], alpha=alpha, linewidth=0)
        for seed in line.summary.get("seed_means", {}).get(metric, ()):
            axes.plot(x, seed, linestyle="", marker=".", color=style["color"], alpha=0.6)
    for place in sorted({line.change for line in lines if line.change is not None}):
        axes.axvline(place, color="0.4", linestyle=":", linewidth=1.2, zorder=0)
    envs = sorted({line.summary["env"] for line in lines})
    counts = sorted({line.summary["num_tasks"] for line in lines if not line.reference})
    number = f"{counts[0]:,}" + (f" to {counts[-1]:,}" if len(counts) > 1 else "")
    tasks = kinds[0]["tasks"] if "tasks" not in differ else "tasks (splits: see the legend)"
    axes.set_title(f"{', '.join(envs)}\n{number} {tasks}, mean and 95% interval", fontsize=11)
    full = ", episodes of full length" if axis == "env-steps" else ""
    axes.set_xlabel(f"{AXES[axis]} of experience with the task{full}")
    common = {name: kinds[0][name] for name in ("actions", "score") if name not in differ}
    said = [common.get("actions", "actions: see the legend"), common.get("score", "")]
    best = "checkpoint" not in differ and kinds[0]["checkpoint"] != "final checkpoint"
    said += [kinds[0]["checkpoint"]] if best else []
    said += [kinds[0]["conditions"]] if "conditions" not in differ else []
    axes.set_ylabel(f"{metric} of an episode\n({', '.join(filter(None, said))})")
    finish(axes)
    _shrink_beyond(axes, lines)
    save_figure(figure, path, 130)


def _shrink_beyond(axes: Axes, lines: Sequence[Line]) -> None:
    """Make the x axis logarithmic beyond the agents' points if baselines go on far beyond them."""
    own = max((line.x[-1] for line in lines if not line.baseline), default=0)
    every = max(line.x[-1] for line in lines)
    if own == 0 or every <= 2 * own:
        return
    decades = float(np.log10(every / own))
    axes.set_xscale("symlog", linthresh=own, linscale=1.5 * decades)
    beyond = [own * factor for factor in (2, 5, 10, 20, 50, 100) if own * factor < 0.7 * every]
    axes.set_xticks([0, own // 2, own, *beyond, every])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.axvline(own, color="0.8", linewidth=0.8, zorder=0)


class Learning(NamedTuple):
    """One learning curve of a picture: a metric during training, of one seed or of several."""

    label: str
    """The curve's name in the legend."""
    seeds: Sequence[Sequence[tuple[int, float]]]
    """The points of each seed, along the x axis."""
    before: bool = False
    """Whether the curve is of the time before adaptation, which is drawn dotted."""

    def mean(self) -> list[tuple[int, float]]:
        """Return the mean over seeds at the places that all of them have."""
        values = [dict(points) for points in self.seeds]
        shared = [x for x in values[0] if all(x in seed for seed in values)]
        return [(x, float(np.mean([seed[x] for seed in values]))) for x in sorted(shared)]


def plot_learning(
    curves: Sequence[Sequence[Learning]],
    path: Path,
    env: str,
    metric: str = "return",
    axis: Axis = "env-steps",
) -> None:
    """Draw a metric during training; several seeds have thin lines below their mean.

    Args:
        curves: the curves of each run or group, which share a colour.
        path: the picture's file; its suffix determines the format.
        env: the name of the environment, for the title.
        metric: the metric's name: ``return``, or one of the metrics' file.
        axis: what the x axis counts.
    """
    figure = Figure(figsize=(8.5, 4.5), layout="constrained")
    axes = figure.subplots()
    colors = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    for index, group in enumerate(curves):
        color = colors[index % len(colors)]
        for curve in group:
            style = ":" if curve.before else "-"
            if len(curve.seeds) > 1:
                for points in filter(None, curve.seeds):
                    thin = {"linestyle": style, "color": color, "linewidth": 0.6, "alpha": 0.5}
                    axes.plot(*zip(*points, strict=True), **thin)
            points = curve.mean()
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    linestyle=style,
                    color=color,
                    linewidth=1.6,
                    label=curve.label,
                )
    whole = "/" in metric
    kind = "" if whole and not metric.startswith("train/") else "training tasks, sampled actions"
    axes.set_title(f"{env}\n{kind}", fontsize=11)
    axes.set_xlabel(f"{AXES[axis]} of training")
    axes.set_ylabel(metric if whole else f"{metric} of an episode")
    finish(axes, integers=False)
    save_figure(figure, path, 130)


class Paths(NamedTuple):
    """One panel of a picture of paths."""

    goal: Sequence[float]
    """The task's goal: its two coordinates."""
    paths: Sequence[npt.NDArray[np.floating[Any]]]
    """The positions in each episode, ``[time, 2]``."""


def plot_paths(
    rows: Sequence[Sequence[Paths]], titles: Sequence[str], path: Path, title: str
) -> None:
    """Draw paths in the plane, with one row per task and one column per stage of adaptation.

    Args:
        rows: the panels, ``[task, stage]``.
        titles: the title of each column.
        path: the picture's file; its suffix determines the format.
        title: the title of the picture.
    """
    shape = len(rows), len(titles)
    size = 2.3 * shape[1] + 0.4, 2.3 * shape[0] + 0.5
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(*shape, squeeze=False, sharex=True, sharey=True)
    for row, panels in zip(grid, rows, strict=True):
        for axes, panel in zip(row, panels, strict=True):
            for line in panel.paths:
                axes.plot(line[:, 0], line[:, 1], linewidth=0.9, alpha=0.75)
            axes.plot(0, 0, "o", color="0.3", markersize=4)
            axes.plot(*panel.goal, "*", color="black", markersize=11)
            axes.set_aspect("equal")
            axes.set(xlim=(-1, 1), ylim=(-1, 1))
            axes.grid(alpha=0.25)
    for axes, text in zip(grid[0], titles, strict=True):
        axes.set_title(text, fontsize=10)
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path, 110)


def _kind(summary: dict[str, Any]) -> dict[str, str]:
    """Return the properties of an evaluation, in the words that pictures use."""
    checkpoint = summary.get("checkpoint", "final")
    copies = summary.get("score") == "greedy-copy"
    return {
        "tasks": _tasks(summary),
        "told": "told the task" if summary.get("told_task") else "",
        "actions": f"{summary['actions']} actions",
        "score": "greedy copies" if copies else "",
        "checkpoint": f"{checkpoint} checkpoint",
        "conditions": conditions_text(summary.get("conditions") or {}),
    }


PICTURES = (".png", ".pdf", ".svg")
"""How the names of pictures end."""


def save_figure(figure: Figure, path: Path, dpi: int) -> None:
    """Write a picture to its file, completely or not at all.

    Figures are made without pyplot, so that those of a notebook are still shown in it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _break_titles(figure)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format=path.suffix[1:])


def _break_titles(figure: Figure) -> None:
    """Break titles that are wider than the figure: names of environments have no end."""
    texts = [*figure.texts, *(axes.title for axes in figure.axes)]
    texts = [text for text in texts if len(text.get_text()) > 40]
    if texts:
        figure.draw_without_rendering()  # Only now it is known where they are.
    for text in texts:
        box = text.get_window_extent()
        middle = (box.x0 + box.x1) / 2
        room = 2 * min(middle, figure.bbox.width - middle)
        if box.width > room:
            lines = text.get_text().split("\n")
            limit = int(max(map(len, lines)) * room / box.width)
            text.set_text("\n".join(part for line in lines for part in _broken(line, limit)))


def _broken(line: str, limit: int) -> list[str]:
    """Return a line in parts of at most ``limit`` characters that end after a comma or a space."""
    parts = [""]
    for word in re.split(r"(?<=[, +])", line):
        if parts[-1] and len(parts[-1]) + len(word.rstrip()) > limit:
            parts.append("")
        parts[-1] += word
    return parts


def _tasks(summary: dict[str, Any]) -> str:
    shared = " (the same tasks as in training)" if summary["shared_split"] else ""
    return f"{SPLIT_NAMES[summary['split']]} tasks{shared}"


def finish(axes: Axes, integers: bool = True) -> None:
    """Draw grid and legend; ``integers`` is whether the x axis has whole numbers only."""
    if integers:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))

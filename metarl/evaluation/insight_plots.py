"""Draw what an agent knew at every step of a trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from metarl.evaluation.insight import Insights
from metarl.evaluation.plotting import save_figure
from metarl.experience.agent import ATTENTION

MOST_PICTURES = 8
"""The largest number of moments at which a map is drawn."""

Array = npt.NDArray[Any]


def plot_insight(insights: Insights, row: int, path: Path, title: str) -> None:
    """Draw what was known during one trial: the rewards above, then every insight by its shape.

    Attention ``[layer, distance]`` is a square for each layer: what the step on the vertical axis
    looked at. Maps ``[row, column]`` are drawn at a few moments, and rows of numbers against the
    steps. Lines separate episodes.

    Args:
        insights: what was watched.
        row: the number of the task.
        path: the picture's file; its suffix determines the format.
        title: what stands above it.
    """
    length = int(insights.valid[row].sum())
    starts = np.flatnonzero(insights.boundary[row, :length])
    known = {name: x[row, :length] for name, x in insights.known.items()}
    attention = known.pop(ATTENTION, None)
    maps = {name: x for name, x in known.items() if x.ndim == 3}
    rows = {name: x.reshape(length, -1) for name, x in known.items() if x.ndim != 3}
    layers = 0 if attention is None else attention.shape[1]
    heights = [0.6, *[1.4] * len(rows), *[1.4] * len(maps), *[3.4] * bool(layers)]
    figure = Figure(figsize=(9.0, sum(heights) + 1.2), layout="constrained")
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    panels = iter(range(len(heights)))
    above = figure.add_subplot(grid[next(panels)])
    above.bar(np.arange(length), insights.reward[row, :length], width=1.0, color="C0")
    above.set_ylabel("reward", fontsize=9)
    _steps(above, starts, length)
    for name, numbers in rows.items():
        axes = figure.add_subplot(grid[next(panels)])
        _draw_rows(axes, name, numbers)
        _steps(axes, starts, length)
    for name, pictures in maps.items():
        chosen = np.unique(np.linspace(0, length - 1, MOST_PICTURES).round().astype(int))
        inner = grid[next(panels)].subgridspec(1, len(chosen))
        for place, step in enumerate(chosen):
            axes = figure.add_subplot(inner[place])
            axes.imshow(pictures[step], vmin=0, vmax=max(pictures.max(), 1e-9), origin="lower")
            axes.set_title(f"{name}, step {step}", fontsize=7)
            axes.set(xticks=[], yticks=[])
    if attention is not None:
        inner = grid[next(panels)].subgridspec(1, layers)
        for layer in range(layers):
            axes = figure.add_subplot(inner[layer])
            norm = PowerNorm(0.5, 0, 1)  # Small weights are many, and show a pattern too.
            axes.imshow(looked_at(attention[:, layer]), cmap="magma_r", norm=norm)
            axes.tick_params(labelsize=7)
            axes.set_title(f"attention, layer {layer + 1}", fontsize=9)
            axes.set_xlabel("step that is looked at", fontsize=9)
            axes.set_ylabel("step that looks", fontsize=9)
            for start in starts[1:]:
                axes.axvline(start - 0.5, color="0.6", linewidth=0.6)
                axes.axhline(start - 0.5, color="0.6", linewidth=0.6)
    figure.suptitle(f"{title}\n{insights.tasks[row]}", fontsize=9)
    save_figure(figure, path, 130)


def looked_at(weights: Array) -> Array:
    """Return weights ``[step, distance]`` as ``[step, step looked at]``; what lies ahead is NaN.

    >>> looked_at(np.array([[1.0, 0.0], [0.75, 0.25]])).tolist()
    [[1.0, nan], [0.25, 0.75]]
    """
    length, reach = weights.shape
    step = np.arange(length)
    distance = step[:, None] - step
    seen = (distance >= 0) & (distance < reach)
    found = np.take_along_axis(weights, distance.clip(0, reach - 1), axis=1)
    return np.where(distance < 0, np.nan, np.where(seen, found, 0.0))


def _draw_rows(axes: Axes, name: str, numbers: Array) -> None:
    """Draw a few numbers as lines, and many as a picture."""
    if numbers.shape[1] <= 3:
        axes.plot(numbers, linewidth=1.2)
    else:
        most = float(np.abs(numbers).max()) or 1.0
        axes.imshow(
            numbers.T, aspect="auto", cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest"
        )
    axes.set_ylabel(name, fontsize=9)


def _steps(axes: Axes, starts: Array, length: int) -> None:
    """Show the same steps in every panel, and where episodes begin."""
    axes.set_xlim(-0.5, length - 0.5)
    for start in starts[1:]:
        axes.axvline(start - 0.5, color="0.6", linewidth=0.6)
    axes.tick_params(labelsize=7)

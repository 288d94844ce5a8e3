"""Print evaluations as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from metarl.console import console
from metarl.evaluation.recovery import recovery_text
from metarl.evaluation.statistics import FEWEST_SEEDS
from metarl.evaluation.tables import conditions_text
from metarl.task import SPLIT_NAMES

TWO_KINDS = (
    "The seeds are of two kinds, as if some succeeded and some failed: look at each seed, since "
    "the mean describes neither kind. Three or four such seeds can also all come out alike: that "
    "is not seen, and their interval misses."
)
"""What is said of seeds that :func:`metarl.evaluation.scores.has_two_kinds`."""


def print_adaptation(summary: Mapping[str, Any], untrained: Mapping[str, Any]) -> None:
    """Print an adaptation curve: one row per point, with the mean of an untrained agent."""
    kind = SPLIT_NAMES[summary["split"]]
    shared = ", the same tasks as in training" if summary["shared_split"] else ""
    told = " (told the task)" if summary.get("told_task") else ""
    tasks, reference = summary["num_tasks"], untrained["num_tasks"]
    fewer = "" if reference == tasks else f"; the untrained agent on the first {reference:,}"
    console.print(
        f"{summary['agent']}{told} on {tasks:,} {kind} tasks of "
        f"{summary['env']}{shared} ({summary['actions']} actions, {summary['checkpoint']} "
        f"checkpoint, iteration {summary['iteration']}){fewer}"
    )
    if summary.get("conditions"):
        console.print(f"conditions: {conditions_text(summary['conditions'])}")
    for metric in metric_names(summary):
        _print_points(metric, summary, untrained)
        if summary["groups"] and len(summary["groups"]) > 1:
            _print_groups(metric, summary, untrained)
    gain = summary["gain"]
    if len(summary["episodes"]) > 1:
        console.print(
            f"gain from first to last point, paired by task: {gain['mean']:.3f}"
            f"{_in_brackets(gain)}, untrained {untrained['gain']['mean']:.3f}"
        )
    total = summary["trial_return"]
    if total is not None:
        console.print(
            f"total return of a trial: {total['mean']:.3f}{_in_brackets(total)}, untrained "
            f"{untrained['trial_return']['mean']:.3f}"
        )
    seeds = summary["seed"] if isinstance(summary.get("seed"), list) else None
    if seeds is not None and len(seeds) < FEWEST_SEEDS:
        console.print(f"no intervals: {len(seeds)} seeds are too few, they take {FEWEST_SEEDS}")
    if summary.get("two_kinds"):
        console.print(TWO_KINDS)
    if summary.get("recovery"):
        after = summary["conditions"]["change_task_after"]
        console.print(recovery_text(summary["recovery"], after))


def _in_brackets(statistics: Mapping[str, Any]) -> str:
    """Return the interval of some statistics as text, which is empty if there is none."""
    if statistics["low"] is None:
        return ""
    return f" ({statistics['low']:.3f} to {statistics['high']:.3f})"


def metric_names(summary: Mapping[str, Any]) -> list[str]:
    """Return the metrics of an evaluation: the return, success if reported, and other values."""
    success = ["success"] if summary["success"] is not None else []
    return ["return", *success, *summary.get("info", {})]


def metric_of(summary: Mapping[str, Any], metric: str) -> dict[str, list[float]]:
    """Return the statistics of one metric of :func:`metric_names`, each a list of points."""
    found: dict[str, list[float]] = {**summary, **summary.get("info", {})}[metric]
    return found


def _print_points(metric: str, summary: Mapping[str, Any], untrained: Mapping[str, Any]) -> None:
    table = Table()
    table.add_column("episodes of\nexperience", justify="right")
    over = "seeds, tasks" if isinstance(summary.get("seed"), list) else "tasks,\nthis run only"
    values, other = metric_of(summary, metric), metric_of(untrained, metric)
    columns = [f"{metric},\nmean", f"95% interval\nover {over}", "untrained,\nmean"]
    robust = values.get("iqm") if metric == "return" else None
    if robust:  # It is missing if scores are means over few episodes.
        columns.insert(2, "IQM")
    for column in columns:
        table.add_column(column, justify="right")
    for i, episodes in enumerate(summary["episodes"]):
        row = [
            str(episodes),
            f"{values['mean'][i]:.3f}",
            f"{values['low'][i]:.3f} to {values['high'][i]:.3f}" if values.get("low") else "",
            f"{other['mean'][i]:.3f}",
        ]
        if robust:
            row.insert(3, f"{robust[i]:.3f}")
        table.add_row(*row)
    console.print(table)


def _print_groups(metric: str, summary: Mapping[str, Any], untrained: Mapping[str, Any]) -> None:
    """Print each kind of task: means before and after adaptation, and the untrained agent's."""
    first, last = summary["episodes"][0], summary["episodes"][-1]
    table = Table()
    table.add_column("kind of task")
    for column in ("tasks", f"{metric},\n{first} episodes", f"{last} episodes", "untrained"):
        table.add_column(column, justify="right")
    for label, group in summary["groups"].items():
        means = metric_of(group, metric)["mean"]
        other = (untrained["groups"] or {}).get(label)
        beside = "" if other is None else f"{metric_of(other, metric)['mean'][-1]:.3f}"
        table.add_row(label, str(group["num_tasks"]), f"{means[0]:.3f}", f"{means[-1]:.3f}", beside)
    console.print(table)

"""Tables of groups of runs beside each other."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from metarl.console import console
from metarl.evaluation.groups import SIGNIFICANT
from metarl.evaluation.report import TWO_KINDS
from metarl.evaluation.scores import MOST_SEEDS
from metarl.evaluation.statistics import FEWEST_SEEDS
from metarl.evaluation.tables import conditions_text
from metarl.task import SPLIT_NAMES

MOST_KINDS = 60
"""The largest number of kinds of tasks that are shown one by one."""


def print_comparison(result: Mapping[str, Any]) -> None:
    """Print the tables of a comparison of groups, and what its numbers mean.

    Args:
        result: what :func:`metarl.running.groups.compare_groups` returns.
    """
    shared = ", the same tasks as in training" if result["shared_split"] else ""
    said = [f"{result['actions']} actions", f"{result['checkpoint']} checkpoint"]
    said += filter(None, [conditions_text(result.get("conditions") or {})])
    console.print(
        f"{result['num_tasks']:,} {SPLIT_NAMES[result['split']]} tasks of {result['env']}{shared} "
        f"({', '.join(said)})"
    )
    for title, measure in result["measures"].items():
        console.print(f"\n{result['metric']}, {title}")
        console.print(_groups(measure["groups"]))
        if any(len(group["by_kind"]) > 1 for group in measure["groups"]):
            console.print(_kinds(measure["groups"]))
        pairs = measure["pairs"]
        if pairs:
            console.print(_pairs(pairs))
        for pair in pairs:
            console.print(_verdict(pair, len(pairs), result["half_width"]))
    for line in _notes(result):
        console.print(line)


def to_csv(result: Mapping[str, Any]) -> str:
    """Return a comparison as lines of comma-separated values, one for each measure and pair."""
    text = io.StringIO()
    lines = []
    for title, measure in result["measures"].items():
        means = {group["label"]: group for group in measure["groups"]}
        for pair in measure["pairs"]:
            improvement = pair["improvement"]
            lines.append(
                {
                    "metric": result["metric"],
                    "measure": title,
                    "first": pair["first"],
                    "second": pair["second"],
                    "first_runs": len(means[pair["first"]]["runs"]),
                    "second_runs": len(means[pair["second"]]["runs"]),
                    "first_mean": means[pair["first"]]["mean"],
                    "second_mean": means[pair["second"]]["mean"],
                    **{f"difference_{key}": pair[key] for key in ("mean", "low", "high", "over")},
                    "p": pair["p"],
                    "corrected_p": pair["corrected_p"],
                    "better": pair["better"],
                    **{f"improvement_{k}": improvement[k] for k in ("probability", "low", "high")},
                    "seeds_for_significance": pair["seeds_for_significance"],
                    "seeds_for_half_width": pair.get("seeds_for_half_width"),
                }
            )
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _groups(groups: Any) -> Table:
    table = Table()
    table.add_column("group")
    robust = any(group["iqm"] is not None for group in groups)
    for title in ("runs", "mean", "95% interval", *(["median", "IQM"] if robust else [])):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("each seed's mean")
    for group in groups:
        middle = [_number(group["median"]), _number(group["iqm"])] if robust else []
        table.add_row(
            group["label"] + (" (two kinds of seeds)" if group["two_kinds"] else ""),
            str(len(group["runs"])),
            _number(group["mean"]),
            _bounds(group),
            *middle,
            ", ".join(map(_number, group["seed_means"])),
        )
    return table


def _kinds(groups: Any) -> Table:
    table = Table()
    table.add_column("kind of task")
    for group in groups:
        table.add_column(group["label"], justify="right")
    for kind in list(groups[0]["by_kind"])[:MOST_KINDS]:
        table.add_row(kind, *(_number(group["by_kind"].get(kind)) for group in groups))
    return table


def _pairs(pairs: Any) -> Table:
    table = Table()
    table.add_column("difference")
    titles = ["mean", "95% interval", "p", *(["p, Holm"] if len(pairs) > 1 else [])]
    for title in (*titles, "probability of\nimprovement"):
        table.add_column(title, justify="right", no_wrap=True)
    for pair in pairs:
        cells = [_number(pair["mean"]), _bounds(pair), _p(pair["p"])]
        cells += [_p(pair["corrected_p"])] if len(pairs) > 1 else []
        better = pair["improvement"]
        share = f"{better['probability']:.2f}"
        if better["low"] is not None:
            share += f" ({better['low']:.2f} to {better['high']:.2f})"
        table.add_row(f"{pair['first']} −\n{pair['second']}", *cells, share)
    return table


def _verdict(pair: Mapping[str, Any], number: int, half_width: float | None) -> str:
    """Return which group is better, by how much and how surely, and how many seeds it takes."""
    if pair["p"] is None:
        found = (
            f"{pair['first']} and {pair['second']}: undecided, since fewer than {FEWEST_SEEDS} "
            "training seeds in a group do not tell what other seeds would do"
        )
    else:
        corrected = f", corrected for {number} pairs (Holm)" if number > 1 else ""
        p = f"p = {_p(pair['corrected_p'])}{corrected}".replace("= <", "<")
        if pair["better"] is None:
            found = f"{pair['first']} and {pair['second']}: neither is shown to be higher ({p})"
        else:
            worse = pair["second"] if pair["better"] == pair["first"] else pair["first"]
            by = _number(abs(pair["mean"]))
            found = f"{pair['better']} is higher than {worse} by {by} ({p})"
    planned = f"{_seeds(pair, 'seeds_for_significance')} for p < {SIGNIFICANT}"
    if half_width is not None:
        planned += f", {_seeds(pair, 'seeds_for_half_width')} for ±{half_width:g}"
    return f"{found}. Planned seeds in each group: {planned}."


def _notes(result: Mapping[str, Any]) -> list[str]:
    """Return what the numbers mean."""
    fixed = {
        None: "tasks are a sample",
        "kinds": "kinds of tasks are fixed and count equally, tasks within a kind are a sample",
        "tasks": "these are all tasks there are, only episodes and seeds are a sample",
    }[result["fixed"]]
    groups = [group for x in result["measures"].values() for group in x["groups"]]
    notes = [
        f"Means are over training seeds and tasks; differences are paired by task; {fixed}.",
        "p-values are corrected for the pairs of one table (Holm), not for looking at several "
        "points, metrics or tables until one is small.",
        "Probability of improvement: that a run of the first group beats one of the second on a "
        "task (ties count half).",
        f"Planned seeds: as many show a difference like this one (p < {SIGNIFICANT}) with 80% "
        "probability. Fix their number before they are trained: who adds seeds until p is "
        "small and stops then (optional stopping) finds differences that do not exist.",
    ]
    if any(group["two_kinds"] for group in groups):
        notes.append(TWO_KINDS)
    return notes


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"


def _bounds(statistics: Mapping[str, Any]) -> str:
    if statistics["low"] is None:
        return "none"
    text = f"{_number(statistics['low'])} to {_number(statistics['high'])}"
    if statistics["over"] == "seeds and tasks":
        return text
    return f"{text}\n(over tasks,\nthese runs only)"


def _p(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _seeds(pair: Mapping[str, Any], planned: str) -> str:
    if pair["num_seeds"] < 2:
        return "unknown"  # One seed does not tell how much seeds differ.
    return f"over {MOST_SEEDS}" if pair[planned] is None else str(pair[planned])

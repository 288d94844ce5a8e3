"""Record runs in one JSON file: what was run, on what, how long it took and what came out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from metarl.console import console
from metarl.errors import UserError, bad_option
from metarl.evaluation.curve import read_summary
from metarl.files import write_json
from metarl.running.metrics import read_metrics
from metarl.running.run import Run
from metarl.running.settings import members


@dataclass(frozen=True)
class Summarize:
    """Write settings, times and results of evaluated runs into one JSON file."""

    runs: Positional[tuple[Path, ...]]
    """Run directories."""
    output: Path = Path("benchmarks/summary.json")
    """The file."""
    evaluation: str = "test"
    """Name of the evaluation's files: `test` for the runs' own, or one that evaluate.py made."""


def summarize_runs(
    directories: Sequence[Path],
    output: Path,
    evaluation: str = "test",
    learning_points: int = 25,
) -> None:
    """Write settings, times, evaluations and thinned learning curves of several runs.

    Args:
        directories: runs that have been evaluated.
        output: a JSON file.
        evaluation: name of the evaluation's files.
        learning_points: of each learning curve.
    """
    if not directories:
        raise bad_option("RUNS", [], "one run directory or more")
    entries = []
    for directory in itertools.chain.from_iterable(map(members, directories)):
        run = Run.open(directory)
        metrics = read_metrics(directory / "metrics.jsonl")
        if not metrics:
            raise UserError(f"{directory}: has no metrics yet")
        stride = max(1, len(metrics) // learning_points)
        kept = [m for i, m in enumerate(metrics) if (i + 1) % stride == 0 or m is metrics[-1]]
        curve = [{k: m[k] for k in m if not k.startswith("update/")} for m in kept]
        folder = directory / "evaluation"
        entries.append(
            {
                **{k: run.content[k] for k in ("commit", "command", "device", "packages")},
                "agent": run.agent_name,
                "agent_config": run.content["agent_config"],
                "train_config": run.content["train_config"],
                "train_seconds": sum(m["time/iteration_s"] for m in metrics),
                "test": read_summary(folder / f"{evaluation}.json"),
                "untrained": read_summary(folder / f"{evaluation}-untrained.json"),
                "learning_curve": curve,
            }
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, {"format": 1, "runs": entries})
    console.print(f"{len(entries)} runs: {output}")

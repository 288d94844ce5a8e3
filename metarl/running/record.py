"""Record runs in one JSON file: their settings, machines, times and results."""

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
    """Run directories of evaluated runs."""
    output: Path = Path("benchmarks/summary.json")
    """JSON file to write the record to."""
    evaluation: str = "test"
    """Name of the evaluation to record, without .json: `test` for the evaluation after training,
    or the name of one that `metarl evaluate` wrote."""


def summarize_runs(
    directories: Sequence[Path],
    output: Path,
    evaluation: str = "test",
    learning_points: int = 25,
) -> None:
    """Write settings, times, evaluations and learning curves of several runs into one file.

    Args:
        directories: the directories of evaluated runs, or of groups of seeds.
        output: the JSON file to write.
        evaluation: the name of the evaluation's file, without its suffix.
        learning_points: about how many points of each learning curve are kept.

    Raises:
        UserError: if a directory is no run, or its metrics or evaluation are missing.
    """
    if not directories:
        raise bad_option("RUNS", [], "at least one run directory")
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

"""Labels that tell runs and evaluations apart in pictures and tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from metarl.evaluation.curve import read_summary
from metarl.running.run import Run


class Source(NamedTuple):
    """The properties of a run or an evaluation that can name it in a picture or a table."""

    agent: str
    """The agent's name."""
    env: str
    """The name of the task distribution."""
    seed: str
    """The seed of the training in words, or an empty text."""
    name: str
    """The name of the folder or file."""
    path: Path
    """The folder or file."""


def source_of_run(run: Run) -> Source:
    """Return the properties of a run that can name it."""
    seed = f"seed {run.train_config.seed}"
    return Source(run.agent_name, run.env, seed, run.directory.name, run.directory)


def source_of_file(file: Path, agent: str | None) -> Source:
    """Return the source of an evaluation's file, inside a run directory or elsewhere."""
    directory = file.parent.parent
    if file.parent.name == "evaluation" and (directory / "config.json").is_file():
        run = source_of_run(Run.open(directory, agent))
        return run._replace(name=f"{run.name}/{file.stem}", path=file)
    summary = read_summary(file)
    return Source(summary["agent"], summary["env"], "", file.stem, file)


def labels_of(sources: Sequence[Source]) -> list[str]:
    """Return labels that differ: agents, with environment, seed, name and path if needed."""
    used = [i for i in range(3) if i == 0 or len({source[i] for source in sources}) > 1]
    labels = [", ".join(str(source[i]) for i in used if source[i]) for source in sources]
    if len(set(labels)) < len(labels):
        labels = [f"{label}, {x.name}" for label, x in zip(labels, sources, strict=True)]
    if len(set(labels)) < len(labels):
        labels = [f"{label} ({x.path})" for label, x in zip(labels, sources, strict=True)]
    return labels

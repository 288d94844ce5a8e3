"""Trained agents that come with the toolkit: ``metarl.load("navigation/maml-ppo")``.

Each is a run directory without its metrics, with its evaluation on held-out tasks, in the folder
``trained`` of the installed package, or in ``benchmarks/agents`` of a checkout.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Trained:
    """An agent that comes with the toolkit."""

    name: str
    """Its tasks and its kind, such as ``navigation/maml-ppo``."""
    directory: Path
    """Its run directory."""
    summary: dict[str, Any]
    """The summary of its evaluation on held-out tasks."""

    @property
    def line(self) -> str:
        """The tasks, and the return of an episode at the first and the last point, in one line."""
        first, last = (self.summary["return"]["mean"][i] for i in (0, -1))
        rounds, tasks = self.summary["episodes"][-1], self.summary["num_tasks"]
        curve = f"{first:.4g} at first, {last:.4g} after {rounds} episodes ({tasks} held-out tasks)"
        return f"{self.summary['env']}: {curve}"


def folder() -> Path:
    """Return the folder that trained agents are in."""
    installed = _PACKAGE / "trained"
    return installed if installed.is_dir() else _PACKAGE.parent / "benchmarks" / "agents"


def trained_agents() -> dict[str, Trained]:
    """Return the agents that come with the toolkit, by name."""
    found = {}
    for path in sorted(folder().glob("*/config.json")):
        kind = json.loads(path.read_text())["agent"]
        tasks, _, rest = path.parent.name.partition(f"-{kind}")
        summary = json.loads((path.parent / "evaluation" / "test.json").read_text())
        name = f"{tasks}/{kind}{rest}"
        found[name] = Trained(name, path.parent, summary)
    return found


def find(name: Path) -> Path | None:
    """Return the folder of a trained agent, or None if ``name`` is not that of one.

    ``bandit/rl2`` is short for the first name whose tasks begin with ``bandit-``.
    """
    if name.is_absolute() or len(name.parts) != 2:
        return None
    tasks, kind = name.parts
    for path in sorted(folder().glob(f"{tasks}*/config.json")):
        own = path.parent.name
        if own == f"{tasks}-{kind}" or (own.startswith(f"{tasks}-") and own.endswith(f"-{kind}")):
            return path.parent
    return None


def results_of(directory: Path) -> Path:
    """Return where the results of a run go: to itself, but those of a trained agent to ``runs``."""
    if directory.parent == folder():
        return Path("runs") / "trained" / directory.name
    return directory

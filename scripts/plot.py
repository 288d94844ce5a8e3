"""Compare runs in one picture: adaptation curves, learning curves; or draw one's paths."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from metarl.running.commandline import parse
from metarl.running.exits import exits
from metarl.running.plot import plot
from metarl.task import Split


@dataclass(frozen=True)
class Options:
    """What to draw."""

    runs: Positional[tuple[Path, ...]]
    """Run directories; for adaptation curves also the .json files of evaluations."""
    kind: Literal["adaptation", "learning", "paths"] = "adaptation"
    """Return against episodes of experience, or against training's environment steps; or, of
    one run on tasks with a goal in the plane, the paths of a few before and after adaptation."""
    metric: Literal["return", "success"] = "return"
    """Of adaptation curves."""
    split: Split = "test"
    """Whose evaluation to draw."""
    env: str | None = None
    """The run's tasks again, where they are a module of yours (for paths)."""
    agent: str | None = None
    """The run's agent again, where it is a module of yours (for paths)."""
    output: Path | None = None
    """The picture; by default comparison.png in the current folder, or the next free name."""


@exits
def main() -> None:
    """Plot."""
    options = vars(parse(Options, __doc__ or ""))
    plot(options.pop("runs"), options.pop("kind"), options.pop("output"), **options)


if __name__ == "__main__":
    main()

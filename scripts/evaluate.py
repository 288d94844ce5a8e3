"""Evaluate how the agent of a run adapts to held-out tasks, beside an untrained one."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from metarl.evaluation.curve import Measure
from metarl.running.checkpoints import Which
from metarl.running.commandline import parse
from metarl.running.evaluate import evaluate
from metarl.running.exits import exits
from metarl.running.run import Run
from metarl.task import Split


@dataclass(frozen=True)
class Options:
    """What to evaluate."""

    run: Positional[Path]
    """A run directory."""
    split: Split = "test"
    """Held-out tasks, validation tasks, or those of training."""
    num_tasks: int | None = None
    """How many tasks; by default as many as the run's own evaluation has."""
    num_episodes: int | None = None
    """Episodes of a trial; by default as in training, or four rounds of adaptation's."""
    seed: int = 0
    """Of tasks, episodes and actions."""
    greedy: bool = False
    """Take the most likely actions instead of sampling."""
    measure: Measure = "experience"
    """By the episodes that also adapt, or by greedy ones from a copy, thrown away."""
    checkpoint: Which = "final"
    """The last one, or the best on the validation tasks."""
    env: str | None = None
    """Other tasks of the same spaces; or the run's own again, where they are a module of yours."""
    agent: str | None = None
    """The run's agent again, where it is a module of yours."""
    official: bool = False
    """Meta-World's own evaluation too: 1.3 million of its steps on ml10."""
    video: int = 0
    """Held-out tasks to show in mp4 files, before and after adaptation."""
    num_slots: int | None = None
    """Episodes stepped at once; the result does not depend on it."""
    num_workers: int | None = None
    """Processes that step simulators, 0 for none; by default one a core."""
    env_timeout: float = 60.0
    """Seconds that one call of an environment may take in a worker."""
    env_restarts: int = 0
    """How many times a killed or hung worker is started again, its episodes replayed."""
    device: str = "cpu"
    """Where the agent runs: `cpu` or `cuda`."""
    output: Path | None = None
    """Folder for the files; by default the run's own folder of evaluations."""


@exits
def main() -> None:
    """Evaluate."""
    options = vars(parse(Options, __doc__ or ""))
    run = Run.open(options.pop("run"), options.pop("agent"))
    evaluate(run, tasks=options.pop("env"), **options)


if __name__ == "__main__":
    main()

"""The commands evaluate, plot and benchmark: each parses its options and calls one function."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from tyro.conf import Positional, subcommand

from metarl.errors import UserError
from metarl.evaluation.curve import Measure
from metarl.running.checkpoints import Which
from metarl.running.commandline import parse
from metarl.running.evaluate import evaluate
from metarl.running.plot import plot
from metarl.running.record import Summarize, summarize_runs
from metarl.running.run import Run
from metarl.task import Split

MEASURE = Path(__file__).parents[2] / "benchmarks" / "measure.py"
"""The measuring programs, which are in the source tree but not in the installed library."""


@dataclass(frozen=True)
class Evaluate:
    """Options of ``metarl evaluate``."""

    run: Positional[Path]
    """Run directory whose agent is evaluated."""
    split: Split = "test"
    """Split of the tasks: `test` are held out, `validation` choose the best checkpoint, `train` are
    the training tasks."""
    num_tasks: int | None = None
    """Number of tasks (default: as in the evaluation after training)."""
    num_episodes: int | None = None
    """Number of episodes in a trial (default: as in training if the agent learns while it acts, as
    RL² does; otherwise four rounds, of which the first comes before adaptation)."""
    seed: int = 0
    """Seed of the tasks, episodes and actions."""
    greedy: bool = False
    """Take the most likely actions instead of sampling."""
    measure: Measure = "experience"
    """Episodes to measure: `experience` are those that the agent also adapts on; `probe` are extra
    greedy ones that it forgets."""
    checkpoint: Which = "final"
    """Checkpoint to evaluate: `final` is the last one, `best` the one with the highest validation
    score."""
    env: str | None = None
    """Other tasks with the same spaces (default: the run's own). Tasks from a module of yours must
    be named again, since files cannot make the program import code."""
    agent: str | None = None
    """The run's agent, needed only if it is in a module of yours."""
    official: bool = False
    """Also run Meta-World's own evaluation, which takes 1.3 million steps on ml10."""
    video: int = 0
    """Number of tasks to film before and after adaptation, each in one mp4 file."""
    num_slots: int | None = None
    """Number of episodes stepped at once (default: as many as are useful); the result does not
    depend on it."""
    num_workers: int | None = None
    """Number of processes that step simulators (default: one per core; 0 steps them in this
    process)."""
    env_timeout: float = 60.0
    """Seconds that one call of an environment in a worker process may take."""
    env_restarts: int = 0
    """Number of times that a killed or hung worker is restarted and its episodes are replayed."""
    device: str = "cpu"
    """Device that the agent runs on: `cpu`, `cuda` or `cuda:1`."""
    output: Path | None = None
    """Folder for the files (default: the run's own folder of evaluations)."""


@dataclass(frozen=True)
class Plot:
    """Options of ``metarl plot``."""

    runs: Positional[tuple[Path, ...]]
    """Run directories to draw; adaptation curves can also come from evaluations' .json files."""
    kind: Literal["adaptation", "learning", "paths"] = "adaptation"
    """Kind of picture: `adaptation` draws the return against episodes of experience; `learning`
    draws it against the environment steps of training; `paths` draws a few paths before and after
    adaptation, of one run on tasks with a goal in the plane."""
    metric: Literal["return", "success"] = "return"
    """Metric to draw in adaptation curves."""
    split: Split = "test"
    """Split whose evaluation is drawn, or whose tasks the paths are on."""
    env: str | None = None
    """The run's tasks, needed only for paths on tasks from a module of yours."""
    agent: str | None = None
    """The run's agent, needed only if it is in a module of yours."""
    output: Path | None = None
    """File of the picture, .png, .pdf or .svg (default: comparison.png in the current folder, or
    the next free name)."""


def run_evaluate(arguments: Sequence[str]) -> None:
    """Evaluate how a run's agent adapts to held-out tasks, beside an untrained agent."""
    options = vars(parse(Evaluate, run_evaluate.__doc__ or "", "evaluate", arguments))
    run = Run.open(options.pop("run"), options.pop("agent"))
    evaluate(run, tasks=options.pop("env"), **options)


def run_plot(arguments: Sequence[str]) -> None:
    """Draw the adaptation or learning curves of runs into one picture, or one run's paths."""
    options = vars(parse(Plot, run_plot.__doc__ or "", "plot", arguments))
    plot(options.pop("runs"), options.pop("kind"), options.pop("output"), **options)


def run_benchmark(arguments: Sequence[str]) -> None:
    """Record runs in one file; in a source tree, also time agents and simulators."""
    measure = _measuring_programs()
    kinds: Any = Annotated[Summarize, subcommand("summarize")]
    if measure is not None:
        for name, (kind, _) in measure.PROGRAMS.items():
            kinds = kinds | Annotated[kind, subcommand(name)]
    elif arguments and arguments[0] == "summarize":
        arguments = arguments[1:]  # There is no other subcommand.
    elif arguments and arguments[0][0] != "-":
        raise UserError(
            f"metarl benchmark: got {arguments[0]!r}; accepted: summarize (the measuring programs "
            "are only in the source tree: python scripts/benchmark.py)"
        )
    options = parse(kinds, run_benchmark.__doc__ or "", "benchmark", arguments)
    if isinstance(options, Summarize):
        summarize_runs(options.runs, options.output, options.evaluation)
        return
    assert measure is not None
    function = next(f for kind, f in measure.PROGRAMS.values() if isinstance(options, kind))
    function(**vars(options))


def _measuring_programs() -> ModuleType | None:
    """Import ``benchmarks/measure.py`` of the source tree; return None if there is no such file."""
    if not MEASURE.is_file():
        return None
    if "measure" not in sys.modules:
        spec = importlib.util.spec_from_file_location("measure", MEASURE)
        assert spec is not None and spec.loader is not None
        sys.modules["measure"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["measure"])
    return sys.modules["measure"]

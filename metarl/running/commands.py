"""The commands evaluate, plot and benchmark: each parses its options and calls one function."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from tyro.conf import Positional, subcommand

from metarl import registry
from metarl.errors import UserError
from metarl.running.evaluate import EvaluateConfig, evaluate
from metarl.running.parsing import parse
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
    env: str | None = None
    """Other tasks with the same spaces (default: the run's own). Tasks from a module of yours must
    be named again, since files cannot make the program import code."""
    agent: str | None = None
    """Name of the run's agent, needed only if it is in a module of yours (default: the run's
    own)."""
    evaluation: EvaluateConfig = field(default_factory=EvaluateConfig)
    """What is evaluated, and how."""


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
    options = parse(Evaluate, run_evaluate.__doc__ or "", "evaluate", arguments)
    run = Run.open(options.run, options.agent)
    tasks = None if options.env is None else registry.make(options.env)
    evaluate(run, options.evaluation, tasks=tasks)


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
            "are only in the source tree)"
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

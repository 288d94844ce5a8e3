"""The commands beside train: evaluate, plot and benchmark, from options to one function each."""

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
"""Measuring programs, which are in the source tree and no part of the installed library."""


@dataclass(frozen=True)
class Evaluate:
    """What to evaluate, and how."""

    run: Positional[Path]
    """Run directory whose agent is evaluated."""
    env: str | None = None
    """Name of other tasks of the same spaces, or the run's own tasks again if they are a module of
    yours (default: the run's own)."""
    agent: str | None = None
    """The run's agent again, as `package.module:Name`, if it is a module of yours (default: the
    run's own)."""
    evaluation: EvaluateConfig = field(default_factory=EvaluateConfig)
    """What to evaluate, and how."""


@dataclass(frozen=True)
class Plot:
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


def run_evaluate(arguments: Sequence[str]) -> None:
    """Evaluate how the agent of a run adapts to held-out tasks, beside an untrained one."""
    options = parse(Evaluate, run_evaluate.__doc__ or "", "evaluate", arguments)
    run = Run.open(options.run, options.agent)
    tasks = None if options.env is None else registry.make(options.env)
    evaluate(run, options.evaluation, tasks=tasks)


def run_plot(arguments: Sequence[str]) -> None:
    """Compare runs in one picture: adaptation curves, learning curves; or draw one's paths."""
    options = vars(parse(Plot, run_plot.__doc__ or "", "plot", arguments))
    plot(options.pop("runs"), options.pop("kind"), options.pop("output"), **options)


def run_benchmark(arguments: Sequence[str]) -> None:
    """Record runs in one file; from a source tree also time an agent or simulators."""
    measure = _measuring_programs()
    kinds: Any = Annotated[Summarize, subcommand("summarize")]
    if measure is not None:
        for name, (kind, _) in measure.PROGRAMS.items():
            kinds = kinds | Annotated[kind, subcommand(name)]
    elif arguments and arguments[0] == "summarize":
        arguments = arguments[1:]  # the only subcommand there is
    elif arguments and arguments[0][0] != "-":
        raise UserError(
            f"metarl benchmark: got {arguments[0]!r}; accepted: summarize (measuring programs are "
            "in the source tree: python scripts/benchmark.py)"
        )
    options = parse(kinds, run_benchmark.__doc__ or "", "benchmark", arguments)
    if isinstance(options, Summarize):
        summarize_runs(options.runs, options.output, options.evaluation)
        return
    assert measure is not None
    function = next(f for kind, f in measure.PROGRAMS.values() if isinstance(options, kind))
    function(**vars(options))


def _measuring_programs() -> ModuleType | None:
    """Load ``benchmarks/measure.py`` of the source tree, None where there is none."""
    if not MEASURE.is_file():
        return None
    if "measure" not in sys.modules:
        spec = importlib.util.spec_from_file_location("measure", MEASURE)
        assert spec is not None and spec.loader is not None
        sys.modules["measure"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["measure"])
    return sys.modules["measure"]

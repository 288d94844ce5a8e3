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
from metarl.errors import UserError, bad_option
from metarl.evaluation.plotting import Axis
from metarl.running.catalogue import print_kinds
from metarl.running.compare import compare, name_agents, open_runs
from metarl.running.controls import evaluate_controls
from metarl.running.evaluate import EvaluateConfig, evaluate
from metarl.running.insight import draw_insight
from metarl.running.parsing import parse
from metarl.running.plot import plot
from metarl.running.probe import probe
from metarl.running.record import Summarize, summarize_runs
from metarl.running.robustness import evaluate_robustness, parse_levels
from metarl.running.run import Run
from metarl.running.shift import shifted_tasks
from metarl.task import Split

MEASURE = Path(__file__).parents[2] / "benchmarks" / "measure.py"
"""The measuring programs, which are in the source tree but not in the installed library."""

QUESTIONS = ("probe", "insight", "robustness", "controls")
"""Options of ``metarl evaluate`` that ask for something else than a curve; one at a time."""


@dataclass(frozen=True)
class Evaluate:
    """Options of ``metarl evaluate``."""

    runs: Positional[tuple[Path, ...]]
    """Run directories whose agents are evaluated; that of several seeds stands for all its runs."""
    baselines: tuple[str, ...] = ()
    """Baselines to compare with on the same tasks, such as `random`; options follow a colon, as in
    `name:option=1.5`, and `package.module:Name` is one of yours. `--list` shows all names."""
    env: str | None = None
    """Other tasks with the same spaces (default: the run's own). Tasks from a module of yours must
    be named again, since files cannot make the program import code."""
    agent: tuple[str, ...] = ()
    """Names of the runs' agents, needed only for those that are in modules of yours."""
    probe: bool = False
    """Ask what the context of one run's agent tells of its tasks, by a linear regression."""
    insight: bool = False
    """Draw what one run's agent knows at every step of three trials (or as many as
    `--evaluation-tasks`): what attention looks at, and the state or summary of its memory."""
    controls: bool = False
    """Also evaluate with another task's context, and without what was learned before the episode
    or the step: this tells whether an agent adapts to its task."""
    multitask: Path | None = None
    """Run directory of a policy for all tasks, such as `ppo-multitask`, of about as many steps, to
    stand beside `--controls` (default: none)."""
    oracle: Path | None = None
    """Run directory of a policy that is told its task, to stand beside `--controls` (default: the
    baseline `oracle`, if it applies to the tasks)."""
    robustness: tuple[str, ...] = ()
    """Name of a disturbance and the levels at which all is evaluated, such as `observation-noise 0
    0.1 0.2`, for a table and a picture of the return against it."""
    shift: str | None = None
    """Options of the run's tasks that are others than in training, such as `low=3,high=4`, so that
    the agent meets tasks outside the range it was trained on (default: none)."""
    evaluation: EvaluateConfig = field(default_factory=EvaluateConfig)
    """What is evaluated, and how."""


@dataclass(frozen=True)
class Plot:
    """Options of ``metarl plot``."""

    runs: Positional[tuple[Path, ...]]
    """Run directories to draw; that of several seeds is one curve, with every seed as dots or thin
    lines, and that of a sweep is a curve for each of its settings. Adaptation curves can also come
    from evaluations' .json files."""
    kind: Literal["adaptation", "learning", "paths"] = "adaptation"
    """Kind of picture: `adaptation` draws the return against episodes of experience; `learning`
    draws it against the environment steps of training; `paths` draws a few paths before and after
    adaptation, of one run on tasks with a goal in the plane."""
    metric: str = "return"
    """Metric to draw: `return`, `success` or another value that the environment reports; learning
    curves also show any metric that was logged by its whole name, such as `update/kl`."""
    axis: Axis | None = None
    """What the x axis counts: `episodes` or `env-steps` (default: episodes of experience with the
    task in adaptation curves, environment steps of training in learning curves)."""
    split: Split = "test"
    """Split whose evaluation is drawn, or whose tasks the paths are on."""
    env: str | None = None
    """The run's tasks, needed only for paths on tasks from a module of yours."""
    agent: str | None = None
    """The run's agent, needed only if it is in a module of yours."""
    output: Path | None = None
    """File of the picture, .png, .pdf or .svg, or .csv for the numbers in it (default:
    comparison.png in the current folder, or the next free name)."""


_EVALUATE_HELP = """\
Evaluate how a run's agent adapts to held-out tasks, beside an untrained agent.

usage: metarl evaluate RUN… [--baselines NAME…] [options]

Several runs, or baselines, are compared on the same tasks: in one table and one picture, in the
folder `comparison` of the first run. Evaluations that exist already are not made again, so that
the same command goes on with a comparison that was cut off. With --controls, the table and the
picture of contexts are in the folder `controls` of the first run.
  --list           print the names of baselines, and leave"""


def run_evaluate(arguments: Sequence[str]) -> None:
    """Evaluate the agent of a run, or compare those of several and baselines."""
    if "--list" in arguments:
        print_kinds(("baselines",))
        return
    options = parse(Evaluate, _EVALUATE_HELP, "evaluate", arguments)
    if not options.runs:
        raise bad_option("RUNS", [], "at least one run directory")
    runs = name_agents(open_runs(options.runs), options.agent)
    tasks = None if options.env is None else registry.make(options.env)
    if options.shift is not None:
        tasks = shifted_tasks(runs, options.shift, options.env)
    what = options.evaluation
    alone = len(runs) == 1 and not options.baselines
    kinds = [name for name in QUESTIONS if getattr(options, name)]
    if len(kinds) > 1:
        raise bad_option(f"--{kinds[0]}", getattr(options, kinds[0]), f"no --{kinds[1]} beside it")
    for name in () if options.controls else ("multitask", "oracle"):
        if getattr(options, name) is not None:
            raise bad_option(f"--{name}", str(getattr(options, name)), "--controls beside it")
    if options.probe or options.insight:
        if not alone:
            raise bad_option(f"--{kinds[0]}", True, "one run, without --baselines")
        (probe if options.probe else draw_insight)(runs[0], what, tasks=tasks)
        return
    if options.robustness:
        name, levels = parse_levels(options.robustness)
        evaluate_robustness(runs, name, levels, what, baselines=options.baselines, tasks=tasks)
        return
    if options.controls:
        beside = {
            name: None if path is None else Run.open(path)
            for name, path in (("multitask", options.multitask), ("oracle", options.oracle))
        }
        evaluate_controls(runs, what, baselines=options.baselines, tasks=tasks, **beside)
        return
    if alone:
        evaluate(runs[0], options.evaluation, tasks=tasks)
    else:
        compare(runs, options.evaluation, baselines=options.baselines, tasks=tasks)


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

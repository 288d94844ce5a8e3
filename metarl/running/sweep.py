"""The command ``metarl sweep``: train with every combination of some options' values."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from metarl.console import console
from metarl.constraints import AtLeast, validate
from metarl.errors import SeedsError, UserError, bad_option
from metarl.running.auto import require_same, run_train
from metarl.running.children import Child, Children, share_of_cores
from metarl.running.commandline import CHANGEABLE, without_option
from metarl.running.grid import (
    Grid,
    Setting,
    check_seeds,
    read_axes,
    read_grid,
    settings_of_grid,
)
from metarl.running.lock import held
from metarl.running.manifest import SweepRun, record_sweep
from metarl.running.parsing import command_line, parse
from metarl.running.run import Run
from metarl.running.settings import Settings
from metarl.running.states import state_of
from metarl.running.train import prepare
from metarl.stepping.workers import usable_cores

_HELP = """\
Train with every combination of some options' values, and with several seeds each.

usage: metarl sweep [AGENT] --grid OPTION=VALUE,VALUE… --run-dir FOLDER [options]
       metarl sweep FILE.toml [options]

All options of metarl train hold for every run (metarl train AGENT --help), among them --preset and
--config; agent, env and preset can be varied too. The same command goes on where the sweep was cut
off, repeats nothing that is finished, and adds the runs of values and seeds that are new. Each run
is in a folder named by its values and its seed; metarl compare FOLDER and metarl plot FOLDER read
the whole sweep, and metarl runs FOLDER lists it. A file says the same as the options:

  agent = "rl2"                        # or preset = "…", or config = "runs/x/config.json"
  folder = "runs/sweep"
  seeds = [0, 1, 2]

  [options]                            # those of metarl train, for all runs
  env = "bandit/n10-k5"
  iterations = 100

  [grid]                               # a list of values for each option that varies
  learning-rate = [1e-3, 3e-4]
  normalize-observations = [true, false]
  checkpoint-interval = ["None", 50]   # "None" is no value
  hidden-sizes = [[64, 64], [128]]     # a list in the list for an option of several values"""


@dataclass(frozen=True)
class Sweep:
    """Options of ``metarl sweep``."""

    grid: tuple[str, ...] = ()
    """Options that vary and their values, such as `learning-rate=1e-3,3e-4 hidden-size=64,128`;
    values that contain commas can only be in a file."""
    seeds: tuple[int, ...] = ()
    """Seeds that every combination is trained with (default: the seed of the settings, 0)."""
    run_dir: Path | None = None
    """Folder of the sweep, with one folder for each combination and in it one for each seed."""
    jobs: Annotated[int, AtLeast(1)] | None = None
    """Number of runs at a time (default: as many as there are cores for)."""
    index: Annotated[int, AtLeast(0)] | None = None
    """Number of the only run to train in this process, from 0, for example `$SLURM_ARRAY_TASK_ID`
    (default: all runs)."""
    print_commands: bool = False
    """Print a command for each run, one a line, and train nothing."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be used, alone or together."""
        validate(self)
        check_seeds(self.seeds)
        if self.index is not None and (self.jobs is not None or self.print_commands):
            raise bad_option("--index", self.index, "no --jobs and no --print-commands beside it")


@dataclass(frozen=True)
class _Planned:
    """One run of a sweep: what it is, and how it is made."""

    run: SweepRun
    setting: Setting

    @property
    def words(self) -> list[str]:
        """The words of ``metarl train`` that start the run or go on with it."""
        where = ["--run-dir", str(self.run.directory), "--resume", "auto"]
        return [*self.setting.words, f"--seed={self.run.seed}", *where]


def run_sweep(arguments: Sequence[str]) -> None:
    """Run the command ``metarl sweep``."""
    own, words = _own_words(arguments)
    options: Sweep = parse(Sweep, _HELP, "sweep", own)
    grid = _grid_of(options, words)
    if not grid.axes:
        raise bad_option("--grid", [], "at least one OPTION=VALUE,VALUE (--seeds of metarl train)")
    if grid.folder is None:
        raise bad_option("--run-dir", None, "a folder for the sweep")
    planned = _plan(grid, grid.folder)
    if options.index is not None and options.index >= len(planned):
        raise bad_option("--index", options.index, f"0 to {len(planned) - 1}, the runs there are")
    for each in planned:
        run = _begun(each)
        if run is not None:
            asked = each.setting.settings.with_train(seed=each.run.seed)
            require_same(asked, run, CHANGEABLE)
    shown = [word for word in arguments if word != "--print-commands"]
    command = command_line("sweep", *without_option(shown, "--index"))
    resolved = {}
    if options.index is None and not options.print_commands:
        resolved = _prepare(planned)
    record_sweep(grid.folder, [each.run for each in planned], command)
    if options.print_commands:
        for each in planned:
            print(command_line("train", *each.words))
    elif options.index is not None:
        run_train(planned[options.index].words)
    else:
        with held(grid.folder):
            _train_all(grid.folder, planned, resolved, options.jobs, command)


def _own_words(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words that belong to options of the sweep, and those of ``metarl train``."""
    names = {name.replace("_", "-") for name in Sweep.__dataclass_fields__} | {"help"}
    own: list[str] = []
    others: list[str] = []
    into = others
    for word in arguments:
        if word == "-h":
            into = own
        elif word.startswith("--"):
            name = word[2:].partition("=")[0].replace("_", "-").removeprefix("no-")
            into = own if name in names else others
        into.append(word)
    return own, others


def _grid_of(options: Sweep, words: Sequence[str]) -> Grid:
    """Return what is asked for by options, or by a file and options, which replace its own."""
    grid = Grid((), {})
    if words and words[0].endswith(".toml"):
        grid, words = read_grid(Path(words[0])), words[1:]
    typed = {word.partition("=")[0] for word in words if word.startswith("--")}
    kept = _without_typed(grid.words, {name.replace("_", "-") for name in typed})
    named = list(words[:1]) if words and not words[0].startswith("-") else []
    if named and kept and not kept[0].startswith("-"):
        kept = kept[1:]
    seeds = options.seeds or grid.seeds
    check_seeds(seeds)
    return replace(
        grid,
        words=(*named, *kept, *words[len(named) :]),
        axes=read_axes(options.grid) or grid.axes,
        seeds=seeds,
        folder=options.run_dir or grid.folder,
    )


def _without_typed(words: Sequence[str], typed: set[str]) -> list[str]:
    """Return the words of a file without those of options that were typed beside it."""
    kept, dropping = [], False
    for word in words:
        if word.startswith("--"):
            dropping = word.partition("=")[0] in typed
        if not dropping:
            kept.append(word)
    return kept


def _plan(grid: Grid, folder: Path) -> list[_Planned]:
    """Return all runs of a grid, seeds of a setting one after another."""
    planned = []
    for setting in settings_of_grid(grid):
        for seed in grid.seeds or (setting.settings.train.seed,):
            run = SweepRun(setting.name, folder / setting.folder / str(seed), seed)
            planned.append(_Planned(run, setting))
    return planned


def _begun(each: _Planned) -> Run | None:
    """Return a run that has begun; None also if it is damaged, which its process reports."""
    try:
        run = Run.open(each.run.directory)
    except UserError:
        return None
    return replace(run, named_agent=each.setting.settings.agent)


def _prepare(planned: Sequence[_Planned]) -> dict[str, Settings]:
    """Make tasks and agent of every setting once, so that none fails for its settings later.

    Returns:
        The settings with every option resolved, by the name of the setting.
    """
    resolved: dict[str, Settings] = {}
    for each in planned:
        if each.setting.name not in resolved:
            try:
                resolved[each.setting.name] = prepare(each.setting.settings).settings
            except UserError as error:
                raise UserError(f"{each.setting.name}: {error}") from error
    return resolved


def _train_all(
    folder: Path,
    planned: Sequence[_Planned],
    resolved: Mapping[str, Settings],
    jobs: int | None,
    command: str,
) -> None:
    """Train in processes of their own until every run has ended, whatever the others do."""
    left = [each for each in planned if not _is_finished(each, resolved[each.setting.name])]
    done = len(planned) - len(left)
    if not left:
        console.print(f"{folder}: finished, {len(planned)} runs")
        return
    threads = max(each.setting.settings.train.torch_threads for each in left)
    at_once = min(len(left), jobs or max(1, len(usable_cores()) // threads))
    said = f", {done} of them finished already" if done else ""
    console.print(f"{folder}: {len(planned)} runs{said}, {at_once} at once")
    started = time.perf_counter()
    failed: list[Child] = []

    def start(each: _Planned) -> Child:
        workers = each.setting.settings.train.workers.num_workers
        share = share_of_cores(at_once, workers, typed=False)
        name = str(each.run.directory.relative_to(folder))
        return Child(name, [*each.words, *share], each.run.directory.with_suffix(".log"))

    def ended(child: Child) -> None:
        nonlocal done
        passed = f"{time.perf_counter() - started:.0f} s"
        if child.process.returncode == 0:
            done += 1
            console.print(f"{done} of {len(planned)} finished: {child.name} ({passed})")
        else:
            failed.append(child)
            code = child.process.returncode
            console.print(f"did not finish: {child.name} (exit code {code}, {passed}): {child.log}")

    try:
        with Children() as children:
            children.run([functools.partial(start, each) for each in left], at_once, ended)
    except KeyboardInterrupt:
        console.print(f"go on with: {command}")
        raise
    _print_scores(planned)
    console.print(f"compare with: {command_line('compare', str(folder))}")
    if failed:
        logs = ", ".join(str(child.log) for child in failed)
        raise SeedsError(f"{len(failed)} of {len(planned)} runs did not finish: {logs}")


def _is_finished(each: _Planned, resolved: Settings) -> bool:
    """Return whether nothing is left to do of a run with these settings."""
    run, asked = _begun(each), each.setting.settings.train
    if run is None:
        return False
    had = run.train_config
    counted = asked.iterations is not None or asked.env_steps is not None
    longer = counted and (resolved.train.iterations or 0) > (had.iterations or 0)
    other = asked.evaluation.evaluation_tasks not in (None, had.evaluation.evaluation_tasks)
    try:
        return not longer and not other and run.finished()
    except UserError:  # Its checkpoints are damaged.
        return False


def _print_scores(planned: Sequence[_Planned]) -> None:
    """Print the mean of every setting's last scores on validation tasks, the best one first."""
    scores: dict[str, list[float]] = {}
    for each in planned:
        score = state_of(each.run.directory).validation
        if score is not None:
            scores.setdefault(each.run.setting, []).append(score)
    means = {name: sum(values) / len(values) for name, values in scores.items()}
    width = max(map(len, means), default=0)
    for name in sorted(means, key=lambda name: -means[name]):
        number = len(scores[name])
        console.print(f"  {name:{width}}  {means[name]:.3f} on validation tasks ({number} runs)")

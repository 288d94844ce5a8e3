"""The command ``metarl tune``: search the settings of an agent that do best on validation tasks."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import shutil
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from metarl import registry
from metarl.console import console
from metarl.constraints import AtLeast, validate
from metarl.errors import TuningError, UserError, bad_option
from metarl.files import read_object, write_json
from metarl.options import option_values, with_options
from metarl.running.commandline import parse_train
from metarl.running.defaults import DEFAULT_AGENT
from metarl.running.folders import NewFolder, default_directory
from metarl.running.parsing import command_line, parse
from metarl.running.run import Run
from metarl.running.search_space import search_space
from metarl.running.seeds import WITHOUT_EFFECT
from metarl.running.settings import Settings
from metarl.running.train import prepare
from metarl.running.tune_report import (
    TrialRecord,
    best_of,
    plot_trials,
    print_trials,
    write_trials,
)
from metarl.running.tune_trial import TrialFiles, TrialProcess
from metarl.search import Searched, tuned_options
from metarl.stepping.workers import usable_cores

if TYPE_CHECKING:
    from metarl.running.tune_study import Asked, Study

FORMAT = 1
"""The format of ``tuning.json``."""

VALIDATION_TASKS = 200
"""The number of validation tasks of every trial by default."""

POLL_SECONDS = 0.05
"""Seconds between looks at the running trials."""

_TUNE_HELP = """\
Search the settings of an agent that do best on validation tasks.

usage: metarl tune [AGENT] [options], with every option of metarl train AGENT beside those below

Each trial trains with other settings, in a process of its own, and its score is that of its last
evaluation on validation tasks (--best-by says which score). Test tasks are never looked at. How
long a trial is --minutes says, or --iterations or --env-steps. All trials have the same
--seed, which also decides what is tried. The folder (--run-dir) gets best.json, which
metarl train --config reads, trials.csv, tuning.png, and every trial's run; the same command with
the same folder goes on with a search that was cut off, and with more --trials with a finished one.

Without --search, {agent} is searched in these options: {ranges}.

The options below are those of the search."""


@dataclass(frozen=True)
class TuneConfig:
    """Options of ``metarl tune`` beside those of ``metarl train``."""

    trials: Annotated[int, AtLeast(1)] = 20
    """Number of settings to try, those of earlier calls with the same folder included."""
    jobs: Annotated[int, AtLeast(1)] = 1
    """Number of trials that run at once, each in a process with `--torch-threads` threads."""
    search: tuple[str, ...] = ()
    """Options to search: `learning-rate` in the range that the agent's config gives it,
    `learning-rate=1e-4..1e-2` in another one, `core=gru,fast-weights` among values. Ranges over two
    decades are logarithmic, unless `linear:` or `log:` stands before them. Without any, every
    option is searched that has a range and that the command line gives no value."""
    prune: bool = True
    """End trials early whose score is below the median of earlier trials after as many
    validations."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be used."""
        validate(self)


class Tuning(NamedTuple):
    """What a search has found."""

    folder: Path
    """The folder of the search."""
    trials: list[TrialRecord]
    """All trials that have ended."""
    settings: Settings
    """The settings of the best one, which ``best.json`` has too."""


def run_tune(arguments: Sequence[str]) -> None:
    """Run the command ``metarl tune``."""
    own, rest = _divide(arguments)
    config = parse(TuneConfig, _help(rest) if "--help" in own else "", "tune", own)
    flags = {word.partition("=")[0].replace("_", "-") for word in rest if word.startswith("--")}
    for flag in ("--resume", "--seeds", "--print-config"):
        if flag in flags:
            raise bad_option(flag, " ".join(rest), f"no {flag} for metarl tune (--run-dir goes on)")
    request = parse_train(rest)
    if request.seeds:
        raise bad_option("--config", " ".join(rest), "settings of one run, not of several seeds")
    typed = {flag.removeprefix("--").removeprefix("no-").replace("-", "_") for flag in flags}
    tune(request.settings, config, typed, ["tune", *arguments])


def _help(rest: Sequence[str]) -> str:
    """Return the text above the options, which names what is searched of the agent."""
    agent = rest[0] if rest and not rest[0].startswith("-") else DEFAULT_AGENT
    known = tuned_options(registry.agent_class(agent).Config)
    ranges = [f"{name.replace('_', '-')} {searched}" for name, searched in known.items()]
    return _TUNE_HELP.format(agent=agent, ranges="; ".join(ranges) or "none")


def _divide(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide a command line into the options of the search and those of the training."""
    own: list[str] = []
    rest: list[str] = []
    names = option_values(TuneConfig())
    flags = {"--help", "--no-prune", *(f"--{name.replace('_', '-')}" for name in names)}
    target = rest
    for word in ("--help" if word == "-h" else word for word in arguments):
        if word.startswith("--"):
            target = own if word.partition("=")[0].replace("_", "-") in flags else rest
        target.append(word)
    return own, rest


def tune(
    settings: Settings,
    config: TuneConfig,
    typed: Collection[str] = (),
    command: Sequence[str] = (),
) -> Tuning:
    """Search the settings that do best on validation tasks, or go on with a search.

    Args:
        settings: the settings of the trials, whose searched options have no effect. Their folder
            is that of the search, which is gone on with if it is one.
        config: what is searched, and how long.
        typed: options of the settings that keep their values.
        command: the words that go on with the search, for a message if it is cut off.

    Raises:
        UserError: if the settings or the search cannot work; this is checked before any training.
        TuningError: if no trial was completed.
    """
    kind, given = _study_class(), settings
    settings = _for_trials(settings, config)
    prepare(settings)  # Refuse what cannot work before any trial begins.
    space = search_space(config.search, settings.agent_config, settings.agent, typed)
    folder = _open_folder(settings, config, space)
    settings = settings.with_train(run_dir=None)
    if settings.train.run.wandb_project is not None and settings.train.run.wandb_group is None:
        settings = settings.with_train(wandb_group=folder.name)
    with _locked(folder):
        study = kind(folder, space, type(settings.agent_config), settings.train.seed, config.prune)
        what = f"{settings.agent} on {settings.train.env}"
        console.print(f"tuning {what}, {config.trials} trials, {config.jobs} at once: {folder}")
        for name, searched in space.items():
            console.print(f"  {name.replace('_', '-')} {searched}")
        try:
            _run_trials(study, folder, settings, config)
        except BaseException:
            where = [] if "run_dir" in typed else ["--run-dir", str(folder)]
            goes_on = command_line(*(command or ["tune"]), *where)
            print(f"go on with: {goes_on}", file=sys.stderr, flush=True)
            raise
        return _report(study, folder, settings, given, space)


def _study_class() -> type[Study]:
    """Import what needs Optuna.

    Raises:
        UserError: if Optuna is not installed.
    """
    try:
        from metarl.running.tune_study import Study  # Only tuning needs Optuna.
    except ImportError as error:
        message = f"metarl tune: needs its package: pip install 'metarl-toolkit[tune]' ({error})"
        raise UserError(message) from error
    return Study


def _for_trials(settings: Settings, config: TuneConfig) -> Settings:
    """Return the settings that all trials have in common."""
    train = settings.train
    if train.evaluation.validation_tasks is None:  # All trials are scored on as many.
        settings = settings.with_train(validation_tasks=VALIDATION_TASKS)
    if train.workers.num_workers is None:
        share = len(usable_cores()) // config.jobs
        settings = settings.with_train(num_workers=share if share > 1 else 0)
    return settings


def _open_folder(settings: Settings, config: TuneConfig, space: Mapping[str, Searched]) -> Path:
    """Return the folder of the search, which is made or holds the same search.

    Raises:
        UserError: if it holds something else.
    """
    given = settings.train.run.directory
    options = option_values(settings.train) | option_values(settings.agent_config)
    content = {
        "agent": settings.agent,
        "prune": config.prune,
        "search": {name: str(searched) for name, searched in space.items()},
        **{k: x for k, x in options.items() if k not in (*WITHOUT_EFFECT, *space, "run_dir")},
    }
    content = json.loads(json.dumps(content))
    if given is not None and (given / "tuning.json").is_file():
        before = read_object(given / "tuning.json", FORMAT)
        for name, value in content.items():
            if before.get(name) != value:
                accepted = f"{before.get(name)!r}, as in {given}"
                raise bad_option(f"--{name.replace('_', '-')}", value, accepted)
        return given
    default = default_directory(settings.train, settings.agent, "tune")
    folder = NewFolder.claim(given, default).path
    (folder / "trials").mkdir()
    write_json(folder / "tuning.json", {"format": FORMAT, **content})
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from the same search; the lock ends with this process at the latest.

    Raises:
        UserError: if another process has it.
    """
    with (folder / "tuning.json").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            accepted = "a folder in which no other metarl tune is running"
            raise bad_option("--run-dir", str(folder), accepted) from None
        yield


def _run_trials(study: Study, folder: Path, settings: Settings, config: TuneConfig) -> None:
    """Run trials, some at once, until there are as many as wanted."""
    running: list[tuple[Asked, TrialProcess]] = []
    try:
        while True:
            while len(running) < config.jobs and (study.waiting() or len(study) < config.trials):
                asked = study.ask()
                try:
                    running.append((asked, _start(asked, folder, settings)))
                except UserError as error:  # These values do not go together.
                    study.finish(asked, 0.0, error=str(error))
                    _print_ended(study, asked.number)
            if not running:
                return
            time.sleep(POLL_SECONDS)
            for pair in list(running):
                if _follow(study, *pair):
                    running.remove(pair)
                    _print_ended(study, pair[0].number)
    except BaseException:
        for _, process in running:
            process.stop()
        for _, process in running:
            process.wait()
        raise


def _start(asked: Asked, folder: Path, settings: Settings) -> TrialProcess:
    """Start the process of a trial; what an earlier attempt has left of it is removed."""
    agent_config = with_options(settings.agent_config, **asked.values)
    files = TrialFiles(folder / "trials", asked.number)
    shutil.rmtree(files.run, ignore_errors=True)
    own = dataclasses.replace(settings, agent_config=agent_config)
    return TrialProcess(files, own)


def _follow(study: Study, asked: Asked, process: TrialProcess) -> bool:
    """Pass on the new scores of a trial; return whether it has ended, and then record how."""
    ended = process.ended  # Before the scores are read, so that none is missed.
    for score, last in process.scores():
        if asked.report(score) and not last:
            process.stop()
            process.wait()
            study.finish(asked, process.seconds, pruned=True)
            return True
    if ended:
        study.finish(asked, process.seconds, error=process.failure())
    return ended


def _print_ended(study: Study, number: int) -> None:
    """Print how a trial has ended."""
    records = study.records()
    [record] = [record for record in records if record.number == number]
    score = "" if record.score is None else f", score {record.score:.4g}"
    best = " (the best so far)" if record == best_of(records) else ""
    why = f": {record.error}" if record.error else ""
    console.print(f"trial {number} {record.state}{score} in {record.seconds:.0f} s{best}{why}")


def _report(
    study: Study,
    folder: Path,
    settings: Settings,
    given: Settings,
    space: Mapping[str, Searched],
) -> Tuning:
    """Print and write what the search has found; ``given`` are the settings without changes.

    Raises:
        TuningError: if no trial was completed.
    """
    records = study.records()
    write_trials(records, folder / "trials.csv")
    best = best_of(records)
    if best is None:
        raise TuningError(f"{folder}: no trial was completed; {records[-1].error}")
    validation = settings.train.evaluation
    metric = f"{validation.best_by} on {validation.validation_tasks} validation tasks"
    print_trials(records)
    plot_trials(
        records,
        study.importances(),
        space,
        folder / "tuning.png",
        title=f"{settings.agent} on {settings.train.env}, {len(records)} trials",
        metric=f"validation {validation.best_by.replace('_', ' ')}",
    )
    named = settings.agent if registry.is_import(settings.agent) else None
    run = Run.open(TrialFiles(folder / "trials", best.number).run, named)
    found = run.settings.for_another_run().with_train(
        num_workers=given.train.workers.num_workers, wandb_group=given.train.run.wandb_group
    )
    tuned = {"trial": best.number, "score": best.score, "trials": len(records), "metric": metric}
    write_json(folder / "best.json", {**found.to_json(), "tuned": tuned})
    console.print(
        f"best: trial {best.number}, {best.score:.4g} ({metric}); the highest of several noisy "
        "scores is too high, so evaluate it again"
    )
    console.print(f"picture: {folder / 'tuning.png'}")
    best_file = str(folder / "best.json")
    console.print(f"train with it: {command_line('train', '--config', best_file)}")
    return Tuning(folder, records, found)

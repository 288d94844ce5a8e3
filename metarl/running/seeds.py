"""Train with several seeds, each in a process of its own, and evaluate all runs together."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from metarl import registry
from metarl.console import console
from metarl.errors import SeedsError, UserError, bad_option
from metarl.evaluation.curve import AdaptationCurve, read_summary, summarize_curves
from metarl.evaluation.plotting import Line, plot_adaptation
from metarl.evaluation.report import print_adaptation
from metarl.files import create_json, write_json
from metarl.options import option_values
from metarl.running.children import Child, Children, share_of_cores
from metarl.running.estimate import announced, is_measured
from metarl.running.folders import NewFolder, default_directory, refuse_used, used
from metarl.running.lock import held
from metarl.running.parsing import command_line
from metarl.running.run import Run, named_class
from metarl.running.settings import Settings, TrainConfig, members, read_settings, train_config_of
from metarl.running.train import CHECK_SECONDS, prepare
from metarl.running.training import training_slots
from metarl.stepping.options import SharedEnvs
from metarl.stepping.workers import usable_cores
from metarl.tasks.distribution import TaskDistribution
from metarl.tasks.effects import warn_of_tasks

WITHOUT_EFFECT = (
    *("num_envs", "num_workers", "env_timeout", "env_restarts", "check", "on_save_error"),
    *("checkpoint_interval", "checkpoint_seconds", "keep_checkpoints"),
    *("wandb_project", "wandb_entity", "wandb_group", "wandb_tags"),
)
"""Options in which runs of a group may differ: they change no parameter and no evaluation."""

COMMON = (
    *("env", "split", "seed", "score", "actions", "checkpoint"),
    *("num_tasks", "episodes", "iteration", "conditions"),
)
"""Fields of an evaluation's summary that all seeds must have in common."""


def train_seeds(settings: Settings, seeds: Sequence[int], *, yes: bool = False) -> dict[str, Any]:
    """Train once with each seed, and summarize the evaluations of all runs.

    Several runs train at once if there are enough cores. The directory of the settings gets one
    run directory per seed, named by the seed, and a folder ``evaluation`` with the common
    evaluation. If it holds such runs already, these seeds are added to them.

    Args:
        settings: the settings that all runs share; each run has its own seed and directory.
        seeds: the seeds, which must differ.
        yes: train even if an iteration takes over ten minutes or more memory than is free.

    Returns:
        The summary of all runs' evaluations on held-out tasks.

    Raises:
        UserError: if the settings cannot work; this is checked before any training.
        SeedsError: if a run fails.
    """
    given = settings.train.run.directory
    with nullcontext() if given is None else held(given):
        return _train_seeds(settings, seeds, yes)


def _train_seeds(settings: Settings, seeds: Sequence[int], yes: bool) -> dict[str, Any]:
    given = settings.train.run.directory
    settings, tasks, agent = prepare(settings)
    label = "seeds-" + "-".join(map(str, seeds))
    before = None if given is None else group_content(given)
    if given is not None and before is not None:
        _refuse_others(settings, seeds, given, before)
    elif given is not None:
        refuse_used(given)  # This check comes first, since it takes no time.
    workers = settings.train.workers
    one = dataclasses.replace(workers, num_workers=1 if workers.num_workers != 0 else 0)
    with closing(SharedEnvs(one, tasks)) as shared:
        envs = None
        if is_measured(settings.train):
            envs = shared.sized(training_slots(agent, tasks, one))
        if settings.train.check:
            warn_of_tasks(tasks, seconds=CHECK_SECONDS, envs=envs)
        # All seeds train as long as each other, however long that takes.
        settings = announced(settings, tasks, agent, envs, yes=yes).with_train(minutes=None)
    if given is not None and before is not None:
        return _add_seeds(settings, tasks, seeds, given, before)
    folder = NewFolder.claim(given, default_directory(settings.train, settings.agent, label))
    grouped = _in_group(settings, folder.path)
    runs: list[Run] = []
    try:
        for seed in seeds:
            own = grouped.with_train(seed=seed, run_dir=folder.path / str(seed))
            runs.append(Run.create(own, tasks))
        content = {**settings.to_json(), "seeds": list(seeds)}
        create_json(folder.path / "config.json", content)
    except BaseException as error:
        for run in runs:
            run.remove_unless_begun()
        folder.abandon()
        if isinstance(error, FileExistsError):  # Another process took the folder.
            raise used(folder.path) from None
        raise
    return resume_seeds(folder.path, new=folder)


def _in_group(settings: Settings, folder: Path) -> Settings:
    """Return settings in which Weights & Biases shows the runs of a folder as one group."""
    options = settings.train.run
    if options.wandb_project is None or options.wandb_group is not None:
        return settings
    return settings.with_train(wandb_group=folder.name)


def group_content(folder: Path) -> dict[str, Any] | None:
    """Return the content of the ``config.json`` of several seeds; None if a folder has none."""
    path = folder / "config.json"
    content = read_settings(path) if path.is_file() else {}
    return content if "seeds" in content else None


def settings_of_group(folder: Path, named: str | None = None) -> Settings:
    """Return the settings of a group's first run, which are those of all, for further seeds.

    Args:
        folder: the folder of the group.
        named: the agent's ``package.module:Name``, if it is a module of the user's.

    Raises:
        UserError: if the first run is missing or its settings are damaged.
    """
    where = members(folder)[0] / "config.json"
    content = read_settings(where)
    agent_class = named_class(content["agent"], named, where)
    return Settings.of(content, where, agent_class).for_another_run().with_train(run_dir=folder)


def _refuse_others(
    settings: Settings, seeds: Sequence[int], folder: Path, content: dict[str, Any]
) -> None:
    """Refuse seeds that a group has already, and settings that are not the group's."""
    had = [seed for seed in seeds if seed in content["seeds"]]
    if had:
        listed = ", ".join(map(str, content["seeds"]))
        raise bad_option("--seeds", had, f"other seeds than those of {folder}: {listed}")
    if settings.agent != content["agent"]:
        raise bad_option("agent", settings.agent, f"{content['agent']}, as in {folder}")
    first = settings_of_group(folder, settings.agent)
    for old, new in ((first.train, settings.train), (first.agent_config, settings.agent_config)):
        present, resolved = option_values(new), first.derived if old is first.train else ()
        for name, value in option_values(old).items():
            free = old is first.train and name in (*WITHOUT_EFFECT, "seed", "run_dir", *resolved)
            if value != present[name] and not free:
                accepted = f"{value!r}, as the other seeds in {folder}"
                raise bad_option(f"--{name.replace('_', '-')}", present[name], accepted)


def _add_seeds(
    settings: Settings,
    tasks: TaskDistribution,
    seeds: Sequence[int],
    folder: Path,
    content: dict[str, Any],
) -> dict[str, Any]:
    """Begin a run for each of more seeds in a group's folder, and finish the group."""
    grouped = _in_group(settings, folder)
    runs: list[Run] = []
    try:
        for seed in seeds:
            own = grouped.with_train(seed=seed, run_dir=folder / str(seed))
            runs.append(Run.create(own, tasks))
        write_json(folder / "config.json", {**content, "seeds": [*content["seeds"], *seeds]})
    except BaseException:
        for run in runs:
            run.remove_unless_begun()
        raise
    return resume_seeds(folder)


def resume_seeds(
    folder: Path, options: Sequence[str] = (), new: NewFolder | None = None
) -> dict[str, Any]:
    """Resume every unfinished run of a group of seeds, and summarize the evaluations of all.

    Args:
        folder: the folder of the group.
        options: options for the command line of every run.
        new: the same folder if this process has just made it. It is removed if every run ends
            with an error, not by a signal, and none has a checkpoint.

    Returns:
        The summary of all runs' evaluations on held-out tasks.

    Raises:
        UserError: if the folder is no group of seeds, or the evaluations of its runs differ.
        SeedsError: if a run fails.
    """
    path = folder / "config.json"
    content = read_settings(path)
    with held(folder):
        _train_members(folder, content, train_config_of(content, path), options, new)
        return _evaluate_together(folder, content["agent"], content["seeds"])


def _train_members(
    folder: Path,
    content: dict[str, Any],
    config: TrainConfig,
    options: Sequence[str],
    new: NewFolder | None,
) -> None:
    """Resume every run of a group that is not finished, in a process of its own."""
    seeds = content["seeds"]
    if not options:  # They may ask for more than a finished run has.
        seeds = [seed for seed in seeds if not Run.open(folder / str(seed)).finished()]
    if not seeds:
        return
    at_once = max(1, min(len(seeds), len(usable_cores()) // config.torch_threads))
    given = list(options)
    given += share_of_cores(at_once, config.workers.num_workers, "--num-workers" in options)
    named = [content["agent"]] if registry.is_import(content["agent"]) else []
    given += ["--env", config.env] if registry.is_import(config.env) else []
    given += config.own_modules()
    listed = ", ".join(map(str, seeds))
    console.print(
        f"{content['agent']} on {config.env}, seeds {listed}, {at_once} at once: {folder}"
    )

    def start(seed: int) -> Child:
        words = [*named, "--resume", str(folder / str(seed)), *given]
        return Child(f"seed {seed}", words)

    try:
        with Children() as children:
            children.run([functools.partial(start, seed) for seed in seeds], at_once)
    except BaseException:
        _print_how_to_resume(folder, named, given)
        raise
    codes = [child.process.returncode for child in children.all]
    failed = [seed for seed, code in zip(seeds, codes, strict=True) if code != 0]
    if failed:
        wrong = all(code in (1, 2) for code in codes)
        if new and wrong and not any(folder.glob("*/checkpoints/*")):
            new.remove()
        else:
            _print_how_to_resume(folder, named, given)
        unfinished = ", ".join(map(str, failed))
        raise SeedsError(f"seeds {unfinished} did not finish; their errors are above")


def _evaluate_together(folder: Path, name: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Summarize, draw and print the evaluations of a group's finished runs."""
    summary, untrained = (summarize_seeds(folder, seeds, x) for x in ("", "-untrained"))
    lines = [Line(name, summary), Line("untrained", untrained, reference=True)]
    picture = folder / "evaluation" / "test.png"
    plot_adaptation(lines, picture)
    console.print(f"seeds {', '.join(map(str, seeds))} together")
    print_adaptation(summary, untrained)
    console.print(f"picture: {picture}")
    return summary


def _print_how_to_resume(folder: Path, named: Sequence[str], options: Sequence[str]) -> None:
    command = command_line("train", *named, "--resume", str(folder), *options)
    print(f"resume with: {command}", file=sys.stderr, flush=True)


def summarize_seeds(folder: Path, seeds: Sequence[int], suffix: str = "") -> dict[str, Any]:
    """Summarize the evaluations of several seeds, and write ``evaluation/test.json``.

    All runs are evaluated on the same tasks. Means estimate the mean over training seeds and the
    task distribution; the intervals are those of seeds and tasks crossed, and None below three
    seeds (:func:`metarl.evaluation.curve.summarize_over_seeds`).

    Args:
        folder: the folder of the group, with one run directory per seed.
        seeds: the seeds of the runs.
        suffix: the end of the names of the evaluations' files, such as ``-untrained``.

    Returns:
        The summary.

    Raises:
        UserError: if a file is damaged, or two runs were not evaluated in the same way.
    """
    files = [folder / str(seed) / "evaluation" / f"test{suffix}.json" for seed in seeds]
    result = {**summarize_files(files), "seed": list(seeds)}
    (folder / "evaluation").mkdir(exist_ok=True)
    write_json(folder / "evaluation" / f"test{suffix}.json", result)
    return result


def summarize_files(files: Sequence[Path]) -> dict[str, Any]:
    """Return the summary of the evaluations of several training seeds, ``<name>.json`` each.

    Raises:
        UserError: if a file is damaged, or two evaluations were not made in the same way.
    """
    summaries = [read_summary(file) for file in files]
    for file, summary in zip(files, summaries, strict=True):
        for key in COMMON:
            got, accepted = summary.get(key), summaries[0].get(key)
            if got != accepted:
                raise UserError(
                    f"{file}: {key}: got {got!r}; accepted: {accepted!r}, as in {files[0]}; "
                    "evaluate both in the same way"
                )
    curves = [AdaptationCurve.load(file.parent, file.stem) for file in files]
    return {**summaries[0], **summarize_curves(curves)}

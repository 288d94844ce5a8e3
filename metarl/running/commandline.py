"""The command ``metarl train``: parses its words into settings, and trains with them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarl import registry
from metarl.console import console
from metarl.errors import UserError, bad_option, require_seed
from metarl.options import fitted, option_values, with_options
from metarl.running.catalogue import print_kinds
from metarl.running.defaults import Start, origin_of, starting_settings
from metarl.running.parsing import parse
from metarl.running.run import Run, named_class, trusted_tasks
from metarl.running.seeds import group_content, resume_seeds, settings_of_group, train_seeds
from metarl.running.settings import (
    LENGTHS,
    Settings,
    TrainConfig,
    members,
    read_settings,
    refuse_lengths,
)
from metarl.running.train import prepare, train

_TRAIN_HELP = """\
Meta-train an agent, then evaluate how it adapts to held-out tasks.

usage: metarl train [AGENT] [options], where AGENT is {agents}

These options decide which others there are:
  --list           print the names of environments, agents and presets, and exit
  --preset NAME    start from named settings (default: the preset for the agent and the
                   environment, if there is one); none starts from the agent's bare defaults
  --config FILE    start from a run's config.json, or from what --print-config printed
  --resume RUN     continue a run where it stopped; only options that do not change the agent
                   may differ (iterations, checkpoints, evaluation, workers, logging)
  --resume auto    start the run of --run-dir, or continue it where it stopped, or say that it
                   is finished; jobs that are queued again need one command
  --seeds N N …    train once with each seed, as many side by side as there are cores, and
                   evaluate them together; --run-dir is then the folder of their runs, and
                   with the folder of a finished group these seeds are added to it
  --print-config   print all settings as JSON, and exit
  --yes            train even if an iteration takes over ten minutes or more memory than is free

The options below are those of {agent}."""

CHANGEABLE = (
    "iterations",
    "minutes",
    "checkpoint_interval",
    "keep_checkpoints",
    "validation_interval",
    "validation_tasks",
    "evaluation_tasks",
    "checkpoint_seconds",
    "on_save_error",
    "num_envs",
    "num_workers",
    "env_timeout",
    "env_restarts",
    "callback",
    "check",
    "wandb_project",
    "wandb_entity",
    "wandb_group",
    "wandb_tags",
)
"""Options that a resumed run may change: none of them reaches the agent's parameters."""


@dataclass(frozen=True)
class Request:
    """What a command line of ``metarl train`` asks for."""

    settings: Settings
    """The settings to train with."""
    resume: Run | None = None
    """The run to resume, if any."""
    seeds: tuple[int, ...] = ()
    """The seeds of several runs, which replace the seed of the settings."""
    print_config: bool = False
    """True if the settings are only printed."""
    yes: bool = False
    """True if even very long iterations are wanted."""
    origin: str = ""
    """What has chosen the settings that were not given, in a line."""


def early_options(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse the options that decide which other options exist, and return the remaining words."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--list", action="store_true")
    first.add_argument("--preset")
    first.add_argument("--config", type=Path)
    first.add_argument("--resume", type=Path)
    first.add_argument("--seeds", type=int, nargs="+", default=[])
    first.add_argument("--print-config", action="store_true")
    first.add_argument("--yes", action="store_true")
    try:
        early, rest = first.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from error
    return early, rest


def value_of(option: str, words: Sequence[str]) -> str | None:
    """Return the value that ``words`` give an option; None if they give none."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(option, option.replace("-", "_").replace("__", "--", 1), dest="value")
    try:
        value: str | None = parser.parse_known_args(list(words))[0].value
    except argparse.ArgumentError:  # It has no value, which is reported with the other options.
        return None
    return value


def without_option(words: Sequence[str], flag: str) -> list[str]:
    """Return the words of a command line without an option that takes one value."""
    kept, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        name, equals, _ = word.partition("=")
        if name.replace("_", "-") != flag:
            kept.append(word)
        elif not equals and rest:
            rest.pop(0)
    return kept


def _refuse_other_minutes(before: Settings, given: str | None) -> None:
    """Refuse ``--minutes`` beside ``--resume``, unless they are those of the run."""
    had = before.train.minutes
    if had is None or given is None or given not in (f"{had:g}", str(had)):
        same = "" if had is None else f"{had:g}, as the run has, or "
        accepted = f"{same}--iterations with --resume: minutes count from a run's beginning"
        raise bad_option("--minutes", given, accepted)


def _existing_group(seeds: Sequence[int], words: Sequence[str]) -> Path | None:
    """Return the ``--run-dir`` of ``words`` if seeds are to be added to the runs in it."""
    folder = value_of("--run-dir", words)
    found = seeds and folder is not None and group_content(Path(folder))
    return Path(folder) if found and folder is not None else None


def parse_train(arguments: Sequence[str]) -> Request:
    """Parse the command line of ``metarl train``; the name of an agent, if any, comes first."""
    early, rest = early_options(arguments)
    if early.list:
        print_kinds(("environments", "agents", "presets"))
        sys.exit(0)
    named = rest.pop(0) if rest and not rest[0].startswith("-") else None
    typed = {word.split("=")[0].replace("_", "-") for word in rest}
    _refuse_together(early, typed)
    resume, seeds, where, origin = None, tuple(early.seeds), None, ""
    suggested = False
    if early.resume is not None:
        resume = Run.open(early.resume, named if named and registry.is_import(named) else None)
        before, where = resume.settings, resume.directory
    elif early.config is not None:
        where = early.config / "config.json" if early.config.is_dir() else early.config
        content = read_settings(where)
        agent_class = named_class(content["agent"], named, where)
        before = Settings.of(content, where, agent_class).for_another_run()
        if "--seed" not in typed:
            seeds = seeds or tuple(content.get("seeds", ()))
    elif early.preset is None and (group := _existing_group(seeds, rest)) is not None:
        where = group / "config.json"
        before = settings_of_group(group, named)
    else:
        before, origin = starting_settings(named, value_of("--env", rest), early.preset)
        suggested = True
    if named is not None and named != before.agent:
        registry.agent_class(named)  # Report an unknown name before a mismatch.
        accepted = f"{before.agent}, the agent of the preset, settings or run"
        raise bad_option("agent", named, accepted)
    if resume is not None and "--minutes" in typed:
        _refuse_other_minutes(before, value_of("--minutes", rest))
        rest, typed = without_option(rest, "--minutes"), typed - {"--minutes"}
    if suggested:
        settings, origin = _beside_suggestions(Start(before, origin), rest, typed)
    else:
        settings = _with_options(before, rest, typed)
    if where is not None:
        _refuse_unnamed_modules(settings.train, typed, where)
    if resume is not None:
        _refuse_changes(before, settings)
    return Request(settings, resume, seeds, early.print_config, early.yes, origin)


def _refuse_together(early: argparse.Namespace, typed: set[str]) -> None:
    """Refuse options that contradict each other."""
    sources = [n for n in ("preset", "config", "resume") if getattr(early, n) is not None]
    if len(sources) > 1:
        given = str(getattr(early, sources[0]))
        raise bad_option(f"--{sources[0]}", given, f"no --{sources[1]} beside it")
    if early.seeds and (early.resume is not None or len(set(early.seeds)) < len(early.seeds)):
        raise bad_option("--seeds", early.seeds, "seeds that differ, and no --resume beside them")
    for seed in early.seeds:
        require_seed("--seeds", seed)
    if early.seeds and "--seed" in typed:
        raise bad_option("--seeds", early.seeds, "no --seed beside it")


def _beside_suggestions(start: Start, words: Sequence[str], typed: set[str]) -> Start:
    """Return what :func:`_with_options` does; what does not go with the options has its default."""
    given = {word.removeprefix("--").removeprefix("no-").replace("-", "_") for word in typed}

    def settings(config: Any) -> Settings:
        return _with_options(dataclasses.replace(start.settings, agent_config=config), words, typed)

    found, changed = fitted(settings, start.settings.agent_config, given)
    return Start(found, origin_of(start.origin, changed))


def _with_options(before: Settings, words: Sequence[str], typed: set[str]) -> Settings:
    """Return settings with the options of a command line; one length replaces another."""
    lengths = [name for name in LENGTHS if f"--{name.replace('_', '-')}" in typed]
    refuse_lengths(lengths)
    train = with_options(before.train, **dict.fromkeys(LENGTHS)) if lengths else before.train
    options = dataclasses.make_dataclass(
        "Options", [("training", TrainConfig), ("agent", type(before.agent_config))], frozen=True
    )
    agents = ", ".join([*sorted(registry.agents()), "or package.module:Name"])
    description = _TRAIN_HELP.format(agents=agents, agent=before.agent)
    default = options(train, before.agent_config)
    parsed = parse(options, description, "train", words, default)
    return dataclasses.replace(before, train=parsed.training, agent_config=parsed.agent)


def _refuse_unnamed_modules(config: TrainConfig, typed: set[str], where: Path) -> None:
    """Refuse modules of the user's that only a file has named."""
    if registry.is_import(config.env) and "--env" not in typed:
        trusted_tasks(config.env, where)
    words = config.own_modules()
    for flag, value in zip(words[::2], words[1::2], strict=True):
        if flag not in typed:
            raise UserError(
                f"{where}: has {flag} {value}, which a file alone cannot make the program import: "
                f"name it again with {flag} {value}"
            )


def run_train(arguments: Sequence[str]) -> None:
    """Run the command ``metarl train``, but for ``--resume auto``."""
    early, rest = early_options(arguments)
    if early.resume is not None and members(early.resume) != [early.resume]:
        resume_seeds(early.resume, group_options(early, rest))
        return
    request = parse_train(arguments)
    if request.print_config:
        seeds = {"seeds": request.seeds} if request.seeds else {}
        settings = prepare(request.settings).settings
        print(json.dumps({**settings.to_json(), **seeds}, indent=1))
        return
    print_origin(request)
    if request.seeds:
        train_seeds(request.settings, request.seeds, yes=request.yes)
    else:
        train(request.settings, resume=request.resume, yes=request.yes)


def print_origin(request: Request) -> None:
    """Print what has chosen the settings that were not given, if anything has."""
    if request.origin:
        console.print(request.origin)


def group_options(early: argparse.Namespace, rest: Sequence[str]) -> list[str]:
    """Return the options that change in every run of a resumed group."""
    for name in ("list", "preset", "config", "seeds", "print_config"):
        if getattr(early, name):
            raise bad_option(
                "--resume", str(early.resume), f"no --{name.replace('_', '-')} beside it"
            )
    first = members(early.resume)[0]
    named = [rest[0]] if rest and not rest[0].startswith("-") else []
    request = parse_train([*named, "--resume", str(first), *rest[len(named) :]])
    before = option_values(Run.open(first).train_config)
    after = option_values(request.settings.train)
    words = []
    for name in CHANGEABLE:
        if before[name] != after[name]:
            values = after[name] if isinstance(after[name], tuple) else (after[name],)
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return words


def _refuse_changes(before: Settings, after: Settings) -> None:
    """Refuse options beside ``--resume`` that would turn the run into another one."""
    for old, new in ((before.train, after.train), (before.agent_config, after.agent_config)):
        present = option_values(new)
        for name, value in option_values(old).items():
            if value != present[name] and (old is not before.train or name not in CHANGEABLE):
                raise bad_option(
                    f"--{name.replace('_', '-')}",
                    present[name],
                    f"{value!r} with --resume, where only "
                    f"{', '.join('--' + n.replace('_', '-') for n in CHANGEABLE)} may change",
                )

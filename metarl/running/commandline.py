"""From a command line to dataclasses, and from an error to one line and exit code 2."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import tyro

from metarl import registry
from metarl.console import console
from metarl.errors import UserError, bad_option, require_seed
from metarl.options import field_types, option_values, with_options
from metarl.running.exits import exits
from metarl.running.presets import PRESETS, preset
from metarl.running.run import Run
from metarl.running.seeds import resume_seeds, train_seeds
from metarl.running.settings import TrainConfig, members, read_settings
from metarl.running.train import Plan, train

T = TypeVar("T")


_TYRO: tuple[Any, ...] = (tyro.conf.OmitArgPrefixes,)

DEFAULT_AGENT = "rl2"


_TRAIN_HELP = f"""\
Meta-train an agent, then evaluate how it adapts to held-out tasks.

usage: train.py [AGENT] [options], AGENT being {" or ".join(registry.agents())}

Read before the options below:
  --list           name the environments, agents and presets
  --preset NAME    start from named settings
  --config FILE    start from a run's config.json, or what --print-config printed
  --resume RUN     go on with a run where it stopped; options that do not reach its parameters
                   (iterations, checkpoints, validation, evaluation, workers, logging) may differ
  --seeds N N …    train once with each seed, as many side by side as there are cores, and
                   evaluate them together; --run-dir is the folder of their runs
  --print-config   print all settings as JSON and leave"""


CHANGEABLE = (
    "iterations",
    "checkpoint_interval",
    "keep_checkpoints",
    "validation_interval",
    "validation_tasks",
    "evaluation_tasks",
    "checkpoint_seconds",
    "on_save_error",
    "num_workers",
    "env_timeout",
    "env_restarts",
    "callback",
    "check",
    "wandb",
)
"""What a resumed run may change: none of it reaches the agent's parameters."""


@dataclass(frozen=True)
class TrainRequest:
    """What a command line of ``train.py`` asks for."""

    config: TrainConfig
    agent: str
    agent_config: Any
    resume: Run | None = None
    seeds: tuple[int, ...] = ()
    """Of several runs, instead of the config's."""
    print_config: bool = False


def parse(kind: Any, description: str, command: str, arguments: Sequence[str]) -> Any:
    """Parse arguments into a dataclass whose fields' docstrings are the help.

    Args:
        kind: the dataclass, or a union of them for subcommands.
        description: the first line of the help.
        command: the name of the command.
        arguments: the words that follow it.
    """
    return tyro.cli(
        kind,
        prog=program(command),
        description=description,
        config=_TYRO,
        args=plain_flags(arguments, kind),
    )


def program(command: str) -> str:
    """Return the words that a command was started by: ``metarl train`` or ``train.py``."""
    started = Path(sys.argv[0]).name
    return started if started == f"{command}.py" else f"metarl {command}"


_TRUTH = {"true": True, "false": False, "1": True, "0": False}


def plain_flags(arguments: Sequence[str], *kinds: Any) -> list[str]:
    """Return the arguments with ``--x=true`` as ``--x`` and ``--x=false`` as ``--no-x``.

    Sweeps send values for every option; ``--x True`` and ``--x False`` are read too.

    Args:
        arguments: of a command line.
        kinds: dataclasses, or unions of them, whose fields of type bool are the flags.

    Raises:
        UserError: for a flag with another value.
    """
    flags = set().union(*map(_flags, kinds))
    words, rest = [], list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name.startswith("--") and name[2:].replace("_", "-") in flags:
            if not equals and rest and rest[0].lower() in ("true", "false"):
                equals, value = "=", rest.pop(0)
            if equals and value.lower() not in _TRUTH:
                raise bad_option(name, value, "true or false")
            if equals:
                word = name if _TRUTH[value.lower()] else f"--no-{name[2:]}"
        words.append(word)
    return words


def _flags(kind: Any) -> set[str]:
    """Return the names of the fields of type bool, as options are typed."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = field_types(kind)
        own = {name.replace("_", "-") for name, hint in hints.items() if hint is bool}
        return own.union(*map(_flags, hints.values()))
    return set().union(*map(_flags, get_args(kind)))


def _early(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse what decides which options there are, and return the rest."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--list", action="store_true")
    first.add_argument("--preset")
    first.add_argument("--config", type=Path)
    first.add_argument("--resume", type=Path)
    first.add_argument("--seeds", type=int, nargs="+", default=[])
    first.add_argument("--print-config", action="store_true")
    try:
        early, rest = first.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from error
    return early, rest


def parse_train(arguments: Sequence[str]) -> TrainRequest:
    """Parse the command line of ``train.py``: an agent's name, if any, comes first."""
    early, rest = _early(arguments)
    if early.list:
        _print_names()
        sys.exit(0)
    named = rest.pop(0) if rest and not rest[0].startswith("-") else None
    sources = [n for n in ("preset", "config", "resume") if getattr(early, n) is not None]
    if len(sources) > 1:
        given = str(getattr(early, sources[0]))
        raise bad_option(f"--{sources[0]}", given, f"no --{sources[1]} beside it")
    if early.seeds and (early.resume is not None or len(set(early.seeds)) < len(early.seeds)):
        raise bad_option("--seeds", early.seeds, "seeds that differ, and no --resume beside them")
    for seed in early.seeds:
        require_seed("--seeds", seed)
    if early.seeds and any(a.split("=")[0] == "--seed" for a in rest):
        raise bad_option("--seeds", early.seeds, "no --seed beside it")

    train, resume, values = TrainConfig(), None, {}
    agent = named or DEFAULT_AGENT
    if early.preset is not None:
        chosen = preset(early.preset)
        agent, train, values = chosen.agent, TrainConfig(**chosen.train), chosen.config
    if early.resume is not None:
        resume = Run.open(early.resume, named if named and registry.is_import(named) else None)
        agent, train = resume.agent_name, resume.train_config
    config, seeds = None, tuple(early.seeds)
    if early.config is not None:
        path = early.config / "config.json" if early.config.is_dir() else early.config
        config = Run(path, read_settings(path), named)
        agent = config.agent_name
        if not any(a.split("=")[0] == "--seed" for a in rest):
            seeds = seeds or tuple(config.config.get("seeds", ()))
    if named is not None and named != agent:
        registry.agent_class(named)  # an unknown name is the first thing to say
        raise bad_option("agent", named, f"{agent}, which the preset, settings or run is for")
    if config is not None:
        train, agent_config = config.for_another_run()
    elif resume is not None:
        agent_config = resume.agent_config
    else:
        agent_config = with_options(registry.agent_class(agent).Config(), **values)

    if any(a.split("=")[0].replace("_", "-") == "--env-steps" for a in rest):
        train = dataclasses.replace(train, iterations=None)
    options = dataclasses.make_dataclass(
        "Options", [("agent", type(agent_config))], bases=(TrainConfig,), frozen=True, kw_only=True
    )
    shallow = {f.name: getattr(train, f.name) for f in dataclasses.fields(train)}
    parsed = tyro.cli(
        options,
        prog=program("train"),
        description=f"{_TRAIN_HELP}\n\nThe options below are those of {agent}.",
        args=plain_flags(rest, TrainConfig, type(agent_config)),
        default=options(**shallow, agent=agent_config),
        config=_TYRO,
    )
    chosen_config = TrainConfig(**{name: getattr(parsed, name) for name in shallow})
    request = TrainRequest(chosen_config, agent, parsed.agent, resume, seeds, early.print_config)
    origin = resume or config
    if origin is not None:
        typed = {a.split("=")[0].replace("_", "-") for a in rest}
        if registry.is_import(chosen_config.env) and "--env" not in typed:
            origin.make_tasks()  # says that the module is to be named again
        for option in ("task_sampler", "callback"):
            flag, value = f"--{option.replace('_', '-')}", getattr(chosen_config, option)
            if value is not None and ":" in value and flag not in typed:
                raise UserError(
                    f"{origin.directory}: has {flag} {value}, which is not imported because a "
                    f"file says so: name it again with {flag} {value}"
                )
    if resume is not None:
        _refuse_changes(train, chosen_config, agent_config, parsed.agent)
    return request


def run_train(arguments: Sequence[str]) -> None:
    """Do what a command line of ``train.py`` asks for."""
    early, rest = _early(arguments)
    if early.resume is not None and members(early.resume) != [early.resume]:
        resume_seeds(early.resume, _group_options(early, rest))
        return
    request = parse_train(arguments)
    if request.print_config:
        plan = Plan.of(request.config, request.agent, request.agent_config)
        seeds = {"seeds": request.seeds} if request.seeds else {}
        print(json.dumps({**plan.settings(), **seeds}, indent=1))
    elif request.seeds:
        train_seeds(request.config, request.agent, request.agent_config, request.seeds)
    else:
        train(request.config, request.agent, request.agent_config, request.resume)


def _group_options(early: argparse.Namespace, rest: Sequence[str]) -> list[str]:
    """Return what is to be changed in every run of a group that goes on."""
    for name in ("list", "preset", "config", "seeds", "print_config"):
        if getattr(early, name):
            raise bad_option(
                "--resume", str(early.resume), f"no --{name.replace('_', '-')} beside it"
            )
    first = members(early.resume)[0]
    named = [rest[0]] if rest and not rest[0].startswith("-") else []
    request = parse_train([*named, "--resume", str(first), *rest[len(named) :]])
    before = Run.open(first).train_config
    changed = [n for n in CHANGEABLE if getattr(request.config, n) != getattr(before, n)]
    options = [(f"--{n.replace('_', '-')}", str(getattr(request.config, n))) for n in changed]
    return [word for pair in options for word in pair]


def _refuse_changes(
    train: TrainConfig, new_train: TrainConfig, agent: object, new_agent: object
) -> None:
    """Refuse options on ``--resume`` that would make it another run."""
    for old, new in ((train, new_train), (agent, new_agent)):
        present = option_values(new)
        for name, before in option_values(old).items():
            after = present[name]
            if before != after and (old is not train or name not in CHANGEABLE):
                raise bad_option(
                    f"--{name.replace('_', '-')}",
                    after,
                    f"{before!r} on --resume, where only "
                    f"{', '.join('--' + n.replace('_', '-') for n in CHANGEABLE)} may change",
                )


def _print_names() -> None:
    own = "package.module:Name"
    gym = {"gym/<Id>:<parameter>=<low>..<high>": "any Gymnasium environment, parameters drawn"}
    tasks = {name: entry.description for name, entry in registry.task_distributions().items()}
    agents = {name: entry.description for name, entry in registry.agents().items()}
    presets = {name: chosen.source for name, chosen in PRESETS.items()}
    for title, entries in (
        ("environments", {**tasks, **gym, own: "a distribution of yours, or a function for one"}),
        ("agents", {**agents, own: "an agent of yours"}),
        ("presets", presets),
    ):
        console.print(f"{title}:")
        width = max(map(len, entries))
        for name, about in sorted(entries.items()):
            console.print(f"  {name:{width}}  {about}".rstrip())


def child() -> None:
    """Be ``train.py`` for a parent, and stop when it has gone."""

    def watch() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    arguments, sys.argv[0] = sys.argv[1:], "train.py"
    threading.Thread(target=watch, daemon=True).start()
    exits(lambda: run_train(arguments))()

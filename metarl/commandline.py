"""From a command line to dataclasses, and from an error to one line and exit code 2."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import tyro

from metarl import registry
from metarl.errors import EnvError, UserError, bad_option
from metarl.logging import console
from metarl.presets import PRESETS, preset
from metarl.runs import Run
from metarl.training import TrainConfig

T = TypeVar("T")

_TYRO: tuple[Any, ...] = (tyro.conf.OmitArgPrefixes,)
DEFAULT_AGENT = "rl2"

_TRAIN_HELP = f"""\
Meta-train an agent, then evaluate how it adapts to held-out tasks.

usage: train.py [AGENT] [options], AGENT being {" or ".join(registry.agents())}

Read before the options below:
  --list           name the environments, agents and presets
  --preset NAME    start from named settings
  --resume RUN     go on with a run where it stopped; options that do not change its result
                   (iterations, checkpoints, validation, evaluation) may differ"""

CHANGEABLE = (
    "iterations",
    "checkpoint_interval",
    "keep_checkpoints",
    "validation_interval",
    "validation_tasks",
    "evaluation_tasks",
)
"""What a resumed run may change: none of it reaches the agent's parameters."""


@dataclass(frozen=True)
class TrainRequest:
    """What a command line of ``train.py`` asks for."""

    config: TrainConfig
    agent: str
    agent_config: Any
    resume: Run | None = None


def exits(main: Callable[[], None]) -> Callable[[], None]:
    """Make a script's ``main`` print an error a user can mend as one line, with exit code 2."""

    @functools.wraps(main)
    def wrapped() -> None:
        try:
            main()
        except UserError as error:
            fail(error)
        except EnvError as error:
            sys.stdout.flush()
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt:
            sys.exit(130)
        except BrokenPipeError:
            sys.exit(1)

    return wrapped


def fail(error: UserError) -> NoReturn:
    """Print ``error`` and exit with code 2."""
    sys.stdout.flush()
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


def parse(kind: Any, description: str) -> Any:
    """Parse the command line into a dataclass whose fields' docstrings are its help."""
    return tyro.cli(kind, description=description, config=_TYRO)


def parse_train(arguments: Sequence[str]) -> TrainRequest:
    """Parse the command line of ``train.py``: an agent's name, if any, comes first."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--list", action="store_true")
    first.add_argument("--preset")
    first.add_argument("--resume", type=Path)
    try:
        early, rest = first.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from error
    if early.list:
        _print_names()
        sys.exit(0)
    named = rest.pop(0) if rest and not rest[0].startswith("-") else None
    if early.preset is not None and early.resume is not None:
        raise bad_option("--preset", early.preset, "no --resume beside it")

    train, resume, values = TrainConfig(), None, {}
    agent = named or DEFAULT_AGENT
    if early.preset is not None:
        chosen = preset(early.preset)
        agent, train, values = chosen.agent, TrainConfig(**chosen.train), chosen.config
    if early.resume is not None:
        resume = Run.open(early.resume, named if named and registry.is_import(named) else None)
        agent, train = resume.agent_name, resume.train_config
    if named is not None and named != agent:
        registry.agent_class(named)  # an unknown name is the first thing to say
        raise bad_option("agent", named, f"{agent}, which the preset or run is for")
    agent_config = resume.agent_config if resume else registry.agent_class(agent).Config(**values)

    if any(a.split("=")[0].replace("_", "-") == "--env-steps" for a in rest):
        train = dataclasses.replace(train, iterations=None)
    options = dataclasses.make_dataclass(
        "Options", [("agent", type(agent_config))], bases=(TrainConfig,), frozen=True, kw_only=True
    )
    shallow = {f.name: getattr(train, f.name) for f in dataclasses.fields(train)}
    parsed = tyro.cli(
        options,
        prog="train.py",
        description=f"{_TRAIN_HELP}\n\nThe options below are those of {agent}.",
        args=rest,
        default=options(**shallow, agent=agent_config),
        config=_TYRO,
    )
    config = TrainConfig(**{name: getattr(parsed, name) for name in shallow})
    request = TrainRequest(config, agent, parsed.agent, resume)
    if resume is not None:
        if registry.is_import(config.env) and not any(a.split("=")[0] == "--env" for a in rest):
            resume.make_tasks()  # says that the module is to be named again
        _refuse_changes(train, config, agent_config, parsed.agent)
    return request


def _refuse_changes(
    train: TrainConfig, new_train: TrainConfig, agent: object, new_agent: object
) -> None:
    """Refuse options on ``--resume`` that would make it another run."""
    for old, new in ((train, new_train), (agent, new_agent)):
        for entry in dataclasses.fields(cast(Any, old)):
            before, after = getattr(old, entry.name), getattr(new, entry.name)
            if before != after and (old is not train or entry.name not in CHANGEABLE):
                raise bad_option(
                    f"--{entry.name.replace('_', '-')}",
                    after,
                    f"{before!r} on --resume, where only "
                    f"{', '.join('--' + n.replace('_', '-') for n in CHANGEABLE)} may change",
                )


def _print_names() -> None:
    own = "package.module:Name"
    names = sorted([*registry.task_distributions(), "gym/<Id>:<parameter>=<low>..<high>"])
    console.print(f"environments: {', '.join([*names, own])}", markup=False)
    console.print(f"agents: {', '.join([*sorted(registry.agents()), own])}")
    console.print("presets:")
    for name, chosen in sorted(PRESETS.items()):
        console.print(f"  {name}: {chosen.source}")

"""What makes a run the run it is: its settings as JSON, and the folder it lies in."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

from typeguard import TypeCheckError, check_type

from metarl.checkpoints import read_object
from metarl.errors import UserError, bad_option, near_matches
from metarl.training import TrainConfig

FORMAT = 1
"""Of ``config.json``."""


def settings(
    config: TrainConfig, agent: str, agent_config: Any, derived: Sequence[str] = ()
) -> dict[str, Any]:
    """Return what ``train.py --config`` takes: all that makes a run the run it is.

    Fields of the agent's config that are ``derived`` from the run's length are written out, and
    derived again where another run starts from them.
    """
    return {
        "format": FORMAT,
        "agent": agent,
        "agent_config": dataclasses.asdict(agent_config),
        "derived": list(derived),
        "train_config": {**dataclasses.asdict(config), "run_dir": None},
    }


def read_settings(path: Path) -> dict[str, Any]:
    """Read a run's ``config.json``, or what ``train.py --print-config`` printed.

    Raises:
        UserError: where it cannot be one.
    """
    content = read_object(path, FORMAT)
    for name, kind in (("agent", str), ("agent_config", dict), ("train_config", dict)):
        if not isinstance(content.get(name), kind):
            raise UserError(f"{path}: {name!r} is missing or no {kind.__name__}")
    if not isinstance(content["train_config"].get("env"), str):
        raise UserError(f"{path}: 'train_config' names no 'env'")
    for name in ("derived", "seeds"):
        if not isinstance(content.get(name, []), list):
            raise UserError(f"{path}: {name!r} is no list")
    return content


def dataclass_of(kind: type, values: dict[str, Any], path: Path) -> Any:
    """Return the dataclass with values as read from JSON: lists are tuples there."""
    hints = get_type_hints(kind)
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    for name, value in values.items():
        if name not in hints:
            raise UserError(f"{path}: {kind.__name__} has no {name!r}; {near_matches(name, hints)}")
        try:
            check_type(value, hints[name])
        except TypeCheckError as error:
            raise UserError(f"{path}: {name}: got {value!r}; accepted: {error}") from error
    return kind(**values)


def members(directory: Path) -> list[Path]:
    """Return the run directories in that of several seeds; any other is its own only one."""
    path = directory / "config.json"
    seeds = read_settings(path).get("seeds") if path.is_file() else None
    return [directory] if seeds is None else [directory / str(seed) for seed in seeds]


def default_directory(config: TrainConfig, agent: str, label: str) -> Path:
    """Return ``runs/<env>/<agent>/<label>-<time>``, which does not exist yet."""
    env, agent = (re.sub(r"[^a-z0-9._-]+", "-", n.lower()).strip("-") for n in (config.env, agent))
    stamp = time.strftime("%Y%m%d-%H%M%S")
    base = Path("runs") / env / agent / f"{label}-{stamp}"
    path, count = base, 1
    while path.exists():
        count += 1
        path = base.with_name(f"{base.name}-{count}")
    return path


def refuse_used(directory: Path) -> None:
    """Refuse a place for new runs that holds anything but what a killed one had begun to write."""
    begun = ".config.json.partial"
    used = directory.exists() and (
        not directory.is_dir() or any(p.name != begun for p in directory.iterdir())
    )
    if used:
        accepted = "a new or empty directory (--resume goes on with a run)"
        raise bad_option("--run-dir", str(directory), accepted)

"""What makes a run the run it is: its settings as JSON, and the folder it lies in."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from typeguard import TypeCheckError, check_type

from metarl.errors import (
    UserError,
    bad_option,
    near_matches,
    require_seed,
)
from metarl.experience.agent import Agent
from metarl.files import read_object
from metarl.options import field_types
from metarl.running import first_edition
from metarl.tasks.distribution import TaskDistribution

FORMAT = 2
"""The format of ``config.json``."""


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
    content = read_object(path, first_edition.FORMAT, FORMAT)
    for name, kind in (("agent", str), ("agent_config", dict), ("train_config", dict)):
        if not isinstance(content.get(name), kind):
            raise UserError(f"{path}: {name!r} is missing or no {kind.__name__}")
    if not isinstance(content["train_config"].get("env"), str):
        raise UserError(f"{path}: 'train_config' names no 'env'")
    for name in ("derived", "seeds"):
        if not isinstance(content.get(name, []), list):
            raise UserError(f"{path}: {name!r} is no list")
    if not all(type(seed) is int for seed in content.get("seeds", [])):
        raise UserError(f"{path}: 'seeds' holds {content['seeds']!r}, not whole numbers alone")
    return content if content["format"] == FORMAT else first_edition.modern(content)


def dataclass_of(kind: type, values: dict[str, Any], path: Path) -> Any:
    """Return the dataclass with values as read from JSON: lists are tuples there, dicts configs."""
    hints = field_types(kind)
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    for name, value in values.items():
        if name not in hints:
            raise UserError(f"{path}: {kind.__name__} has no {name!r}; {near_matches(name, hints)}")
        if dataclasses.is_dataclass(hints[name]) and isinstance(value, dict):
            values[name] = value = dataclass_of(hints[name], value, path)
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


BestBy: TypeAlias = Literal["return_after", "success_after", "trial_return"]


@dataclass(frozen=True)
class TrainConfig:
    """What to meta-train on, and for how long."""

    env: str = "bandit/n10-k5"
    """Task distribution; `--list` names them."""
    seed: int = 0
    """Every random number is derived from it."""
    device: str = "cpu"
    """Where the agent runs: `cpu` or `cuda`."""
    threads: int = 1
    """Torch threads of the meta-update; experience is gathered with one."""
    iterations: int | None = None
    """Meta-updates; 400 where neither they nor `--env-steps` are given."""
    env_steps: int | None = None
    """Instead of `--iterations`: as many as take this many steps with full-length episodes."""
    schedule_iterations: int | None = None
    """Iterations until schedules, such as that of the learning rate, reach their final values;
    by default all that a run starts out with."""
    num_slots: int | None = None
    """Episodes stepped at once; by default as many as the agent can use, within the
    distribution's `max_slots`."""
    num_workers: int | None = None
    """Processes that step simulators, 0 for none; by default one a core. The experience does
    not depend on it."""
    env_timeout: float = 60.0
    """Seconds that one call of an environment may take in a worker."""
    env_restarts: int = 0
    """How many times a killed or hung worker is started again, its episodes replayed."""
    task_sampler: str = "uniform"
    """How training tasks are chosen: `uniform` draws every task anew, `hardest` draws half of them
    from the worst tenth of the tasks met lately; or a class of yours, `package.module:Name`."""
    callback: str | None = None
    """A function of yours, `package.module:name`, that is called after every iteration with its
    number, the trial and the metrics; training ends early when it returns False."""
    check: bool = True
    """Play a few episodes before a new run to warn of task parameters that change nothing and of
    tasks that two splits share; this takes a few seconds at most."""
    run_dir: Path | None = None
    """Where results go; by default runs/<env>/<agent>/<seed>-<time>."""
    checkpoint_seconds: float = 60.0
    """Time between checkpoints; more where writing one would take over 1% of it."""
    checkpoint_interval: int | None = None
    """Write one every so many iterations as well, whatever it takes."""
    keep_checkpoints: int = 2
    """How many of the newest are kept, beside the best."""
    validation_interval: int = 50
    """Iterations between evaluations on validation tasks, which choose the best checkpoint."""
    validation_tasks: int = 200
    """Validation tasks of one such evaluation; no training and no test task is among them."""
    best_by: BestBy = "return_after"
    """What makes a checkpoint the best, on validation tasks: the return or the success after
    adaptation, or the sum of the returns of a trial's points."""
    on_save_error: Literal["continue", "stop"] = "continue"
    """Where a checkpoint or metrics cannot be written (a full disk): train on, trying again with
    the next checkpoint, or stop."""
    wandb: str | None = None
    """Project of Weights & Biases to log to as well."""
    evaluation_tasks: int | None = None
    """Held-out tasks of the evaluation after training; by default 1000, or each once where they
    are finite and at least 50."""

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        for name in (
            "threads",
            "iterations",
            "checkpoint_interval",
            "keep_checkpoints",
            "validation_interval",
            "validation_tasks",
            "evaluation_tasks",
            "schedule_iterations",
            "env_steps",
            "num_slots",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise bad_option(f"--{name.replace('_', '-')}", value, "at least 1")
        require_seed("--seed", self.seed)
        for name in ("num_workers", "env_restarts"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise bad_option(f"--{name.replace('_', '-')}", value, "0 or more")
        if not 0 < self.env_timeout < math.inf:
            raise bad_option("--env-timeout", self.env_timeout, "a number above 0")
        if not self.checkpoint_seconds > 0:
            raise bad_option("--checkpoint-seconds", self.checkpoint_seconds, "above 0, or inf")
        if self.iterations is not None and self.env_steps is not None:
            raise bad_option("--env-steps", self.env_steps, "no --iterations beside it")

    def vec_options(self) -> dict[str, Any]:
        """Return what ``TaskDistribution.make_vec`` takes beside the number of slots."""
        return {
            "num_workers": self.num_workers,
            "timeout": self.env_timeout,
            "restarts": self.env_restarts,
        }

    def resolve(self, agent: Agent, tasks: TaskDistribution) -> TrainConfig:
        """Return the same with the number of iterations written out."""
        if self.best_by == "success_after" and "success" not in tasks.reported_keys:
            accepted = f"return_after, trial_return ({tasks.name} reports no success)"
            raise bad_option("--best-by", self.best_by, accepted)
        iterations = self.iterations or 400
        if self.env_steps is not None:
            steps = agent.tasks_per_update * agent.shape.num_episodes * tasks.horizon
            iterations = math.ceil(self.env_steps / steps)
        schedule = self.schedule_iterations or iterations
        return replace(self, iterations=iterations, env_steps=None, schedule_iterations=schedule)

    def progress(self, iteration: int) -> float:
        """Return how far schedules have come before the update after ``iteration`` updates."""
        return min(1.0, iteration / (self.schedule_iterations or math.inf))


def own_modules(config: TrainConfig) -> list[str]:
    """Return the options that name a user's own modules again, beside the environment's."""
    named = {"--task-sampler": config.task_sampler, "--callback": config.callback}
    return [
        word for flag, value in named.items() if value and ":" in value for word in (flag, value)
    ]

"""The settings of a run: its agent, the agent's config, and how it is trained and evaluated."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import tyro
from typeguard import TypeCheckError, check_type

from metarl.constraints import Above, AtLeast, Positive, refuse_unused, validate
from metarl.errors import UserError, bad_option, near_matches, require_seed
from metarl.evaluation.drawn_tasks import DEFAULT_TASKS, default_tasks
from metarl.evaluation.evaluate import evaluation_shape
from metarl.experience.agent import Agent
from metarl.experience.changes import require_change
from metarl.files import read_object
from metarl.options import field_types, option_paths, option_values, with_options
from metarl.running import first_edition
from metarl.stepping.options import Workers
from metarl.tasks.distribution import TaskDistribution

FORMAT = 2
"""The format of ``config.json``."""

DEFAULT_ITERATIONS = 400
"""The number of updates if no option determines it."""

LENGTHS = ("iterations", "env_steps", "minutes")
"""Options that say how long a training is; one of them is enough."""

DERIVED = (
    *("schedule_iterations", "validation_interval"),
    *("validation_tasks", "evaluation_tasks"),
)
"""Options that follow from others where they are not given; another run derives them again."""

NUM_VALIDATIONS = 8
"""The number of evaluations on validation tasks in a training by default, or more."""

VALIDATION_SHARE = 0.1
"""The largest share of a training's steps that validation adds by default."""

EVALUATION_SHARE = 0.1
"""The largest share of a training's steps that the evaluation after it has by default."""

BestBy: TypeAlias = Literal["return_after", "success_after", "trial_return"]


@dataclass(frozen=True)
class ValidationConfig:
    """Evaluations on tasks that the agent is not trained on: when, and on how many."""

    validation_interval: Annotated[int, AtLeast(1)] | None = None
    """Number of updates between evaluations on validation tasks, which choose the best checkpoint
    (default: 50, or an eighth of a training of fewer than 400 updates)."""
    validation_tasks: Annotated[int, AtLeast(1)] | None = None
    """Number of validation tasks, which are neither training nor test tasks (default: 200, or as
    many as add a tenth to the steps of the training, at least 10)."""
    best_by: BestBy = "return_after"
    """Score on validation tasks that makes a checkpoint the best: the return or the success rate
    after adaptation, or the sum of the returns of all points of the adaptation curve."""
    evaluation_tasks: Annotated[int, AtLeast(1)] | None = None
    """Number of held-out tasks in the evaluation after training (default: 1000, or as many as take
    a tenth of the steps of the training, at least 100; if there are finitely many and at least
    50, every task once)."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be used."""
        validate(self)

    def resolve(self, agent: Agent, tasks: TaskDistribution, iterations: int) -> ValidationConfig:
        """Return this config with every number filled in, for a training of ``iterations``."""
        interval = self.validation_interval or min(50, math.ceil(iterations / NUM_VALIDATIONS))
        trained = iterations * steps_per_update(agent, tasks)
        each = evaluation_shape(agent, tasks, None).num_episodes * tasks.horizon
        affordable = int(VALIDATION_SHARE * trained / each / math.ceil(iterations / interval))
        return dataclasses.replace(
            self,
            validation_interval=interval,
            validation_tasks=self.validation_tasks or min(200, max(10, affordable)),
        )

    def after(self, agent: Agent, tasks: TaskDistribution, iterations: int) -> ValidationConfig:
        """Return this config with the number of held-out tasks, after ``iterations`` updates.

        It is filled in no sooner, since a training looks at no test task.
        """
        if self.evaluation_tasks is not None:
            return self
        trained = iterations * steps_per_update(agent, tasks)
        each = evaluation_shape(agent, tasks, None).num_episodes * tasks.horizon
        number = default_tasks(tasks, "test")  # All tasks, if they are finitely many.
        if number == DEFAULT_TASKS:
            number = min(number, max(100, int(EVALUATION_SHARE * trained / each)))
        return dataclasses.replace(self, evaluation_tasks=number)


def steps_per_update(agent: Agent, tasks: TaskDistribution) -> int:
    """Return the number of environment steps of an update if every episode has its full length."""
    return agent.tasks_per_update * agent.shape.num_episodes * tasks.horizon


def refuse_lengths(given: Sequence[str]) -> None:
    """Refuse two options that both say how long a training is.

    Args:
        given: the names among :data:`LENGTHS` that a user has given.
    """
    if len(given) > 1:
        flags = {name: f"--{name.replace('_', '-')}" for name in LENGTHS}
        first, second = (flags[name] for name in given[:2])
        every = ", ".join(flags.values())
        raise UserError(f"{second}: got {first} beside it; accepted: one of {every}")


@dataclass(frozen=True)
class RunConfig:
    """The record of a run: its folder, checkpoints and logs."""

    directory: Annotated[Path | None, tyro.conf.arg(name="run-dir")] = None
    """Folder for everything the run writes (default: runs/<env>/<agent>/<seed>-<time>)."""
    checkpoint_seconds: Annotated[float, Above(0)] = 60.0
    """Seconds between checkpoints; they are written less often if writing takes more than 1% of
    the time."""
    checkpoint_interval: Annotated[int, AtLeast(1)] | None = None
    """Number of updates after which a checkpoint is written in any case (default: only the time
    counts)."""
    keep_checkpoints: Annotated[int, AtLeast(1)] = 2
    """Number of the newest checkpoints that are kept, beside the best one."""
    on_save_error: Literal["continue", "stop"] = "continue"
    """What happens if a checkpoint or metrics cannot be written, for example to a full disk:
    `continue` goes on training and tries again with the next checkpoint."""
    wandb_project: str | None = None
    """Project of Weights & Biases to which metrics are logged as well (default: not used)."""
    wandb_entity: str | None = None
    """User or team that the project of Weights & Biases belongs to (default: your own)."""
    wandb_group: str | None = None
    """Group of Weights & Biases that the run is shown in (default: none, or the name of the folder
    of several seeds or of a search)."""
    wandb_tags: tuple[str, ...] = ()
    """Tags that the run has in Weights & Biases."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be used."""
        validate(self)
        if self.wandb_project is None:
            refuse_unused(self, ("wandb_entity", "wandb_group"), "--wandb-project")
            if self.wandb_tags:
                accepted = "no tags, unless --wandb-project is given"
                raise bad_option("--wandb-tags", self.wandb_tags, accepted)


@dataclass(frozen=True)
class TrainConfig:
    """What an agent is trained on, and for how long.

    >>> config = metarl.TrainConfig(env="navigation", iterations=100)
    >>> config.seed, config.evaluation.best_by, config.workers.env_timeout
    (0, 'return_after', 60.0)
    """

    env: str = "bandit/n10-k5"
    """Name of the task distribution; `--list` shows all names."""
    seed: int = 0
    """Number from which every random number of the run is derived."""
    iterations: Annotated[int, AtLeast(1)] | None = None
    """Number of updates of the agent (default: 400, or what `--env-steps` amounts to)."""
    env_steps: Annotated[int, AtLeast(1)] | None = None
    """Number of environment steps to train on, instead of `--iterations` (default: not used). They
    are counted as if every episode had its full length."""
    minutes: Annotated[float, Positive] | None = None
    """Minutes to train for, instead of `--iterations` (default: not used). A measurement before the
    training says how many updates that is; the final evaluation is not counted."""
    schedule_iterations: Annotated[int, AtLeast(1)] | None = None
    """Number of updates after which schedules, such as that of the learning rate, have reached
    their final values (default: all updates)."""
    change_task_after: Annotated[int, AtLeast(0)] = 0
    """Number of episodes of a trial after which its task becomes another one, without a notice to
    the agent; with 0 it never does. Validation and evaluation follow it by default."""
    task_sampler: str = "uniform"
    """How training tasks are chosen: `uniform` draws every task anew, `hardest` draws half of them
    from the worst tenth of recent tasks; `package.module:Name` is a class of yours."""
    callback: str | None = None
    """Function of yours, as `package.module:name`, that is called after every update with its
    number, the trial and the metrics; training ends early when it returns False (default: none)."""
    check: bool = True
    """Play a few episodes before a new run, to warn of task parameters that change nothing and of
    tasks that two splits share; this takes a few seconds at most."""
    device: str = "cpu"
    """Device of the agent's tensors: `cpu`, `cuda`, or `cuda:1` for the second GPU."""
    torch_threads: Annotated[int, AtLeast(1)] = 1
    """Number of CPU threads that torch uses in updates; acting always uses one."""
    evaluation: ValidationConfig = field(default_factory=ValidationConfig)
    """Evaluations during the training and after it."""
    run: RunConfig = field(default_factory=RunConfig)
    """The record of the run: its folder, checkpoints and logs."""
    workers: Workers = field(default_factory=Workers)
    """How environments are stepped."""

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        validate(self)
        require_seed("--seed", self.seed)
        if self.change_task_after:
            self._refuse_beside_change()
        if self.iterations is not None and self.env_steps is not None:
            refuse_lengths(("iterations", "env_steps"))

    def _refuse_beside_change(self) -> None:
        """Refuse what cannot be if the task of a trial changes."""
        if self.task_sampler == "hardest":
            accepted = "uniform with --change-task-after, since a trial's return is not of one task"
            raise bad_option("--task-sampler", self.task_sampler, accepted)
        for name in ("validation_tasks", "evaluation_tasks"):
            number = getattr(self.evaluation, name)
            if number == 1:
                accepted = "at least 2 with --change-task-after, since they are exchanged"
                raise bad_option(f"--{name.replace('_', '-')}", number, accepted)

    def resolve(self, agent: Agent, tasks: TaskDistribution) -> TrainConfig:
        """Return this config with the numbers filled in that follow from others.

        Of a training that is given in minutes none is, until a measurement says how many
        updates it has.

        Raises:
            UserError: if success should choose the best checkpoint but the tasks report none, or
                if the task should change where a trial of the agent cannot.
        """
        if self.change_task_after:
            require_change(self.change_task_after, agent.shape)
        best_by = self.evaluation.best_by
        if best_by == "success_after" and "success" not in tasks.reported_keys:
            accepted = f"return_after, trial_return ({tasks.name} reports no success)"
            raise bad_option("--best-by", best_by, accepted)
        if self.minutes is not None and self.iterations is None:
            return self  # How many updates these are is measured before the training.
        iterations = self.iterations or DEFAULT_ITERATIONS
        if self.env_steps is not None:
            iterations = math.ceil(self.env_steps / steps_per_update(agent, tasks))
        return dataclasses.replace(
            self,
            iterations=iterations,
            env_steps=None,
            schedule_iterations=self.schedule_iterations or iterations,
            evaluation=self.evaluation.resolve(agent, tasks, iterations),
        )

    def progress(self, iteration: int) -> float:
        """Return how far schedules have come after ``iteration`` updates, from 0 to 1."""
        return min(1.0, iteration / (self.schedule_iterations or math.inf))

    def own_modules(self) -> list[str]:
        """Return the options beside ``--env`` that name a user's own modules, and their values."""
        named = {"--task-sampler": self.task_sampler, "--callback": self.callback}
        return [
            word
            for flag, value in named.items()
            if value and ":" in value
            for word in (flag, value)
        ]


@dataclass(frozen=True)
class Settings:
    """The settings of a run, which repeat it exactly.

    A preset has settings, ``config.json`` and the file that ``--config`` reads contain them, and
    runs of several seeds share them.
    """

    agent: str
    """The agent's name in the registry, or ``package.module:Name``."""
    agent_config: Any
    """An instance of the ``Config`` of the agent's class."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """What the agent is trained on, and for how long."""
    derived: tuple[str, ...] = ()
    """Options of ``train`` that follow from other ones; a run that starts from these settings
    derives them again."""

    def with_train(self, **options: Any) -> Settings:
        """Return these settings with other options of ``train``."""
        return dataclasses.replace(self, train=with_options(self.train, **options))

    def resolve(self, agent: Agent, tasks: TaskDistribution) -> Settings:
        """Return these settings with every option resolved."""
        derived = [name for name in DERIVED if option_values(self.train)[name] is None]
        resolved = self.train.resolve(agent, tasks)
        return dataclasses.replace(self, train=resolved, derived=tuple(derived))

    def for_another_run(self) -> Settings:
        """Return settings for a new run: without a directory and without derived options.

        A run of some minutes is repeated with as many updates as it had.
        """
        measured = {} if self.train.iterations is None else {"minutes": None}
        return self.with_train(run_dir=None, **measured, **dict.fromkeys(self.derived))

    def to_json(self) -> dict[str, Any]:
        """Return what ``config.json`` holds and ``--config`` reads; the directory is left out."""
        train = with_options(self.train, run_dir=None)
        return {
            "format": FORMAT,
            "agent": self.agent,
            "agent_config": dataclasses.asdict(self.agent_config),
            "derived": list(self.derived),
            "train_config": dataclasses.asdict(train),
        }

    @staticmethod
    def of(content: dict[str, Any], path: Path, agent_class: Any) -> Settings:
        """Return the settings that the content of ``config.json`` describes.

        Args:
            content: what :func:`read_settings` returned.
            path: the file, for messages.
            agent_class: the class that the agent's name stands for.

        Raises:
            UserError: if a value is unknown or of a wrong type.
        """
        return Settings(
            content["agent"],
            dataclass_of(agent_class.Config, content["agent_config"], path),
            train_config_of(content, path),
            tuple(content.get("derived", ())),
        )


def train_config_of(content: dict[str, Any], path: Path) -> TrainConfig:
    """Return the training's part of the content of ``config.json``."""
    config: TrainConfig = dataclass_of(TrainConfig, content["train_config"], path)
    return config


def read_settings(path: Path) -> dict[str, Any]:
    """Read a run's ``config.json``, or what ``metarl train --print-config`` printed.

    Raises:
        UserError: if the file has no such content.
    """
    content = read_object(path, first_edition.FORMAT, FORMAT)
    for name, kind in (("agent", str), ("agent_config", dict), ("train_config", dict)):
        if not isinstance(content.get(name), kind):
            raise UserError(f"{path}: {name!r} is missing or not a {kind.__name__}")
    if not isinstance(content["train_config"].get("env"), str):
        raise UserError(f"{path}: 'train_config' names no 'env'")
    for name in ("derived", "seeds"):
        if not isinstance(content.get(name, []), list):
            raise UserError(f"{path}: {name!r} is not a list")
    if not all(type(seed) is int for seed in content.get("seeds", [])):
        raise UserError(f"{path}: 'seeds': got {content['seeds']!r}; accepted: whole numbers")
    if content["format"] != FORMAT:
        content = first_edition.modern(content, TrainConfig)
    unknown = [name for name in content.get("derived", []) if name not in option_paths(TrainConfig)]
    if unknown:
        raise UserError(f"{path}: 'derived' has {unknown[0]!r}, which is not an option of training")
    return content


def dataclass_of(kind: type, values: dict[str, Any], path: Path) -> Any:
    """Return a dataclass from values read from JSON; lists become tuples, and dicts dataclasses."""
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


def members(directory: Path) -> Sequence[Path]:
    """Return the run directories in a folder of several seeds, or else the directory itself."""
    path = directory / "config.json"
    seeds = read_settings(path).get("seeds") if path.is_file() else None
    return [directory] if seeds is None else [directory / str(seed) for seed in seeds]

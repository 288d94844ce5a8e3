"""A run directory: the settings of a run, its machine, and its results."""

from __future__ import annotations

import dataclasses
import json
import platform
import secrets
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from metarl import registry
from metarl.errors import UserError, bad_option
from metarl.evaluation.curve import read_summary
from metarl.experience.agent import Agent, TaskSpec, require_spaces
from metarl.files import create_json, remove_leftovers, write_json
from metarl.learning.state import renamed
from metarl.options import with_options
from metarl.running import first_edition, trained
from metarl.running.checkpoints import Checkpoint, CheckpointStore, Which
from metarl.running.folders import NewFolder, default_directory, used
from metarl.running.machine import commit, device_name
from metarl.running.settings import Settings, TrainConfig, read_settings, train_config_of
from metarl.running.states import resume_command
from metarl.tasks.distribution import TaskDistribution

_PACKAGES = ("torch", "numpy", "gymnasium", "mujoco", "metarl-toolkit")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory and the content of its ``config.json``."""

    directory: Path
    """The folder."""
    content: dict[str, Any]
    """Content of ``config.json``: the settings, and the machine and packages that were used."""
    named_agent: str | None = None
    """The agent's ``package.module:Name``, if the user and not only the file has named it."""
    folder: NewFolder | None = None
    """The folders that this process has created, if it has begun the run."""

    @property
    def results(self) -> Path:
        """The folder that evaluations are written to."""
        return trained.results_of(self.directory)

    @staticmethod
    def create(settings: Settings, tasks: TaskDistribution) -> Run:
        """Begin a run: make its directory and write ``config.json``.

        Raises:
            UserError: if the named directory is not empty or cannot be written, or if another
                process begins a run there at the same time.
        """
        given = settings.train.run.directory
        default = default_directory(settings.train, settings.agent, str(settings.train.seed))
        content = {
            **settings.to_json(),
            "id": secrets.token_hex(4),
            "tasks": tasks.name,
            "spec": TaskSpec.of(tasks).to_json(),
            "command": " ".join(sys.argv),
            "commit": commit(),
            "python": platform.python_version(),
            "packages": {name: metadata.version(name) for name in _PACKAGES},
            "device": device_name(settings.train.device),
        }
        folder = NewFolder.claim(given, default)
        try:
            create_json(folder.path / "config.json", content)
        except FileExistsError:
            raise used(folder.path) from None
        except OSError as error:
            folder.abandon()
            accepted = f"a writable place ({error})"
            raise bad_option("--run-dir", str(folder.path), accepted) from error
        remove_leftovers(folder.path)
        return Run(folder.path, content, settings.agent, folder)

    def remove_unless_begun(self) -> bool:
        """Remove a run that this process has begun, unless it has saved anything.

        Returns:
            True if nothing has been saved.
        """
        metrics = self.directory / "metrics.jsonl"
        if self.checkpoints.iterations() or (metrics.exists() and metrics.stat().st_size):
            return False
        if self.folder is not None:
            self.folder.remove()
        return True

    @staticmethod
    def open(directory: Path, agent: str | None = None) -> Run:
        """Read a run directory.

        Args:
            directory: the folder, or the name of an agent that comes with the toolkit.
            agent: the agent's ``package.module:Name``, if it is a module of the user's.

        Raises:
            UserError: if ``directory`` is not a run directory.
        """
        if not directory.exists():
            directory = trained.find(directory) or directory
        path = directory / "config.json"
        if not path.is_file():
            raise UserError(f"{directory}: not a run directory (it has no config.json)")
        content = read_settings(path)
        if "seeds" in content:
            members = ", ".join(str(directory / str(seed)) for seed in content["seeds"])
            raise UserError(f"{directory}: holds the runs of several seeds; name one: {members}")
        if not {"spec", "command"} <= content.keys():
            raise UserError(f"{path}: has settings but no run (metarl train --config uses them)")
        run = Run(directory, content, agent)
        if agent is not None and agent != run.agent_name:
            raise bad_option("agent", agent, f"{run.agent_name}, the agent of {directory}")
        return run

    def settle(self, iteration: int) -> None:
        """Write down how many updates a training in minutes has had, if its time cut it short.

        Then the length of its schedules is no longer that of the training.
        """
        config = self.train_config
        if config.minutes is not None and iteration < (config.iterations or 0):
            derived = [name for name in self.content["derived"] if name != "schedule_iterations"]
            self.content["derived"] = derived
            self.record(with_options(config, iterations=iteration))

    def record(self, config: TrainConfig) -> None:
        """Write the options of a run that has begun into ``config.json``."""
        values = json.loads(json.dumps(dataclasses.asdict(with_options(config, run_dir=None))))
        if values != self.content["train_config"]:
            self.content["train_config"] = values
            write_json(self.directory / "config.json", self.content)

    @property
    def agent_name(self) -> str:
        """The agent's name in the registry."""
        return str(self.content["agent"])

    @property
    def env(self) -> str:
        """The name of the task distribution."""
        return str(self.content["train_config"]["env"])

    @property
    def train_config(self) -> TrainConfig:
        """The config of the training, which needs no class of the agent."""
        config = train_config_of(self.content, self.directory / "config.json")
        return with_options(config, run_dir=self.directory)

    @property
    def settings(self) -> Settings:
        """The settings of the run."""
        path = self.directory / "config.json"
        return Settings.of(self.content, path, self.agent_class).with_train(run_dir=self.directory)

    @property
    def agent_class(self) -> Any:
        """The agent's class; a module of the user's is imported only if the user names it."""
        return named_class(self.agent_name, self.named_agent, self.directory)

    @property
    def checkpoints(self) -> CheckpointStore:
        """The saved states of the agent."""
        keep = self.train_config.run.keep_checkpoints
        return CheckpointStore(self.directory / "checkpoints", keep)

    def checkpoint(self, which: Which = "final") -> Checkpoint:
        """Return a saved state of the agent, with the present names of its tensors."""
        checkpoint = self.checkpoints.load(which)
        if self.content["format"] != first_edition.FORMAT:
            return checkpoint
        prefixes = first_edition.PREFIXES.get(self.agent_name, {})
        return dataclasses.replace(checkpoint, tensors=renamed(checkpoint.tensors, prefixes))

    @property
    def spec(self) -> TaskSpec:
        """What the tasks of the training have in common."""
        try:
            return TaskSpec.from_json(self.content["spec"])
        except (KeyError, TypeError, ValueError) as error:
            path = self.directory / "config.json"
            raise UserError(f"{path}: 'spec' is damaged: {error!r}") from error

    def require_spaces(self, tasks: TaskDistribution) -> None:
        """Refuse tasks that do not have the spaces that the run's agent was made for.

        Raises:
            UserError: if the spaces differ; the message names both.
        """
        spaces = tasks.observation_space, tasks.action_space
        require_spaces(SimpleNamespace(spec=self.spec), *spaces, f"--env: {tasks.name}")

    def make_agent(self, device: str = "cpu") -> Agent:
        """Make the agent as it was before training, from the saved spaces alone."""
        settings = self.settings
        agent: Agent = self.agent_class(
            settings.agent_config, self.spec, seed=settings.train.seed, device=device
        )
        return agent

    def load_agent(self, which: Which = "final", device: str = "cpu") -> tuple[Agent, Checkpoint]:
        """Make the agent as it was saved."""
        checkpoint = self.checkpoint(which)
        agent = self.make_agent(device)
        self.restore(agent, checkpoint)
        return agent, checkpoint

    def restore(self, agent: Agent, checkpoint: Checkpoint) -> None:
        """Put a checkpoint's state into an agent.

        Raises:
            UserError: if the checkpoint does not fit the agent.
        """
        try:
            checkpoint.load_into(agent)
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise UserError(
                f"{self.directory}: checkpoint {checkpoint.iteration} does not fit "
                f"{self.agent_name}: {error}"
            ) from error

    def evaluated(self, iteration: int) -> bool:
        """Return whether the final evaluation of ``iteration`` has been written completely.

        It counts as missing if another number of tasks is wanted now.
        """
        folder = self.directory / "evaluation"
        try:
            read_summary(folder / "test-untrained.json")  # It is written last.
            written = read_summary(folder / "test.json")
        except UserError:
            return False
        asked = self.train_config.evaluation.evaluation_tasks
        as_asked = asked is None or written.get("num_tasks") == asked
        return bool(written.get("iteration") == iteration and as_asked)

    def finished(self) -> bool:
        """Return whether the run is trained and evaluated as its settings ask.

        Raises:
            UserError: if none of its checkpoints can be read.
        """
        saved = self.checkpoint().iteration if self.checkpoints.iterations() else None
        wanted = self.train_config.iterations
        return saved is not None and saved == wanted and self.evaluated(saved)

    def resume_command(self) -> str:
        """Return the command that resumes this run; it names the user's own modules."""
        return resume_command(self.directory, self.content)

    def make_tasks(self) -> TaskDistribution:
        """Make the task distribution by its name, without importing a module of the user's."""
        return trusted_tasks(self.env, self.directory)


def named_class(name: str, named: str | None, where: Path) -> Any:
    """Return the class of an agent that a file names.

    Args:
        name: the agent's name in the file.
        named: the name that the user has given, if any.
        where: the file or its run, for the message.

    Raises:
        UserError: if the agent is a module of the user's and the user has not named it too.
    """
    if registry.is_import(name) and named != name:
        raise UserError(
            f"{where}: its agent is {name}, which a file alone cannot make the program import: "
            f"name it again ({name} after metarl train, --agent elsewhere, agent= in Python)"
        )
    return registry.agent_class(name)


def trusted_tasks(name: str, where: Path) -> TaskDistribution:
    """Make a task distribution that a file names.

    Raises:
        UserError: if it is a module of the user's, which only the user may name.
    """
    if registry.is_import(name):
        raise UserError(
            f"{where}: was trained on {name}, which a file alone cannot make the program import: "
            f"name it again with --env {name}"
        )
    return registry.make(name)


def load(
    directory: str | Path, which: Which = "final", device: str = "cpu", agent: str | None = None
) -> Agent:
    """Load the agent of a run directory, as it was at the end or at its best.

    Loading reads tensors and JSON; it never runs code from them.

    Args:
        directory: the run directory, or the name of an agent that comes with the toolkit.
        which: ``final`` for the last checkpoint, ``best`` for the best on validation tasks.
        device: device of the agent's tensors.
        agent: the agent's ``package.module:Name``, if it is a module of yours.

    Raises:
        UserError: if there is no such run or checkpoint.

    >>> agent = metarl.load("runs/first")
    >>> type(agent).__name__, agent.shape.num_episodes
    ('RL2', 10)
    """
    return Run.open(Path(directory), agent).load_agent(which, device)[0]

"""The run directory: what was asked for, on what, and where its results lie."""

from __future__ import annotations

import dataclasses
import platform
import secrets
import shlex
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from metarl import registry
from metarl.errors import UserError, bad_option
from metarl.evaluation.curve import read_summary
from metarl.experience.agent import Agent, TaskSpec
from metarl.files import create_json, remove_leftovers, write_json
from metarl.running.checkpoints import Checkpoint, CheckpointStore, Which
from metarl.running.folders import (
    NewFolder,
    default_directory,
    used,
)
from metarl.running.machine import commit, device_name
from metarl.running.settings import TrainConfig, dataclass_of, own_modules, read_settings, settings
from metarl.tasks.distribution import TaskDistribution

_PACKAGES = ("torch", "numpy", "gymnasium", "mujoco", "metarl-toolkit")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory and the content of its ``config.json``."""

    directory: Path
    config: dict[str, Any]
    named_agent: str | None = None
    """An agent's ``package.module:Name`` that the user has given, not a file."""
    folder: NewFolder | None = None
    """What this process has made for it, where it began it."""

    @staticmethod
    def create(
        config: TrainConfig,
        agent: str,
        agent_config: Any,
        tasks: TaskDistribution,
        derived: Sequence[str] = (),
    ) -> Run:
        """Make the directory; one that exists and is not empty is never written into."""
        return Run.draft(config, agent, agent_config, tasks, derived).begin()

    @staticmethod
    def draft(
        config: TrainConfig,
        agent: str,
        agent_config: Any,
        tasks: TaskDistribution,
        derived: Sequence[str] = (),
    ) -> Run:
        """Describe a run, of which nothing is on the disk before :meth:`begin`."""
        directory = config.run_dir or default_directory(config, agent, str(config.seed))
        content = {
            **settings(config, agent, agent_config, derived),
            "id": secrets.token_hex(4),
            "tasks": tasks.name,
            "spec": TaskSpec.of(tasks).to_json(),
            "command": " ".join(sys.argv),
            "commit": commit(),
            "python": platform.python_version(),
            "packages": {name: metadata.version(name) for name in _PACKAGES},
            "device": device_name(config.device),
        }
        if config.run_dir is not None:
            content["train_config"]["run_dir"] = str(directory)
        return Run(directory, content, agent)

    def begin(self) -> Run:
        """Make the directory of a draft and write ``config.json``, each as the only process.

        Raises:
            UserError: where the directory that was named holds something, or another process
                has begun a run there at the same time.
        """
        given = self.config["train_config"]["run_dir"]
        folder = NewFolder.claim(None if given is None else self.directory, self.directory)
        train_config = {**self.config["train_config"], "run_dir": str(folder.path)}
        content = {**self.config, "train_config": train_config}
        try:
            create_json(folder.path / "config.json", content)
        except FileExistsError:
            raise used(folder.path) from None
        except OSError as error:
            folder.abandon()
            raise bad_option(
                "--run-dir", str(folder.path), f"a writable place ({error})"
            ) from error
        remove_leftovers(folder.path)
        return Run(folder.path, content, self.named_agent, folder)

    def remove_unless_begun(self) -> bool:
        """Remove all of a run that this process made and that has trained and saved nothing.

        Returns:
            Whether there is nothing to go on with.
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
            directory: it.
            agent: its agent's ``package.module:Name``, where it is one.

        Raises:
            UserError: where ``directory`` is none.
        """
        path = directory / "config.json"
        if not path.is_file():
            raise UserError(f"{directory}: not a run directory (it has no config.json)")
        content = read_settings(path)
        if "seeds" in content:
            members = ", ".join(str(directory / str(seed)) for seed in content["seeds"])
            raise UserError(f"{directory}: holds the runs of several seeds; name one: {members}")
        if not {"spec", "command"} <= content.keys():
            raise UserError(f"{path}: settings, of no run (train.py --config takes them)")
        run = Run(directory, content, agent)
        if agent is not None and agent != run.agent_name:
            raise bad_option("agent", agent, f"{run.agent_name}, which {directory} is of")
        return run

    def record(self, config: TrainConfig) -> None:
        """Write what a resumed run was asked for into ``config.json``."""
        values = {**dataclasses.asdict(config), "run_dir": str(self.directory)}
        if values != self.config["train_config"]:
            self.config["train_config"] = values
            write_json(self.directory / "config.json", self.config)

    @property
    def agent_name(self) -> str:
        """The agent's name in the registry."""
        return str(self.config["agent"])

    @property
    def env(self) -> str:
        """The task distribution's name."""
        return str(self.config["train_config"]["env"])

    @property
    def train_config(self) -> TrainConfig:
        """What was asked of the training."""
        values = {**self.config["train_config"], "run_dir": None}
        config: TrainConfig = dataclass_of(TrainConfig, values, self._settings_path)
        return dataclasses.replace(config, run_dir=self.directory)

    @property
    def agent_class(self) -> Any:
        """The agent's class; a user's own module is imported only where the user names it."""
        if registry.is_import(self.agent_name) and self.named_agent != self.agent_name:
            raise UserError(
                f"{self.directory}: its agent is {self.agent_name}, which is not imported because "
                f"a file says so: name it again ({self.agent_name} after train.py, --agent "
                f"elsewhere, agent= in Python)"
            )
        return registry.agent_class(self.agent_name)

    @property
    def agent_config(self) -> Any:
        """The agent's config, as its dataclass."""
        values = self.config["agent_config"]
        return dataclass_of(self.agent_class.Config, values, self._settings_path)

    @property
    def _settings_path(self) -> Path:
        """The file of the settings, which may be of no run."""
        return self.directory if self.directory.is_file() else self.directory / "config.json"

    def for_another_run(self) -> tuple[TrainConfig, Any]:
        """Return the settings for a run of its own, derived fields open again."""
        opened: dict[str, Any] = dict.fromkeys(self.config.get("derived", ()))
        return dataclasses.replace(self.train_config, run_dir=None, **opened), self.agent_config

    @property
    def checkpoints(self) -> CheckpointStore:
        """Where the agent's states are saved."""
        return CheckpointStore(self.directory / "checkpoints", self.train_config.keep_checkpoints)

    @property
    def spec(self) -> TaskSpec:
        """What the tasks of the training have in common."""
        try:
            return TaskSpec.from_json(self.config["spec"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self._settings_path}: 'spec' is damaged: {error!r}") from error

    def make_agent(self, device: str | None = None) -> Agent:
        """Make the agent as it was before training, from the saved spaces alone."""
        agent: Agent = self.agent_class(
            self.agent_config,
            self.spec,
            seed=self.train_config.seed,
            device=device or "cpu",
        )
        return agent

    def load_agent(
        self, which: Which = "final", device: str | None = None
    ) -> tuple[Agent, Checkpoint]:
        """Make the agent as it was saved."""
        checkpoint = self.checkpoints.load(which)
        agent = self.make_agent(device)
        try:
            checkpoint.load_into(agent)
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise UserError(
                f"{self.directory}: checkpoint {checkpoint.iteration} does not fit "
                f"{self.agent_name}: {error}"
            ) from error
        return agent, checkpoint

    def evaluated(self, iteration: int) -> bool:
        """Whether the evaluation at the end, of ``iteration``, has been written whole.

        Another number of tasks than is asked for now makes it another evaluation.
        """
        folder = self.directory / "evaluation"
        try:
            read_summary(folder / "test-untrained.json")  # the later of the two
            written = read_summary(folder / "test.json")
        except UserError:
            return False
        asked = self.train_config.evaluation_tasks
        as_asked = asked is None or written.get("num_tasks") == asked
        return bool(written.get("iteration") == iteration and as_asked)

    def resume_command(self) -> str:
        """Return the command that goes on with this run; a user's own modules are named in it."""
        words = ["train.py", "--resume", str(self.directory)]
        if registry.is_import(self.agent_name):
            words.insert(1, self.agent_name)
        if registry.is_import(self.env):
            words += ["--env", self.env]
        words += own_modules(self.train_config)
        return "python scripts/" + shlex.join(words)

    def make_tasks(self) -> TaskDistribution:
        """Make the task distribution by its name; a user's own module is never imported so."""
        if registry.is_import(self.env):
            raise UserError(
                f"{self.directory}: was trained on {self.env}, which is not imported because a "
                f"file says so: name it again with --env {self.env}"
            )
        return registry.make(self.env)


def load(
    directory: str | Path, which: Which = "final", device: str = "cpu", agent: str | None = None
) -> Agent:
    """Load the agent of a run directory, as it was at the end or at its best.

    Loading reads tensors and JSON; it never runs code from them.

    Args:
        directory: the run's.
        which: the last checkpoint, or the best on validation tasks.
        device: where the agent is to run.
        agent: the agent's ``package.module:Name``, where it is one of yours.
    """
    return Run.open(Path(directory), agent).load_agent(which, device)[0]

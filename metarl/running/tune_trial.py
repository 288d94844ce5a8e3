"""One trial of ``metarl tune``: a training without a final evaluation, and the process it is in."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from metarl import registry
from metarl.experience.rollout import torch_threads
from metarl.experience.sampling import make_sampler
from metarl.files import write_json
from metarl.imports import load_object
from metarl.running.commandline import parse_train
from metarl.running.estimate import announced
from metarl.running.exits import end_with_parent, exits
from metarl.running.run import Run
from metarl.running.settings import Settings
from metarl.running.train import prepare
from metarl.running.training import meta_train, training_slots
from metarl.running.wandb_run import wandb_run
from metarl.stepping.options import SharedEnvs

_CHILD = "from metarl.running.tune_trial import child; child()"
"""The program of the process that trains."""


@torch_threads(1)  # Only updates may use more.
def train_trial(settings: Settings) -> Run:
    """Meta-train in the run directory of the settings, and do not evaluate on test tasks.

    Args:
        settings: the settings of the run.

    Returns:
        The run; its ``config.json`` has the number of updates.

    Raises:
        UserError: if the settings cannot work.
    """
    settings, tasks, agent = prepare(settings)
    workers = settings.train.workers
    with closing(SharedEnvs(workers, tasks)) as shared:
        envs = shared.sized(training_slots(agent, tasks, workers))
        if settings.train.minutes is not None:
            settings = announced(settings, tasks, agent, envs, yes=True)
        config = settings.train
        run = Run.create(settings, tasks)
        with wandb_run(config.run, run.directory) as wandb:
            last = meta_train(
                agent,
                tasks,
                config,
                run.directory,
                sampler=make_sampler(config.task_sampler, tasks),
                callback=None if config.callback is None else load_object(config.callback),
                envs=envs,
                wandb=wandb,
            )
        run.settle(last.iteration)
    return run


def child() -> None:
    """Train a trial for a parent process, and stop when the parent has ended."""
    words, sys.argv[0] = sys.argv[1:], "metarl"
    end_with_parent()
    exits(lambda: (train_trial(parse_train(words).settings), None)[1])()


@dataclass(frozen=True)
class TrialFiles:
    """The files of a trial of a study."""

    folder: Path
    """The folder of all trials."""
    number: int
    """The number of the trial."""

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.folder / f"{self.number:04d}"

    @property
    def settings(self) -> Path:
        """The settings that the process reads."""
        return self.run.with_suffix(".json")

    @property
    def output(self) -> Path:
        """What the process prints."""
        return self.run.with_suffix(".txt")


class TrialProcess:
    """A process that trains one trial; :meth:`scores` says how well the agent does meanwhile.

    Args:
        files: the files of the trial.
        settings: the settings that it trains with.
    """

    def __init__(self, files: TrialFiles, settings: Settings) -> None:
        self.files, self.started = files, time.monotonic()
        self._score = f"validation/{settings.train.evaluation.best_by}"
        self._read = 0
        self._total: int | None = None
        write_json(files.settings, settings.with_train(run_dir=None).to_json())
        named = [settings.agent] if registry.is_import(settings.agent) else []
        env = settings.train.env
        own = ["--env", env] if registry.is_import(env) else []
        words = [*named, "--config", str(files.settings), *own, *settings.train.own_modules()]
        words += ["--run-dir", str(files.run)]
        with files.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, *words],
                stdin=subprocess.PIPE,  # The child stops when this pipe closes.
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,  # Ctrl-C reaches the child only through stop().
            )

    def scores(self) -> list[tuple[float, bool]]:
        """Return the scores that have been written since the last call; whether each is the last.

        A training that its time ends has no last one.
        """
        try:
            with (self.files.run / "metrics.jsonl").open("rb") as file:
                file.seek(self._read)
                new, _, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._read += len(new) + bool(new)
        lines = [line for line in map(json.loads, new.splitlines()) if self._score in line]
        if lines and self._total is None:
            self._total = Run.open(self.files.run).train_config.iterations
        return [(float(x[self._score]), x["iteration"] == self._total) for x in lines]

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self.process.poll() is not None

    @property
    def seconds(self) -> float:
        """The time since the process was started."""
        return time.monotonic() - self.started

    def wait(self) -> None:
        """Wait until the process has ended."""
        self.process.wait()

    def stop(self) -> None:
        """Ask the process to end; it saves a checkpoint."""
        if self.process.poll() is None:
            self.process.terminate()

    def failure(self) -> str | None:
        """Return why the process has failed, or None if it ended well."""
        if self.process.wait() == 0:
            return None
        lines = self.files.output.read_text(errors="replace").split("\n")
        said = [line for line in lines if line.startswith("error: ")]
        last = next((line for line in reversed(lines) if line.strip()), "")
        code = self.process.returncode
        return said[-1].removeprefix("error: ") if said else f"exit code {code}: {last}"

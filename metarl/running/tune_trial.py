"""One trial of ``metarl tune``: a training without a final evaluation, and the process it is in."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from metarl import registry
from metarl.experience.data import Metrics, Trial
from metarl.experience.rollout import torch_threads
from metarl.experience.sampling import make_sampler
from metarl.files import write_json
from metarl.imports import load_object
from metarl.running.commandline import parse_train
from metarl.running.exits import end_with_parent, exits
from metarl.running.run import Run
from metarl.running.settings import Settings
from metarl.running.train import Prepared, prepare
from metarl.running.training import Callback, meta_train, training_slots
from metarl.running.wandb_run import wandb_run
from metarl.stepping.options import SharedEnvs
from metarl.stepping.vector import SlotVectorEnv

VALIDATIONS = 10
"""Number of evaluations on validation tasks in a trial, without ``--validation-interval``."""

MEASURED = 4
"""Number of updates that measure how many fit into the minutes of a trial."""

VALIDATION_SHARE = 0.2
"""The largest share of a trial's minutes that validations take; they are fewer otherwise."""

OVERTIME = 1.25
"""A trial may take its minutes times this if the machine has become slower, so that schedules
still reach their end."""

_CHILD = "from metarl.running.tune_trial import child; child()"
"""The program of the process that trains."""


class Pace(NamedTuple):
    """How long the parts of a training take, in seconds."""

    iteration: float
    """An update with its experience."""
    validation: float
    """An evaluation on validation tasks."""

    def plan(self, seconds: float) -> dict[str, int]:
        """Return how many updates fit into a time, and how many there are for each validation."""
        affordable = int(VALIDATION_SHARE * seconds / max(self.validation, 1e-9))
        validations = max(1, min(VALIDATIONS, affordable))
        number = math.floor((seconds - validations * self.validation) / self.iteration)
        number = max(1, number)
        interval = math.ceil(number / validations)
        return {"iterations": number, "validation_interval": interval}


@torch_threads(1)  # Only updates may use more.
def train_trial(settings: Settings, minutes: float | None = None) -> Run:
    """Meta-train in the run directory of the settings, and do not evaluate on test tasks.

    Args:
        settings: the settings of the run.
        minutes: the time that everything together takes. The number of updates is what a short
            measurement says will fit, so that schedules reach their end; if the machine becomes
            much slower than it was then, the time still ends the training.

    Returns:
        The run; its ``config.json`` has the number of updates.

    Raises:
        UserError: if the settings cannot work.
    """
    started = time.monotonic()
    prepared = prepare(settings)
    own = prepared.settings.train.callback
    callback = None if own is None else load_object(own)
    with closing(SharedEnvs(prepared.settings.train.workers, prepared.tasks)) as shared:
        train = prepared.settings.train
        envs = shared.sized(training_slots(prepared.agent, prepared.tasks, train.workers))
        if minutes is not None:
            pace = measured_pace(prepared, envs)
            left = started + 60 * minutes - time.monotonic()
            prepared = prepare(settings.with_train(**pace.plan(left)))
            callback = _ending_at(started + 60 * minutes * OVERTIME, callback)
        settings, tasks, agent = prepared
        run = Run.create(settings, tasks)
        with wandb_run(settings.train.run, run.directory) as wandb:
            meta_train(
                agent,
                tasks,
                settings.train,
                run.directory,
                sampler=make_sampler(settings.train.task_sampler, tasks),
                callback=callback,
                envs=envs,
                wandb=wandb,
            )
    return run


def measured_pace(prepared: Prepared, envs: SlotVectorEnv) -> Pace:
    """Train an agent for a few updates, to measure how long they take."""
    settings, tasks, agent = prepared
    took: list[float] = []

    def note(iteration: int, trial: Trial, metrics: Metrics) -> None:
        took.append(metrics["time/iteration_s"])

    few = settings.with_train(iterations=MEASURED, validation_interval=MEASURED).train
    sampler = make_sampler(few.task_sampler, tasks)
    with tempfile.TemporaryDirectory() as folder:
        meta_train(agent, tasks, few, Path(folder), sampler=sampler, callback=note, envs=envs)
    *usual, last = took[1:]  # The very first update also pays for what is made once.
    mean = sum(usual) / len(usual)
    return Pace(mean, max(0.0, last - mean))


def _ending_at(end: float, other: Callback | None) -> Callback:
    """Return a callback that ends training at a moment of the monotonic clock."""

    def callback(iteration: int, trial: Trial, metrics: Metrics) -> bool:
        goes_on = other is None or other(iteration, trial, metrics) is not False
        return goes_on and time.monotonic() < end

    return callback


def child() -> None:
    """Train a trial for a parent process, and stop when the parent has ended."""
    minutes, *words = sys.argv[1:]
    sys.argv[0] = "metarl"
    end_with_parent()
    given = None if minutes == "none" else float(minutes)
    exits(lambda: (train_trial(parse_train(words).settings, given), None)[1])()


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
        minutes: the time that the trial takes, if that and not the settings limit it.
    """

    def __init__(self, files: TrialFiles, settings: Settings, minutes: float | None) -> None:
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
                [sys.executable, "-c", _CHILD, str(minutes or "none"), *words],
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

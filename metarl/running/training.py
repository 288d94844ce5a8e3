"""The one training loop, for every agent."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

import psutil

from metarl import seeding
from metarl.console import console, ticker
from metarl.errors import DivergenceError, SaveError, Stopped
from metarl.evaluation.evaluate import evaluate_adaptation, point_metrics
from metarl.evaluation.points import adaptation_points
from metarl.experience.agent import Agent, require_spaces
from metarl.experience.changes import change_drawn
from metarl.experience.data import Metrics, Trial
from metarl.experience.lanes import TrialKeys
from metarl.experience.rollout import run_trial, torch_generator, torch_threads
from metarl.experience.sampling import TaskSampler, Uniform
from metarl.running.checkpoints import Checkpoint, CheckpointStore
from metarl.running.metrics import MetricsLog, read_metrics
from metarl.running.settings import RunConfig, TrainConfig
from metarl.running.store import ExperienceStore
from metarl.running.wandb_run import WandbRun
from metarl.seeding import Component, Phase
from metarl.stepping.options import Workers
from metarl.stepping.slots import close_quietly
from metarl.stepping.vector import SlotVectorEnv
from metarl.tasks.distribution import TaskDistribution

Callback: TypeAlias = Callable[[int, Trial, Metrics], bool | None]
"""Gets the number of iterations, the last trial and its metrics; returns False to end training."""

CHEAP_COPY = 0.005
"""Largest share of the time spent on copies of the agent's state that no checkpoint needs."""

LARGE_OBSERVATION = 100.0
"""Absolute value above which an observation is named as the probable cause of a divergence."""

LARGE_KL = 10.0
"""KL(old ‖ new) of one update, in nats, that causes a warning; a few hundredths are usual."""


def meta_train(
    agent: Agent,
    tasks: TaskDistribution,
    config: TrainConfig,
    directory: Path,
    *,
    iteration: int = 0,
    env_steps: int = 0,
    sampler: TaskSampler | None = None,
    callback: Callback | None = None,
    envs: SlotVectorEnv | None = None,
    wandb: WandbRun | None = None,
) -> Checkpoint:
    """Meta-train ``agent`` and return its last checkpoint.

    An error or interruption leaves a checkpoint from which training continues to the same numbers.
    It holds the state after the last finished iteration if the agent still has that state, and
    otherwise the newest copy. An iteration is finished once its metrics have been written. The
    state is copied for every checkpoint, and after every iteration if that is cheap
    (:func:`copy_is_cheap`).

    Args:
        agent: the agent to train, which is changed in place. It has the state after ``iteration``
            meta-updates and has recalled its old experience, if it remembers any.
        tasks: the distribution that training and validation tasks come from.
        config: the options of the training.
        directory: the run directory, which metrics and checkpoints are written to.
        iteration: the number of meta-updates so far.
        env_steps: the number of environment steps so far.
        sampler: the sampler of the tasks, in its state after ``iteration`` meta-updates (default:
            a new uniform one).
        callback: called after every iteration; the training ends when it returns False.
        envs: environments of ``tasks`` to use, which are left open; by default new ones.
        wandb: the run in Weights & Biases to log to, which is left open (default: none).
    """
    require_spaces(agent, tasks.observation_space, tasks.action_space, f"--env: {tasks.name}")
    sampler = Uniform(tasks) if sampler is None else sampler
    at = _Position(iteration, env_steps)
    copies = _Copies(agent, sampler, at)
    experience = ExperienceStore.of(agent, directory)
    config = config.resolve(agent, tasks)
    available = math.inf if config.minutes is None else 60 * config.minutes
    spent = 0.0 if config.minutes is None else seconds_spent(directory, iteration)
    total = config.iterations or 0
    with (
        ExitStack() as stack,
        MetricsLog(directory, iteration, wandb) as log,
        ticker("training", total, unit="iterations", done=iteration) as progress,
    ):
        if envs is None:
            envs = config.workers.make_vec(tasks, training_slots(agent, tasks, config.workers))
            stack.callback(close_quietly, envs)  # An error while closing must not end the run.
        # Save only now: a run whose environments cannot be made must leave no checkpoint.
        saver = _Saver(config.run, directory, log, experience)
        saver.begin(copies.last)
        mark = time.perf_counter()
        leapt = updating = False
        validated: Metrics = {}
        try:
            while at.iteration < total and spent <= available:
                Stopped.refuse()
                started = time.perf_counter()
                number = at.iteration
                # sample tasks, collect, adapt
                given = {"seed": config.seed, "change_task_after": config.change_task_after}
                trial = training_trial(agent, sampler, envs, iteration=number, **given)
                collected = time.perf_counter()
                # meta-update
                key = seeding.derive(config.seed, Phase.TRAIN, Component.UPDATE, number)
                updating = True  # From here on, the state lies between two iterations.
                try:
                    with torch_threads(config.torch_threads):
                        own = torch_generator(int(key))
                        metrics = agent.update(trial, own, config.progress(number))
                    finished = time.perf_counter()
                    sampler.update(trial.tasks, trial)
                    new = _Position(number + 1, at.env_steps + trial.env_steps)
                    _refuse_divergence(agent, metrics)
                except DivergenceError as error:
                    error.cause = large_observations(agent, trial)
                    raise
                if not leapt and metrics.get("kl", 0.0) > LARGE_KL:
                    leapt = True  # Warn once; the metrics show later leaps.
                    _warn_of_leap(new.iteration, metrics["kl"], agent, trial)
                over = spent + time.perf_counter() - mark > available
                ended = over or new.iteration == total  # The last iteration is validated.
                metrics = {f"update/{name}": value for name, value in metrics.items()}
                took = finished - started
                metrics |= _trial_metrics(agent, trial) | {
                    "time/env_steps_per_s": trial.env_steps / took,
                    "time/collect_share": (collected - started) / took,
                    "time/step_share": trial.seconds["step"] / took,
                    "time/act_share": trial.seconds["act"] / took,
                    "time/update_share": (finished - collected) / took,
                }
                if ended or new.iteration % (config.evaluation.validation_interval or total) == 0:
                    validation = _validate(agent, tasks, config, envs, new.iteration)
                    score = validation[f"validation/{config.evaluation.best_by}"]
                    new = new._replace(score=score)
                    metrics |= (validated := validation)
                metrics["time/save_s"], saver.seconds = saver.seconds, 0.0
                metrics["memory/resident_mib"] = resident_mib(envs)
                metrics["time/iteration_s"] = time.perf_counter() - mark
                mark = time.perf_counter()
                log.write(new.iteration, new.env_steps, metrics)
                if experience is not None:
                    experience.add(new.iteration, trial, copied=copies.last.iteration)
                at = new  # From here on the iteration counts: a resumed run starts after it.
                updating = False
                due = at.score is not None or saver.due(at.iteration)
                if due or copies.are_cheap():
                    copies.take(at)
                if due:
                    saver.save(copies.last)
                progress.advance(note=_note(metrics | validated, at.env_steps))
                if callback is not None and callback(new.iteration, trial, metrics) is False:
                    console.print(f"the callback ends the training after iteration {new.iteration}")
                    break
                spent += metrics["time/iteration_s"]
                if over and new.iteration < total:
                    said = f"{config.minutes:g} minutes are over"
                    console.print(f"{said} after iteration {new.iteration} of {total}")
                    break
            saver.finish(copies.take(at))
        except SaveError:
            raise
        except BaseException:  # Save what has been trained, whatever the error.
            if not updating:
                with suppress(Exception):  # If the state cannot be read, save the last copy.
                    copies.take(at)
            saver.save(copies.last, stopping=True)
            raise
    return copies.last


def seconds_spent(directory: Path, iteration: int) -> float:
    """Return the seconds that the iterations of a run up to ``iteration`` have taken."""
    path = directory / "metrics.jsonl"
    lines = read_metrics(path) if path.exists() else []
    return sum(float(line["time/iteration_s"]) for line in lines if line["iteration"] <= iteration)


def copy_is_cheap(copying: float, passed: float) -> bool:
    """Return whether a copy of the agent's state takes at most 0.5% of the time since the last.

    A small state is copied after every iteration. A large one is copied less often, and for every
    checkpoint that is due; an interrupted update then costs the iterations since the last copy.

    Args:
        copying: seconds that a copy takes.
        passed: seconds since the last copy.
    """
    return copying <= CHEAP_COPY * passed


class _Position(NamedTuple):
    """The progress of a training, counted in finished iterations."""

    iteration: int
    env_steps: int
    score: float | None = None
    """The score of this iteration on validation tasks, if it has been validated."""


class _Copies:
    """Copies the state of a training and keeps the newest copy."""

    def __init__(self, agent: Agent, sampler: TaskSampler, at: _Position) -> None:
        self._agent, self._sampler = agent, sampler
        self._at: _Position | None = None
        self._took: deque[float] = deque(maxlen=3)
        self.take(at)

    def take(self, at: _Position) -> Checkpoint:
        """Return a copy of the present state, that of ``at``; make one only if it is missing."""
        if at != self._at:
            started = time.perf_counter()
            copy = Checkpoint.of(self._agent, at.iteration, at.env_steps, self._sampler)
            self.last = replace(copy, score=at.score)
            """The newest copy."""
            self._when = time.perf_counter()
            self._took.append(self._when - started)
            self._at = at
        return self.last

    def are_cheap(self) -> bool:
        """Return whether another copy is cheap, judged by the fastest of the last three.

        A busy machine may delay any single copy.
        """
        return copy_is_cheap(min(self._took), time.perf_counter() - self._when)


def resident_mib(envs: SlotVectorEnv) -> float:
    """Return the memory of this process and the workers in MiB; each counts shared pages."""
    total = 0
    for pid in (os.getpid(), *envs.worker_pids()):
        with suppress(psutil.NoSuchProcess):  # The next step reports a dead worker.
            total += psutil.Process(pid).memory_info().rss
    return total / 2**20


class _Saver:
    """Writes metrics and checkpoints to the disk, and handles errors as configured."""

    def __init__(
        self,
        config: RunConfig,
        directory: Path,
        log: MetricsLog,
        experience: ExperienceStore | None = None,
    ) -> None:
        self._store = CheckpointStore(directory / "checkpoints", config.keep_checkpoints)
        self._config, self._log, self._experience = config, log, experience
        self._last = -math.inf
        self._saved: int | None = None
        self._took = 0.0
        self.seconds = 0.0
        """Time spent on saving since this was last set to 0."""

    def begin(self, checkpoint: Checkpoint) -> None:
        """Write the first checkpoint of this process, and remove experience of later iterations."""
        if self._experience is not None:
            self._experience.begin(checkpoint.iteration)
        self.save(checkpoint)

    def due(self, iteration: int) -> bool:
        """Return whether a checkpoint of ``iteration`` should be written."""
        interval = self._config.checkpoint_interval
        if interval is not None and iteration % interval == 0:
            return True
        passed = time.perf_counter() - self._last
        return passed >= max(self._config.checkpoint_seconds, 100 * self._took)

    def finish(self, checkpoint: Checkpoint) -> None:
        """Write the last checkpoint, unless it has been written already.

        Raises:
            SaveError: if it cannot be written.
        """
        if self._saved != checkpoint.iteration:
            self.save(checkpoint, needed=True)

    def save(self, checkpoint: Checkpoint, *, stopping: bool = False, needed: bool = False) -> None:
        """Write ``checkpoint``, after the metrics and the experience up to it.

        Raises:
            SaveError: if that fails and either the checkpoint is ``needed`` or the run must stop
                on such errors and is not already ``stopping`` because of another one.
        """
        started = time.perf_counter()
        try:
            self._log.flush()
            if self._experience is not None:
                self._experience.write(checkpoint.iteration)
            self._store.save(checkpoint)
            self._saved = checkpoint.iteration
            if self._experience is not None:
                self._experience.evict(self._store.iterations())
        except Exception as error:
            if not (stopping or isinstance(error, OSError)):
                raise
            kept = self._store.iterations()
            message = (
                f"iteration {checkpoint.iteration} could not be saved in {self._store.directory}: "
                f"{error}; {f'iteration {kept[-1]}' if kept else 'no checkpoint'} is there"
            )
            if needed or (self._config.on_save_error == "stop" and not stopping):
                raise SaveError(message) from error
            warnings.warn(message, stacklevel=2)
        self._last = time.perf_counter()
        self._took = self._last - started
        self.seconds += self._took


def _refuse_divergence(agent: Agent, metrics: Metrics) -> None:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise DivergenceError(f"update/{name}")
    for name, tensor in agent.state()[0].items():
        if not tensor.isfinite().all():
            raise DivergenceError(f"the agent's {name}")


def large_observations(agent: Agent, trial: Trial) -> str:
    """Return advice about large observations, or an empty text if they are not large.

    A network's first layer is initialised for inputs of about 1. Raw pixels (0 to 255) make its
    outputs so large that one update moves the policy out of all proportion.
    """
    largest = max(float(e.observation.abs().max()) for e in trial.rounds)
    scaled = getattr(getattr(agent, "config", None), "normalize_observations", None)
    if largest <= LARGE_OBSERVATION or scaled:
        return ""
    advice = (
        "a wrapper can scale them" if scaled is None else "--normalize-observations scales them"
    )
    return f"observations reach {largest:.3g}, which is large for a network: {advice}"


def _warn_of_leap(iteration: int, divergence: float, agent: Agent, trial: Trial) -> None:
    """Warn that one update has changed the policy far more than an update that learns does."""
    cause = large_observations(agent, trial) or "a smaller learning rate may help"
    warnings.warn(
        f"iteration {iteration}: update/kl is {divergence:.3g}, so this one update has changed the "
        f"policy completely; {cause}",
        stacklevel=2,
    )


def training_slots(agent: Agent, tasks: TaskDistribution, workers: Workers) -> int:
    """Return how many environments a training of ``agent`` steps together."""
    lanes = 1 if agent.shape.sequential else agent.shape.episodes_per_round
    return workers.slots(tasks, agent.tasks_per_update * lanes)


def training_trial(
    agent: Agent,
    sampler: TaskSampler,
    envs: SlotVectorEnv,
    *,
    seed: int,
    iteration: int,
    change_task_after: int = 0,
) -> Trial:
    """Sample the tasks of one iteration and gather the trial that the update learns from.

    With ``change_task_after`` there are others after so many episodes, which are drawn last.
    """
    rng = seeding.numpy_generator(seed, Phase.TRAIN, Component.TASKS, iteration)
    batch = sampler.sample(rng, agent.tasks_per_update)
    keys = TrialKeys(seed, Phase.TRAIN, iteration, len(batch))
    change = change_drawn(change_task_after, batch, partial(sampler.sample, rng))
    return run_trial(agent, envs, batch, shape=agent.shape, keys=keys, change=change)


def _trial_metrics(agent: Agent, trial: Trial) -> Metrics:
    points = adaptation_points(agent.shape, trial)
    means = {k: [float(x[:, i].mean()) for i in (0, -1)] for k, x in points.metrics.items()}
    return point_metrics("train", means, float(points.metrics["return"].sum(1).mean()))


def _validate(
    agent: Agent,
    tasks: TaskDistribution,
    config: TrainConfig,
    envs: SlotVectorEnv,
    iteration: int,
) -> Metrics:
    curve = evaluate_adaptation(
        agent,
        tasks,
        split="validation",
        num_tasks=config.evaluation.validation_tasks,
        num_episodes=None,
        seed=config.seed,
        phase=Phase.VALIDATE,
        iteration=iteration,
        envs=envs,
        change_task_after=config.change_task_after,
    )
    means = {name: values.mean(1).tolist() for name, values in curve.metrics.items()}
    return point_metrics("validation", means, float(curve.returns.mean(1).sum()))


def _note(metrics: Metrics, env_steps: int) -> str:
    """Return the adaptation of the last iteration, and of the last validation if there was one."""
    trial = f"(trial {metrics['train/trial_return']:.2f})"
    parts = [f"return {_before_and_after(metrics, 'train')} {trial}"]
    if "validation/return_after" in metrics:
        parts.append(f"validation {_before_and_after(metrics, 'validation')}")
    return f"{', '.join(parts)}, {env_steps:,} steps"


def _before_and_after(metrics: Metrics, what: str) -> str:
    before, after = (metrics[f"{what}/return_{when}"] for when in ("before", "after"))
    return f"{before:.2f} → {after:.2f}"

"""Train a run: from its settings to the final evaluation."""

from __future__ import annotations

import dataclasses
import sys
import time
import warnings
from contextlib import ExitStack, closing, nullcontext, suppress
from typing import NamedTuple

from metarl import registry
from metarl.console import console
from metarl.errors import DivergenceError, EnvError, UserError, bad_option, described
from metarl.evaluation.curve import read_summary
from metarl.experience.agent import Agent, TaskSpec
from metarl.experience.rollout import torch_threads
from metarl.experience.sampling import TaskSampler, make_sampler
from metarl.experience.traits import large_numbers
from metarl.files import remove_leftovers, write_json
from metarl.imports import load_object
from metarl.running import first_edition
from metarl.running.checkpoints import Checkpoint
from metarl.running.estimate import announced, is_measured
from metarl.running.evaluate import EvaluateConfig, Subject, evaluate_subject
from metarl.running.lock import held
from metarl.running.machine import check_device
from metarl.running.metrics import read_metrics
from metarl.running.parsing import command_line
from metarl.running.run import Run
from metarl.running.settings import Settings
from metarl.running.states import FAILURE
from metarl.running.store import recall_experience
from metarl.running.tensorboard import add_evaluation
from metarl.running.training import Callback, meta_train, training_slots
from metarl.running.wandb_run import WandbRun, import_wandb, wandb_run
from metarl.stepping.options import SharedEnvs
from metarl.tasks.distribution import TaskDistribution
from metarl.tasks.effects import warn_of_tasks

CHECK_SECONDS = 3.0
"""Longest time in seconds that a new run steps environments to check whether its tasks differ."""


class Prepared(NamedTuple):
    """Complete settings, with the tasks and the agent that they describe."""

    settings: Settings
    """The settings, with every option resolved."""
    tasks: TaskDistribution
    """The task distribution."""
    agent: Agent
    """The agent before its first update."""


def prepare(settings: Settings) -> Prepared:
    """Make the tasks and the agent of settings; nothing is written to the disk.

    Raises:
        UserError: if the settings cannot work.
    """
    config = settings.train
    check_device(config.device)
    if config.run.wandb_project is not None:
        import_wandb()
    tasks = registry.make(config.env)
    agent_class = registry.agent_class(settings.agent)
    spec = TaskSpec.of(tasks)
    agent = agent_class(settings.agent_config, spec, seed=config.seed, device=config.device)
    return Prepared(settings.resolve(agent, tasks), tasks, agent)


@torch_threads(1)  # Only updates may use more.
def train(
    settings: Settings,
    *,
    resume: Run | None = None,
    callback: Callback | None = None,
    yes: bool = False,
) -> Run:
    """Meta-train in a new run directory, or resume a run, and evaluate at the end.

    The agent is made once. The check of the tasks, training, validation and the final evaluation
    share their worker processes. No other process can write to the run directory meanwhile.

    Args:
        settings: the settings of the run.
        resume: the run to resume, if any.
        callback: called after every update with its number, the trial and the metrics;
            training ends early when it returns False. It replaces the callback of the settings.
        yes: train even if an iteration takes over ten minutes or more memory than is free.

    Raises:
        UserError: if the settings cannot work, or if an iteration is that large and ``yes`` is
            false; this is checked before any training.
    """
    with nullcontext() if resume is None else held(resume.directory):
        return _train(settings, resume, callback, yes)


def _train(settings: Settings, resume: Run | None, callback: Callback | None, yes: bool) -> Run:
    settings, tasks, agent = prepare(settings)
    config = settings.train
    initial = Checkpoint.of(agent, 0, 0)
    sampler = make_sampler(config.task_sampler, tasks)
    if callback is None and config.callback is not None:
        callback = load_object(config.callback)
    start = initial
    if resume is not None:
        start = _restore(resume, settings, tasks, agent, sampler)
        if start.iteration == config.iterations and resume.evaluated(start.iteration):
            return resume
    run = Run.create(settings, tasks) if resume is None else resume
    if resume is None:
        seed = config.seed
        console.print(f"{settings.agent} on {tasks.name}, seed {seed}: {run.directory}")
    with held(run.directory):
        (run.directory / FAILURE).unlink(missing_ok=True)
        try:
            states = Subject(agent, start, initial)
            _train_and_evaluate(run, settings, tasks, states, sampler, callback, yes)
        except BaseException as error:
            failed_at_once = isinstance(error, UserError | EnvError) and run.remove_unless_begun()
            if not failed_at_once:
                if isinstance(error, Exception):
                    _record_failure(run, error)
                _print_how_to_resume(run, error)
            raise
    return run


def _warn_of_large_numbers(settings: Settings, tasks: TaskDistribution) -> None:
    """Point to the normalisation of observations where they are large and it is off."""
    largest = large_numbers(TaskSpec.of(tasks))
    if getattr(settings.agent_config, "normalize_observations", True) or largest is None:
        return
    warnings.warn(
        f"{tasks.name}: observations go up to {largest:g}, which an agent learns little from as "
        "they are: --normalize-observations brings them to one size",
        stacklevel=2,
    )


def _train_and_evaluate(
    run: Run,
    settings: Settings,
    tasks: TaskDistribution,
    subject: Subject,
    sampler: TaskSampler,
    callback: Callback | None,
    yes: bool,
) -> None:
    """Train from a checkpoint on, and evaluate the agent beside its initial state."""
    agent, start, initial = subject
    config = settings.train
    slots = training_slots(agent, tasks, config.workers)
    with closing(SharedEnvs(config.workers, tasks)) as shared, ExitStack() as stack:
        if start is initial and config.check:
            warn_of_tasks(tasks, seconds=CHECK_SECONDS, envs=shared.sized(slots))
            _warn_of_large_numbers(settings, tasks)
        if start is initial or config.iterations is None:
            envs = shared.sized(slots) if is_measured(config) else None
            config = announced(settings, tasks, agent, envs, yes=yes).train
            run.record(config)
        wandb = stack.enter_context(wandb_run(config.run, run.directory))
        if start.iteration < (config.iterations or 0):
            envs = shared.sized(slots)
            started = time.perf_counter()
            start = meta_train(
                agent,
                tasks,
                config,
                run.directory,
                iteration=start.iteration,
                env_steps=start.env_steps,
                sampler=sampler,
                callback=callback,
                envs=envs,
                wandb=wandb,
            )
            console.print(f"trained in {time.perf_counter() - started:.0f} s")
            run.settle(start.iteration)
        after = config.evaluation.after(agent, tasks, start.iteration)
        if after != config.evaluation:
            config = dataclasses.replace(run.train_config, evaluation=after)
            run.record(config)
        evaluation = EvaluateConfig(
            evaluation_tasks=after.evaluation_tasks,
            device=config.device,
            workers=config.workers,
        )
        evaluate_subject(run, Subject(agent, start, initial), tasks, evaluation, shared)
        _show_evaluation(run, wandb)


def _show_evaluation(run: Run, wandb: WandbRun | None) -> None:
    """Show the evaluation after training in TensorBoard and, if wanted, in Weights & Biases."""
    folder = run.directory / "evaluation"
    summary, untrained = (read_summary(folder / f"test{end}.json") for end in ("", "-untrained"))
    if wandb is not None:
        wandb.log_evaluation(summary, untrained, folder)
    try:
        add_evaluation(run.directory / "tensorboard", summary, untrained, folder / "test.png")
    except OSError as error:
        warnings.warn(f"TensorBoard does not show the evaluation: {error}", stacklevel=2)


def _restore(
    run: Run, settings: Settings, tasks: TaskDistribution, agent: Agent, sampler: TaskSampler
) -> Checkpoint:
    """Prepare a run to be resumed, and restore its agent and task sampler.

    Returns:
        The checkpoint that the training continues from.

    Raises:
        UserError: if the run cannot be resumed; nothing has been written then.
    """
    if run.content["format"] == first_edition.FORMAT:
        raise UserError(
            f"{run.directory}: was begun by the first edition; it can be evaluated and its "
            f"settings can be used again (--config), but it cannot be resumed"
        )
    run.require_spaces(tasks)
    start = Checkpoint.of(agent, 0, 0)
    if run.checkpoints.iterations():  # Otherwise it was stopped before its first checkpoint.
        start = run.checkpoint()
        run.restore(agent, start)
        sampler.load_state(start.sampler)
    iterations = settings.train.iterations  # None before a run of some minutes is measured.
    if iterations is not None and start.iteration > iterations:
        accepted = f"at least {start.iteration}, which the run has made already (they count too)"
        raise bad_option("--iterations", settings.train.iterations, accepted)
    metrics = run.directory / "metrics.jsonl"
    if metrics.exists():
        read_metrics(metrics)  # Refuse damage before anything is written.
    if iterations is None or start.iteration < iterations:
        recall_experience(agent, run.directory, start.iteration)
    console.print(f"{run.directory}: resumed after iteration {start.iteration}")
    run.record(settings.train)
    remove_leftovers(run.directory)
    if start.iteration == iterations:
        console.print("this run is finished: nothing is left to train")
    return start


def _record_failure(run: Run, error: Exception) -> None:
    """Write down what has ended a run, for ``metarl runs``; a resumed run removes it."""
    with suppress(OSError):
        write_json(run.directory / FAILURE, {"error": " ".join(described(error).split())[:500]})


def _finished_iterations(run: Run) -> int:
    """Return the number of the last iteration whose metrics have been written."""
    try:
        return int(read_metrics(run.directory / "metrics.jsonl")[-1]["iteration"])
    except (UserError, LookupError):
        return 0


def _print_how_to_resume(run: Run, error: BaseException) -> None:
    """Print what is saved of a run that ``error`` ended, and the command that resumes it."""
    saved = run.checkpoints.iterations()
    last = saved[-1] if saved else 0
    finished = _finished_iterations(run)
    lines = [f"iteration {last + 1} was not finished"]
    if finished > last:  # The state was not copied in between, or could not be written.
        lost = f"iterations {last + 1} to {finished} were"
        if finished == last + 1:
            lost = f"iteration {finished} was"
        lines = [f"{lost} finished but not saved"]
    planned = run.train_config.iterations
    if planned is not None and last >= planned:
        lines = [
            f"the training was finished but not the evaluation; {last} is saved: "
            f"{run.checkpoints.directory}"
        ]
    elif saved:
        lines[0] += f"; {last} is saved: {run.checkpoints.directory / f'{last:07d}'}"
    if isinstance(error, DivergenceError):
        lines.append("the same seed diverges there again; another setting may not:")
        lines.append(command_line("train", "--config", str(run.directory / "config.json")) + " …")
    else:
        lines.append(f"resume with: {run.resume_command()}")
    print("\n".join(lines), file=sys.stderr, flush=True)

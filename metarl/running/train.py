"""Train: what one command does from its settings to the final evaluation."""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import Any

from metarl import registry
from metarl.console import console
from metarl.errors import DivergenceError, EnvError, UserError, bad_option
from metarl.experience.agent import TaskSpec
from metarl.experience.rollout import torch_threads
from metarl.experience.sampling import make_sampler
from metarl.files import remove_leftovers
from metarl.imports import load_object
from metarl.running import first_edition
from metarl.running.evaluate import evaluate
from metarl.running.folders import (
    refuse_used,
)
from metarl.running.machine import check_device
from metarl.running.metrics import import_wandb, read_metrics
from metarl.running.run import Run
from metarl.running.settings import TrainConfig, settings
from metarl.running.store import recall_experience
from metarl.running.training import Callback, meta_train
from metarl.tasks.distribution import TaskDistribution
from metarl.tasks.effects import warn_of_tasks

CHECK_SECONDS = 3.0
"""Time that a new run spends on stepping environments to see whether its tasks differ."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run as it is about to begin: nothing is left to be decided."""

    config: TrainConfig
    agent: str
    agent_config: Any
    derived: tuple[str, ...]
    """Fields of the config that follow from the run's length."""
    tasks: TaskDistribution

    @staticmethod
    def of(config: TrainConfig, agent: str, agent_config: Any) -> Plan:
        """Decide what is left open.

        Raises:
            UserError: for anything that cannot work.
        """
        check_device(config.device)
        if config.wandb is not None:
            import_wandb()
        tasks = registry.make(config.env)
        agent_class = registry.agent_class(agent)
        probe = agent_class(agent_config, TaskSpec.of(tasks), seed=config.seed)
        resolved = config.resolve(probe, tasks)
        derived = () if config.schedule_iterations else ("schedule_iterations",)
        return Plan(resolved, agent, agent_config, derived, tasks)

    def check(self) -> None:
        """Warn of tasks that make training pointless, unless the run is not to be checked."""
        if self.config.check:
            workers = self.config.num_workers
            one = {"num_workers": 1 if workers is None else min(1, workers)}
            options = self.config.vec_options() | one
            warn_of_tasks(self.tasks, seconds=CHECK_SECONDS, vec_options=options)

    def settings(self) -> dict[str, Any]:
        """Return what ``train.py --config`` takes."""
        return settings(self.config, self.agent, self.agent_config, self.derived)


@torch_threads(1)  # the meta-update alone may use more
def train(
    config: TrainConfig,
    agent_name: str,
    agent_config: Any,
    resume: Run | None = None,
    callback: Callback | None = None,
) -> Run:
    """Meta-train into a new run directory, or go on with one, and evaluate at the end.

    Args:
        config: what to train on, and for how long.
        agent_name: the agent's name in the registry.
        agent_config: the agent's config, an instance of its class's ``Config``.
        resume: the run to go on with.
        callback: called after every iteration with its number, the trial and the metrics;
            training ends early when it returns False. It is used instead of ``config.callback``.

    Raises:
        UserError: for anything that cannot work, before any work is done.
    """
    plan = Plan.of(config, agent_name, agent_config)
    config, tasks = plan.config, plan.tasks
    sampler = make_sampler(config.task_sampler, tasks)
    if callback is None and config.callback is not None:
        callback = load_object(config.callback)
    if resume is None:
        if config.run_dir is not None:
            refuse_used(config.run_dir)  # before anything that takes time
        draft = Run.draft(config, agent_name, plan.agent_config, tasks, plan.derived)
        agent = draft.make_agent(config.device)  # what cannot be made leaves no directory
        plan.check()
        run = draft.begin()
        iteration = env_steps = 0
        console.print(f"{agent_name} on {tasks.name}, seed {config.seed}: {run.directory}")
    elif resume.config["format"] == first_edition.FORMAT:
        raise UserError(
            f"{resume.directory}: was begun by the first edition: it can be evaluated and its "
            f"settings used again (--config), not resumed"
        )
    else:
        run = resume
        iteration = env_steps = 0
        if run.checkpoints.iterations():
            agent, checkpoint = run.load_agent("final", config.device)
            iteration, env_steps = checkpoint.iteration, checkpoint.env_steps
            sampler.load_state(checkpoint.sampler)
        else:  # it was stopped before its first checkpoint
            agent = run.make_agent(config.device)
        if iteration > (config.iterations or 0):
            accepted = (
                f"at least {iteration}, which are behind this run (their sum, not more of them)"
            )
            raise bad_option("--iterations", config.iterations, accepted)
        metrics = run.directory / "metrics.jsonl"
        if metrics.exists():
            read_metrics(metrics)  # refuses damage before anything is written
        if iteration < (config.iterations or 0):
            recall_experience(agent, run.directory, iteration)
        console.print(f"{run.directory}: goes on after iteration {iteration}")
        run.record(config)
        remove_leftovers(run.directory)
        if iteration == config.iterations:
            console.print("this run is finished: nothing is left to train")
            if run.evaluated(iteration):
                return run
    started = time.perf_counter()
    try:
        if iteration < (config.iterations or 0):
            meta_train(
                agent,
                tasks,
                config,
                run.directory,
                iteration=iteration,
                env_steps=env_steps,
                sampler=sampler,
                callback=callback,
            )
            console.print(f"trained in {time.perf_counter() - started:.0f} s")
        _evaluate_at_the_end(run, tasks, config)
    except BaseException as error:
        failed_at_once = isinstance(error, UserError | EnvError) and run.remove_unless_begun()
        if not failed_at_once:
            _say_how_to_go_on(run, error)
        raise
    return run


def _evaluate_at_the_end(run: Run, tasks: TaskDistribution, config: TrainConfig) -> None:
    evaluate(
        run,
        tasks=tasks,
        num_tasks=config.evaluation_tasks,
        device=config.device,
        num_workers=config.num_workers,
        env_timeout=config.env_timeout,
        env_restarts=config.env_restarts,
    )


def _finished_iterations(run: Run) -> int:
    """Return the number of the last iteration whose metrics have been written."""
    try:
        return int(read_metrics(run.directory / "metrics.jsonl")[-1]["iteration"])
    except (UserError, LookupError):
        return 0


def _say_how_to_go_on(run: Run, error: BaseException) -> None:
    """Say what is saved of a run that ``error`` ends, and the command that goes on with it."""
    saved = run.checkpoints.iterations()
    last = saved[-1] if saved else 0
    finished = _finished_iterations(run)
    lines = [f"iteration {last + 1} was not finished"]
    if finished > last + 1:  # The state was not copied in between, or could not be written.
        lines = [f"iterations {last + 1} to {finished} were finished but not saved"]
    if last >= (run.train_config.iterations or 0):
        lines = [
            f"training was finished, evaluation not; {last} is saved: {run.checkpoints.directory}"
        ]
    elif saved:
        lines[0] += f"; {last} is saved: {run.checkpoints.directory / f'{last:07d}'}"
    if isinstance(error, DivergenceError):
        lines.append("the same seed diverges there again; another setting may not:")
        lines.append(f"python scripts/train.py --config {run.directory / 'config.json'} …")
    else:
        lines.append(f"go on with: {run.resume_command()}")
    print("\n".join(lines), file=sys.stderr, flush=True)

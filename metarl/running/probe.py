"""Ask what an agent's context tells of its tasks: table, picture and file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

from rich.table import Table

from metarl.console import console, ticker
from metarl.errors import bad_option
from metarl.evaluation.control_plots import plot_probe
from metarl.evaluation.probe import ProbeCurve, probe_context
from metarl.experience.agent import Agent
from metarl.experience.rollout import torch_threads
from metarl.files import write_json
from metarl.running.checkpoints import Checkpoint
from metarl.running.evaluate import EvaluateConfig, Writing, name_evaluation
from metarl.running.machine import check_device
from metarl.running.run import Run
from metarl.stepping.options import SharedEnvs
from metarl.tasks.distribution import TaskDistribution

FORMAT = 1
"""The format of the JSON file, which ends with ``-probe.json``."""

DEFAULT_TASKS = 200
"""The number of tasks, unless the options say another one."""


@torch_threads(1)
def probe(
    run: Run, config: EvaluateConfig | None = None, *, tasks: TaskDistribution | None = None
) -> tuple[ProbeCurve, ProbeCurve]:
    """Probe the context of a run's agent, and that of an untrained one, on the same tasks.

    Both tables are printed side by side. The files in the folder ``evaluation`` of the run have the
    name of an evaluation with these settings, and ``-probe`` behind it: by default
    ``test-tasks-200-probe.json`` and ``.png``.

    Args:
        run: the run whose agent is probed.
        config: the options.
        tasks: other tasks of the same spaces, by default the run's own.

    Returns:
        The trained and the untrained agent's curve.

    Raises:
        UserError: for anything that cannot work, before any work is done.
        OSError: if the files cannot be written; the table is printed all the same.
    """
    config = config or EvaluateConfig()
    config = replace(config, evaluation_tasks=config.evaluation_tasks or DEFAULT_TASKS)
    refuse_impossible(config, "--probe", ("official", "video", "greedy", "score"))
    check_device(config.device)
    tasks = tasks or run.make_tasks()
    run.require_spaces(tasks)
    saved = run.checkpoint(config.checkpoint)
    agent = run.make_agent(config.device)
    initial = Checkpoint.of(agent, 0, 0)
    name, _ = name_evaluation(run, agent, tasks, config)
    with closing(SharedEnvs(config.workers, tasks)) as envs:
        saved.load_into(agent)
        trained = _probed(agent, tasks, config, envs, "probing")
        initial.load_into(agent)
        untrained = _probed(agent, tasks, config, envs, "untrained agent")
    _print(run, tasks, trained, untrained)
    folder = config.output or run.results / "evaluation"
    writing = Writing(folder)
    with writing:
        content = {
            "format": FORMAT,
            "env": tasks.name,
            "agent": run.agent_name,
            "split": config.split,
            "seed": config.seed,
            "checkpoint": config.checkpoint,
            "iteration": saved.iteration,
            "env_steps": saved.env_steps,
            "trained": trained.summary(),
            "untrained": untrained.summary(),
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{name}-probe.json", content)
        picture = folder / f"{name}-probe.png"
        plot_probe({run.agent_name: trained, "untrained": untrained}, picture, tasks.name)
        console.print(f"picture: {picture}")
    writing.check()
    return trained, untrained


def refuse_impossible(config: EvaluateConfig, option: str, unused: Sequence[str]) -> None:
    """Refuse options that a probe or another look into an agent would not follow.

    Args:
        config: the options.
        option: what is asked for, such as ``--probe``.
        unused: the options that must have their defaults, beside those of changing tasks and
            disturbances.
    """
    for name in unused:
        given, default = getattr(config, name), getattr(EvaluateConfig(), name)
        if given != default:
            raise bad_option(f"--{name}", given, f"{default} together with {option}")
    conditions = {"change_task_after": config.change_task_after or 0}
    for name, value in {**conditions, **config.disturbances.conditions()}.items():
        if value:
            raise bad_option(f"--{name.replace('_', '-')}", value, f"0 together with {option}")


def _probed(
    agent: Agent, tasks: TaskDistribution, config: EvaluateConfig, envs: SharedEnvs, title: str
) -> ProbeCurve:
    assert config.evaluation_tasks is not None
    with ticker(title, config.evaluation_tasks, unit="tasks") as progress:
        return probe_context(
            agent,
            tasks,
            split=config.split,
            num_tasks=config.evaluation_tasks,
            num_episodes=config.episodes_per_trial,
            seed=config.seed,
            workers=config.workers,
            envs=envs,
            advance=progress.advance,
        )


def _print(run: Run, tasks: TaskDistribution, trained: ProbeCurve, untrained: ProbeCurve) -> None:
    """Print the R² of both agents at each point, and that of each parameter at the last."""
    before = dict(zip(untrained.experience, untrained.mean, strict=True))
    table = Table()
    for column in (trained.unit, "R²", "95% interval\nover tasks", "untrained,\nR²", "tasks"):
        table.add_column(column, justify="right")
    for i, amount in enumerate(trained.experience):
        other = f"{before[amount]:.3f}" if amount in before else ""
        bounds = f"{trained.low[i]:.3f} to {trained.high[i]:.3f}"
        number = str(trained.num_tasks[i])
        table.add_row(str(amount), f"{trained.mean[i]:.3f}", bounds, other, number)
    console.print(
        f"{run.agent_name} on {tasks.name}: share of the variance of tasks' parameters that a "
        f"linear probe of its context explains, after {trained.unit} of experience"
    )
    console.print(table)
    if len(trained.parameters) > 1:
        last = zip(trained.parameters, trained.r2[-1], strict=True)
        console.print("at the last point: " + ", ".join(f"{name} {r2:.3f}" for name, r2 in last))

"""Evaluate agents and baselines with controls of their contexts: do they adapt to their tasks?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from metarl import registry
from metarl.console import console, ticker
from metarl.errors import UserError, bad_option
from metarl.evaluation.control_plots import plot_controls
from metarl.evaluation.control_table import Controlled, Controls, Reference
from metarl.evaluation.controls import (
    control_conditions,
    control_curves,
    control_partners,
)
from metarl.evaluation.curve import AdaptationCurve, read_summary
from metarl.evaluation.evaluate import evaluation_slots
from metarl.experience.agent import Adapter, TrialShape
from metarl.experience.controls import Control, InShape, controls_of
from metarl.experience.rollout import torch_threads
from metarl.options import option_values
from metarl.running.compare import refuse_impossible, told_how_far
from metarl.running.evaluate import EvaluateConfig, Writing, measure, name_evaluation
from metarl.running.folders import short_hash
from metarl.running.machine import check_device
from metarl.running.plans import Plan, agent_of, plan_evaluations
from metarl.running.run import Run
from metarl.running.seeds import WITHOUT_EFFECT
from metarl.stepping.options import SharedEnvs
from metarl.tasks.distribution import TaskDistribution


@torch_threads(1)
def evaluate_controls(
    runs: Sequence[Run],
    config: EvaluateConfig | None = None,
    *,
    baselines: Sequence[str] = (),
    multitask: Run | None = None,
    oracle: Run | None = None,
    tasks: TaskDistribution | None = None,
) -> Controls:
    """Evaluate what the contexts of agents and baselines are worth; write a table and a picture.

    Each meets the same tasks, in episodes with the same random numbers, with its own context and
    with those of :func:`metarl.experience.controls.run_controlled`. The curves of agents are
    saved in the folder ``controls`` of their runs, the others in that of the first run, when they
    are finished; those that exist are read, so that the same command goes on where it was cut off.
    Runs that differ in their training seed alone, such as those of ``--seeds``, also have a verdict
    together, whose interval is over seeds and tasks.

    Args:
        runs: the runs whose agents are evaluated.
        config: the options.
        baselines: names of baselines, as :func:`metarl.registry.make_baseline` takes them.
        multitask: a run whose policy does not adapt, trained on the first run's tasks.
        oracle: a run whose policy is told its task, trained on these too (default: the baseline
            of that name, if it applies to the tasks).
        tasks: other tasks of the same spaces, by default the runs' own, which must be the same.

    Returns:
        The table of all controls, with all curves.

    Raises:
        UserError: for anything that cannot work, before any work is done.
        OSError: if files cannot be written; the table is printed all the same.
    """
    check_device((config or EvaluateConfig()).device)
    config = refuse_impossible(runs, baselines, config or EvaluateConfig(), tasks)
    if config.change_task_after:
        accepted = "0 with --controls, which need the task of a whole trial"
        raise bad_option("--change-task-after", config.change_task_after, accepted)
    if config.score != "adapting-episodes":
        raise bad_option("--score", config.score, "adapting-episodes with --controls")
    for name, run in (("--multitask", multitask), ("--oracle", oracle)):
        if run is not None:
            _require_same_tasks(name, run, runs[0])
    tasks = tasks or runs[0].make_tasks()
    for run in runs:
        run.require_spaces(tasks)
    plans = plan_evaluations(runs, config, baselines, tasks)
    plans = [plan for plan in plans if plan.kind != "untrained"]
    number, folder = plans[0].num_tasks, config.output or runs[0].results / "controls"
    if number < 2:
        raise bad_option("--evaluation-tasks", number, "at least 2 with --controls")
    control_partners(tasks, split=config.split, num_tasks=number, seed=config.seed)
    references, remarks = _references(plans[0], config, multitask, oracle, tasks, folder)
    plans = [
        dataclasses.replace(
            p, folder=folder if p.kind == "baseline" else p.folder.with_name("controls")
        )
        for p in plans
    ]
    writings = {path: Writing(path) for path in (folder, *(plan.folder for plan in plans))}
    groups = iter(_groups(runs, [plan.label for plan in plans]))
    participants: list[Controlled] = []
    beside: list[Reference] = []
    total = len(plans) + len(references)
    with closing(SharedEnvs(config.workers, tasks)) as envs:
        every: list[Plan | _Beside] = [*plans, *references]
        for index, plan in enumerate(every, 1):
            place = f"[{index}/{total}]"
            with told_how_far(plan.label, index, total):
                if isinstance(plan, _Beside):
                    beside.append(_reference(plan, tasks, config, envs, place, writings[folder]))
                else:
                    writing = writings[plan.folder]
                    made = _controlled(plan, tasks, config, envs, place, writing)
                    group = next(groups) if plan.kind == "agent" else ""
                    participants.append(made._replace(group=group))
    controls = Controls(tuple(participants), tuple(beside), remarks)
    controls.print()
    name, _ = name_evaluation(runs[0], agent_of(plans[0]), tasks, config)
    with writings[folder]:
        files = controls.save(folder, name)
        picture = folder / f"{name}.png"
        plot_controls(controls, picture)
        console.print(f"table: {', '.join(map(str, files))}")
        console.print(f"picture: {picture}")
    for writing in writings.values():
        writing.check()
    return controls


def _groups(runs: Sequence[Run], labels: Sequence[str]) -> list[str]:
    """Return the name of the group of each run: those that differ in the training seed alone.

    A run that has no such others has no group, and none has one where two have the same seed.
    """
    kinds: dict[str, list[int]] = {}
    for i, run in enumerate(runs):
        options = option_values(run.train_config).items()
        told = {k: x for k, x in options if k not in (*WITHOUT_EFFECT, "seed", "run_dir")}
        said = run.agent_name, run.content["agent_config"], sorted(told.items())
        kinds.setdefault(repr(said), []).append(i)
    names = [""] * len(runs)
    for rows in kinds.values():
        name = runs[rows[0]].agent_name
        if len({runs[i].train_config.seed for i in rows}) < max(len(rows), 2):
            continue
        if sum(runs[kind[0]].agent_name == name for kind in kinds.values()) > 1:
            name = "; ".join(labels[i] for i in rows)
        for i in rows:
            names[i] = name
    return names


def _require_same_tasks(option: str, run: Run, first: Run) -> None:
    """Refuse a reference that was trained on other tasks than the first agent."""
    own, wanted = (str(r.content.get("tasks", r.env)) for r in (run, first))
    if own != wanted:
        got = f"{run.directory}, a run of {own}"
        raise UserError(f"{option}: got {got}; accepted: a run of {wanted}, the tasks of RUN")


@dataclasses.dataclass(frozen=True)
class _Beside:
    """The evaluation of a reference."""

    role: Any
    """What it is to the agents."""
    label: str
    """Its name in the table."""
    adapter: Adapter
    """The policy, in the shape of the first agent's trials."""
    expected: dict[str, Any]
    """The part of a summary that tells whether it is of this evaluation."""
    folder: Path
    """The folder of the files."""
    name: str
    """The name of the files, without suffix."""


def _references(
    first: Plan,
    config: EvaluateConfig,
    multitask: Run | None,
    oracle: Run | None,
    tasks: TaskDistribution,
    folder: Path,
) -> tuple[list[_Beside], list[str]]:
    """Return the evaluations of a multi-task policy and of an oracle, and why there is none."""
    found, remarks = [], []
    for role, run in (("multi-task", multitask), ("oracle", oracle)):
        if run is not None:
            run.require_spaces(tasks)
            agent, saved = run.load_agent(config.checkpoint, config.device)
            _require_role(role, agent, run)
            source, label = str(run.directory.resolve()), run.agent_name
            steps, iteration, which = saved.env_steps, saved.iteration, config.checkpoint
        elif role == "oracle":
            seed, device = config.seed, config.device
            try:
                agent = registry.make_baseline(
                    "oracle", tasks, first.shape, seed=seed, device=device
                )
            except UserError:
                remarks.append(
                    f"No oracle stands beside: that baseline does not apply to {tasks.name}; "
                    "--oracle RUN names a policy that is told its task."
                )
                continue
            source = label = "oracle"
            steps, iteration, which = 0, None, "final"
        else:
            continue
        shape = _shape_beside(agent, first.shape)
        expected = first.expected(tasks, config) | {
            "agent": source,
            "checkpoint": which,
            "iteration": iteration,
            "env_steps": steps,
            "episodes": list(shape.points),
        }
        name = f"{first.name}-{role}-{short_hash(f'{source} {shape}')}"
        found.append(_Beside(role, label, InShape(agent, shape), expected, folder, name))
    return found, remarks


def _require_role(role: str, agent: Adapter, run: Run) -> None:
    """Refuse a run whose agent is not a multi-task policy, or not an oracle."""
    told = hasattr(agent, "reveal")
    adapts = agent.shape.sequential or agent.shape.num_adaptations > 0
    got = f"{run.directory}, whose agent {run.agent_name} "
    if role == "oracle" and not told:
        accepted = "a run with --observe-task"
        raise UserError(f"--oracle: got {got}is not told its task; accepted: {accepted}")
    if role == "multi-task" and (told or adapts):
        got += "is told its task" if told else "adapts"
        accepted = "a run of ppo-multitask or sac-multitask without --observe-task"
        raise UserError(f"--multitask: got {got}; accepted: {accepted}")


def _shape_beside(agent: Adapter, shape: TrialShape) -> TrialShape:
    """Return the shape of a reference's trials: the first agent's, if its policy can follow."""
    if agent.shape.sequential and not shape.sequential:
        return TrialShape(shape.num_episodes)
    return shape


def _reference(
    plan: _Beside,
    tasks: TaskDistribution,
    config: EvaluateConfig,
    envs: SharedEnvs,
    place: str,
    writing: Writing,
) -> Reference:
    """Read the evaluation of a reference, or make and save it."""
    curve = _read(plan.folder, plan.name, plan.expected)
    if curve is None:
        curve = measure(
            plan.adapter,
            tasks,
            config,
            envs,
            title=f"{place} {plan.label}",
            num_tasks=plan.expected["num_tasks"],
            num_episodes=plan.adapter.shape.num_episodes,
        )
        curve = _said(curve, plan.expected)
        with writing:
            curve.save(plan.folder, plan.name)
    else:
        console.print(f"{place} {plan.label}: as evaluated before")
    return Reference(plan.role, plan.label, curve)


def _controlled(
    plan: Plan,
    tasks: TaskDistribution,
    config: EvaluateConfig,
    envs: SharedEnvs,
    place: str,
    writing: Writing,
) -> Controlled:
    """Read the curves of an agent or a baseline, or measure and save them."""
    kind: Any = plan.kind
    expected = plan.expected(tasks, config)
    controls = controls_of(plan.shape)
    read = {
        control: _read(plan.folder, f"{plan.name}-{control}", _expected(expected, control))
        for control in controls
    }
    found = {control: curve for control, curve in read.items() if curve is not None}
    if len(found) == len(controls):
        console.print(f"{place} {plan.label}: as evaluated before, {plan.folder}")
        return Controlled(plan.label, kind, found)
    if plan.state is not None:
        plan.state.load_into(agent_of(plan))
    number, episodes = plan.num_tasks, plan.shape.num_episodes
    slots = evaluation_slots(plan.adapter, tasks, number, config.workers, num_episodes=episodes)
    trials = number * len(controls)
    with ticker(f"{place} {plan.label}", trials, unit="trials") as progress:
        curves = control_curves(
            plan.adapter,
            tasks,
            split=config.split,
            num_tasks=number,
            num_episodes=episodes,
            seed=config.seed,
            greedy=config.greedy,
            workers=config.workers,
            envs=envs.sized(slots),
            disturbances=config.disturbances,
            advance=progress.advance,
        )
    curves = {control: _said(curve, expected) for control, curve in curves.items()}
    with writing:
        for control, curve in curves.items():
            curve.save(plan.folder, f"{plan.name}-{control}")
    return Controlled(plan.label, kind, curves)


def _expected(expected: dict[str, Any], control: Control) -> dict[str, Any]:
    """Return what a control's summary says if ``expected`` is what the plain evaluation's does."""
    return {**expected, "conditions": expected["conditions"] | control_conditions(control)}


def _said(curve: AdaptationCurve, expected: dict[str, Any]) -> AdaptationCurve:
    """Return a curve that says which agent it is of, and in which state."""
    names = ("agent", "iteration", "env_steps", "checkpoint")
    return dataclasses.replace(curve, **{name: expected[name] for name in names})


def _read(folder: Path, name: str, expected: dict[str, Any]) -> AdaptationCurve | None:
    """Return a saved curve, or None unless it is just what is asked for."""
    try:
        summary = {"conditions": {}} | read_summary(folder / f"{name}.json")
        if any(summary.get(key) != value for key, value in expected.items()):
            return None
        return AdaptationCurve.load(folder, name)
    except UserError:
        return None

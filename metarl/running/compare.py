"""Compare the agents of runs, and baselines, on the same tasks with the same random numbers."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from metarl.console import console
from metarl.errors import UserError, bad_option
from metarl.evaluation.comparison import Comparison, Participant
from metarl.evaluation.curve import AdaptationCurve, read_summary
from metarl.evaluation.plotting import Line, plot_adaptation
from metarl.evaluation.points import Unfinished
from metarl.experience.rollout import torch_threads
from metarl.running.evaluate import (
    EvaluateConfig,
    Writing,
    as_trained,
    measure,
    name_evaluation,
)
from metarl.running.machine import check_device
from metarl.running.plans import Plan, agent_of, plan_evaluations
from metarl.running.run import Run
from metarl.running.settings import members
from metarl.stepping.options import SharedEnvs
from metarl.tasks.distribution import TaskDistribution


@torch_threads(1)
def compare(
    runs: Sequence[Run],
    config: EvaluateConfig | None = None,
    *,
    baselines: Sequence[str] = (),
    tasks: TaskDistribution | None = None,
) -> Comparison:
    """Evaluate agents and baselines on the same tasks; write a table and a picture.

    All meet the same tasks, whose episodes start in the same way. Every evaluation is saved when
    it is finished, and one that was made earlier with the same settings is read instead of made
    again, so that a comparison which was cut off goes on where it stopped. Those of agents are in
    the folder ``evaluation`` of their runs, those of baselines in the folder of the comparison
    (a baseline whose source file has changed is evaluated again).
    The table is written there as ``.csv`` (all points), ``.json`` and ``.md``, and the picture as
    ``.png``; they replace those of an earlier comparison with the same settings.

    Args:
        runs: the runs whose agents are compared. Differences are to the first one's.
        config: the options. The number of tasks is by default that of the first run's own
            evaluation. Baselines get trials as long as the longest of an agent, or longer ones if
            they make their own shape longer.
        baselines: names of baselines, as :func:`metarl.registry.make_baseline` takes them.
        tasks: other tasks of the same spaces, by default the runs' own, which must be the same.

    Returns:
        The comparison, with all curves.

    Raises:
        UserError: for anything that cannot work, before any work is done.
        OSError: if files cannot be written; the table is printed all the same.
    """
    check_device((config or EvaluateConfig()).device)
    config = refuse_impossible(runs, baselines, config or EvaluateConfig(), tasks)
    tasks = tasks or runs[0].make_tasks()
    for run in runs:
        run.require_spaces(tasks)
    plans = plan_evaluations(runs, config, baselines, tasks)
    folder = config.output or runs[0].results / "comparison"
    writings = {path: Writing(path) for path in (folder, *(plan.folder for plan in plans))}
    with closing(SharedEnvs(config.workers, tasks)) as envs:
        comparison = Comparison(tuple(evaluate_plans(plans, tasks, config, envs, writings)))
    comparison.print()
    name, _ = name_evaluation(runs[0], agent_of(plans[0]), tasks, config)
    with writings[folder]:
        files = comparison.save(folder, name)
        picture = folder / f"{name}.png"
        plot_adaptation([_line(p) for p in comparison.participants], picture)
        console.print(f"table: {', '.join(map(str, files))}")
        console.print(f"picture: {picture}")
    for writing in writings.values():
        writing.check()
    return comparison


def evaluate_plans(
    plans: Sequence[Plan],
    tasks: TaskDistribution,
    config: EvaluateConfig,
    envs: SharedEnvs,
    writings: dict[Path, Writing],
) -> list[Participant]:
    """Read or make evaluations, one after another; an error says how far they have come."""
    participants: list[Participant] = []
    for number, plan in enumerate(plans, 1):
        place = f"[{number}/{len(plans)}]"
        with told_how_far(plan.label, number, len(plans)):
            participants.append(_evaluated(plan, tasks, config, envs, place, writings))
    return participants


@contextmanager
def told_how_far(label: str, number: int, total: int) -> Iterator[None]:
    """Say at which of several evaluations an error has cut them off."""
    try:
        yield
    except BaseException:
        print(
            f"cut off at {label}, {number} of {total}; the same command goes on from there, what "
            "is finished is kept",
            file=sys.stderr,
            flush=True,
        )
        raise


def open_runs(paths: Sequence[Path]) -> list[Run]:
    """Open runs; the directory of several seeds stands for all of its runs.

    Raises:
        UserError: if a path is no run.
    """
    return [Run.open(each) for path in paths for each in members(path)]


def name_agents(runs: Sequence[Run], agents: Sequence[str]) -> list[Run]:
    """Return runs whose agents may be imported from modules of the user's.

    Args:
        runs: the runs.
        agents: the names of agents that the user has given.

    Raises:
        UserError: if none of the runs has one of ``agents``.
    """
    names = {run.agent_name for run in runs}
    for agent in agents:
        if agent not in names:
            where = ", ".join(str(run.directory) for run in runs)
            accepted = f"{' or '.join(sorted(names))}, which {where} is of"
            raise bad_option("agent", agent, accepted)
    return [
        dataclasses.replace(run, named_agent=run.agent_name) if run.agent_name in agents else run
        for run in runs
    ]


def refuse_impossible(
    runs: Sequence[Run],
    baselines: Sequence[str],
    config: EvaluateConfig,
    tasks: TaskDistribution | None,
) -> EvaluateConfig:
    """Refuse what no comparison can be of, from the names alone; return the options resolved."""
    if not runs:
        raise bad_option("RUNS", [], "at least one run directory")
    for name, given in (("--official", config.official), ("--video", config.video)):
        if given:
            raise bad_option(name, given, "one run, without --baselines")
    places = [run.directory.resolve() for run in runs]
    for what, names, keys in (
        ("RUNS", [str(run.directory) for run in runs], places),
        ("--baselines", list(baselines), list(baselines)),
    ):
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise bad_option(what, names[index], "each of them once")
    envs = {str(run.content.get("tasks", run.env)): run for run in reversed(runs)}
    if tasks is None and len(envs) > 1:
        found = ", ".join(f"{env} ({run.directory})" for env, run in reversed(envs.items()))
        accepted = "runs of one environment, or --env with the tasks to compare them on"
        raise UserError(f"RUNS: got runs of {found}; accepted: {accepted}")
    return as_trained(config, runs)


def _evaluated(
    plan: Plan,
    tasks: TaskDistribution,
    config: EvaluateConfig,
    envs: SharedEnvs,
    place: str,
    writings: dict[Path, Writing],
) -> Participant:
    """Read an evaluation, or make and save it; ``place`` says how many are before it."""
    file = plan.folder / f"{plan.name}.json"
    expected = plan.expected(tasks, config)
    found = _read(plan, expected)
    if found is not None:
        console.print(f"{place} {plan.label}: as evaluated before, {file}")
        curve, summary = found
    else:
        if plan.state is not None:
            plan.state.load_into(agent_of(plan))
        unfinished = Unfinished(plan.folder / f"{plan.name}.unfinished", expected)
        curve = measure(
            plan.adapter,
            tasks,
            config,
            envs,
            title=f"{place} {plan.label}",
            num_tasks=plan.num_tasks,
            num_episodes=plan.shape.num_episodes,
            unfinished=unfinished,
        )
        said = {key: expected[key] for key in ("agent", "iteration", "env_steps", "checkpoint")}
        curve = dataclasses.replace(curve, **said)
        summary = {}
        with writings[plan.folder]:
            summary = curve.save(plan.folder, plan.name)
            unfinished.remove()
        summary = summary or curve.summary()
    episodes = plan.shape.num_episodes
    return Participant(plan.label, plan.kind, curve, summary, episodes, file)


def _read(plan: Plan, expected: dict[str, Any]) -> tuple[AdaptationCurve, dict[str, Any]] | None:
    """Return a saved evaluation and its summary, or None unless it is just what is asked for."""
    try:
        summary = read_summary(plan.folder / f"{plan.name}.json")
        said = {"conditions": {}} | summary
        if any(said.get(key) != value for key, value in expected.items()):
            return None
        return AdaptationCurve.load(plan.folder, plan.name), summary
    except UserError:
        return None


def _line(participant: Participant) -> Line:
    kind, label = participant.kind, participant.label
    reference = kind == "untrained"
    named = "untrained" if reference else label
    return Line(named, participant.summary, reference, baseline=kind == "baseline")

"""Compare the agents of runs, and baselines, on the same tasks with the same random numbers."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarl import registry
from metarl.console import console
from metarl.errors import UserError, bad_option
from metarl.evaluation.comparison import Comparison, Kind, Participant
from metarl.evaluation.curve import AdaptationCurve, read_summary
from metarl.evaluation.evaluate import evaluation_shape
from metarl.evaluation.plotting import Line, plot_adaptation
from metarl.experience.agent import Adapter, Agent, TrialShape
from metarl.experience.changes import require_change
from metarl.experience.rollout import torch_threads
from metarl.options import with_options
from metarl.running.checkpoints import Checkpoint
from metarl.running.evaluate import (
    UNTRAINED_TASKS,
    EvaluateConfig,
    Writing,
    as_trained,
    measure,
    name_evaluation,
)
from metarl.running.folders import evaluation_name, short_hash, tame
from metarl.running.labels import labels_of, source_of_run
from metarl.running.machine import check_device
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
    folder = config.output or runs[0].directory / "comparison"
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


@dataclass(frozen=True)
class Plan:
    """One evaluation of a comparison, and the files that it is saved in."""

    label: str
    """The name that tells it apart from the others."""
    kind: Kind
    """What is evaluated."""
    adapter: Adapter
    """The agent or the baseline."""
    agent: str
    """The name of the agent, or of the baseline with its options."""
    shape: TrialShape
    """The trials of the evaluation."""
    num_tasks: int
    """The number of tasks."""
    folder: Path
    """The folder of the files."""
    name: str
    """The name of the files, without suffix."""
    state: Checkpoint | None = None
    """The agent's state; None for baselines."""
    num_steps: int = 0
    """The number of environment steps that the agent or the baseline was trained on."""
    checkpoint: str = "final"
    """The name of the agent's checkpoint, which baselines have none of."""

    def expected(self, tasks: TaskDistribution, config: EvaluateConfig) -> dict[str, Any]:
        """Return the part of a summary that tells whether it is of this evaluation."""
        greedy = config.greedy or config.score == "greedy-copy"
        return {
            "env": tasks.name,
            "agent": self.agent,
            "seed": config.seed,
            "split": config.split,
            "score": config.score,
            "actions": "greedy" if greedy else "sampled",
            "checkpoint": self.checkpoint,
            "iteration": None if self.state is None else self.state.iteration,
            "env_steps": self.num_steps,
            "episodes": list(self.shape.points),
            "num_tasks": self.num_tasks,
            "conditions": config.conditions(),
        }


def plan_evaluations(
    runs: Sequence[Run],
    config: EvaluateConfig,
    baselines: Sequence[str],
    tasks: TaskDistribution,
) -> list[Plan]:
    """Make all agents and baselines; each agent is followed by the same one untrained."""
    plans: list[Plan] = []
    labels = labels_of([source_of_run(run) for run in runs])
    for run, label in zip(runs, labels, strict=True):
        saved = run.checkpoint(config.checkpoint)
        agent = run.make_agent(config.device)
        initial = Checkpoint.of(agent, 0, 0)
        run.restore(agent, saved)
        if not plans:  # All have as many tasks as the first one.
            _, num_tasks = name_evaluation(run, agent, tasks, config)
            config = with_options(config, evaluation_tasks=num_tasks)
        name, num_tasks = name_evaluation(run, agent, tasks, config)
        plan = Plan(
            label,
            "agent",
            agent,
            run.agent_name,
            evaluation_shape(agent, tasks, config.episodes_per_trial),
            num_tasks,
            run.directory / "evaluation",
            name,
            saved,
            saved.env_steps,
            config.checkpoint,
        )
        untrained = dataclasses.replace(
            plan,
            label=f"untrained {label}" if len(runs) > 1 else "untrained",
            kind="untrained",
            num_tasks=min(num_tasks, UNTRAINED_TASKS),
            name=f"{name}-untrained",
            state=initial,
            num_steps=0,
        )
        plans += [plan, untrained]
    shape = max((plan.shape for plan in plans), key=lambda shape: shape.num_episodes)
    folder = config.output or runs[0].directory / "comparison"
    for text, label in zip(baselines, _baseline_labels(baselines, plans), strict=True):
        baseline = registry.make_baseline(
            text, tasks, shape, seed=config.seed, device=config.device
        )
        own = baseline.shape  # It may be longer, for a baseline that gets more experience.
        if own.num_episodes < shape.num_episodes:
            own = evaluation_shape(baseline, tasks, shape.num_episodes)
        plans.append(
            Plan(
                label,
                "baseline",
                baseline,
                text,
                own,
                plans[0].num_tasks,
                folder,
                _baseline_name(text, baseline, own, plans[0].num_tasks, tasks, config),
                num_steps=getattr(baseline, "num_steps", 0),
            )
        )
    config.disturbances.require_effect(tasks, tasks.horizon)
    noise = config.disturbances.reward_noise
    exact = [plan.agent for plan in plans if getattr(plan.adapter, "exact_rewards", False)]
    if noise and exact:
        raise bad_option("--reward-noise", noise, f"0 with {exact[0]}, which needs exact rewards")
    for plan in plans if config.change_task_after else ():
        require_change(config.change_task_after or 0, plan.shape)
    return plans


def _baseline_labels(baselines: Sequence[str], agents: Sequence[Plan]) -> list[str]:
    """Return labels of baselines: without their options, unless two have the same name.

    The options of all are in the column ``agent`` of the files and in the notes of the table.
    """
    names = [registry.name_of_baseline(text) for text in baselines]
    short = [
        name if names.count(name) == 1 else text
        for name, text in zip(names, baselines, strict=True)
    ]
    taken = {plan.label for plan in agents}
    return [f"{label} (baseline)" if label in taken else label for label in short]


def _baseline_name(
    text: str,
    baseline: Adapter,
    shape: TrialShape,
    num_tasks: int,
    tasks: TaskDistribution,
    config: EvaluateConfig,
) -> str:
    """Return the name of the files of a baseline's evaluation: it says all that matters.

    It ends with a hash of the baseline's name, options and source file, so that a baseline that
    has been changed is evaluated again.
    """
    settings = evaluation_name(
        config.split,
        env=tasks.name,
        tasks=num_tasks,
        episodes=shape.num_episodes,
        seed=config.seed,
        greedy=config.greedy,
        greedy_copy=config.score == "greedy-copy",
        best=False,
        conditions=config.conditions(),
    )
    rounds = f"-rounds-{shape.num_rounds}" if shape.num_rounds > 1 else ""
    return f"{settings}{rounds}-{tame(text)}-{short_hash(text + _source(baseline))}"


def _source(made: object) -> str:
    """Return the text of the file that an object's class is in; empty if there is none."""
    try:
        return Path(inspect.getfile(type(made))).read_text()
    except (TypeError, OSError, UnicodeDecodeError):
        return ""


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
        curve = measure(
            plan.adapter,
            tasks,
            config,
            envs,
            title=f"{place} {plan.label}",
            num_tasks=plan.num_tasks,
            num_episodes=plan.shape.num_episodes,
        )
        said = {key: expected[key] for key in ("agent", "iteration", "env_steps", "checkpoint")}
        curve = dataclasses.replace(curve, **said)
        summary = {}
        with writings[plan.folder]:
            summary = curve.save(plan.folder, plan.name)
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


def agent_of(plan: Plan) -> Agent:
    """Return the agent of a plan that is of an agent."""
    assert isinstance(plan.adapter, Agent)
    return plan.adapter


def _line(participant: Participant) -> Line:
    kind, label = participant.kind, participant.label
    reference = kind == "untrained"
    named = "untrained" if reference else label
    return Line(named, participant.summary, reference, baseline=kind == "baseline")

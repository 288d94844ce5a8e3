"""What a comparison evaluates: every agent, the same one untrained, and every baseline."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarl import registry
from metarl.errors import bad_option
from metarl.evaluation.comparison import Kind
from metarl.evaluation.evaluate import evaluation_shape
from metarl.experience.agent import Adapter, Agent, TrialShape
from metarl.experience.changes import require_change
from metarl.options import with_options
from metarl.running.checkpoints import Checkpoint
from metarl.running.evaluate import UNTRAINED_TASKS, EvaluateConfig, name_evaluation
from metarl.running.folders import evaluation_name, short_hash, tame
from metarl.running.labels import labels_of, source_of_run
from metarl.running.run import Run
from metarl.tasks.distribution import TaskDistribution


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
            run.results / "evaluation",
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
    folder = config.output or runs[0].results / "comparison"
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


def agent_of(plan: Plan) -> Agent:
    """Return the agent of a plan that is of an agent."""
    assert isinstance(plan.adapter, Agent)
    return plan.adapter

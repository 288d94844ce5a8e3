"""Draw what a run's agent knows while it acts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np

from metarl.console import console
from metarl.errors import bad_option
from metarl.evaluation.insight import Insights, watch_insight
from metarl.evaluation.insight_plots import plot_insight
from metarl.experience.rollout import torch_threads
from metarl.running.evaluate import EvaluateConfig, Writing, name_evaluation
from metarl.running.machine import check_device
from metarl.running.probe import refuse_impossible
from metarl.running.run import Run
from metarl.tasks.distribution import TaskDistribution

DEFAULT_TASKS = 3
"""The number of tasks, unless the options say another one."""

MOST_TASKS = 20
"""The largest number of tasks, each of which gets a picture."""


@torch_threads(1)
def draw_insight(
    run: Run, config: EvaluateConfig | None = None, *, tasks: TaskDistribution | None = None
) -> Insights:
    """Draw what a run's agent knows at every step of a few trials.

    The files in the folder ``evaluation`` of the run have the name of an evaluation with these
    settings and ``-insight`` behind it: a picture for each task, such as
    ``test-tasks-3-insight-1.png``, and the arrays, ``test-tasks-3-insight.npz``.

    Args:
        run: the run whose agent is watched.
        config: the options.
        tasks: other tasks of the same spaces, by default the run's own.

    Raises:
        UserError: for anything that cannot work, before any work is done.
        OSError: if the files cannot be written.
    """
    config = config or EvaluateConfig()
    config = replace(config, evaluation_tasks=config.evaluation_tasks or DEFAULT_TASKS)
    assert config.evaluation_tasks is not None
    if config.evaluation_tasks > MOST_TASKS:
        accepted = f"at most {MOST_TASKS} together with --insight"
        raise bad_option("--evaluation-tasks", config.evaluation_tasks, accepted)
    refuse_impossible(config, "--insight", ("official", "video", "score"))
    check_device(config.device)
    tasks = tasks or run.make_tasks()
    run.require_spaces(tasks)
    saved = run.checkpoint(config.checkpoint)
    agent = run.make_agent(config.device)
    saved.load_into(agent)
    name, _ = name_evaluation(run, agent, tasks, config)
    insights = watch_insight(
        agent,
        tasks,
        split=config.split,
        num_tasks=config.evaluation_tasks,
        num_episodes=config.episodes_per_trial,
        seed=config.seed,
        greedy=config.greedy,
        workers=config.workers,
    )
    folder = config.output or run.results / "evaluation"
    writing = Writing(folder)
    with writing:
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {"boundary": insights.boundary, "valid": insights.valid, "reward": insights.reward}
        described = json.dumps([task.to_json() for task in insights.tasks])
        known = {f"insight.{key}": x for key, x in insights.known.items()}
        content: dict[str, Any] = {"tasks": np.array(described), **arrays, **known}
        np.savez_compressed(folder / f"{name}-insight.npz", **content)
        for row in range(len(insights.tasks)):
            picture = folder / f"{name}-insight-{row + 1}.png"
            plot_insight(insights, row, picture, f"{run.agent_name} on {tasks.name}")
            console.print(f"picture: {picture}")
    writing.check()
    return insights

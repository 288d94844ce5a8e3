"""Evaluate agents and baselines under more and more of a disturbance."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import closing

from metarl.console import console
from metarl.errors import UserError, bad_option
from metarl.evaluation.comparison import Comparison
from metarl.evaluation.control_plots import plot_robustness
from metarl.evaluation.robustness import Robustness
from metarl.experience.rollout import torch_threads
from metarl.options import with_options
from metarl.running.compare import evaluate_plans, refuse_impossible
from metarl.running.evaluate import EvaluateConfig, Writing, name_evaluation
from metarl.running.machine import check_device
from metarl.running.plans import agent_of, plan_evaluations
from metarl.running.run import Run
from metarl.stepping.disturbances import Disturbances
from metarl.stepping.options import SharedEnvs
from metarl.tasks.distribution import TaskDistribution

NAMES = tuple(field.name for field in dataclasses.fields(Disturbances))
"""The disturbances that can be varied."""


def parse_levels(words: Sequence[str]) -> tuple[str, tuple[float | int, ...]]:
    """Return the name and the levels of a disturbance, as ``--robustness`` takes them.

    Raises:
        UserError: if there is no such disturbance, or if the levels are not two numbers or more
            that differ.

    >>> parse_levels(["observation-noise", "0", "0.1"])
    ('observation_noise', (0.0, 0.1))
    """
    name = words[0].replace("-", "_") if words else ""
    if name not in NAMES:
        raise bad_option("--robustness", name, f"{', '.join(NAMES)}, followed by levels")
    kind = int if name == "action_delay" else float
    try:
        levels = tuple(kind(word) for word in words[1:])
    except ValueError:
        levels = ()
    if len(levels) < 2 or len(set(levels)) < len(levels):
        number = "whole numbers" if kind is int else "numbers"
        got = " ".join(words[1:])
        raise bad_option("--robustness", got, f"two or more {number} that differ, for {name}")
    return name, levels


@torch_threads(1)
def evaluate_robustness(
    runs: Sequence[Run],
    disturbance: str,
    levels: Sequence[float | int],
    config: EvaluateConfig | None = None,
    *,
    baselines: Sequence[str] = (),
    tasks: TaskDistribution | None = None,
) -> Robustness:
    """Evaluate agents and baselines at every level; write a table and a picture.

    Every evaluation is saved like those of a comparison, under a name that says its conditions,
    and read if it exists. The table goes to the folder ``robustness`` of the first run, under a
    name that says the disturbance and its levels too.

    Args:
        runs: the runs whose agents are evaluated.
        disturbance: the name of a disturbance, such as ``observation_noise``.
        levels: its values; differences are to the first.
        config: the options.
        baselines: names of baselines, as :func:`metarl.registry.make_baseline` takes them.
        tasks: other tasks of the same spaces, by default the runs' own, which must be the same.

    Raises:
        UserError: for anything that cannot work, before any work is done.
        OSError: if files cannot be written; the table is printed all the same.
    """
    check_device((config or EvaluateConfig()).device)
    config = refuse_impossible(runs, baselines, config or EvaluateConfig(), tasks)
    if getattr(config.disturbances, disturbance):
        flag = f"--{disturbance.replace('_', '-')}"
        raise UserError(f"{flag}: got a value beside --robustness {disturbance}; accepted: one")
    configs = [with_options(config, **{disturbance: level}) for level in levels]
    tasks = tasks or runs[0].make_tasks()
    for run in runs:
        run.require_spaces(tasks)
    plans = []
    for each in configs:
        made = plan_evaluations(runs, each, baselines, tasks)
        plans.append([plan for plan in made if plan.kind != "untrained"])
    folder = config.output or runs[0].directory / "robustness"
    base = config.output or runs[0].results / "comparison"  # for the curves of baselines
    writings = {path: Writing(path) for path in (folder, base, *(p.folder for p in plans[0]))}
    found = []
    with closing(SharedEnvs(config.workers, tasks)) as envs:
        for level, each, own in zip(levels, configs, plans, strict=True):
            console.print(f"{disturbance.replace('_', ' ')} {level:g}")
            found.append(Comparison(tuple(evaluate_plans(own, tasks, each, envs, writings))))
    result = Robustness(disturbance, tuple(levels), found)
    result.print()
    name, _ = name_evaluation(runs[0], agent_of(plans[0][0]), tasks, config)
    name = "-".join([name, disturbance.replace("_", "-"), *(f"{x:.15g}" for x in levels)])
    with writings[folder]:
        files = result.save(folder, name)
        picture = folder / f"{name}.png"
        plot_robustness(result, picture)
        console.print(f"table: {', '.join(map(str, files))}")
        console.print(f"picture: {picture}")
    for writing in writings.values():
        writing.check()
    return result

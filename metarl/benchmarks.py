"""Records for ``benchmarks/``: what was run, on what, how long it took and what came out."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from metarl import registry, seeding
from metarl.checkpoints import write_json
from metarl.errors import UserError, bad_option, near_matches
from metarl.evaluation import default_slots, evaluate_adaptation, read_summary
from metarl.logging import console, read_metrics
from metarl.rollout import Keys, run_trial, torch_generator, trial_rounds
from metarl.runs import Run, check_device, commit, device_name
from metarl.seeding import Component, Phase


def summarize_runs(directories: Sequence[Path], output: Path, learning_points: int = 25) -> None:
    """Write settings, times, evaluations and thinned learning curves of several runs.

    Args:
        directories: runs that have been evaluated.
        output: a JSON file.
        learning_points: of each learning curve.
    """
    if not directories:
        raise bad_option("RUNS", [], "one run directory or more")
    entries = []
    for directory in directories:
        run = Run.open(directory)
        metrics = read_metrics(directory / "metrics.jsonl")
        if not metrics:
            raise UserError(f"{directory}: has no metrics yet")
        stride = max(1, len(metrics) // learning_points)
        kept = [m for i, m in enumerate(metrics) if (i + 1) % stride == 0 or m is metrics[-1]]
        curve = [{k: m[k] for k in m if not k.startswith("update/")} for m in kept]
        folder = directory / "evaluation"
        entries.append(
            {
                **{k: run.config[k] for k in ("commit", "command", "device", "packages")},
                "agent": run.agent_name,
                "agent_config": run.config["agent_config"],
                "train_config": {**run.config["train_config"], "run_dir": None},
                "train_seconds": sum(m["time/iteration_s"] for m in metrics),
                "test": read_summary(folder / "test.json"),
                "untrained": read_summary(folder / "test-untrained.json"),
                "learning_curve": curve,
            }
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, {"format": 1, "runs": entries})
    console.print(f"{len(entries)} runs: {output}")


def measure_speed(
    env: str,
    agent: str,
    *,
    config: Mapping[str, str],
    iterations: int,
    evaluation_tasks: int,
    device: str,
    threads: int,
    output: Path,
) -> None:
    """Time meta-iterations and an evaluation of an agent.

    Args:
        env: task distribution.
        agent: agent.
        config: fields of the agent's config that are not its defaults, values as JSON.
        iterations: meta-iterations; medians are reported.
        evaluation_tasks: tasks of the evaluation.
        device: where the agent runs.
        threads: torch threads of the meta-update.
        output: a JSON file.
    """
    check_device(device)
    torch.set_num_threads(threads)
    tasks = registry.make(env)
    kind = registry.agent_class(agent)
    agent_config = kind.Config(**_fields(kind.Config, config))
    learner = kind(agent_config, tasks.observation_space, tasks.action_space, device=device)
    adaptations, per_round = trial_rounds(learner, tasks.episodes_per_trial)
    lanes = 1 if learner.sequential else per_round
    envs = tasks.make_vec(default_slots(tasks, learner.tasks_per_update * lanes))
    collect_times, update_times = [], []
    for i in range(iterations + 2):  # two to warm up
        started = time.perf_counter()
        rng = seeding.numpy_generator(0, Phase.TRAIN, Component.TASKS, i)
        batch = tasks.sample(rng, learner.tasks_per_update, "train")
        trial = run_trial(
            learner,
            envs,
            batch,
            num_adaptations=adaptations,
            episodes_per_round=per_round,
            keys=Keys.of(0, Phase.TRAIN, i, len(batch)),
        )
        collected = time.perf_counter()
        learner.update(trial, torch_generator(i))
        collect_times.append(collected - started)
        update_times.append(time.perf_counter() - collected)
    curve = evaluate_adaptation(learner, tasks, num_tasks=evaluation_tasks, greedy=True)
    result: dict[str, Any] = {
        "format": 1,
        "env": env,
        "agent": agent,
        "agent_config": vars(agent_config),
        "commit": commit(),
        "device": device_name(device),
        "threads": threads,
        "iterations": iterations,
        "env_steps_per_iteration": trial.env_steps,
        "collect_seconds_median": statistics.median(collect_times[2:]),
        "update_seconds_median": statistics.median(update_times[2:]),
        "iteration_seconds_median": statistics.median(
            c + u for c, u in zip(collect_times[2:], update_times[2:], strict=True)
        ),
        "evaluation_tasks": evaluation_tasks,
        "evaluation_seconds": curve.seconds,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, result)
    for name, value in result.items():
        if name.endswith(("median", "seconds", "tasks")):
            console.print(
                f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}"
            )


def _fields(kind: Any, given: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of ``given`` in the types of the config's fields."""
    known = {field.name: field.default for field in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for name, text in given.items():
        if name not in known:
            raise UserError(f"--config: unknown setting {name!r}; {near_matches(name, known)}")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            raise bad_option(f"--config {name}", text, "a value as in JSON") from None
        values[name] = tuple(value) if isinstance(value, list) else value
        default = known[name]
        same = (int, float) if isinstance(default, float) else type(default)
        if default is not None and not isinstance(values[name], same):
            raise bad_option(f"--config {name}", text, f"something like {default}")
    return values

"""Measure the baselines without a network on held-out tasks, beside published and exact figures.

python benchmarks/baselines_exact.py --output benchmarks/baselines-exact.json
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import tyro

import metarl
from metarl.files import write_json
from metarl.registry import make_baseline
from metarl.running.machine import commit, device_name

RL2 = "Duan et al., 2016, arXiv 1611.02779: total reward, mean over 1000 instances"
EXACT = "exact"
BANDITS = ("random", "greedy", "epsilon-greedy", "ucb1", "thompson", "gittins")


class Family(NamedTuple):
    """Tasks, how many of them, and the figures that are known of some baselines."""

    env: str
    num_tasks: int
    baselines: tuple[str, ...]
    known: dict[str, float]
    source: str = RL2


def bandit(n: int, k: int, random: float, gittins: float, ucb1: float, thompson: float) -> Family:
    """Return a row of the paper's first table."""
    known = {"random": random, "gittins": gittins, "ucb1": ucb1, "thompson": thompson}
    small = ("bayes-optimal",) if n == 10 else ()
    return Family(f"bandit/n{n}-k{k}", 20_000, (*BANDITS, *small, "oracle"), known)


FAMILIES = [
    bandit(10, 5, 5.0, 6.6, 6.7, 5.7),
    bandit(10, 10, 5.0, 6.6, 6.7, 5.5),
    bandit(10, 50, 5.1, 6.5, 6.6, 5.2),
    bandit(100, 5, 49.9, 78.3, 78.0, 74.7),
    bandit(100, 10, 49.9, 82.8, 82.4, 76.7),
    bandit(100, 50, 49.8, 85.2, 84.3, 64.5),
    Family("mdp/n10", 20_000, ("random", "psrl", "psrl:mean=1"), {"random": 100.1, "psrl": 138.1}),
    Family("mdp/n25", 2000, ("random", "psrl"), {"random": 250.2, "psrl": 408.8}),
    Family("mdp/n50", 2000, ("random", "psrl"), {"random": 499.7, "psrl": 904.4}),
    Family(
        "gridworld",
        21,
        ("random", "bayes-optimal", "oracle"),
        {"bayes-optimal": 37.214, "oracle": 44.286},
        EXACT,
    ),
    Family("navigation", 1000, ("random", "oracle"), {"oracle": 4 * -0.50}, EXACT),
]


@dataclass(frozen=True)
class Options:
    """Options of the measurement."""

    envs: tuple[str, ...] = ()
    """Names of the task distributions to measure (default: all)."""
    output: Path = Path("benchmarks/baselines-exact.json")
    """JSON file to write the results to."""


def measured(family: Family, name: str) -> dict[str, object]:
    """Return a baseline's mean total reward, its standard error and what it took."""
    tasks = metarl.make(family.env)
    started = time.perf_counter()
    baseline = make_baseline(name, tasks, metarl.TrialShape(tasks.episodes_per_trial or 4))
    made = time.perf_counter()
    curve = metarl.evaluate_adaptation(
        baseline, tasks, num_tasks=family.num_tasks, num_episodes=baseline.shape.num_episodes
    )
    each = baseline.shape.num_episodes // len(curve.episodes)
    totals = each * curve.returns.sum(0, dtype=float)
    result = {
        "total": round(float(totals.mean()), 4),
        "standard_error": round(float(totals.std(ddof=1) / len(totals) ** 0.5), 4),
        "known": family.known.get(name),
        "told_task": curve.told_task,
        "seconds_to_make": round(made - started, 2),
        "seconds_to_evaluate": round(time.perf_counter() - made, 2),
    }
    print(f"{family.env} {name}: {result}", flush=True)
    return result


def main(options: Options) -> None:
    """Measure every baseline on every family; write after each family."""
    torch.set_num_threads(1)
    content = {"format": 1, "machine": device_name("cpu"), "families": {}}
    for family in FAMILIES:
        if options.envs and family.env not in options.envs:
            continue
        content["families"][family.env] = {
            "commit": commit(),
            "tasks": family.num_tasks,
            "known": family.source,
            "baselines": {name: measured(family, name) for name in family.baselines},
        }
        write_json(options.output, content)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

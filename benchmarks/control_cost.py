"""What the controls of 200 tasks cost, in evaluations of the same tasks, in one process.

Agents are freshly made: what they have learned changes no step. Each time is the least of five.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import metarl
from metarl.evaluation.controls import control_curves
from metarl.registry import agent_class

NUM_TASKS, REPEATS = 200, 5


def least(function: Callable[[], object]) -> float:
    """Return the least time of several calls, in seconds."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Measure, and print a line for each agent."""
    for env, name in (
        ("bandit/n10-k5", "rl2"),
        ("bandit/n100-k10", "rl2"),
        ("mdp/n10", "rl2"),
        ("navigation", "maml-ppo"),
    ):
        tasks, kind = metarl.make(env), agent_class(name)
        agent = kind(kind.Config(), metarl.TaskSpec.of(tasks), seed=0, device="cpu")
        given = {"num_tasks": NUM_TASKS}
        one = least(partial(metarl.evaluate_adaptation, agent, tasks, **given))
        all_ = least(partial(control_curves, agent, tasks, **given))
        cost = f"own and controls {all_:.3f} s, {all_ / one:.2f}"
        print(f"{env}, {name}: evaluation {one:.3f} s, {cost}")


if __name__ == "__main__":
    main()

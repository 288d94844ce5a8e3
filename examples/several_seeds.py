"""Train with three seeds and estimate the mean over seeds and tasks.

    python examples/several_seeds.py

Every trained agent meets the same held-out bandits. Printed is, for the first and the tenth pull,
the mean of every seed, the mean of all, half of its 95% interval over seeds and tasks, and half of
the interval over tasks alone, which holds for these three agents only. From the command line:

    metarl train rl2 --env bandit/n10-k5 --iterations 50 --seeds 0 1 2
"""

import argparse

import numpy as np

import metarl
from metarl.evaluation.statistics import crossed_mean

SEEDS = (0, 1, 2)


def main(iterations=50, num_tasks=2000):
    """Train one agent a seed, evaluate all on the same tasks, and print estimates."""
    tasks = metarl.make("bandit/n10-k5")
    returns = []
    for seed in SEEDS:
        run = metarl.train(
            "rl2", env=tasks.name, seed=seed, iterations=iterations, evaluation_tasks=100
        )
        # The seed of an evaluation chooses its tasks: 0 for every agent, so that they are paired.
        curve = metarl.evaluate_adaptation(
            metarl.load(run.directory), tasks, num_tasks=num_tasks, seed=0
        )
        returns.append(curve.returns)
    values = np.stack(returns, axis=1)  # [point, seed, task]
    estimate = crossed_mean(values)
    both, alone = estimate.half_width(), estimate.half_width_over_tasks()
    for point, name in ((0, "first pull"), (-1, "tenth pull")):
        each = ", ".join(f"{x:.3f}" for x in values[point].mean(1))
        print(f"{name}: seeds {each}; mean {estimate.mean[point]:.3f}")
        print(f"  over seeds and tasks ±{both[point]:.3f}, over tasks alone ±{alone[point]:.3f}")
    return estimate


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="three seeds and statistics")
    parser.add_argument("--iterations", type=int, default=50)
    main(**vars(parser.parse_args()))

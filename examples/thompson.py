"""Compare a meta-trained agent with Thompson sampling on the same held-out bandits.

    python examples/thompson.py

Thompson sampling and the Gittins index know how bandits are drawn; rl2 has to learn it. Printed are
the training of rl2, the table of all with differences paired by task, and one line each: the reward
of a whole trial of ten pulls, and its difference from rl2's with a 95% interval over tasks.
"""

import argparse

import metarl

BASELINES = ("thompson", "gittins")


def main(iterations=150, evaluation_tasks=2000):
    """Train rl2, evaluate it and the baselines on the same tasks, and print the differences."""
    run = metarl.train("rl2", env="bandit/n10-k5", iterations=iterations)
    comparison = metarl.compare([run], BASELINES, evaluation_tasks=evaluation_tasks)
    for row in comparison.rows:
        line = f"{row['label']}: {row['trial_return']['mean']:.2f} of ten pulls"
        paired = row["total_difference"]
        if paired is not None:
            bounds = f"{paired['low']:.2f} to {paired['high']:.2f}"
            line += f", minus {paired['to']}'s: {paired['mean']:.2f} ({bounds})"
        print(line)
    return comparison


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="rl2 beside Thompson sampling")
    parser.add_argument("--iterations", type=int, default=150)
    main(**vars(parser.parse_args()))

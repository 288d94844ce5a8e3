"""Meta-train rl2 on Meta-World's ML1-reach with a shortened budget.

    python examples/metaworld_reach.py

A task is a goal that cannot be seen. Here episodes have 150 steps instead of 500, a trial 3
episodes instead of 10, and the training 90 000 steps instead of 2 million, so that the program
ends in minutes. Expect a return that rises during training and is above the untrained agent's on
held-out goals, and less success than the published budget brings. Printed are the training, its
evaluation, and how the return has changed. The published budget is one command:

    metarl train rl2 --preset metaworld-rl2-ml1-reach --torch-threads 2
"""

import argparse

import metarl


def main(iterations=20):
    """Train with the preset's settings on shorter trials, and print how the return has changed."""
    run = metarl.train(
        "rl2",
        preset="metaworld-rl2-ml1-reach",
        env="metaworld/ml1-reach:horizon=150",
        episodes_per_trial=3,
        iterations=iterations,
        validation_tasks=10,
        evaluation_tasks=20,
    )
    record = metarl.read_run(run.directory)
    returns = record.metrics["train/return_after"]
    few = max(1, len(returns) // 4)
    first, last = returns[:few].mean(), returns[-few:].mean()
    print(
        f"return of the third episode, means of {few} updates: "
        f"{first:.0f} at the beginning, {last:.0f} at the end"
    )
    success = record.evaluations["test"].success
    print(f"success in the third episode, 20 held-out goals: {success[-1].mean():.2f}")
    return record


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="rl2 on ML1-reach, shortened")
    parser.add_argument("--iterations", type=int, default=20)
    main(**vars(parser.parse_args()))

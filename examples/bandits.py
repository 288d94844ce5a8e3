"""Meta-train RL² on five-armed bandits from Python, and draw its adaptation curve.

    python examples/bandits.py

A task is a bandit, an episode one pull, a trial ten pulls. Printed are the progress of the
training, the table of its evaluation on held-out bandits, and the reward of the first and the tenth
pull; the curve of the trained and of an untrained agent is in bandits.png.
"""

import argparse

import matplotlib.pyplot as plt

import metarl


def main(iterations=150, picture="bandits.png"):
    """Train, print what the first and the tenth pull earn, and draw all pulls."""
    run = metarl.train("rl2", env="bandit/n10-k5", iterations=iterations)
    curves = metarl.read_run(run.directory).evaluations
    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    for name, label in (("test", "rl2"), ("test-untrained", "untrained")):
        curve = curves[name]
        means = curve.returns.mean(1)  # [point, task] -> [point]
        axes.plot(curve.episodes, means, marker="o", label=label)
        print(f"{label}: {means[0]:.2f} in the first pull, {means[-1]:.2f} in the tenth")
    axes.set(xlabel="pulls made", ylabel="reward of a pull", title="held-out bandits")
    axes.legend()
    figure.savefig(picture)
    plt.close(figure)
    print(f"picture: {picture}")
    return curves["test"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="RL² on bandits")
    parser.add_argument("--iterations", type=int, default=150)
    main(**vars(parser.parse_args()))

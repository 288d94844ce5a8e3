"""Train on an environment of your own whose parameters make the tasks.

    cd examples && python own_environment.py

A servo turns towards a target that it sees; how strong its motor is, and in which direction it
turns, is the task and cannot be seen. The agent has to try it out. Printed are the check of the
tasks, the training of rl2, its evaluation, and what its context is worth: the return with its own
context minus that with another task's, which shows whether it adapts.

The same from the command line, in the folder of this file:

    metarl train rl2 --env own_environment:servos --iterations 80
"""

import argparse

import gymnasium as gym
import numpy as np

import metarl


class Servo(gym.Env):
    """Turn to a visible target with a motor of unknown gain."""

    observation_space = gym.spaces.Box(-4.0, 4.0, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, gain):
        self.gain = gain

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.angle, self.target = 0.0, self.np_random.uniform(-1.0, 1.0)
        return np.float32([self.angle, self.target]), {}

    def step(self, action):
        self.angle = float(np.clip(self.angle + self.gain * action[0], -4.0, 4.0))
        return (
            np.float32([self.angle, self.target]),
            -abs(self.angle - self.target),
            False,
            False,
            {},
        )


def servos():
    """Return the tasks: gains of either sign, drawn anew for every split."""
    gains = {"gain": metarl.Uniform(-0.5, 0.5)}
    return metarl.FunctionTasks(lambda task: Servo(**task), gains, horizon=15, episodes_per_trial=3)


def main(iterations=80):
    """Check the tasks, train, and ask whether the agent adapts."""
    metarl.check_task_distribution(servos())
    run = metarl.train("rl2", env="own_environment:servos", iterations=iterations)
    controls = metarl.evaluate_controls(run, env="own_environment:servos", evaluation_tasks=200)
    return controls.verdicts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="rl2 on an environment of your own")
    parser.add_argument("--iterations", type=int, default=80)
    main(**vars(parser.parse_args()))

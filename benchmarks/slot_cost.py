"""What does a slot add to a step? Microseconds beside a bare environment whose step does nothing.

    python benchmarks/slot_cost.py

Eight slots in this process, observations of one Box of eight numbers and of a Dict of three Boxes;
the least of nine turns of 500 steps.
"""

import contextlib
import time

import gymnasium as gym
import numpy as np

import metarl

SLOTS, STEPS, TURNS = 8, 500, 9


def box(size):
    return gym.spaces.Box(-np.inf, np.inf, (size,), np.float64)


class Idle(gym.Env):
    """An environment whose steps do nothing."""

    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, space):
        self.observation_space = space
        self.seen = gym.spaces.unflatten(space, np.zeros(gym.spaces.flatdim(space)))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.seen, {}

    def step(self, action):
        return self.seen, 0.0, False, False, {}


def seconds(step):
    """Return the least time of a slot's step, in seconds."""
    times = []
    for _ in range(TURNS):
        began = time.perf_counter()
        for _ in range(STEPS):
            step()
        times.append((time.perf_counter() - began) / STEPS / SLOTS)
    return min(times)


def main():
    """Print what is measured."""
    parts = {name: box(size) for name, size in (("a", 2), ("b", 4), ("c", 4))}
    for name, space in (("one Box", box(8)), ("a Dict of three Boxes", gym.spaces.Dict(parts))):
        tasks = metarl.FunctionTasks(
            lambda params, space=space: Idle(space),
            {"gain": metarl.Uniform(1, 2)},
            horizon=TURNS * STEPS + 1,
            name="idle",
        )
        batch = tasks.sample(np.random.default_rng(0), SLOTS, "train")
        actions = np.zeros((SLOTS, 2), np.float32)
        bare = [tasks.make(task).env for task in batch]

        def loop(bare=bare, actions=actions):
            for env, action in zip(bare, actions, strict=True):
                env.step(action)

        with contextlib.closing(tasks.make_vec(SLOTS, num_workers=0)) as envs:
            envs.reset(seed=0, options={"tasks": batch})
            ours, own = seconds(lambda envs=envs, a=actions: envs.step(a)), seconds(loop)
        print(f"{name}: {1e6 * (ours - own):.1f} µs ({1e6 * ours:.1f} and {1e6 * own:.1f})")


if __name__ == "__main__":
    main()

"""Compare ``metarl.sb3.vec_env`` with Stable-Baselines3's SubprocVecEnv, in turn in one process.

Both step the same number of half-cheetah/velocity environments with random actions; the episodes
of both end after 200 steps and start again. It prints environment steps a second of every turn and
the ratio of the medians. An array family, which needs no processes, is measured beside DummyVecEnv.

    python benchmarks/sb3_vec_env.py --envs 40 --steps 400 --turns 5
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

import metarl


def speed(envs: VecEnv, steps: int) -> float:
    """Return environment steps a second."""
    rng = np.random.default_rng(0)
    shape = (envs.num_envs, *envs.action_space.shape)
    actions = rng.uniform(-1, 1, (16, *shape)).astype(np.float32)
    if isinstance(envs.action_space, gym.spaces.Discrete):
        actions = rng.integers(envs.action_space.n, size=(16, *shape))
    started = time.perf_counter()
    for step in range(steps):
        envs.step(actions[step % 16])
    return envs.num_envs * steps / (time.perf_counter() - started)


class OwnTasks(gym.Wrapper):
    """What a user of Stable-Baselines3 would write: a new task at every reset."""

    def __init__(self, tasks, number):
        super().__init__(tasks.make())
        self.tasks, self.rng = tasks, np.random.default_rng(number)

    def reset(self, *, seed=None, options=None):
        task = self.tasks.sample(self.rng, 1, "train")[0]
        return self.env.reset(seed=seed, options={"task": task})


def compare(name: str, other: type[VecEnv], number: int, steps: int, turns: int) -> dict:
    """Return the speeds of both in every turn."""
    tasks = metarl.make(name)
    ours = metarl.sb3.vec_env(tasks, number)
    theirs = other([lambda i=i: OwnTasks(tasks, i) for i in range(number)])
    result: dict = {"env": name, "beside": other.__name__, "num_envs": number}
    for key, envs in (("ours", ours), ("theirs", theirs)):
        envs.seed(0)
        envs.reset()
        speed(envs, 20)
        result[key] = []
    for _ in range(turns):
        for key, envs in (("ours", ours), ("theirs", theirs)):
            result[key].append(round(speed(envs, steps)))
    ours.close()
    theirs.close()
    result["ratio"] = statistics.median(result["ours"]) / statistics.median(result["theirs"])
    print(
        f"{name}, {number} environments: {statistics.median(result['ours']):,.0f} steps/s, "
        f"{other.__name__} {statistics.median(result['theirs']):,.0f}: {result['ratio']:.2f} x",
        flush=True,
    )
    return result


def main() -> None:
    """Measure both families."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--envs", type=int, default=40)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    found = [
        compare("half-cheetah/velocity", SubprocVecEnv, given.envs, given.steps, given.turns),
        compare("navigation", DummyVecEnv, given.envs, given.steps, given.turns),
    ]
    if given.output:
        given.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Environments of other people's packages: trained for a few iterations, and how fast they step.

    make thirdparty                      installs the packages, and runs their tests
    python benchmarks/environments.py    in that environment: writes benchmarks/environments.json

Each environment is trained by both agents for two small updates, as typed on the command line. Its
steps per second are those of eight slots of ours in one process, beside those of eight bare
environments that a loop steps in the same process, in turns; the ratio is the median of 21. All
are reset with a seed, as episodes that can be repeated are: some environments take long for it.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import metarl
from metarl.files import write_json
from metarl.running.commandline import run_train
from metarl.stepping.actions import ActionRows

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "thirdparty"))
SLOTS, REPEATS, SECONDS = 8, 21, 0.2
SMALL = {
    "rl2": "--tasks-per-update 4 --num-minibatches 2 --hidden-size 16 --episodes-per-trial 2",
    "maml-ppo": "--tasks-per-update 4 --episodes-per-adaptation 2 --num-adaptations 1",
}
FEW = "--iterations 2 --evaluation-tasks 4 --validation-tasks 4 --num-workers 2"


def trained(agent, name):
    """Train for two updates, and return the agent's return of an episode at the end."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        words = [agent, "--env", name, *SMALL[agent].split(), *FEW.split(), "--run-dir"]
        run_train([*words, f"{folder}/run"])
        curve = metarl.read_run(f"{folder}/run").evaluations["test"]
    return float(curve.returns[-1].mean())


def ours(tasks, batch, actions):
    """Step slots for ever; yield the steps per second of one stretch after another."""
    rows = ActionRows(tasks.action_space)
    steps = [np.stack([rows.row(a) for a in some]) for some in actions]
    with contextlib.closing(tasks.make_vec(SLOTS, num_workers=0)) as envs:
        envs.reset(seed=0, options={"tasks": batch})
        while True:
            count, began = 0, time.perf_counter()
            while (taken := time.perf_counter() - began) < SECONDS:
                _, _, terminated, truncated, _ = envs.step(steps[count % len(steps)])
                count += 1
                if (ended := terminated | truncated).any():
                    envs.reset(options={"reset_mask": ended})
            yield SLOTS * count / taken


def bare(tasks, batch, actions):
    """Step the environments inside in a loop for ever; yield the same."""
    made = [tasks.make(task) for task in batch]
    envs = [env.env for env in made]
    age, seed = [0] * SLOTS, 0
    try:
        for env in made:
            env.reset(seed=0)
        while True:
            count, began = 0, time.perf_counter()
            while (taken := time.perf_counter() - began) < SECONDS:
                for i, env in enumerate(envs):
                    _, _, terminated, truncated, _ = env.step(actions[count % len(actions)][i])
                    age[i] += 1
                    if terminated or truncated or age[i] == tasks.horizon:
                        env.reset(seed=(seed := seed + 1))
                        age[i] = 0
                count += 1
            yield SLOTS * count / taken
    finally:
        for env in made:
            env.close()


def measured(package, name):
    """Return what is known of an environment."""
    tasks = metarl.make(name)
    tasks.action_space.seed(0)
    batch = tasks.sample(np.random.default_rng(0), SLOTS, "train")
    actions = [[tasks.action_space.sample() for _ in range(SLOTS)] for _ in range(20)]
    inside = contextlib.closing(bare(tasks, batch, actions))
    with contextlib.closing(ours(tasks, batch, actions)) as own, inside as other:
        pairs = list(itertools.islice(zip(own, other, strict=True), REPEATS))
    own, other = (statistics.median(x) for x in zip(*pairs, strict=True))
    return {
        "package": package,
        "env": name,
        "steps_per_second": own,
        "bare_steps_per_second": other,
        "ratio": statistics.median(a / b for a, b in pairs),
        **{agent: trained(agent, name) for agent in SMALL},
    }


def main():
    """Measure every environment, or those whose names contain the words given."""
    from test_packages import NAMED

    rows = []
    for package, name in NAMED:
        if all(word in name for word in sys.argv[1:]):
            rows.append(measured(package, name))
            print(json.dumps(rows[-1]), flush=True)
    if not sys.argv[1:]:
        write_json(ROOT / "benchmarks" / "environments.json", {"rows": rows})


if __name__ == "__main__":
    main()

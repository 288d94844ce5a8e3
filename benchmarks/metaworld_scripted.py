"""Evaluate Meta-World's scripted policies, which are told the goal, on the held-out goals.

python benchmarks/metaworld_scripted.py reach push --output benchmarks/metaworld-scripted.json
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from metaworld.policies import ENV_POLICY_MAP
from tyro.conf import Positional

import metarl
from metarl.files import write_json
from metarl.running.machine import commit


@dataclass(frozen=True)
class Options:
    """Options of the evaluation of scripted policies."""

    classes: Positional[tuple[str, ...]]
    """Names of the classes to evaluate, without version, such as reach and push."""
    output: Path = Path("benchmarks/metaworld-scripted.json")
    """JSON file to write the results to."""


def main(options: Options) -> None:
    """Run one episode on each goal; print and write each class's mean return and success."""
    result = {}
    for name in options.classes:
        tasks = metarl.make(f"metaworld/ml1-{name}")
        returns, successes = [], []
        for task in tasks.tasks("test"):
            env, policy = tasks.make_official(task), ENV_POLICY_MAP[task["cls"]]()
            observation, _ = env.reset()
            total, success = 0.0, False
            for _ in range(tasks.horizon):
                told = np.concatenate([observation[:36], env.unwrapped._target_pos])
                action = np.clip(policy.get_action(told), -1, 1)
                observation, reward, _, _, info = env.step(action.astype(np.float32))
                total += float(reward)
                success |= bool(info["success"])
            returns.append(total)
            successes.append(success)
            env.close()
        result[name] = {
            "goals": len(returns),
            "return": float(np.mean(returns)),
            "success": float(np.mean(successes)),
        }
        print(f"{name}: return {np.mean(returns):.0f}, success {np.mean(successes):.2f}")
    write_json(options.output, {"format": 1, "commit": commit(), "classes": result})


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

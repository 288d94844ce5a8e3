"""Evaluate Meta-World's scripted policies, which are told the goal, on the held-out goals.

python benchmarks/metaworld_scripted.py reach push --output benchmarks/metaworld-scripted.json
"""

from dataclasses import dataclass
from pathlib import Path

import tyro
from tyro.conf import Positional

import metarl
from metarl.files import write_json
from metarl.registry import make_baseline
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
        scripted = make_baseline("scripted", tasks, metarl.TrialShape(1))
        curve = metarl.evaluate_adaptation(scripted, tasks, num_episodes=1)
        result[name] = {
            "goals": curve.returns.shape[1],
            "return": float(curve.returns.mean()),
            "success": float(curve.success.mean()),
        }
        print("{0}: return {return:.0f}, success {success:.2f}".format(name, **result[name]))
    write_json(options.output, {"format": 1, "commit": commit(), "classes": result})


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

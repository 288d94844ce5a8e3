"""Compare the speed of two versions of this project, iteration by iteration.

Give it the folders of two clones. For each of six short trainings it starts one process of either
version on this interpreter, with one thread of torch, and lets only one of them run at a time:
it trains one iteration, then it is stopped (SIGSTOP) and the other goes on. So both meet the same
moods of the machine. It prints the median milliseconds of an iteration and of an update, and the
median of the ratios of neighbouring iterations. Run it on an idle machine.

    git clone . /tmp/old && git -C /tmp/old checkout 94870e9
    python benchmarks/in_turn.py /tmp/old .
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

RUNS = {
    "rl2, bandit/n10-k5": ("rl2 --env bandit/n10-k5 --tasks-per-update 200 --iterations 1000", 60),
    "rl2 with memory, mdp/n10": (
        "--preset rl2-mdp-n10 --tasks-per-update 60 --iterations 1000",
        16,
    ),
    "rl2, half-cheetah/velocity": (
        "--preset rl2-half-cheetah-velocity --tasks-per-update 8 --iterations 1000 --num-workers 2",
        10,
    ),
    "rl2, ml1-push of 50 steps": (
        "--preset metaworld-rl2-ml1-push --env metaworld/ml1-push:horizon=50 "
        "--env-steps 1000000000 --num-workers 2",
        4,
    ),
    "maml-ppo, navigation": (
        "maml-ppo --env navigation --tasks-per-update 10 --iterations 1000",
        10,
    ),
    "maml-ppo, half-cheetah/direction": (
        "--preset maml-ppo-half-cheetah-direction --tasks-per-update 4 --iterations 1000 "
        "--num-workers 2",
        10,
    ),
}
"""The words of train.py, and how many iterations of each version are compared."""
COMMON = (
    "--seed 0 --validation-interval 1000000 --validation-tasks 2 --no-check "
    "--checkpoint-seconds 100000"
)


def iterations(code: Path, words: str, run: Path) -> Iterator[tuple[float, float]]:
    """Train, and yield the seconds of every iteration and of its update; stopped in between."""
    command = [sys.executable, "scripts/train.py", *words.split(), *COMMON.split()]
    process = subprocess.Popen(
        [*command, "--run-dir", str(run)],
        cwd=code,
        env=os.environ | {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    metrics, lines, steps = run / "metrics.jsonl", 0, 0
    rows: list[bytes] = []
    try:
        while True:
            began = time.perf_counter()
            while len(rows) <= lines:
                if metrics.exists():
                    rows = [
                        row for row in metrics.read_bytes().splitlines(True) if row.endswith(b"\n")
                    ]
                if process.poll() is not None:
                    raise SystemExit(f"{' '.join(command)} in {code} ended ({process.returncode})")
                time.sleep(0.0005)
            took = time.perf_counter() - began
            process.send_signal(signal.SIGSTOP)
            row, lines = json.loads(rows[-1]), len(rows)
            # The row's own clock may have run while the process was stopped, not in the update.
            before, steps = steps, row["env_steps"]
            yield took, row["time/update_share"] * (steps - before) / row["time/env_steps_per_s"]
            process.send_signal(signal.SIGCONT)
    finally:
        process.kill()
        process.wait()


def neighbours(old: Path, new: Path, words: str, number: int) -> list[list[tuple[float, float]]]:
    """Return what one iteration of either version took, ``number`` times."""
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        versions = [
            iterations(code, words, Path(folder) / side)
            for code, side in ((old, "old"), (new, "new"))
        ]
        for version in versions:
            for _ in range(2):  # the first iterations warm up
                next(version)
        for turn in range(number):
            order = versions if turn % 2 == 0 else versions[::-1]
            both = [next(version) for version in order]
            pairs.append(both if turn % 2 == 0 else both[::-1])
        for version in versions:
            version.close()
    return pairs


def main() -> None:
    """Print one line a training."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--only", default="", help="a part of the names of the trainings to run")
    parser.add_argument("--repeats", type=int, default=3, help="pairs of processes a training")
    given = parser.parse_args()
    columns = f"{'new':>9}{'ratio':>8}"
    print(f"{'':34}{'iteration: old':>16}{columns}{'update: old':>14}{columns}")
    for name, (words, number) in RUNS.items():
        if given.only not in name:
            continue
        pairs = [
            pair
            for _ in range(given.repeats)  # A process can be slow for as long as it lives.
            for pair in neighbours(given.old.resolve(), given.new.resolve(), words, number)
        ]
        line = f"{name:34}"
        for part, width in ((0, 16), (1, 14)):
            old, new = (
                [1000 * version[part] for version in both] for both in zip(*pairs, strict=True)
            )
            ratio = statistics.median(b / a for a, b in zip(old, new, strict=True))
            line += f"{statistics.median(old):{width}.1f}{statistics.median(new):9.1f}{ratio:8.3f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()

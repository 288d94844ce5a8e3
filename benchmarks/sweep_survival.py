"""Is a sweep that is killed twice and started again the same as its uninterrupted runs?

    python benchmarks/sweep_survival.py

A sweep of 2 learning rates × 2 sizes × 2 seeds is started by one command, killed by SIGKILL at two
random moments, and started again by the same command each time. The first kill takes all of its
processes at once, as a machine that is switched off does; the second takes the sweep alone, whose
runs then have to stop by themselves. Every run is compared with its twin, which ``metarl train``
made in one piece: the newest checkpoint byte by byte, the metrics but for times and memory, and the
evaluations with every task's values.
"""

import contextlib
import io
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
import psutil

from metarl.running.auto import run_train
from metarl.running.listing import blocks_below
from metarl.running.manifest import read_sweep
from metarl.running.metrics import read_metrics
from metarl.running.sweep import run_sweep

OPTIONS = (
    "rl2 --env bandit/n10-k5 --tasks-per-update 10 --iterations 20 --validation-tasks 20 "
    "--evaluation-tasks 200 --checkpoint-interval 3"
)
GRID = ("learning-rate=1e-3,3e-4", "hidden-size=16,32")
SEEDS = (0, 1)
OUTPUT = Path(__file__).with_name("sweep-survival.json")
_METARL = "from metarl.__main__ import main; main()"
_MARK = "METARL_SWEEP_SURVIVAL"


def start(words, folder, mark, python=sys.executable):
    """Start a command of metarl in a folder; all that it starts has a mark in its environment."""
    return subprocess.Popen(
        [python, "-c", _METARL, *words],
        cwd=folder,
        env=os.environ | {_MARK: mark, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def marked(mark):
    """Return the processes with a mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(_MARK) == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


def logged(folder):
    """Return how many iterations the runs in a folder have logged."""
    return sum(file.read_bytes().count(b"\n") for file in folder.glob("*/*/metrics.jsonl"))


def survive(words, folder, kills, python=sys.executable):
    """Run a sweep's command, kill it after given numbers of iterations of all runs, and finish it.

    Args:
        words: the words after ``metarl``; the sweep is in the folder ``sweep`` of ``folder``.
        folder: where the command runs.
        kills: pairs of a number of iterations and whether all processes are killed.
        python: the interpreter.

    Returns:
        How many runs were finished before each start, and the output of the last command.
    """
    finished = []
    for iterations, everything in kills:
        finished.append(number_finished(folder))
        mark = str(uuid.uuid4())
        sweep = start(words, folder, mark, python)
        while logged(folder / "sweep") < iterations and sweep.poll() is None:
            time.sleep(0.01)
        assert sweep.poll() is None, sweep.communicate()[0]
        for process in marked(mark) if everything else ():
            process.kill()
        sweep.send_signal(signal.SIGKILL)
        sweep.communicate()
    finished.append(number_finished(folder))
    last = start(words, folder, str(uuid.uuid4()), python)
    output = last.communicate()[0]
    assert last.returncode == 0, output
    return finished, output


def make_twins(words, folder):
    """Train every run of a sweep's command in one piece, in this process."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        run_sweep([*words[1:], "--run-dir", str(folder), "--print-commands"])
    for command in printed.getvalue().splitlines():
        typed = shlex.split(command)
        run_train(typed[typed.index("train") + 1 :])


def number_finished(folder):
    blocks = blocks_below(folder / "sweep") if (folder / "sweep").exists() else ()
    return sum(state.state == "finished" for block in blocks for state in block.states)


def differences(run, twin):
    """Return what differs between two run directories, in words."""
    found = []
    newest = [max((each / "checkpoints").iterdir()) for each in (run, twin)]
    if newest[0].name != newest[1].name:
        found.append("iteration")
    for name in ("agent.safetensors", "checkpoint.json"):
        if (newest[0] / name).read_bytes() != (newest[1] / name).read_bytes():
            found.append(name)
    lines = [
        [
            {k: v for k, v in line.items() if not k.startswith(("time/", "memory/"))}
            for line in read_metrics(each / "metrics.jsonl")
        ]
        for each in (run, twin)
    ]
    if lines[0] != lines[1]:
        found.append("metrics.jsonl")
    for name in ("test", "test-untrained"):
        summaries = [
            json.loads((x / "evaluation" / f"{name}.json").read_text()) for x in (run, twin)
        ]
        if summaries[0] | {"seconds": 0} != summaries[1] | {"seconds": 0}:
            found.append(f"{name}.json")
        arrays = [np.load(each / "evaluation" / f"{name}.npz") for each in (run, twin)]
        same = arrays[0].files == arrays[1].files
        if not (same and all(np.array_equal(arrays[0][k], arrays[1][k]) for k in arrays[0].files)):
            found.append(f"{name}.npz")
    return found


def main(seed=0, python=sys.executable):
    words = ["sweep", *OPTIONS.split(), "--grid", *GRID, "--seeds", *map(str, SEEDS)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_twins(words, folder / "twins")
        total = logged(folder / "twins")
        rng = random.Random(seed)
        moments = sorted(rng.sample(range(1, total), 2))
        words += ["--run-dir", "sweep"]
        kills = list(zip(moments, (True, False), strict=True))
        finished, _ = survive(words, folder, kills, python)
        found = {
            str(run.directory.relative_to(folder / "sweep")): differences(
                run.directory, folder / "twins" / run.directory.relative_to(folder / "sweep")
            )
            for run in read_sweep(folder / "sweep")
        }
    content = {
        "format": 1,
        "command": " ".join(["metarl", *words]),
        "iterations_of_all_runs": total,
        "killed_after_iterations": moments,
        "runs_finished_before_each_start": finished,
        "differences_from_uninterrupted_twins": found,
    }
    OUTPUT.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content, indent=1))
    assert len(found) == 8 and not any(found.values())


if __name__ == "__main__":
    main()

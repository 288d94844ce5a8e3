"""Every example does what its first lines say."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from averaging import Averager
from mazes import mazes

import metarl
from metarl.evaluation.evaluate import evaluate_adaptation
from metarl.options import with_options
from metarl.running.run import Run
from metarl.running.settings import TrainConfig
from metarl.running.training import meta_train

EXAMPLES = Path(__file__).parents[1] / "examples"


def make(tasks, **values):
    return Averager(Averager.Config(**values), metarl.TaskSpec.of(tasks), seed=0, device="cpu")


def test_averaging_is_under_sixty_lines():
    lines = (EXAMPLES / "averaging.py").read_text().splitlines()
    assert len([line for line in lines if line]) < 60


def test_averaging_keeps_the_contract_of_agents():
    for name in ("bandit/n4-k3", "mdp/n3"):
        tasks = metarl.make(name)
        metarl.check_agent(make(tasks), tasks)
    with pytest.raises(metarl.errors.UserError, match="Averager: got action space Box"):
        make(metarl.make("navigation"), episodes_per_trial=2)


@pytest.mark.learning
def test_averaging_learns_to_learn_bandits(tmp_path):
    """Random pulls earn 5.0 of 10, Gittins indices 6.66 (RL², table 1)."""
    tasks = metarl.make("bandit/n10-k5")
    agent = make(tasks)
    meta_train(agent, tasks, with_options(TrainConfig(), iterations=150), tmp_path)
    assert evaluate_adaptation(agent, tasks, num_tasks=5000).trial_return.mean() > 6.2


def command(folder, name, text):
    """Write a command into a folder that a test puts on the PATH."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.mark.skipif(sys.platform != "linux", reason="Slurm is for Linux")
def test_a_slurm_job_saves_is_queued_again_and_finishes(tmp_path, quick_python):
    """A Slurm of two commands: it sends the signal to the batch shell, and notes what is queued."""
    program = "import sys; from metarl.__main__ import main; sys.argv[0] = 'metarl'; main()"
    command(tmp_path / "bin", "metarl", f'exec {quick_python} -c "{program}" "$@" $MORE')
    command(tmp_path / "bin", "scontrol", f'echo "$@" >> {tmp_path}/queued')
    (tmp_path / "examples").symlink_to(EXAMPLES)
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "SLURM_ARRAY_JOB_ID": "77",
        "SLURM_ARRAY_TASK_ID": "5",
    }
    small = "--tasks-per-update 8 --validation-tasks 2 --evaluation-tasks 4 --checkpoint-interval 1"
    run = tmp_path / "runs/sweep/learning-rate-0.0003_hidden-size-16/1"
    job = ["bash", "examples/sweep.sbatch"]
    environment["MORE"] = f"{small} --iterations 100000"
    first = subprocess.Popen(job, cwd=tmp_path, env=environment)
    metrics = run / "metrics.jsonl"
    while first.poll() is None and not (metrics.exists() and metrics.read_bytes()):
        time.sleep(0.01)
    first.send_signal(signal.SIGUSR1)
    assert first.wait() == 128 + signal.SIGUSR1
    assert (tmp_path / "queued").read_text() == "requeue 77_5\n"
    last = Run.open(run).checkpoints.iterations()[-1]
    environment["MORE"] = f"{small} --iterations {last + 1}"
    assert subprocess.run(job, cwd=tmp_path, env=environment).returncode == 0
    assert Run.open(run).finished()
    assert (tmp_path / "queued").read_text().count("\n") == 1


def test_a_command_is_stopped_and_started_until_it_has_finished(tmp_path):
    """The third start of a command that counts its starts does not wait any more."""
    script = (
        "import pathlib, time\n"
        "path = pathlib.Path('starts')\n"
        "path.write_text(path.read_text() + 'x' if path.exists() else 'x')\n"
        "time.sleep(60 if len(path.read_text()) < 3 else 0)\n"
    )
    words = [sys.executable, str(EXAMPLES / "preempted.py"), "0.5", sys.executable, "-c", script]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    first, second, third = done.stdout.splitlines()
    assert first.startswith("start 1: stopped by SIGKILL, exit code -9 after ")
    assert second.startswith("start 2: stopped by SIGUSR1, exit code -10 after ")
    assert third.startswith("start 3: ended by itself, exit code 0 after ")


def test_mazes_are_tasks_that_no_two_splits_share():
    tasks = mazes()
    metarl.check_task_distribution(tasks)
    drawn = {
        split: {task["layout"] % 5 for task in tasks.sample(np.random.default_rng(0), 500, split)}
        for split in ("train", "validation", "test")
    }
    assert sum(map(len, drawn.values())) == len(set.union(*drawn.values())) == 5
    (task, other) = tasks.sample(np.random.default_rng(1), 2, "train")
    walls = [tasks.make(each).unwrapped.wall for each in (task, task, other)]
    assert np.array_equal(walls[0], walls[1]) and not np.array_equal(walls[0], walls[2])

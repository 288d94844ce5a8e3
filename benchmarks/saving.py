"""Measure what saving costs beside fast iterations, with an agent that remembers trials.

Every iteration takes 0.1 s (the rest is slept away), has a trial of a given size, and an agent
with a state of a given size. It prints how long the writing of checkpoints and experience took,
and the copies of the state.

    python benchmarks/saving.py --trial 0.3 --state 0.1 --seconds 60 --every 10
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

import metarl
from metarl.experience.agent import TaskSpec
from metarl.options import with_options
from metarl.running import training
from metarl.running.settings import TrainConfig

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from replaying import Replaying, ReplayingConfig  # the tests' off-policy agent

ITERATION = 0.1
"""Seconds of an iteration."""


class Sized(Replaying):
    """Has a state and trials of a given size, and iterations of a given time."""

    state_bytes = pad = 0
    began = 0.0

    def act(self, context, timestep, generator, greedy=False):
        action, record, context = super().act(context, timestep, generator, greedy)
        return action, record | {"pad": torch.full((*action.shape, self.pad), 0.5)}, context

    def update(self, trial, generator, progress):
        self.remember(trial)
        self.logits = self.logits + 0.001
        time.sleep(max(0.0, self.began + ITERATION - time.perf_counter()))
        self.began = time.perf_counter()
        return {}

    def state(self):
        tensors, extra = super().state()
        return tensors | {"large": torch.zeros(self.state_bytes // 4)}, extra

    def load_state(self, tensors, extra):
        super().load_state(tensors, extra)


def timed(owner: type, name: str) -> list[float]:
    """Return a list that gets the seconds of every call of a method from now on."""
    seconds: list[float] = []
    original = getattr(owner, name)

    def call(*args, **options):
        started = time.perf_counter()
        try:
            return original(*args, **options)
        finally:
            seconds.append(time.perf_counter() - started)

    setattr(owner, name, call)
    return seconds


def main() -> None:
    """Train, and print one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trial", type=float, default=0.3, help="megabytes of a trial")
    parser.add_argument("--state", type=float, default=0.1, help="megabytes of the agent's state")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the training")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between checkpoints")
    parser.add_argument("--remembered", type=int, default=300, help="trials that are remembered")
    given = parser.parse_args()
    tasks = metarl.make("bandit/n2-k2")
    agent = Sized(ReplayingConfig(memory=12 * given.remembered), TaskSpec.of(tasks))
    agent.state_bytes, agent.pad = int(1e6 * given.state), int(1e6 * given.trial / 12 / 4)
    config = with_options(
        TrainConfig(),
        env=tasks.name,
        iterations=int(given.seconds / ITERATION),
        validation_interval=10**9,
        validation_tasks=2,
        checkpoint_seconds=given.every,
    )
    saves, copies = timed(training._Saver, "save"), timed(training._Copies, "take")
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        training.meta_train(agent, tasks, config, Path(folder))
        total = time.perf_counter() - started
    during = saves[1:-1]  # without the first, of nothing, and the last, which every run has
    print(
        f"{given.trial:g} MB a trial, {given.state:g} MB of state, {total:.0f} s: "
        f"{len(during)} saves took {100 * sum(during) / total:.2f}% of the time, "
        f"with the last one {100 * sum(saves[1:]) / total:.2f}%, "
        f"{len(copies)} copies {100 * sum(copies) / total:.2f}%"
    )


if __name__ == "__main__":
    main()

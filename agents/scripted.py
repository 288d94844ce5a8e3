"""The scripted policies that come with Meta-World, one for each of its 50 classes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch
from metaworld.policies import ENV_POLICY_MAP
from torch import Tensor

from metarl.experience.agent import TaskSpec, TrialShape
from metarl.experience.bandits import does_not_apply
from metarl.experience.data import Context, Episodes, Record, Timestep
from metarl.seeding import LaneGenerator
from metarl.task import Task
from metarl.tasks.distribution import TaskDistribution

POLICIES: dict[str, Any] = dict(ENV_POLICY_MAP)
CLASSES = list(POLICIES)


class Scripted:
    """Is told a task's class and goal, and acts by the class's scripted policy.

    The policies read the goal from the observation, where Meta-World's benchmarks for
    meta-learning hide it. Here it is put back. An agent that has not been told stays where it is.
    """

    name = "scripted"

    def __init__(
        self, tasks: TaskDistribution, shape: TrialShape, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        self.spec, self.shape, self.device = TaskSpec.of(tasks), shape, device
        example = tasks.sample(np.random.default_rng(0), 1, "train")[0]
        if dict(example.params).get("cls") not in POLICIES:
            raise does_not_apply(self.name, tasks, "tasks of Meta-World")
        self._tasks = tasks
        self._policies = [policy() for policy in POLICIES.values()]

    def begin(self, num_tasks: int) -> Context:
        """Return ``[task, 4]``: the number of the class, -1 if it is not known, and the goal."""
        context = torch.zeros(num_tasks, 4, dtype=torch.float64, device=self.device)
        context[:, 0] = -1
        return context

    def reveal(self, context: Context, tasks: Sequence[Task]) -> Context:
        """Note every task's class, and its goal as a reset of the environment sets it."""
        told = np.zeros((len(tasks), 4))
        env: Any = self._tasks.make()
        with closing(env):
            for row, task in zip(told, tasks, strict=True):
                env.reset(options={"task": task})
                row[0], row[1:] = CLASSES.index(task["cls"]), env.unwrapped.goal
        return torch.from_numpy(told).to(context)

    def act(
        self, context: Context, timestep: Timestep, generator: LaneGenerator, greedy: bool = False
    ) -> tuple[Tensor, Record, Context]:
        """Ask the policies one by one, since each takes one observation at a time."""
        observation = timestep.observation.cpu().double().numpy()
        told, active = context.cpu().numpy(), timestep.active.cpu().numpy()
        action = np.zeros((*active.shape, 4), np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # They warn of every action that is clipped.
            for task, lane in np.argwhere(active & (told[:, :1] >= 0)):
                seen = np.concatenate([observation[task, lane, :36], told[task, 1:]])
                action[task, lane] = self._policies[int(told[task, 0])].get_action(seen)
        return torch.from_numpy(action).clamp(-1, 1).to(self.device), {}, context

    def adapt(self, context: Context, episodes: Episodes, generator: torch.Generator) -> Context:
        """Learn nothing."""
        return context

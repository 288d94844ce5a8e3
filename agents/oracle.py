"""What can be had by an agent that is told its task: the upper line beside adaptation curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from metarl.experience import tabular
from metarl.experience.agent import TaskSpec, TrialShape
from metarl.experience.bandits import does_not_apply, is_bandit
from metarl.experience.data import Context, Episodes, Record, Timestep
from metarl.seeding import LaneGenerator
from metarl.stepping.actions import ActionCodec
from metarl.task import Task
from metarl.tasks.distribution import TaskDistribution

ACCEPTED = (
    "bandits with parameter p, tasks with parameter goal in which actions move an observed point, "
    f"and {tabular.ACCEPTED}"
)


class Oracle:
    """Is told the task and does what is best in it.

    On bandits it pulls the arm with the highest probability. Where an action moves a point that is
    observed, as in navigation, every coordinate goes as far towards the goal's as it can. In
    families such as gridworld the best actions come from value iteration.
    """

    name = "oracle"

    def __init__(
        self, tasks: TaskDistribution, shape: TrialShape, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        self.spec, self.shape, self.device = TaskSpec.of(tasks), shape, device
        self._codec = ActionCodec(tasks.action_space)
        self._follower: tabular.Follower | None = None
        example = tasks.sample(np.random.default_rng(0), 1, "train")[0]
        if is_bandit(tasks) and len(_parameter(example, "p")) == self._codec.size:
            self._parameter = "p"
        elif _moves_a_point(tasks, example):
            self._parameter = "goal"
        else:
            model = tabular.hidden_rewards(tasks)
            if model is None:
                raise does_not_apply(self.name, tasks, ACCEPTED)
            self._follower = tabular.Follower(model, None)
            self.shape = TrialShape(shape.num_episodes)

    def begin(self, num_tasks: int) -> Context:
        """Return a context that :meth:`reveal` fills."""
        if self._follower is not None:
            return self._follower.begin(num_tasks).to(self.device)
        size = self._codec.size
        return torch.zeros(num_tasks, size, dtype=torch.float64, device=self.device)

    def reveal(self, context: Context, tasks: Sequence[Task]) -> Context:
        """Note the best arms, the goals or the numbers of the tasks."""
        if self._follower is not None:
            number = [self._follower.model.tasks[task] for task in tasks]
            context = context.clone()
            context[:, 3] = torch.tensor(number)
            return context
        return torch.tensor([task[self._parameter] for task in tasks]).to(context)

    def act(
        self, context: Context, timestep: Timestep, generator: LaneGenerator, greedy: bool = False
    ) -> tuple[Tensor, Record, Context]:
        """Choose the best action of the task that was revealed."""
        if self._follower is not None:
            context = self._follower.advance(context, timestep)
            return self._follower.actions(context), {}, context
        if self._codec.discrete:
            best = context.argmax(-1, keepdim=True)
            return best.expand(timestep.active.shape).clone(), {}, context
        offset = context[:, None] - timestep.observation.to(context)
        flat = offset.flatten(0, 1).cpu().numpy()
        action = torch.from_numpy(self._codec.taken(self._codec.from_env(flat)))
        return action.reshape(offset.shape).to(self.device), {}, context

    def adapt(self, context: Context, episodes: Episodes, generator: torch.Generator) -> Context:
        """Learn nothing: all is known."""
        return context


def _parameter(task: Task, name: str) -> tuple[Any, ...]:
    """Return a parameter that is a list of numbers, or an empty one."""
    value = dict(task.params).get(name)
    return value if isinstance(value, tuple) else ()


def _moves_a_point(tasks: TaskDistribution, task: Task) -> bool:
    """Return whether an action is added to the observation, which has the goal's coordinates.

    Three steps of an environment tell, the first of which is too long for most bounds.
    """
    goal, space = np.array(_parameter(task, "goal")), tasks.observation_space
    action_space = tasks.action_space
    if not isinstance(space, gym.spaces.Box) or not isinstance(action_space, gym.spaces.Box):
        return False
    if not goal.size or space.shape != goal.shape or action_space.shape != goal.shape:
        return False
    env = tasks.make(task)
    try:
        before, _ = env.reset(seed=0)
        for portion in (1.0, 0.4, -0.7):
            bounds = action_space.high if portion > 0 else -action_space.low
            action = (portion * np.minimum(bounds, 1.0)).astype(action_space.dtype)
            after, _, terminated, truncated, _ = env.step(action)
            if not np.allclose(after - before, action, atol=1e-5):
                return False
            if terminated or truncated:
                break
            before = after
    finally:
        env.close()
    return True

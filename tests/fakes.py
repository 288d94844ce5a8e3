"""Stub agents, beside the toy task distributions of ``counters``."""

import torch
from counters import HIGH, LOW, OBSERVATIONS, ArrayCounterTasks, CounterTasks, counter_task

from metarl import TrialShape

__all__ = [
    "HIGH",
    "LOW",
    "OBSERVATIONS",
    "ArrayCounterTasks",
    "CounterTasks",
    "StubAgent",
    "counter_task",
]


class StubAgent:
    """Acts by the generator and its context, and remembers everything it was shown.

    The context counts the steps of a task and adds up its rewards where acting carries
    knowledge on (``sequential``), or holds the mean return that ``adapt`` saw.
    """

    tasks_per_update = 4

    def __init__(self, sequential, discrete=False, episodes=4):
        self.discrete = discrete
        self.shape = TrialShape(episodes) if sequential else TrialShape(3, 1, sequential=False)
        self.seen = []
        self.weight, self.momentum = torch.zeros(1), torch.zeros(1)

    def begin(self, num_tasks):
        return torch.zeros(num_tasks, 1, 2)

    def act(self, context, timestep, generator, greedy=False):
        self.seen.append(timestep)
        u = torch.zeros(timestep.active.shape) if greedy else self.draw(generator)
        if self.discrete:
            action = (u > 0.5).long()
        else:  # often outside [-1, 1]
            action = torch.stack([3 * u - 1.5, u + self.weight], -1) + 0.01 * context
        record = {"context": context.expand(*timestep.active.shape, 2).clone(), "u": u}
        return (
            action,
            record,
            self.carry_on(context, timestep) if self.shape.sequential else context,
        )

    def draw(self, generator):
        return torch.from_numpy(generator.uniform(1)[..., 0]).float()

    def carry_on(self, context, timestep):
        step = torch.stack([torch.ones_like(timestep.previous_reward), timestep.previous_reward])
        after = context + step.movedim(0, -1)
        return torch.where(timestep.active.unsqueeze(-1), after, context)

    def adapt(self, context, episodes, generator):
        if self.shape.sequential:
            return context
        return context + episodes.metrics["return"].mean(1)[:, None, None]

    def update(self, trial, generator, progress):
        gradient = sum(episodes.reward.sum() for episodes in trial.rounds) / 1000
        self.momentum = 0.5 * self.momentum + gradient.reshape(1)
        self.weight = self.weight + 0.01 * self.momentum
        return {"gradient": float(gradient)}

    def state(self):
        return {"weight": self.weight, "momentum": self.momentum}, {}

    def load_state(self, tensors, extra):
        self.weight, self.momentum = tensors["weight"], tensors["momentum"]

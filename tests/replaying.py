"""A small off-policy agent: it learns from trials that it drew from its memory, as PEARL would."""

from dataclasses import dataclass

import torch

from metarl import TrialShape
from metarl.experience.data import newest_trials


@dataclass(frozen=True)
class ReplayingConfig:
    """Hyper-parameters of the agent."""

    tasks_per_update: int = 6
    """The number of tasks of a meta-batch."""
    memory: int = 72
    """The number of environment steps that are remembered: six trials of 6 tasks and 2 pulls."""


class Replaying:
    """Prefers actions that paid, whatever the task; the past is sampled in every update."""

    Config = ReplayingConfig

    def __init__(self, config, spec, *, seed=0, device="cpu"):
        self.config, self.spec, self.device = config, spec, torch.device(device)
        self.shape = TrialShape(spec.episodes_per_trial)
        self.tasks_per_update = config.tasks_per_update
        self.remembers = config.memory
        generator = torch.Generator().manual_seed(seed)
        self.logits = 0.1 * torch.randn(spec.action_space.n, generator=generator)
        self.momentum = torch.zeros_like(self.logits)
        self.trials = []

    def begin(self, num_tasks):
        return torch.zeros(num_tasks, 3)

    def act(self, context, timestep, generator, greedy=False):
        if greedy:
            return self.logits.argmax().expand(timestep.active.shape), {}, context
        chances = self.logits.softmax(0)
        u = torch.from_numpy(generator.uniform(1)).float()
        action = (u > chances.cumsum(0)[:-1]).sum(-1)
        return action, {"chance": chances[action]}, context

    def adapt(self, context, episodes, generator):
        return context

    def update(self, trial, generator, progress):
        self.remember(trial)
        gradient = torch.zeros_like(self.logits)
        for number in torch.randint(len(self.trials), (4,), generator=generator).tolist():
            stream = self.trials[number].to(self.device).stream()
            chances = self.logits.softmax(0)
            weight = stream.reward * stream.valid / stream.record["chance"].clamp(min=0.1)
            taken = torch.nn.functional.one_hot(stream.action, len(chances)).float()
            gradient += (weight.unsqueeze(-1) * (taken - chances)).mean((0, 1)) / 4
        self.momentum = 0.9 * self.momentum + gradient
        self.logits = self.logits + 0.3 * self.momentum
        return {"gradient": float(gradient.norm())}

    def remember(self, trial):
        self.trials = newest_trials([*self.trials, trial], self.remembers)

    def recall(self, trials):
        self.trials = []
        for trial in trials:
            self.remember(trial)

    def state(self):
        return {"logits": self.logits, "momentum": self.momentum}, {}

    def load_state(self, tensors, extra):
        self.logits, self.momentum = tensors["logits"].clone(), tensors["momentum"].clone()

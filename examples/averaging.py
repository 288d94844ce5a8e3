"""A policy that sees the mean reward of every action so far, meta-trained with REINFORCE."""

from dataclasses import dataclass

import torch
from gymnasium.spaces import Discrete
from torch.nn.functional import one_hot

from metarl.errors import UserError
from metarl.experience.agent import TrialShape, prescribed_episodes
from metarl.learning.distributions import Categorical, choose
from metarl.learning.state import Saved
from metarl.stepping.spaces import observation_size


class Averager:
    @dataclass(frozen=True)
    class Config:
        tasks_per_update: int = 1000
        """Number of trials gathered for one update."""
        episodes_per_trial: int | None = None
        """Number of episodes of a trial (default: what the task distribution prescribes)."""
        learning_rate: float = 0.01
        """Adam's learning rate at the start; it falls linearly to 0."""

    def __init__(self, config, spec, *, seed, device):
        if not isinstance(spec.action_space, Discrete):
            raise UserError(f"Averager: got action space {spec.action_space}; accepted: Discrete")
        self.config, self.spec, self.device = config, spec, device
        self.tasks_per_update, self.n = config.tasks_per_update, int(spec.action_space.n)
        self.shape = TrialShape(config.episodes_per_trial or prescribed_episodes(spec))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            inputs = observation_size(spec.observation_space) + 2 * self.n
            layers = torch.nn.Linear(inputs, 64), torch.nn.Tanh(), torch.nn.Linear(64, self.n)
            self.net = torch.nn.Sequential(*layers).to(device)
        self.adam = torch.optim.Adam(self.net.parameters(), config.learning_rate)
        self.saved = Saved({"net": self.net}, optimizers={"adam": self.adam})

    def begin(self, num_tasks):
        return torch.zeros(num_tasks, 2, self.n, device=self.device)  # sums of rewards, counts

    @torch.no_grad()
    def act(self, context, timestep, generator, greedy=False):
        hot = one_hot(timestep.previous_action[:, 0].long(), self.n)
        hot = hot * (timestep.active & ~timestep.trial_start)
        context = context + torch.stack([hot * timestep.previous_reward, hot], 1)
        sums, count = context[:, None].unbind(2)
        x = torch.cat([timestep.observation, sums / count.clamp(min=1), count.log1p()], -1)
        return choose(Categorical(self.net(x)), generator, greedy), {"x": x}, context

    def adapt(self, context, episodes, generator):
        return context

    def update(self, trial, generator, progress):
        s = trial.stream()
        to_go = (s.reward * s.valid).flip(1).cumsum(1).flip(1)
        gain = (to_go - to_go.sum(0) / s.valid.sum(0)) * s.valid  # minus the batch's mean
        log_prob = self.net(s.record["x"]).log_softmax(-1).gather(-1, s.action[..., None])[..., 0]
        loss = -(log_prob * gain).sum() / s.valid.sum()
        self.adam.param_groups[0]["lr"] = self.config.learning_rate * (1 - progress)
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        return {"loss": loss.item()}

    def state(self):
        return self.saved.tensors(), {}

    def load_state(self, tensors, extra):
        self.saved.load(tensors)

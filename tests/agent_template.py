"""The smallest agent that learns to adapt: a GRU trained by REINFORCE. Copy it, and change it."""

from dataclasses import dataclass, field

import torch

from metarl import TrialShape
from metarl.learning import cores, distributions, heads, returns, state
from metarl.stepping.actions import ActionCodec
from metarl.stepping.spaces import observation_size


@dataclass(frozen=True)
class ReinforceConfig:
    tasks_per_update: int = 200
    """Number of trials gathered for one update, each with a task of its own."""
    core: cores.CoreConfig = field(default_factory=cores.CoreConfig)
    """The recurrent network that remembers a trial."""
    learning_rate: float = 0.01
    """Adam's learning rate."""


class Reinforce:
    Config = ReinforceConfig

    def __init__(self, config, spec, *, seed=0, device="cpu"):
        self.config, self.spec, self.tasks_per_update = config, spec, config.tasks_per_update
        self.shape, self.device = TrialShape(spec.episodes_per_trial or 2), torch.device(device)
        self.codec, size = ActionCodec(spec.action_space), observation_size(spec.observation_space)
        made_of = size, self.codec, torch.Generator().manual_seed(seed)
        steps = self.shape.num_episodes * spec.horizon
        self.core = cores.make_core(config.core, *made_of, steps).to(device)
        self.head = heads.MLP(heads.HeadConfig(), self.core, *made_of, critic=False).to(device)
        parameters = [*self.core.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.Adam(parameters, config.learning_rate)
        modules = {"core": self.core, "head": self.head}
        self.saved = state.Saved(modules, optimizers={"optimizer": self.optimizer})

    def begin(self, num_tasks):  # The core's state is the context.
        return self.core.begin(num_tasks)

    def inputs(self, seen):
        return cores.core_inputs(seen.observation, seen.previous_reward, seen, self.codec)

    @torch.no_grad()
    def act(self, context, timestep, generator, greedy=False):  # One lane per task.
        step = type(timestep)(*(x.to(self.device) for x in timestep))
        inputs, active = self.inputs(step).squeeze(1), step.active.squeeze(1)
        summary, context = self.core.step(inputs, context, active)
        distribution = self.head(summary.unsqueeze(1), step.observation).distribution
        return distributions.choose(distribution, generator, greedy), {}, context

    def adapt(self, context, episodes, generator):
        return context  # Acting has carried it on.

    def update(self, trial, generator, progress):
        seen = trial.to(self.device).stream()  # [task, time, …], episodes joined
        first = torch.zeros(len(seen.valid), dtype=torch.long)  # Whole trials begin at step 0.
        summary = self.core.sequence(self.inputs(seen), self.core.recomputed(first))
        distribution = self.head(summary, seen.observation).distribution
        value = returns.discounted_returns(seen.reward, seen.valid, 0.9)
        advantage = returns.normalize(value - value.mean(0), seen.valid)
        log_prob = distributions.log_prob(distribution, seen.action)
        loss = -returns.masked_mean(log_prob * advantage, seen.valid)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.item()}

    def state(self):
        return self.saved.tensors(), {}

    def load_state(self, tensors, extra):
        self.saved.load(tensors)

"""RL²: a policy with memory, which is the learner (Duan et al., 2016, 1611.02779).

A core sees (observation, previous action, previous reward, boundary) and keeps its state through
all episodes of a trial; PPO (Schulman et al., 2017, 1707.06347) trains it on the return of the
whole trial. The agent adapts to a task merely by acting in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from metarl.constraints import AtLeast, Between, validate
from metarl.errors import require
from metarl.experience.agent import TaskSpec, TrialShape, prescribed_episodes
from metarl.experience.data import Context, Episodes, Metrics, Record, Timestep, Trial
from metarl.experience.sequences import SequencePolicy
from metarl.experience.traits import has_continuous_actions, kind_of, number_for
from metarl.learning.cores import CoreConfig
from metarl.learning.distributions import choose, from_record, log_prob
from metarl.learning.encoders import EncoderConfig
from metarl.learning.heads import HeadConfig
from metarl.learning.losses import require_finite
from metarl.learning.normalization import ValueNormalizer
from metarl.learning.ppo import Batch, PPOConfig, optimize
from metarl.learning.returns import advantages, explained_variance, linear_values, normalize
from metarl.learning.state import Saved
from metarl.search import Tuned
from metarl.seeding import LaneGenerator


@dataclass(frozen=True)
class RL2Config:
    """Hyper-parameters of RL²; the defaults are for Bernoulli bandits.

    >>> config = metarl.RL2Config(tasks_per_update=100, core=CoreConfig(hidden_size=128))
    >>> config.core.hidden_size, config.ppo.num_epochs
    (128, 4)
    """

    tasks_per_update: Annotated[int, AtLeast(1)] = 1000
    """Number of tasks in a meta-batch; each is met in one trial."""
    episodes_per_trial: Annotated[int, AtLeast(1)] | None = None
    """Number of episodes in a trial (default: what the task distribution prescribes)."""
    normalize_observations: bool = False
    """Normalise observations by the mean and variance of all training steps so far."""
    observed_reward_scale: float = 1.0
    """Factor on the reward in the policy's input; the reward it is trained on is not scaled."""
    discount: Annotated[float, Between(0, 1)] = 0.99
    """Discount factor (gamma) per step, across the episodes of a trial."""
    gae_lambda: Annotated[float, Between(0, 1), Tuned(0.0, 1.0)] = 0.6
    """GAE lambda of the advantage estimates, across the episodes of a trial."""
    value_lambda: Annotated[float, Between(0, 1)] | None = None
    """GAE lambda of the critic's targets (default: --gae-lambda). With a small lambda, targets come
    mostly from the critic itself, so that it learns slowly in the first tens of updates."""
    baseline: Literal["critic", "linear"] = "critic"
    """Value function behind the advantages: `critic` is an output of the network; `linear` is a
    linear function of observation and time, fitted to each trial (as in Meta-World's RL²)."""
    chunk_length: Annotated[int, AtLeast(1)] | None = None
    """Number of steps that gradients flow back through, beside those that attention with a window
    repeats (default: the whole trial)."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The network that sees observations first."""
    core: CoreConfig = field(default_factory=CoreConfig)
    """The network that remembers a trial."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """The layers from what is remembered to the actions."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    """The policy optimisation (PPO) that an update runs."""

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        validate(self)
        sound = self.ppo.num_minibatches <= self.tasks_per_update
        accepted = f"1 to tasks-per-update ({self.tasks_per_update})"
        require(self.ppo, "num_minibatches", sound, accepted)
        cut = self.chunk_length is not None and self.core.needs_whole_trial
        accepted = f"None (--chunk-length None): --core {self.core.kind} sees the whole trial"
        window = "" if self.core.kind == "graph" else ", or --window N"
        require(self, "chunk_length", not cut, accepted + window)

    @classmethod
    def for_tasks(cls, spec: TaskSpec) -> RL2Config:
        """Return settings to start with: about 16,000 steps an update, in trials of two episodes.

        Episodes of one step have the defaults, which are for bandits. Small states, in which a unit
        is not a usual size, are scaled; chunks are the longest through which gradients are stable.
        What a CNN sees takes a layer to turn into actions: without one some seeds learn nothing.
        """
        episodes = spec.episodes_per_trial or (10 if spec.horizon == 1 else 2)
        given = None if spec.episodes_per_trial else episodes
        if kind_of(spec) == "one-step":
            return cls(episodes_per_trial=given)
        steps, continuous = episodes * spec.horizon, has_continuous_actions(spec)
        sizes = (64,) if kind_of(spec) == "images" else ()
        return cls(
            tasks_per_update=number_for(16_000, steps, low=10, high=200),
            episodes_per_trial=given,
            normalize_observations=kind_of(spec) == "vectors",
            observed_reward_scale=0.1 if continuous else 1.0,
            gae_lambda=0.95,
            chunk_length=100 if steps > 200 else None,
            core=CoreConfig(hidden_size=128),
            head=HeadConfig(head_sizes=sizes, initial_std=0.5 if continuous else 1.0),
            ppo=PPOConfig(
                learning_rate=1e-3,
                num_minibatches=4,
                entropy_coefficient=0.001 if continuous else 0.01,
            ),
        )


class RL2:
    """Meta-learns a recurrent policy, whose hidden state is what it knows about a task."""

    Config = RL2Config

    def __init__(
        self, config: RL2Config, spec: TaskSpec, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        self.config, self.spec, self.device = config, spec, torch.device(device)
        self.tasks_per_update = config.tasks_per_update
        self.shape = TrialShape(config.episodes_per_trial or prescribed_episodes(spec))
        generator, critic = torch.Generator().manual_seed(seed), config.baseline == "critic"
        made_for = spec, self.shape, generator, critic, self.device
        self.policy = policy = SequencePolicy(config, *made_for)
        self.encoder, self.core, self.head = policy.encoder, policy.core, policy.head
        self.targets = ValueNormalizer().to(self.device)
        rate = config.ppo.learning_rate
        self.optimizer = torch.optim.Adam(policy.parameters(), rate, eps=1e-5)
        modules = policy.saved() | {"targets": self.targets}
        self.saved = Saved(modules, optimizers={"optimizer": self.optimizer})

    def begin(self, num_tasks: int) -> Context:
        """Return the core's states at the start of a trial."""
        return self.core.begin(num_tasks)

    @torch.no_grad()
    def act(
        self, context: Context, timestep: Timestep, generator: LaneGenerator, greedy: bool = False
    ) -> tuple[Tensor, Record, Context]:
        """Take one step of the core; rows that are not active keep their state."""
        step = Timestep(*(x.to(self.device) for x in timestep))
        (distribution, value), after = self.policy.step(context, step)
        record = distribution._asdict()
        if value is not None:
            record["value"] = self.targets.denormalize(value)
        if self.policy.records:
            record["state"] = context.unsqueeze(1)
        return choose(distribution, generator, greedy), record, after

    def adapt(self, context: Context, episodes: Episodes, generator: torch.Generator) -> Context:
        """Return ``context`` unchanged: ``act`` has already updated it."""
        return context

    def update(self, trial: Trial, generator: torch.Generator, progress: float) -> Metrics:
        """Run PPO on whole trials; each counts as one long episode."""
        config, stream = self.config, trial.to(self.device).stream()
        reward, valid, discount = stream.reward, stream.valid, config.discount
        value = stream.record.get("value")
        if value is None:
            value = linear_values(self.encoder.plain(stream.observation), reward, valid, discount)
        advantage = advantages(reward, value, valid, discount, config.gae_lambda)
        critics = config.gae_lambda if config.value_lambda is None else config.value_lambda
        target = advantages(reward, value, valid, discount, critics) + value
        require_finite("an advantage", advantage, trial.tasks)
        require_finite("a value target", target, trial.tasks)
        self.targets.track(target[valid])
        chunks, inputs = self.policy.cut(stream)
        old = log_prob(from_record(stream.record), stream.action)
        normal = normalize(advantage, valid), self.targets.normalize(target)
        rows = (chunks.cut(x) for x in (stream.action, old, *normal, valid))
        batch = Batch(chunks.task, inputs, *rows)
        learner = self.policy, self.optimizer
        metrics = optimize(*learner, batch, config.ppo, trial.tasks, generator, progress)
        # Last, because the recorded log-probabilities were computed with the old moments.
        self.encoder.track(stream.observation, valid)
        return metrics | {"explained_variance": float(explained_variance(value, target, valid))}

    def insight(self, context: Context) -> dict[str, Tensor]:
        """Return what can be drawn of the core's states."""
        return self.core.insight(context)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the networks, Adam's state and the moments of value targets and observations."""
        return self.saved.tensors(), {"num_updates": self.targets.num_updates}

    def load_state(self, tensors: dict[str, Tensor], extra: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned."""
        self.saved.load(tensors)
        self.targets.num_updates = int(extra["num_updates"])

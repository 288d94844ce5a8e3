"""MAML with a clipped meta-objective (Finn et al., 2017, 1703.03400; ProMP, 1810.06784).

The prior knowledge is a policy's initial parameters; an agent adapts to a task by policy-gradient
steps from them. The meta-gradient goes through those steps, including their second derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metarl.constraints import AtLeast, Between, NotEmpty, NotNegative, Positive, validate
from metarl.errors import bad_option
from metarl.experience.agent import TaskSpec, TrialShape
from metarl.experience.data import Context, Episodes, Metrics, Record, Timestep, Trial
from metarl.experience.traits import has_continuous_actions, kind_of, number_for
from metarl.learning import losses, returns
from metarl.learning.distributions import Distribution, choose
from metarl.learning.encoders import EncoderConfig, make_encoder
from metarl.learning.losses import PolicyBatch
from metarl.learning.networks import Params, PolicyNetwork, initial_params, mlp_policy
from metarl.learning.ppo import descend
from metarl.learning.state import Saved
from metarl.learning.update_rules import SGD, UpdateRule, inner_step
from metarl.search import Tuned, TunedAmong
from metarl.seeding import LaneGenerator
from metarl.stepping.actions import ActionCodec

Rates: TypeAlias = Annotated[tuple[Annotated[float, NotNegative], ...], NotEmpty]
INNER_RATES = [tuple(first / 2**k for k in range(4)) for first in (0.025, 0.05, 0.1, 0.2, 0.5)]
"""The rates of inner steps that tuning tries: each half of the one before."""
Rounds: TypeAlias = Sequence[PolicyBatch]


@dataclass(frozen=True)
class MAMLPPOConfig:
    """Hyper-parameters of MAML-PPO; the defaults are for 2-D navigation.

    >>> metarl.MAMLPPOConfig.for_tasks(metarl.TaskSpec.of(metarl.make("mdp/n10"))).hidden_sizes
    (64, 64)
    """

    tasks_per_update: Annotated[int, AtLeast(1)] = 20
    """Number of tasks in a meta-batch (20 in the MAML paper)."""
    episodes_per_adaptation: Annotated[int, AtLeast(1)] = 20
    """Number of episodes per task that an inner step learns from (20 in the MAML paper)."""
    num_adaptations: Annotated[int, AtLeast(0)] = 2
    """Number of inner steps in training; after training with one, a second step overshoots."""
    inner_learning_rate: Annotated[Rates, TunedAmong(*INNER_RATES)] = (0.1, 0.05, 0.025, 0.0125)
    """Learning rate of each inner step (alpha in MAML's eq. 1); further steps use the last one.
    Normalised advantages make all steps equally long, so that a constant rate overshoots."""
    meta_loss: Literal["every-step", "last-step"] = "every-step"
    """Rounds that the meta-objective averages: `every-step` takes the rounds after all inner steps
    (MAML++, 1810.09502, section 4), `last-step` only the last round."""
    first_order: bool = False
    """Ignore second derivatives: cheaper, but an approximation of the meta-gradient."""
    adapts: Literal["policy", "all"] = "policy"
    """What inner steps change where observations go through a CNN: the `policy` after it (ANIL,
    1909.09157), or `all`, convolutions included."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The network that sees observations first."""
    hidden_sizes: tuple[Annotated[int, AtLeast(1)], ...] = (100, 100)
    """Sizes of the policy's ReLU layers."""
    normalize_observations: bool = False
    """Normalise observations by the mean and variance of all training steps so far."""
    initial_std: Annotated[float, Positive, Tuned(0.2, 2.0, log=True)] = 1.0
    """Initial standard deviation of continuous actions; inner steps adapt it to each task."""
    min_std: Annotated[float, Positive] = 1e-2
    """Lower bound on the standard deviation of continuous actions."""
    discount: Annotated[float, Between(0, 1)] = 0.99
    """Discount factor (gamma) per step of an episode."""
    gae_lambda: Annotated[float, Between(0, 1), Tuned(0.8, 1.0)] = 1.0
    """GAE lambda of the advantage estimates."""
    learning_rate: Annotated[float, Positive, Tuned(1e-4, 1e-2, log=True)] = 1e-3
    """Adam's learning rate on the initial parameters (beta in MAML's algorithm 3)."""
    num_epochs: Annotated[int, AtLeast(1), Tuned(1, 10)] = 5
    """Number of meta-gradient steps on the experience of one update."""
    clip: Annotated[float, Positive, Tuned(0.1, 0.4)] = 0.2
    """Bound on the change of the adapted policy's probability ratio in the meta-objective."""
    kl_coefficient: Annotated[float, NotNegative] = 5e-4
    """Weight of the penalty KL(old ‖ new) on the policies before inner steps (ProMP, eq. 13)."""
    max_gradient_norm: Annotated[float, Positive] = 10.0
    """Largest norm of the meta-gradient; a longer one is scaled down to it."""
    tasks_per_chunk: Annotated[int, AtLeast(1)] | None = None
    """Number of tasks in one pass of the meta-gradient (default: all on a GPU, fewer on a CPU)."""

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        validate(self)

    @classmethod
    def for_tasks(cls, spec: TaskSpec) -> MAMLPPOConfig:
        """Return settings to start with: an inner step, longer on logits, on about 4000 steps."""
        if kind_of(spec) == "one-step":
            return cls(20, 200, 1, (10.0, 5.0), hidden_sizes=())
        return cls(
            episodes_per_adaptation=number_for(4000, spec.horizon, low=10, high=20),
            num_adaptations=1,
            inner_learning_rate=(0.1, 0.05) if has_continuous_actions(spec) else (0.5, 0.25),
            hidden_sizes=(64, 64),
            normalize_observations=kind_of(spec) == "vectors",
            learning_rate=3e-3,
            clip=0.3,
        )


class Adapted(NamedTuple):
    """A context: each task's own parameters, and results of the adaptations so far."""

    params: Params
    """The policy's parameters, with the task as first axis."""
    num_steps: Int[Tensor, " task"]
    """The number of inner steps taken so far."""
    values: tuple[Float[Tensor, "task episode time"], ...] = ()
    """The baseline's values in every round so far, so that ``update`` need not fit it again."""


class MAMLPPO:
    """Adapts to each task by policy-gradient steps; meta-learns the parameters they start from."""

    Config = MAMLPPOConfig

    def __init__(
        self, config: MAMLPPOConfig, spec: TaskSpec, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        self.config, self.spec, self.device = config, spec, torch.device(device)
        self.tasks_per_update = config.tasks_per_update
        self.shape = TrialShape(config.episodes_per_adaptation, config.num_adaptations, False)
        self.codec = ActionCodec(spec.action_space)
        generator, normalize = torch.Generator().manual_seed(seed), config.normalize_observations
        self.encoder = make_encoder(config.encoder, spec, normalize, generator).to(self.device)
        if config.adapts == "all" and not self.encoder.convolves:
            raise bad_option("--adapts", "all", "policy, which is all there is without a CNN")
        given = self.codec, config.initial_std, generator
        params = initial_params(self.encoder.size, config.hidden_sizes, *given)
        head = {name: x.to(self.device).requires_grad_() for name, x in params.items()}
        every = head | self.encoder.own_parameters()
        self.params = every if config.adapts == "all" else head
        self.rule = SGD(config.inner_learning_rate)
        self.optimizer = torch.optim.Adam(every.values(), config.learning_rate, eps=1e-5)
        self.saved = Saved(self.encoder.saved(), {"head": head}, {"optimizer": self.optimizer})

    def begin(self, num_tasks: int) -> Context:
        """Return the initial parameters for every task."""
        params = {name: x.detach().expand(num_tasks, *x.shape) for name, x in self.params.items()}
        return Adapted(params, torch.zeros(num_tasks, dtype=torch.int64, device=self.device))

    @torch.no_grad()
    def act(
        self, context: Context, timestep: Timestep, generator: LaneGenerator, greedy: bool = False
    ) -> tuple[Tensor, Record, Context]:
        """Act with each task's own parameters."""
        stored = self.encoder.stored(timestep.observation.to(self.device))
        distribution = self.policy(context.params, stored)
        return choose(distribution, generator, greedy), distribution._asdict(), context

    def policy(self, params: Params, stored: Tensor) -> Distribution:
        """Return the distributions of each task's own policy at what the encoder has stored."""
        features = self.encoder.features(params, stored)
        return mlp_policy(params, features, self.config.min_std, self.codec)

    def adapt(self, context: Context, episodes: Episodes, generator: torch.Generator) -> Context:
        """Take one policy-gradient step per task (MAML's eq. 1)."""
        support, value = self.batch(episodes.to(self.device))
        loss = partial(losses.inner_loss, support=support, policy=self.policy)
        params = {name: x.detach().requires_grad_() for name, x in context.params.items()}
        params, _ = inner_step(loss, params, self.rule, context.num_steps)
        params = {name: x.detach() for name, x in params.items()}
        return Adapted(params, context.num_steps + 1, (*context.values, value))

    def insight(self, context: Context) -> dict[str, Tensor]:
        """Return each task's parameters, which are all that an adaptation changes."""
        return dict(context.params)

    def update(self, trial: Trial, generator: torch.Generator, progress: float) -> Metrics:
        """Take ``num_epochs`` meta-gradient steps on the initial parameters."""
        config, trial = self.config, trial.to(self.device)
        pairs = [self.batch(*pair) for pair in zip_longest(trial.rounds, trial.context.values)]
        rounds, value, query = [batch for batch, _ in pairs], pairs[-1][1], trial.rounds[-1]
        loss = partial(meta_loss, self.params, policy=self.policy, rule=self.rule, config=config)
        given = loss, rounds, trial.tasks, config.tasks_per_chunk
        step = partial(losses.accumulate_gradient, *given)
        metrics = descend(step, self.optimizer, config.num_epochs, config.max_gradient_norm)
        # Last, because the recorded log-probabilities were computed with the old moments.
        for episodes in trial.rounds:
            self.encoder.track(episodes.observation, episodes.valid)
        target = returns.discounted_returns(query.reward, query.valid, config.discount)
        explained = returns.explained_variance(value, target, query.valid)
        if "log_std" in self.params:
            metrics["policy_std"] = float(self.params["log_std"].detach().exp().mean())
        return metrics | {"explained_variance": float(explained)}

    def batch(self, episodes: Episodes, value: Tensor | None = None) -> tuple[PolicyBatch, Tensor]:
        """Return a round for the losses, and ``value`` or the values of a baseline fitted to it."""
        config, reward, valid = self.config, episodes.reward, episodes.valid
        if value is None:
            plain = self.encoder.plain(episodes.observation)
            value = returns.linear_values(plain, reward, valid, config.discount)
        # The baseline knows the time left, so that the value at the horizon is known to be 0.
        advantage = returns.advantages(reward, value, valid, config.discount, config.gae_lambda)
        stored, record = self.encoder.stored(episodes.observation), episodes.record
        return PolicyBatch.of(stored, episodes.action, record, advantage, valid), value

    def network(self, context: Context) -> PolicyNetwork:
        """Return the policy of the first task, unless it has a CNN; there is no critic."""
        if self.encoder.convolves:
            raise bad_option("agent", "one with a CNN", "--encoder mlp: a CNN is not exported")
        params = {name: x[0].detach() for name, x in context.params.items()}
        return PolicyNetwork(params, self.config.min_std, normalizer=self.encoder.normalizer)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the initial parameters, Adam's state and the moments of the observations."""
        return self.saved.tensors(), {}

    def load_state(self, tensors: dict[str, Tensor], extra: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned."""
        self.saved.load(tensors)


def meta_loss(
    params: Params, rounds: Rounds, policy: losses.Policy, rule: UpdateRule, config: MAMLPPOConfig
) -> losses.TaskLosses:
    """Return each task's loss after its inner steps (ProMP, eq. 12 and 13), and diagnostics.

    The inner steps are repeated from the present initial parameters on the recorded experience,
    so that the gradient flows back through them.
    """
    *supports, query = rounds
    steps = torch.zeros(len(query.valid), dtype=torch.int64, device=query.valid.device)
    own = {name: x.expand(len(steps), *x.shape) for name, x in params.items()}
    penalty, surrogates = torch.zeros(len(steps), device=steps.device), []
    for k, support in enumerate(supports):
        loss = partial(losses.inner_loss, support=support, policy=policy)
        own, before = inner_step(loss, own, rule, steps + k, create_graph=not config.first_order)
        penalty = penalty + losses.task_kl(before, support)
        if config.meta_loss == "every-step" and k > 0:
            surrogates.append(losses.task_surrogate(before, support, config.clip))
    after = policy(own, query.observation)
    surrogates.append(losses.task_surrogate(after, query, config.clip))
    policy_loss = torch.stack(surrogates).mean(0)
    metrics = losses.task_diagnostics(after, query, config.clip)
    metrics |= {"policy_loss": policy_loss.detach(), "kl_before_adaptation": penalty.detach()}
    return policy_loss + config.kl_coefficient * penalty, metrics

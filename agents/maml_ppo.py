"""MAML with a clipped meta-objective (Finn et al., 2017, 1703.03400; ProMP, 1810.06784).

The prior knowledge is a policy's initial parameters and inner learning is a step of policy
gradient per task. The meta-gradient goes through those steps, second derivatives included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metarl.constraints import AtLeast, Between, NotEmpty, NotNegative, Positive, validate
from metarl.errors import DivergenceError
from metarl.experience.agent import TaskSpec, TrialShape
from metarl.experience.data import Context, Episodes, Metrics, Record, Timestep, Trial
from metarl.learning import losses, returns
from metarl.learning.distributions import Distribution, choose, entropy, log_prob
from metarl.learning.losses import PolicyBatch, TaskLosses
from metarl.learning.networks import Params, initial_params, mlp_policy
from metarl.learning.normalization import ObservationNormalizer
from metarl.learning.ppo import clip_gradient
from metarl.learning.state import Saved, renamed
from metarl.learning.update_rules import SGD, UpdateRule, inner_step
from metarl.seeding import LaneGenerator
from metarl.stepping.spaces import ActionCodec, observation_size

Rates: TypeAlias = Annotated[tuple[Annotated[float, NotNegative], ...], NotEmpty]
Policy: TypeAlias = Callable[[Params, Tensor], Distribution]

STEPS_PER_CHUNK = 8000
"""Number of steps whose meta-gradient a CPU computes at once; more do not fit in its caches."""

FIRST_EDITION = {"params.": "head.", "scaler.": "normalizer."}
"""How names of tensors in checkpoints of the first edition begin, and how they begin now."""


@dataclass(frozen=True)
class MAMLPPOConfig:
    """Hyper-parameters of MAML-PPO; the defaults are for 2-D navigation."""

    tasks_per_update: Annotated[int, AtLeast(1)] = 20
    """Number of tasks of a meta-batch (20 in the MAML paper)."""
    episodes_per_adaptation: Annotated[int, AtLeast(1)] = 20
    """Number of episodes that an inner step learns from (20 in the MAML paper)."""
    num_adaptations: Annotated[int, AtLeast(0)] = 2
    """Number of inner steps in training; with 1, a second one in tests overshoots far goals."""
    inner_learning_rate: Rates = (0.1, 0.05, 0.025, 0.0125)
    """Rate of each inner step (alpha in MAML's eq. 1); the last one holds for further steps.
    Normalised advantages make every step the same length, so a constant rate overshoots after the
    first step; hence the halving, where the MAML paper has 0.1 0.05."""
    meta_loss: Literal["every-step", "last-step"] = "every-step"
    """Rounds that the meta-objective is the mean over: those after every inner step (MAML++, arXiv
    1810.09502, section 4), or the last one alone."""
    first_order: bool = False
    """Leave out the second derivatives, which is cheaper but follows another gradient."""
    hidden_sizes: tuple[Annotated[int, AtLeast(1)], ...] = (100, 100)
    """Sizes of the policy's ReLU layers."""
    normalize_observations: bool = False
    """Show the policy observations normalised by the moments of all steps trained on so far."""
    initial_std: Annotated[float, Positive] = 1.0
    """Standard deviation of continuous actions before the first update; inner steps adapt it."""
    min_std: Annotated[float, Positive] = 1e-2
    """Lower bound on the standard deviation of continuous actions."""
    discount: Annotated[float, Between(0, 1)] = 0.99
    """Discount factor (gamma) per step of an episode."""
    gae_lambda: Annotated[float, Between(0, 1)] = 1.0
    """GAE lambda of the advantage estimates."""
    learning_rate: Annotated[float, Positive] = 1e-3
    """Adam's learning rate on the initial parameters (beta in MAML's algorithm 3)."""
    num_epochs: Annotated[int, AtLeast(1)] = 5
    """Number of meta-gradient steps on the experience of an update."""
    clip: Annotated[float, Positive] = 0.2
    """Bound on the change of the adapted policy's probability ratio in the meta-objective."""
    kl_coefficient: Annotated[float, NotNegative] = 5e-4
    """Weight of KL(old ‖ new) of the policies before each inner step (ProMP, eq. 13)."""
    max_gradient_norm: Annotated[float, Positive] = 10.0
    """Norm that larger meta-gradients are scaled down to."""
    tasks_per_chunk: Annotated[int, AtLeast(1)] | None = None
    """Number of tasks whose meta-gradient is computed at once (default: all; on a CPU, as many as
    have 8000 steps)."""

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        validate(self)


class Adapted(NamedTuple):
    """A context: each task's own parameters, and what adapting to it has computed."""

    params: Params
    num_steps: Int[Tensor, " task"]
    values: tuple[Float[Tensor, "task episode time"], ...] = ()
    """The baseline of every round so far, so that ``update`` does not fit it again."""


class MAMLPPO:
    """Adapts by policy-gradient steps per task; meta-learns the parameters they start from."""

    Config = MAMLPPOConfig

    def __init__(
        self, config: MAMLPPOConfig, spec: TaskSpec, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        self.config, self.spec, self.device = config, spec, torch.device(device)
        self.tasks_per_update = config.tasks_per_update
        per_round, adaptations = config.episodes_per_adaptation, config.num_adaptations
        self.shape = TrialShape(per_round, adaptations, sequential=False)
        size, codec = observation_size(spec.observation_space), ActionCodec(spec.action_space)
        generator = torch.Generator().manual_seed(seed)
        params = initial_params(size, config.hidden_sizes, codec, config.initial_std, generator)
        self.params = {name: x.to(self.device).requires_grad_() for name, x in params.items()}
        self.policy: Policy = partial(mlp_policy, min_std=config.min_std)
        self.rule = SGD(config.inner_learning_rate)
        self.normalizer = ObservationNormalizer(size).to(self.device)
        self.optimizer = torch.optim.Adam(self.params.values(), config.learning_rate, eps=1e-5)
        modules = {"normalizer": self.normalizer} if config.normalize_observations else {}
        self.saved = Saved(modules, {"head": self.params}, {"optimizer": self.optimizer})

    def begin(self, num_tasks: int) -> Context:
        """Return the initial parameters for every task."""
        params = {name: x.detach().expand(num_tasks, *x.shape) for name, x in self.params.items()}
        return Adapted(params, torch.zeros(num_tasks, dtype=torch.int64, device=self.device))

    @torch.no_grad()
    def act(
        self, context: Context, timestep: Timestep, generator: LaneGenerator, greedy: bool = False
    ) -> tuple[Tensor, Record, Context]:
        """Act with each task's own parameters."""
        observation = self.normalizer(timestep.observation.to(self.device))
        distribution = self.policy(context.params, observation)
        return choose(distribution, generator, greedy), distribution._asdict(), context

    def adapt(self, context: Context, episodes: Episodes, generator: torch.Generator) -> Context:
        """Take one policy-gradient step per task (MAML's eq. 1)."""
        episodes = episodes.to(self.device)
        value = fitted(episodes, self.config)
        loss = partial(inner_loss, support=self.batch(episodes, value), policy=self.policy)
        params = {name: x.detach().requires_grad_() for name, x in context.params.items()}
        params, _ = inner_step(loss, params, self.rule, context.num_steps)
        params = {name: x.detach() for name, x in params.items()}
        return Adapted(params, context.num_steps + 1, (*context.values, value))

    def update(self, trial: Trial, generator: torch.Generator, progress: float) -> Metrics:
        """Improve the initial parameters by the meta-gradient, some epochs on one trial."""
        config, trial, history = self.config, trial.to(self.device), []
        values = [*trial.context.values[: len(trial.rounds) - 1]]
        values += [fitted(episodes, config) for episodes in trial.rounds[len(values) :]]
        rounds = [self.batch(*pair) for pair in zip(trial.rounds, values, strict=True)]
        loss = partial(meta_loss, self.params, policy=self.policy, rule=self.rule, config=config)
        some = max(1, STEPS_PER_CHUNK // rounds[0].valid.shape[1])
        chunk = config.tasks_per_chunk or (some if self.device.type == "cpu" else len(trial.tasks))
        for _ in range(config.num_epochs):
            self.optimizer.zero_grad()
            metrics = losses.accumulate_gradient(loss, rounds, trial.tasks, chunk)
            norm = clip_gradient(self.optimizer, config.max_gradient_norm)
            if not norm.isfinite():
                raise DivergenceError("the meta-gradient")
            self.optimizer.step()
            history.append(metrics | {"gradient_norm": float(norm)})
        if config.normalize_observations:
            # Last, because the recorded log-probabilities were computed with the old moments.
            for episodes in trial.rounds:
                self.normalizer.track(episodes.observation[episodes.valid])
        result = {name: sum(m[name] for m in history) / len(history) for name in history[0]}
        query = trial.rounds[-1]
        target = returns.discounted_returns(query.reward, query.valid, config.discount)
        explained = returns.explained_variance(values[-1], target, query.valid)
        result["explained_variance"] = float(explained)
        if "log_std" in self.params:
            result["policy_std"] = float(self.params["log_std"].detach().exp().mean())
        return result

    def batch(self, episodes: Episodes, value: Float[Tensor, "task episode time"]) -> PolicyBatch:
        """Estimate a round's advantages, normalised per task, and lay it out for the losses."""
        config, reward, valid = self.config, episodes.reward, episodes.valid
        # The baseline sees the time, so that the value at the horizon is known to be 0.
        advantage = returns.advantages(reward, value, valid, config.discount, config.gae_lambda)
        observation, record = self.normalizer(episodes.observation), episodes.record
        batch = PolicyBatch.of(observation, episodes.action, record, advantage, valid)
        return batch._replace(advantage=returns.normalize(batch.advantage, batch.valid, dim=1))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the initial parameters, Adam's moments and those of the observations."""
        return self.saved.tensors(), {}

    def load_state(self, tensors: dict[str, Tensor], extra: dict[str, Any]) -> None:
        """Take back what :meth:`state` returned."""
        self.saved.load(renamed(tensors, FIRST_EDITION))


def fitted(episodes: Episodes, config: MAMLPPOConfig) -> Float[Tensor, "task episode time"]:
    """Return the values of a linear baseline fitted to each task's round."""
    observation, reward, valid = episodes.observation, episodes.reward, episodes.valid
    return returns.linear_values(observation, reward, valid, config.discount)


def inner_loss(
    params: Params, support: PolicyBatch, policy: Policy
) -> tuple[Float[Tensor, " task"], Distribution]:
    """Return each task's loss of an inner step, and the policy's distributions before it.

    The loss is the likelihood ratio (π/π_old)·A, which keeps the credit of the experience's own
    distribution when differentiated twice (ProMP, section 5).
    """
    before = policy(params, support.observation)
    ratio = torch.exp(log_prob(before, support.action) - support.log_prob)
    return -returns.masked_mean(ratio * support.advantage, support.valid, dim=1), before


def meta_loss(
    params: Params,
    rounds: list[PolicyBatch],
    policy: Policy,
    rule: UpdateRule,
    config: MAMLPPOConfig,
) -> TaskLosses:
    """Return each task's loss after its inner steps (ProMP, eq. 12 and 13), and diagnostics.

    The inner steps are taken again from the present initial parameters on the recorded
    experience, so that the gradient reaches the parameters through them.
    """
    *supports, query = rounds
    num_tasks = len(query.valid)
    own = {name: x.expand(num_tasks, *x.shape) for name, x in params.items()}
    num_steps = torch.zeros(num_tasks, dtype=torch.int64, device=query.valid.device)
    penalty, surrogates = torch.zeros(num_tasks, device=num_steps.device), []
    for k, support in enumerate(supports):
        loss = partial(inner_loss, support=support, policy=policy)
        own, before = inner_step(
            loss, own, rule, num_steps + k, create_graph=not config.first_order
        )
        penalty = penalty + losses.task_kl(before, support)
        if config.meta_loss == "every-step" and k > 0:
            surrogates.append(losses.task_surrogate(before, support, config.clip))
    after = policy(own, query.observation)
    surrogates.append(losses.task_surrogate(after, query, config.clip))
    policy_loss = torch.stack(surrogates).mean(0)
    with torch.no_grad():
        metrics = {
            "policy_loss": policy_loss.detach(),
            "kl": losses.task_kl(after, query),
            "kl_before_adaptation": penalty.detach(),
            "clip_fraction": losses.task_clip_fraction(after, query, config.clip),
            "entropy": returns.masked_mean(entropy(after), query.valid, dim=1),
        }
    return policy_loss + config.kl_coefficient * penalty, metrics

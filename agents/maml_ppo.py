"""MAML with a clipped meta-objective (Finn et al., 2017, 1703.03400; ProMP, 1810.06784).

The prior knowledge is a policy's initial parameters and inner learning is a step of policy
gradient per task. The meta-gradient goes through those steps, second derivatives included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from metarl.constraints import AtLeast, Between, NotEmpty, NotNegative, Positive, validate
from metarl.errors import DivergenceError
from metarl.experience.agent import TaskSpec, TrialShape
from metarl.experience.data import (
    Context,
    Episodes,
    Metrics,
    Record,
    Timestep,
    Trial,
    require_finite,
    take_rows,
    to_device,
)
from metarl.learning import distributions
from metarl.learning.losses import clip_fraction, clipped_surrogate
from metarl.learning.networks import Params, initial_params, mlp_policy
from metarl.learning.normalization import ObservationNormalizer
from metarl.learning.ppo import clip_gradient
from metarl.learning.returns import (
    advantages,
    discounted_returns,
    explained_variance,
    linear_values,
    masked_mean,
    normalize,
)
from metarl.learning.state import Saved, renamed
from metarl.learning.update_rules import SGD, UpdateRule
from metarl.seeding import LaneGenerator
from metarl.stepping.spaces import ActionCodec, observation_size
from metarl.task import Task

Policy: TypeAlias = Callable[[Params, Tensor], distributions.Distribution]

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
    """Number of inner steps in training; with 1, a second one in evaluation overshoots far goals."""
    inner_learning_rate: Annotated[tuple[Annotated[float, NotNegative], ...], NotEmpty] = (
        0.1,
        0.05,
        0.025,
        0.0125,
    )
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
    """Show the policy observations minus their mean, over their standard deviation, of all steps
    trained on so far."""
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
    """Number of tasks whose meta-gradient is computed at once, which bounds the memory needed
    (default: all on a GPU, and as many as have 8000 steps on a CPU)."""

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        validate(self)


class Adapted(NamedTuple):
    """A context: each task's own parameters, and what the steps that made them used."""

    params: Params
    """The parameters ``[task, …]`` by name."""
    num_steps: Int[Tensor, " task"]
    """The number of inner steps that made them."""
    advantages: tuple[Float[Tensor, "task step"], ...] = ()
    """The advantages of every round so far, so that ``update`` does not estimate them again."""


class Batch(NamedTuple):
    """A round of experience as the losses take it; episodes and time are one axis."""

    observation: Float[Tensor, "task step observation"]
    """The observations, normalised."""
    action: Shaped[Tensor, "task step *action"]
    """The actions as they were sampled."""
    log_prob: Float[Tensor, "task step"]
    """Their log-probabilities under the policy that acted."""
    parameters: tuple[Tensor, ...]
    """The parameters of the action distributions of the policy that acted."""
    advantage: Float[Tensor, "task step"]
    """The advantages of the actions, normalised per task."""
    valid: Bool[Tensor, "task step"]
    """True where a step happened, False for padding."""


class MAMLPPO:
    """Adapts by policy-gradient steps per task; meta-learns the parameters they start from."""

    Config = MAMLPPOConfig

    def __init__(
        self, config: MAMLPPOConfig, spec: TaskSpec, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        self.config, self.spec, self.device = config, spec, torch.device(device)
        self.tasks_per_update = config.tasks_per_update
        self.shape = TrialShape(
            config.episodes_per_adaptation, config.num_adaptations, sequential=False
        )
        size = observation_size(spec.observation_space)
        params = initial_params(
            size,
            config.hidden_sizes,
            ActionCodec(spec.action_space),
            initial_std=config.initial_std,
            generator=torch.Generator().manual_seed(seed),
        )
        self.params = {name: x.to(self.device).requires_grad_() for name, x in params.items()}
        self.policy: Policy = partial(mlp_policy, min_std=config.min_std)
        self.rule = SGD(config.inner_learning_rate)
        self.normalizer = ObservationNormalizer(size).to(self.device)
        self.optimizer = torch.optim.Adam(self.params.values(), config.learning_rate, eps=1e-5)

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
        action = distributions.choose(distribution, generator, greedy)
        return action, distribution._asdict(), context

    def adapt(self, context: Context, episodes: Episodes, generator: torch.Generator) -> Context:
        """Take one policy-gradient step per task (MAML's eq. 1)."""
        episodes = to_device(episodes, self.device)
        _, advantage = fitted(episodes, self.config)
        support = batch_of(episodes, advantage, self.normalizer)
        params = {name: x.detach().requires_grad_() for name, x in context.params.items()}
        params, _ = inner_step(self.policy, params, support, self.rule, context.num_steps)
        params = {name: x.detach() for name, x in params.items()}
        return Adapted(params, context.num_steps + 1, (*context.advantages, advantage))

    def update(self, trial: Trial, generator: torch.Generator, progress: float) -> Metrics:
        """Improve the initial parameters by the meta-gradient, some epochs on one trial."""
        config, rounds, history = self.config, [], []
        known = trial.context.advantages[: len(trial.rounds) - 1]
        for k, episodes in enumerate(to_device(trial.rounds, self.device)):
            value, advantage = (None, known[k]) if k < len(known) else fitted(episodes, config)
            rounds.append(batch_of(episodes, advantage, self.normalizer))
        for _ in range(config.num_epochs):
            self.optimizer.zero_grad()
            metrics = self.accumulate_meta_gradient(rounds, trial.tasks)
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
        returns = discounted_returns(episodes.reward, episodes.valid, config.discount)
        result["explained_variance"] = float(explained_variance(value, returns, episodes.valid))
        if "log_std" in self.params:
            result["policy_std"] = float(self.params["log_std"].detach().exp().mean())
        return result

    def accumulate_meta_gradient(self, rounds: list[Batch], tasks: Sequence[Task]) -> Metrics:
        """Add the meta-gradient of all tasks to the parameters' ``grad``, chunk by chunk.

        Raises:
            DivergenceError: if a task's loss is not finite.
        """
        num_tasks, steps = rounds[0].valid.shape
        chunk = self.config.tasks_per_chunk or (
            num_tasks if self.device.type == "cuda" else max(1, STEPS_PER_CHUNK // steps)
        )
        totals: dict[str, Tensor] = {}
        for start in range(0, num_tasks, chunk):
            part = take_rows(rounds, slice(start, start + chunk))
            loss, metrics = meta_loss(self.params, part, self.policy, self.rule, self.config)
            require_finite("the loss", loss, tasks[start : start + chunk])
            (loss.sum() / num_tasks).backward()  # type: ignore[no-untyped-call]  # torch's
            for name, value in metrics.items():
                totals[name] = totals.get(name, torch.zeros(())) + value.sum() / num_tasks
        return {name: float(value) for name, value in totals.items()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the initial parameters, Adam's moments and those of the observations."""
        return self._saved().tensors(), {}

    def load_state(self, tensors: dict[str, Tensor], extra: dict[str, Any]) -> None:
        """Take back what :meth:`state` returned."""
        self._saved().load(renamed(tensors, FIRST_EDITION))

    def _saved(self) -> Saved:
        modules = {"normalizer": self.normalizer} if self.config.normalize_observations else {}
        return Saved(modules, {"head": self.params}, {"optimizer": self.optimizer})


def fitted(
    episodes: Episodes, config: MAMLPPOConfig
) -> tuple[Float[Tensor, "task episode time"], Float[Tensor, "task step"]]:
    """Return the values of a baseline fitted to a round, and each task's normalised advantages.

    The baseline sees the time, so that the value at the horizon is known to be 0.
    """
    reward, valid = episodes.reward, episodes.valid
    value = linear_values(episodes.observation, reward, valid, config.discount)
    advantage = advantages(reward, value, valid, config.discount, config.gae_lambda)
    return value, torch.vmap(normalize)(advantage.flatten(1, 2), valid.flatten(1, 2))


def batch_of(
    episodes: Episodes, advantage: Float[Tensor, "task step"], normalizer: ObservationNormalizer
) -> Batch:
    """Lay a round out for the losses."""
    acted = distributions.from_record(episodes.record)
    return Batch(
        observation=normalizer(episodes.observation).flatten(1, 2),
        action=episodes.action.flatten(1, 2),
        log_prob=distributions.log_prob(acted, episodes.action).flatten(1, 2),
        parameters=tuple(x.flatten(1, 2) for x in acted),
        advantage=advantage,
        valid=episodes.valid.flatten(1, 2),
    )


def inner_step(
    policy: Policy,
    params: Params,
    support: Batch,
    rule: UpdateRule,
    num_steps: Int[Tensor, " task"],
    *,
    create_graph: bool = False,
) -> tuple[Params, distributions.Distribution]:
    """Take one step of policy gradient per task, all tasks in one batch.

    The loss is the likelihood ratio (π/π_old)·A, which keeps the credit of the experience's
    own distribution when differentiated twice (ProMP, section 5). Tasks share nothing, so
    the gradient of the sum is each task's own.

    Returns:
        The parameters after the step, and the policy's distributions before it.
    """
    before = policy(params, support.observation)
    ratio = torch.exp(distributions.log_prob(before, support.action) - support.log_prob)
    loss = -masked_mean(ratio * support.advantage, support.valid, dim=1)
    gradients = torch.autograd.grad(
        loss.sum(), list(params.values()), create_graph=create_graph, retain_graph=True
    )
    return rule(params, gradients, num_steps), before


def meta_loss(
    params: Params, rounds: list[Batch], policy: Policy, rule: UpdateRule, config: MAMLPPOConfig
) -> tuple[Float[Tensor, " task"], dict[str, Float[Tensor, " task"]]]:
    """Return each task's loss after its inner steps (ProMP, eq. 12 and 13), and diagnostics.

    The inner steps are taken again from the present initial parameters on the recorded
    experience, so that the gradient reaches the parameters through them.
    """
    num_tasks = len(rounds[0].valid)
    own = {name: x.expand(num_tasks, *x.shape) for name, x in params.items()}
    num_steps = torch.zeros(num_tasks, dtype=torch.int64, device=rounds[0].valid.device)
    divergence, losses = torch.zeros(num_tasks, device=num_steps.device), []

    def surrogate(new: distributions.Distribution, batch: Batch) -> Float[Tensor, " task"]:
        log_prob = distributions.log_prob(new, batch.action)
        return clipped_surrogate(
            log_prob, batch.log_prob, batch.advantage, batch.valid, config.clip, dim=1
        )

    def kl(new: distributions.Distribution, batch: Batch) -> Float[Tensor, " task"]:
        old = type(new)(*batch.parameters)
        return masked_mean(distributions.kl(old, new), batch.valid, dim=1)

    for k, batch in enumerate(rounds[:-1]):
        stepped, before = inner_step(
            policy, own, batch, rule, num_steps + k, create_graph=not config.first_order
        )
        divergence = divergence + kl(before, batch)
        if config.meta_loss == "every-step" and k > 0:
            losses.append(surrogate(before, batch))
        own = stepped
    query = rounds[-1]
    new = policy(own, query.observation)
    losses.append(surrogate(new, query))
    policy_loss = torch.stack(losses).mean(0)
    with torch.no_grad():
        log_prob, valid = distributions.log_prob(new, query.action), query.valid
        metrics = {
            "policy_loss": policy_loss.detach(),
            "kl": kl(new, query),
            "kl_before_adaptation": divergence.detach(),
            "clip_fraction": clip_fraction(log_prob, query.log_prob, valid, config.clip, dim=1),
            "entropy": masked_mean(distributions.entropy(new), valid, dim=1),
        }
    return policy_loss + config.kl_coefficient * divergence, metrics

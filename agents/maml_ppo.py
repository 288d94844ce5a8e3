"""MAML with a clipped meta-objective (Finn et al., 2017, 1703.03400; ProMP, 1810.06784).

The prior knowledge is a policy's initial parameters and inner learning is a step of policy
gradient per task. The meta-gradient goes through those steps, second derivatives included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from metarl.errors import DivergenceError, require
from metarl.experience.agent import TaskSpec, TrialShape
from metarl.experience.data import (
    Context,
    Episodes,
    Metrics,
    Record,
    Timestep,
    Trial,
    require_finite,
)
from metarl.learning import distributions
from metarl.learning.networks import Params, initial_params, mlp_policy
from metarl.learning.normalization import ObservationScaler
from metarl.learning.returns import (
    discounted_returns,
    explained_variance,
    gae,
    linear_baseline,
    normalize,
)
from metarl.learning.state import load_module, load_optimizer, module_tensors, optimizer_tensors
from metarl.seeding import LaneGenerator
from metarl.stepping.spaces import ActionCodec, observation_size
from metarl.task import Task

Policy: TypeAlias = Callable[[Params, Tensor], distributions.Distribution]

STEPS_PER_CHUNK = 8000
"""Steps whose meta-gradient a CPU computes at once: more fall out of its caches."""


@dataclass(frozen=True)
class MAMLPPOConfig:
    """Hyper-parameters of MAML-PPO; the defaults are for 2-D navigation."""

    tasks_per_update: int = 20
    """Tasks of a meta-batch (20 in the MAML paper)."""
    episodes_per_adaptation: int = 20
    """Episodes that an inner step learns from (20 in the MAML paper)."""
    num_adaptations: int = 2
    """Inner steps in training; with 1, a second one in evaluation overshoots far goals."""
    inner_lr: tuple[float, ...] = (0.1, 0.05, 0.025, 0.0125)
    """Rate of each inner step (alpha in MAML's eq. 1); the last one holds for further steps.
    The MAML paper has 0.1 0.05; advantages of unit variance make every step equally long, so
    that without smaller ones it leaves again what it has reached."""
    every_step: bool = True
    """Let the meta-objective be the mean over the rounds after every inner step, not that of
    the last alone (MAML++, arXiv 1810.09502, section 4)."""
    first_order: bool = False
    """Leave out the second derivatives: cheaper, and another gradient."""
    hidden_sizes: tuple[int, ...] = (100, 100)
    """ReLU layers of the policy."""
    normalize_observations: bool = False
    """Show the policy observations minus their mean, over their standard deviation, of all steps
    trained on so far."""
    initial_std: float = 1.0
    """Standard deviation of continuous actions at the start; it is adapted, too."""
    min_std: float = 1e-2
    """Its floor."""
    discount: float = 0.99
    """Gamma."""
    gae_lambda: float = 1.0
    """Lambda of the advantage estimates."""
    outer_lr: float = 1e-3
    """Of Adam on the initial parameters."""
    num_epochs: int = 5
    """Meta-gradient steps on one trial's experience."""
    clip: float = 0.2
    """Bound on the adapted policy's probability ratio in the meta-objective."""
    kl_coefficient: float = 5e-4
    """Weight of KL(old ‖ new) of the policies before each inner step (ProMP, eq. 13)."""
    max_gradient_norm: float = 10.0
    """Meta-gradients are scaled down to this norm."""
    tasks_per_chunk: int | None = None
    """Tasks whose meta-gradient is computed at once, the rest added to it; by default all on a
    GPU, and as many as 8000 steps on a CPU."""

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        for name in ("tasks_per_update", "episodes_per_adaptation", "num_epochs"):
            require(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("num_adaptations", "kl_coefficient"):
            require(self, name, 0 <= getattr(self, name) < math.inf, "0 or more")
        rates = self.inner_lr
        sound = bool(rates) and all(0 <= rate < math.inf for rate in rates)
        require(self, "inner_lr", sound, "one number or more, each 0 or more")
        for name in ("discount", "gae_lambda"):
            require(self, name, 0 <= getattr(self, name) <= 1, "0 to 1")
        for name in ("initial_std", "min_std", "outer_lr", "clip", "max_gradient_norm"):
            require(self, name, 0 < getattr(self, name) < math.inf, "a number above 0")
        require(self, "hidden_sizes", all(n >= 1 for n in self.hidden_sizes), "at least 1 each")
        chunk = self.tasks_per_chunk
        require(self, "tasks_per_chunk", chunk is None or chunk >= 1, "at least 1")


class Adapted(NamedTuple):
    """A context: each task's own parameters, and how many steps made them."""

    params: Params
    """``[task, …]`` each."""
    num_steps: Shaped[Tensor, " task"]


class Batch(NamedTuple):
    """A round of experience as the losses take it; episodes and time are one axis."""

    observation: Float[Tensor, "task step observation"]
    action: Shaped[Tensor, "task step *action"]
    log_prob: Float[Tensor, "task step"]
    """Of the policy that acted."""
    parameters: tuple[Tensor, ...]
    """Of its action distributions, for the KL penalty."""
    advantage: Float[Tensor, "task step"]
    valid: Bool[Tensor, "task step"]


class MAMLPPO:
    """Adapts by policy-gradient steps per task; meta-learns the parameters they start from."""

    Config = MAMLPPOConfig

    def __init__(
        self,
        config: MAMLPPOConfig,
        spec: TaskSpec,
        *,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.config = config
        self.spec = spec
        self.device = torch.device(device)
        self.tasks_per_update = config.tasks_per_update
        self.shape = TrialShape(
            config.episodes_per_adaptation, config.num_adaptations, sequential=False
        )
        self.codec = ActionCodec(spec.action_space)
        size = observation_size(spec.observation_space)
        params = initial_params(
            size,
            config.hidden_sizes,
            self.codec,
            initial_std=config.initial_std,
            generator=torch.Generator().manual_seed(seed),
        )
        self.params: Params = {
            name: x.to(self.device).requires_grad_() for name, x in params.items()
        }
        self.scaler = ObservationScaler(size).to(self.device)
        self.optimizer = torch.optim.Adam(self.params.values(), config.outer_lr, eps=1e-5)

    def begin(self, num_tasks: int) -> Context:
        """Return the initial parameters for every task."""
        params = {name: x.detach().expand(num_tasks, *x.shape) for name, x in self.params.items()}
        return Adapted(params, torch.zeros(num_tasks, dtype=torch.int64, device=self.device))

    @torch.no_grad()
    def act(
        self, context: Context, timestep: Timestep, generator: LaneGenerator, greedy: bool = False
    ) -> tuple[Tensor, Record, Context]:
        """Act with each task's own parameters."""
        observation = self.scaler(timestep.observation.to(self.device))
        distribution = self._policy(context.params, observation)
        if greedy:
            action = distributions.mode(distribution)
        else:
            action = distributions.sample(distribution, generator)
        return action, distribution._asdict(), context

    def adapt(self, context: Context, episodes: Episodes, generator: torch.Generator) -> Context:
        """Take one policy-gradient step per task (MAML's eq. 1)."""
        params = {name: x.detach().requires_grad_() for name, x in context.params.items()}
        rate = self._rate(context.num_steps)
        stepped, _ = inner_step(
            self._policy, params, self._batch(episodes), rate, create_graph=False
        )
        return Adapted({k: x.detach() for k, x in stepped.items()}, context.num_steps + 1)

    def update(self, trial: Trial, generator: torch.Generator, progress: float) -> Metrics:
        """Improve the initial parameters by the meta-gradient, some epochs on one trial."""
        rounds = [self._batch(episodes) for episodes in trial.rounds]
        history = []
        for _ in range(self.config.num_epochs):
            self.optimizer.zero_grad()
            metrics = self.accumulate_meta_gradient(rounds, trial.tasks)
            norm = nn.utils.clip_grad_norm_(self.params.values(), self.config.max_gradient_norm)
            if not norm.isfinite():
                raise DivergenceError("the meta-gradient")
            self.optimizer.step()
            history.append(metrics | {"gradient_norm": float(norm)})
        if self.config.normalize_observations:  # not sooner: policies acted by the moments before
            for episodes in trial.rounds:
                self.scaler.track(episodes.observation[episodes.valid])
        result = {name: sum(m[name] for m in history) / len(history) for name in history[0]}
        result["explained_variance"] = self._explained(trial.rounds[-1])
        if "log_std" in self.params:
            result["policy_std"] = float(self.params["log_std"].detach().exp().mean())
        return result

    def accumulate_meta_gradient(self, rounds: list[Batch], tasks: Sequence[Task]) -> Metrics:
        """Add the meta-gradient of all tasks to the parameters' ``grad``, chunk by chunk.

        Raises:
            DivergenceError: where a task's loss is not finite.
        """
        num_tasks, steps = rounds[0].valid.shape
        chunk = self.config.tasks_per_chunk or (
            num_tasks if self.device.type == "cuda" else max(1, STEPS_PER_CHUNK // steps)
        )
        totals: dict[str, Tensor] = {}
        for start in range(0, num_tasks, chunk):
            part = [_rows(batch, slice(start, start + chunk)) for batch in rounds]
            loss, metrics = self.meta_loss(part)
            require_finite("the loss", loss, tasks[start : start + chunk])
            (loss.sum() / num_tasks).backward()  # type: ignore[no-untyped-call]  # torch's
            for name, value in metrics.items():
                totals[name] = totals.get(name, torch.zeros(())) + value.sum() / num_tasks
        return {name: float(value) for name, value in totals.items()}

    def meta_loss(
        self, rounds: list[Batch]
    ) -> tuple[Float[Tensor, " task"], dict[str, Float[Tensor, " task"]]]:
        """Return each task's loss after its inner steps: eq. 12 and 13 of ProMP.

        The inner steps are taken again from the present parameters on the recorded
        experience, so that the gradient reaches the parameters through them.
        """
        config = self.config
        num_tasks = len(rounds[0].valid)
        params = {name: x.expand(num_tasks, *x.shape) for name, x in self.params.items()}
        divergence = torch.zeros(num_tasks, device=self.device)
        losses = []
        for k, batch in enumerate(rounds[:-1]):
            rate = self._rate(torch.full((num_tasks,), k, device=self.device))
            stepped, policy = inner_step(
                self._policy, params, batch, rate, create_graph=not config.first_order
            )
            old = type(policy)(*batch.parameters)
            divergence = divergence + task_mean(distributions.kl(old, policy), batch.valid)
            if config.every_step and k > 0:
                losses.append(self._surrogate(policy, batch))
            params = stepped
        query = rounds[-1]
        policy = self._policy(params, query.observation)
        losses.append(self._surrogate(policy, query))
        policy_loss = torch.stack(losses).mean(0)
        with torch.no_grad():
            old = type(policy)(*query.parameters)
            ratio = distributions.log_prob(policy, query.action) - query.log_prob
            outside = ((ratio.exp() - 1).abs() > config.clip).float()
            metrics = {
                "policy_loss": policy_loss.detach(),
                "kl": task_mean(distributions.kl(old, policy), query.valid),
                "kl_before_adaptation": divergence.detach(),
                "clip_fraction": task_mean(outside, query.valid),
                "entropy": task_mean(distributions.entropy(policy), query.valid),
            }
        return policy_loss + config.kl_coefficient * divergence, metrics

    def _surrogate(
        self, policy: distributions.Distribution, batch: Batch
    ) -> Float[Tensor, " task"]:
        """Return each task's clipped objective, negated (PPO's eq. 7)."""
        ratio = torch.exp(distributions.log_prob(policy, batch.action) - batch.log_prob)
        clipped = ratio.clamp(1 - self.config.clip, 1 + self.config.clip)
        surrogate = torch.minimum(ratio * batch.advantage, clipped * batch.advantage)
        return -task_mean(surrogate, batch.valid)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the initial parameters, Adam's moments and the observations'."""
        tensors = {f"params.{name}": x.detach() for name, x in self.params.items()}
        if self.config.normalize_observations:
            tensors |= module_tensors(self.scaler, "scaler")
        return tensors | optimizer_tensors(self.optimizer), {}

    def load_state(self, tensors: dict[str, Tensor], extra: dict[str, Any]) -> None:
        """Take back what :meth:`state` returned."""
        with torch.no_grad():
            for name, x in self.params.items():
                x.copy_(tensors[f"params.{name}"])
        if self.config.normalize_observations:
            load_module(self.scaler, "scaler", tensors)
        load_optimizer(self.optimizer, tensors)

    def _policy(self, params: Params, observation: Tensor) -> distributions.Distribution:
        return mlp_policy(params, observation, self.config.min_std)

    def _rate(self, num_steps: Shaped[Tensor, " task"]) -> Float[Tensor, " task"]:
        rates = torch.tensor(self.config.inner_lr, dtype=torch.float64, device=num_steps.device)
        return rates[num_steps.clamp(max=len(rates) - 1)]

    def _explained(self, episodes: Episodes) -> float:
        """Return which share of the returns' variance the baseline fitted to them explains."""
        target = discounted_returns(episodes.reward, episodes.valid, self.config.discount)
        value = linear_baseline(episodes.observation, target, episodes.valid)
        return float(explained_variance(value, target, episodes.valid))

    def _batch(self, episodes: Episodes) -> Batch:
        """Fit the baseline, estimate advantages, and lay a round out for the losses."""
        config = self.config
        episodes = cast(Episodes, pytree.tree_map(lambda x: x.to(self.device), episodes))
        reward, valid = episodes.reward, episodes.valid
        target = discounted_returns(reward, valid, config.discount)
        value = linear_baseline(episodes.observation, target, valid)
        # the baseline sees the time, so that the horizon is an end like any other
        next_value = torch.cat(
            [value[..., 1:] * valid[..., 1:], torch.zeros_like(value[..., :1])], -1
        )
        advantage = gae(
            reward,
            value,
            next_value,
            valid,
            torch.zeros_like(valid),
            discount=config.discount,
            gae_lambda=config.gae_lambda,
        )
        acted = distributions.from_record(episodes.record)
        return Batch(
            observation=self.scaler(episodes.observation).flatten(1, 2),
            action=episodes.action.flatten(1, 2),
            log_prob=distributions.log_prob(acted, episodes.action).flatten(1, 2),
            parameters=tuple(x.flatten(1, 2) for x in acted),
            advantage=torch.vmap(normalize)(advantage.flatten(1, 2), valid.flatten(1, 2)),
            valid=valid.flatten(1, 2),
        )


def inner_step(
    policy: Policy,
    params: Params,
    support: Batch,
    rate: Float[Tensor, " task"],
    *,
    create_graph: bool,
) -> tuple[Params, distributions.Distribution]:
    """Take one step of policy gradient per task, all tasks in one batch.

    The loss is the likelihood ratio (π/π_old)·A, which keeps the credit of the experience's
    own distribution when differentiated twice (ProMP, section 5). Tasks share nothing, so
    the gradient of the sum is each task's own.

    Returns:
        The parameters after the step, and the policy's distributions before it.
    """
    before = policy(params, support.observation)
    log_prob = distributions.log_prob(before, support.action)
    ratio = torch.exp(log_prob - support.log_prob)
    loss = -task_mean(ratio * support.advantage, support.valid)
    gradients = torch.autograd.grad(
        loss.sum(), list(params.values()), create_graph=create_graph, retain_graph=True
    )
    stepped = {
        name: x - rate.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)) * gradient
        for (name, x), gradient in zip(params.items(), gradients, strict=True)
    }
    return stepped, before


def task_mean(
    x: Float[Tensor, "task step"], valid: Bool[Tensor, "task step"]
) -> Float[Tensor, " task"]:
    """Return each task's mean over the steps that happened."""
    return torch.where(valid, x, 0.0).sum(1) / valid.sum(1).clamp(min=1)


def _rows(batch: Batch, rows: slice) -> Any:
    return pytree.tree_map(lambda x: x[rows], batch)

"""Proximal policy optimisation (Schulman et al., 2017, 1707.06347) on batches of sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, TypeAlias, cast

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from metarl.constraints import Above, AtLeast, NotNegative, Positive, validate
from metarl.errors import DivergenceError
from metarl.learning import distributions
from metarl.learning.heads import HeadOutput
from metarl.learning.losses import (
    approximate_kl,
    clip_fraction,
    clipped_surrogate,
    require_finite,
    value_loss,
)
from metarl.learning.returns import masked_mean
from metarl.search import Tuned


@dataclass(frozen=True)
class PPOConfig:
    """Hyper-parameters of PPO; the defaults are for Bernoulli bandits."""

    learning_rate: Annotated[float, Positive, Tuned(1e-4, 1e-2, log=True)] = 3e-3
    """Adam's learning rate at the first update."""
    final_learning_rate: Annotated[float, NotNegative] = 1e-4
    """Adam's learning rate at the end of the schedule; it changes linearly from --learning-rate."""
    num_epochs: Annotated[int, AtLeast(1), Tuned(1, 10)] = 4
    """The number of passes over the experience of an update."""
    num_minibatches: Annotated[int, AtLeast(1), Tuned(1, 16, log=True)] = 8
    """The number of parts that an epoch divides the experience into, each one gradient step; a
    part is made of whole sequences."""
    clip: Annotated[float, Positive, Tuned(0.1, 0.4)] = 0.2
    """Bound on the change of the probability ratio between the new and the old policy."""
    entropy_coefficient: Annotated[float, NotNegative, Tuned(1e-3, 0.1, log=True)] = 0.02
    """Weight of the entropy bonus at the first update."""
    final_entropy_coefficient: Annotated[float, NotNegative] = 0.0
    """Weight of the entropy bonus at the end of the schedule; it changes linearly from
    --entropy-coefficient."""
    value_coefficient: Annotated[float, NotNegative] = 0.5
    """Weight of the value loss beside the policy loss."""
    max_gradient_norm: Annotated[float, Positive] = 0.5
    """Norm that larger gradients are scaled down to."""
    target_kl: Annotated[float, Above(0)] | None = 0.03
    """KL divergence from the old policy that ends an update's epochs once an epoch's mean exceeds
    it; `None` never ends them early."""

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        validate(self)


class Batch(NamedTuple):
    """Experience as sequences, one in each row: whole trials, or chunks of them."""

    task: Int[Tensor, " row"]
    """The number of each row's task."""
    inputs: Any
    """A tree of tensors with these rows, which the policy takes."""
    action: Shaped[Tensor, "row time *action"]
    """The actions as they were sampled."""
    log_prob: Float[Tensor, "row time"]
    """Their log-probabilities under the policy that acted."""
    advantage: Float[Tensor, "row time"]
    """The advantages of the actions, normalised."""
    target: Float[Tensor, "row time"]
    """The targets of the critic, in the units of its output."""
    valid: Bool[Tensor, "row time"]
    """True where a step happened, False for padding."""


Policy: TypeAlias = Callable[[Any], HeadOutput]
"""A function from a batch's inputs to action distributions and values."""


def optimize(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    config: PPOConfig,
    tasks: Sequence[object],
    generator: torch.Generator,
    progress: float,
) -> dict[str, float]:
    """Run epochs of clipped gradient steps on minibatches of rows.

    Args:
        policy: a function whose parameters ``optimizer`` has.
        optimizer: its learning rate is set by the schedule.
        batch: the experience.
        config: the hyper-parameters.
        tasks: the tasks that ``batch.task`` numbers, for error messages.
        generator: it shuffles the rows.
        progress: the share of the schedules that has passed.

    Returns:
        The means of the losses and diagnostics over all gradient steps, the number of epochs, and
        the present values of the schedules.

    Raises:
        DivergenceError: if a loss or a gradient is not finite.
    """
    entropy_coefficient = between(
        config.entropy_coefficient, config.final_entropy_coefficient, progress
    )
    learning_rate = between(config.learning_rate, config.final_learning_rate, progress)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    history: list[dict[str, Tensor]] = []
    epochs = 0
    for _ in range(config.num_epochs):
        epoch = [
            gradient_step(policy, optimizer, part, config, entropy_coefficient, tasks)
            for part in minibatches(batch, config.num_minibatches, generator)
        ]
        history += epoch
        epochs += 1
        divergence = torch.stack([metrics["kl"] for metrics in epoch])
        if config.target_kl and float(divergence.mean()) > config.target_kl:
            break
    means = {name: float(torch.stack([m[name] for m in history]).mean()) for name in history[0]}
    return means | {
        "num_epochs": float(epochs),
        "learning_rate": learning_rate,
        "entropy_coefficient": entropy_coefficient,
    }


def minibatches(batch: Batch, number: int, generator: torch.Generator) -> Iterator[Batch]:
    """Divide the rows into parts at random."""
    rows = len(batch.valid)
    order = torch.randperm(rows, generator=generator).to(batch.valid.device)
    for part in order.tensor_split(min(number, rows)):
        yield cast(Batch, pytree.tree_map(lambda x, part=part: x[part], batch))


def gradient_step(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    config: PPOConfig,
    entropy_coefficient: float,
    tasks: Sequence[object],
) -> dict[str, Tensor]:
    """Take one gradient step on a minibatch, and return its losses and diagnostics."""
    distribution, value = policy(batch.inputs)
    log_prob = distributions.log_prob(distribution, batch.action)
    policy_loss = clipped_surrogate(
        log_prob, batch.log_prob, batch.advantage, batch.valid, config.clip
    )
    entropy = masked_mean(distributions.entropy(distribution), batch.valid)
    loss = policy_loss - entropy_coefficient * entropy
    metrics = {"policy_loss": policy_loss, "entropy": entropy}
    if value is not None:
        metrics["value_loss"] = value_loss(value, batch.target, batch.valid)
        loss = loss + config.value_coefficient * metrics["value_loss"]
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch's is untyped
    norm = clip_gradient(optimizer, config.max_gradient_norm)
    if not (loss + norm).isfinite():
        own = [tasks[i] for i in batch.task.tolist()]
        for where, values in (
            ("a log-probability in the update", log_prob),
            ("a value in the update", value),
        ):
            if values is not None:
                require_finite(where, values.masked_fill(~batch.valid, 0.0), own)
        raise DivergenceError("the loss" if norm.isfinite() else "the gradient")
    optimizer.step()
    with torch.no_grad():
        return {name: metric.detach() for name, metric in metrics.items()} | {
            "kl": approximate_kl(log_prob, batch.log_prob, batch.valid),
            "clip_fraction": clip_fraction(log_prob, batch.log_prob, batch.valid, config.clip),
            "gradient_norm": norm,
        }


def descend(
    accumulate: Callable[[], dict[str, float]],
    optimizer: torch.optim.Optimizer,
    num_epochs: int,
    max_gradient_norm: float,
) -> dict[str, float]:
    """Take gradient steps on the same experience, all of it in each step.

    Args:
        accumulate: a function that adds to the parameters' ``grad`` and returns numbers to log.
        optimizer: the optimiser of these parameters.
        num_epochs: the number of steps.
        max_gradient_norm: the norm that larger gradients are scaled down to.

    Returns:
        The means of the numbers and of the gradient's norm over all steps.

    Raises:
        DivergenceError: if a gradient is not finite.
    """
    history = []
    for _ in range(num_epochs):
        optimizer.zero_grad()
        metrics = accumulate()
        norm = clip_gradient(optimizer, max_gradient_norm)
        if not norm.isfinite():
            raise DivergenceError("the meta-gradient")
        optimizer.step()
        history.append(metrics | {"gradient_norm": float(norm)})
    return {name: sum(m[name] for m in history) / len(history) for name in history[0]}


def clip_gradient(optimizer: torch.optim.Optimizer, max_norm: float) -> Float[Tensor, ""]:
    """Scale the gradient of an optimiser's parameters down to ``max_norm``; return its norm."""
    parameters = [x for group in optimizer.param_groups for x in group["params"]]
    return nn.utils.clip_grad_norm_(parameters, max_norm).detach()


def between(start: float, end: float, progress: float) -> float:
    """Return the value of a linear schedule, ``end`` from a progress of 1 on."""
    return start + (end - start) * min(1.0, progress)

"""Losses over padded sequences.

Means are over the steps that happened. They are taken over all axes, or over ``dim`` alone: a
batch ``[task, step]`` with ``dim=1`` gives each task's own loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl.errors import DivergenceError
from metarl.learning import distributions
from metarl.learning.distributions import Distribution
from metarl.learning.networks import Params
from metarl.learning.returns import masked_mean, normalize


class PolicyBatch(NamedTuple):
    """Experience of every task as losses of a policy take it."""

    observation: Shaped[Tensor, "task step observation"]
    """What the policy saw before each action."""
    action: Shaped[Tensor, "task step *action"]
    """The actions as they were sampled."""
    log_prob: Float[Tensor, "task step"]
    """Their log-probabilities under the policy that acted."""
    old: tuple[Tensor, ...]
    """The parameters of the distributions of the policy that acted."""
    advantage: Float[Tensor, "task step"]
    """Their advantages, normalised per task."""
    valid: Bool[Tensor, "task step"]
    """True where a step happened, False for padding."""

    @staticmethod
    def of(
        observation: Shaped[Tensor, "task episode time observation"],
        action: Shaped[Tensor, "task episode time *action"],
        record: Mapping[str, Tensor],
        advantage: Float[Tensor, "task episode time"],
        valid: Bool[Tensor, "task episode time"],
    ) -> PolicyBatch:
        """Make episodes and time one axis, and normalise each task's advantages.

        ``record`` holds the distributions of the policy that acted.
        """
        old = distributions.from_record(record)
        parts = (observation, action, distributions.log_prob(old, action), old, advantage, valid)
        batch = PolicyBatch(*pytree.tree_map(lambda x: x.flatten(1, 2), parts))
        return batch._replace(advantage=normalize(batch.advantage, batch.valid, dim=1))


Policy: TypeAlias = Callable[[Params, Tensor], Distribution]
"""A function from each task's parameters and observations to action distributions."""


def inner_loss(
    params: Params, support: PolicyBatch, policy: Policy
) -> tuple[Float[Tensor, " task"], Distribution]:
    """Return each task's policy-gradient loss, and the policy's distributions before the step.

    The loss is -(π/π_old)·A: unlike -log π·A, its second derivative keeps the dependence of the
    experience's distribution on the parameters (ProMP, section 5).
    """
    before = policy(params, support.observation)
    ratio = torch.exp(distributions.log_prob(before, support.action) - support.log_prob)
    return -masked_mean(ratio * support.advantage, support.valid, dim=1), before


def task_surrogate(policy: Distribution, batch: PolicyBatch, clip: float) -> Float[Tensor, " task"]:
    """Return each task's loss of PPO, given the present policy's distributions at its steps."""
    log_prob = distributions.log_prob(policy, batch.action)
    return clipped_surrogate(log_prob, batch.log_prob, batch.advantage, batch.valid, clip, dim=1)


def task_kl(policy: Distribution, batch: PolicyBatch) -> Float[Tensor, " task"]:
    """Return each task's mean KL(old ‖ new), given the present policy's distributions."""
    old = type(policy)(*batch.old)
    return masked_mean(distributions.kl(old, policy), batch.valid, dim=1)


@torch.no_grad()
def task_diagnostics(
    policy: Distribution, batch: PolicyBatch, clip: float
) -> dict[str, Float[Tensor, " task"]]:
    """Return each task's KL(old ‖ new), share of clipped steps, and entropy, to be logged."""
    valid, log_prob = batch.valid, distributions.log_prob(policy, batch.action)
    return {
        "kl": task_kl(policy, batch),
        "clip_fraction": clip_fraction(log_prob, batch.log_prob, valid, clip, dim=1),
        "entropy": masked_mean(distributions.entropy(policy), valid, dim=1),
    }


TaskLosses: TypeAlias = tuple[Float[Tensor, " task"], dict[str, Float[Tensor, " task"]]]
"""Each task's loss, and other numbers of each task by name, to be logged."""


STEPS_PER_CHUNK = 8000
"""Number of steps whose gradient a CPU computes at once; more do not fit in its caches."""


def accumulate_gradient(
    losses: Callable[[Any], TaskLosses], batch: Any, tasks: Sequence[object], chunk: int | None
) -> dict[str, float]:
    """Add the gradient of the mean loss of all tasks to the parameters' ``grad``, in chunks.

    Args:
        losses: a function of a batch of some of the tasks.
        batch: a tree of tensors ``[task, step, …]``.
        tasks: the tasks, for error messages.
        chunk: the number of tasks computed at once; by default all on a GPU, and on a CPU as many
            as have ``STEPS_PER_CHUNK`` steps.

    Returns:
        The means of the numbers to be logged.

    Raises:
        DivergenceError: if a task's loss is not finite.
    """
    first = pytree.tree_leaves(batch)[0]
    if chunk is None:
        cached = max(1, STEPS_PER_CHUNK // first.shape[1])
        chunk = cached if first.device.type == "cpu" else len(tasks)
    totals: dict[str, Tensor] = {}
    for start in range(0, len(tasks), chunk):
        rows = slice(start, start + chunk)
        loss, metrics = losses(pytree.tree_map(lambda x, rows=rows: x[rows], batch))
        require_finite("the loss", loss, tasks[rows])
        (loss.sum() / len(tasks)).backward()  # type: ignore[no-untyped-call]  # torch's
        for name, value in metrics.items():
            totals[name] = totals.get(name, torch.zeros(())) + value.sum() / len(tasks)
    return {name: float(value) for name, value in totals.items()}


def clipped_surrogate(
    log_prob: Float[Tensor, "*batch"],
    old_log_prob: Float[Tensor, "*batch"],
    advantage: Float[Tensor, "*batch"],
    valid: Bool[Tensor, "*batch"],
    clip: float,
    dim: int | None = None,
) -> Float[Tensor, "*rest"]:
    """Return the loss of PPO (Schulman et al., 2017, arXiv 1707.06347, eq. 7, negated)."""
    ratio = torch.exp(log_prob - old_log_prob)
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -masked_mean(torch.minimum(ratio * advantage, clipped * advantage), valid, dim)


def value_loss(
    value: Float[Tensor, "*batch"],
    target: Float[Tensor, "*batch"],
    valid: Bool[Tensor, "*batch"],
) -> Float[Tensor, ""]:
    """Return half the mean squared error."""
    return 0.5 * masked_mean((value - target).square(), valid)


def approximate_kl(
    log_prob: Float[Tensor, "*batch"],
    old_log_prob: Float[Tensor, "*batch"],
    valid: Bool[Tensor, "*batch"],
) -> Float[Tensor, ""]:
    """Estimate KL(old ‖ new) from the old policy's samples: mean of r - 1 - log r.

    The estimator is never negative (Schulman, 2020, "Approximating KL divergence", k3).
    """
    log_ratio = log_prob - old_log_prob
    return masked_mean(log_ratio.exp() - 1 - log_ratio, valid)


def clip_fraction(
    log_prob: Float[Tensor, "*batch"],
    old_log_prob: Float[Tensor, "*batch"],
    valid: Bool[Tensor, "*batch"],
    clip: float,
    dim: int | None = None,
) -> Float[Tensor, "*rest"]:
    """Return the share of steps whose probability ratio left [1 - clip, 1 + clip]."""
    outside = (torch.exp(log_prob - old_log_prob) - 1).abs() > clip
    return masked_mean(outside.float(), valid, dim)


def require_finite(where: str, values: Shaped[Tensor, "task ..."], tasks: Sequence[object]) -> None:
    """Refuse to go on if a task's numbers are not finite.

    Raises:
        DivergenceError: it names ``where`` and the first such task.
    """
    with torch.no_grad():
        if values.is_floating_point() and not values.isfinite().all():
            bad = ~values.isfinite().reshape(len(values), -1).all(1)
            raise DivergenceError(where, tasks[int(bad.nonzero()[0])])

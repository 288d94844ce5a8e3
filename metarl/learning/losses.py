"""Losses over padded sequences.

Means are over the steps that happened. They are taken over all axes, or over ``dim`` alone: a
batch ``[task, step]`` with ``dim=1`` gives each task's own loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from metarl.errors import DivergenceError
from metarl.learning.returns import masked_mean


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

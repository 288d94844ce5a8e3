"""Action distributions, as NamedTuples of tensors and free functions over them.

``torch.distributions`` cannot be returned from ``torch.func.vmap`` and draws from a global
generator; here a distribution is a tree of tensors, and a draw takes its generator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from metarl.seeding import LaneGenerator


class Categorical(NamedTuple):
    """A distribution over the integers ``0 … n-1``."""

    logits: Float[Tensor, "*batch n"]
    """The logarithms of the probabilities; these sum to 1."""


class Gaussian(NamedTuple):
    """A normal distribution with independent dimensions."""

    mean: Float[Tensor, "*batch size"]
    """The means, which are also the most likely action."""
    log_std: Float[Tensor, "*batch size"]
    """The logarithms of the standard deviations."""


Distribution: TypeAlias = Categorical | Gaussian


def from_record(record: Mapping[str, Tensor]) -> Distribution:
    """Return the distribution whose fields ``record`` holds, by their names in ``_asdict()``."""
    if "logits" in record:
        return Categorical(record["logits"])
    return Gaussian(record["mean"], record["log_std"])


def log_prob(
    distribution: Distribution, action: Shaped[Tensor, "*action"]
) -> Float[Tensor, "*batch"]:
    """Return log p(action); a Gaussian's actions are ``[*batch, size]``."""
    if isinstance(distribution, Categorical):
        return distribution.logits.gather(-1, action.long().unsqueeze(-1)).squeeze(-1)
    mean, log_std = distribution
    z = (action - mean) * torch.exp(-log_std)
    return (-0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def entropy(distribution: Distribution) -> Float[Tensor, "*batch"]:
    """Return the entropy in nats (differential, for a Gaussian)."""
    if isinstance(distribution, Categorical):
        logits = distribution.logits
        return -(logits.exp() * logits).sum(-1)
    return (distribution.log_std + 0.5 * (1 + math.log(2 * math.pi))).sum(-1)


def kl(p: Distribution, q: Distribution) -> Float[Tensor, "*batch"]:
    """Return KL(p ‖ q) in nats of two distributions of the same kind."""
    if isinstance(p, Categorical) and isinstance(q, Categorical):
        return (p.logits.exp() * (p.logits - q.logits)).sum(-1)
    if isinstance(p, Gaussian) and isinstance(q, Gaussian):
        variance_ratio = torch.exp(2 * (p.log_std - q.log_std))
        distance = ((p.mean - q.mean) * torch.exp(-q.log_std)).square()
        return (q.log_std - p.log_std + 0.5 * (variance_ratio + distance - 1)).sum(-1)
    raise TypeError(f"no KL between {type(p).__name__} and {type(q).__name__}")


def choose(
    distribution: Distribution, generator: LaneGenerator, greedy: bool
) -> Shaped[Tensor, "*batch"]:
    """Return the most likely action of every lane if ``greedy``, else a drawn one."""
    return mode(distribution) if greedy else sample(distribution, generator)


def mode(distribution: Distribution) -> Shaped[Tensor, "*batch"]:
    """Return the most likely action."""
    if isinstance(distribution, Categorical):
        return distribution.logits.argmax(-1)
    return distribution.mean


def sample(distribution: Distribution, generator: LaneGenerator) -> Shaped[Tensor, "*batch"]:
    """Draw one action per lane; the generator alone decides which."""
    if isinstance(distribution, Categorical):
        cumulative = distribution.logits.double().exp().cumsum(-1)
        u = torch.from_numpy(generator.uniform(1)).to(cumulative.device)
        action = (cumulative < u * cumulative[..., -1:]).sum(-1)
        return action.clamp(max=cumulative.shape[-1] - 1)
    mean, log_std = distribution
    noise = torch.from_numpy(generator.normal(mean.shape[-1])).to(mean)
    return mean + log_std.exp() * noise

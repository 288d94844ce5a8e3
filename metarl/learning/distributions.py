"""Action distributions, as NamedTuples of tensors and free functions over them.

``torch.distributions`` cannot be returned from ``torch.func.vmap`` and draws from a global
generator; here a distribution is a tree of tensors, and a draw takes its generator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from metarl import seeding
from metarl.seeding import LaneGenerator
from metarl.stepping.actions import ActionCodec


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


class Product(NamedTuple):
    """Independent choices and numbers: an action is a row of the choices, then the numbers."""

    logits: Float[Tensor, "*batch choice n"]
    """The logarithms of each choice's probabilities, with :data:`IMPOSSIBLE` after its last."""
    mean: Float[Tensor, "*batch number"]
    """The means of the numbers, which are normally distributed."""
    log_std: Float[Tensor, "*batch number"]
    """The logarithms of their standard deviations."""

    @property
    def numbers(self) -> Gaussian:
        """The distribution of the numbers."""
        return Gaussian(self.mean, self.log_std)


Distribution: TypeAlias = Categorical | Gaussian | Product

IMPOSSIBLE = -1e9
"""The logarithm of a probability that is 0; 0 times -∞ would be NaN."""


def action_distribution(
    output: Float[Tensor, "*batch size"],
    log_std: Float[Tensor, "*batch number"] | None,
    codec: ActionCodec,
) -> Distribution:
    """Return the distribution that a network's outputs describe.

    Args:
        output: for each choice of an action a logit for each value, then the means of the numbers.
        log_std: the logarithms of the standard deviations of the numbers; None without numbers.
        codec: the actions.
    """
    if codec.discrete:
        return Categorical(torch.log_softmax(output, -1))
    if log_std is None:
        log_std = output[..., :0]
    if not codec.choices:
        return Gaussian(output, log_std)
    logits, mean = output.tensor_split([codec.size - codec.numbers], -1)
    return Product(torch.log_softmax(_one_row_each(logits, codec.choices), -1), mean, log_std)


def _one_row_each(
    logits: Float[Tensor, "*batch size"], choices: Sequence[int]
) -> Float[Tensor, "*batch choice n"]:
    """Return the logits of each choice as a row, filled up with :data:`IMPOSSIBLE`."""
    most = max(choices)
    if min(choices) == most:
        return logits.reshape(*logits.shape[:-1], len(choices), most)
    parts = torch.split(logits, list(choices), -1)
    pad = torch.nn.functional.pad
    return torch.stack([pad(x, (0, most - x.shape[-1]), value=IMPOSSIBLE) for x in parts], -2)


def one_hot(
    action: Shaped[Tensor, "*action"], codec: ActionCodec, dtype: torch.dtype
) -> Float[Tensor, "*batch size"]:
    """Return actions with a number for each value of a choice, 1 for the chosen one."""
    hot = torch.nn.functional.one_hot
    if codec.discrete:
        return hot(action.long(), codec.size).to(dtype)
    if not codec.choices:
        return action
    chosen = action[..., : len(codec.choices)].long()
    parts = [hot(chosen[..., i], n).to(dtype) for i, n in enumerate(codec.choices)]
    return torch.cat([*parts, action[..., len(codec.choices) :]], -1)


def from_record(record: Mapping[str, Tensor]) -> Distribution:
    """Return the distribution whose fields ``record`` holds, by their names in ``_asdict()``."""
    if "logits" not in record:
        return Gaussian(record["mean"], record["log_std"])
    if "mean" not in record:
        return Categorical(record["logits"])
    return Product(record["logits"], record["mean"], record["log_std"])


def log_prob(
    distribution: Distribution, action: Shaped[Tensor, "*action"]
) -> Float[Tensor, "*batch"]:
    """Return log p(action); actions that are no single index are ``[*batch, size]``."""
    if isinstance(distribution, Categorical):
        return _log_prob_of_index(distribution.logits, action)
    if isinstance(distribution, Product):
        chosen, number = action.tensor_split([distribution.logits.shape[-2]], -1)
        choices = _log_prob_of_index(distribution.logits, chosen).sum(-1)
        return choices + log_prob(distribution.numbers, number)
    mean, log_std = distribution
    z = (action - mean) * torch.exp(-log_std)
    return (-0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def _log_prob_of_index(
    logits: Float[Tensor, "*batch n"], index: Shaped[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    return logits.gather(-1, index.long().unsqueeze(-1)).squeeze(-1)


def entropy(distribution: Distribution) -> Float[Tensor, "*batch"]:
    """Return the entropy in nats (differential, for numbers)."""
    if isinstance(distribution, Product):
        choices = entropy(Categorical(distribution.logits)).sum(-1)
        return choices + entropy(distribution.numbers)
    if isinstance(distribution, Categorical):
        logits = distribution.logits
        return -(logits.exp() * logits).sum(-1)
    return (distribution.log_std + 0.5 * (1 + math.log(2 * math.pi))).sum(-1)


def kl(p: Distribution, q: Distribution) -> Float[Tensor, "*batch"]:
    """Return KL(p ‖ q) in nats of two distributions of the same kind."""
    if isinstance(p, Product) and isinstance(q, Product):
        choices = kl(Categorical(p.logits), Categorical(q.logits)).sum(-1)
        return choices + kl(p.numbers, q.numbers)
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
    if isinstance(distribution, Product):
        return torch.cat(
            [distribution.logits.argmax(-1).to(distribution.mean), distribution.mean], -1
        )
    return distribution.mean


def sample(distribution: Distribution, generator: LaneGenerator) -> Shaped[Tensor, "*batch"]:
    """Draw one action per lane; the generator alone decides which."""
    if isinstance(distribution, Categorical):
        return _index(distribution.logits, torch.from_numpy(generator.uniform(1)[..., 0]))
    if isinstance(distribution, Product):
        choices, numbers = distribution.logits.shape[-2], distribution.mean.shape[-1]
        u = generator.uniform(choices + numbers)  # One call: equal calls return equal numbers.
        chosen = _index(distribution.logits, torch.from_numpy(u[..., :choices]))
        noise = torch.from_numpy(seeding.normal_of(u[..., choices:])).to(distribution.mean)
        drawn = distribution.mean + distribution.log_std.exp() * noise
        return torch.cat([chosen.to(drawn), drawn], -1)
    mean, log_std = distribution
    noise = torch.from_numpy(generator.normal(mean.shape[-1])).to(mean)
    return mean + log_std.exp() * noise


def _index(logits: Float[Tensor, "*batch n"], u: Float[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
    """Return the index at which the distribution function reaches ``u``, in (0, 1)."""
    cumulative = logits.double().exp().cumsum(-1)
    reached = u.to(cumulative.device).unsqueeze(-1) * cumulative[..., -1:]
    return (cumulative < reached).sum(-1).clamp(max=cumulative.shape[-1] - 1)

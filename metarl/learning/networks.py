"""Networks that map observations to the parameters of an action distribution."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metarl.learning.distributions import Distribution, action_distribution
from metarl.learning.normalization import ObservationNormalizer
from metarl.stepping.actions import ActionCodec

Params: TypeAlias = dict[str, Tensor]
"""A network's parameters by name; they are an argument of the network, not a part of it."""


@dataclass(frozen=True)
class PolicyNetwork:
    """A policy without memory as plain data, from which another library can build the same.

    Layers are fully connected, with an activation between two of them. Layer i is ``weight.i``
    ``[in, out]`` and ``bias.i`` ``[out]``.
    """

    actor: Params
    """The layers from a flat observation to logits of choices and means of numbers in policy units;
    with numbers also ``log_std`` ``[number]``, which is the same for all observations."""
    min_std: float
    """Lower bound on the standard deviation of continuous actions, in policy units."""
    activation: type[nn.Module] = nn.ReLU
    """The function between two layers, as a module without parameters."""
    critic: Params | None = None
    """The layers from a flat observation to its value in the units of returns, if there are any."""
    normalizer: ObservationNormalizer | None = None
    """The scaling of observations before the first layer of both, if there is one."""


def layer_sizes(params: Params) -> list[int]:
    """Return the sizes of the layers before the last.

    >>> layer_sizes({"weight.0": torch.zeros(3, 8), "weight.1": torch.zeros(8, 2)})
    [8]
    """
    last = sum(name.startswith("weight.") for name in params) - 1
    return [params[f"weight.{i}"].shape[-1] for i in range(last)]


def orthogonal(layer: nn.Linear, gain: float, generator: torch.Generator) -> nn.Linear:
    """Initialise ``layer`` with orthogonal weights and zero biases, and return it."""
    nn.init.orthogonal_(layer.weight, gain, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def mlp(
    input_size: int,
    hidden_sizes: Sequence[int],
    generator: torch.Generator,
    activation: type[nn.Module] = nn.Tanh,
) -> nn.Sequential:
    """Return hidden layers, each followed by its activation."""
    layers: list[nn.Module] = []
    for size in hidden_sizes:
        layers += [orthogonal(nn.Linear(input_size, size), math.sqrt(2), generator), activation()]
        input_size = size
    return nn.Sequential(*layers)


def initial_params(
    observation_size: int,
    hidden_sizes: Sequence[int],
    codec: ActionCodec,
    initial_std: float,
    generator: torch.Generator,
) -> Params:
    """Return the parameters of an MLP policy, orthogonal with small output weights."""
    params: Params = {}
    sizes = [observation_size, *hidden_sizes, codec.size]
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        gain = 0.01 if i == len(hidden_sizes) else math.sqrt(2)
        layer = orthogonal(nn.Linear(fan_in, fan_out), gain, generator)
        params[f"weight.{i}"] = layer.weight.detach().T.contiguous()
        params[f"bias.{i}"] = layer.bias.detach()
    if codec.numbers:
        params["log_std"] = torch.full((codec.numbers,), math.log(initial_std))
    return params


def mlp_policy(
    params: Params,
    observation: Float[Tensor, "task step observation"],
    min_std: float,
    codec: ActionCodec,
) -> Distribution:
    """Run every task's observations through its own ReLU network, all in batched products.

    Args:
        params: the parameters ``[task, …]``, by the names of :func:`initial_params`.
        observation: the observations, flattened.
        min_std: lower bound on a Gaussian's standard deviation; sampling and log-probabilities
            both use the bounded tensor.
        codec: the actions.
    """
    x = observation
    last = len(layer_sizes(params))
    for i in range(last + 1):
        weight, bias = params[f"weight.{i}"], params[f"bias.{i}"]
        if i < last:
            x = torch.relu(torch.baddbmm(bias.unsqueeze(-2), x, weight))
        else:
            x = torch.baddbmm(bias.unsqueeze(-1), weight.mT, x.mT).mT
    log_std = params.get("log_std")
    if log_std is not None:
        log_std = log_std.clamp(min=math.log(min_std)).unsqueeze(-2)
        log_std = log_std.expand(*x.shape[:-1], -1)
    return action_distribution(x, log_std, codec)

"""From features to an action distribution."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metarl.learning.distributions import Categorical, Distribution, Gaussian
from metarl.learning.networks import orthogonal
from metarl.stepping.spaces import ActionCodec


class ActionHead(nn.Module):
    """The last layer of a policy: logits, or a mean and the logarithm of a standard deviation.

    That is one for all states, kept above ``min_std``, or, given ``max_std``, one that the state
    decides, between the two.
    """

    def __init__(
        self,
        input_size: int,
        codec: ActionCodec,
        generator: torch.Generator,
        *,
        initial_std: float = 1.0,
        min_std: float = 1e-3,
        max_std: float | None = None,
    ) -> None:
        super().__init__()
        self.output = orthogonal(nn.Linear(input_size, codec.size), 0.01, generator)
        self.min_log_std = math.log(min_std)
        self.log_std: nn.Parameter | None = None
        self.spread: nn.Linear | None = None
        if codec.discrete:
            return
        if max_std is None:
            self.log_std = nn.Parameter(torch.full((codec.size,), math.log(initial_std)))
        else:
            self.log_range = math.log(max_std / min_std)
            self.spread = orthogonal(nn.Linear(input_size, codec.size), 0.01, generator)
            share = (math.log(initial_std) - self.min_log_std) / self.log_range
            nn.init.constant_(self.spread.bias, math.atanh(min(max(2 * share - 1, -0.99), 0.99)))

    def forward(self, features: Float[Tensor, "*batch features"]) -> Distribution:
        """Return the distribution; a Gaussian's std never falls below the floor.

        The floored tensor is what sampling and log-probabilities both use.
        """
        output = self.output(features)
        if self.spread is not None:
            share = (torch.tanh(self.spread(features)) + 1) / 2
            return Gaussian(output, self.min_log_std + self.log_range * share)
        if self.log_std is None:
            return Categorical(torch.log_softmax(output, -1))
        log_std = self.log_std.clamp(min=self.min_log_std)
        return Gaussian(output, log_std.expand_as(output))

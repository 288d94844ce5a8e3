"""Heads: from a summary and an observation to an action distribution and a value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metarl.constraints import AtLeast, Positive, refuse_unused, validate
from metarl.errors import require
from metarl.learning.cores import Core
from metarl.learning.distributions import Distribution, action_distribution
from metarl.learning.networks import mlp, orthogonal
from metarl.stepping.actions import ActionCodec


@dataclass(frozen=True)
class HeadConfig:
    """The network that turns a summary and an observation into an action distribution."""

    head_sizes: tuple[Annotated[int, AtLeast(1)], ...] = ()
    """Sizes of the tanh layers that see the core's summary and the observation, before the outputs
    for policy and value."""
    std: Literal["shared", "state"] = "shared"
    """Origin of the standard deviation of continuous actions: `shared` learns one for all states,
    `state` computes one from each state, between --min-std and --max-std."""
    initial_std: Annotated[float, Positive] = 1.0
    """Standard deviation of continuous actions before the first update."""
    min_std: Annotated[float, Positive] = 0.1
    """Lower bound on the standard deviation of continuous actions; without one, exploration
    collapses before the agent learns to adapt."""
    max_std: Annotated[float, Positive] | None = None
    """Upper bound on the standard deviation of continuous actions, needed by `--std state`."""

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        validate(self)
        if self.std == "shared":
            refuse_unused(self, ("max_std",), "--std state")
        else:
            bounds = self.max_std is not None and self.max_std > self.min_std
            require(self, "max_std", bounds, f"above min-std ({self.min_std})")


class HeadOutput(NamedTuple):
    """What a head says about a batch of summaries."""

    distribution: Distribution
    """The action distributions."""
    value: Float[Tensor, "*batch"] | None
    """The returns that are expected; None without a critic."""


class ActionHead(nn.Module):
    """The last layer of a policy: logits of choices, means and standard deviations of numbers."""

    def __init__(
        self, input_size: int, codec: ActionCodec, config: HeadConfig, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.output = orthogonal(nn.Linear(input_size, codec.size), 0.01, generator)
        self.min_log_std = math.log(config.min_std)
        self.log_std: nn.Parameter | None = None
        self.spread: nn.Linear | None = None
        self.codec = codec
        if not codec.numbers:
            return
        if config.max_std is None:  # --std shared
            self.log_std = nn.Parameter(torch.full((codec.numbers,), math.log(config.initial_std)))
            return
        self.log_range = math.log(config.max_std / config.min_std)
        self.spread = orthogonal(nn.Linear(input_size, codec.numbers), 0.01, generator)
        share = (math.log(config.initial_std) - self.min_log_std) / self.log_range
        nn.init.constant_(self.spread.bias, math.atanh(min(max(2 * share - 1, -0.99), 0.99)))

    def forward(self, features: Float[Tensor, "*batch features"]) -> Distribution:
        """Return the distribution; a Gaussian's standard deviation is never below the bound.

        Sampling and log-probabilities both use the bounded tensor.
        """
        output, log_std = self.output(features), None
        if self.spread is not None:
            share = (torch.tanh(self.spread(features)) + 1) / 2
            log_std = self.min_log_std + self.log_range * share
        elif self.log_std is not None:
            log_std = self.log_std.clamp(min=self.min_log_std)
            log_std = log_std.expand(*output.shape[:-1], -1)
        return action_distribution(output, log_std, self.codec)


class MLP(nn.Module):
    """Tanh layers over the summary and the observation, then the policy and the critic.

    Only the size of the core's summary matters, and the place in it where the core wants the
    observation inserted.
    """

    def __init__(
        self,
        config: HeadConfig,
        core: Core,
        observation_size: int,
        codec: ActionCodec,
        generator: torch.Generator,
        critic: bool = True,
    ) -> None:
        super().__init__()
        self.observation_at = core.observation_at
        features = core.summary_size + observation_size
        self.trunk = mlp(features, config.head_sizes, generator)
        features = config.head_sizes[-1] if config.head_sizes else features
        self.policy = ActionHead(features, codec, config, generator)
        self.critic = orthogonal(nn.Linear(features, 1), 1.0, generator) if critic else None

    def forward(
        self,
        summary: Float[Tensor, "*batch summary"],
        observation: Float[Tensor, "*batch observation"],
    ) -> HeadOutput:
        """Return the action distributions, and the values if there is a critic."""
        before, after = summary.tensor_split([self.observation_at], -1)
        features = self.trunk(torch.cat([before, observation, after], -1))
        value = None if self.critic is None else self.critic(features).squeeze(-1)
        return HeadOutput(self.policy(features), value)


HEADS = {"mlp": MLP}
"""The kinds of heads by name."""

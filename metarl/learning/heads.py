"""Heads: from a summary and an observation to an action distribution and a value."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, NamedTuple, Protocol, TypeAlias, cast, runtime_checkable

import torch
import tyro
from jaxtyping import Float
from torch import Tensor, nn

from metarl.constraints import AtLeast, Positive, refuse_unused, validate
from metarl.errors import require
from metarl.learning.distributions import Distribution, action_distribution
from metarl.learning.networks import mlp, orthogonal
from metarl.stepping.actions import ActionCodec

SUMMARY_FEATURES, OBSERVATION_FEATURES = 25, 64
"""The units of `--head hyper` that see the summary and the observation by default."""


@dataclass(frozen=True)
class HeadConfig:
    """The network that turns a summary and an observation into an action distribution."""

    kind: Annotated[Literal["mlp", "hyper"], tyro.conf.arg(name="head")] = "mlp"
    """What the summary is to the policy: an input beside the observation (`mlp`), or the origin of
    all weights of a policy and a value network that see the observation alone (`hyper`, a
    hypernetwork: Beck et al., 2022, 2210.11348)."""
    head_sizes: tuple[Annotated[int, AtLeast(1)], ...] = ()
    """Sizes of the tanh layers before the outputs for policy and value. Those of `--head mlp` are
    shared by both and see the core's summary and the observation; policy and value of `--head
    hyper` have layers of their own."""
    summary_features: Annotated[int, AtLeast(1)] | None = None
    """Number of tanh units from which `--head hyper` generates weights, computed from the summary
    (default: 25). Its parameters, time and memory are proportional to it."""
    observation_features: Annotated[int, AtLeast(1)] | None = None
    """Number of tanh units that generated networks of `--head hyper` have as input, computed from
    the observation in the same way for all tasks (default: 64)."""
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
        if self.kind != "hyper":
            unused = ("summary_features", "observation_features")
            refuse_unused(self, unused, "--head hyper")
        if self.std == "shared":
            refuse_unused(self, ("max_std",), "--std state")
        else:
            bounds = self.max_std is not None and self.max_std > self.min_std
            require(self, "max_std", bounds, f"above min-std ({self.min_std})")


@runtime_checkable
class Summarizes(Protocol):
    """What a head has to know of a core, or of whatever its summaries come from."""

    summary_size: int
    """The length of a summary."""
    observation_at: int
    """The place in a summary where the observation is inserted; saved weights depend on it."""


class HeadOutput(NamedTuple):
    """What a head says about a batch of summaries."""

    distribution: Distribution
    """The action distributions."""
    value: Float[Tensor, "*batch"] | None
    """The returns that are expected; None without a critic."""


Linear: TypeAlias = Callable[[int, int, float], nn.Module]
"""A function that makes a linear layer of an input size, an output size and a gain."""


class ActionHead(nn.Module):
    """The last layer of a policy: logits of choices, means and standard deviations of numbers.

    Args:
        input_size: the number of features.
        codec: the actions.
        config: the standard deviation and its bounds.
        linear: makes the layers; whatever they take is what this module takes.
    """

    def __init__(
        self, input_size: int, codec: ActionCodec, config: HeadConfig, linear: Linear
    ) -> None:
        super().__init__()
        self.output = linear(input_size, codec.size, 0.01)
        self.min_log_std = math.log(config.min_std)
        self.log_std: nn.Parameter | None = None
        self.spread: nn.Module | None = None
        self.codec = codec
        if not codec.numbers:
            return
        if config.max_std is None:  # --std shared
            self.log_std = nn.Parameter(torch.full((codec.numbers,), math.log(config.initial_std)))
            return
        self.log_range = math.log(config.max_std / config.min_std)
        self.spread = linear(input_size, codec.numbers, 0.01)
        share = (math.log(config.initial_std) - self.min_log_std) / self.log_range
        bias = cast(Tensor, self.spread.bias).detach().reshape(-1, codec.numbers)
        bias[0] = math.atanh(min(max(2 * share - 1, -0.99), 0.99))

    def forward(self, *features: Float[Tensor, "*batch _"]) -> Distribution:
        """Return the distribution; a Gaussian's standard deviation is never below the bound.

        Sampling and log-probabilities both use the bounded tensor.
        """
        output, log_std = self.output(*features), None
        if self.spread is not None:
            share = (torch.tanh(self.spread(*features)) + 1) / 2
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
        core: Summarizes,
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
        linear = partial(_linear, generator=generator)
        self.policy = ActionHead(features, codec, config, linear)
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


def _linear(inputs: int, outputs: int, gain: float, generator: torch.Generator) -> nn.Module:
    return orthogonal(nn.Linear(inputs, outputs), gain, generator)


class Generated(nn.Module):
    """A linear layer whose weights and biases are linear functions of a vector.

    With Bias-HyperInit (Beck et al., 2022, 2210.11348, section 4): at the start the vector has no
    influence, and the layer is that of an ordinary network.

    Args:
        inputs: the number of inputs.
        outputs: the number of outputs.
        gain: the gain of the initial weights, which are orthogonal.
        conditions: the length of the vector.
        generator: weights are drawn from it.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        gain: float,
        conditions: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        ordinary = orthogonal(nn.Linear(inputs, outputs), gain, generator)
        self.weight = nn.Parameter(torch.zeros(1 + conditions, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(1 + conditions, outputs))
        with torch.no_grad():
            self.weight[0] = ordinary.weight.T

    def forward(
        self,
        features: Float[Tensor, "*batch input"],
        condition: Float[Tensor, "*batch condition"],
    ) -> Float[Tensor, "*batch output"]:
        """Return the outputs, each row's by its own weights.

        The weights are never built: the products of all conditions and inputs go through one
        matrix, (z ⊗ x) H.

        Args:
            features: the inputs.
            condition: the vector z, which begins with a 1.
        """
        pairs = (condition.unsqueeze(-1) * features.unsqueeze(-2)).flatten(-2)
        return pairs @ self.weight.flatten(0, 1) + condition @ self.bias


class Hyper(nn.Module):
    """A policy and a value network on the observation, whose weights the summary generates.

    One linear map for every tensor of both (Beck et al., 2022, 2210.11348, section 4), from tanh
    units that see the summary. The observation goes through a tanh layer that all tasks share; the
    standard deviation of `--std shared` is not generated.
    """

    def __init__(
        self,
        config: HeadConfig,
        core: Summarizes,
        observation_size: int,
        codec: ActionCodec,
        generator: torch.Generator,
        critic: bool = True,
    ) -> None:
        super().__init__()
        conditions = config.summary_features or SUMMARY_FEATURES
        size = config.observation_features or OBSERVATION_FEATURES
        self.condition = mlp(core.summary_size, (conditions,), generator)
        self.observed = mlp(observation_size, (size,), generator)
        linear = partial(Generated, conditions=conditions, generator=generator)
        sizes = (size, *config.head_sizes)
        self.actor = _layers(sizes, linear)
        self.policy = ActionHead(sizes[-1], codec, config, linear)
        self.values = _layers(sizes, linear) if critic else None
        self.critic = linear(sizes[-1], 1, 1.0) if critic else None

    def forward(
        self,
        summary: Float[Tensor, "*batch summary"],
        observation: Float[Tensor, "*batch observation"],
    ) -> HeadOutput:
        """Return the action distributions, and the values if there is a critic."""
        condition = self.condition(summary)
        condition = torch.cat([torch.ones_like(condition[..., :1]), condition], -1)
        observed = self.observed(observation)
        value = None
        if self.critic is not None and self.values is not None:
            value = self.critic(through(self.values, observed, condition), condition).squeeze(-1)
        return HeadOutput(self.policy(through(self.actor, observed, condition), condition), value)


def through(
    layers: nn.ModuleList, x: Float[Tensor, "*batch input"], condition: Tensor
) -> Float[Tensor, "*batch output"]:
    """Return the output of generated layers with tanh between them."""
    for layer in layers:
        x = torch.tanh(layer(x, condition))
    return x


def _layers(sizes: Sequence[int], linear: Linear) -> nn.ModuleList:
    return nn.ModuleList(linear(*pair, math.sqrt(2)) for pair in itertools.pairwise(sizes))


HEADS: dict[str, type[MLP | Hyper]] = {"mlp": MLP, "hyper": Hyper}
"""The kinds of heads by the names of `--head`."""


def make_head(
    config: HeadConfig,
    core: Summarizes,
    observation_size: int,
    codec: ActionCodec,
    generator: torch.Generator,
    critic: bool = True,
) -> MLP | Hyper:
    """Return the head that ``config`` describes.

    Args:
        config: the kind and the sizes.
        core: the core whose summaries the head sees.
        observation_size: the length of the observation.
        codec: the actions.
        generator: weights are drawn from it.
        critic: whether there is a value.
    """
    return HEADS[config.kind](config, core, observation_size, codec, generator, critic)

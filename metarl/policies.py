"""Networks that map observations to the parameters of an action distribution."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metarl.distributions import Categorical, Distribution, Gaussian
from metarl.spaces import ActionCodec

Params: TypeAlias = dict[str, Tensor]
"""A network's parameters by name, as an argument rather than a state."""


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


class ObservationScaler(nn.Module):
    """Observations minus their mean, over their standard deviation, of all that was trained on.

    Where an arm's positions differ by centimetres, a network hardly tells them apart unscaled. A
    deviation counts as at least 0.01, so that what hardly ever moves is not blown up, and what
    lies more than 10 deviations out is held there. Before the first :meth:`track` nothing changes.
    """

    FLOOR, BOUND = 0.01, 10.0

    count: Tensor
    mean: Tensor
    square: Tensor
    """Sum of the squared differences from the mean."""
    shift: Tensor
    """The mean in float32, computed once per update so that acting needs no conversion."""
    scale: Tensor
    """The standard deviation in float32, kept for the same reason."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("square", torch.zeros(size, dtype=torch.float64))
        # Buffers, so that copies, pickles and moves to a device take them along.
        self.register_buffer("shift", torch.zeros(size), persistent=False)
        self.register_buffer("scale", torch.ones(size), persistent=False)
        self._scales = False

    def forward(
        self, observation: Float[Tensor, "*batch observation"]
    ) -> Float[Tensor, "*batch observation"]:
        """Return the same in deviations from the mean."""
        if not self._scales:
            return observation
        return (observation - self.shift).div_(self.scale).clamp_(-self.BOUND, self.BOUND)

    @torch.no_grad()
    def track(self, observation: Float[Tensor, "step observation"]) -> None:
        """Count these in (Chan et al., 1979: moments of two sets from those of each)."""
        new = observation.to(self.mean)
        count, mean = len(new), new.mean(0)
        apart, total = mean - self.mean, self.count + count
        self.square += (new - mean).square().sum(0) + apart.square() * self.count * count / total
        self.mean += apart * count / total
        self.count.copy_(total)
        self._rescale()

    def _load_from_state_dict(self, *args: Any) -> None:
        # A hook registered in the constructor would stay bound to the original in a copy.
        super()._load_from_state_dict(*args)
        self._rescale()

    def _rescale(self) -> None:
        self._scales = bool(self.count)
        if self._scales:
            deviation = (self.square / self.count).sqrt().clamp(min=self.FLOOR)
            self.shift, self.scale = self.mean.float(), deviation.float()


class ActorCriticOutput(NamedTuple):
    """What a recurrent actor-critic returns for ``[batch, time]`` inputs."""

    distribution: Distribution
    value: Float[Tensor, "batch time"] | None
    """None without a critic."""
    state: Float[Tensor, "batch state"]
    """After the last step."""


class FastWeights(nn.Module):
    """A memory of associations: a matrix that every step adds an outer product to.

    W_t = W_{t-1} + v_t k_tᵀ, read as W_t q_t, with key, value and query linear in what is given
    (linear attention; Schlag et al., 2021, 2102.11174, eq. 4 and 5). What two steps have in common
    is found in one product however far apart they lie, where a GRU must learn to hold it through
    every step in between.
    """

    def __init__(
        self, written_size: int, queried_size: int, size: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.size = size
        self.key = orthogonal(nn.Linear(written_size, size), 1.0, generator)
        self.value = orthogonal(nn.Linear(written_size, size), 1.0, generator)
        self.query = orthogonal(nn.Linear(queried_size, size), 1.0, generator)

    def forward(
        self,
        written: Float[Tensor, "batch time written"],
        queried: Float[Tensor, "batch time queried"],
        weights: Float[Tensor, "batch size size"],
    ) -> tuple[Float[Tensor, "batch time size"], Float[Tensor, "batch size size"]]:
        """Write and read at every step; return what was read and the matrix after the last.

        All steps at once: step t reads Σ_{s≤t} (q_t·k_s) v_s beside what ``weights`` held before.
        """
        key, value, query = self.key(written), self.value(written), self.query(queried)
        read = (query @ key.mT).tril() @ value + query @ weights
        return read, weights + key.mT @ value


class RecurrentActorCritic(nn.Module):
    """Encoder, GRU, and heads that see the GRU's output beside the observation.

    With ``memory_size``, fast weights of that width lie beside the GRU. They write whole
    transitions, so the previous observation joins the inputs, and the state is a row of
    ``[hidden, fast weights, last observation]``. Without ``critic`` there is no value.
    """

    def __init__(
        self,
        observation_size: int,
        input_size: int,
        codec: ActionCodec,
        *,
        encoder_sizes: Sequence[int],
        head_sizes: Sequence[int] = (),
        hidden_size: int,
        memory_size: int = 0,
        initial_std: float,
        min_std: float,
        max_std: float | None = None,
        critic: bool = True,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.memory: FastWeights | None = None
        self.state_sizes = [hidden_size]
        if memory_size:
            input_size += observation_size
            self.state_sizes += [memory_size**2, observation_size]
        self.encoder = mlp(input_size, encoder_sizes, generator)
        encoded_size = encoder_sizes[-1] if encoder_sizes else input_size
        self.gru = nn.GRU(encoded_size, hidden_size, batch_first=True)
        for name, parameter in self.gru.named_parameters():
            if "weight" in name:
                for gate in parameter.data.chunk(3):
                    nn.init.orthogonal_(gate, generator=generator)
            else:
                nn.init.zeros_(parameter)
        features = hidden_size + observation_size
        if memory_size:
            written = encoded_size + hidden_size + observation_size
            self.memory = FastWeights(written, features, memory_size, generator)
            features += memory_size
        self.trunk = mlp(features, head_sizes, generator)
        features = head_sizes[-1] if head_sizes else features
        self.policy = ActionHead(
            features,
            codec,
            generator,
            initial_std=initial_std,
            min_std=min_std,
            max_std=max_std,
        )
        self.critic = orthogonal(nn.Linear(features, 1), 1.0, generator) if critic else None

    @property
    def state_size(self) -> int:
        """Numbers that carry a trial on from one step to the next."""
        return sum(self.state_sizes)

    def forward(
        self,
        inputs: Float[Tensor, "batch time input"],
        observation: Float[Tensor, "batch time observation"],
        state: Float[Tensor, "batch state"],
    ) -> ActorCriticOutput:
        """Run whole sequences, from ``state`` at their first step."""
        hidden, *memory = torch.split(state, self.state_sizes, -1)
        if self.memory is not None:
            weights, last_observation = memory
            previous = torch.cat([last_observation.unsqueeze(1), observation[:, :-1]], 1)
            inputs = torch.cat([inputs, previous], -1)
        encoded = self.encoder(inputs)
        if encoded.shape[1] == 1:  # acting: the same numbers, with half the operations
            after = torch.gru_cell(encoded.squeeze(1), hidden, *self.gru.all_weights[0])
            hidden = after.unsqueeze(1)
        else:
            hidden, after = self.gru(encoded, hidden.unsqueeze(0).contiguous())
            after = after.squeeze(0)
        features = torch.cat([hidden, observation], -1)
        if self.memory is not None:
            weights = weights.reshape(-1, self.memory.size, self.memory.size)
            written = torch.cat([encoded, hidden, previous], -1)
            read, weights = self.memory(written, features, weights)
            features = torch.cat([features, read], -1)
            after = torch.cat([after, weights.flatten(1), observation[:, -1]], -1)
        features = self.trunk(features)
        value = None if self.critic is None else self.critic(features).squeeze(-1)
        return ActorCriticOutput(self.policy(features), value, after)


def initial_params(
    observation_size: int,
    hidden_sizes: Sequence[int],
    codec: ActionCodec,
    *,
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
    if not codec.discrete:
        params["log_std"] = torch.full((codec.size,), math.log(initial_std))
    return params


def mlp_policy(
    params: Params, observation: Float[Tensor, "task step observation"], min_std: float
) -> Distribution:
    """Run every task's observations through its own ReLU network, all in batched products.

    Args:
        params: as :func:`initial_params` names them, ``[task, …]`` each.
        observation: flattened.
        min_std: floor of a Gaussian's standard deviation; the floored tensor is what
            sampling and log-probabilities both use.
    """
    x = observation
    last = sum(name.startswith("weight.") for name in params) - 1
    for i in range(last + 1):
        weight, bias = params[f"weight.{i}"], params[f"bias.{i}"]
        if i < last:
            x = torch.relu(torch.baddbmm(bias.unsqueeze(-2), x, weight))
        else:
            x = torch.baddbmm(bias.unsqueeze(-1), weight.mT, x.mT).mT
    if "log_std" not in params:
        return Categorical(torch.log_softmax(x, -1))
    log_std = params["log_std"].clamp(min=math.log(min_std)).unsqueeze(-2)
    return Gaussian(x, log_std.expand_as(x))

"""Cores: how experience becomes a summary, step by step and in whole sequences.

The encoder is part of a core, since what it sees depends on the core: fast weights add the
previous observation to the inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, TypeAlias, runtime_checkable

import torch
import tyro
from jaxtyping import Float
from torch import Tensor, nn

from metarl.constraints import AtLeast, refuse_unused, validate
from metarl.learning.distributions import one_hot
from metarl.learning.networks import mlp, orthogonal
from metarl.search import Tuned
from metarl.stepping.actions import ActionCodec

MEMORY_SIZE = 32
"""The size of fast weights by default."""


@dataclass(frozen=True)
class CoreConfig:
    """The network that turns experience into a summary of it."""

    kind: Annotated[Literal["gru", "fast-weights"], tyro.conf.arg(name="core")] = "gru"
    """The network that remembers a trial: `gru` is a GRU alone, as in the paper on RL²;
    `fast-weights` is a GRU beside a matrix to which every step adds an outer product (Schlag et
    al., 2021, 2102.11174). The matrix holds many associations, such as the reward of every state
    and action, which a GRU hardly learns to; its entries grow with the steps of a trial."""
    hidden_size: Annotated[int, AtLeast(1), Tuned(32, 256, log=True)] = 64
    """Number of units of the GRU."""
    encoder_sizes: tuple[Annotated[int, AtLeast(1)], ...] = ()
    """Sizes of the tanh layers before the GRU."""
    memory_size: Annotated[int, AtLeast(1)] | None = None
    """Number of rows and columns of the matrix of `--core fast-weights` (default: 32)."""

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        validate(self)
        if self.kind != "fast-weights":
            refuse_unused(self, ("memory_size",), "--core fast-weights")


@runtime_checkable
class Core(Protocol):
    """A network whose state carries knowledge from one step of a trial to the next.

    One step at a time and whole sequences give the same numbers, up to rounding. The inputs are
    those of :func:`core_inputs`, which begin with the observation.
    """

    state_size: int
    """The length of a state; a trial starts with zeros."""
    summary_size: int
    """The length of a summary."""
    observation_at: int
    """The place in a summary where a head inserts the observation; saved weights depend on it."""

    def step(
        self, inputs: Float[Tensor, "batch input"], state: Float[Tensor, "batch state"]
    ) -> tuple[Float[Tensor, "batch summary"], Float[Tensor, "batch state"]]:
        """Return the summary after one step, and the next state."""

    def sequence(
        self, inputs: Float[Tensor, "batch time input"], state: Float[Tensor, "batch state"]
    ) -> tuple[Float[Tensor, "batch time summary"], Float[Tensor, "batch state"]]:
        """Return the summary after every step, and the state after the last one."""


class _Recurrent(nn.Module):
    """The parts that cores with a GRU have in common."""

    def __init__(self, config: CoreConfig, input_size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.encoder = mlp(input_size, config.encoder_sizes, generator)
        self.encoded_size = config.encoder_sizes[-1] if config.encoder_sizes else input_size
        self.observation_at = config.hidden_size
        self.gru = nn.GRU(self.encoded_size, config.hidden_size, batch_first=True)
        for name, parameter in self.gru.named_parameters():
            if "weight" in name:
                for gate in parameter.data.chunk(3):
                    nn.init.orthogonal_(gate, generator=generator)
            else:
                nn.init.zeros_(parameter)

    def run_gru(
        self, encoded: Float[Tensor, "batch time encoded"], hidden: Float[Tensor, "batch hidden"]
    ) -> tuple[Float[Tensor, "batch time hidden"], Float[Tensor, "batch hidden"]]:
        """Return the GRU's output after every step, and after the last one."""
        if encoded.shape[1] == 1:  # Acting: the same numbers with half the operations.
            after = torch.gru_cell(encoded.squeeze(1), hidden, *self.gru.all_weights[0])
            return after.unsqueeze(1), after
        output, last = self.gru(encoded, hidden.unsqueeze(0).contiguous())
        return output, last.squeeze(0)

    def sequence(
        self, inputs: Float[Tensor, "batch time input"], state: Float[Tensor, "batch state"]
    ) -> tuple[Float[Tensor, "batch time summary"], Float[Tensor, "batch state"]]:
        """Return the summary after every step, and the state after the last one."""
        raise NotImplementedError

    def step(
        self, inputs: Float[Tensor, "batch input"], state: Float[Tensor, "batch state"]
    ) -> tuple[Float[Tensor, "batch summary"], Float[Tensor, "batch state"]]:
        """Return the summary after one step, and the next state."""
        summary, state = self.sequence(inputs.unsqueeze(1), state)
        return summary.squeeze(1), state


class GRU(_Recurrent):
    """An encoder and a gated recurrent unit, whose output is the summary and the state."""

    def __init__(
        self,
        config: CoreConfig,
        observation_size: int,
        codec: ActionCodec,
        generator: torch.Generator,
    ) -> None:
        super().__init__(config, input_size(observation_size, codec), generator)
        self.state_size = self.summary_size = config.hidden_size

    def sequence(
        self, inputs: Float[Tensor, "batch time input"], state: Float[Tensor, "batch state"]
    ) -> tuple[Float[Tensor, "batch time summary"], Float[Tensor, "batch state"]]:
        """Return the summary after every step, and the state after the last one."""
        return self.run_gru(self.encoder(inputs), state)


class FastWeights(_Recurrent):
    """An encoder, a GRU, and fast weights beside it, which hold associations.

    Every step adds an outer product to a matrix (:func:`fast_weights`), and what is then read
    from it joins the GRU's output in the summary. What is written describes a whole transition,
    so the previous observation joins the inputs, and the state is a row of
    ``[hidden, fast weights, last observation]``.
    """

    def __init__(
        self,
        config: CoreConfig,
        observation_size: int,
        codec: ActionCodec,
        generator: torch.Generator,
    ) -> None:
        size = input_size(observation_size, codec) + observation_size
        super().__init__(config, size, generator)
        self.size, self.observation_size = config.memory_size or MEMORY_SIZE, observation_size
        queried_size = config.hidden_size + observation_size
        written_size = self.encoded_size + queried_size
        self.key = orthogonal(nn.Linear(written_size, self.size), 1.0, generator)
        self.value = orthogonal(nn.Linear(written_size, self.size), 1.0, generator)
        self.query = orthogonal(nn.Linear(queried_size, self.size), 1.0, generator)
        self.state_sizes = [config.hidden_size, self.size**2, observation_size]
        self.state_size, self.summary_size = sum(self.state_sizes), config.hidden_size + self.size

    def sequence(
        self, inputs: Float[Tensor, "batch time input"], state: Float[Tensor, "batch state"]
    ) -> tuple[Float[Tensor, "batch time summary"], Float[Tensor, "batch state"]]:
        """Return the summary after every step, and the state after the last one."""
        hidden, weights, last_observation = torch.split(state, self.state_sizes, -1)
        observation = inputs[..., : self.observation_size]
        previous = torch.cat([last_observation.unsqueeze(1), observation[:, :-1]], 1)
        encoded = self.encoder(torch.cat([inputs, previous], -1))
        output, hidden = self.run_gru(encoded, hidden)
        written = torch.cat([encoded, output, previous], -1)
        read, weights = fast_weights(
            self.key(written),
            self.value(written),
            self.query(torch.cat([output, observation], -1)),
            weights.reshape(-1, self.size, self.size),
        )
        state = torch.cat([hidden, weights.flatten(1), observation[:, -1]], -1)
        return torch.cat([output, read], -1), state


def fast_weights(
    key: Float[Tensor, "batch time size"],
    value: Float[Tensor, "batch time size"],
    query: Float[Tensor, "batch time size"],
    weights: Float[Tensor, "batch size size"],
) -> tuple[Float[Tensor, "batch time size"], Float[Tensor, "batch size size"]]:
    """Write and read at every step; return what was read and the matrix after the last step.

    W_t = W_{t-1} + v_t k_tᵀ, read as W_t q_t (linear attention; Schlag et al., 2021, 2102.11174,
    eq. 4 and 5). What two steps have in common is found in one product however far apart they
    lie, whereas a GRU must learn to hold it through every step in between.

    All steps are computed at once: step t reads Σ_{s≤t} (q_t·k_s) v_s and what ``weights``, which
    is stored with the keys in front, held before.
    """
    read = (query @ key.mT).tril() @ value + query @ weights
    return read, weights + key.mT @ value


@runtime_checkable
class Seen(Protocol):
    """A time step, or a stream of them (:mod:`metarl.experience.data`)."""

    @property
    def previous_action(self) -> Tensor:
        """The action before, zero at the start of a trial."""

    @property
    def boundary(self) -> Tensor:
        """True at the first step of an episode."""

    @property
    def trial_start(self) -> Tensor:
        """True at the first step of a trial."""


def input_size(observation_size: int, codec: ActionCodec) -> int:
    """Return the number of inputs that :func:`core_inputs` makes of one step."""
    return observation_size + codec.size + 2


def past(
    previous_reward: Float[Tensor, "*batch"], seen: Seen, codec: ActionCodec
) -> Float[Tensor, "*batch input"]:
    """Join what a core sees of a step after the observation (Duan et al., 2016, section 2.2).

    Args:
        previous_reward: the reward before the step, in the units that the core is to see.
        seen: the rest; choices become one-hot vectors.
        codec: the size and kind of the actions.
    """
    action = one_hot(seen.previous_action, codec, previous_reward.dtype)
    if codec.choices:
        # Choice 0 is a real one, so "no previous action" is an all-zero one-hot vector.
        action = torch.where(seen.trial_start.unsqueeze(-1), 0.0, action)
    rest = [previous_reward.unsqueeze(-1), seen.boundary.unsqueeze(-1).float()]
    return torch.cat([action, *rest], -1)


def core_inputs(
    observation: Float[Tensor, "*batch observation"],
    previous_reward: Float[Tensor, "*batch"],
    seen: Seen,
    codec: ActionCodec,
) -> Float[Tensor, "*batch input"]:
    """Return all that a core sees of a step: the observation, and what :func:`past` returns."""
    return torch.cat([observation, past(previous_reward, seen, codec)], -1)


CoreModule: TypeAlias = GRU | FastWeights

CORES: dict[str, Callable[[CoreConfig, int, ActionCodec, torch.Generator], CoreModule]] = {
    "gru": GRU,
    "fast-weights": FastWeights,
}
"""The kinds of cores by the names of `--core`."""


def make_core(
    config: CoreConfig, observation_size: int, codec: ActionCodec, generator: torch.Generator
) -> CoreModule:
    """Return the core that ``config`` describes, with weights drawn from ``generator``."""
    return CORES[config.kind](config, observation_size, codec, generator)

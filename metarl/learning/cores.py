"""How experience becomes a summary, step by step and in whole sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metarl.learning.distributions import Distribution
from metarl.learning.heads import ActionHead
from metarl.learning.networks import mlp, orthogonal
from metarl.stepping.spaces import ActionCodec


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

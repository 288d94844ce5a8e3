"""Recurrent cores, whose state is a row of numbers: a GRU, fast weights, and an aggregator."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from metarl.learning.core_base import Core, input_size
from metarl.learning.core_config import MEMORY_SIZE, CoreConfig
from metarl.learning.networks import mlp, orthogonal
from metarl.stepping.actions import ActionCodec


class Recurrent(Core):
    """The parts that cores with a GRU have in common.

    Args:
        config: the sizes.
        input_size: the number of inputs of a step.
        generator: weights are drawn from it.
    """

    records = True
    """True: a chunk begins with the state that was recorded at its first step."""
    lookback = 0
    """The number of steps before a chunk that are computed again with it."""
    state_size: int
    """The length of a state; a trial starts with zeros."""

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

    def begin(self, rows: int) -> Float[Tensor, "row state"]:
        """Return the states at the start of trials."""
        return torch.zeros(rows, self.state_size, device=next(self.gru.parameters()).device)

    def recomputed(self, first: Int[Tensor, " row"]) -> Float[Tensor, "row state"]:
        """Return the states at the start of whole trials; those of chunks are recorded."""
        return self.begin(len(first))

    def run_gru(
        self, encoded: Float[Tensor, "batch time encoded"], hidden: Float[Tensor, "batch hidden"]
    ) -> tuple[Float[Tensor, "batch time hidden"], Float[Tensor, "batch hidden"]]:
        """Return the GRU's output after every step, and after the last one."""
        if encoded.shape[1] == 1:  # Acting: the same numbers with half the operations.
            after = torch.gru_cell(encoded.squeeze(1), hidden, *self.gru.all_weights[0])
            return after.unsqueeze(1), after
        output, last = self.gru(encoded, hidden.unsqueeze(0).contiguous())
        return output, last.squeeze(0)

    def unroll(
        self, inputs: Float[Tensor, "batch time input"], state: Float[Tensor, "batch state"]
    ) -> tuple[Float[Tensor, "batch time summary"], Float[Tensor, "batch state"]]:
        """Return the summary after every step, and the state after the last one."""
        raise NotImplementedError

    def sequence(
        self, inputs: Float[Tensor, "batch time input"], state: Float[Tensor, "batch state"]
    ) -> Float[Tensor, "batch time summary"]:
        """Return the summary after every step."""
        return self.unroll(inputs, state)[0]

    def step(
        self,
        inputs: Float[Tensor, "batch input"],
        state: Float[Tensor, "batch state"],
        active: Bool[Tensor, " batch"],
    ) -> tuple[Float[Tensor, "batch summary"], Float[Tensor, "batch state"]]:
        """Return the summary after one step, and the next state; idle rows keep theirs."""
        summary, after = self.unroll(inputs.unsqueeze(1), state)
        return summary.squeeze(1), torch.where(active.unsqueeze(-1), after, state)

    def insight(self, state: Float[Tensor, "batch state"]) -> dict[str, Tensor]:
        """Return the state, which is all that is known."""
        return {"state": state}


class GRU(Recurrent):
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

    def unroll(
        self, inputs: Float[Tensor, "batch time input"], state: Float[Tensor, "batch state"]
    ) -> tuple[Float[Tensor, "batch time summary"], Float[Tensor, "batch state"]]:
        """Return the summary after every step, and the state after the last one."""
        return self.run_gru(self.encoder(inputs), state)


class Aggregator(Recurrent):
    """A GRU, half of whose output goes through a maximum or mean over all steps so far.

    What one step has put into the first half stays in the summary however many steps follow, and
    the gradient reaches that step at once (AMRL: Beck et al., 2020; SplAgger: Beck et al., 2024,
    2403.03020). The other half is the GRU's as it is. The state is a row of
    ``[hidden, maximum or mean, number of steps]``.
    """

    def __init__(
        self,
        config: CoreConfig,
        observation_size: int,
        codec: ActionCodec,
        generator: torch.Generator,
    ) -> None:
        super().__init__(config, input_size(observation_size, codec), generator)
        self.mean = config.aggregate == "mean"
        self.straight_through = bool(config.straight_through)
        self.half_size = config.hidden_size // 2
        self.state_sizes = [config.hidden_size, self.half_size, 1]
        self.state_size, self.summary_size = sum(self.state_sizes), config.hidden_size

    def unroll(
        self, inputs: Float[Tensor, "batch time input"], state: Float[Tensor, "batch state"]
    ) -> tuple[Float[Tensor, "batch time summary"], Float[Tensor, "batch state"]]:
        """Return the summary after every step, and the state after the last one."""
        hidden, before, steps = torch.split(state, self.state_sizes, -1)
        output, hidden = self.run_gru(self.encoder(inputs), hidden)
        part, rest = output.tensor_split([self.half_size], -1)
        if self.mean:
            number = torch.arange(1, part.shape[1] + 1, device=part.device).unsqueeze(-1)
            total = (before * steps).unsqueeze(1) + part.cumsum(1)
            whole = total / (steps.unsqueeze(1) + number)
        else:
            whole = running_maximum(part, torch.where(steps > 0, before, -1.0))
            if self.straight_through:
                total = part.cumsum(1)
                whole = whole.detach() + (total - total.detach())
        state = torch.cat([hidden, whole[:, -1], steps + part.shape[1]], -1)
        return torch.cat([whole, rest], -1), state

    def insight(self, state: Float[Tensor, "batch state"]) -> dict[str, Tensor]:
        """Return the GRU's state, and the maximum or mean."""
        hidden, whole, _ = torch.split(state, self.state_sizes, -1)
        return {"state": hidden, "aggregate": whole}


def running_maximum(
    x: Float[Tensor, "batch time size"], before: Float[Tensor, "batch size"]
) -> Float[Tensor, "batch time size"]:
    """Return the largest numbers up to every step, and ``before`` where it is larger.

    The gradient goes to the step that the maximum comes from.

    >>> x = torch.tensor([[[1.0], [3.0], [2.0]]])
    >>> running_maximum(x, torch.tensor([[2.0]])).flatten().tolist()
    [2.0, 3.0, 3.0]
    """
    return torch.cat([before.unsqueeze(1), x], 1).cummax(1).values[:, 1:]


class FastWeights(Recurrent):
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

    def unroll(
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

    def insight(self, state: Float[Tensor, "batch state"]) -> dict[str, Tensor]:
        """Return the GRU's state, the matrix, and the last observation."""
        hidden, weights, observation = torch.split(state, self.state_sizes, -1)
        matrix = weights.reshape(-1, self.size, self.size)
        return {"state": hidden, "weights": matrix, "observation": observation}


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

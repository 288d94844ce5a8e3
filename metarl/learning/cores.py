"""Cores: how experience becomes a summary, step by step and in whole sequences.

The encoder is part of a core, since what it sees depends on the core: fast weights and graphs add
the previous observation to the inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metarl.learning.attention import Graph, Transformer
from metarl.learning.core_config import CoreConfig as CoreConfig
from metarl.learning.core_inputs import core_inputs as core_inputs
from metarl.learning.core_inputs import input_size as input_size
from metarl.learning.core_inputs import past as past
from metarl.learning.recurrent import GRU, Aggregator, FastWeights
from metarl.stepping.actions import ActionCodec

State: TypeAlias = Any
"""A tree of tensors with a row for each trial: what a core remembers."""


@runtime_checkable
class Core(Protocol):
    """A network whose state carries knowledge from one step of a trial to the next.

    One step at a time and whole sequences give the same numbers, up to rounding. The inputs are
    those of :func:`core_inputs`, which begin with the observation.
    """

    summary_size: int
    """The length of a summary."""
    observation_at: int
    """The place in a summary where a head inserts the observation; saved weights depend on it."""
    records: bool
    """Whether the state at the first step of a chunk has to be recorded while acting."""
    lookback: int
    """The number of steps before a chunk that have to be computed again with it."""

    def begin(self, rows: int) -> State:
        """Return the states at the start of trials."""

    def recomputed(self, first: Int[Tensor, " row"]) -> State:
        """Return the states with which :meth:`sequence` begins where none is recorded.

        Args:
            first: the number of each row's first step in its trial; those below 0 are padding.
        """

    def step(
        self, inputs: Float[Tensor, "row input"], state: State, active: Bool[Tensor, " row"]
    ) -> tuple[Float[Tensor, "row summary"], State]:
        """Return the summary after one step, and the next state; idle rows keep theirs."""

    def sequence(
        self, inputs: Float[Tensor, "row time input"], state: State
    ) -> tuple[Float[Tensor, "row time summary"], State]:
        """Return the summary after every step, and the state after the last one."""

    def insight(self, state: State) -> dict[str, Tensor]:
        """Return what can be drawn of a state, with a row for each trial."""


CoreModule: TypeAlias = GRU | FastWeights | Aggregator | Transformer | Graph

CORES: dict[str, Callable[[CoreConfig, int, ActionCodec, torch.Generator, int | None], CoreModule]]
CORES = {
    "gru": GRU,
    "fast-weights": FastWeights,
    "transformer": Transformer,
    "aggregator": Aggregator,
    "graph": Graph,
}
"""The kinds of cores by the names of `--core`."""


def make_core(
    config: CoreConfig,
    observation_size: int,
    codec: ActionCodec,
    generator: torch.Generator,
    trial_steps: int | None = None,
) -> CoreModule:
    """Return the core that ``config`` describes.

    Args:
        config: the kind and the sizes.
        observation_size: the length of the observation with which the inputs begin.
        codec: the actions.
        generator: weights are drawn from it.
        trial_steps: the steps of a trial, which attention without a window looks at.
    """
    return CORES[config.kind](config, observation_size, codec, generator, trial_steps)

"""Cores: how experience becomes a summary, step by step and in whole sequences.

The encoder is part of a core, since what it sees depends on the core: fast weights and graphs add
the previous observation to the inputs.
"""

from __future__ import annotations

import torch

from metarl.learning.attention import Attention, Graph, Transformer
from metarl.learning.core_base import Core as Core
from metarl.learning.core_base import core_inputs as core_inputs
from metarl.learning.core_base import input_size as input_size
from metarl.learning.core_base import past as past
from metarl.learning.core_config import CoreConfig as CoreConfig
from metarl.learning.recurrent import GRU, Aggregator, FastWeights
from metarl.stepping.actions import ActionCodec

CORES: dict[str, type[GRU | FastWeights | Aggregator | Transformer | Graph]] = {
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
) -> Core:
    """Return the core that ``config`` describes.

    Args:
        config: the kind and the sizes.
        observation_size: the length of the observation with which the inputs begin.
        codec: the actions.
        generator: weights are drawn from it.
        trial_steps: the steps of a trial, which attention without a window looks at.
    """
    made_for = config, observation_size, codec, generator
    kind = CORES[config.kind]
    return kind(*made_for, trial_steps) if issubclass(kind, Attention) else kind(*made_for)

"""The settings of a core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from metarl.constraints import AtLeast, refuse_unused, validate
from metarl.errors import require
from metarl.search import Tuned

MEMORY_SIZE = 32
"""The size of fast weights by default."""

NUM_LAYERS, ATTENTION_HEADS = 2, 4
"""The layers of a transformer, and the heads of attention, by default."""

_USED_BY: dict[str, tuple[str, ...]] = {
    "memory_size": ("fast-weights",),
    "num_layers": ("transformer",),
    "attention_heads": ("transformer", "graph"),
    "positions": ("transformer",),
    "window": ("transformer",),
    "aggregate": ("aggregator",),
}
"""The kinds of cores that use a field, by its name."""


@dataclass(frozen=True)
class CoreConfig:
    """The network that turns experience into a summary of it."""

    kind: Annotated[
        Literal["gru", "fast-weights", "transformer", "aggregator", "graph"],
        tyro.conf.arg(name="core"),
    ] = "gru"
    """The network that remembers a trial: `gru` is a GRU alone, as in the paper on RL²;
    `fast-weights` is a GRU beside a matrix to which every step adds an outer product (Schlag et
    al., 2021, 2102.11174), which holds many associations, such as the reward of every state and
    action; `transformer` attends to all steps of the trial, or to the last ones; `aggregator` is a
    GRU, half of whose output goes through a maximum or mean over the trial, so that nothing of it
    is forgotten (AMRL, Beck et al., 2020; SplAgger, 2403.03020); `graph` attends to the set of the
    trial's transitions, whose order changes nothing."""
    hidden_size: Annotated[int, AtLeast(1), Tuned(32, 256, log=True)] = 64
    """Number of units of the GRU, or width of the attention's layers."""
    encoder_sizes: tuple[Annotated[int, AtLeast(1)], ...] = ()
    """Sizes of the tanh layers before the GRU or the attention."""
    memory_size: Annotated[int, AtLeast(1)] | None = None
    """Number of rows and columns of the matrix of `--core fast-weights` (default: 32). Its entries
    grow with the steps of a trial."""
    num_layers: Annotated[int, AtLeast(1)] | None = None
    """Number of layers of `--core transformer` (default: 2)."""
    attention_heads: Annotated[int, AtLeast(1)] | None = None
    """Number of heads of attention, between which --hidden-size is divided (default: 4)."""
    positions: Literal["sinusoidal", "learned"] | None = None
    """Position encoding of `--core transformer`: `sinusoidal` adds sines of the number of the step
    in the trial (the default; Vaswani et al., 2017, 1706.03762), `learned` adds to the attention a
    number for each head and distance in time (T5: Raffel et al., 2020, 1910.10683); distances that
    no trial of training has keep the number they start with, 0."""
    window: Annotated[int, AtLeast(1)] | None = None
    """Number of steps that a layer of `--core transformer` attends to, the present one included
    (default: all of the trial). Memory and time of a step grow with it."""
    aggregate: Literal["max", "mean"] | None = None
    """What `--core aggregator` takes of the trial so far (default: max)."""
    straight_through: bool = False
    """Let gradients pass the maximum of `--core aggregator` as if it were a sum (AMRL), so that
    every step learns from it, not the largest alone (SplAgger has none)."""

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        validate(self)
        for name, kinds in _USED_BY.items():
            if self.kind not in kinds:
                refuse_unused(self, (name,), " or ".join(f"--core {kind}" for kind in kinds))
        maximum = self.kind == "aggregator" and self.aggregate != "mean"
        accepted = "False, unless --core aggregator takes the maximum"
        require(self, "straight_through", maximum or not self.straight_through, accepted)
        if self.kind == "aggregator":
            require(self, "hidden_size", self.hidden_size > 1, "at least 2, one for each half")

    @property
    def needs_whole_trial(self) -> bool:
        """Whether the core sees a whole trial at once, so that it cannot be cut into chunks."""
        return self.kind == "graph" or (self.kind == "transformer" and self.window is None)

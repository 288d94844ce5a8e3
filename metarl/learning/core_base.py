"""What all cores have in common, and what they see of a step."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from metarl.learning.distributions import one_hot
from metarl.stepping.actions import ActionCodec

State: TypeAlias = Any
"""A tree of tensors with a row for each trial: what a core remembers."""


class Core(nn.Module):
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
        raise NotImplementedError

    def recomputed(self, first: Int[Tensor, " row"]) -> State:
        """Return the states with which :meth:`sequence` begins where none is recorded.

        Args:
            first: the number of each row's first step in its trial; those below 0 are padding.
        """
        raise NotImplementedError

    def step(
        self, inputs: Float[Tensor, "row input"], state: State, active: Bool[Tensor, " row"]
    ) -> tuple[Float[Tensor, "row summary"], State]:
        """Return the summary after one step, and the next state; idle rows keep theirs.

        It is for acting: gradients are those of :meth:`sequence`.
        """
        raise NotImplementedError

    def sequence(
        self, inputs: Float[Tensor, "row time input"], state: State
    ) -> Float[Tensor, "row time summary"]:
        """Return the summary after every step.

        Args:
            inputs: the inputs of the steps.
            state: what :meth:`recomputed` returned, or, where :attr:`records`, states recorded.
        """
        raise NotImplementedError

    def insight(self, state: State) -> dict[str, Tensor]:
        """Return what can be drawn of a state, with a row for each trial."""
        raise NotImplementedError


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

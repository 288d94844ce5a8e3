"""What a core sees of a step."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from metarl.learning.distributions import one_hot
from metarl.stepping.actions import ActionCodec


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

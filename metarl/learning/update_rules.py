"""Update rules: how one step of inner learning changes parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from jaxtyping import Int
from torch import Tensor, nn

from metarl.learning.networks import Params


class UpdateRule(Protocol):
    """A function from parameters and their gradients, ``[task, …]`` each, to new parameters.

    It is differentiable, so that a meta-gradient reaches the parameters before the step.
    """

    def __call__(
        self, params: Params, gradients: Sequence[Tensor], num_steps: Int[Tensor, " task"]
    ) -> Params:
        """Return every task's parameters after one more step than the ``num_steps`` before."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return what the rule itself has to meta-learn, such as learning rates."""


class SGD:
    """Gradient descent with a fixed rate, or one for each step; the last holds from there on."""

    def __init__(self, rates: Sequence[float]) -> None:
        self.rates = tuple(rates)

    def __call__(
        self, params: Params, gradients: Sequence[Tensor], num_steps: Int[Tensor, " task"]
    ) -> Params:
        """Return ``x - rate · gradient`` of every parameter x."""
        rates = torch.tensor(self.rates, dtype=torch.float64, device=num_steps.device)
        rate = rates[num_steps.clamp(max=len(rates) - 1)]
        return {
            name: x - rate.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)) * gradient
            for (name, x), gradient in zip(params.items(), gradients, strict=True)
        }

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return nothing: the rates are given."""
        return iter(())


UPDATE_RULES = {"sgd": SGD}
"""The kinds of update rules by name."""

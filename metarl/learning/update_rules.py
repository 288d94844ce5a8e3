"""Update rules: how one step of inner learning changes parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from metarl.learning.networks import Params

T = TypeVar("T")


@runtime_checkable
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
    """Gradient descent with one rate for each step; the last one holds for all further steps."""

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


def inner_step(
    loss: Callable[[Params], tuple[Float[Tensor, " task"], T]],
    params: Params,
    rule: UpdateRule,
    num_steps: Int[Tensor, " task"],
    *,
    create_graph: bool = False,
) -> tuple[Params, T]:
    """Take one step of inner learning per task, all tasks in one batch.

    Tasks share nothing, so the gradient of the sum of their losses is each task's own.

    Args:
        loss: a function of the parameters that returns each task's loss and anything else.
        params: each task's parameters, ``[task, …]`` by name.
        rule: how the gradient changes them.
        num_steps: the number of steps that each task has taken before.
        create_graph: whether the step can itself be differentiated, for a meta-gradient.

    Returns:
        The parameters after the step, and whatever else ``loss`` returned.
    """
    losses, other = loss(params)
    gradients = torch.autograd.grad(
        losses.sum(), list(params.values()), create_graph=create_graph, retain_graph=True
    )
    return rule(params, gradients, num_steps), other

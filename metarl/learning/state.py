"""The tensors of modules and optimisers by name, for checkpoints without pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Saved(NamedTuple):
    """What an agent saves of itself; it gives both directions of ``state`` and ``load_state``."""

    modules: Mapping[str, nn.Module] = {}
    """Modules by name; their tensors are called ``<name>.<parameter or buffer>``."""
    parameters: Mapping[str, Mapping[str, Tensor]] = {}
    """Parameters outside modules; they are called ``<name>.<parameter>``."""
    optimizers: Mapping[str, torch.optim.Optimizer] = {}
    """Optimisers by name; their moments are called ``<name>.<number of a parameter>.<moment>``."""

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name."""
        result: dict[str, Tensor] = {}
        for name, module in self.modules.items():
            result |= module_tensors(module, name)
        for name, parameters in self.parameters.items():
            result |= {f"{name}.{key}": x.detach() for key, x in parameters.items()}
        for name, optimizer in self.optimizers.items():
            result |= optimizer_tensors(optimizer, name)
        return result

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what :meth:`tensors` returned out of ``tensors``."""
        for name, module in self.modules.items():
            load_module(module, name, tensors)
        for name, parameters in self.parameters.items():
            for key, x in parameters.items():
                x.copy_(tensors[f"{name}.{key}"])
        for name, optimizer in self.optimizers.items():
            load_optimizer(optimizer, name, tensors)


def module_tensors(module: nn.Module, name: str) -> dict[str, Tensor]:
    """Return ``<name>.<parameter or buffer>`` of everything the module holds."""
    return {f"{name}.{key}": value for key, value in module.state_dict().items()}


def load_module(module: nn.Module, name: str, tensors: Mapping[str, Tensor]) -> None:
    """Take what :func:`module_tensors` returned out of ``tensors``."""
    module.load_state_dict({key: tensors[f"{name}.{key}"] for key in module.state_dict()})


def optimizer_tensors(optimizer: torch.optim.Optimizer, name: str) -> dict[str, Tensor]:
    """Return ``<name>.<number of a parameter>.<moment>`` of everything the optimiser remembers."""
    return {
        f"{name}.{index}.{moment}": value
        for index, moments in optimizer.state_dict()["state"].items()
        for moment, value in moments.items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, name: str, tensors: Mapping[str, Tensor]
) -> None:
    """Take what :func:`optimizer_tensors` returned out of ``tensors``."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(f"{name}."):
            index, _, moment = key.removeprefix(f"{name}.").partition(".")
            state.setdefault(int(index), {})[moment] = value.clone()
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def renamed(tensors: Mapping[str, Tensor], prefixes: Mapping[str, str]) -> dict[str, Tensor]:
    """Return tensors by the names they have today; the first prefix that fits is exchanged.

    >>> saved = {"network.gru.bias": torch.zeros(3), "network.critic.bias": torch.zeros(1)}
    >>> list(renamed(saved, {"network.gru.": "core.gru.", "network.": "head."}))
    ['core.gru.bias', 'head.critic.bias']
    """

    def today(name: str) -> str:
        for old, new in prefixes.items():
            if name.startswith(old):
                return new + name.removeprefix(old)
        return name

    return {today(name): value for name, value in tensors.items()}

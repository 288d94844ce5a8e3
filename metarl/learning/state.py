"""What modules and optimisers remember as tensors with names, for checkpoints without pickle."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_PREFIX = "optimizer."


def module_tensors(module: nn.Module, name: str) -> dict[str, Tensor]:
    """Return ``<name>.<parameter or buffer>`` of everything the module holds."""
    return {f"{name}.{key}": value for key, value in module.state_dict().items()}


def load_module(module: nn.Module, name: str, tensors: dict[str, Tensor]) -> None:
    """Take what :func:`module_tensors` returned out of ``tensors``."""
    module.load_state_dict({key: tensors[f"{name}.{key}"] for key in module.state_dict()})


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return ``optimizer.<parameter>.<moment>`` of everything the optimiser remembers."""
    return {
        f"{_PREFIX}{index}.{name}": value
        for index, moments in optimizer.state_dict()["state"].items()
        for name, value in moments.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Take what :func:`optimizer_tensors` returned out of ``tensors``."""
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(_PREFIX):
            index, _, moment = name.removeprefix(_PREFIX).partition(".")
            moments.setdefault(int(index), {})[moment] = value.clone()
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})

"""Running moments, and observations normalised by them."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ObservationScaler(nn.Module):
    """Observations minus their mean, over their standard deviation, of all that was trained on.

    Where an arm's positions differ by centimetres, a network hardly tells them apart unscaled. A
    deviation counts as at least 0.01, so that what hardly ever moves is not blown up, and what
    lies more than 10 deviations out is held there. Before the first :meth:`track` nothing changes.
    """

    FLOOR, BOUND = 0.01, 10.0

    count: Tensor
    mean: Tensor
    square: Tensor
    """Sum of the squared differences from the mean."""
    shift: Tensor
    """The mean in float32, computed once per update so that acting needs no conversion."""
    scale: Tensor
    """The standard deviation in float32, kept for the same reason."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("square", torch.zeros(size, dtype=torch.float64))
        # Buffers, so that copies, pickles and moves to a device take them along.
        self.register_buffer("shift", torch.zeros(size), persistent=False)
        self.register_buffer("scale", torch.ones(size), persistent=False)
        self._scales = False

    def forward(
        self, observation: Float[Tensor, "*batch observation"]
    ) -> Float[Tensor, "*batch observation"]:
        """Return the same in deviations from the mean."""
        if not self._scales:
            return observation
        return (observation - self.shift).div_(self.scale).clamp_(-self.BOUND, self.BOUND)

    @torch.no_grad()
    def track(self, observation: Float[Tensor, "step observation"]) -> None:
        """Count these in (Chan et al., 1979: moments of two sets from those of each)."""
        new = observation.to(self.mean)
        count, mean = len(new), new.mean(0)
        apart, total = mean - self.mean, self.count + count
        self.square += (new - mean).square().sum(0) + apart.square() * self.count * count / total
        self.mean += apart * count / total
        self.count.copy_(total)
        self._rescale()

    def _load_from_state_dict(self, *args: Any) -> None:
        # A hook registered in the constructor would stay bound to the original in a copy.
        super()._load_from_state_dict(*args)
        self._rescale()

    def _rescale(self) -> None:
        self._scales = bool(self.count)
        if self._scales:
            deviation = (self.square / self.count).sqrt().clamp(min=self.FLOOR)
            self.shift, self.scale = self.mean.float(), deviation.float()

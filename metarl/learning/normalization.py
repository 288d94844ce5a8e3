"""Running moments, and numbers that are normalised by them."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn


class RunningMoments(nn.Module):
    """The mean and standard deviation of numbers, by which others are normalised.

    Subclasses define how moments are tracked. Until the first :meth:`track` nothing is changed.
    """

    shift: Tensor
    """The mean in float32, computed once per update so that acting needs no conversion."""
    scale: Tensor
    """The standard deviation in float32, kept for the same reason."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        # Buffers are taken along by copies, pickles and moves to a device.
        self.register_buffer("shift", torch.zeros(shape), persistent=False)
        self.register_buffer("scale", torch.ones(shape), persistent=False)

    def normalize(self, x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Return the numbers in standard deviations from the mean."""
        return (x - self.shift) / self.scale

    def denormalize(self, x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Return the numbers that :meth:`normalize` turns into ``x``."""
        return x * self.scale + self.shift

    def track(self, x: Float[Tensor, " step *shape"]) -> None:
        """Take these numbers into account from now on."""
        raise NotImplementedError

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean and the standard deviation."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Compute ``shift`` and ``scale`` anew."""
        self.shift, self.scale = (x.float() for x in self.moments())

    def _load_from_state_dict(self, *args: Any) -> None:
        # A hook registered in the constructor would stay bound to the original in a copy.
        super()._load_from_state_dict(*args)
        self.refresh()


class ObservationNormalizer(RunningMoments):
    """Observations in standard deviations from their mean, over all that was trained on.

    It is needed where informative differences are small, such as centimetres in Meta-World. The
    deviation is at least 0.01, so that an entry that hardly ever moves is not blown up, and
    results are clipped to ±10.

    Args:
        size: the numbers of an observation.
        divisor: what they are divided by first; None for 1.
    """

    FLOOR, BOUND = 0.01, 10.0

    count: Tensor
    mean: Tensor
    square: Tensor
    """The sum of squared differences from the mean."""

    divisor: Tensor | None

    def __init__(self, size: int, divisor: Float[Tensor, " observation"] | None = None) -> None:
        super().__init__((size,))
        self.register_buffer("divisor", divisor, persistent=False)
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("square", torch.zeros(size, dtype=torch.float64))
        self._tracked = False

    def forward(
        self, observation: Shaped[Tensor, "*batch observation"]
    ) -> Float[Tensor, "*batch observation"]:
        """Return the observations normalised and clipped; before the first ``track``, as scaled."""
        scaled = self.scaled(observation)
        if not self._tracked:
            return scaled
        return self.normalize(scaled).clamp_(-self.BOUND, self.BOUND)

    def scaled(
        self, observation: Shaped[Tensor, "*batch observation"]
    ) -> Float[Tensor, "*batch observation"]:
        """Return the observations divided by the divisor."""
        return observation if self.divisor is None else observation.float() / self.divisor

    @torch.no_grad()
    def track(self, observation: Shaped[Tensor, "step observation"]) -> None:
        """Count these observations in (Chan et al., 1979: moments of two sets from each one's)."""
        new = self.scaled(observation).to(self.mean)
        count, mean = len(new), new.mean(0)
        difference, total = mean - self.mean, self.count + count
        between = difference.square() * self.count * count / total
        self.square += (new - mean).square().sum(0) + between
        self.mean += difference * count / total
        self.count.copy_(total)
        self.refresh()

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean and the standard deviation."""
        deviation = (self.square / self.count).sqrt().clamp(min=self.FLOOR)
        return self.mean, deviation

    def refresh(self) -> None:
        """Compute ``shift`` and ``scale`` anew."""
        self._tracked = bool(self.count)
        if self._tracked:
            super().refresh()


class ValueNormalizer(RunningMoments):
    """Returns in standard deviations from their mean, over about the last 20 updates.

    A critic that predicts normalised targets needs one weight of the value loss for returns of
    any size.
    """

    MEMORY = 20

    mean: Tensor
    square: Tensor
    """The mean of the squared targets."""

    def __init__(self) -> None:
        super().__init__(())
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("square", torch.ones(()))
        self.num_updates = 0
        """The number of calls of ``track``."""

    @torch.no_grad()
    def track(self, target: Float[Tensor, " step"]) -> None:
        """Move the moments towards these targets'."""
        self.num_updates += 1
        weight = 1 / min(self.num_updates, self.MEMORY)
        self.mean = torch.lerp(self.mean, target.mean(), weight)
        self.square = torch.lerp(self.square, target.square().mean(), weight)
        self.refresh()

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean and the standard deviation."""
        return self.mean, (self.square - self.mean.square()).clamp(min=1e-6).sqrt()

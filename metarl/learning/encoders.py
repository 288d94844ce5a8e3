"""Encoders: from observations as they are stored to the features that a policy sees.

Bytes are stored as bytes and become numbers in [0, 1] here. Images go through convolutions, with
parameters that all tasks share or with each task's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Protocol, cast, runtime_checkable

import gymnasium as gym
import torch
import tyro
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from metarl.constraints import AtLeast, validate
from metarl.errors import bad_option
from metarl.learning.networks import Params, orthogonal
from metarl.learning.normalization import ObservationNormalizer
from metarl.stepping.spaces import Image, has_bytes, observation_size

SMALLEST = 8
"""The fewest rows and columns of an image that a CNN sees by default."""


_PREFIX = "encoder."
"""What the names of own parameters begin with."""


class Layer(NamedTuple):
    """A convolution, followed by a ReLU."""

    channels: int
    """The number of its output's channels."""
    kernel: int
    """The rows and columns of its kernel."""
    stride: int
    """The pixels from one place of the kernel to the next."""
    padding: int = 0
    """The pixels of zeros that are added at every edge."""


NATURE = (Layer(32, 8, 4), Layer(64, 4, 2), Layer(64, 3, 1))
"""The convolutions for images of 36 pixels or more (Mnih et al., 2015, Nature 518, methods)."""

SMALL = (Layer(16, 3, 2, 1), Layer(32, 3, 2, 1))
"""The convolutions for smaller images."""


@dataclass(frozen=True)
class EncoderConfig:
    """The network that sees observations first."""

    kind: Annotated[Literal["auto", "mlp", "cnn"], tyro.conf.arg(name="encoder")] = "auto"
    """What sees an observation first: `cnn` sends its images through convolutions, `mlp` takes all
    numbers as a vector, `auto` is a CNN where there are images of at least 8 × 8 pixels."""
    encoder_features: Annotated[int, AtLeast(1)] | None = None
    """Number of features of an image after the convolutions (default: 512 of images of 36 pixels
    or more, as in the Nature paper, otherwise 128)."""

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        validate(self)


class ImageNetwork(nn.Module):
    """Convolutions and a linear layer, each followed by a ReLU, on images in [0, 1].

    Args:
        planes: the number of an image's channels, rows and columns.
        features: the number of outputs.
        generator: weights are drawn from it.
    """

    def __init__(
        self, planes: tuple[int, int, int], features: int | None, generator: torch.Generator
    ) -> None:
        super().__init__()
        channels, *side = planes
        large = min(side) >= 36
        self.layers = NATURE if large else SMALL
        self.size = features or (512 if large else 128)
        gain = math.sqrt(2)
        convolutions: list[nn.Module] = []
        for layer in self.layers:
            module = nn.Conv2d(channels, layer.channels, layer.kernel, layer.stride, layer.padding)
            nn.init.orthogonal_(module.weight, gain, generator=generator)
            nn.init.zeros_(cast(Tensor, module.bias))
            convolutions.append(module)
            channels = layer.channels
            side = [(n + 2 * layer.padding - layer.kernel) // layer.stride + 1 for n in side]
        self.convolutions = nn.ModuleList(convolutions)
        linear = nn.Linear(channels * math.prod(side), self.size)
        self.linear = orthogonal(linear, gain, generator)

    def forward(
        self, x: Float[Tensor, "batch channel row column"]
    ) -> Float[Tensor, "batch feature"]:
        """Return the features of images, all with the same parameters."""
        for convolution in self.convolutions:
            x = torch.relu(convolution(x))
        return torch.relu(self.linear(x.flatten(1)))

    def per_task(
        self, params: Mapping[str, Tensor], x: Float[Tensor, "task step channel row column"]
    ) -> Float[Tensor, "task step feature"]:
        """Return the features of images, those of each task with its own parameters.

        A convolution is a product of matrices: the patches that the kernel sees, times its weights.

        Args:
            params: parameters ``[task, …]`` by the names that this module has for them.
            x: the images.
        """
        tasks, steps = x.shape[:2]
        for i, layer in enumerate(self.layers):
            rows, columns = (
                (n + 2 * layer.padding - layer.kernel) // layer.stride + 1 for n in x.shape[3:]
            )
            patches = nn.functional.unfold(
                x.flatten(0, 1), layer.kernel, padding=layer.padding, stride=layer.stride
            )
            patches = patches.mT.reshape(tasks, steps * rows * columns, -1)
            weight = params[f"convolutions.{i}.weight"].flatten(2)
            bias = params[f"convolutions.{i}.bias"].unsqueeze(1)
            out = torch.relu(torch.baddbmm(bias, patches, weight.mT))
            x = out.reshape(tasks, steps, rows * columns, -1).mT
            x = x.reshape(tasks, steps, layer.channels, rows, columns)
        bias = params["linear.bias"].unsqueeze(1)
        return torch.relu(torch.baddbmm(bias, x.flatten(2), params["linear.weight"].mT))


@runtime_checkable
class EncodedSpec(Protocol):
    """The part of a :class:`metarl.TaskSpec` that an encoder is made for."""

    @property
    def observation_space(self) -> gym.Space[Any]:
        """The observation space of every task, flattened."""

    @property
    def images(self) -> tuple[Image, ...] | None:
        """Where images are in a flat observation."""


class Encoder(nn.Module):
    """What lies between stored observations and a policy: scaling, normalisation, convolutions.

    Args:
        config: the kind of encoder.
        observation_size: the numbers of a flat observation.
        images: where images are in it.
        bytes_: whether its numbers are bytes.
        normalize: whether numbers outside images are normalised by what was trained on; those of
            images too, if they are taken as a vector.
        generator: weights are drawn from it.

    Raises:
        UserError: if a CNN is asked for where there are no images, or a normalisation would have
            no effect.
    """

    def __init__(
        self,
        config: EncoderConfig,
        observation_size: int,
        images: Sequence[Image],
        bytes_: bool,
        normalize: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if config.kind == "cnn" and not images:
            accepted = "mlp or auto, since observations have no image (uint8, two axes or more)"
            raise bad_option("--encoder", "cnn", accepted)
        large = bool(images) and min(min(image.planes[1:]) for image in images) >= SMALLEST
        self.convolves = config.kind == "cnn" or (config.kind == "auto" and large)
        if config.encoder_features is not None and not self.convolves:
            raise bad_option(
                "--encoder-features", config.encoder_features, "none without --encoder cnn"
            )
        self.images = tuple(images)
        inside = torch.zeros(observation_size, dtype=torch.bool)
        for image in images:
            inside[image.first : image.first + image.size] = True
        self.outside: Tensor
        self.register_buffer("outside", (~inside).nonzero().squeeze(1), persistent=False)
        numbers = len(self.outside) if self.convolves else observation_size
        if normalize and not numbers:
            accepted = "no, since observations are images alone, which the CNN scales to [0, 1]"
            raise bad_option("--normalize-observations", normalize, accepted)
        self.normalizes = normalize
        divisor = None if self.convolves else byte_divisor(observation_size, images, bytes_)
        self.normalizer = ObservationNormalizer(numbers, divisor)
        self.networks = nn.ModuleList(
            ImageNetwork(image.planes, config.encoder_features, generator)
            for image in (self.images if self.convolves else ())
        )
        features = sum(cast(ImageNetwork, network).size for network in self.networks)
        self.size = numbers + features
        """The number of features."""

    def stored(
        self, observation: Shaped[Tensor, "*batch observation"]
    ) -> Shaped[Tensor, "*batch observation"]:
        """Return observations as an update keeps them for :meth:`forward`.

        A vector is normalised by the present moments; images stay as they are.
        """
        if self.convolves:
            return observation
        return cast(Tensor, self.normalizer(observation))

    def plain(
        self, observation: Shaped[Tensor, "*batch observation"]
    ) -> Float[Tensor, "*batch number"]:
        """Return the numbers outside images: what a linear function can be fitted to."""
        if not self.images:
            return self.normalizer.scaled(observation)
        return observation[..., self.outside].float()

    def track(
        self, observation: Shaped[Tensor, "*step observation"], valid: Bool[Tensor, "*step"]
    ) -> None:
        """Take the valid observations into account from now on, if numbers are normalised."""
        if self.normalizes:
            seen = observation[valid]
            self.normalizer.track(self.plain(seen) if self.convolves else seen)

    def saved(self) -> dict[str, nn.Module]:
        """Return what there is to save, by the names under which agents save it."""
        convolutions = {"encoder": self.networks} if self.convolves else {}
        return convolutions | ({"normalizer": self.normalizer} if self.normalizes else {})

    def own_parameters(self) -> Params:
        """Return the parameters of the convolutions, by names for :meth:`features`."""
        return {f"{_PREFIX}{name}": x for name, x in self.networks.named_parameters()}

    def features(
        self, params: Params, stored: Shaped[Tensor, "task step observation"]
    ) -> Float[Tensor, "task step feature"]:
        """Return the features by each task's own convolutions, or by the shared ones.

        Args:
            params: parameters ``[task, …]``, which may have all of :meth:`own_parameters`.
            stored: what :meth:`stored` returned.
        """
        own = {k.removeprefix(_PREFIX): x for k, x in params.items() if k.startswith(_PREFIX)}
        return self.per_task(own, stored) if own else self(stored)

    def forward(
        self, stored: Shaped[Tensor, "*batch observation"]
    ) -> Float[Tensor, "*batch feature"]:
        """Return the features of what :meth:`stored` returned."""
        if not self.convolves:
            return stored
        batch = stored.shape[:-1]
        features = [self.normalizer(self.plain(stored))]
        for image, network in zip(self.images, self.networks, strict=True):
            planes = _planes(stored, image).flatten(0, len(batch) - 1)
            features.append(network(planes).reshape(*batch, -1))
        return torch.cat(features, -1)

    def per_task(
        self, params: Params, stored: Shaped[Tensor, "task step observation"]
    ) -> Float[Tensor, "task step feature"]:
        """Return the features of :meth:`forward`, with each task's own parameters.

        Args:
            params: parameters ``[task, …]`` by the names that ``networks`` has for them.
            stored: what :meth:`stored` returned.
        """
        features = [self.normalizer(self.plain(stored))]
        for i, (image, network) in enumerate(zip(self.images, self.networks, strict=True)):
            own = {k.removeprefix(f"{i}."): x for k, x in params.items() if k.startswith(f"{i}.")}
            per_task = cast(ImageNetwork, network).per_task
            features.append(per_task(own, _planes(stored, image)))
        return torch.cat(features, -1)


def byte_divisor(
    size: int, images: Sequence[Image], bytes_: bool
) -> Float[Tensor, " observation"] | None:
    """Return what brings flat observations into [0, 1] where they are bytes; None for others.

    Beside an image, bytes are one-hot vectors, and need no scaling.

    Args:
        size: the numbers of an observation.
        images: where images are in it.
        bytes_: whether its numbers are bytes.
    """
    if not images:
        return torch.full((size,), 255.0) if bytes_ else None
    divisor = torch.ones(size)
    for image in images:
        divisor[image.first : image.first + image.size] = 255.0
    return divisor


def vector_normalizer(spec: EncodedSpec, more: int = 0) -> ObservationNormalizer:
    """Return the scaling of observations that are taken as vectors.

    Args:
        spec: the agent's :class:`metarl.TaskSpec`.
        more: how many numbers are appended to observations.
    """
    size = observation_size(spec.observation_space)
    divisor = byte_divisor(size, spec.images or (), has_bytes(spec.observation_space))
    if divisor is not None:
        divisor = torch.cat([divisor, torch.ones(more)])
    return ObservationNormalizer(size + more, divisor)


def make_encoder(
    config: EncoderConfig, spec: EncodedSpec, normalize: bool, generator: torch.Generator
) -> Encoder:
    """Return the encoder of an agent's observations; :class:`Encoder` describes the arguments.

    Args:
        config: the kind of encoder.
        spec: the agent's :class:`metarl.TaskSpec`.
        normalize: whether numbers are normalised.
        generator: weights are drawn from it.
    """
    space = spec.observation_space
    given = observation_size(space), spec.images or (), has_bytes(space), normalize
    return Encoder(config, *given, generator)


def _planes(
    observation: Shaped[Tensor, "*batch observation"], image: Image
) -> Shaped[Tensor, "*batch channel row column"]:
    """Return an image of flat observations with its channels first, in [0, 1]."""
    batch = observation.shape[:-1]
    flat = observation[..., image.first : image.first + image.size]
    shaped = flat.reshape(*batch, *image.shape)
    channels, row, column = (
        tuple(len(batch) + i for i in axes) if isinstance(axes, tuple) else len(batch) + axes
        for axes in image.axes
    )
    order = (*range(len(batch)), *cast(tuple[int, ...], channels), row, column)
    planes = shaped.permute(*cast(tuple[int, ...], order)).reshape(*batch, *image.planes)
    return planes.float() / 255

"""A policy with memory: an encoder, a core and a head, step by step and in sequences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeAlias, cast, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from metarl.experience.agent import TaskSpec, TrialShape
from metarl.experience.data import Chunks, Context, Stream, Timestep
from metarl.learning.core_base import State, past
from metarl.learning.core_config import CoreConfig
from metarl.learning.cores import make_core
from metarl.learning.encoders import EncoderConfig, make_encoder
from metarl.learning.heads import HeadConfig, HeadOutput, make_head
from metarl.stepping.actions import ActionCodec

Inputs: TypeAlias = tuple[tuple[Tensor, Tensor], State]
"""What the encoder sees of sequences, what the core sees besides, and the core's states."""


@runtime_checkable
class SequenceConfig(Protocol):
    """The settings of a policy with memory, which an agent's config has beside its own."""

    @property
    def normalize_observations(self) -> bool:
        """Whether observations are normalised by what was trained on."""

    @property
    def observed_reward_scale(self) -> float:
        """The factor on the reward that the core sees."""

    @property
    def chunk_length(self) -> int | None:
        """The number of steps that gradients flow back through."""

    @property
    def encoder(self) -> EncoderConfig:
        """The network that sees observations first."""

    @property
    def core(self) -> CoreConfig:
        """The network that remembers a trial."""

    @property
    def head(self) -> HeadConfig:
        """The layers from the summary to the actions."""


class SequencePolicy:
    """An encoder, a core that remembers a trial, and a head that acts on what it remembers.

    Args:
        config: the settings of the parts.
        spec: what is common to the tasks.
        shape: the episodes of a trial.
        generator: weights are drawn from it, those of the encoder first and of the head last.
        critic: whether the head has a value.
        device: where the tensors live.
    """

    def __init__(
        self,
        config: SequenceConfig,
        spec: TaskSpec,
        shape: TrialShape,
        generator: torch.Generator,
        critic: bool,
        device: torch.device,
    ) -> None:
        self.config, self.device, self.codec = config, device, ActionCodec(spec.action_space)
        normalize = config.normalize_observations
        # One episode more than in training: what was learned is often used in a further one.
        steps = (shape.num_episodes + 1) * spec.horizon
        self.encoder = make_encoder(config.encoder, spec, normalize, generator).to(device)
        sizes = self.encoder.size, self.codec, generator
        self.core = make_core(config.core, *sizes, steps).to(device)
        self.head = make_head(config.head, self.core, *sizes, critic).to(device)
        chunked = config.chunk_length is not None
        self.records = chunked and self.core.records
        """Whether ``act`` records the context, with which chunks begin."""
        self.lookback = self.core.lookback if chunked else 0
        """The number of steps before a chunk that are computed again."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return everything that is trained."""
        for part in (self.encoder, self.core, self.head):
            yield from part.parameters()

    def saved(self) -> dict[str, nn.Module]:
        """Return what there is to save, by name."""
        return {"core": self.core, "head": self.head, **self.encoder.saved()}

    def seen(
        self, steps: Timestep | Stream
    ) -> tuple[Shaped[Tensor, "row time observation"], Float[Tensor, "row time input"]]:
        """Return the encoder's input, and what the core sees besides the features."""
        reward = self.config.observed_reward_scale * steps.previous_reward
        return self.encoder.stored(steps.observation), past(reward, steps, self.codec)

    def step(self, context: Context, timestep: Timestep) -> tuple[HeadOutput, Context]:
        """Return what the head says ``[task, lane, …]``, and the next context; idle rows keep it.

        A task has one lane.
        """
        stored, before = self.seen(timestep)
        features = self.encoder(stored)
        inputs = torch.cat([features, before], -1).squeeze(1)
        summary, context = self.core.step(inputs, context, timestep.active.squeeze(1))
        return cast(HeadOutput, self.head(summary.unsqueeze(1), features)), context

    def cut(self, stream: Stream) -> tuple[Chunks, Inputs]:
        """Cut trials into chunks, each with what it begins with: a recorded state or its past."""
        chunks = stream.chunks(self.config.chunk_length)
        stored, before = (chunks.cut(x, self.lookback) for x in self.seen(stream))
        if self.records:
            return chunks, ((stored, before), chunks.first(stream.record["state"]))
        return chunks, ((stored, before), self.core.recomputed(chunks.start - self.lookback))

    def __call__(self, inputs: Inputs) -> HeadOutput:
        """Return what the head says about every step of the chunks that :meth:`cut` made."""
        (stored, before), state = inputs
        features = self.encoder(stored)
        summary = self.core.sequence(torch.cat([features, before], -1), state)
        new = slice(self.lookback, None)
        return cast(HeadOutput, self.head(summary[:, new], features[:, new]))

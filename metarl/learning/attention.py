"""Cores that attend to the steps of a trial: a transformer, and a graph of its transitions."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from metarl.errors import bad_option
from metarl.learning.core_base import Core, input_size
from metarl.learning.core_config import ATTENTION_HEADS, NUM_LAYERS, CoreConfig
from metarl.learning.networks import mlp, orthogonal
from metarl.stepping.actions import ActionCodec


class Memory(NamedTuple):
    """The key-value cache of trials in a batch.

    A memory is a value, as every context is, although ``step`` writes into its cache in place: it
    does so only at places that no other memory counts, and takes a copy otherwise.
    """

    length: Int[Tensor, " row"]
    """The number of steps so far."""
    written: Int[Tensor, " row"]
    """The number of steps that have been written into the cache, by this memory or by one that went
    on from it; memories with the same cache share this tensor."""
    cache: Float[Tensor, "row layer slot keys_and_values"]
    """Keys and values of the last steps; step t is in slot t modulo the number of slots."""
    query: Float[Tensor, "row layer size"]
    """The queries of the last step."""
    summary: Float[Tensor, "row summary"]
    """The summary of the last step."""
    observation: Float[Tensor, "row observation"]
    """The observation of the last step, if transitions are remembered."""


class Attention(Core):
    """What cores with attention have in common: an embedding, a cache, and one way to attend.

    Args:
        config: the sizes.
        inputs: the number of inputs of a step.
        remembered: how many numbers of the last observation are remembered.
        slots: the number of steps that are remembered.
        layers: the number of layers.
        generator: weights are drawn from it.
    """

    records = False
    """False: the state at a chunk's first step is not recorded."""
    lookback = 0
    """The number of steps before a chunk that are computed again with it."""

    def __init__(
        self,
        config: CoreConfig,
        inputs: int,
        remembered: int,
        slots: int,
        layers: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.width, self.slots, self.layers = config.hidden_size, slots, layers
        self.heads = config.attention_heads or ATTENTION_HEADS
        self.qkv_size = self.heads * math.ceil(self.width / self.heads)
        self.remembered, self.windowed = remembered, config.window is not None
        self.warned = False
        self.bias: nn.Parameter | None = None
        self.encoder = mlp(inputs, config.encoder_sizes, generator)
        size = config.encoder_sizes[-1] if config.encoder_sizes else inputs
        self.embedding = orthogonal(nn.Linear(size, self.width), 1.0, generator)
        self.observation_at = self.summary_size = self.width

    def begin(self, rows: int) -> Memory:
        """Return the memories at the start of trials, with places for all steps to come."""
        return self._empty(torch.zeros(rows, dtype=torch.long), self.slots)

    def recomputed(self, first: Int[Tensor, " row"]) -> Memory:
        """Return memories without places: what sequences begin with in an update.

        Args:
            first: the number of each row's first step in its trial; those below 0 are padding.
        """
        return self._empty(first, 0)

    def _empty(self, length: Int[Tensor, " row"], slots: int) -> Memory:
        device, rows = self.embedding.weight.device, len(length)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(rows, *shape, device=device)

        length = length.to(device)
        return Memory(
            length=length,
            written=length.clone(),
            cache=zeros(self.layers, slots, 2 * self.qkv_size),
            query=zeros(self.layers, self.qkv_size),
            summary=zeros(self.summary_size),
            observation=zeros(self.remembered),
        )

    def require_no_cache(self, memory: Memory) -> None:
        """Refuse a memory of acting, whose cache a sequence does not look at."""
        if memory.cache.shape[2]:
            raise ValueError("sequence begins with what recomputed() returned, not with a cache")

    def attend(
        self,
        query: Float[Tensor, "row queries size"],
        cache: Float[Tensor, "row step keys_and_values"],
        mask: Tensor | None,
    ) -> Float[Tensor, "row queries size"]:
        """Return what the queries read; without a mask, every step and those before it."""
        key, value = cache.chunk(2, -1)
        q, k, v = (in_heads(x, self.heads).transpose(1, 2) for x in (query, key, value))
        read = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return read.transpose(1, 2).flatten(2)

    def writable(self, memory: Memory) -> Memory:
        """Return the memory, or a copy if another one counts the places that a step writes to.

        A cache that is full has no other places, so that each step takes a copy.
        """
        longest = int(memory.length.max())
        if longest >= self.slots and not self.windowed and not self.warned:
            self.warned = True
            warnings.warn(
                f"trials are longer than those of training: attention sees their last {self.slots} "
                "steps",
                stacklevel=3,
            )
        if longest < self.slots and bool((memory.written == memory.length).all()):
            return memory
        slots = torch.arange(self.slots, device=memory.length.device)
        old = (slots < memory.length.unsqueeze(-1))[:, None, :, None]
        cache = torch.where(old, memory.cache, 0.0)
        return memory._replace(cache=cache, written=memory.length.clone())

    def distances(
        self, length: Int[Tensor, " row"]
    ) -> tuple[Int[Tensor, "row slot"], Bool[Tensor, "row slot"]]:
        """Return how long ago each slot was written, seen from step ``length``, and which were.

        Slots that no trial has reached are left out.
        """
        number = min(int(length.max()) + 1, self.slots)
        slots = torch.arange(number, device=length.device)
        distance = (length.unsqueeze(-1) - slots) % self.slots
        return distance, distance <= length.unsqueeze(-1)

    def write(
        self,
        memory: Memory,
        layer: int,
        entry: Float[Tensor, "row keys_and_values"],
        active: Bool[Tensor, " row"],
    ) -> Float[Tensor, "row slot keys_and_values"]:
        """Write the present step's keys and values into the cache; return that layer of it."""
        rows = torch.arange(len(entry), device=entry.device)
        place = rows, layer, memory.length % self.slots
        memory.cache[place] = torch.where(active.unsqueeze(-1), entry, memory.cache[place])
        return memory.cache[:, layer]

    def after(
        self,
        memory: Memory,
        query: Float[Tensor, "row layer size"],
        summary: Float[Tensor, "row summary"],
        inputs: Float[Tensor, "row input"],
        active: Bool[Tensor, " row"],
    ) -> Memory:
        """Return the memory after a step; idle rows keep theirs."""
        length, row = memory.length + active, active.unsqueeze(-1)
        memory.written.copy_(length)
        return memory._replace(
            length=length,
            query=torch.where(row.unsqueeze(-1), query, memory.query),
            summary=torch.where(row, summary, memory.summary),
            observation=torch.where(row, inputs[:, : self.remembered], memory.observation),
        )

    def weights(self, memory: Memory) -> Float[Tensor, "row layer head distance"]:
        """Return how much the last step looked at the steps 0, 1, 2 … before it."""
        last = (memory.length - 1).clamp(min=0)
        ago = torch.arange(self.slots, device=last.device)
        slot = (last.unsqueeze(-1) - ago) % self.slots
        place = slot[:, None, :, None].expand(-1, self.layers, -1, self.qkv_size)
        keys = memory.cache[..., : self.qkv_size].gather(2, place)
        q, k = in_heads(memory.query, self.heads), in_heads(keys, self.heads)
        score = torch.einsum("rlhd,rlshd->rlhs", q, k) / math.sqrt(q.shape[-1])
        if self.bias is not None:
            score = score + self.bias
        unseen = ago > last.unsqueeze(-1)
        return score.masked_fill(unseen[:, None, None], -math.inf).softmax(-1)

    def insight(self, memory: Memory) -> dict[str, Tensor]:
        """Return the last summary, and the attention behind it by steps before the last one.

        The attention ``[row, layer, distance]`` is a mean over heads.
        """
        return {"summary": memory.summary, "attention": self.weights(memory).mean(2)}


class Layer(nn.Module):
    """A layer of a transformer: attention, then two linear layers, both added to what comes in.

    It is normalised before both (Xiong et al., 2020, 2002.04745), and again after the attention and
    inside the linear layers, with a learned factor for each head (NormFormer: Shleifer et al.,
    2021, 2110.09456).
    """

    def __init__(self, width: int, heads: int, qkv_size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.attention_norm, self.after_attention_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = orthogonal(nn.Linear(width, qkv_size), 1.0, generator)
        self.entry = orthogonal(nn.Linear(width, 2 * qkv_size), 1.0, generator)
        self.head_scale = nn.Parameter(torch.ones(heads, 1))
        self.out = orthogonal(nn.Linear(qkv_size, width), 1.0, generator)
        self.feed_forward_norm, self.inner_norm = nn.LayerNorm(width), nn.LayerNorm(4 * width)
        self.up = orthogonal(nn.Linear(width, 4 * width), math.sqrt(2), generator)
        self.down = orthogonal(nn.Linear(4 * width, width), 1.0, generator)

    def queries(self, x: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch query"]:
        """Return the queries of steps."""
        return cast(Tensor, self.query(self.attention_norm(x)))

    def entries(self, x: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch keys_and_values"]:
        """Return the keys and values of steps, as they are written into a cache."""
        return cast(Tensor, self.entry(self.attention_norm(x)))

    def forward(
        self, x: Float[Tensor, "*batch size"], read: Float[Tensor, "*batch query"]
    ) -> Float[Tensor, "*batch size"]:
        """Return the layer's output for steps that have read ``read``."""
        scaled = (in_heads(read, len(self.head_scale)) * self.head_scale).flatten(-2)
        x = x + self.after_attention_norm(self.out(scaled))
        inner = self.inner_norm(nn.functional.gelu(self.up(self.feed_forward_norm(x))))
        out: Tensor = x + self.down(inner)
        return out


class Transformer(Attention):
    """A causal transformer over the steps of a trial, or over the last of them in every layer.

    While it acts it keeps the keys and values of ``slots`` steps, so that a step costs as much as
    there are steps to look at; memory is 2 × layers × slots × size numbers a task. An update
    computes all steps of a sequence at once; a chunk repeats the steps before it that it depends on
    (:attr:`lookback`).
    """

    def __init__(
        self,
        config: CoreConfig,
        observation_size: int,
        codec: ActionCodec,
        generator: torch.Generator,
        trial_steps: int | None = None,
    ) -> None:
        slots, layers = config.window or trial_steps, config.num_layers or NUM_LAYERS
        if slots is None:
            accepted = "a number of steps, since nothing says how many a trial has"
            raise bad_option("--window", None, accepted)
        inputs = input_size(observation_size, codec)
        super().__init__(config, inputs, 0, slots, layers, generator)
        if self.windowed:  # Before a trial there is nothing to look at.
            self.lookback = min(layers * (slots - 1), trial_steps or layers * slots)
        sizes = self.width, self.heads, self.qkv_size
        self.blocks = nn.ModuleList(Layer(*sizes, generator) for _ in range(layers))
        self.last_norm = nn.LayerNorm(self.width)
        learned = config.positions == "learned"
        if learned:
            self.bias = nn.Parameter(torch.zeros(self.heads, slots))

    def embed(
        self, inputs: Float[Tensor, "*batch input"], position: Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch size"]:
        """Return what goes into the first layer."""
        x = self.embedding(self.encoder(inputs))
        return cast(Tensor, x if self.bias is not None else x + sinusoids(position, self.width))

    @torch.no_grad()
    def step(
        self, inputs: Float[Tensor, "row input"], memory: Memory, active: Bool[Tensor, " row"]
    ) -> tuple[Float[Tensor, "row summary"], Memory]:
        """Return the summary after one step, and the next memory; idle rows keep theirs."""
        memory, queries = self.writable(memory), []
        x = self.embed(inputs, memory.length)
        distance, seen = self.distances(memory.length)
        mask = self._mask(distance, seen).unsqueeze(-2)
        for i, block in enumerate(self.blocks):
            layer = cast(Layer, block)
            query, entry = layer.queries(x), layer.entries(x)
            cache = self.write(memory, i, entry, active)[:, : seen.shape[-1]]
            x = layer(x, self.attend(query.unsqueeze(1), cache, mask).squeeze(1))
            queries.append(query)
        summary = self.last_norm(x)
        return summary, self.after(memory, torch.stack(queries, 1), summary, inputs, active)

    def sequence(
        self, inputs: Float[Tensor, "row time input"], memory: Memory
    ) -> Float[Tensor, "row time summary"]:
        """Return the summary after every step of sequences that begin without a cache.

        Args:
            inputs: the inputs of the steps.
            memory: what :meth:`recomputed` returned.
        """
        self.require_no_cache(memory)
        steps = torch.arange(inputs.shape[1], device=inputs.device)
        position = memory.length.unsqueeze(-1) + steps
        mask = None
        if self.windowed or self.bias is not None:
            distance = steps.unsqueeze(-1) - steps
            seen = ((distance >= 0) & (distance < self.slots)).unsqueeze(0)
            if self.windowed:  # Chunks begin with padding, which sees itself alone.
                seen = seen & ((position >= 0).unsqueeze(-2) | (distance == 0))
            mask = self._mask(distance.clamp(0, self.slots - 1), seen)
        x = self.embed(inputs, position.clamp(min=0))
        for block in self.blocks:
            layer = cast(Layer, block)
            query, entry = layer.queries(x), layer.entries(x)
            x = layer(x, self.attend(query, entry, mask))
        return cast(Tensor, self.last_norm(x))

    def _mask(
        self, distance: Int[Tensor, "*shape"], seen: Bool[Tensor, "*rows"]
    ) -> Shaped[Tensor, "*mask"]:
        """Return what is added to the attention, or where it may look: ``[row, head, …]``."""
        if self.bias is None:
            return seen.unsqueeze(1)
        bias = self.bias[:, distance]
        bias = bias.unsqueeze(0) if distance.ndim < seen.ndim else bias.transpose(0, 1)
        return torch.where(seen.unsqueeze(1), bias, -math.inf)


class Graph(Attention):
    """The smallest graph network over a trial: messages from all transitions into the present.

    The nodes are the transitions so far. Each sends a message to the node of the present
    observation, weighed by attention; how many there are is known besides, since weights that sum
    to 1 do not tell. One round: what one transition says does not depend on the others, so that
    their order changes nothing, and a step costs as much as there are transitions. (Graph networks:
    Battaglia et al., 2018, 1806.01261; attention as an edge: Veličković et al., 2018, 1710.10903.)
    """

    def __init__(
        self,
        config: CoreConfig,
        observation_size: int,
        codec: ActionCodec,
        generator: torch.Generator,
        trial_steps: int | None = None,
    ) -> None:
        if trial_steps is None:
            raise ValueError("--core graph: trial_steps has to say how many steps a trial has")
        inputs = input_size(observation_size, codec) + observation_size
        super().__init__(config, inputs, observation_size, trial_steps, 1, generator)
        self.present = orthogonal(nn.Linear(observation_size + 1, self.width), 1.0, generator)
        self.block = Layer(self.width, self.heads, self.qkv_size, generator)
        self.last_norm = nn.LayerNorm(self.width)

    def nodes(
        self,
        inputs: Float[Tensor, "*batch input"],
        previous: Float[Tensor, "*batch observation"],
        position: Int[Tensor, "*batch"],
    ) -> tuple[Float[Tensor, "*batch size"], Float[Tensor, "*batch size"]]:
        """Return the nodes of the present observations, and those of the transitions to them."""
        number = torch.log1p(position.to(inputs.dtype)).unsqueeze(-1)
        present = self.present(torch.cat([inputs[..., : self.remembered], number], -1))
        return present, self.embedding(self.encoder(torch.cat([inputs, previous], -1)))

    @torch.no_grad()
    def step(
        self, inputs: Float[Tensor, "row input"], memory: Memory, active: Bool[Tensor, " row"]
    ) -> tuple[Float[Tensor, "row summary"], Memory]:
        """Return the summary after one step, and the next memory; idle rows keep theirs."""
        memory = self.writable(memory)
        present, transition = self.nodes(inputs, memory.observation, memory.length)
        query, entry = self.block.queries(present), self.block.entries(transition)
        _, seen = self.distances(memory.length)
        cache = self.write(memory, 0, entry, active)[:, : seen.shape[-1]]
        read = self.attend(query.unsqueeze(1), cache, seen[:, None, None]).squeeze(1)
        summary = self.last_norm(self.block(present, read))
        return summary, self.after(memory, query.unsqueeze(1), summary, inputs, active)

    def sequence(
        self, inputs: Float[Tensor, "row time input"], memory: Memory
    ) -> Float[Tensor, "row time summary"]:
        """Return the summary after every step of whole trials.

        Args:
            inputs: the inputs of the steps.
            memory: what :meth:`recomputed` returned.
        """
        self.require_no_cache(memory)
        steps = torch.arange(inputs.shape[1], device=inputs.device)
        position = memory.length.unsqueeze(-1) + steps
        observation = inputs[..., : self.remembered]
        previous = torch.cat([memory.observation.unsqueeze(1), observation[:, :-1]], 1)
        present, transition = self.nodes(inputs, previous, position)
        query, entry = self.block.queries(present), self.block.entries(transition)
        read = self.attend(query, entry, None)
        return cast(Tensor, self.last_norm(self.block(present, read)))


def in_heads(x: Float[Tensor, "*batch size"], heads: int) -> Float[Tensor, "*batch head part"]:
    """Return numbers as a row for each head of attention."""
    return x.reshape(*x.shape[:-1], heads, -1)


def sinusoids(position: Int[Tensor, "*batch"], size: int) -> Float[Tensor, "*batch size"]:
    """Return sines and cosines of a step's number (Vaswani et al., 2017, 1706.03762, section 3.5).

    >>> sinusoids(torch.tensor([0]), 4).tolist()
    [[0.0, 0.0, 1.0, 1.0]]
    """
    half = math.ceil(size / 2)
    angle = position.unsqueeze(-1) * 1e-4 ** (torch.arange(half, device=position.device) / half)
    return torch.cat([angle.sin(), angle.cos()], -1)[..., :size]

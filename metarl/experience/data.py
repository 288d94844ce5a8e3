"""Experience: what agents see, and what is gathered.

Arrays of experience are ``[task, episode, time, …]``; those of one moment are
``[task, lane, …]``, where a lane is a slot that works for a task. Padding is marked by
``valid``; nothing is called "done".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl.errors import DivergenceError, bad_option
from metarl.task import Task

Context: TypeAlias = Any
"""What an agent has learned about its tasks: a tree (tuples, dicts, NamedTuples) of tensors
whose first axis is the task. Opaque to all but the agent, which never writes into one."""


Record: TypeAlias = dict[str, Tensor]
"""What an agent wants back in ``update``: tensors ``[task, lane, …]`` of one step."""


Metrics: TypeAlias = dict[str, float]


class Timestep(NamedTuple):
    """What an agent sees when it acts."""

    observation: Float[Tensor, "task lane observation"]
    """Flattened."""
    previous_action: Shaped[Tensor, "task lane *action"]
    """As it was taken: clipped to [-1, 1], or an integer; zero at ``trial_start``."""
    previous_reward: Float[Tensor, "task lane"]
    """The environment's; zero at ``trial_start``."""
    boundary: Bool[Tensor, "task lane"]
    """First step of an episode: ``previous_*`` are the last of the episode before."""
    trial_start: Bool[Tensor, "task lane"]
    """First step of a trial (of every episode, for agents that are not sequential)."""
    active: Bool[Tensor, "task lane"]
    """Where False the action is ignored and the row of the context stays as it is."""


class Episodes(NamedTuple):
    """One round of experience."""

    observation: Float[Tensor, "task episode time observation"]
    action: Shaped[Tensor, "task episode time *action"]
    """As sampled: log-probabilities are of this one."""
    taken: Shaped[Tensor, "task episode time *action"]
    """As the environment took it, in policy units."""
    reward: Float[Tensor, "task episode time"]
    terminated: Bool[Tensor, "task episode time"]
    truncated: Bool[Tensor, "task episode time"]
    valid: Bool[Tensor, "task episode time"]
    record: Record
    final_observation: Float[Tensor, "task episode observation"]
    """What the last step of an episode returned: what a truncated value is bootstrapped from."""
    metrics: dict[str, Tensor]
    """``[task, episode]``: ``return``, ``length``, and the distribution's ``info_keys``
    (``success`` if it was reached at any step, others averaged over the steps)."""


class Stream(NamedTuple):
    """A trial as one sequence per task: valid steps packed to the left, episodes joined."""

    observation: Float[Tensor, "task time observation"]
    action: Shaped[Tensor, "task time *action"]
    previous_action: Shaped[Tensor, "task time *action"]
    previous_reward: Float[Tensor, "task time"]
    reward: Float[Tensor, "task time"]
    boundary: Bool[Tensor, "task time"]
    trial_start: Bool[Tensor, "task time"]
    terminated: Bool[Tensor, "task time"]
    truncated: Bool[Tensor, "task time"]
    valid: Bool[Tensor, "task time"]
    record: Record


class Trial(NamedTuple):
    """Everything an agent lived through with some tasks."""

    tasks: list[Task]
    rounds: list[Episodes]
    """One per adaptation, and one after the last."""
    context: Context
    """After the last adaptation and, for sequential agents, the last episode."""

    @property
    def env_steps(self) -> int:
        """Number of environment steps taken."""
        return sum(int(episodes.valid.sum()) for episodes in self.rounds)

    def stream(self) -> Stream:
        """Join all episodes of all rounds: what recurrent agents train on."""
        merged = join_episodes(self.rounds)
        tasks, episodes, time = merged.valid.shape

        def flat(x: Tensor) -> Tensor:
            return x.reshape(tasks, episodes * time, *x.shape[3:])

        valid = flat(merged.valid)
        length = int(valid.sum(1).max())
        first = torch.zeros_like(merged.valid)
        first[:, :, 0] = merged.valid[:, :, 0]
        if bool(valid.all()):

            def pack(x: Tensor) -> Tensor:
                return flat(x)

        else:
            order = (~valid).to(torch.int8).argsort(dim=1, stable=True)[:, :length]

            def pack(x: Tensor) -> Tensor:
                x = flat(x)
                index = order.to(x.device).reshape(tasks, length, *[1] * (x.ndim - 2))
                return x.gather(1, index.expand(-1, -1, *x.shape[2:]))

        def shift(x: Tensor) -> Tensor:
            return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)

        reward, boundary = pack(merged.reward), pack(first)
        trial_start = torch.zeros_like(boundary)
        trial_start[:, 0] = True
        return Stream(
            observation=pack(merged.observation),
            action=pack(merged.action),
            previous_action=shift(pack(merged.taken)),
            previous_reward=shift(reward),
            reward=reward,
            boundary=boundary,
            trial_start=trial_start,
            terminated=pack(merged.terminated),
            truncated=pack(merged.truncated),
            valid=pack(merged.valid),
            record={name: pack(x) for name, x in merged.record.items()},
        )


def require_finite(where: str, values: Shaped[Tensor, "task ..."], tasks: Sequence[Task]) -> None:
    """Refuse to go on where a task's numbers are not finite.

    Raises:
        DivergenceError: it names ``where`` and the first such task.
    """
    with torch.no_grad():
        if values.is_floating_point() and not values.isfinite().all():
            bad = ~values.isfinite().reshape(len(values), -1).all(1)
            raise DivergenceError(where, tasks[int(bad.nonzero()[0])])


def episodes_of(fields: dict[str, Tensor], final_observation: Tensor) -> Episodes:
    """Name the fields, and reduce an episode's steps to its metrics."""
    reward, valid = fields["reward"], fields["valid"]
    length = valid.sum(-1)
    metrics = {"return": reward.sum(-1), "length": length.float()}
    taken = [name for name in metrics if f"info.{name}" in fields]
    if taken:
        raise bad_option("info_keys", taken[0], "other names: an episode's own metric is called so")
    for name, value in fields.items():
        if name == "info.success":
            metrics["success"] = (value > 0).any(-1).float()
        elif name.startswith("info."):
            metrics[name[5:]] = (value.sum(-1) / length.clamp(min=1)).float()
    return Episodes(
        observation=fields["observation"],
        action=fields["action"],
        taken=fields["taken"],
        reward=reward,
        terminated=fields["terminated"],
        truncated=fields["truncated"],
        valid=valid,
        record={k[7:]: v for k, v in fields.items() if k.startswith("record.")},
        final_observation=final_observation,
        metrics=metrics,
    )


def join_episodes(rounds: Sequence[Episodes]) -> Episodes:
    """Join rounds of the same tasks along the episode axis, times padded to the longest."""
    return join(rounds, axis=1)


def join(parts: Sequence[Episodes], axis: int) -> Episodes:
    """Join episodes along the task (0) or episode (1) axis, times padded to the longest."""
    if len(parts) == 1:
        return parts[0]
    longest = max(part.valid.shape[2] for part in parts)

    def padded(x: Tensor) -> Tensor:
        missing = longest - x.shape[2]
        if missing == 0:
            return x
        return torch.cat([x, x.new_zeros((*x.shape[:2], missing, *x.shape[3:]))], dim=2)

    even = []
    for part in parts:
        fields: dict[str, Any] = {name: padded(getattr(part, name)) for name in _TIMED}
        fields["record"] = {name: padded(x) for name, x in part.record.items()}
        even.append(part._replace(**fields))
    joined = pytree.tree_map(lambda *xs: torch.cat(xs, dim=axis), *even)
    return cast(Episodes, joined)


_TIMED = Episodes._fields[: Episodes._fields.index("record")]


def take_rows(tree: Any, rows: slice) -> Any:
    """Return some rows of every tensor of a tree; None stays None."""
    if tree is None:
        return None
    return pytree.tree_map(lambda x: x[rows], tree)


def concatenate_rows(trees: Sequence[Any]) -> Any:
    """Join the rows of trees of equal structure."""
    if len(trees) == 1:
        return trees[0]
    return pytree.tree_map(lambda *xs: torch.cat(xs), *trees)

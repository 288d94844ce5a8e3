"""Experience: what agents see, and what is gathered.

Arrays of experience are ``[task, episode, time, …]``; those of one moment are
``[task, lane, …]``, where a lane is a slot that works for a task. Padding is marked by
``valid``; nothing is called "done".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl.errors import bad_option
from metarl.learning.losses import require_finite as require_finite  # part of the public names
from metarl.stepping.disturbances import OWN_REWARD
from metarl.task import Task

Context: TypeAlias = Any
"""All that an agent has learned about its tasks so far: a tree (tuples, dicts, NamedTuples) of
tensors whose first axis is the task. It is opaque to everyone but the agent. It is a value: what a
context means does not change, whatever is done with it."""

Record: TypeAlias = dict[str, Tensor]
"""The tensors ``[task, lane, …]`` of one step that an agent wants back in ``update``, by name."""

Metrics: TypeAlias = dict[str, float]
"""Numbers to log, by name."""


class Timestep(NamedTuple):
    """What an agent sees when it acts.

    >>> from metarl.seeding import LaneGenerator
    >>> here = torch.ones(3, 1, dtype=torch.bool)  # three tasks, one lane each
    >>> timestep = metarl.Timestep(
    ...     observation=torch.zeros(3, 1, 1),
    ...     previous_action=torch.zeros(3, 1, dtype=torch.int64),
    ...     previous_reward=torch.zeros(3, 1),
    ...     boundary=here,
    ...     trial_start=here,
    ...     active=here,
    ... )
    >>> agent = metarl.load("runs/first")
    >>> generator = LaneGenerator(np.arange(3, dtype=np.uint64).reshape(3, 1))
    >>> action, record, context = agent.act(agent.begin(3), timestep, generator)
    >>> action.shape
    torch.Size([3, 1])
    """

    observation: Shaped[Tensor, "task lane observation"]
    """The environment's observation, flattened: float32, or bytes (uint8) where the environment's
    are, as in images."""
    previous_action: Shaped[Tensor, "task lane *action"]
    """The action taken before, as it was taken: clipped to [-1, 1], or an integer. It is zero at
    ``trial_start``."""
    previous_reward: Float[Tensor, "task lane"]
    """The environment's reward for that action; it is zero at ``trial_start``."""
    boundary: Bool[Tensor, "task lane"]
    """True at the first step of an episode: ``previous_*`` are the last of the episode before."""
    trial_start: Bool[Tensor, "task lane"]
    """True at the first step of a trial (of every episode, for agents that are not sequential)."""
    active: Bool[Tensor, "task lane"]
    """False where the action is ignored and the row of the context must stay as it is."""


class Episodes(NamedTuple):
    """One round of experience.

    >>> def look(iteration, trial, metrics):  # called after every update
    ...     for episodes in trial.rounds:
    ...         print(list(episodes.reward.shape), sorted(episodes.metrics))
    ...     return False  # ends the training
    >>> sizes = {"tasks_per_update": 2, "validation_tasks": 2, "evaluation_tasks": 2}
    >>> run = metarl.train("maml-ppo", env="navigation", callback=look, check=False, **sizes)
    [2, 20, 100] ['length', 'return']
    [2, 20, 100] ['length', 'return']
    [2, 20, 100] ['length', 'return']
    """

    observation: Shaped[Tensor, "task episode time observation"]
    """What the agent saw before each action, flattened: float32, or bytes."""
    action: Shaped[Tensor, "task episode time *action"]
    """Actions as they were sampled; log-probabilities belong to these."""
    taken: Shaped[Tensor, "task episode time *action"]
    """Actions as the environment took them, clipped, in policy units."""
    reward: Float[Tensor, "task episode time"]
    """The environment's rewards."""
    terminated: Bool[Tensor, "task episode time"]
    """True at a step after which nothing follows, whatever the time limit."""
    truncated: Bool[Tensor, "task episode time"]
    """True at a step after which the time limit cut the episode off."""
    valid: Bool[Tensor, "task episode time"]
    """True where a step happened, False for padding."""
    record: Record
    """What the agent's ``act`` returned as its record, ``[task, episode, time, …]`` by name."""
    final_observation: Shaped[Tensor, "task episode observation"]
    """The observation after an episode's last step; a truncated value is bootstrapped from it."""
    metrics: dict[str, Float[Tensor, "task episode"]]
    """``return``, ``length``, and what the environment reports in ``info_keys``: ``success`` is 1
    if it was reached at any step, other numbers are averaged over the steps."""
    info: dict[str, Shaped[Tensor, "task episode time ..."]] = {}  # noqa: RUF012  # never written into
    """The numbers that ``info_keys`` names, of every step, under the names they are reported as."""

    def to(self, device: torch.device) -> Episodes:
        """Return the same experience on ``device``."""
        return cast(Episodes, pytree.tree_map(lambda x: x.to(device), self))


class Stream(NamedTuple):
    """A trial as one sequence per task: valid steps packed to the left, episodes joined."""

    observation: Shaped[Tensor, "task time observation"]
    """What the agent saw before each action."""
    action: Shaped[Tensor, "task time *action"]
    """Actions as they were sampled."""
    previous_action: Shaped[Tensor, "task time *action"]
    """The action before, as the environment took it; zero at the first step of the trial."""
    previous_reward: Float[Tensor, "task time"]
    """The reward of the action before; zero at the first step of the trial."""
    reward: Float[Tensor, "task time"]
    """The environment's rewards."""
    next_observation: Shaped[Tensor, "task time observation"]
    """The observation after the step, of the same episode also at its end."""
    boundary: Bool[Tensor, "task time"]
    """True at the first step of an episode."""
    trial_start: Bool[Tensor, "task time"]
    """True at the first step of the trial."""
    terminated: Bool[Tensor, "task time"]
    """True at a step after which nothing follows, whatever the time limit."""
    truncated: Bool[Tensor, "task time"]
    """True at a step after which the time limit cut the episode off."""
    valid: Bool[Tensor, "task time"]
    """True where a step happened, False for padding."""
    record: Record
    """What the agent's ``act`` returned as its record, by name."""
    info: dict[str, Shaped[Tensor, "task time ..."]] = {}  # noqa: RUF012  # never written into
    """The numbers that ``info_keys`` names, of every step."""

    def chunks(self, length: int | None) -> Chunks:
        """Return how the stream is cut into rows of ``length`` steps, or into whole trials."""
        tasks, time = self.valid.shape
        length = length or time
        starts = self.valid[:, ::length].flatten()
        kept = starts.nonzero().squeeze(1)
        each = len(starts) // tasks
        return Chunks(length, kept, kept // each, kept % each * length)


class Chunks(NamedTuple):
    """A cut of a stream's sequences into shorter ones, for truncated backpropagation."""

    length: int
    """The number of steps of a chunk; a trial's last chunk is padded."""
    kept: Int[Tensor, " row"]
    """The numbers of the chunks in which a step happened, among all chunks of all tasks."""
    task: Int[Tensor, " row"]
    """The row of the stream that each chunk was cut from."""
    start: Int[Tensor, " row"]
    """The number of each chunk's first step in its trial."""

    def cut(
        self, x: Shaped[Tensor, "task time ..."], lookback: int = 0
    ) -> Shaped[Tensor, "row length ..."]:
        """Return the chunks of a tensor, padded with zeros.

        Args:
            x: the tensor.
            lookback: the number of steps before a chunk that are returned with it; before a trial
                they are zeros.
        """
        missing = -x.shape[1] % self.length
        if missing or lookback:
            before, after = (x.new_zeros((len(x), n, *x.shape[2:])) for n in (lookback, missing))
            x = torch.cat([before, x, after], 1)
        if lookback:
            # The windows' axis comes last.
            x = x.unfold(1, lookback + self.length, self.length).movedim(-1, 2)
            return x.flatten(0, 1)[self.kept]
        return x.reshape(-1, self.length, *x.shape[2:])[self.kept]

    def first(self, x: Shaped[Tensor, "task time ..."]) -> Shaped[Tensor, "row ..."]:
        """Return what a tensor holds at the first step of each chunk."""
        return x[:, :: self.length].flatten(0, 1)[self.kept]


class Change(NamedTuple):
    """Tasks that take the place of a trial's own, which the agent is not told."""

    after: int
    """The number of episodes of every trial that are with its own task."""
    tasks: list[Task]
    """The tasks of the episodes after these, one for each row."""


class Trial(NamedTuple):
    """Everything an agent lived through with some tasks.

    >>> from metarl.experience.lanes import TrialKeys
    >>> from metarl.experience.rollout import run_trial
    >>> from metarl.seeding import Phase
    >>> agent, tasks = metarl.load("runs/first"), metarl.make("bandit/n10-k5")
    >>> drawn = tasks.sample(np.random.default_rng(0), 4, "test")
    >>> keys = TrialKeys(seed=0, phase=Phase.USE, iteration=0, tasks=4)
    >>> trial = run_trial(agent, tasks.make_vec(4), drawn, shape=agent.shape, keys=keys)
    >>> trial.env_steps, len(trial.rounds), trial.rounds[0].reward.shape  # [task, episode, time]
    (40, 1, torch.Size([4, 10, 1]))
    >>> trial.stream().reward.shape  # [task, time], episodes joined
    torch.Size([4, 10])
    """

    tasks: list[Task]
    """The tasks, one for each row of everything else; those of the beginning if they change."""
    rounds: list[Episodes]
    """One round before each adaptation, and one after the last."""
    context: Context
    """What was known after the last adaptation and, for sequential agents, the last episode."""
    seconds: Mapping[str, float] = MappingProxyType({})
    """The time that gathering took: ``step`` in environments, ``act`` in the agent."""
    change: Change | None = None
    """The tasks of later episodes, if the tasks change within the trial."""

    @property
    def env_steps(self) -> int:
        """The number of environment steps taken."""
        return sum(int(episodes.valid.sum()) for episodes in self.rounds)

    def to(self, device: torch.device) -> Trial:
        """Return the trial with its experience on ``device``."""
        return self._replace(rounds=[episodes.to(device) for episodes in self.rounds])

    def stream(self) -> Stream:
        """Join all episodes of all rounds: the sequences that recurrent agents train on."""
        merged = join_episodes(self.rounds)
        valid = merged.valid.flatten(1, 2)
        first = torch.zeros_like(merged.valid)
        first[:, :, 0] = merged.valid[:, :, 0]
        order = None
        if not bool(valid.all()):
            length = int(valid.sum(1).max())
            order = (~valid).to(torch.int8).argsort(dim=1, stable=True)[:, :length]
        pack = partial(_packed, order=order)
        reward, boundary = pack(merged.reward), pack(first)
        trial_start = torch.zeros_like(boundary)
        trial_start[:, 0] = True
        return Stream(
            observation=pack(merged.observation),
            action=pack(merged.action),
            previous_action=_one_later(pack(merged.taken)),
            previous_reward=_one_later(reward),
            reward=reward,
            next_observation=pack(next_observations(merged)),
            boundary=boundary,
            trial_start=trial_start,
            terminated=pack(merged.terminated),
            truncated=pack(merged.truncated),
            valid=pack(merged.valid),
            record={name: pack(x) for name, x in merged.record.items()},
            info={name: pack(x) for name, x in merged.info.items()},
        )


def _packed(
    x: Shaped[Tensor, "task episode time ..."], order: Int[Tensor, "task step"] | None
) -> Shaped[Tensor, "task step ..."]:
    """Return the steps of all episodes in a row: all of them, or those that ``order`` numbers."""
    x = x.flatten(1, 2)
    if order is None:
        return x
    index = order.to(x.device).reshape(*order.shape, *[1] * (x.ndim - 2))
    return x.gather(1, index.expand(-1, -1, *x.shape[2:]))


def _one_later(x: Shaped[Tensor, "task step ..."]) -> Shaped[Tensor, "task step ..."]:
    """Return what there was one step before, and zeros at the first step."""
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)


def newest_trials(trials: Sequence[Trial], env_steps: int) -> list[Trial]:
    """Return the trials that an agent remembers if its ``remembers`` is ``env_steps``.

    Args:
        trials: any trials, oldest first.
        env_steps: a number of environment steps.

    Returns:
        The fewest of the newest trials that together have at least ``env_steps`` steps, oldest
        first; all trials if they have fewer.
    """
    start, steps = len(trials), 0
    while start and steps < env_steps:
        start -= 1
        steps += trials[start].env_steps
    return list(trials[start:])


def next_observations(episodes: Episodes) -> Shaped[Tensor, "task episode time observation"]:
    """Return the observation after every step; where no step was taken it means nothing."""
    later = torch.roll(episodes.observation, -1, dims=2)
    length = episodes.valid.sum(-1)
    steps = torch.arange(episodes.valid.shape[-1], device=length.device)
    last = (steps == (length - 1).unsqueeze(-1)).unsqueeze(-1)
    return torch.where(last, episodes.final_observation.unsqueeze(2), later)


def episodes_of(fields: dict[str, Tensor], final_observation: Tensor) -> Episodes:
    """Name the fields, and reduce an episode's steps to its metrics."""
    reward, valid, info = fields["reward"], fields["valid"], _fields_below("info.", fields)
    return Episodes(
        observation=fields["observation"],
        action=fields["action"],
        taken=fields["taken"],
        reward=reward,
        terminated=fields["terminated"],
        truncated=fields["truncated"],
        valid=valid,
        record=_fields_below("record.", fields),
        info=info,
        final_observation=final_observation,
        metrics=episode_metrics(reward, valid, info),
    )


def episode_metrics(
    reward: Float[Tensor, "task episode time"],
    valid: Bool[Tensor, "task episode time"],
    info: Mapping[str, Shaped[Tensor, "task episode time ..."]],
) -> dict[str, Float[Tensor, "task episode"]]:
    """Return the metrics of episodes, which :class:`Episodes` describes.

    The return is that of the environment's own rewards, also where an agent is told others.

    Raises:
        UserError: if the environment reports something under the name of one of them.
    """
    length = valid.sum(-1)
    own = info.get(OWN_REWARD)
    scored = reward if own is None else own.float()
    metrics = {"return": scored.sum(-1), "length": length.float()}
    taken = [name for name in metrics if name in info]
    if taken:
        raise bad_option("info_keys", taken[0], "other names: an episode's own metric is called so")
    for name, value in info.items():
        if name == OWN_REWARD:
            continue
        if name == "success":
            metrics["success"] = (value > 0).any(-1).float()
        else:
            metrics[name] = (value.sum(-1) / length.clamp(min=1)).float()
    return metrics


def _fields_below(prefix: str, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in fields.items() if k.startswith(prefix)}


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
        fields["info"] = {name: padded(x) for name, x in part.info.items()}
        even.append(part._replace(**fields))
    joined = pytree.tree_map(lambda *xs: torch.cat(xs, dim=axis), *even)
    return cast(Episodes, joined)


_TIMED = Episodes._fields[: Episodes._fields.index("record")]


def take_rows(tree: Any, rows: slice) -> Any:
    """Return some rows of every tensor of a tree; None stays None."""
    if tree is None:
        return None
    return pytree.tree_map(lambda x: x[rows], tree)


def branch(tree: Any, rows: Int[Tensor, " row"]) -> Any:
    """Return copies of some rows of every tensor of a tree, in any order; None stays None."""
    if tree is None:
        return None
    return pytree.tree_map(lambda x: x.index_select(0, rows.to(x.device)), tree)


def concatenate_rows(trees: Sequence[Any]) -> Any:
    """Join the rows of trees of equal structure."""
    if len(trees) == 1:
        return trees[0]
    return pytree.tree_map(lambda *xs: torch.cat(xs), *trees)

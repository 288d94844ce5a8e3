"""Experience, and the one loop that gathers it for every agent, in training and evaluation.

Arrays of experience are ``[task, episode, time, …]``; those of one moment are
``[task, lane, …]``, where a lane is a slot that works for a task. Padding is marked by
``valid``; nothing is called "done".
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, TypeAlias, cast, runtime_checkable

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl import seeding
from metarl.errors import DivergenceError, UserError, bad_option
from metarl.seeding import Component, LaneGenerator, Phase
from metarl.spaces import ActionCodec, flatten_observations, reported_space
from metarl.tasks import Task
from metarl.vector import SlotVectorEnv, shares

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


@runtime_checkable
class Agent(Protocol):
    """What every meta-learning algorithm is to the rest of the toolkit.

    A class of agents is made by ``train.py``, ``metarl.load`` and the other functions that work
    with names as ``Agent(config, observation_space, action_space, *, seed, device)``:

    - ``config``: of the class that the attribute ``Agent.Config`` names, a frozen dataclass whose
      fields become options. If it has ``for_iterations(iterations)``, a run calls that to get a
      config whose schedules are as long as the run.
    - ``observation_space``, ``action_space``: of every task. An agent that keeps them under
      these names is refused environments with other ones; one that does not keep them is not
      protected in this way. Observations reach it flattened
      (:class:`metarl.spaces.ActionCodec` and :func:`metarl.spaces.observation_size` give sizes).
    - ``seed``: what its parameters are drawn from.
    - ``device``: where its tensors live, such as ``"cpu"`` or ``"cuda"``.

    Actions are in policy units. Those of a Discrete space are integers 0 to n - 1, wherever the
    space starts. Those of a Box are numbers, where [-1, 1] is mapped onto the bounds of every
    dimension that has two finite ones and anything outside [-1, 1] is clipped; in a dimension
    without them, actions pass unchanged in the environment's own units. A policy that acts in
    the environment's units is wrapped by :meth:`metarl.spaces.ActionCodec.from_env`.

    ``metarl.load`` sets the attribute ``horizon``: the steps of an episode in training, after
    which :func:`metarl.adapt` cuts episodes off unless it is told otherwise.

    :func:`metarl.check_agent` tells whether a class keeps this contract; a fixed baseline, which
    learns nothing, is checked with ``learns=False``.
    """

    episodes_per_adaptation: int | None
    """Episodes gathered for one call of ``adapt``; None where there is nothing to do between
    episodes and the whole trial is one round."""
    sequential: bool
    """True if ``act`` carries knowledge on, so that a task's episodes run one after another in
    one lane; False if ``act`` leaves the context as it is, so that they fill the lanes."""
    tasks_per_update: int
    """Tasks in a meta-batch."""
    num_adaptations: int
    """Calls of ``adapt`` in a training trial."""
    episodes_per_trial: int | None
    """Episodes of a training trial for agents that do not adapt in between; None takes what
    the task distribution prescribes."""

    def begin(self, num_tasks: int) -> Context:
        """Return prior knowledge, one row per task."""

    def act(
        self, context: Context, timestep: Timestep, generator: LaneGenerator, greedy: bool = False
    ) -> tuple[Tensor, Record, Context]:
        """Return actions ``[task, lane, *action]``, a record of them and the context after.

        Actions of a Box are float32, flat, and in [-1, 1] where the Box is bounded (what lies
        outside is clipped); those of a Discrete space are int64 from 0, without a last axis.
        """

    def adapt(self, context: Context, episodes: Episodes, generator: torch.Generator) -> Context:
        """Return what is known after seeing ``episodes``."""

    def update(self, trial: Trial, generator: torch.Generator) -> Metrics:
        """Improve the prior knowledge: the meta-update."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all that training has changed: tensors, and what JSON holds."""

    def load_state(self, tensors: dict[str, Tensor], extra: dict[str, Any]) -> None:
        """Take back what :meth:`state` returned."""


class Keys(NamedTuple):
    """Where the random numbers of one round come from, ``[task]`` each."""

    environment: seeding.KeyArray
    action: seeding.KeyArray
    adaptation: int

    @staticmethod
    def of(
        seed: int, phase: Phase, iteration: int, tasks: npt.NDArray[np.int64] | int
    ) -> Callable[[int], Keys]:
        """Return the keys of each round; ``tasks`` are the numbers the tasks go by."""
        numbers = np.arange(tasks) if isinstance(tasks, int) else tasks

        def of_round(adaptation: int) -> Keys:
            def key(component: Component) -> np.uint64:
                return seeding.derive(seed, phase, component, iteration, adaptation)

            return Keys(
                seeding.fold(key(Component.ENVIRONMENT), numbers),
                seeding.fold(key(Component.ACTIONS), numbers),
                int(key(Component.ADAPTATION) >> np.uint64(1)),
            )

        return of_round

    def rows(self, index: slice) -> Keys:
        """Return the keys of some of the tasks."""
        return Keys(self.environment[index], self.action[index], self.adaptation)


def collect(
    agent: Agent,
    envs: SlotVectorEnv,
    tasks: Sequence[Task],
    context: Context,
    timestep: Timestep | None,
    *,
    num_episodes: int,
    keys: Keys,
    greedy: bool = False,
    lookahead: int = 1,
) -> tuple[Episodes, Timestep | None, Context]:
    """Gather one round: ``num_episodes`` of every task, in waves where slots are fewer.

    Args:
        agent: acts; it is not changed.
        envs: as many slots as there are; they need not divide anything.
        tasks: one per row of ``context``.
        context: what the agent knows, one row per task.
        timestep: what the round before returned, None at the start of a trial: the last
            action and reward reach a sequential agent across calls through it.
        num_episodes: of every task.
        keys: of this round's random numbers; the experience does not depend on the slots.
        greedy: take the most likely action.
        lookahead: parts of the slots that take turns: one acts while the others step.

    Returns:
        The experience, what the next round takes as ``timestep``, and the context after it.
    """
    parts = envs.parts(min(lookahead, len(tasks), envs.num_envs))
    with one_thread(), torch.no_grad():
        results = _in_turn(
            [
                _collect_part(
                    agent,
                    part,
                    tasks[rows],
                    _take_rows(context, rows),
                    _take_rows(timestep, rows),
                    num_episodes,
                    keys.rows(rows),
                    greedy,
                )
                for part, rows in zip(parts, shares(len(tasks), len(parts)), strict=True)
            ]
        )
    episodes, timesteps, contexts = zip(*itertools.chain.from_iterable(results), strict=True)
    return (
        _join(episodes, axis=0),
        None if timesteps[0] is None else _cat_trees(timesteps),
        _cat_trees(contexts) if agent.sequential else context,
    )


_Wave: TypeAlias = tuple[Episodes, Timestep | None, Context]


def _in_turn(
    running: Sequence[Generator[None, None, list[_Wave]]],
) -> list[list[_Wave]]:
    """Run generators in turn to their ends: while one's environments step, another acts."""
    results: dict[int, list[_Wave]] = {}
    while len(results) < len(running):
        for i, part in enumerate(running):
            if i not in results:
                try:
                    next(part)
                except StopIteration as end:
                    results[i] = end.value
    return [results[i] for i in range(len(running))]


def _collect_part(
    agent: Agent,
    envs: SlotVectorEnv,
    tasks: Sequence[Task],
    context: Context,
    timestep: Timestep | None,
    num_episodes: int,
    keys: Keys,
    greedy: bool,
) -> Generator[None, None, list[_Wave]]:
    """Gather these tasks' episodes in waves; yields while the environments step."""
    lanes = 1 if agent.sequential else min(num_episodes, max(1, envs.num_envs // len(tasks)))
    wave = envs.num_envs // lanes
    waves = []
    for start in range(0, len(tasks), wave):
        rows = slice(start, start + wave)
        waves.append(
            (
                yield from _collect_wave(
                    agent,
                    envs,
                    tasks[rows],
                    _take_rows(context, rows),
                    _take_rows(timestep, rows),
                    num_episodes,
                    lanes,
                    keys.rows(rows),
                    greedy,
                )
            )
        )
    return waves


def run_trial(
    agent: Agent,
    envs: SlotVectorEnv,
    tasks: Sequence[Task],
    *,
    num_adaptations: int,
    episodes_per_round: int,
    keys: Callable[[int], Keys],
    greedy: bool = False,
    lookahead: int = 1,
) -> Trial:
    """Meet ``tasks`` with prior knowledge only, then adapt ``num_adaptations`` times.

    ``keys`` gives the randomness of each round (:meth:`Keys.of`).
    """
    context, timestep = agent.begin(len(tasks)), None
    rounds = []
    for k in range(num_adaptations + 1):
        episodes, timestep, context = collect(
            agent,
            envs,
            tasks,
            context,
            timestep,
            num_episodes=episodes_per_round,
            keys=keys(k),
            greedy=greedy,
            lookahead=lookahead,
        )
        rounds.append(episodes)
        require_finite("an observation", episodes.observation, tasks)
        require_finite("a reward", episodes.reward, tasks)
        if k < num_adaptations:
            context = agent.adapt(context, episodes, torch_generator(keys(k).adaptation))
        for part in pytree.tree_leaves(context):
            require_finite("the agent's context", part, tasks)
    return Trial(list(tasks), rounds, context)


def require_finite(where: str, values: Shaped[Tensor, "task ..."], tasks: Sequence[Task]) -> None:
    """Refuse to go on where a task's numbers are not finite.

    Raises:
        DivergenceError: it names ``where`` and the first such task.
    """
    with torch.no_grad():
        if values.is_floating_point() and not values.isfinite().all():
            bad = ~values.isfinite().reshape(len(values), -1).all(1)
            raise DivergenceError(where, tasks[int(bad.nonzero()[0])])


def require_spaces(
    agent: object, observation_space: gym.Space[Any], action_space: gym.Space[Any], what: str
) -> None:
    """Refuse spaces that are not those ``agent`` was made for.

    Args:
        agent: whatever keeps ``observation_space`` and ``action_space``; one that keeps none is
            not compared.
        observation_space: of the environments it is to act in; compared as slots report it.
        action_space: of the same environments.
        what: where they come from, for the message.

    Raises:
        UserError: it names both spaces.
    """
    for kind, space in (("observation", observation_space), ("action", action_space)):
        own: gym.Space[Any] | None = getattr(agent, f"{kind}_space", None)
        if own is None:
            continue
        if kind == "observation":
            own, space = reported_space(own), reported_space(space)
        if space != own:
            got, accepted = (" ".join(str(s).split()) for s in (space, own))  # arrays have lines
            raise UserError(f"{what}: got {kind} space {got}; accepted: the agent's, {accepted}")


def trial_rounds(agent: Agent, episodes_per_trial: int | None) -> tuple[int, int]:
    """Return the adaptations of a training trial, and the episodes of each of its rounds."""
    if agent.episodes_per_adaptation is not None:
        return agent.num_adaptations, agent.episodes_per_adaptation
    episodes = agent.episodes_per_trial or episodes_per_trial
    if episodes is None:
        raise UserError(
            "--episodes-per-trial: got None; accepted: a number of episodes, since the task "
            "distribution prescribes none"
        )
    return 0, episodes


def torch_generator(key: int) -> torch.Generator:
    """Return a torch generator on the CPU seeded with ``key``."""
    return torch.Generator().manual_seed(key % 2**63)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the body with one torch thread: small batches are slower with more."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Log:
    """Steps of all lanes as they come, scattered into ``[task, episode, time]`` at the end."""

    def __init__(self) -> None:
        self._episode: list[npt.NDArray[np.int64]] = []
        self._time: list[npt.NDArray[np.int64]] = []
        self._arrays: dict[str, list[npt.NDArray[Any]]] = {}
        self._tensors: dict[str, list[Tensor]] = {}

    def add(
        self, lanes: Lanes, arrays: dict[str, npt.NDArray[Any]], tensors: dict[str, Tensor]
    ) -> None:
        """Append one step of the active lanes.

        Args:
            lanes: as they were in this step.
            arrays: of the environments, ``[task · lane, …]``; kept as they are, not copied.
            tensors: of the agent, ``[task, lane, …]``.
        """
        place, now = lanes.row * lanes.num_episodes + lanes.episode, lanes.time.copy()
        every = bool(lanes.active.all())
        self._episode.append(place if every else place[lanes.active])
        self._time.append(now if every else now[lanes.active])
        for name, values in arrays.items():
            self._arrays.setdefault(name, []).append(values if every else values[lanes.active])
        mask = None if every else torch.from_numpy(lanes.active.copy())
        for name, value in tensors.items():
            value = value.flatten(0, 1)
            kept = value if mask is None else value[mask.to(value.device)]
            self._tensors.setdefault(name, []).append(kept)

    def scatter(self, num_tasks: int, num_episodes: int) -> dict[str, Tensor]:
        """Return every field as ``[task, episode, time, …]``, zero where nothing came.

        ``valid`` is one of them.
        """
        time = np.concatenate(self._time)
        length = int(time.max()) + 1
        rows = torch.from_numpy(np.concatenate(self._episode) * length + time)
        size = num_tasks * num_episodes * length

        def dense(steps: Tensor) -> Tensor:
            result = steps.new_zeros((size, *steps.shape[1:]))
            result[rows.to(steps.device)] = steps
            return result.reshape(num_tasks, num_episodes, length, *steps.shape[1:])

        arrays = {k: dense(torch.from_numpy(np.concatenate(v))) for k, v in self._arrays.items()}
        tensors = {k: dense(torch.cat(v)) for k, v in self._tensors.items()}
        return arrays | tensors | {"valid": dense(torch.ones(len(rows), dtype=torch.bool))}


class Lanes:
    """What every lane of a wave is doing; arrays are ``[task · lane]``.

    Lane l has episodes l, l + lanes, … of its task.
    """

    def __init__(
        self,
        num_tasks: int,
        lanes: int,
        num_episodes: int,
        codec: ActionCodec,
        carried: Timestep | None,
        sequential: bool,
    ) -> None:
        self.shape = (num_tasks, lanes)
        self.num_episodes = num_episodes
        self.sequential = sequential
        self.size = num_tasks * lanes
        self.row = np.repeat(np.arange(num_tasks), lanes)
        self.episode = np.tile(np.arange(lanes), num_tasks)
        self.time = np.zeros(self.size, np.int64)
        self.active = self.episode < num_episodes
        self.boundary = np.ones(self.size, np.bool_)
        self.trial_start = np.full(self.size, carried is None)
        shape = (self.size,) if codec.discrete else (self.size, codec.size)
        self.previous_action = np.zeros(shape, codec.dtype)
        self.previous_reward = np.zeros(self.size, np.float32)
        if carried is not None:
            self.previous_action[:] = carried.previous_action.flatten(0, 1).cpu().numpy()
            self.previous_reward[:] = carried.previous_reward.flatten(0, 1).cpu().numpy()

    def tensor(self, x: npt.NDArray[Any]) -> Tensor:
        """Return a copy of ``[task · lane, …]`` as ``[task, lane, …]``."""
        return torch.from_numpy(np.array(x).reshape(*self.shape, *x.shape[1:]))

    def timestep(self, observation: npt.NDArray[np.float32]) -> Timestep:
        """Return what the agent sees now."""
        return Timestep(
            observation=self.tensor(observation),
            previous_action=self.tensor(self.previous_action),
            previous_reward=self.tensor(self.previous_reward),
            boundary=self.tensor(self.boundary),
            trial_start=self.tensor(self.trial_start),
            active=self.tensor(self.active),
        )

    def advance(
        self,
        taken: npt.NDArray[Any],
        reward: npt.NDArray[np.float32],
        ended: npt.NDArray[np.bool_],
    ) -> npt.NDArray[np.bool_]:
        """Count a step of the active lanes; return those that now start another episode."""
        active = slice(None) if self.active.all() else self.active
        self.time[active] += 1
        self.previous_action[active] = taken[active]
        self.previous_reward[active] = reward[active]
        self.boundary[active] = ended[active]
        self.trial_start[active] = False
        self.episode[ended] += self.shape[1]
        self.time[ended] = 0
        if not self.sequential:
            self.trial_start[ended] = True
            self.previous_action[ended] = 0
            self.previous_reward[ended] = 0
        self.active = self.active & (self.episode < self.num_episodes)
        return ended & self.active


def _collect_wave(
    agent: Agent,
    envs: SlotVectorEnv,
    tasks: Sequence[Task],
    context: Context,
    timestep: Timestep | None,
    num_episodes: int,
    num_lanes: int,
    keys: Keys,
    greedy: bool,
) -> Generator[None, None, _Wave]:
    """Run ``num_episodes`` of every task, all of which have their slots at once."""
    codec = ActionCodec(envs.single_action_space)
    space = envs.single_observation_space
    carried = timestep if agent.sequential else None
    lanes = Lanes(len(tasks), num_lanes, num_episodes, codec, carried, agent.sequential)
    used = envs.slots_for(lanes.size)
    log = Log()
    action_keys = np.zeros(lanes.size, np.uint64)

    def start(which: npt.NDArray[np.bool_], new: dict[str, Any]) -> npt.NDArray[np.float32]:
        mask, seeds = np.zeros(envs.num_envs, np.bool_), np.zeros(envs.num_envs, np.uint64)
        mask[used] = which
        seeds[used] = seeding.fold(keys.environment[lanes.row], lanes.episode)
        action_keys[:] = seeding.fold(keys.action[lanes.row], lanes.episode)
        options = {"reset_mask": mask} | new
        started = time.perf_counter()
        observation, _ = envs.reset(seed=cast(Any, seeds), options=options)
        envs.seconds["step"] += time.perf_counter() - started
        return flatten_observations(space, observation[used])

    new_tasks: list[Task | None] = [None] * envs.num_envs
    slots = np.arange(envs.num_envs)[used]
    for lane in np.flatnonzero(lanes.active).tolist():
        new_tasks[slots[lane]] = tasks[lane // num_lanes]
    observation = start(lanes.active, {"tasks": new_tasks})
    final_observation = np.zeros((len(tasks), num_episodes, observation.shape[1]), np.float32)
    actions = np.zeros((envs.num_envs, *lanes.previous_action.shape[1:]), codec.dtype)
    while lanes.active.any():
        now = lanes.timestep(observation)
        generator = LaneGenerator(seeding.fold(action_keys, lanes.time).reshape(lanes.shape))
        started = time.perf_counter()
        action, record, context = agent.act(context, now, generator, greedy)
        chosen = action.flatten(0, 1).cpu().numpy()
        if not codec.discrete and not np.isfinite(chosen.sum()):
            idle = ~now.active.unsqueeze(-1)  # these may hold anything
            require_finite("an observation", now.observation.masked_fill(idle, 0.0), tasks)
            ignored = action.masked_fill(idle.to(action.device), 0.0)
            require_finite("the agent's action", ignored, tasks)
        taken = codec.taken(chosen)
        acted = time.perf_counter()
        actions[used] = taken
        envs.step_async(codec.to_env(actions))
        envs.seconds["act"] += acted - started
        envs.seconds["step"] += time.perf_counter() - acted
        yield
        started = time.perf_counter()
        next_observation, rewards, terminated, truncated, info = envs.step_wait()
        envs.seconds["step"] += time.perf_counter() - started
        reward = np.asarray(rewards[used], np.float32)
        ended = lanes.active & (terminated | truncated)[used]
        log.add(
            lanes,
            {
                "observation": observation,
                "taken": taken,
                "reward": reward,
                "terminated": terminated[used],
                "truncated": truncated[used],
                **{f"info.{key}": info[key][used] for key in info if key[0] != "_"},
            },
            {"action": action, **{f"record.{name}": value for name, value in record.items()}},
        )
        observation = flatten_observations(space, next_observation[used])
        final_observation[lanes.row[ended], lanes.episode[ended]] = observation[ended]
        again = lanes.advance(taken, reward, ended)
        if again.any():
            observation = start(again, {})

    episodes = episodes_of(
        log.scatter(len(tasks), num_episodes), torch.from_numpy(final_observation)
    )
    return episodes, lanes.timestep(observation) if agent.sequential else None, context


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
    return _join(rounds, axis=1)


def _join(parts: Sequence[Episodes], axis: int) -> Episodes:
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


def _take_rows(tree: Any, rows: slice) -> Any:
    if tree is None:
        return None
    return pytree.tree_map(lambda x: x[rows], tree)


def _cat_trees(trees: Sequence[Any]) -> Any:
    if len(trees) == 1:
        return trees[0]
    return pytree.tree_map(lambda *xs: torch.cat(xs), *trees)

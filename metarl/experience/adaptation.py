"""Adapting to one environment that somebody has, and acting in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl import seeding
from metarl.errors import UserError, bad_option, require_seed
from metarl.experience.agent import Agent, require_spaces
from metarl.experience.data import Context, Timestep
from metarl.experience.rollout import Keys, collect, one_thread, torch_generator
from metarl.seeding import Component, LaneGenerator, Phase
from metarl.stepping.spaces import (
    ActionCodec,
    flatten_observation,
    flatten_observations,
    reported_space,
)
from metarl.task import Env, Split, Task
from metarl.tasks.distribution import TaskDistribution, TaskEnv, time_limit


class PolicyState(NamedTuple):
    """What :meth:`AdaptedPolicy.predict` hands on from one step to the next."""

    context: Context
    """What the agent knows: a row per environment if acting carries knowledge on, else one row."""
    timestep: Timestep
    """The last step of every environment, ``[task, lane]`` as agents take it."""


class AdaptedPolicy:
    """An agent that has adapted to one environment, ready to act in it.

    :meth:`act` serves one environment and remembers what it has seen there, rewards included.
    :meth:`predict` is what Stable-Baselines3 calls: it leaves what the policy knows as it is.
    """

    def __init__(
        self, agent: Agent, context: Context, timestep: Timestep | None, env: Env, seed: int
    ) -> None:
        self._agent = agent
        self._space = env.observation_space
        self._codec = ActionCodec(env.action_space)
        self._adapted = PolicyState(context, timestep or _first_timestep(self._codec))
        self._state = self._adapted
        self._act_key, self._predict_key = (
            seeding.derive(seed, Phase.USE, Component.ACTIONS, number) for number in (1, 2)
        )
        self._num_acts = self._num_predictions = 0

    def act(
        self,
        observation: object,
        reward: float | None = None,
        *,
        boundary: bool = False,
        greedy: bool = False,
    ) -> Any:
        """Return an action for the environment, and remember the step.

        Args:
            observation: the environment's, as it comes.
            reward: of the action before, taken as 0 where it is not given; agents that learn
                while they act (RL²) want it.
            boundary: True at the first step of an episode.
            greedy: take the most likely action.

        Raises:
            UserError: for an observation that does not have the environment's shape.
        """
        flat, batched = _flat(self._space, observation)
        if batched:
            raise bad_option("observation", f"{len(flat)} at once", "one (predict takes several)")
        context, before = self._state
        before = before._replace(boundary=before.boundary | boundary)
        if reward is not None:
            paid = torch.tensor([[reward]], dtype=torch.float32)
            before = before._replace(previous_reward=paid)
        keys = seeding.fold(self._act_key, np.full(1, self._num_acts))
        self._num_acts += 1
        actions, self._state = self._step(PolicyState(context, before), flat, keys, greedy)
        return actions[0]

    def predict(
        self,
        observation: object,
        state: tuple[Any, ...] | None = None,
        episode_start: object = None,
        deterministic: bool = False,
    ) -> tuple[Any, PolicyState]:
        """Act as Stable-Baselines3's models do, in one environment or in several at once.

        What the policy knows stays what adaptation has taught it; what a step adds is in the
        state that is returned. Rewards do not reach the agent, which sees 0 instead. One that
        learns while it acts (RL²) would take wrong knowledge along from episode to episode, so
        that every episode starts from what adaptation left; :meth:`act` goes on learning.

        Args:
            observation: one, or those of n environments, ``[n, *shape]`` (each part of a Dict
                or Tuple); the shape tells which.
            state: what the last call returned for the same environments; without it, every
                one of them is at the start of an episode.
            episode_start: True where an episode begins, one boolean or ``[n]``.
            deterministic: take the most likely actions; otherwise every call draws new ones.

        Returns:
            The action, or ``[n, *shape]`` actions, in the environment's units; and the state.

        Raises:
            UserError: for a shape or a state that does not fit.
        """
        flat, batched = _flat(self._space, observation)
        n = len(flat)
        start = np.asarray(episode_start is not None and episode_start, np.bool_)
        if start.shape not in ((), (n,)):
            raise UserError(f"episode_start: got shape {start.shape}; accepted: ({n},) or ()")
        before = self._adapted_rows(n)
        if state is not None:
            accepted = f"None, or what predict returned for {n} of them"
            if not isinstance(state, PolicyState):
                raise UserError(f"state: got a {type(state).__name__}; accepted: {accepted}")
            if (rows := state.timestep.active.numel()) != n:
                raise UserError(f"state: got that of {rows} environments; accepted: {accepted}")
            before = self._where(np.broadcast_to(start, n), before, state)
        drawn = seeding.fold(self._predict_key, np.full(n, self._num_predictions))
        self._num_predictions += 1
        keys = seeding.fold(drawn, np.arange(n))
        actions, after = self._step(before, flat, keys, deterministic)
        return (actions if batched else actions[0]), after

    def _step(
        self,
        state: PolicyState,
        flat: npt.NDArray[np.float32],
        keys: seeding.KeyArray,
        greedy: bool,
    ) -> tuple[npt.NDArray[Any], PolicyState]:
        """Return an action for every row, in the environment's units, and the state after it."""
        before, boundary = state.timestep, state.timestep.boundary
        # Only sequential agents are shown what came before the episode.
        fresh = torch.zeros_like(boundary) if self._agent.sequential else boundary
        each = fresh.reshape(*fresh.shape, *[1] * (before.previous_action.ndim - 2))
        now = Timestep(
            observation=self._lanes(flat),
            previous_action=before.previous_action.masked_fill(each, 0),
            previous_reward=before.previous_reward.masked_fill(fresh, 0),
            boundary=boundary,
            trial_start=before.trial_start | fresh,
            active=torch.ones_like(boundary),
        )
        generator = LaneGenerator(keys.reshape(boundary.shape))
        with one_thread(), torch.no_grad():
            action, _, context = self._agent.act(state.context, now, generator, greedy)
        taken = self._codec.taken(action.flatten(0, 1).cpu().numpy())
        after = now._replace(
            previous_action=self._lanes(taken),
            previous_reward=torch.zeros_like(now.previous_reward),
            boundary=torch.zeros_like(boundary),
            trial_start=torch.zeros_like(boundary),
        )
        return self._codec.to_env(taken), PolicyState(context, after)

    def _lanes(self, rows: npt.NDArray[Any]) -> Tensor:
        """Return ``[n, …]`` as ``[task, lane, …]``: n tasks if each has a context of its own."""
        return torch.from_numpy(np.array(rows)).unsqueeze(1 if self._agent.sequential else 0)

    def _adapted_rows(self, n: int) -> PolicyState:
        """Return what adaptation left, for each of ``n`` environments."""
        context, timestep = self._adapted
        if self._agent.sequential:
            context = pytree.tree_map(lambda x: x.repeat_interleave(n, 0), context)
        axis = 0 if self._agent.sequential else 1
        return PolicyState(context, Timestep(*(x.repeat_interleave(n, axis) for x in timestep)))

    def _where(
        self, start: npt.NDArray[np.bool_], then: PolicyState, otherwise: PolicyState
    ) -> PolicyState:
        """Return ``then`` in the rows that ``start``, and ``otherwise`` in the others."""
        rows = self._lanes(start)

        def choose(a: Tensor, b: Tensor) -> Tensor:
            return torch.where(rows.reshape(*rows.shape, *[1] * (a.ndim - 2)).to(a.device), a, b)

        def choose_task(a: Tensor, b: Tensor) -> Tensor:
            return torch.where(rows.reshape(-1, *[1] * (a.ndim - 1)).to(a.device), a, b)

        last = otherwise.timestep
        first = then.timestep._replace(observation=last.observation)  # a step brings its own
        context = otherwise.context
        if self._agent.sequential:
            context = pytree.tree_map(choose_task, then.context, context)
        return PolicyState(context, Timestep(*map(choose, first, last)))


def _flat(space: gym.Space[Any], observation: Any) -> tuple[npt.NDArray[np.float32], bool]:
    """Return ``[n, size]`` of one observation or n of them, and whether there are n."""
    rows, batched = _rows(space, observation, "observation")
    flat = np.stack([flatten_observation(space, row) for row in rows])
    return flatten_observations(reported_space(space), flat), batched


def _rows(space: gym.Space[Any], observation: Any, name: str) -> tuple[list[Any], bool]:
    """Return the observations that ``observation`` is made of, and whether it is a batch.

    Raises:
        UserError: where it is neither one observation nor ``[n, *shape]``.
    """
    if isinstance(space, gym.spaces.Dict):
        if not isinstance(observation, Mapping) or observation.keys() != space.keys():
            accepted = f"a dict of {', '.join(space)}"
            raise UserError(f"{name}: got {_kind(observation)}; accepted: {accepted}")
        parts = [_rows(space[key], observation[key], f"{name}[{key!r}]") for key in space]
        rows, batched = _joined(parts, name)
        return [dict(zip(space, row, strict=True)) for row in rows], batched
    if isinstance(space, gym.spaces.Tuple):
        if not isinstance(observation, Sequence) or len(observation) != len(space):
            accepted = f"a tuple of {len(space)}"
            raise UserError(f"{name}: got {_kind(observation)}; accepted: {accepted}")
        pairs = enumerate(zip(space, observation, strict=True))
        return _joined([_rows(part, x, f"{name}[{i}]") for i, (part, x) in pairs], name)
    array, shape = np.asarray(observation), tuple(space.shape or ())
    batched = array.shape != shape
    if batched and (array.shape[1:] != shape or array.ndim == 0 or len(array) == 0):
        accepted = f"{shape}, or {('n', *shape)} of several environments".replace("'", "")
        raise UserError(f"{name}: got shape {array.shape}; accepted: {accepted}")
    if isinstance(space, gym.spaces.Discrete):
        inside = (
            np.issubdtype(array.dtype, np.integer)
            and ((array >= space.start) & (array < space.start + space.n)).all()
        )
        if not inside:
            raise bad_option(
                name, observation, f"integers {space.start} to {space.start + space.n - 1}"
            )
    return (list(array) if batched else [array]), batched


def _joined(parts: list[tuple[list[Any], bool]], name: str) -> tuple[list[tuple[Any, ...]], bool]:
    """Return the rows of a composed observation, which every part must have as many of."""
    counts = list(dict.fromkeys(len(rows) if batched else "one" for rows, batched in parts))
    if len(counts) > 1:
        got = " and ".join(map(str, counts))
        raise UserError(f"{name}: got parts of {got} environments; accepted: as many in each part")
    return list(zip(*(rows for rows, _ in parts), strict=True)), parts[0][1]


def _kind(observation: Any) -> str:
    if isinstance(observation, Mapping):
        return f"a dict of {', '.join(map(str, observation))}"
    shape = np.shape(observation) if isinstance(observation, np.ndarray) else ""
    return f"{type(observation).__name__} {shape}".strip()


def _first_timestep(codec: ActionCodec) -> Timestep:
    shape = () if codec.discrete else (codec.size,)
    yes = torch.ones(1, 1, dtype=torch.bool)
    return Timestep(
        observation=torch.zeros(1, 1, 0),
        previous_action=torch.zeros(1, 1, *shape, dtype=torch.int64 if codec.discrete else None),
        previous_reward=torch.zeros(1, 1),
        boundary=yes,
        trial_start=yes,
        active=yes,
    )


def adapt(
    agent: Agent, env: Env, *, episodes: int, max_steps: int | None = None, seed: int = 0
) -> AdaptedPolicy:
    """Let ``agent`` adapt to one ordinary Gymnasium environment for some episodes.

    Args:
        agent: it is not changed.
        env: with the spaces the agent was trained for.
        episodes: of experience; an agent that adapts in rounds needs a multiple of its round.
        max_steps: an episode is cut off after so many steps; by default after as many as in the
            agent's training (``metarl.load`` remembers them), else the environment's own limit.
        seed: of episodes and actions.

    Returns:
        A policy that knows what the agent has learned: ``policy.act(observation)``.

    Raises:
        UserError: for an environment that does not fit, or whose episodes nothing would end.
    """
    if not isinstance(env, gym.Env):
        raise bad_option("env", type(env).__name__, "a gymnasium.Env (one, not a vector of them)")
    require_spaces(agent, env.observation_space, env.action_space, "env")
    each = agent.episodes_per_adaptation or 1
    if episodes < 0 or episodes % each:
        raise bad_option("episodes", episodes, f"a multiple of {each}, 0 or more")
    require_seed("seed", seed)
    horizon = getattr(agent, "horizon", None) if max_steps is None else max_steps
    if horizon is None:
        horizon = time_limit(env)
    if horizon is None and episodes:
        accepted = "a number of steps, since neither the agent nor the environment has a limit"
        raise bad_option("max_steps", None, accepted)
    if horizon is not None and (not isinstance(horizon, int | np.integer) or horizon < 1):
        raise bad_option("max_steps", horizon, "an integer, 1 or more")
    tasks = _OneEnv(env, int(horizon or 1))
    envs = tasks.make_vec(1, num_workers=0)
    keys = Keys.of(seed, Phase.USE, 0, 1)
    context: Context = agent.begin(1)
    timestep: Timestep | None = None
    for k in range(episodes // each):
        gathered, timestep, context = collect(
            agent, envs, [Task(tasks.name)], context, timestep, num_episodes=each, keys=keys(k)
        )
        if agent.episodes_per_adaptation is not None:
            context = agent.adapt(context, gathered, torch_generator(keys(k).adaptation))
    return AdaptedPolicy(agent, context, timestep, env, seed)


class _OneEnv(TaskDistribution):
    """An environment somebody made, as a distribution with that one task."""

    def __init__(self, env: Env, horizon: int) -> None:
        self.name = "given environment"
        self.env = env
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.horizon = horizon

    def sample(self, rng: np.random.Generator, n: int, split: Split) -> list[Task]:
        return [Task(self.name)] * n

    def make(self, task: Task | None = None) -> Env:
        return _Given(self.env, self.horizon, task)


class _Given(TaskEnv):
    """Ends episodes at the horizon, and keeps the task from an environment that has its own."""

    def apply_task(self, task: Task) -> None:
        """Leave the environment as it was given."""

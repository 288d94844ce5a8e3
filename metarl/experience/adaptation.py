"""Adapt an agent to one given environment, and act in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl import seeding
from metarl.errors import UserError, bad_option, require_seed
from metarl.experience.agent import Adapter, require_spaces
from metarl.experience.data import Context, Timestep
from metarl.experience.lanes import Lanes, TrialKeys
from metarl.experience.rollout import adapted, collect, torch_threads
from metarl.seeding import Component, LaneGenerator, Phase
from metarl.stepping.actions import ActionCodec
from metarl.stepping.spaces import flatten_observation, flatten_observations, reported_space
from metarl.task import Env, Split, Task
from metarl.tasks.distribution import TaskDistribution, TaskEnv, time_limit


class PolicyState(NamedTuple):
    """The state that :meth:`AdaptedPolicy.predict` passes from one step to the next."""

    context: Context
    """The agent's knowledge: a row per environment if the agent is sequential, else one row."""
    lanes: Lanes
    """Bookkeeping of every environment, before its last action is counted."""
    taken: npt.NDArray[Any] | None
    """The last actions, in policy units; None before the first."""
    episode_keys: seeding.KeyArray
    """The random keys of every environment's current episode."""


class AdaptedPolicy:
    """An agent that has adapted to one environment, ready to act in it.

    :meth:`act` serves one environment and remembers what it has seen there, rewards included.
    :meth:`predict` has the interface of Stable-Baselines3; it does not change the knowledge.

    >>> tasks = metarl.make("navigation")
    >>> [task] = tasks.sample(np.random.default_rng(0), 1, "test")
    >>> env = tasks.make(task)
    >>> policy = metarl.adapt(metarl.load("runs/goals"), env, episodes=20)
    >>> (observation, _), total, ended = env.reset(seed=0), 0.0, False
    >>> while not ended:
    ...     action, _ = policy.predict(observation, deterministic=True)
    ...     observation, reward, terminated, truncated, _ = env.step(action)
    ...     total, ended = total + reward, terminated or truncated
    >>> total > -25  # about -37 before the 20 episodes
    True
    """

    def __init__(
        self,
        agent: Adapter,
        context: Context,
        timestep: Timestep | None,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        seed: int,
    ) -> None:
        self._agent = agent
        self._sequential = agent.shape.sequential
        self._space = observation_space
        self._codec = ActionCodec(action_space)
        self._context, self._timestep = context, timestep
        self._state = self._beginning(1)
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
            observation: the observation that the environment returned.
            reward: the reward of the previous action (default: 0); agents that learn while they
                act (RL²) need it.
            boundary: True at the first step of an episode.
            greedy: True for the most likely action.

        Raises:
            UserError: if the observation does not have the environment's shape.
        """
        flat, batched = _flat(self._space, observation)
        if batched:
            raise bad_option("observation", f"{len(flat)} at once", "one (predict takes several)")
        keys = seeding.fold(self._act_key, np.full(1, self._num_acts))
        self._num_acts += 1
        paid = np.full(1, 0.0 if reward is None else reward, np.float32)
        state = self._counted(self._state, paid, np.full(1, boundary))
        actions, self._state = self._step(state, flat, keys, greedy)
        return self._codec.rows.unpack(actions[0])

    def predict(
        self,
        observation: object,
        state: tuple[Any, ...] | None = None,
        episode_start: object = None,
        deterministic: bool = False,
        *,
        reward: object = None,
    ) -> tuple[Any, PolicyState]:
        """Act as Stable-Baselines3's models do, in one environment or in several at once.

        The policy keeps the knowledge from its adaptation; what a step adds is in the returned
        state. Stable-Baselines3 does not pass rewards on, and without them the agent sees 0
        instead. An agent that learns while it acts (RL²) would learn wrongly from these zeros, so
        every episode starts from the knowledge after adaptation. With rewards, the state carries
        knowledge on through all episodes, as :meth:`act` does.

        Args:
            observation: one observation, or those of n environments, ``[n, *shape]`` (each part
                of a Dict or Tuple); the shape tells which.
            state: the state that the last call returned for the same environments; without it,
                all of them are at the start of an episode.
            episode_start: True where an episode begins, one boolean or ``[n]``.
            deterministic: True for the most likely actions; otherwise every call draws new ones.
            reward: the rewards of the last actions, one number or ``[n]``; it is not used without
                ``state``, since then there is no last action.

        Returns:
            The action, or ``[n, *shape]`` actions, in the environment's units; and the state.

        Raises:
            UserError: if a shape or the state does not fit.
        """
        flat, batched = _flat(self._space, observation)
        n = len(flat)
        start = np.asarray(episode_start is not None and episode_start, np.bool_)
        paid = np.asarray(0.0 if reward is None else reward, np.float32)
        for name, given in (("episode_start", start), ("reward", paid)):
            if given.shape not in ((), (n,)):
                raise UserError(f"{name}: got shape {given.shape}; accepted: ({n},) or ()")
        start, paid = np.broadcast_to(start, n), np.broadcast_to(paid, n)
        before = self._beginning(n)
        if state is not None:
            accepted = f"None, or what predict returned for {n} of them"
            if not isinstance(state, PolicyState):
                raise UserError(f"state: got a {type(state).__name__}; accepted: {accepted}")
            if (rows := state.lanes.size) != n:
                raise UserError(f"state: got that of {rows} environments; accepted: {accepted}")
            if reward is None:
                before = self._restarted(start, before, state)
            else:
                before = self._counted(state, paid, start)
        drawn = seeding.fold(self._predict_key, np.full(n, self._num_predictions))
        self._num_predictions += 1
        keys = seeding.fold(drawn, np.arange(n))
        actions, after = self._step(before, flat, keys, deterministic)
        whole = self._codec.rows
        return whole.unpack_batch(actions) if batched else whole.unpack(actions[0]), after

    def _beginning(self, n: int) -> PolicyState:
        """Return the state after adaptation, for each of ``n`` environments."""
        # Each environment is a task of its own, or all of them are lanes of one task.
        rows = (n, 1) if self._sequential else (1, n)
        context, carried = self._context, self._timestep
        if self._sequential:
            context = pytree.tree_map(lambda x: x.repeat_interleave(n, 0), context)
            if carried is not None:
                carried = Timestep(*(x.repeat_interleave(n, 0) for x in carried))
        lanes = Lanes(*rows, None, self._codec, carried, self._sequential)
        return PolicyState(context, lanes, None, np.zeros(n, np.uint64))

    def _counted(
        self, state: PolicyState, reward: npt.NDArray[np.float32], ended: npt.NDArray[np.bool_]
    ) -> PolicyState:
        """Return the state after its last actions and their rewards are counted."""
        if state.taken is None:
            return state
        lanes = state.lanes.copy()
        lanes.advance(state.taken, reward, ended)
        return state._replace(lanes=lanes, taken=None)

    def _restarted(
        self, start: npt.NDArray[np.bool_], beginning: PolicyState, state: PolicyState
    ) -> PolicyState:
        """Return the next step of ``state``, or the ``beginning`` in the rows of ``start``."""
        nothing = np.zeros(len(start), np.float32), np.zeros(len(start), np.bool_)
        state = self._counted(state, *nothing)
        context, lanes = state.context, state.lanes.copy()
        lanes.restart(start, beginning.lanes)
        if self._sequential:
            rows = torch.from_numpy(start.copy())

            def choose(then: Tensor, now: Tensor) -> Tensor:
                mask = rows.to(now.device).reshape(-1, *[1] * (now.ndim - 1))
                return torch.where(mask, then, now)

            context = pytree.tree_map(choose, beginning.context, context)
        return state._replace(context=context, lanes=lanes)

    def _step(
        self,
        state: PolicyState,
        flat: npt.NDArray[Any],
        keys: seeding.KeyArray,
        greedy: bool,
    ) -> tuple[npt.NDArray[Any], PolicyState]:
        """Return an action for every row, in the environment's units, and the state after it."""
        lanes = state.lanes
        episode_keys = np.where(lanes.boundary, keys, state.episode_keys)
        generator = LaneGenerator(keys.reshape(lanes.shape), episode_keys.reshape(lanes.shape))
        with torch_threads(1), torch.no_grad():
            action, _, context = self._agent.act(
                state.context, lanes.timestep(flat), generator, greedy
            )
        taken = self._codec.taken(action.flatten(0, 1).cpu().numpy())
        return self._codec.to_env(taken), PolicyState(context, lanes, taken, episode_keys)


def _flat(space: gym.Space[Any], observation: Any) -> tuple[npt.NDArray[Any], bool]:
    """Return one or n observations as ``[n, size]``, and whether they are a batch."""
    rows, batched = _rows(space, observation, "observation")
    flat = np.stack([flatten_observation(space, row) for row in rows])
    return flatten_observations(reported_space(space), flat), batched


def _rows(space: gym.Space[Any], observation: Any, name: str) -> tuple[list[Any], bool]:
    """Return a list of the single observations, and whether ``observation`` is a batch.

    Raises:
        UserError: if it is neither one observation nor ``[n, *shape]``.
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
    """Return the rows of a Dict or Tuple observation, whose parts must have equally many."""
    counts = list(dict.fromkeys(len(rows) if batched else "one" for rows, batched in parts))
    if len(counts) > 1:
        got = " and ".join(map(str, counts))
        raise UserError(f"{name}: got parts of {got} environments; accepted: equally many")
    return list(zip(*(rows for rows, _ in parts), strict=True)), parts[0][1]


def _kind(observation: Any) -> str:
    if isinstance(observation, Mapping):
        return f"a dict of {', '.join(map(str, observation))}"
    shape = np.shape(observation) if isinstance(observation, np.ndarray) else ""
    return f"{type(observation).__name__} {shape}".strip()


def adapt(
    agent: Adapter, env: Env, *, episodes: int, max_steps: int | None = None, seed: int = 0
) -> AdaptedPolicy:
    """Let ``agent`` adapt to one ordinary Gymnasium environment for some episodes.

    Args:
        agent: the agent, which is not changed.
        env: an environment with the spaces that the agent was trained for.
        episodes: the number of episodes of experience; an agent that adapts in rounds needs a
            multiple of its round.
        max_steps: the number of steps after which an episode is cut off (default: as in the
            agent's training, which ``metarl.load`` remembers, else the environment's own limit).
        seed: the seed of episodes and actions.

    Returns:
        A policy that knows what the agent has learned: ``policy.act(observation)``.

    Raises:
        UserError: if the environment does not fit, or if nothing would end its episodes.

    >>> task = metarl.Task.of("bandit/n10-k5", p=(0.1, 0.1, 1.0, 0.1, 0.1))
    >>> env = metarl.make("bandit/n10-k5").make(task)
    >>> policy = metarl.adapt(metarl.load("runs/first"), env, episodes=9)
    >>> observation, _ = env.reset()
    >>> int(policy.act(observation, greedy=True))  # it has found the arm that always pays
    2
    """
    if not isinstance(env, gym.Env):
        raise bad_option("env", type(env).__name__, "a gymnasium.Env (one, not a vector of them)")
    require_spaces(agent, env.observation_space, env.action_space, "env")
    if hasattr(agent, "reveal"):
        got = f"{type(agent).__name__}, which is told its task"
        raise bad_option("agent", got, "an agent that is not: env says nothing of its task")
    each = agent.shape.stride
    if episodes < 0 or episodes % each:
        raise bad_option("episodes", episodes, f"a multiple of {each}, 0 or more")
    require_seed("seed", seed)
    spec = getattr(agent, "spec", None)
    horizon = max_steps if max_steps is not None else getattr(spec, "horizon", None) or None
    if horizon is None:
        horizon = time_limit(env)
    if horizon is None and episodes:
        accepted = "a number of steps, since neither the agent nor the environment has a limit"
        raise bad_option("max_steps", None, accepted)
    if horizon is not None and (not isinstance(horizon, int | np.integer) or horizon < 1):
        raise bad_option("max_steps", horizon, "an integer, 1 or more")
    tasks = _OneEnv(env, int(horizon or 1))
    envs = tasks.make_vec(1, num_workers=0)
    # The returned policy acts in the last round, which is not collected here.
    shape = replace(agent.shape, episodes_per_round=each)
    keys = TrialKeys(seed, Phase.USE, 0, 1)
    batch = [Task(tasks.name)]
    context: Context = agent.begin(1)
    timestep: Timestep | None = None
    for k in range(episodes // each):
        own = keys.round(k, shape)
        gathered, timestep, context = collect(
            agent,
            envs,
            batch,
            context,
            timestep,
            num_episodes=each,
            sequential=shape.sequential,
            keys=own,
        )
        if not shape.learns_while_acting:
            context = adapted(agent, context, gathered, own, batch)
    spaces = env.observation_space, env.action_space
    return AdaptedPolicy(agent, context, timestep, *spaces, seed)


class _OneEnv(TaskDistribution):
    """A distribution whose only task is a given environment."""

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
    """Ends episodes at the horizon; the given environment itself gets no task."""

    def apply_task(self, task: Task) -> None:
        """Leave the environment as it was given."""

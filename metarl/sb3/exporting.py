"""From meta-learned parameters to a model of Stable-Baselines3."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from metarl.errors import UserError, bad_option, near_matches, require_seed
from metarl.experience.agent import Adapter, require_spaces
from metarl.learning.networks import PolicyNetwork, layer_sizes
from metarl.running.run import Run
from metarl.sb3.network import NetworkPolicy
from metarl.sb3.trials import TrialPolicy
from metarl.task import Env

_OWN = ("self", "policy", "env", "use_sde", "sde_sample_freq", "seed")
PPO_OPTIONS = [
    name
    for name in inspect.signature(PPO).parameters
    if name not in _OWN and not name.startswith("_")
]
"""The options of PPO's constructor that an export leaves to the user."""
POLICY_OPTIONS = ("optimizer_class", "optimizer_kwargs")
"""The options of the policy's constructor that it leaves to the user; the rest is the agent's."""


def export(
    run_or_agent: Run | str | Path | Adapter,
    env: Env | VecEnv,
    *,
    seed: int | None = None,
    **options: Any,
) -> PPO | TrialPolicy:
    """Turn what an agent has meta-learned into a model of Stable-Baselines3 for ``env``.

    A policy without memory, such as maml-ppo's, becomes a ``PPO`` that starts from the
    meta-learned parameters: ``model.learn`` fine-tunes them, and ``model.save`` and ``PPO.load``
    keep them, observation scaling included. Deterministic actions equal the agent's greedy ones;
    :class:`metarl.sb3.NetworkPolicy` tells how log-probabilities correspond. An agent without a
    critic gets a new one, with hidden layers as the policy's, whose values are 0 until it learns;
    :class:`metarl.sb3.LinearBaselineBuffer` is the baseline that such agents are trained with.

    An agent that learns while it acts, such as rl2, becomes a
    :class:`metarl.sb3.TrialPolicy`, whose ``predict`` keeps what it learns through the episodes
    of a trial.

    >>> import metarl
    >>> from metarl.agents.maml_ppo import MAMLPPO
    >>> tasks = metarl.make("navigation")
    >>> agent = MAMLPPO(MAMLPPO.Config(), metarl.TaskSpec.of(tasks))
    >>> model = metarl.sb3.export(agent, tasks.make(), learning_rate=1e-3)
    >>> model.policy.mlp_extractor.policy_net
    Sequential(
      (0): Linear(in_features=2, out_features=100, bias=True)
      (1): ReLU()
      (2): Linear(in_features=100, out_features=100, bias=True)
      (3): ReLU()
    )

    Args:
        run_or_agent: a run or its directory, of which the final checkpoint is taken, or an agent
            (``metarl.load(directory, "best")`` loads another checkpoint). An agent of yours
            becomes a PPO if it has a method ``network(context)`` (:class:`metarl.Adapter`).
        env: a Gymnasium environment or a ``VecEnv`` of Stable-Baselines3, with the spaces that
            the agent was trained for.
        seed: the seed of PPO, None for a different one each time; for an agent that learns while
            it acts, that of its actions (0 by default).
        options: options of PPO's constructor, such as ``learning_rate`` or ``n_steps``; of
            ``policy_kwargs``, those of the optimiser (``optimizer_class``, ``optimizer_kwargs``).

    Raises:
        UserError: if there is no such run, if the spaces do not fit or are none that
            Stable-Baselines3 takes, or if the agent is of neither kind.
    """
    agent = run_or_agent
    if isinstance(agent, str | Path):
        agent = Run.open(Path(agent))
    if isinstance(agent, Run):
        agent = agent.load_agent()[0]
    if not isinstance(agent, Adapter):
        raise bad_option("run_or_agent", agent, "a run, its directory, or an agent")
    if not isinstance(env, gym.Env | VecEnv):
        accepted = "a gymnasium.Env or a VecEnv of Stable-Baselines3"
        raise bad_option("env", type(env).__name__, accepted)
    require_spaces(agent, env.observation_space, env.action_space, "env")
    if seed is not None:
        require_seed("seed", seed)
    for name in options:
        if name not in PPO_OPTIONS:
            raise UserError(f"export: no option {name!r} of PPO; {near_matches(name, PPO_OPTIONS)}")
    for name in options.get("policy_kwargs") or ():
        if name not in POLICY_OPTIONS:
            raise bad_option("policy_kwargs", name, " and ".join(POLICY_OPTIONS))
    network = getattr(agent, "network", None)
    if network is not None:
        return _ppo(network(agent.begin(1)), env, seed, options)
    if agent.shape.learns_while_acting:
        if options:
            accepted = "no options of PPO, since an agent that learns while it acts becomes none"
            raise bad_option("export", ", ".join(options), accepted)
        return TrialPolicy(agent, _vector(env), seed or 0)
    raise bad_option(
        "run_or_agent",
        type(agent).__name__,
        "an agent with a method network(context), or one that learns while it acts",
    )


def _vector(env: Env | VecEnv) -> VecEnv:
    """Return ``env`` as a VecEnv whose observations are what they were.

    PPO's own wrapping would move the channels of images, which the agent has seen where they are.
    """
    parts = getattr(env.observation_space, "spaces", {})
    inner = parts.values() if isinstance(parts, Mapping) else parts
    if any(isinstance(part, gym.spaces.Dict | gym.spaces.Tuple) for part in inner):
        raise _refused("observation", env.observation_space, "no Dict or Tuple inside another")
    return env if isinstance(env, VecEnv) else DummyVecEnv([lambda: Monitor(env)])


def _ppo(
    network: PolicyNetwork, env: Env | VecEnv, seed: int | None, options: dict[str, Any]
) -> PPO:
    """Return a PPO for ``env`` that starts from ``network``."""
    _require_supported(env.observation_space, env.action_space)
    venv = PPO._wrap_env(env, options.get("verbose", 0))
    sizes = layer_sizes(network.actor)
    policy_kwargs = {
        **(options.pop("policy_kwargs", None) or {}),
        "net_arch": {
            "pi": sizes,
            "vf": sizes if network.critic is None else layer_sizes(network.critic),
        },
        "activation_fn": network.activation,
        "min_std": network.min_std,
        "features_extractor_kwargs": {
            "images": _moved(env.observation_space, venv.observation_space)
        },
    }
    model = PPO(NetworkPolicy, venv, policy_kwargs=policy_kwargs, seed=seed, **options)
    assert isinstance(model.policy, NetworkPolicy)
    model.policy.fill(network)
    return model


def _moved(given: gym.Space[Any], wrapped: gym.Space[Any]) -> list[str | None]:
    """Return the images of which Stable-Baselines3 has moved the channels to the front."""
    if isinstance(given, gym.spaces.Dict) and isinstance(wrapped, gym.spaces.Dict):
        return [key for key in given.spaces if given[key] != wrapped[key]]
    return [] if given == wrapped else [None]


def _require_supported(observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
    """Refuse spaces that our agents take and Stable-Baselines3 does not."""
    parts: list[gym.Space[Any]] = [observation_space]
    if isinstance(observation_space, gym.spaces.Dict):
        parts = list(observation_space.spaces.values())
    if not all(map(_supported, parts)):
        accepted = "Box, MultiBinary, Discrete from 0, MultiDiscrete from 0 with one axis, and a "
        raise _refused("observation", observation_space, accepted + "Dict of them")
    sound = _supported(action_space)
    if isinstance(action_space, gym.spaces.Box):
        finite = bool(np.isfinite([action_space.low, action_space.high]).all())
        sound = finite and np.issubdtype(action_space.dtype, np.floating)
    if not sound:
        accepted = (
            "MultiBinary and MultiDiscrete from 0 with one axis, Discrete from 0, and Box of "
        )
        raise _refused("action", action_space, accepted + "floats with finite bounds")


def _refused(kind: str, space: gym.Space[Any], accepted: str) -> UserError:
    got = " ".join(str(space).split())  # Arrays have several lines.
    accepted = f"what Stable-Baselines3 takes: {accepted}"
    return UserError(f"env: got {kind} space {got}; accepted: {accepted}")


def _supported(space: gym.Space[Any]) -> bool:
    if isinstance(space, gym.spaces.Discrete):
        return bool(space.start == 0)
    if isinstance(space, gym.spaces.MultiDiscrete):
        return space.nvec.ndim == 1 and not space.start.any()
    if isinstance(space, gym.spaces.MultiBinary):
        return len(space.shape) == 1
    return isinstance(space, gym.spaces.Box)

"""Models of Stable-Baselines3 inside agents: how they are made, fed with trials, and trained.

The learning is Stable-Baselines3's own: an agent fills the buffers of a model from a trial and
calls ``model.train()``. Policies act in policy units (:class:`metarl.Adapter`), so their action
space is a Box of [-1, 1] in place of the environment's.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from metarl.errors import DivergenceError, UserError, bad_option
from metarl.experience.agent import TaskSpec
from metarl.experience.data import Episodes, Metrics, join_episodes, next_observations
from metarl.learning.distributions import Categorical, Distribution, Gaussian, action_distribution
from metarl.learning.networks import Params, PolicyNetwork
from metarl.learning.normalization import ObservationNormalizer
from metarl.stepping.actions import ActionCodec, one_line

Model = TypeVar("Model", bound=BaseAlgorithm)


METRICS = {"train/approx_kl": "kl", "train/policy_gradient_loss": "policy_loss"}
"""Stable-Baselines3's names of metrics that other agents have too -> their names here."""


class _Spaces(gym.Env[Any, Any]):
    """Tells a model its spaces; it cannot be stepped."""

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space


class Normalized(BaseFeaturesExtractor):
    """Features are the observations, normalised by the moments of what was trained on."""

    def __init__(
        self, observation_space: gym.spaces.Box, normalizer: ObservationNormalizer
    ) -> None:
        super().__init__(observation_space, int(np.prod(observation_space.shape)))
        self.normalizer = normalizer

    def forward(self, observations: Tensor) -> Tensor:
        """Return the normalised observations, ``[step, observation]``."""
        return cast(Tensor, self.normalizer(observations))


def make_model(
    kind: type[Model],
    observation_size: int,
    codec: ActionCodec,
    normalizer: ObservationNormalizer,
    *,
    seed: int,
    device: torch.device,
    policy: dict[str, Any],
    **options: Any,
) -> Model:
    """Make a model of Stable-Baselines3 that acts in policy units and belongs to no environment.

    Args:
        kind: the algorithm.
        observation_size: the numbers of an observation.
        codec: the environment's actions.
        normalizer: the normaliser of observations; it is a part of the model's policy, so that
            its moments are saved with it.
        seed: the seed of the initial parameters.
        device: where the tensors live.
        policy: further arguments of the policy, ``policy_kwargs``.
        options: further arguments of the algorithm.
    """
    observations = gym.spaces.Box(-np.inf, np.inf, (observation_size,), np.float32)
    actions = policy_space(codec)
    extractor = {
        "features_extractor_class": Normalized,
        "features_extractor_kwargs": {"normalizer": normalizer},
    }
    with seeded(seed):
        model = kind(
            "MlpPolicy",
            _Spaces(observations, actions),
            device=device,
            policy_kwargs={**policy, **extractor},
            **options,
        )
    model.set_logger(Logger(folder=None, output_formats=[]))
    model.policy.set_training_mode(False)
    return model


def policy_space(codec: ActionCodec) -> gym.Space[Any]:
    """Return the space of a policy's actions, as Stable-Baselines3 has them.

    Raises:
        UserError: if an action has choices and numbers, which no policy of Stable-Baselines3 has.
    """
    if codec.discrete:
        return gym.spaces.Discrete(codec.size)
    if not codec.choices:
        return gym.spaces.Box(-1.0, 1.0, (codec.numbers,), np.float32)
    if codec.numbers:
        accepted = "by Stable-Baselines3: choices alone, or numbers alone"
        raise UserError(f"action space: got {one_line(codec.space)}; accepted {accepted}")
    return gym.spaces.MultiDiscrete(np.array(codec.choices, np.int64))


ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}
"""Activation functions of hidden layers by name."""


def make_ppo(
    observation_size: int,
    codec: ActionCodec,
    normalizer: ObservationNormalizer,
    *,
    seed: int,
    device: torch.device,
    hidden_sizes: Sequence[int],
    activation: str,
    initial_std: float,
    batch_size: int,
    **options: Any,
) -> PPO:
    """Make a PPO model whose rollouts come from :func:`fill_rollouts`.

    Args:
        observation_size: the numbers of an observation.
        codec: the environment's actions.
        normalizer: the normaliser of observations.
        seed: the seed of the initial parameters.
        device: where the tensors live.
        hidden_sizes: the sizes of the policy's hidden layers, and of the critic's.
        activation: a name of :data:`ACTIVATIONS`.
        initial_std: the initial standard deviation of continuous actions.
        batch_size: the number of steps in a minibatch.
        options: further arguments of PPO.
    """
    sizes = list(hidden_sizes)
    policy = {
        "net_arch": {"pi": sizes, "vf": sizes},
        "activation_fn": ACTIVATIONS[activation],
        "log_std_init": math.log(initial_std),
    }
    model = make_model(
        PPO,
        observation_size,
        codec,
        normalizer,
        seed=seed,
        device=device,
        policy=policy,
        n_steps=2,  # the smallest rollout that PPO accepts; none of its own is ever gathered
        batch_size=2,
        **options,
    )
    model.batch_size = batch_size
    return model


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch, and put their states back at the end.

    Stable-Baselines3 draws from them. With this, what it does depends on ``seed`` alone, and the
    rest of the program is not changed by it.
    """
    states = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def distribution_of(
    policy: ActorCriticPolicy, observation: Float[Tensor, "*batch observation"]
) -> Distribution:
    """Return the action distributions of a policy, in the form that agents draw from."""
    flat = observation.reshape(-1, observation.shape[-1])
    found: Any = policy.get_distribution(flat).distribution
    batch = observation.shape[:-1]
    if isinstance(found, torch.distributions.Categorical):
        return Categorical(found.logits.reshape(*batch, -1))
    if isinstance(found, list):  # one Categorical for each choice
        logits = torch.cat([choice.logits for choice in found], -1)
        return action_distribution(
            logits.reshape(*batch, -1), None, ActionCodec(policy.action_space)
        )
    assert isinstance(found, torch.distributions.Normal)
    return Gaussian(found.loc.reshape(*batch, -1), found.scale.log().reshape(*batch, -1))


def with_told(
    observation: Float[Tensor, "task lane observation"], told: Float[Tensor, "task number"]
) -> Float[Tensor, "task lane seen"]:
    """Append to observations the numbers that an agent is told of each task."""
    return torch.cat([observation, told.unsqueeze(1).expand(-1, observation.shape[1], -1)], -1)


def network_of(policy: ActorCriticPolicy) -> PolicyNetwork:
    """Return the policy and the critic of a model that :func:`make_ppo` has made, as plain data."""
    extractor = policy.mlp_extractor
    actor = _layers(extractor.policy_net, policy.action_net)
    if isinstance(policy.action_space, gym.spaces.Box):
        actor["log_std"] = policy.log_std.detach()
    assert isinstance(policy.features_extractor, Normalized)
    return PolicyNetwork(
        actor,
        min_std=torch.finfo(torch.float32).tiny,
        activation=policy.activation_fn,
        critic=_layers(extractor.value_net, policy.value_net),
        normalizer=policy.features_extractor.normalizer,
    )


def _layers(hidden: nn.Module, output: nn.Module) -> Params:
    layers = [module for module in [*hidden.modules(), output] if isinstance(module, nn.Linear)]
    weights = {f"weight.{i}": layer.weight.detach().T for i, layer in enumerate(layers)}
    return weights | {f"bias.{i}": layer.bias.detach() for i, layer in enumerate(layers)}


class Transitions:
    """Valid steps of episodes as NumPy arrays and tensors, ``[time, lane, …]``.

    Args:
        episodes: episodes of any tasks; every episode is a lane.
        told: numbers that end the observations of a task's lanes, ``[task, number]``.
    """

    def __init__(self, episodes: Episodes, told: Float[Tensor, "task number"]) -> None:
        tasks, number, time = episodes.valid.shape
        expanded = told[:, None, None].expand(-1, number, time, -1)

        def lanes(x: Shaped[Tensor, "task episode time ..."]) -> Shaped[Tensor, "time lane ..."]:
            return x.reshape(tasks * number, time, *x.shape[3:]).transpose(0, 1)

        def seen(x: Float[Tensor, "task episode time observation"]) -> Tensor:
            return lanes(torch.cat([x, expanded], -1))

        self.observation = seen(episodes.observation)
        self.next_observation = seen(next_observations(episodes))
        self.action, self.taken = lanes(episodes.action), lanes(episodes.taken)
        self.reward = lanes(episodes.reward)
        self.terminated, self.truncated = lanes(episodes.terminated), lanes(episodes.truncated)
        self.valid: Bool[Tensor, "time lane"] = lanes(episodes.valid)
        record = episodes.record.get("log_prob")
        self.log_prob = None if record is None else lanes(record)

    @staticmethod
    def of(rounds: list[Episodes], told: Float[Tensor, "task number"]) -> Transitions:
        """Return the steps of all rounds of a trial."""
        return Transitions(join_episodes(rounds), told)


@torch.no_grad()
def fill_rollouts(model: PPO, steps: Transitions) -> None:
    """Replace the rollout buffer of ``model`` by one that holds ``steps``, ready for ``train``.

    Values are those of the model's policy, which must have acted, and so are log-probabilities
    unless they were recorded. As where Stable-Baselines3 gathers by itself, the rewards of
    truncated steps are bootstrapped, and advantages are its own, episode by episode; padding is
    left out at the end.
    """
    valid, policy = steps.valid, model.policy
    policy.set_training_mode(False)
    observation = steps.observation[valid]
    values, log_probs, _ = policy.evaluate_actions(observation, steps.action[valid])
    if steps.log_prob is not None:
        log_probs = steps.log_prob[valid]
    reward = steps.reward.clone()
    cut = valid & steps.truncated & ~steps.terminated
    if cut.any():
        reward[cut] += model.gamma * policy.predict_values(steps.next_observation[cut]).squeeze(-1)
    time, lanes = valid.shape
    padded = _rollouts(model, time, lanes)
    keep = valid.cpu().numpy()
    padded.rewards[keep] = reward[valid].cpu().numpy()
    padded.values[keep] = values.squeeze(-1).cpu().numpy()
    padded.episode_starts[0] = 1.0
    padded.episode_starts[1:] = ~keep[1:]  # Nothing flows back from padding.
    ends = np.ones(lanes, np.bool_)
    padded.compute_returns_and_advantage(torch.zeros(lanes), ends)
    buffer = _rollouts(model, int(keep.sum()), 1)
    buffer.observations[:, 0] = observation.cpu().numpy()
    buffer.actions[:, 0] = steps.action[valid].reshape(len(observation), -1).cpu().numpy()
    buffer.log_probs[:, 0] = log_probs.cpu().numpy()
    for name in ("rewards", "values", "episode_starts", "returns", "advantages"):
        getattr(buffer, name)[:, 0] = getattr(padded, name)[keep]
    buffer.pos, buffer.full = buffer.buffer_size, True
    model.rollout_buffer = buffer


def _rollouts(model: PPO, steps: int, lanes: int) -> RolloutBuffer:
    assert isinstance(model.observation_space, gym.spaces.Box)
    return RolloutBuffer(
        steps,
        model.observation_space,
        model.action_space,
        device=model.device,
        gae_lambda=model.gae_lambda,
        gamma=model.gamma,
        n_envs=lanes,
    )


def fill_replay(buffer: ReplayBuffer, steps: Transitions) -> None:
    """Write steps into a replay buffer of one environment, episode after episode.

    The oldest steps are overwritten. Actions are those that the environments took.
    """
    valid = steps.valid.T  # [lane, time]: one episode after another
    taken = steps.taken.transpose(0, 1)[valid]
    columns = {
        "observations": steps.observation.transpose(0, 1)[valid],
        "next_observations": steps.next_observation.transpose(0, 1)[valid],
        "actions": taken.reshape(len(taken), -1),
        "rewards": steps.reward.T[valid],
        "dones": (steps.terminated | steps.truncated).T[valid],
        "timeouts": (steps.truncated & ~steps.terminated).T[valid],
    }
    number, size = len(taken), buffer.buffer_size
    rows = (buffer.pos + np.arange(max(0, number - size), number)) % size
    for name, values in columns.items():
        getattr(buffer, name)[rows, 0] = values[-len(rows) :].cpu().numpy()
    buffer.full = buffer.full or buffer.pos + number >= size
    buffer.pos = (buffer.pos + number) % size


def train(model: PPO | SAC, seed: int, **options: Any) -> Metrics:
    """Call ``model.train(**options)`` with seeded generators, and return what it logs.

    Raises:
        DivergenceError: if a parameter is no longer finite.
    """
    with seeded(seed):
        model.train(**options)
    model.policy.set_training_mode(False)
    for module in model.policy.modules():
        # The last distribution keeps the graph of the loss, with which no agent can be copied.
        if hasattr(module, "action_dist"):
            vars(module.action_dist).pop("distribution", None)
            vars(module.action_dist).pop("gaussian_actions", None)
    for name, parameter in model.policy.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise DivergenceError(f"the parameter {name} of {type(model).__name__}")
    logged = {
        METRICS.get(name, name.removeprefix("train/")): float(value)
        for name, value in model.logger.name_to_value.items()
        if name != "train/n_updates"  # a count of this process, which starts again on resume
    }
    model.logger.name_to_value.clear()
    return logged


def told_numbers(observe_task: bool, spec: TaskSpec) -> int:
    """Return how many numbers of its task an agent is told.

    Raises:
        UserError: if it is to be told tasks that have parameters which are no numbers.
    """
    if not observe_task:
        return 0
    if spec.task_size is None:
        raise bad_option("--observe-task", True, "tasks whose parameters are all numbers")
    return spec.task_size

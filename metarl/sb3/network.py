"""A policy without memory as an actor-critic policy of Stable-Baselines3."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from metarl.learning.networks import Params, PolicyNetwork, layer_sizes
from metarl.learning.normalization import ObservationNormalizer
from metarl.stepping.actions import ActionCodec
from metarl.stepping.spaces import observation_size


class FlatObservations(BaseFeaturesExtractor):
    """Observations as our agents see them: flat, images as they come, scaled if the agent did.

    Args:
        observation_space: the space after Stable-Baselines3's wrappers.
        images: the keys of a Dict's images, or None for a single image, of which
            Stable-Baselines3 has moved the channels to the front; here they are moved back.

    >>> parts = {"place": gym.spaces.Box(-1, 1, (2,)), "speed": gym.spaces.Box(0, 9)}
    >>> layer = metarl.sb3.FlatObservations(gym.spaces.Dict(parts))
    >>> layer({"place": torch.zeros(5, 2), "speed": torch.ones(5, 1)}).shape
    torch.Size([5, 3])
    """

    def __init__(
        self, observation_space: gym.Space[Any], images: Sequence[str | None] = ()
    ) -> None:
        super().__init__(observation_space, observation_size(observation_space))
        self.images = tuple(images)
        self.normalizer = ObservationNormalizer(self.features_dim)
        self.divisor: Tensor
        self.register_buffer("divisor", torch.ones(self.features_dim))

    def forward(self, observations: Any) -> Tensor:
        """Return ``[batch, size]``; indices have already become one-hot vectors."""
        space = self._observation_space
        if isinstance(space, gym.spaces.Dict):
            flat = torch.cat([self._flat(observations[key], key) for key in space.spaces], -1)
        else:
            flat = self._flat(observations, None)
        scaled: Tensor = self.normalizer(flat / self.divisor)
        return scaled

    def _flat(self, part: Tensor, key: str | None) -> Tensor:
        if key in self.images:
            part = part.permute(0, 2, 3, 1)
        return part.flatten(1)


class NetworkPolicy(ActorCriticPolicy):
    """The policy that :func:`metarl.sb3.export` makes, with an agent's own layers.

    The layers' outputs and ``log_std`` are in policy units, in which the agent was trained. The
    distribution is in the environment's units, in which Stable-Baselines3 stores actions: with
    ``center, scale = ActionCodec(action_space).units()``, its mean is ``center + scale · mean``
    and its standard deviation ``scale · max(exp(log_std), min_std)``. For an action a in the
    environment's units, the log-probability is therefore the agent's for ``(a - center) / scale``,
    minus the constant Σ log(scale), which cancels out in PPO's ratios.

    Args:
        args: the spaces and the schedule of the learning rate, as for any policy.
        min_std: lower bound on the standard deviation, in policy units; it holds in learning too.
        options: options of Stable-Baselines3's ``ActorCriticPolicy``.

    >>> model = metarl.sb3.export("runs/goals", metarl.make("navigation").make())
    >>> isinstance(model.policy, metarl.sb3.NetworkPolicy), model.policy.min_std
    (True, 0.01)
    >>> model.policy.scale  # navigation's actions are bounded by ±0.1
    tensor([0.1000, 0.1000])
    """

    def __init__(self, *args: Any, min_std: float, **options: Any) -> None:
        options |= {"features_extractor_class": FlatObservations, "normalize_images": False}
        super().__init__(*args, **options)
        self.min_std = min_std
        self.center: Tensor
        self.scale: Tensor
        if isinstance(self.action_dist, DiagGaussianDistribution):
            for name, values in zip(
                ("center", "scale"), ActionCodec(self.action_space).units(), strict=True
            ):
                buffer = torch.from_numpy(values.astype(np.float32))
                self.register_buffer(name, buffer, persistent=False)  # The space tells it.

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "min_std": self.min_std}

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Distribution:
        output = self.action_net(latent_pi)
        if isinstance(self.action_dist, CategoricalDistribution):
            return self.action_dist.proba_distribution(action_logits=output)
        if isinstance(self.action_dist, MultiCategoricalDistribution | BernoulliDistribution):
            return self.action_dist.proba_distribution(action_logits=output)
        assert isinstance(self.action_dist, DiagGaussianDistribution)  # Others are not exported.
        log_std = self.log_std.clamp(min=math.log(self.min_std)) + self.scale.log()
        return self.action_dist.proba_distribution(self.center + self.scale * output, log_std)

    @torch.no_grad()
    def fill(self, network: PolicyNetwork) -> None:
        """Copy the numbers of ``network`` into this policy, which was made for its sizes.

        Without a critic in it, all values are 0 until the first update: numbers that mean nothing
        would be added to the last rewards of truncated episodes.
        """
        actor = network.actor
        if isinstance(self.action_dist, BernoulliDistribution):
            actor = _of_second_values(actor)
        _fill(self.mlp_extractor.policy_net, self.action_net, actor)
        if network.critic is None:
            self.value_net.weight.zero_()
            self.value_net.bias.zero_()
        else:
            _fill(self.mlp_extractor.value_net, self.value_net, network.critic)
        if "log_std" in network.actor:
            self.log_std.copy_(network.actor["log_std"])
        assert isinstance(self.features_extractor, FlatObservations)
        if network.normalizer is not None:
            if network.normalizer.divisor is not None:
                self.features_extractor.divisor.copy_(network.normalizer.divisor)
            self.features_extractor.normalizer.load_state_dict(network.normalizer.state_dict())


def _of_second_values(actor: Params) -> Params:
    """Return layers whose outputs are, for choices between 0 and 1, the logits of 1 alone."""
    last = len(layer_sizes(actor))
    names = f"weight.{last}", f"bias.{last}"
    return actor | {name: actor[name][..., 1::2] - actor[name][..., ::2] for name in names}


def _fill(hidden: nn.Module, output: nn.Module, params: Params) -> None:
    layers = [module for module in [*hidden.modules(), output] if isinstance(module, nn.Linear)]
    for i, layer in enumerate(layers):
        layer.weight.copy_(params[f"weight.{i}"].T)
        layer.bias.copy_(params[f"bias.{i}"])

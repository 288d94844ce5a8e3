"""What kind of tasks an agent is made for: what general settings are chosen by."""

from __future__ import annotations

from typing import Literal, TypeAlias

import gymnasium as gym

from metarl.experience.agent import TaskSpec
from metarl.learning.encoders import SMALLEST
from metarl.stepping.actions import ActionCodec

Kind: TypeAlias = Literal["one-step", "tabular", "images", "vectors"]


def kind_of(spec: TaskSpec) -> Kind:
    """Return what kind of tasks these are.

    Returns:
        ``one-step`` if an episode is one step, as in bandits; ``tabular`` if observations are
        elements of a finite set; ``images`` if there are images in them that a CNN sees by default;
        ``vectors`` for all others.
    """
    space = spec.observation_space
    if spec.horizon == 1:
        return "one-step"
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete | gym.spaces.MultiBinary):
        return "tabular"
    if spec.images and min(min(image.planes[1:]) for image in spec.images) >= SMALLEST:
        return "images"
    return "vectors"


def has_continuous_actions(spec: TaskSpec) -> bool:
    """Return whether an action has numbers, and not only elements of finite sets."""
    return ActionCodec(spec.action_space).numbers > 0


def number_for(steps: int, each: int, low: int, high: int) -> int:
    """Return how many parts of ``each`` steps are about ``steps``: from ``low`` to ``high``."""
    return min(high, max(low, round(steps / max(each, 1))))

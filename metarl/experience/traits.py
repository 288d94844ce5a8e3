"""What kind of tasks an agent is made for: what general settings are chosen by."""

from __future__ import annotations

from typing import Literal, TypeAlias

import gymnasium as gym
import numpy as np

from metarl.experience.agent import TaskSpec
from metarl.learning.encoders import SMALLEST
from metarl.stepping.actions import ActionCodec
from metarl.stepping.spaces import has_bytes

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


LARGE = 50.0
"""Numbers beyond it are large for a network that sees them as they are."""


def large_numbers(spec: TaskSpec) -> float | None:
    """Return the largest number that bounded observations may hold, if it is a large one.

    Bytes are not looked at, since agents scale them.
    """
    space = spec.observation_space
    if not isinstance(space, gym.spaces.Box) or has_bytes(space):
        return None
    bounds = np.abs(np.concatenate([space.low.ravel(), space.high.ravel()]).astype(np.float64))
    for image in spec.images or ():  # They lie among the bounds twice: of low and of high.
        for first in (image.first, bounds.size // 2 + image.first):
            bounds[first : first + image.size] = 0
    known = bounds[bounds < np.finfo(np.float32).max]
    largest = float(known.max()) if known.size else 0.0
    return largest if largest > LARGE else None


def number_for(steps: int, each: int, low: int, high: int) -> int:
    """Return how many parts of ``each`` steps are about ``steps``: from ``low`` to ``high``."""
    return min(high, max(low, round(steps / max(each, 1))))

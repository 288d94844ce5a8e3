"""Named settings: ``metarl train --preset NAME``; every option can still be given beside one.

The settings themselves are in ``metarl/presets``, a module for each family of environments.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from metarl.errors import UserError, near_matches
from metarl.imports import load_object
from metarl.running.settings import Settings

_LEARNERS = ("rl2", "maml-ppo")

FAMILIES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("bandits", "navigation", "gymnasium"), _LEARNERS),
    **dict.fromkeys(("half_cheetah", "metaworld"), _LEARNERS),
    **dict.fromkeys(("mdps", "hidden_goals"), ("rl2",)),
    "multitask": ("ppo-multitask",),
}
"""The modules of ``metarl.presets``, each with a dict ``PRESETS``, and the agents these are for.
The last imports Stable-Baselines3."""


@dataclass(frozen=True)
class Preset:
    """Settings, and where they come from."""

    settings: Settings
    """The settings."""
    source: str
    """The paper, or what was measured here, in one line."""
    families: tuple[str, ...] = ()
    """Patterns of the names of other tasks that the settings are a start for, with ``*``."""
    variant: bool = False
    """Whether the settings are only taken by their name, since another preset or the agent's own
    choice is the start for these tasks."""


@functools.cache
def presets() -> dict[str, Preset]:
    """Return all presets by name."""
    return {name: preset for family in FAMILIES for name, preset in _of(family).items()}


def preset(name: str) -> Preset:
    """Return the preset ``name``.

    Raises:
        UserError: for an unknown name; near matches are listed.
    """
    for family in FAMILIES:  # one after the other, so that no more is imported than needed
        if name in _of(family):
            return _of(family)[name]
    raise UserError(f"--preset: unknown preset {name!r}; {near_matches(name, presets())}")


def presets_of(agent: str) -> dict[str, Preset]:
    """Return the presets for an agent by name; modules without one are not imported."""
    families = [family for family, agents in FAMILIES.items() if agent in agents]
    found = {name: each for family in families for name, each in _of(family).items()}
    return {name: each for name, each in found.items() if each.settings.agent == agent}


def _of(family: str) -> dict[str, Preset]:
    found: dict[str, Preset] = load_object(f"metarl.presets.{family}:PRESETS")
    return found

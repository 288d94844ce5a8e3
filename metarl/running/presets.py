"""Named settings: ``metarl train --preset NAME``; every option can still be given beside one.

The settings themselves are in ``metarl/presets``, a module for each family of environments.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from metarl.errors import UserError, near_matches
from metarl.imports import load_object
from metarl.running.settings import Settings

FAMILIES = ("bandits", "mdps", "navigation", "gymnasium", "half_cheetah", "metaworld")
"""The modules of ``metarl.presets``; each has a dict ``PRESETS``."""


@dataclass(frozen=True)
class Preset:
    """Settings, and where they come from."""

    settings: Settings
    """The settings."""
    source: str
    """The paper, or what was measured here, in one line."""


@functools.cache
def presets() -> dict[str, Preset]:
    """Return all presets by name."""
    found: dict[str, Preset] = {}
    for family in FAMILIES:
        found |= load_object(f"metarl.presets.{family}:PRESETS")
    return found


def preset(name: str) -> Preset:
    """Return the preset ``name``.

    Raises:
        UserError: for an unknown name; near matches are listed.
    """
    if name not in presets():
        raise UserError(f"--preset: unknown preset {name!r}; {near_matches(name, presets())}")
    return presets()[name]

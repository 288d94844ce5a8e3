"""Named settings: ``train.py --preset NAME``. Every field can still be given beside one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from metarl.errors import UserError, near_matches


@dataclass(frozen=True)
class Preset:
    """An agent, and what differs from its and the training's defaults."""

    agent: str
    source: str
    """Where the settings come from."""
    train: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)


PRESETS: dict[str, Preset] = {
    "rl2-bandit-n100-k10": Preset(
        agent="rl2",
        source="the bandit of RL² (arXiv 1611.02779, table 1); settings measured here",
        train={"env": "bandit/n100-k10", "iterations": 1500},
        config={"gae_lambda": 0.95, "entropy_coefficient": 0.05},
    ),
    "rl2-half-cheetah-velocity": Preset(
        agent="rl2",
        source="two episodes a trial as VariBAD's RL² (arXiv 1910.08348, section 5.2); "
        "sizes chosen for two CPU cores",
        train={"env": "half-cheetah/velocity", "iterations": 50},
        config={
            "tasks_per_update": 40,
            "episodes_per_trial": 2,
            "hidden_size": 128,
            "observed_reward_scale": 0.1,
            "chunk_length": 100,
            "gae_lambda": 0.95,
            "learning_rate": 1e-3,
            "entropy_coefficient": 0.001,
            "initial_std": 0.5,
        },
    ),
}


def preset(name: str) -> Preset:
    """Return the preset ``name``.

    Raises:
        UserError: for an unknown name; near matches are listed.
    """
    if name not in PRESETS:
        raise UserError(f"--preset: unknown preset {name!r}; {near_matches(name, PRESETS)}")
    return PRESETS[name]

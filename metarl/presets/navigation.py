"""Presets for 2-D navigation."""

from __future__ import annotations

from metarl.agents.maml_ppo import MAMLPPOConfig
from metarl.agents.rl2 import RL2Config
from metarl.learning.heads import HeadConfig
from metarl.learning.ppo import PPOConfig
from metarl.running.presets import Preset
from metarl.running.settings import Settings, TrainConfig, ValidationConfig

PRESETS = {
    "maml-ppo-navigation": Preset(
        Settings(
            "maml-ppo",
            MAMLPPOConfig(),
            TrainConfig(
                env="navigation",
                iterations=180,
                evaluation=ValidationConfig(
                    validation_interval=90, validation_tasks=100, evaluation_tasks=200
                ),
            ),
        ),
        source="MAML (arXiv 1703.03400, section 5.3), with two inner steps where it has one",
    ),
    "rl2-navigation": Preset(
        Settings(
            "rl2",
            RL2Config(
                tasks_per_update=100,
                episodes_per_trial=4,
                chunk_length=100,
                gae_lambda=0.95,
                head=HeadConfig(initial_std=0.5),
                ppo=PPOConfig(learning_rate=1e-3, entropy_coefficient=0.001),
            ),
            TrainConfig(env="navigation", iterations=200),
        ),
        source="the navigation of MAML (arXiv 1703.03400) in trials of 4 episodes; "
        "settings measured here",
    ),
}

"""Presets for tabular MDPs."""

from __future__ import annotations

from metarl.agents.rl2 import RL2Config
from metarl.learning.cores import CoreConfig
from metarl.learning.heads import HeadConfig
from metarl.learning.ppo import PPOConfig
from metarl.running.presets import Preset
from metarl.running.settings import Settings, TrainConfig, ValidationConfig

PRESETS = {
    "rl2-mdp-n10": Preset(
        Settings(
            "rl2",
            RL2Config(
                tasks_per_update=500,
                gae_lambda=0.3,
                value_lambda=0.95,
                core=CoreConfig(kind="fast-weights", memory_size=32, encoder_sizes=(64,)),
                head=HeadConfig(head_sizes=(64,)),
                ppo=PPOConfig(num_minibatches=4),
            ),
            TrainConfig(
                env="mdp/n10",
                iterations=1000,
                evaluation=ValidationConfig(
                    validation_interval=100, validation_tasks=1000, evaluation_tasks=20_000
                ),
            ),
        ),
        source="the tabular MDPs of RL² (arXiv 1611.02779, table 2) and its lambda of 0.3; fast "
        "weights beside the GRU, and the other settings, measured here",
        families=("mdp/*",),
    ),
}

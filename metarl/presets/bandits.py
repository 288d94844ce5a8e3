"""Presets for Bernoulli bandits."""

from __future__ import annotations

from metarl.agents.maml_ppo import MAMLPPOConfig
from metarl.agents.rl2 import RL2Config
from metarl.learning.ppo import PPOConfig
from metarl.running.presets import Preset
from metarl.running.settings import Settings, TrainConfig

PRESETS = {
    "rl2-bandit-n100-k10": Preset(
        Settings(
            "rl2",
            RL2Config(gae_lambda=0.95, ppo=PPOConfig(entropy_coefficient=0.05)),
            TrainConfig(env="bandit/n100-k10", iterations=1500),
        ),
        source="the bandit of RL² (arXiv 1611.02779, table 1); settings measured here",
        families=("bandit/n[5-9][0-9]-k*", "bandit/n[0-9][0-9][0-9]*-k*"),
    ),
    "maml-ppo-bandit-n10-k5": Preset(
        Settings(
            "maml-ppo",
            MAMLPPOConfig(
                tasks_per_update=40,
                episodes_per_adaptation=200,
                num_adaptations=1,
                inner_learning_rate=(10.0, 5.0),
                hidden_sizes=(),
            ),
            TrainConfig(env="bandit/n10-k5", iterations=200),
        ),
        source="the bandit of RL² (arXiv 1611.02779); one step on 20 trials of 10 pulls",
        families=("bandit/*",),
    ),
}

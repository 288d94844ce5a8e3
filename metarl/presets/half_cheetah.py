"""Presets for HalfCheetah."""

from __future__ import annotations

from metarl.agents.maml_ppo import MAMLPPOConfig
from metarl.agents.rl2 import RL2Config
from metarl.learning.cores import CoreConfig
from metarl.learning.heads import HeadConfig
from metarl.learning.ppo import PPOConfig
from metarl.running.presets import Preset
from metarl.running.settings import Settings, TrainConfig, ValidationConfig

PRESETS = {
    "maml-ppo-half-cheetah-direction": Preset(
        Settings(
            "maml-ppo",
            MAMLPPOConfig(
                tasks_per_update=40,
                episodes_per_adaptation=20,
                num_adaptations=1,
                inner_learning_rate=(0.1, 0.05),
                hidden_sizes=(64, 64),
                clip=0.3,
                learning_rate=5e-3,
            ),
            TrainConfig(
                env="half-cheetah/direction",
                iterations=100,
                torch_threads=2,
                evaluation=ValidationConfig(validation_tasks=20, evaluation_tasks=100),
            ),
        ),
        source="ProMP's locomotion (arXiv 1810.06784, appendix): 40 tasks x 20 episodes x 200 "
        "steps, one inner step, 64x64, clip 0.3; outer rate measured here",
        families=("ant/direction",),
    ),
    "maml-ppo-half-cheetah-velocity": Preset(
        Settings(
            "maml-ppo",
            MAMLPPOConfig(
                episodes_per_adaptation=10, num_adaptations=1, hidden_sizes=(64, 64), clip=0.3
            ),
            TrainConfig(
                env="half-cheetah/velocity",
                iterations=30,
                evaluation=ValidationConfig(evaluation_tasks=40),
            ),
        ),
        source="ProMP's locomotion (arXiv 1810.06784, appendix): 64x64, clip 0.3; "
        "fewer tasks and episodes, for two CPU cores",
    ),
    "rl2-half-cheetah-velocity": Preset(
        Settings(
            "rl2",
            RL2Config(
                tasks_per_update=40,
                episodes_per_trial=2,
                normalize_observations=True,
                observed_reward_scale=0.1,
                chunk_length=100,
                gae_lambda=0.95,
                core=CoreConfig(hidden_size=128),
                head=HeadConfig(initial_std=0.5),
                ppo=PPOConfig(learning_rate=1e-3, entropy_coefficient=0.001),
            ),
            TrainConfig(env="half-cheetah/velocity", iterations=900),
        ),
        source="two episodes a trial as VariBAD's RL² (arXiv 1910.08348, section 5.2); scaled "
        "observations measured here, sizes chosen for two CPU cores",
        families=("half-cheetah/*", "ant/*", "hopper/*", "walker/*"),
    ),
}

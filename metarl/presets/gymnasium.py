"""Presets for Gymnasium's classic environments with sampled parameters."""

from __future__ import annotations

from metarl.agents.maml_ppo import MAMLPPOConfig
from metarl.agents.rl2 import RL2Config
from metarl.learning.heads import HeadConfig
from metarl.learning.ppo import PPOConfig
from metarl.running.presets import Preset
from metarl.running.settings import Settings, TrainConfig, ValidationConfig
from metarl.stepping.options import Workers

CARTPOLE = "gym/CartPole-v1:force_mag=-10/10,horizon=200"
PENDULUM = "gym/Pendulum-v1:g=2..20"
LOCAL = Workers(num_workers=0)
"""The main process steps Pendulum faster than workers can be reached."""

PRESETS = {
    "maml-ppo-cartpole-reversed": Preset(
        Settings(
            "maml-ppo",
            MAMLPPOConfig(
                num_adaptations=1,
                inner_learning_rate=(0.5, 0.25),
                hidden_sizes=(64, 64),
                learning_rate=3e-3,
            ),
            TrainConfig(
                env=CARTPOLE,
                iterations=60,
                evaluation=ValidationConfig(
                    validation_interval=60, validation_tasks=40, evaluation_tasks=300
                ),
            ),
        ),
        source="CartPole whose controls may be reversed; settings measured here",
    ),
    "rl2-cartpole-reversed": Preset(
        Settings(
            "rl2",
            RL2Config(
                tasks_per_update=40,
                episodes_per_trial=2,
                chunk_length=100,
                gae_lambda=0.95,
                ppo=PPOConfig(num_minibatches=4, learning_rate=1e-3, entropy_coefficient=0.01),
            ),
            TrainConfig(env=CARTPOLE, iterations=150),
        ),
        source="CartPole whose controls may be reversed; settings measured here",
    ),
    "maml-ppo-pendulum-gravity": Preset(
        Settings(
            "maml-ppo",
            MAMLPPOConfig(
                num_adaptations=1,
                inner_learning_rate=(0.1, 0.05),
                hidden_sizes=(64, 64),
                discount=0.95,
                gae_lambda=0.95,
                learning_rate=3e-3,
            ),
            TrainConfig(
                env=PENDULUM,
                iterations=100,
                evaluation=ValidationConfig(
                    validation_interval=100, validation_tasks=40, evaluation_tasks=300
                ),
                workers=LOCAL,
            ),
        ),
        source="Pendulum on planets from g = 2 to 20; settings measured here",
    ),
    "rl2-pendulum-gravity": Preset(
        Settings(
            "rl2",
            RL2Config(
                tasks_per_update=40,
                episodes_per_trial=2,
                observed_reward_scale=0.1,
                discount=0.95,
                gae_lambda=0.95,
                head=HeadConfig(head_sizes=(64,)),
                ppo=PPOConfig(
                    learning_rate=2e-3,
                    num_epochs=8,
                    num_minibatches=4,
                    entropy_coefficient=1e-3,
                ),
            ),
            TrainConfig(
                env=PENDULUM,
                iterations=250,
                evaluation=ValidationConfig(validation_interval=250, evaluation_tasks=2000),
                workers=LOCAL,
            ),
        ),
        source="Pendulum on planets from g = 2 to 20, gradients through both episodes of a trial; "
        "settings measured here",
    ),
}

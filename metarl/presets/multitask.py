"""Presets for one policy over all tasks, beside which meta-learners are measured.

Each has the network, the observations and the environment steps of a preset for maml-ppo. Settings
were chosen from six on validation tasks (``benchmarks/multitask-tuning.json``), except where the
source says that they were not.
"""

from __future__ import annotations

from metarl.agents.ppo_multitask import PPOMultitaskConfig
from metarl.presets.gymnasium import CARTPOLE
from metarl.running.presets import Preset
from metarl.running.settings import Settings, TrainConfig, ValidationConfig

_VALIDATION = ValidationConfig(validation_tasks=100, evaluation_tasks=100)


def _preset(
    env: str,
    env_steps: int,
    config: PPOMultitaskConfig,
    how: str = "settings chosen on validation tasks",
) -> Preset:
    return Preset(
        Settings(
            "ppo-multitask",
            config,
            TrainConfig(env=env, env_steps=env_steps, evaluation=_VALIDATION),
        ),
        source=f"network and environment steps of maml-ppo's preset; {how}",
    )


PRESETS = {
    "ppo-multitask-navigation": _preset(
        "navigation",
        17_600_000,
        PPOMultitaskConfig(
            hidden_sizes=(100, 100), activation="relu", learning_rate=1e-3, batch_size=4000
        ),
    ),
    "ppo-multitask-cartpole-reversed": _preset(
        CARTPOLE, 2_570_000, PPOMultitaskConfig(learning_rate=1e-3)
    ),
    "ppo-multitask-half-cheetah-direction": _preset(
        "half-cheetah/direction",
        32_000_000,
        PPOMultitaskConfig(learning_rate=1e-3),
        "settings not tuned yet",
    ),
}

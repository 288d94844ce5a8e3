"""Presets for Meta-World, from Meta-World+ (arXiv 2505.11289) unless they say otherwise."""

from __future__ import annotations

from metarl.agents.maml_ppo import MAMLPPOConfig
from metarl.agents.rl2 import RL2Config
from metarl.learning.cores import CoreConfig
from metarl.learning.heads import HeadConfig
from metarl.learning.ppo import PPOConfig
from metarl.options import with_options
from metarl.running.presets import Preset
from metarl.running.settings import Settings, TrainConfig, ValidationConfig

RL2 = RL2Config(
    episodes_per_trial=10,
    observed_reward_scale=0.1,
    gae_lambda=0.95,
    baseline="linear",
    chunk_length=250,
    core=CoreConfig(hidden_size=256, encoder_sizes=(256, 256)),
    head=HeadConfig(std="state", min_std=0.37, max_std=2.72),
    ppo=PPOConfig(
        learning_rate=5e-4,
        final_learning_rate=5e-4,
        num_epochs=10,
        num_minibatches=4,
        entropy_coefficient=5e-3,
        final_entropy_coefficient=5e-3,
        max_gradient_norm=1.0,
        target_kl=None,
    ),
)
"""The published settings of RL²."""

RL2_PUSH = with_options(RL2, normalize_observations=True)
"""ML1-push moves its object by centimetres, which only scaled observations show."""

MAML = MAMLPPOConfig(
    episodes_per_adaptation=10,
    num_adaptations=1,
    inner_learning_rate=(0.1, 0.05),
    hidden_sizes=(512, 512),
    gae_lambda=1.0,
)
"""The published settings of MAML, with PPO's outer step in place of TRPO's."""

MAML_ML1 = with_options(MAML, hidden_sizes=(128, 128), num_epochs=20, learning_rate=5e-3)
"""ML1 has a few dozen updates only: with the published network and 5 epochs they learned less."""

MAML_PUSH = with_options(MAML_ML1, episodes_per_adaptation=5)
"""Half as many episodes give twice as many updates."""

PUBLISHED = "networks, rates, 10 episodes a task"
PPO_FOR_TRPO = "PPO for TRPO: network, epochs"


def _preset(
    env: str,
    env_steps: int,
    tasks: int,
    agent: str,
    config: RL2Config | MAMLPPOConfig,
    source: str,
    families: tuple[str, ...] = (),
) -> Preset:
    """Return a setting with the published budget of steps, and a meta-batch of ``tasks``."""
    train = TrainConfig(
        env=f"metaworld/{env}",
        env_steps=env_steps,
        evaluation=ValidationConfig(validation_interval=20, validation_tasks=10),
    )
    return Preset(
        Settings(agent, with_options(config, tasks_per_update=tasks), train),
        f"Meta-World+ (arXiv 2505.11289): {source}, meta-batch, {env_steps // 10**6} M steps",
        families,
    )


PRESETS = {
    "metaworld-rl2-ml1-reach": _preset("ml1-reach", 2_000_000, 10, "rl2", RL2, PUBLISHED),
    "metaworld-rl2-ml1-push": _preset(
        "ml1-push",
        2_000_000,
        10,
        "rl2",
        RL2_PUSH,
        f"scaled observations measured here; {PUBLISHED}",
        families=("metaworld/ml1-*",),
    ),
    "metaworld-rl2-ml10": _preset(
        "ml10", 20_000_000, 20, "rl2", RL2, PUBLISHED, families=("metaworld/*",)
    ),
    "metaworld-rl2-ml45": _preset("ml45", 90_000_000, 45, "rl2", RL2, PUBLISHED),
    "metaworld-maml-ppo-ml1-reach": _preset(
        "ml1-reach",
        2_000_000,
        10,
        "maml-ppo",
        MAML_ML1,
        f"{PPO_FOR_TRPO} and outer rate measured here; inner rates, 10 episodes a task",
    ),
    "metaworld-maml-ppo-ml1-push": _preset(
        "ml1-push",
        2_000_000,
        10,
        "maml-ppo",
        MAML_PUSH,
        f"{PPO_FOR_TRPO}, outer rate and 5 episodes a task measured here; inner rates",
        families=("metaworld/ml1-*",),
    ),
    "metaworld-maml-ppo-ml10": _preset(
        "ml10",
        20_000_000,
        20,
        "maml-ppo",
        MAML,
        f"PPO's outer step for TRPO's; {PUBLISHED}",
        families=("metaworld/*",),
    ),
    "metaworld-maml-ppo-ml45": _preset(
        "ml45", 90_000_000, 45, "maml-ppo", MAML, f"PPO's outer step for TRPO's; {PUBLISHED}"
    ),
}

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


_METAWORLD_RL2 = {
    "episodes_per_trial": 10,
    "hidden_size": 256,
    "encoder_sizes": (256, 256),
    "observed_reward_scale": 0.1,
    "gae_lambda": 0.95,
    "baseline": "linear",
    "learning_rate": 5e-4,
    "final_learning_rate": 5e-4,
    "num_epochs": 10,
    "num_minibatches": 4,
    "chunk_length": 250,
    "entropy_coefficient": 5e-3,
    "final_entropy_coefficient": 5e-3,
    "max_gradient_norm": 1.0,
    "target_kl": None,
    "min_std": 0.37,
    "std": "state",
    "max_std": 2.72,
}

_METAWORLD_MAML = {
    "episodes_per_adaptation": 10,
    "num_adaptations": 1,
    "inner_learning_rate": (0.1, 0.05),
    "hidden_sizes": (512, 512),
    "gae_lambda": 1.0,
}

_METAWORLD_MAML_ML1 = _METAWORLD_MAML | {
    "hidden_sizes": (128, 128),
    "num_epochs": 20,
    "learning_rate": 5e-3,
}


def _metaworld(agent: str, env: str, tasks: int, env_steps: int) -> Preset:
    """Return a Meta-World setting; ``tasks`` a meta-batch, ``env_steps`` the published budget."""
    config: dict[str, Any] = _METAWORLD_RL2
    source = "networks, rates, 10 episodes a task"
    if agent == "maml-ppo":
        config, source = _METAWORLD_MAML, f"PPO's outer step for TRPO's; {source}"
        if env.startswith("ml1-"):
            # with the published network and 5 epochs, 20 updates learned less
            config = _METAWORLD_MAML_ML1
            source = "PPO for TRPO: network, epochs and outer rate measured here; inner rates, "
            source += "10 episodes a task"
    if env == "ml1-push":
        if agent == "rl2":  # its object is moved by centimetres
            config = config | {"normalize_observations": True}
            source = f"scaled observations measured here; {source}"
        else:  # twice as many updates
            config = config | {"episodes_per_adaptation": 5}
            source = "PPO for TRPO: network, epochs, outer rate and 5 episodes a task measured "
            source += "here; inner rates"
    return Preset(
        agent=agent,
        source=f"Meta-World+ (arXiv 2505.11289): {source}, meta-batch, "
        f"{env_steps // 10**6} M steps",
        train={
            "env": f"metaworld/{env}",
            "env_steps": env_steps,
            "validation_interval": 20,
            "validation_tasks": 10,
        },
        config={"tasks_per_update": tasks, **config},
    )


PRESETS: dict[str, Preset] = {
    "maml-ppo-navigation": Preset(
        agent="maml-ppo",
        source="MAML (arXiv 1703.03400, section 5.3), with two inner steps where it has one",
        train={
            "env": "navigation",
            "iterations": 180,
            "validation_interval": 90,
            "validation_tasks": 100,
            "evaluation_tasks": 200,
        },
    ),
    "maml-ppo-bandit-n10-k5": Preset(
        agent="maml-ppo",
        source="the bandit of RL² (arXiv 1611.02779); one step on 20 trials of 10 pulls",
        train={"env": "bandit/n10-k5", "iterations": 200},
        config={
            "tasks_per_update": 40,
            "episodes_per_adaptation": 200,
            "num_adaptations": 1,
            "inner_learning_rate": (10.0, 5.0),
            "hidden_sizes": (),
        },
    ),
    "maml-ppo-cartpole-reversed": Preset(
        agent="maml-ppo",
        source="CartPole whose controls may be reversed; settings measured here",
        train={
            "env": "gym/CartPole-v1:force_mag=-10/10,horizon=200",
            "iterations": 60,
            "validation_interval": 60,
            "validation_tasks": 40,
            "evaluation_tasks": 300,
        },
        config={
            "num_adaptations": 1,
            "inner_learning_rate": (0.5, 0.25),
            "hidden_sizes": (64, 64),
            "learning_rate": 3e-3,
        },
    ),
    "rl2-cartpole-reversed": Preset(
        agent="rl2",
        source="CartPole whose controls may be reversed; settings measured here",
        train={"env": "gym/CartPole-v1:force_mag=-10/10,horizon=200", "iterations": 150},
        config={
            "tasks_per_update": 40,
            "episodes_per_trial": 2,
            "num_minibatches": 4,
            "chunk_length": 100,
            "gae_lambda": 0.95,
            "learning_rate": 1e-3,
            "entropy_coefficient": 0.01,
        },
    ),
    "maml-ppo-pendulum-gravity": Preset(
        agent="maml-ppo",
        source="Pendulum on planets from g = 2 to 20; settings measured here",
        train={
            "env": "gym/Pendulum-v1:g=2..20",
            "iterations": 100,
            "num_workers": 0,
            "validation_interval": 100,
            "validation_tasks": 40,
            "evaluation_tasks": 300,
        },
        config={
            "num_adaptations": 1,
            "inner_learning_rate": (0.1, 0.05),
            "hidden_sizes": (64, 64),
            "discount": 0.95,
            "gae_lambda": 0.95,
            "learning_rate": 3e-3,
        },
    ),
    "rl2-pendulum-gravity": Preset(
        agent="rl2",
        source="Pendulum on planets from g = 2 to 20, gradients through both episodes of a trial; "
        "settings measured here",
        train={
            "env": "gym/Pendulum-v1:g=2..20",
            "iterations": 250,
            "num_workers": 0,
            "validation_interval": 250,
            "evaluation_tasks": 2000,
        },
        config={
            "tasks_per_update": 40,
            "episodes_per_trial": 2,
            "head_sizes": (64,),
            "observed_reward_scale": 0.1,
            "discount": 0.95,
            "gae_lambda": 0.95,
            "learning_rate": 2e-3,
            "num_epochs": 8,
            "num_minibatches": 4,
            "entropy_coefficient": 1e-3,
        },
    ),
    "maml-ppo-half-cheetah-direction": Preset(
        agent="maml-ppo",
        source="ProMP's locomotion (arXiv 1810.06784, appendix): 40 tasks x 20 episodes x 200 "
        "steps, one inner step, 64x64, clip 0.3; outer rate measured here",
        train={
            "env": "half-cheetah/direction",
            "iterations": 100,
            "threads": 2,
            "validation_tasks": 20,
            "evaluation_tasks": 100,
        },
        config={
            "tasks_per_update": 40,
            "episodes_per_adaptation": 20,
            "num_adaptations": 1,
            "inner_learning_rate": (0.1, 0.05),
            "hidden_sizes": (64, 64),
            "clip": 0.3,
            "learning_rate": 5e-3,
        },
    ),
    "maml-ppo-half-cheetah-velocity": Preset(
        agent="maml-ppo",
        source="ProMP's locomotion (arXiv 1810.06784, appendix): 64x64, clip 0.3; "
        "fewer tasks and episodes, for two CPU cores",
        train={"env": "half-cheetah/velocity", "iterations": 30, "evaluation_tasks": 40},
        config={
            "episodes_per_adaptation": 10,
            "num_adaptations": 1,
            "hidden_sizes": (64, 64),
            "clip": 0.3,
        },
    ),
    "rl2-navigation": Preset(
        agent="rl2",
        source="the navigation of MAML (arXiv 1703.03400) in trials of 4 episodes; "
        "settings measured here",
        train={"env": "navigation", "iterations": 200},
        config={
            "tasks_per_update": 100,
            "episodes_per_trial": 4,
            "chunk_length": 100,
            "gae_lambda": 0.95,
            "learning_rate": 1e-3,
            "entropy_coefficient": 0.001,
            "initial_std": 0.5,
        },
    ),
    "rl2-bandit-n100-k10": Preset(
        agent="rl2",
        source="the bandit of RL² (arXiv 1611.02779, table 1); settings measured here",
        train={"env": "bandit/n100-k10", "iterations": 1500},
        config={"gae_lambda": 0.95, "entropy_coefficient": 0.05},
    ),
    "rl2-mdp-n10": Preset(
        agent="rl2",
        source="the tabular MDPs of RL² (arXiv 1611.02779, table 2) and its lambda of 0.3; fast "
        "weights beside the GRU, and the other settings, measured here",
        train={
            "env": "mdp/n10",
            "iterations": 1000,
            "validation_interval": 100,
            "validation_tasks": 1000,
            "evaluation_tasks": 20_000,
        },
        config={
            "tasks_per_update": 500,
            "core": "fast-weights",
            "memory_size": 32,
            "encoder_sizes": (64,),
            "head_sizes": (64,),
            "num_minibatches": 4,
            "gae_lambda": 0.3,
            "value_lambda": 0.95,
        },
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
    "metaworld-rl2-ml1-reach": _metaworld("rl2", "ml1-reach", 10, 2_000_000),
    "metaworld-rl2-ml1-push": _metaworld("rl2", "ml1-push", 10, 2_000_000),
    "metaworld-rl2-ml10": _metaworld("rl2", "ml10", 20, 20_000_000),
    "metaworld-rl2-ml45": _metaworld("rl2", "ml45", 45, 90_000_000),
    "metaworld-maml-ppo-ml1-reach": _metaworld("maml-ppo", "ml1-reach", 10, 2_000_000),
    "metaworld-maml-ppo-ml1-push": _metaworld("maml-ppo", "ml1-push", 10, 2_000_000),
    "metaworld-maml-ppo-ml10": _metaworld("maml-ppo", "ml10", 20, 20_000_000),
    "metaworld-maml-ppo-ml45": _metaworld("maml-ppo", "ml45", 45, 90_000_000),
}


def preset(name: str) -> Preset:
    """Return the preset ``name``.

    Raises:
        UserError: for an unknown name; near matches are listed.
    """
    if name not in PRESETS:
        raise UserError(f"--preset: unknown preset {name!r}; {near_matches(name, PRESETS)}")
    return PRESETS[name]

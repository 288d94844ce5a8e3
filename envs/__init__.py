"""Families of tasks, one file each; importing this registers each of them with Gymnasium."""

import gymnasium as gym

REGISTERED = {
    "AntDirection-v0": "ant/direction",
    "AntGoal-v0": "ant/goal",
    "Bandit-v0": "bandit/n10-k5",
    "DarkRoom-v0": "dark-room/n9",
    "GridWorld-v0": "gridworld",
    "HalfCheetahDirection-v0": "half-cheetah/direction",
    "HalfCheetahVelocity-v0": "half-cheetah/velocity",
    "HopperParams-v0": "hopper/params",
    "MetaWorldML1-v0": "metaworld/ml1-reach",
    "MetaWorldML10-v0": "metaworld/ml10",
    "MetaWorldML25-v0": "metaworld/ml25",
    "MetaWorldML45-v0": "metaworld/ml45",
    "Navigation-v0": "navigation",
    "PointRobot-v0": "point-robot",
    "TMaze-v0": "t-maze/n100",
    "TabularMDP-v0": "mdp/n10",
    "WalkerParams-v0": "walker/params",
}
"""Gymnasium's names, without their namespace ``metarl/``, and ours. Options of a family are
arguments of ``gymnasium.make``: those in its name can be given too (``n=100, k=10``)."""

for _name, _family in REGISTERED.items():
    if f"metarl/{_name}" not in gym.registry:
        gym.register(
            f"metarl/{_name}",
            entry_point="metarl.registered:make_env",
            vector_entry_point="metarl.registered:make_vector_env",
            kwargs={"family": _family},
        )

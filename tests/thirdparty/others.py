"""Environments of other people's packages as tasks, in a module that workers import."""

import gymnasium as gym
import numpy as np
import shimmy

import metarl

gym.register_envs(shimmy)


class Gravity(gym.Wrapper):
    """dm_control's cartpole under another gravity [m/s²]."""

    def __init__(self, size):
        super().__init__(gym.make("dm_control/cartpole-swingup-v0"))
        self.unwrapped._env.physics.model.opt.gravity[:] = (0, 0, -size)


def cartpole():
    """Dict observations; resets seed a generator that takes 32 bits."""
    params = {"size": metarl.Uniform(5, 15)}
    return metarl.FunctionTasks(lambda p: Gravity(**p), params, horizon=40)


class Layout(gym.Wrapper):
    """A MiniGrid whose layout is the task's: its resets ignore the episode's seed."""

    def __init__(self, env, layout):
        super().__init__(env)
        self.layout = layout

    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=self.layout, options=options)


def four_rooms():
    """Images as observations; layouts of the splits are disjoint."""
    from minigrid.wrappers import ImgObsWrapper

    def make(params):
        return ImgObsWrapper(Layout(gym.make("MiniGrid-FourRooms-v0"), params["layout"]))

    return metarl.FunctionTasks(make, {"layout": metarl.Integers(0, 999)}, horizon=30)


def highway():
    """A dict of settings as the constructor's argument; ids are registered on import."""
    import highway_env

    gym.register_envs(highway_env)

    def make(params):
        return gym.make("highway-fast-v0", config={"vehicles_density": params["density"]})

    return metarl.FunctionTasks(make, {"density": metarl.Uniform(0.5, 2.0)}, horizon=15)


def sensitivity(params):
    """Scale what actions do."""
    import gym_pusht  # noqa: F401  # registers

    env = gym.make("gym_pusht/PushT-v0")
    half = np.float32(256 * params["share"])
    space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    return gym.wrappers.TransformAction(env, lambda action: half * (action + 1), space)


def pusht():
    """Actions transformed by a lambda; a success of another name."""
    params = {"share": metarl.Uniform(0.5, 1.0)}
    return metarl.FunctionTasks(
        sensitivity, params, horizon=30, info_keys=("is_success",), success_key="is_success"
    )

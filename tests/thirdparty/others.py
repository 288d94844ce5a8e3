"""Environments of other people's packages as tasks, in a module that workers import."""

import gymnasium as gym
import numpy as np
import shimmy
from gymnasium.envs.toy_text.frozen_lake import generate_random_map

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


def lakes():
    """Maps that a generator draws from a number; every one has a way across."""

    def make(params):
        desc = generate_random_map(size=6, seed=params["map"])
        return gym.make("FrozenLake-v1", desc=desc, is_slippery=False)

    return metarl.FunctionTasks(make, {"map": metarl.Integers(0, 9999)}, horizon=40)


class RockPaperScissors(gym.Env):
    """PettingZoo's game of ten rounds, as the first player sees it.

    The second player draws its moves: rock, paper and scissors in proportion to the fourth powers
    of the numbers given, so that one of them mostly stands out.
    """

    observation_space = gym.spaces.Discrete(4)
    action_space = gym.spaces.Discrete(3)

    def __init__(self, rock, paper, scissors):
        from pettingzoo.classic import rps_v2

        self.game = rps_v2.parallel_env(num_actions=3, max_cycles=10)
        weights = np.array([rock, paper, scissors]) ** 4
        self.chances = weights / weights.sum()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return int(self.game.reset(seed=seed)[0]["player_0"]), {}

    def step(self, action):
        other = int(self.np_random.choice(3, p=self.chances))
        seen, reward, ended, cut, _ = self.game.step({"player_0": action, "player_1": other})
        one = "player_0"
        return int(seen[one]), float(reward[one]), bool(ended[one]), bool(cut[one]), {}


def rock_paper_scissors():
    """Find out what the opponent prefers, and beat it."""
    chances = {name: metarl.Uniform(0.0, 1.0) for name in ("rock", "paper", "scissors")}
    return metarl.FunctionTasks(
        lambda p: RockPaperScissors(**p), chances, horizon=10, episodes_per_trial=2
    )


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

"""Which parameters change something? Is a run on tasks that do not differ warned of?"""

import numpy as np
import pytest
from counters import CounterTasks

from metarl.running.commandline import run_train
from metarl.task import Task
from metarl.tasks.effects import effects, warn_of_tasks

INERT = """
import gymnasium as gym
import numpy as np

import metarl


class Inert(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, pay, idle):
        self.pay = pay

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), self.pay * float(action), False, False, {}


def tasks():
    params = {"pay": metarl.Uniform(0, 1), "idle": metarl.Uniform(0, 1)}
    return metarl.FunctionTasks(lambda p: Inert(**p), params, horizon=5, episodes_per_trial=2)
"""


class Weighed(CounterTasks):
    """A counter with a parameter that pays, at a late step only, and one that nobody reads."""

    class env_class(CounterTasks.env_class):  # noqa: N801
        def step(self, action):
            observation, reward, *rest = super().step(action)
            return observation, reward + self.task["weight"] * (self._elapsed == 3), *rest

    def sample(self, rng, n, split):
        return [
            Task.of("counter", length=4, spread=0, weight=w, colour=c)
            for w, c in zip(rng.random(n), rng.choice(["red", "blue"], n), strict=True)
        ]

    def ends(self):
        tasks = {
            "weight": [{"weight": w, "colour": "red"} for w in (0.0, 1.0)],
            "colour": [{"weight": 0.5, "colour": c} for c in ("red", "blue")],
        }
        return {
            name: tuple(Task.of("counter", length=4, spread=0, **params) for params in pair)
            for name, pair in tasks.items()
        }


def test_parameters_with_and_without_effect_are_told_apart():
    assert effects(Weighed()) == {"weight": True, "colour": False}


def test_a_parameter_without_an_effect_in_time_is_left_open():
    assert effects(Weighed(), seconds=0.0) == {"weight": None, "colour": None}
    with pytest.warns(UserWarning, match="`weight` has changed nothing within 0 s"):
        warn_of_tasks(Weighed(), seconds=0.0)


def test_by_default_the_ends_are_the_extremes_of_training_tasks():
    tasks = CounterTasks()
    ((name, (low, high)),) = tasks.ends().items()  # every task has the same spread
    assert (name, low["length"], high["length"]) == ("length", 2, 4)
    assert Weighed.__mro__[1].ends(Weighed()).keys() == {"weight", "colour"}


def train(module, *options):
    small = "--tasks-per-update 4 --num-minibatches 1 --hidden-size 4 --iterations 1"
    few = "--evaluation-tasks 2 --validation-tasks 2 --num-workers 0 --run-dir run"
    run_train(["rl2", "--env", f"{module}:tasks", *small.split(), *few.split(), *options])


def test_a_run_warns_of_what_changes_nothing_before_it_trains(write_module):
    with pytest.warns(UserWarning, match="`idle` changed nothing in 6 episodes") as caught:
        train(write_module("inert", INERT))
    assert not any("`pay`" in str(w.message) for w in caught)


def test_no_check_leaves_the_warning_out(write_module, recwarn):
    train(write_module("inert", INERT), "--no-check")
    assert not [w for w in recwarn if "changed nothing" in str(w.message)]


def test_a_run_warns_of_splits_that_share_tasks(write_module):
    shares = "\n\nclass Shares(metarl.FunctionTasks):\n    def sample(self, rng, n, split):\n"
    shares += "        return super().sample(rng, n, 'train')\n"
    text = INERT.replace("\n\ndef tasks", shares + "\n\ndef tasks").replace(
        "return metarl.FunctionTasks", "return Shares"
    )
    with pytest.warns(UserWarning, match="train and validation share 1000 of 1000 tasks"):
        train(write_module("inert", text))


def test_ends_of_mixed_kinds_are_compared_by_their_text():
    class Mixed(CounterTasks):
        def sample(self, rng, n, split):
            return [Task.of("counter", goal=(1, 2) if i % 2 else "left") for i in range(n)]

    assert {np.size(t["goal"]) for t in Mixed().ends()["goal"]} == {1, 2}

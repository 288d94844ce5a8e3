import json

import gymnasium as gym
import numpy as np
import pytest
from counters import CounterTasks, counter_task
from drift import Drift
from gymnasium.envs.registration import EnvSpec

import metarl
from metarl.task import Task
from metarl.tasks.distribution import TaskEnv, time_limit


def test_task_is_hashable_and_equal_by_value():
    a, b = Task.of("x", p=[0.5, 1], name="n"), Task.of("x", p=np.array([0.5, 1]), name="n")
    assert a == b and hash(a) == hash(b) and len({a, b}) == 1
    assert a != Task.of("x", p=[0.5, 2], name="n")
    assert a != Task.of("y", p=[0.5, 1], name="n")


def test_task_survives_json():
    task = Task.of("x", p=[[0.1, 1 / 3], [2, 3]], flag=True, name="n", n=np.int64(3))
    again = Task.from_json(json.loads(json.dumps(task.to_json())))
    assert again == task and hash(again) == hash(task)
    assert again["p"] == ((0.1, 1 / 3), (2, 3)) and again["flag"] is True


def test_task_parameter_may_have_any_name():
    task = Task("x", (("env", "CartPole-v1"),))
    assert Task.from_json(task.to_json()) == task


def test_task_unknown_parameter_is_named():
    with pytest.raises(KeyError, match=r"task of 'x' has no parameter 'goal'"):
        Task.of("x", p=1)["goal"]


@pytest.mark.parametrize("value", [object(), {"a": 1}, {1, 2}, None, [1, object()]])
def test_task_refuses_what_is_not_data(value):
    with pytest.raises(TypeError, match="numbers, strings and sequences"):
        Task.of("x", p=value)


def test_task_is_frozen():
    with pytest.raises(AttributeError):
        Task.of("x").env = "y"


def test_task_str_names_its_parameters():
    assert str(Task.of("x", p=1, q="a")) == "x(p=1, q=a)"


def test_env_refuses_reset_without_task():
    with pytest.raises(ValueError, match=r"no task yet.*tasks.make"):
        CounterTasks().make().reset(seed=0)


def test_env_refuses_what_is_not_a_task():
    with pytest.raises(TypeError, match=r"metarl\.task\.Task|metarl.Task"):
        CounterTasks().make().reset(options={"task": {"length": 1}})


def test_env_made_with_a_task_is_an_ordinary_one():
    env = CounterTasks().make(counter_task(2))
    env.reset(seed=0)
    assert [env.step(np.zeros(2))[2] for _ in range(2)] == [False, True]


def test_env_keeps_its_task_until_another_is_given():
    env = CounterTasks().make()

    def length(**reset):
        env.reset(**reset)
        return next(t for t in range(1, 9) if env.step(np.zeros(2))[2])

    assert length(options={"task": counter_task(2)}) == 2
    assert length() == 2
    assert length(options={}) == 2
    assert length(seed=1, options={"task": None}) == 2
    assert length(options={"task": counter_task(4)}) == 4
    assert length(seed=3) == 4
    assert env.get_wrapper_attr("task") == counter_task(4)


def test_env_never_modifies_options_and_passes_on_the_rest():
    class Inner(gym.Env):
        observation_space = action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            self.got = options
            return 0, {}

    class Env(TaskEnv):
        def apply_task(self, task):
            pass

    env = Env(Inner(), 3)
    options = {"task": counter_task(2), "x": 1}
    env.reset(options=options)
    assert options == {"task": counter_task(2), "x": 1}
    assert env.unwrapped.got == {"x": 1}


def test_env_truncates_at_the_horizon_in_every_episode():
    env = CounterTasks(horizon=3).make(counter_task(100))
    for _ in range(2):
        env.reset(seed=0)
        flags = [env.step(np.zeros(2))[2:4] for _ in range(3)]
        assert flags == [(False, False), (False, False), (False, True)]


def test_env_termination_at_the_horizon_is_not_truncation():
    env = CounterTasks(horizon=3).make(counter_task(3))
    env.reset(seed=0)
    assert [env.step(np.zeros(2))[2:4] for _ in range(3)][-1] == (True, False)


def test_infinite_distribution_says_how_to_get_tasks():
    with pytest.raises(NotImplementedError, match=r"counter has infinitely many.*sample\(\)"):
        CounterTasks().tasks("train")


def test_the_time_limit_of_an_environment_is_that_of_its_narrowest_wrapper():
    def pendulum():
        return gym.make("Pendulum-v1")

    assert time_limit(pendulum()) == 200
    assert time_limit(pendulum().unwrapped) is None
    specified = Drift(0)
    specified.spec = EnvSpec("Drift-v0", max_episode_steps=9)
    assert time_limit(gym.wrappers.FlattenObservation(specified)) == 9
    assert time_limit(gym.wrappers.TimeLimit(pendulum(), 30)) == 30
    assert time_limit(gym.wrappers.TimeLimit(pendulum().unwrapped, 300)) == 300
    assert time_limit(gym.wrappers.TimeLimit(Drift(0), 30)) == 30
    assert time_limit(gym.wrappers.FlattenObservation(gym.wrappers.TimeLimit(Drift(0), 30))) == 30
    assert time_limit(Drift(0)) is None
    assert time_limit(TaskEnv(gym.wrappers.TimeLimit(Drift(0), 30), 7)) == 7
    assert time_limit(TaskEnv(pendulum(), 300)) == 200
    assert time_limit(metarl.make("navigation").make()) == 100
    assert time_limit(metarl.make("metaworld/ml1-reach", horizon=40).make()) == 40


def test_the_shortest_limit_among_the_wrappers_is_the_time_limit():
    unregistered = gym.make("CartPole-v1").unwrapped
    unregistered.spec = None
    assert time_limit(unregistered) is None
    assert time_limit(gym.wrappers.TimeLimit(unregistered, 30)) == 30
    inside = gym.wrappers.RecordEpisodeStatistics(gym.wrappers.TimeLimit(unregistered, 30))
    assert time_limit(gym.wrappers.TimeLimit(inside, 50)) == 30
    assert time_limit(CounterTasks(horizon=6).make()) == 6


def test_without_a_wrapper_the_spec_states_the_time_limit():
    bare = gym.make("Pendulum-v1").unwrapped
    bare.spec = gym.spec("Pendulum-v1")
    assert time_limit(bare) == 200
    assert time_limit(gym.make("Pendulum-v1", max_episode_steps=30)) == 30
    assert time_limit(gym.make("Pendulum-v1", max_episode_steps=-1)) is None

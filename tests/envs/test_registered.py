"""Families of tasks in Gymnasium's registry."""

import contextlib
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import metarl
from metarl.envs import REGISTERED
from metarl.errors import UserError
from metarl.registry import TASK_DISTRIBUTIONS, _match

SHORT = {"horizon": 20}
LIGHT = [name for name in REGISTERED if not name.startswith("MetaWorld")]


def options(name):
    return {} if name.startswith(("Bandit", "TabularMDP", "TMaze")) else SHORT


def test_every_family_is_registered():
    for pattern in TASK_DISTRIBUTIONS:
        if pattern != "metaworld/custom":  # It has no classes of its own.
            assert any(_match(pattern, family) is not None for family in REGISTERED.values())


HEAVY = [pytest.param(x, marks=pytest.mark.metaworld) for x in REGISTERED if x not in LIGHT]


@pytest.mark.parametrize("name", [*LIGHT, *HEAVY])
def test_gymnasiums_checks_pass(name):
    env = gym.make(f"metarl/{name}", **options(name))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", ".*Box observation space m.*")
        warnings.filterwarnings("ignore", ".*we recommend using a symmetric and normalized space.*")
        check_env(env.unwrapped, skip_render_check=True)
    env.close()


def test_a_task_is_drawn_at_a_reset_or_given():
    env = gym.make("metarl/HalfCheetahVelocity-v0", horizon=20)
    _, first = env.reset(seed=3)
    _, second = env.reset()
    _, again = env.reset(seed=3)
    assert first["task"] == again["task"] != second["task"]
    task = metarl.make("half-cheetah/velocity:horizon=20").sample(
        np.random.default_rng(0), 1, "test"
    )[0]
    observation, info = env.reset(seed=3, options={"task": task})
    assert info["task"] == task
    expected = metarl.make("half-cheetah/velocity:horizon=20").make(task)
    same, _ = expected.reset(seed=3)
    assert np.array_equal(observation, same)
    action = env.action_space.sample()
    assert env.step(action)[1] == expected.step(action)[1]
    ends = [env.step(action)[3] for _ in range(19)]
    assert ends == [False] * 18 + [True]


def test_a_task_lasts_for_as_many_episodes_as_are_asked_for():
    env = gym.make("metarl/Navigation-v0", episodes_per_task=3, split="test")
    tasks = [env.reset(seed=1 if i == 0 else None)[1]["task"] for i in range(7)]
    assert len(set(tasks)) == 3 and tasks[0] == tasks[2] != tasks[3] == tasks[5] != tasks[6]


def test_options_of_the_family_are_arguments():
    env = gym.make("metarl/Bandit-v0", n=7, k=3)
    assert env.action_space == gym.spaces.Discrete(3)
    env.reset(seed=0)
    assert len(env.unwrapped.task["p"]) == 3


def test_a_vector_of_environments_draws_tasks_and_takes_them():
    envs = gym.make_vec("metarl/Navigation-v0", num_envs=4, horizon=3)
    observation, info = envs.reset(seed=5)
    assert observation.shape == (4, 2) and len(set(info["tasks"])) == 4
    assert envs.reset(seed=5)[1]["tasks"] == info["tasks"]
    for _ in range(3):
        _, _, _, truncated, _ = envs.step(envs.action_space.sample())
    assert truncated.all()
    mask = np.array([True, False, True, False])
    _, later = envs.reset(options={"reset_mask": mask})
    assert [task is None for task in later["tasks"]] == [False, True, False, True]
    given = metarl.make("navigation:horizon=3").sample(np.random.default_rng(0), 4, "test")
    envs.reset(seed=1, options={"tasks": given})
    distance = np.linalg.norm(np.array([task["goal"] for task in given]), axis=1)
    reward = envs.step(np.zeros((4, 2), np.float32))[1]
    np.testing.assert_allclose(reward, -distance, rtol=1e-5)
    envs.close()


def test_processes_step_a_vector_of_simulators():
    made = gym.make_vec("metarl/HopperParams-v0", num_envs=2, num_workers=2, horizon=4)
    with contextlib.closing(made) as envs:
        assert len(envs.worker_pids()) == 2
        envs.reset(seed=0)
        assert envs.step(envs.action_space.sample())[0].shape == (2, 11)


def test_pictures():
    env = gym.make("metarl/Navigation-v0", render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().ndim == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"split": "validate"}, "split: got 'validate'; accepted: train, validation, test"),
        ({"episodes_per_task": 0}, "episodes_per_task: got 0"),
        ({"render_mode": "3d"}, "render_mode: got '3d'; accepted: rgb_array"),
        ({"horizont": 3}, "horizon"),
    ],
)
def test_arguments_that_cannot_be_are_refused(given, said):
    with pytest.raises(UserError, match=said):
        gym.make("metarl/Navigation-v0", **given)

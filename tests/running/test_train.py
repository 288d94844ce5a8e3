"""One training: does it make its agent and its worker processes only once?"""

import warnings

import gymnasium as gym
import numpy as np
import pytest

import metarl
from metarl.agents.rl2 import RL2, RL2Config
from metarl.envs.bandit import BernoulliBandit
from metarl.experience.traits import large_numbers
from metarl.options import with_options
from metarl.running.settings import Settings, TrainConfig
from metarl.running.train import _warn_of_large_numbers, train
from metarl.stepping import pools
from metarl.stepping.spaces import images_of, reported_space
from metarl.stepping.vector import TaskVectorEnv

AGENT = with_options(RL2Config(), tasks_per_update=4, hidden_size=4, num_minibatches=1)


def settings(directory, **options):
    small = {"iterations": 1, "evaluation_tasks": 5, "validation_tasks": 2}
    config = with_options(TrainConfig(), **small, run_dir=directory, **options)
    return Settings("rl2", with_options(AGENT, episodes_per_trial=2), config)


@pytest.fixture
def counted(monkeypatch):
    """Count calls of a function or method."""

    def count(place, name):
        calls, original = [], getattr(place, name)

        def counting(*args, **options):
            calls.append((args, options))
            return original(*args, **options)

        monkeypatch.setattr(place, name, counting)
        return calls

    return count


@pytest.mark.parametrize("num_envs", [None, 2])
def test_agent_and_worker_processes_are_made_once(tmp_path, counted, num_envs):
    """The check of the tasks, training, validation and both evaluations share them.

    One agent more is made to measure what an iteration takes.
    """
    agents, processes = counted(RL2, "__init__"), counted(pools, "start_process")
    env = "half-cheetah/velocity:horizon=3"
    run = train(settings(tmp_path / "run", env=env, num_workers=2, num_envs=num_envs))
    assert (len(agents), len(processes)) == (2, 2)
    assert (run.directory / "evaluation" / "test-untrained.json").exists()
    if num_envs is not None:  # A resumed run does the same, whatever the number of environments.
        return
    resumed = with_options(run.train_config, iterations=2)
    train(Settings("rl2", run.settings.agent_config, resumed), resume=run)
    assert (len(agents), len(processes)) == (3, 4)


@pytest.mark.parametrize("env", ["bandit/n2-k2", "half-cheetah/velocity:horizon=2"])
def test_a_run_s_number_of_envs_holds_in_its_evaluations(tmp_path, counted, env):
    kind = BernoulliBandit if env.startswith("bandit") else TaskVectorEnv
    made = counted(kind, "make_vec" if kind is BernoulliBandit else "__init__")
    train(settings(tmp_path / "run", env=env, num_workers=0, num_envs=3, check=False))
    sizes = [args[-1] for args, _ in made]
    assert sizes == [3]


def test_an_evaluation_of_another_size_equals_one_of_its_own(tmp_path, counted):
    """The final evaluation in resized environments gives what ``metarl evaluate`` gives."""
    made, sizes = counted(TaskVectorEnv, "__init__"), counted(TaskVectorEnv, "resize")
    run = train(settings(tmp_path / "run", env="half-cheetah/velocity:horizon=2", num_workers=0))
    assert ([args[-1] for args, _ in made], [args[-1] for args, _ in sizes]) == ([4], [5])
    file = run.directory / "evaluation" / "test.npz"
    with np.load(file) as arrays:
        own = arrays["return"]
    metarl.evaluate(run, num_workers=0)
    with np.load(file) as arrays:
        assert np.array_equal(arrays["return"], own)
    made.clear()
    file.with_suffix(".json").unlink()
    train(run.settings, resume=run)  # Nothing is left to train: the evaluation alone is done.
    assert [args[-1] for args, _ in made] == [5]


def test_limits_of_workers_reach_the_environments(tmp_path, counted):
    made = counted(TaskVectorEnv, "__init__")
    limits = {"num_envs": 4, "num_workers": 0, "env_timeout": 7.0, "env_restarts": 2}
    train(settings(tmp_path / "run", env="half-cheetah/velocity:horizon=2", check=False, **limits))
    assert [options for _, options in made] == [{"num_workers": 0, "timeout": 7.0, "restarts": 2}]


@pytest.mark.parametrize(
    ("space", "largest"),
    [
        (gym.spaces.Box(-1, 1, (3,)), None),
        (gym.spaces.Box(-np.inf, np.inf, (3,)), None),
        (gym.spaces.Box(np.float32([0, -600]), np.float32([1, np.inf])), 600),
        (gym.spaces.Box(0, 255, (8, 8), np.uint8), None),
        (gym.spaces.Discrete(1000), None),
        (
            gym.spaces.Dict(
                a=gym.spaces.Box(0, 255, (8, 8), np.uint8), b=gym.spaces.Box(0, 70, (1,))
            ),
            70,
        ),
        (
            gym.spaces.Dict(
                a=gym.spaces.Box(0, 255, (8, 8), np.uint8), b=gym.spaces.Box(0, 7, (1,))
            ),
            None,
        ),
    ],
)
def test_large_observations_that_are_not_normalised_are_pointed_out(space, largest):
    spec = metarl.TaskSpec(
        reported_space(space), gym.spaces.Discrete(2), 5, images=images_of(space)
    )
    assert large_numbers(spec) == largest


def test_a_training_on_large_observations_warns_unless_they_are_normalised():
    class Far(metarl.ArrayTaskDistribution):
        name, horizon, episodes_per_trial = "far", 2, 2
        observation_space = gym.spaces.Box(0, 900, (1,), np.float32)
        action_space = gym.spaces.Discrete(2)

        def sample(self, rng, n, split):
            return [metarl.Task.of("far", x=x) for x in rng.random(n).tolist()]

        def initial(self, params, noise):
            raise NotImplementedError

        def transition(self, state, action, noise):
            raise NotImplementedError

    for normalize in (False, True):
        config = with_options(metarl.RL2Config(), normalize_observations=normalize)
        made = Settings("rl2", config, TrainConfig())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _warn_of_large_numbers(made, Far())
        said = [str(each.message) for each in caught]
        assert len(said) == (not normalize)
        assert all("go up to 900" in line and "--normalize-observations" in line for line in said)

"""Users' own code: functions, modules, packages with entry points, third-party environments."""

import json
import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import minigrid
import numpy as np
import pytest
from drift import Drift
from minigrid.wrappers import ImgObsWrapper

import metarl
from metarl import registry
from metarl.agents.rl2 import RL2Config
from metarl.errors import UserError
from metarl.options import with_options
from metarl.running import commandline
from metarl.running.api import evaluate
from metarl.running.run import Run
from metarl.running.settings import Settings, TrainConfig
from metarl.running.train import train
from metarl.task import Task
from metarl.tasks.functions import FunctionTasks
from metarl.tasks.ranges import Choice, Uniform

ROOT = Path(__file__).parents[1]
SMALL = with_options(
    RL2Config(), tasks_per_update=3, num_minibatches=1, hidden_size=4, episodes_per_trial=2
)
SHORT = {"iterations": 1, "evaluation_tasks": 2, "validation_tasks": 2, "check": False}
TINY = ["--iterations", "1", "--evaluation-tasks", "2", "--validation-tasks", "2", "--no-check"]


def drifts(**options):
    return FunctionTasks(
        lambda params: Drift(**params), {"drift": Uniform(-1, 1)}, **{"horizon": 6, **options}
    )


# functions


def test_a_function_s_tasks_keep_the_contract():
    metarl.check_task_distribution(drifts())


def test_a_function_gets_the_task_s_parameters():
    tasks = drifts()
    env = tasks.make()
    for task in tasks.sample(np.random.default_rng(0), 2, "test"):
        start = env.reset(seed=0, options={"task": task})[0]["x"]
        after = env.step(1)[0]["x"]
        np.testing.assert_allclose(after - start, task["drift"])


def test_an_environment_is_made_anew_only_for_another_task():
    tasks = drifts()
    one, other = tasks.sample(np.random.default_rng(0), 2, "train")
    env = tasks.make(one)
    first = env.unwrapped
    env.reset(options={"task": one})
    assert env.unwrapped is first and not first.closed
    env.reset(options={"task": other})
    assert env.unwrapped is not first and first.closed


def test_the_limit_of_gymnasium_s_own_environments_is_the_horizon():
    tasks = FunctionTasks(lambda params: gym.make("Pendulum-v1", **params), {"g": Uniform(8, 12)})
    assert tasks.horizon == 200
    with pytest.raises(UserError, match="horizon: got None; accepted: at least 1"):
        drifts(horizon=None)


def test_what_a_function_cannot_do_is_refused():
    with pytest.raises(UserError, match=r"drift: got .* a function has no own values"):
        FunctionTasks(Drift, {"drift": Uniform(0, 1, factor=True)}, horizon=3)
    with pytest.raises(UserError, match=r"returned: got 'dict'; accepted: a gymnasium.Env"):
        FunctionTasks(dict, {"drift": Uniform(0, 1)}, horizon=3)


def test_choices_are_shared_by_the_splits_unless_held_out():
    def tasks(kind):
        return FunctionTasks(lambda params: Drift(**params), {"drift": kind}, horizon=3)

    assert tasks(Choice(-1, 1)).shared_split
    assert not tasks(Choice(-1, 1, test=(2,))).shared_split
    assert tasks(Choice(-1, 1, test=(2,))).tasks("test") == [
        Task.of(tasks(Choice(1)).name, drift=2.0)
    ]


@pytest.mark.parametrize("agent", ["rl2", "maml-ppo"])
def test_dict_observations_reach_training_evaluation_and_adaptation(agent, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "make", lambda name: drifts())
    kind = registry.agent_class(agent)
    small = SMALL if agent == "rl2" else kind.Config(tasks_per_update=2, episodes_per_adaptation=2)
    config = with_options(
        TrainConfig(), env="drift", **SHORT, run_dir=tmp_path / "run", num_workers=1
    )
    run = train(Settings(agent, small, config))
    loaded = metarl.load(run.directory)
    policy = metarl.adapt(loaded, Drift(0.5), episodes=0)
    env = gym.wrappers.TimeLimit(Drift(0.5), 6)
    policy = metarl.adapt(loaded, env, episodes=2)
    assert policy.act(env.reset(seed=0)[0]) in (0, 1)


# modules

OWN = """
import metarl
from metarl.agents.rl2 import RL2
from drift import Drift

tasks = metarl.FunctionTasks(
    lambda params: Drift(**params), {"drift": metarl.Uniform(-1, 1)}, horizon=6, name="drifts"
)

class Mine(RL2):
    pass

class Unfinished:
    pass
"""


@pytest.fixture
def own(write_module):
    """A module of the current folder with tasks and an agent."""
    return write_module("own_plugin", OWN)


@pytest.fixture
def rooms_module(own, tmp_path):
    """A function of a module that wraps a lambda, without naming it."""
    with (tmp_path / f"{own}.py").open("a") as file:
        file.write(
            "def build():\n    return metarl.FunctionTasks(lambda params: Drift(**params), "
            "{'drift': metarl.Uniform(-1, 1)}, horizon=6)\n"
        )
    return f"{own}:build"


def small_options():
    return [
        *["--tasks-per-update", "3", "--num-minibatches", "1", "--hidden-size", "4"],
        *["--episodes-per-trial", "2", *TINY],
    ]


def test_a_module_of_the_current_folder_trains_with_workers(own, tmp_path, quick_python):
    """As a user does it, in a process of its own; the lambda and its module reach the workers."""
    command = ["scripts/train.py", f"{own}:Mine", "--env", f"{own}:tasks", "--num-workers", "2"]
    done = subprocess.run(
        [quick_python, str(ROOT / command[0]), *command[1:], *small_options()],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("runs/own_plugin-tasks/own_plugin-mine/0-*/evaluation/test.json"))


def test_tasks_of_a_lambda_go_by_what_was_typed(rooms_module):
    tasks = registry.make(rooms_module)
    assert tasks.name == rooms_module
    (task,) = tasks.sample(np.random.default_rng(0), 1, "train")
    assert task.env == rooms_module


def test_an_object_takes_no_options(own):
    assert registry.make(f"{own}:tasks").name == "drifts"
    with pytest.raises(UserError, match=r"got options \{'horizon': 3\}; accepted: none"):
        registry.make(f"{own}:tasks", horizon=3)


def test_a_class_without_a_config_is_no_agent(own):
    with pytest.raises(UserError, match="accepted: a class with a dataclass Config"):
        registry.agent_class(f"{own}:Unfinished")


@pytest.fixture
def own_run(own, tmp_path):
    """A run of an agent that is a module of the user's."""
    words = [f"{own}:Mine", "--run-dir", str(tmp_path / "run"), *small_options()]
    request = commandline.parse_train(words)
    run = train(request.settings)
    sys.modules.pop(own)
    return run.directory


def test_an_agent_named_by_a_file_is_not_imported(own, own_run):
    for use in (
        lambda: metarl.load(own_run),
        lambda: evaluate(Run.open(own_run), evaluation_tasks=2),
        lambda: commandline.parse_train(["--resume", str(own_run)]),
    ):
        with pytest.raises(UserError, match=rf"its agent is {own}:Mine, which a file alone cannot"):
            use()
    assert own not in sys.modules


def test_an_agent_that_is_named_again_goes_on(own, own_run):
    name = f"{own}:Mine"
    assert type(metarl.load(own_run, agent=name)).__name__ == "Mine"
    evaluate(Run.open(own_run, name), evaluation_tasks=2)
    request = commandline.parse_train([name, "--resume", str(own_run), "--iterations", "2"])
    train(request.settings, resume=request.resume)
    assert Run.open(own_run).checkpoints.load().iteration == 2


def test_another_agent_than_the_run_s_is_refused(own, own_run):
    with pytest.raises(UserError, match=rf"got 'other:Agent'; accepted: {own}:Mine"):
        metarl.load(own_run, agent="other:Agent")


# entry points


@pytest.fixture
def package(own, tmp_path, monkeypatch):
    """An installed package with entry points."""
    info = tmp_path / "mazes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mazes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[metarl.task_distributions]\nmaze/n<N> = fakes:CounterTasks\n"
        "fixed = own_plugin:tasks\nrl2 = own_plugin:Mine\n"
        f"[metarl.agents]\nmine = {own}:Mine\nrl2 = {own}:Unfinished\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._entry_points.cache_clear()
    yield
    registry._entry_points.cache_clear()


def test_entry_points_are_found_and_listed(package, capsys):
    with pytest.raises(SystemExit):
        commandline.parse_train(["--list"])
    out = capsys.readouterr().out
    assert "maze/n<N>" in out and "mine" in out
    assert registry.agent_class("mine").__name__ == "Mine"
    with pytest.raises(UserError, match="did you mean maze/n10"):
        registry.make("mazze/n10")


def test_a_name_of_the_project_s_own_is_not_taken_over(package):
    assert registry.agent_class("rl2").__module__ == "metarl.agents.rl2"


def test_an_agent_of_an_entry_point_is_loaded_like_one_of_ours(package, tmp_path):
    request = commandline.parse_train(["mine", "--run-dir", str(tmp_path / "r"), *small_options()])
    run = train(request.settings)
    assert type(metarl.load(run.directory)).__name__ == "Mine"
    assert json.loads((run.directory / "config.json").read_text())["agent"] == "mine"


# a package of somebody else's


def rooms():
    """MiniGrid's empty rooms of three sizes, images of 7 x 7 x 3."""
    return FunctionTasks(
        lambda params: ImgObsWrapper(gym.make("MiniGrid-Empty-5x5-v0", size=params["size"])),
        {"size": Choice(5, 6, 8)},
        horizon=10,
    )


def test_minigrid_keeps_the_contract():
    assert minigrid.__version__
    metarl.check_task_distribution(rooms())


def test_minigrid_s_images_are_trained_on(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "make", lambda name: rooms())
    config = with_options(
        TrainConfig(), env="rooms", **SHORT, run_dir=tmp_path / "run", num_workers=1
    )
    run = train(Settings("rl2", SMALL, config))
    saved = run.content["spec"]["observation"]
    assert (saved["shape"], saved["low"], saved["high"]) == ([7, 7, 3], [0.0], [255.0])
    env = ImgObsWrapper(gym.make("MiniGrid-Empty-5x5-v0"))
    policy = metarl.adapt(metarl.load(run.directory), env, episodes=1)
    assert policy.act(env.reset(seed=0)[0]) in range(7)


def test_a_text_in_an_observation_is_refused_by_its_key(tmp_path):
    tasks = registry.make("gym/MiniGrid-Empty-5x5-v0:size=5/6/8,horizon=9")
    with pytest.raises(UserError, match=r"observation space\['mission'\]: got MissionSpace"):
        tasks.make_vec(2, num_workers=0)
    config = with_options(TrainConfig(), env=tasks.name, run_dir=tmp_path / "run")
    with pytest.raises(UserError, match="mission"):
        train(Settings("rl2", SMALL, config))
    assert not (tmp_path / "run").exists()

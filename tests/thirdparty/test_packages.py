"""Environments of ten packages that nobody here wrote keep the contract, in workers too.

`make thirdparty` installs them into an environment of their own.
"""

import sys
from pathlib import Path

import pytest

import metarl
from metarl.running.commandline import run_train

pytestmark = pytest.mark.thirdparty

NAMED = [
    # package, as typed on a command line
    ("gymnasium-robotics", "gym/gymnasium_robotics:FetchReach-v4:gravity=5..15,horizon=20"),
    ("box2d", "gym/LunarLander-v3:gravity=-11.5..-5,horizon=60"),
    ("box2d", "gym/LunarLander-v3:enable_wind=true,wind_power=0..20,horizon=60"),
    (
        "flappy-bird",
        "gym/flappy_bird_gymnasium:FlappyBird-v0:use_lidar=false,pipe_gap=90..140,horizon=80",
    ),
    ("ale-py", "gym/ale_py:ALE/Pong-v5:obs_type=ram,repeat_action_probability=0..0.5,horizon=40"),
    (
        "ale-py",
        "gym/ale_py:ALE/Pong-v5:repeat_action_probability=0..0.5,horizon=30,"
        "wrap=AtariPreprocessing(frame_skip=1)+FrameStackObservation(4)",
    ),
    ("panda-gym", "gym/panda_gym:PandaReach-v3:reward_type=sparse/dense,horizon=10"),
    (
        "gymnasium-robotics",
        "gym/gymnasium_robotics:FetchReach-v4:seed=int:0..9999,hide=desired_goal,horizon=20,"
        "success_key=is_success",
    ),
    (
        "gymnasium-robotics",
        "gym/gymnasium_robotics:PointMaze_UMaze-v3:seed=int:0..9999,hide=desired_goal,horizon=40,"
        "success_key=success",
    ),
    (
        "minigrid",
        "gym/minigrid:MiniGrid-FourRooms-v0:seed=int:0..999,horizon=30,"
        "wrap=minigrid.wrappers.ImgObsWrapper",
    ),
    (
        "minigrid",
        "gym/minigrid:MiniGrid-Fetch-5x5-N2-v0:seed=int:0..999,hide=mission,horizon=30",
    ),
    (
        "shimmy, dm-control",
        "gym/shimmy:dm_control/reacher-easy-v0:seed=int:0..9999,hide=to_target,horizon=40",
    ),
    # Its world of Box2D is not that of a new environment after a reset.
    ("gymnasium", "gym/BipedalWalker-v3:seed=int:0..9999,horizon=60,fresh=true"),
    ("gymnasium", "gym/Taxi-v4:is_rainy=true/false,horizon=40"),
    ("gymnasium", "others:lakes"),
    ("shimmy, dm-control", "others:cartpole"),
    ("pettingzoo", "others:rock_paper_scissors"),
    ("highway-env", "others:highway"),
    ("gym-pusht", "others:pusht"),
]


@pytest.fixture(autouse=True)
def own_module(monkeypatch, tmp_path):
    """Find `others`, and leave runs in a folder of their own."""
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent), *sys.path])
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("package", "name"), NAMED)
def test_package_keeps_the_contract(package, name):
    metarl.check_task_distribution(metarl.make(name))


SMALL = {
    "rl2": "--tasks-per-update 4 --num-minibatches 2 --hidden-size 8 --episodes-per-trial 2",
    "maml-ppo": "--tasks-per-update 4 --episodes-per-adaptation 2 --num-adaptations 1",
}


@pytest.mark.parametrize("agent", SMALL)
@pytest.mark.parametrize(("package", "name"), NAMED)
def test_a_training_on_it_runs_in_worker_processes(package, name, agent):
    few = "--iterations 2 --evaluation-tasks 4 --validation-tasks 4 --num-workers 2"
    run_train([agent, "--env", name, *SMALL[agent].split(), *few.split(), "--run-dir", "run"])
    assert Path("run/evaluation/test.json").is_file()


def test_wind_without_wind_is_named():
    tasks = metarl.make("gym/LunarLander-v3:wind_power=0..20,horizon=60")
    with pytest.raises(AssertionError, match="`wind_power` changed nothing in 6 episodes"):
        metarl.check_task_distribution(tasks)

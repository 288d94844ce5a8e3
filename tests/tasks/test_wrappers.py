"""Wrappers, hidden parts and seeds by the names that a user types."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import register

import metarl
from metarl.errors import UserError
from metarl.tasks.wrappers import NamedWrapper, parse_wrappers, split_outside


class Maze(gym.Env):
    """A goal in a corner that ``reset`` draws; it is observed beside the agent's own place."""

    observation_space = gym.spaces.Dict(
        {
            "observation": gym.spaces.Box(-2, 2, (2,), np.float32),
            "achieved_goal": gym.spaces.Box(-2, 2, (2,), np.float32),
            "desired_goal": gym.spaces.Box(-2, 2, (2,), np.float32),
        }
    )
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, speed=0.1):
        self.speed = speed

    def seen(self):
        return {"observation": self.x, "achieved_goal": self.x, "desired_goal": self.goal}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.goal = np.zeros(2, np.float32), self.np_random.random(2).astype(np.float32)
        return self.seen(), {}

    def step(self, action):
        self.x = np.clip(self.x + self.speed * action, -2, 2).astype(np.float32)
        distance = float(np.linalg.norm(self.x - self.goal))
        return self.seen(), -distance, False, False, {"is_success": distance < 0.2}


if "TestMaze-v0" not in gym.registry:
    register("TestMaze-v0", Maze, max_episode_steps=20)

HIDDEN = "gym/TestMaze-v0:seed=int:0..9999,hide=desired_goal+achieved_goal,success_key=is_success"


def test_a_hidden_goal_is_the_same_in_every_episode_of_a_task():
    tasks = metarl.make(HIDDEN)
    assert list(tasks.make().observation_space) == ["observation"]
    first, second = tasks.sample(np.random.default_rng(0), 2, "train")
    goals = []
    for task in (first, second):
        env = tasks.make(task)
        for seed in (1, 2):
            env.reset(seed=seed)
            goals.append(env.unwrapped.goal.tolist())
        _, _, _, _, info = env.step(np.zeros(2, np.float32))
        assert "is_success" in info
    assert goals[0] == goals[1] != goals[2] == goals[3]
    envs = tasks.make_vec(2, num_workers=0)
    envs.reset(seed=5, options={"tasks": [first, second]})
    assert [env.unwrapped.goal.tolist() for env in envs._pool.slots.envs.values()] == goals[1::2]
    assert "success" in envs.step(np.zeros((2, 2), np.float32))[4]
    metarl.check_task_distribution(tasks)
    assert metarl.make(tasks.name).name == tasks.name


def test_seeds_of_the_splits_differ():
    tasks = metarl.make("gym/TestMaze-v0:seed=int:0..9999")
    drawn = {s: set(tasks.sample(np.random.default_rng(0), 500, s)) for s in ("train", "test")}
    assert not drawn["train"] & drawn["test"]


def test_a_seed_of_the_constructor_comes_first():
    class Seeded(Maze):
        def __init__(self, seed: int = 0):
            super().__init__()
            self.given = seed

    if "TestSeeded-v0" not in gym.registry:
        register("TestSeeded-v0", Seeded, max_episode_steps=20)
    tasks = metarl.make("gym/TestSeeded-v0:seed=int:3..9")
    assert not tasks.sets_seed
    (task,) = tasks.sample(np.random.default_rng(0), 1, "train")
    assert tasks.make(task).unwrapped.given == task["seed"]


def test_wrappers_take_arguments():
    tasks = metarl.make(
        "gym/TestMaze-v0:speed=0.1..0.3,hide=achieved_goal,"
        "wrap=gymnasium.wrappers.FlattenObservation()+FrameStackObservation(3, padding_type='zero')"
        "+gymnasium.wrappers:RescaleAction(min_action=-2, max_action=2)".replace(
            "hide=achieved_goal,", ""
        )
    )
    env = tasks.make(tasks.sample(np.random.default_rng(0), 1, "train")[0])
    assert env.observation_space.shape == (3, 6)
    assert env.action_space.high.tolist() == [2, 2]
    observation, _ = env.reset(seed=0)
    assert not observation[:2].any() and observation[2].any()
    again = metarl.make(tasks.name)
    assert (
        again.name == tasks.name and "FrameStackObservation(3, padding_type='zero')" in again.name
    )
    assert pickle.loads(pickle.dumps(tasks.wrappers[1])).args == [3]


def test_what_is_between_brackets_is_not_divided():
    assert split_outside("a+b(1+2)+c", "+") == ["a", "b(1+2)", "c"]
    assert split_outside("a=f([1, 2], (3, 4)),b", ",") == ["a=f([1, 2], (3, 4))", "b"]
    assert split_outside("f(',)'),x", ",") == ["f(',)')", "x"]
    one, two = parse_wrappers("FrameStackObservation(4)+TimeAwareObservation", "wrap")
    assert (one.args, two.args) == ([4], [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("FrameStack(4)", "gymnasium.wrappers has no 'FrameStack'; did you mean FrameStackObs"),
        ("FrameStackObservation(4", "wrap: got 'FrameStackObservation.4'; accepted"),
        ("FrameStackObservation(x)", "accepted: arguments that are numbers, texts"),
        ("FrameStackObservation(__import__('os'))", "accepted: arguments that are numbers, texts"),
        ("no.such.module.Name(4)", "No module named 'no'"),
        ("gymnasium.wrappers:Name(4)", "module gymnasium.wrappers has no 'Name'"),
        ("", "wrap: got ''; accepted: Name"),
    ],
)
def test_wrappers_that_cannot_be_are_refused(text, said):
    with pytest.raises(UserError, match=said):
        NamedWrapper(text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("speed=0.1..0.3,hide=desired", "hide: got 'desired'; did you mean desired_goal"),
        ("speed=0.1..0.3,hide=observation+achieved_goal+desired_goal", "hide: got all parts"),
        ("seed=0..9999", "seed: got 0..9999; accepted: whole numbers from 0 on"),
        ("seed=int:-5..9", "seed: got int:-5..9; accepted: whole numbers from 0 on"),
        ("speed=0.1..0.3,wrap=FrameStackObservation", "failed: TypeError"),
        (
            "speed=0.1..0.3,wrap=TimeAwareObservation,wrappers=TimeAwareObservation",
            "one of the two",
        ),
    ],
)
def test_options_that_cannot_be_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        metarl.make(f"gym/TestMaze-v0:{options}")


def test_only_dict_observations_have_parts_to_hide():
    with pytest.raises(UserError, match="hide: got x; accepted: an environment with Dict"):
        metarl.make("gym/Pendulum-v1:g=8..12,hide=x")

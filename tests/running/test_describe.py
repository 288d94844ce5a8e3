"""``metarl describe``: what it says of tasks, and the picture of nine."""

import sys

import numpy as np
import pytest
from PIL import Image

import metarl
from metarl.__main__ import run
from metarl.running.describe import description
from metarl.running.exits import exits
from metarl.tasks.varying import bare

OWN = """
import gymnasium as gym
import metarl


def build(width):
    return gym.make("CartPole-v1")


def carts():
    return metarl.FunctionTasks(build, {"width": metarl.Uniform(0, 2)}, horizon=5)
"""


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """Describe by the command, in an empty folder: exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)

    def describe(*words):
        monkeypatch.setattr(sys, "argv", ["metarl", "describe", *words])
        code = 0
        try:
            exits(lambda: run(["describe", *words]))()
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return describe


def rows(name):
    """Return what is said of a distribution: the texts of every heading."""
    first, *lines = description(metarl.make(name))
    assert first == name
    said = {}
    width = max(len(line.split("  ")[1]) for line in lines)
    for line in lines:
        said.setdefault(line[2 : 2 + width].strip(), []).append(line[4 + width :])
    return said


def test_an_unlimited_family_of_arrays():
    said = rows("navigation")
    assert said["observations"] == ["Box of 2 numbers, -inf to inf, float32"]
    assert said["episode"] == ["at most 100 steps"]
    assert said["tasks"] == ["training unlimited, validation unlimited, held-out unlimited"]
    (parameter,) = said["parameter"]
    assert parameter.startswith("goal: 2 numbers, -0.49") and "1000 sampled tasks" in parameter
    examples = [said[f"{kind} task"] for kind in ("training", "validation", "held-out")]
    assert {len(of_split) for of_split in examples} == {3}
    assert len({task for of_split in examples for task in of_split}) == 9
    assert said["agents"] == ["maml-ppo, ppo-multitask, rl2, sac-multitask"]
    assert "oracle" in said["baselines"][0] and "thompson" not in said["baselines"][0]
    assert "rl2-navigation" in said["presets"][0] and "bandit" not in said["presets"][0]
    assert said["to train"][0].endswith(" train --preset maml-ppo-navigation")


def test_a_family_that_all_splits_share():
    said = rows("half-cheetah/direction")
    assert said["tasks"] == ["2, which all splits share"]
    assert said["parameter"] == ["direction: -1, 1"]
    assert said["trial"] == ["as many episodes as the agent is given"]
    assert said["reported"] == ["nothing but rewards"]


def test_an_environment_of_gymnasium_with_ranges():
    said = rows("gym/CartPole-v1:length=0.3..1,force_mag=5/10")
    assert said["parameter"] == ["length: 0.3..1", "force_mag: 5/10"]
    assert said["actions"] == ["Discrete(2)"] and said["agents"] == ["maml-ppo, ppo-multitask, rl2"]
    assert all(" force_mag=" in task for task in said["training task"])


def test_kinds_of_held_out_tasks_are_named():
    name = "metaworld/custom:train=reach+push,test=pick-place"
    said = rows(name)
    kinds, placement = said["parameter"]
    assert kinds == "cls: push-v3, reach-v3; held-out: pick-place-v3"
    assert placement.startswith("rand_vec: ") and " 6 numbers, " in placement
    assert said["tasks"] == ["training 100, validation 100, held-out 50"]
    assert said["trial"] == ["10 episodes"] and said["reported"] == ["success"]
    assert said["presets"] == ["none"]
    assert said["to train"][0].endswith(f" train maml-ppo --env {name}")
    assert "inf, inf" not in said["observations"][0]


def test_a_module_of_the_user_is_described_and_drawn(call, write_module):
    write_module("own", OWN)
    code, out, _ = call("own:carts", "--frames", "--steps", "1")
    assert code == 0 and "width: 0..2" in out and "picture: tasks.png" in out
    assert np.asarray(Image.open("tasks.png")).shape[2] == 3


def test_a_picture_of_nine_tasks_has_the_name_that_is_free_or_given(call):
    for name in ("tasks.png", "tasks-2.png"):
        code, out, _ = call("navigation", "--frames")
        assert code == 0 and f"picture: {name}" in out and Image.open(name).width == 760
    assert call("navigation", "--frames", "--output", "new/a.png", "--seed", "1")[0] == 0
    assert (np.asarray(Image.open("new/a.png")) != np.asarray(Image.open("tasks.png"))).any()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["navigaton"], "--env: unknown environment 'navigaton'; did you mean navigation"),
        (["navigation", "--output", "a.png"], "--output: got 'a.png'; accepted: --frames beside"),
        (["navigation", "--frames", "--output", "a.gif"], "--output: got 'a.gif'; accepted: a na"),
        (["navigation", "--steps", "0"], "--steps: got '0'; accepted: --frames beside it"),
        (["navigation", "--frames", "--steps", "-1"], "--steps: got -1; accepted: 0 or more"),
    ],
)
def test_what_cannot_be_described_is_one_line(call, words, message):
    code, _, err = call(*words)
    assert code == 2 and err.startswith(f"error: {message}") and err.count("\n") == 1


def test_a_family_without_pictures_says_so_and_leaves_no_file(call, monkeypatch, tmp_path):
    from metarl.tasks.arrays import ArrayTaskDistribution

    monkeypatch.setattr("metarl.envs.mdp.TabularMDP.draw", ArrayTaskDistribution.draw)
    code, _, err = call("mdp/n3", "--frames")
    assert code == 2 and err.startswith("error: --frames: ArrayEnv has no pictures; accepted: ")
    assert not list(tmp_path.iterdir())


# what can vary, how fast it is


def test_what_can_vary_has_a_type_a_value_and_a_place(call):
    code, said, _ = call("gym/Hopper-v5")
    lines = [line.strip() for line in said.splitlines()]
    assert code == 0 and lines[0] == "gym/Hopper-v5"
    assert "can vary         gravity (float, 3 numbers; MuJoCo model)" in lines
    assert "can vary         frame_skip (int, 4; constructor)" in lines
    assert "can vary         terminate_when_unhealthy (bool, True; constructor)" in lines
    assert "can vary         seed (int; seed of reset)" in lines
    assert "episode          1000 steps" in lines
    (example,) = [line.partition("metarl ")[2] for line in lines if line.startswith("for example")]
    code, said, _ = call(*example.split()[1:])
    assert code == 0 and "parameter        gravity: 0.5x..2x" in said


def test_every_example_of_a_range_is_one(call):
    tried = 0
    for id in ("Pendulum-v1", "CartPole-v1", "FrozenLake-v1", "Hopper-v5"):
        for each in bare(id).varying:
            if each.example and not each.name.startswith(("exclude", "screen", "nrow", "ncol")):
                tasks = metarl.make(f"gym/{id}:{each.example}")
                assert list(tasks.params) == [each.name], each
                tried += 1
    assert tried > 15


def test_speed_memory_and_check_are_measured(call):
    code, said, _ = call("gym/Pendulum-v1:g=8..12")
    assert code == 0 and " steps/s in one process" in said
    assert "MiB for the first environment" in said
    assert "check            every parameter changes something" in said
    _, said, _ = call("bandit/n10-k5")
    assert "MiB" not in said and "steps/s" in said
    _, said, _ = call("bandit/n10-k5", "--no-measure")
    assert "steps/s" not in said


def test_a_parameter_without_effect_is_found(call, tmp_path):
    (tmp_path / "nothing.py").write_text(OWN)
    code, said, _ = call("nothing:carts")
    assert code == 0 and "check            `width` changed nothing" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gym/Nope-v0"], "doesn't exist"),
        (["gym/no_module:Id-v0"], "No module named 'no_module'"),
        (["gym/Pendulum-v1", "--frames"], "--frames: got True; accepted: tasks"),
    ],
)
def test_a_bare_environment_that_cannot_be_is_one_line(call, words, said):
    code, _, error = call(*words)
    assert code == 2 and said in error and len(error.strip().splitlines()) == 1

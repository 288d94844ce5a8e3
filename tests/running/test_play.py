"""``metarl play``: a film of a run's agent, and one line where there is none."""

import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from metarl.__main__ import run
from metarl.agents.maml_ppo import MAMLPPOConfig
from metarl.agents.rl2 import RL2Config
from metarl.options import with_options
from metarl.running.exits import exits
from metarl.running.settings import Settings, TrainConfig
from metarl.running.train import train

SMALL = {"tasks_per_update": 2, "num_minibatches": 1, "hidden_size": 4, "episodes_per_trial": 3}
pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Make a run of each kind of tasks."""
    folder = tmp_path_factory.mktemp("runs")

    def make(env, agent):
        config = with_options(
            TrainConfig(),
            env=env,
            iterations=1,
            env_steps=None,
            evaluation_tasks=2,
            validation_tasks=2,
            run_dir=folder / env.partition("/")[0],
            num_workers=0,
        )
        return train(Settings("rl2" if agent is rl2 else "maml-ppo", agent, config)).directory

    rl2 = with_options(RL2Config(), **SMALL)
    maml = MAMLPPOConfig(tasks_per_update=2, episodes_per_adaptation=2)
    return {
        "bandit": make("bandit/n3-k2", rl2),
        "navigation": make("navigation:horizon=5", maml),
        "half-cheetah": make("half-cheetah/direction:horizon=4", maml),
    }


@pytest.fixture
def call(capsys, monkeypatch):
    """Play by the command: exit code, standard output, standard error."""

    def play(*words):
        monkeypatch.setattr(sys, "argv", ["metarl", "play", *map(str, words)])
        code = 0
        try:
            exits(lambda: run(["play", *map(str, words)]))()
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return play


def test_a_film_of_a_run_is_written_beside_it(call, runs):
    for name in ("test-0.gif", "test-0-2.gif"):
        code, out, _ = call(runs["bandit"])
        path = runs["bandit"] / "play" / name
        assert code == 0 and f"film: {path}" in out and Image.open(path).n_frames == 6
    assert "rl2, iteration 1, on bandit/n3-k2, held-out task: p=(" in out
    assert "episode 1, before adaptation: return " in out
    assert "episode 3, after 2 episodes: return " in out and "in 1 step\n" in out


def test_the_task_can_be_chosen_and_the_pictures_kept(call, runs, tmp_path):
    words = (runs["navigation"], "--task", "goal=0.25,0.5", "--output", tmp_path / "frames")
    code, out, _ = call(*words, tmp_path / "a.gif", "--greedy", "--episodes-per-trial", 4)
    assert code == 0 and "goal=(0.25, 0.5)" in out
    assert "episode 3, after 2 episodes" in out and "episode 5" not in out
    names = sorted(path.name for path in (tmp_path / "frames").iterdir())
    assert names[0] == "episode-001-step-0000.png" and names[-1] == "episode-003-step-0005.png"
    assert np.asarray(Image.open(tmp_path / "frames" / names[0])).shape == (386, 320, 3)


def test_a_baseline_takes_the_place_of_the_agent(call, runs, tmp_path):
    code, out, _ = call(runs["bandit"], "--baseline", "thompson", "--output", tmp_path / "a.gif")
    assert code == 0 and out.startswith("thompson on bandit/n3-k2, held-out task")


def test_the_same_words_show_the_same_and_another_number_another_task(call, runs, tmp_path):
    def told(*words):
        return call(runs["navigation"], "--output", tmp_path / "a.gif", *words)[1]

    assert told() == told() != told("--number", 1)


@pytest.mark.usefixtures("renderer")
def test_a_simulator_is_played_where_it_can_be_rendered(call, runs, tmp_path):
    words = (runs["half-cheetah"], "--task", "direction=-1", "--output", tmp_path / "frames")
    code, out, _ = call(*words)
    assert code == 0 and "direction=-1" in out and "episode 7, after 6 episodes" in out
    first, *_, last = sorted((tmp_path / "frames").iterdir())
    first, last = (np.asarray(Image.open(path)) for path in (first, last))
    assert first.shape == (386, 320, 3) and (first[66:] != last[66:]).any()


@pytest.mark.parametrize(
    ("run", "words", "message"),
    [
        ("half-cheetah", ["--task", "direction=5"], "--task direction: got '5'; accepted: a value"),
        ("navigation", ["--task", "gaol=1"], "--task: navigation:horizon=5 has no 'gaol'; did you"),
        ("navigation", ["--episodes-per-trial", "3"], "--episodes-per-trial: got 3; accepted: a m"),
        ("navigation", ["--output", "a.avi"], "--output: got 'a.avi'; accepted: a name that ends"),
        ("navigation", ["--baseline", "thompson"], "--baselines: thompson: got tasks navigation"),
        ("navigation", ["--env", "bandit/n3-k2"], "--env: bandit/n3-k2: got observation space"),
        ("navigation", ["--number", "-1"], "--number: got -1; accepted: 0 or more"),
        ("nothing", [], "nothing: not a run directory"),
    ],
)
def test_what_cannot_be_played_is_one_line(call, runs, run, words, message):
    code, _, err = call(runs.get(run, run), *words)
    assert code == 2 and err.startswith(f"error: {message}") and err.count("\n") == 1


def test_a_missing_graphics_library_is_one_line_and_leaves_no_file(call, runs, monkeypatch):
    class Renderer:
        def __init__(self, *args):
            raise RuntimeError("no\nGL")

    monkeypatch.setattr("mujoco.Renderer", Renderer)
    folder = runs["half-cheetah"] / "play"
    shutil.rmtree(folder, ignore_errors=True)
    code, _, err = call(runs["half-cheetah"])
    assert code == 2 and err.count("\n") == 1 and not list(folder.iterdir())
    assert err.startswith("error: metarl play: MuJoCo cannot render here (RuntimeError: no GL)")

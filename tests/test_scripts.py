"""The scripts, and the environment of the pages: does each do what it says?"""

import json
import runpy
import sys
from pathlib import Path

import pages
import pytest
from measure import measure_classes, measure_speed

import metarl
from metarl import registry
from metarl.agents.rl2 import RL2Config
from metarl.errors import UserError
from metarl.options import with_options
from metarl.running.settings import Settings, TrainConfig
from metarl.running.train import train
from metarl.tasks.checks import check_task_distribution

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py"))
PAGE = (ROOT / "docs" / "environments.md").read_text()
ROOMS = next(block.text for block in pages.blocks(PAGE) if block.module == "rooms.py")
TINY = {"iterations": 1, "env_steps": None, "evaluation_tasks": 2, "validation_tasks": 2}
SMALL = {
    "tasks_per_update": 2,
    "num_minibatches": 1,
    "hidden_size": 4,
    "episodes_per_trial": 2,
}


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run a script in an empty folder: exit code and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, arguments)])
        code = 0
        try:
            runpy.run_path(str(ROOT / "scripts" / f"{script}.py"), run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
        return code, capsys.readouterr().out

    return run


@pytest.fixture
def rooms(write_module):
    """README's environment as a module of the current folder."""
    return f"{write_module('rooms', ROOMS)}:rooms"


def test_there_are_five_scripts():
    assert SCRIPTS == ["benchmark", "compare", "evaluate", "plot", "train"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_short(script):
    assert len((ROOT / "scripts" / f"{script}.py").read_text().splitlines()) <= 20


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_answers_help(call, script):
    code, out = call(script, "--help")
    assert code == 0
    assert "usage:" in out
    assert "--output" in out or "--seed" in out or "{summarize,speed,stepping,classes}" in out


@pytest.mark.parametrize(
    ("env", "more"),
    [
        ("bandit/n3-k2", "--iterations 2"),
        (
            "half-cheetah/velocity:horizon=5",
            "--env-steps 20 --episodes-per-trial 2 --num-workers 1",
        ),
    ],
)
def test_train_evaluate_plot_and_record(call, env, more):
    small = "--tasks-per-update 2 --num-minibatches 1 --hidden-size 4 --validation-tasks 2"
    options = f"rl2 --env {env} --run-dir run --evaluation-tasks 3 {small} {more} --no-check"
    assert call("train", *options.split())[0] == 0
    code, out = call(
        "evaluate",
        "run",
        "--evaluation-tasks",
        4,
        "--greedy",
        "--score",
        "greedy-copy",
        "--num-workers",
        0,
    )
    assert code == 0
    assert "untrained" in out
    assert call("plot", "run", "run", "--output", "two.png")[0] == 0
    assert call("plot", "run", "--kind", "learning", "--output", "learning.svg")[0] == 0
    assert call("benchmark", "summarize", "run", "--output", "summary.json")[0] == 0
    for picture in ("two.png", "learning.svg", "run/evaluation/test.png"):
        assert Path(picture).stat().st_size > 5000
    evaluated = json.loads(Path("run/evaluation/test.json").read_text())
    probed = json.loads(Path("run/evaluation/test-tasks-4-greedy-greedy-copy.json").read_text())
    (recorded,) = json.loads(Path("summary.json").read_text())["runs"]
    assert (evaluated["num_tasks"], evaluated["env"]) == (3, registry.make(env).name)
    assert (probed["num_tasks"], probed["score"]) == (4, "greedy-copy")
    assert recorded["test"] == evaluated


def test_speed_is_measured(call):
    options = "speed --iterations 1 --evaluation-tasks 2 --env bandit/n2-k2 --output speed.json"
    config = "--config hidden_size 4 tasks_per_update 3 num_minibatches 1"
    assert call("benchmark", *options.split(), *config.split())[0] == 0
    record = json.loads(Path("speed.json").read_text())
    assert record["iteration_seconds_median"] > 0
    assert record["agent_config"]["core"]["hidden_size"] == 4
    assert record["env_steps_per_iteration"] == 6


def test_classes_are_measured(call):
    options = "classes --env metaworld/custom:train=reach,test=push --steps 50"
    assert call("benchmark", *options.split(), "--output", "classes.json")[0] == 0
    classes = json.loads(Path("classes.json").read_text())["classes"]
    assert list(classes) == ["reach-v3", "push-v3"]
    for times in classes.values():
        assert all(value > 0 for value in times["microseconds"].values())
        used = times["microseconds"]
        assert times["times_official"] == pytest.approx(used["official"] / used["here"])
        assert times["physics_share"] == pytest.approx(used["physics"] / used["here"])
        assert times["times_official_reset"] > 0
    with pytest.raises(UserError, match="accepted: tasks of Meta-World"):
        measure_classes("navigation", steps=50, output=Path("none.json"))


def test_stepping_is_measured(call):
    options = "stepping --env half-cheetah/velocity:horizon=5 --num-envs 3 --steps 7 --repeats 1"
    assert call("benchmark", *options.split(), "--output", "stepping.json")[0] == 0
    record = json.loads(Path("stepping.json").read_text())
    seconds = {name: values[0] for name, values in record["seconds"].items()}
    assert record["times_one_process"] == seconds["one_process"] / seconds["workers"]
    assert record["steps_per_second"]["workers"] == 21 / seconds["workers"]
    assert record["overhead_of_hand_over"] == seconds["workers"] / seconds["apart"] - 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hiden_size": "4"}, "unknown setting 'hiden_size'; did you mean hidden_size"),
        ({"hidden_size": "x"}, "--config hidden_size: got 'x'; accepted: a value in JSON"),
        ({"hidden_size": "0.5"}, "accepted: a value of the same type as"),
    ],
)
def test_wrong_setting_of_a_speed_measurement_is_refused(config, message, tmp_path):
    output = tmp_path / "speed.json"
    with pytest.raises(UserError, match=message):
        measure_speed(
            "bandit/n2-k2",
            "rl2",
            config=config,
            iterations=1,
            evaluation_tasks=2,
            device="cpu",
            torch_threads=1,
            output=output,
        )
    assert not output.exists()


# The environment of the pages


def test_the_pages_environment_is_short_and_keeps_the_contract(rooms):
    assert len(ROOMS.splitlines()) < 30
    check_task_distribution(registry.make(rooms))


def test_the_pages_environment_is_adapted_to_in_episodes_as_long_as_in_training(rooms, tmp_path):
    config = with_options(TrainConfig(), **TINY, env=rooms, num_workers=0, run_dir=tmp_path / "run")
    train(Settings("rl2", with_options(RL2Config(), **SMALL), config))
    lengths = []

    class Room(sys.modules["rooms"].Room):
        def reset(self, **options):
            lengths.append(0)
            return super().reset(**options)

        def step(self, action):
            lengths[-1] += 1
            return super().step(action)

    env = Room(20, 0.05)
    policy = metarl.adapt(metarl.load(tmp_path / "run"), env, episodes=3)
    assert lengths == [20, 20, 20]
    assert env.action_space.contains(policy.act(env.reset(seed=0)[0]))

"""Several seeds in one command: does each run equal one alone, and are all evaluated together?"""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from metarl.agents.rl2 import RL2Config
from metarl.errors import SeedsError, UserError
from metarl.evaluation.curve import AdaptationCurve
from metarl.evaluation.recovery import recovery_of
from metarl.evaluation.report import print_adaptation
from metarl.evaluation.statistics import crossed_mean
from metarl.evaluation.summaries import summarize_over_seeds
from metarl.options import with_options
from metarl.running import commandline
from metarl.running.commandline import parse_train, run_train
from metarl.running.lines import learning_curves
from metarl.running.parsing import command_line
from metarl.running.plot import plot
from metarl.running.record import summarize_runs
from metarl.running.run import Run
from metarl.running.seeds import summarize_seeds, train_seeds
from metarl.running.settings import Settings, TrainConfig
from metarl.running.train import train

AGENT = with_options(RL2Config(), tasks_per_update=4, hidden_size=6, num_minibatches=2)
SCRIPT = Path(__file__).parents[2] / "scripts" / "train.py"


def config_of(directory, **changes):
    values = {"env": "bandit/n3-k2", "iterations": 2, "evaluation_tasks": 30, "validation_tasks": 2}
    return with_options(
        TrainConfig(), **{**values, "run_dir": directory, "check": False, **changes}
    )


pytestmark = pytest.mark.usefixtures("quick_children")


@pytest.fixture(scope="module")
def group(tmp_path_factory, quick_children):
    folder = tmp_path_factory.mktemp("seeds") / "group"
    return folder, train_seeds(Settings("rl2", AGENT, config_of(folder)), (0, 3))


def test_each_run_equals_the_run_of_its_seed_alone(group, tmp_path):
    alone = train(Settings("rl2", AGENT, config_of(tmp_path / "alone", seed=3))).checkpoints.load()
    beside = Run.open(group[0] / "3").checkpoints.load()
    assert all(alone.tensors[name].equal(beside.tensors[name]) for name in alone.tensors)


def test_the_common_evaluation_is_over_all_seeds(group):
    folder, summary = group
    files = [folder / str(seed) / "evaluation" / "test.npz" for seed in (0, 3)]
    returns = np.concatenate([np.load(file, allow_pickle=False)["return"] for file in files], 1)
    assert summary["return"]["mean"] == pytest.approx(returns.mean(1).tolist())
    assert summary["gain"]["mean"] == pytest.approx((returns[-1] - returns[0]).mean())
    assert summary["seed"] == [0, 3]
    written = json.loads((folder / "evaluation" / "test.json").read_text())
    assert written == summary
    assert (folder / "evaluation" / "test-untrained.json").exists()
    assert (folder / "evaluation" / "test.png").exists()


def test_the_folder_of_a_group_is_no_run_and_names_its_runs(group):
    with pytest.raises(UserError, match=r"several seeds; name one: .*group/0, .*group/3"):
        Run.open(group[0])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--hidden-size 16", "--hidden-size: got 16"),
        ("--seed 5", "--seed: got 5"),
        ("--run-dir elsewhere", "--run-dir: got"),
        ("maml-ppo", "agent: got 'maml-ppo'"),
        ("--print-config", "no --print-config beside it"),
        ("--seeds 5 6", "no --seeds beside it"),
        ("--preset rl2-mdp-n10", "no --preset beside it"),
        ("--config nowhere.json", "no --config beside it"),
    ],
)
def test_what_a_group_cannot_change_is_refused_once(group, options, said):
    with pytest.raises(UserError, match=said):
        run_train([*options.split(), "--resume", str(group[0])])


def test_what_a_group_can_change_reaches_each_run(group, monkeypatch):
    asked = []
    monkeypatch.setattr(commandline, "resume_seeds", lambda *given: asked.append(given))
    run_train(["--resume", str(group[0]), "--num_workers", "1", "--keep-checkpoints=3"])
    ((folder, options),) = asked
    assert folder == group[0]
    assert sorted(zip(options[::2], options[1::2], strict=True)) == [
        ("--keep-checkpoints", "3"),
        ("--num-workers", "1"),
    ]


def test_settings_of_a_group_start_a_group(group):
    path = str(group[0])
    assert parse_train(["--config", path]).seeds == (0, 3)
    assert parse_train(["--config", path, "--seeds", "7"]).seeds == (7,)
    assert parse_train(["--config", path, "--seed", "7"]).seeds == ()


@pytest.mark.parametrize("damage", ["other tasks", "another iteration", "noise", "cut off"])
def test_evaluations_that_are_not_alike_are_not_taken_together(group, tmp_path, damage):
    folder = tmp_path / "group"
    shutil.copytree(group[0], folder)
    path = folder / "3" / "evaluation" / "test.json"
    summary = json.loads(path.read_text())
    if damage == "other tasks":
        summary["num_tasks"] = 29
    elif damage == "another iteration":
        summary["iteration"] = 1
    elif damage == "noise":
        summary["conditions"] = {"reward_noise": 0.1}
    else:
        path.with_suffix(".npz").write_bytes(b"PK cut")
    path.write_text(json.dumps(summary))
    said = "test.npz: cannot" if damage == "cut off" else "same way"
    with pytest.raises(UserError, match=said):
        summarize_seeds(folder, (0, 3))
    with pytest.raises(UserError, match=said):
        plot([folder], "adaptation", tmp_path / "plot.png")


def test_it_is_drawn_and_summarised_as_its_runs(group, tmp_path):
    plot([group[0]], "learning", tmp_path / "learning.png")
    summarize_runs([group[0]], tmp_path / "summary.json")
    entries = json.loads((tmp_path / "summary.json").read_text())["runs"]
    assert [entry["train_config"]["seed"] for entry in entries] == [0, 3]


def test_intervals_hold_the_spread_over_seeds_and_over_tasks():
    rng = np.random.default_rng(0)
    seeds, tasks = rng.normal(0, 3, (1, 10, 1)), rng.normal(0, 1, (1, 1, 400))
    for values, spread in (
        (seeds + np.zeros((1, 1, 400)), 3 / np.sqrt(10)),
        (np.zeros((1, 10, 1)) + tasks, 1 / np.sqrt(400)),
    ):
        summary = summarize_over_seeds(values)
        assert summary["mean"][0] == pytest.approx(values.mean())
        width = (summary["high"][0] - summary["low"][0]) / (2 * 2.1)
        assert width == pytest.approx(spread, rel=0.35)


def test_what_environments_report_is_taken_together_too(tmp_path):
    for seed, speed in ((0, 1.0), (3, 5.0)):
        zeros = np.zeros((2, 30), np.float32)
        AdaptationCurve(
            *("x", "rl2", 0, "test", False, "adapting-episodes", False, (0, 1)),
            returns=zeros + np.float32(np.arange(30) % 2),
            success=zeros + np.float32(np.arange(30) < 29),
            info={"speed": zeros + speed},
            seconds=1.0,
        ).save(tmp_path / str(seed) / "evaluation", "test")
    summary = summarize_seeds(tmp_path, (0, 3))
    assert summary["info"]["speed"]["mean"] == pytest.approx([3, 3])
    assert summary["success"]["mean"] == pytest.approx([29 / 30] * 2)
    for values in (summary["success"], summary["info"]["speed"]):
        assert values.keys() == {"mean", "low", "high"}  # no interquartile mean of outcomes
    assert summary["return"]["iqm"] is None


def test_seeds_are_added_to_a_finished_group(group, tmp_path, capsys):
    """Added seeds are those of a group that had them from the start; the others stay."""
    folder = tmp_path / "group"
    shutil.copytree(group[0], folder)
    before = (folder / "3" / "metrics.jsonl").read_bytes()
    run_train(["--seeds", "5", "--run-dir", str(folder), "--keep-checkpoints", "3"])
    assert ", seeds 5, 1 at once: " in capsys.readouterr().out  # Finished runs are not begun.
    assert json.loads((folder / "config.json").read_text())["seeds"] == [0, 3, 5]
    summary = json.loads((folder / "evaluation" / "test.json").read_text())
    assert summary["seed"] == [0, 3, 5]
    assert summary["return"]["low"] is not None
    assert (folder / "3" / "metrics.jsonl").read_bytes() == before
    alone = train(Settings("rl2", AGENT, config_of(tmp_path / "alone", seed=5))).checkpoints.load()
    added = Run.open(folder / "5").checkpoints.load()
    assert all(alone.tensors[name].equal(added.tensors[name]) for name in alone.tensors)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--seeds 3 4", r"--seeds: got \[3\]; accepted: other seeds than those of .*: 0, 3"),
        ("--seeds 4 --hidden-size 16", "--hidden-size: got 16; accepted: 6, as the other seeds"),
        ("--seeds 4 --iterations 5", "--iterations: got 5; accepted: 2"),
        ("--seeds 4 --evaluation-tasks 5", "--evaluation-tasks: got 5; accepted: 30"),
        ("maml-ppo --seeds 4", "agent: got 'maml-ppo'"),
        ("--preset maml-ppo-navigation --seeds 4", "agent: got 'maml-ppo'; accepted: rl2"),
    ],
)
def test_only_other_seeds_of_the_same_settings_are_added(group, options, said):
    before = sorted(group[0].rglob("*"))
    with pytest.raises(UserError, match=said):
        run_train([*options.split(), "--run-dir", str(group[0]), "--no-check"])
    assert sorted(group[0].rglob("*")) == before


BREAKS = """
import metarl
from drift import Drift

class Breaks(Drift):
    def step(self, action):
        raise RuntimeError("joint 3 left its socket")

tasks = metarl.FunctionTasks(
    lambda params: Breaks(**params), {"drift": metarl.Uniform(-1, 1)}, horizon=3
)
"""


UNMADE = """
import metarl
from drift import Drift

def fail(task=None):
    raise RuntimeError("no licence for the simulator")

tasks = metarl.FunctionTasks(lambda p: Drift(**p), {"drift": metarl.Uniform(-1, 1)}, horizon=3)
tasks.make = fail
"""


def test_a_seed_that_fails_is_named(tmp_path, write_module, monkeypatch, capsys):
    monkeypatch.setenv(
        "PYTHONPATH", f"{Path(__file__).parents[1]}:{os.environ.get('PYTHONPATH', '')}"
    )
    env = f"{write_module('breaks', BREAKS)}:tasks"
    config = config_of(tmp_path / "group", env=env)
    (tmp_path / "group").mkdir()
    with pytest.raises(SeedsError, match="seeds 0 did not"):
        train_seeds(Settings("rl2", replace(AGENT, episodes_per_trial=1), config), (0,))
    printed = capsys.readouterr().out
    assert "[seed 0] error: environment failed" in printed
    assert "joint 3 left its socket" in printed


@pytest.mark.parametrize("taken", ["config.json", "3"])
def test_a_group_that_loses_its_folder_to_another_leaves_nothing(tmp_path, monkeypatch, taken):
    """Of two groups that begin at once in one folder, the slower one undoes what it has made."""
    folder, create = tmp_path / "new" / "group", Run.create

    def slow(settings, tasks):
        if settings.train.seed == 3:
            other = settings.with_train(seed=7, run_dir=folder / taken)
            if taken == "3":
                create(other, tasks)
            else:
                (folder / "config.json").write_text("{}")
        return create(settings, tasks)

    monkeypatch.setattr(Run, "create", slow)
    with pytest.raises(UserError, match=r"--run-dir: got .*empty"):
        train_seeds(Settings("rl2", AGENT, config_of(folder)), (0, 3))
    assert [p.name for p in folder.iterdir()] == [taken]


def test_a_group_whose_environments_cannot_be_made_leaves_nothing(
    tmp_path, write_module, monkeypatch, capsys
):
    monkeypatch.setenv(
        "PYTHONPATH", f"{Path(__file__).parents[1]}:{os.environ.get('PYTHONPATH', '')}"
    )
    env = f"{write_module('unmade', UNMADE)}:tasks"
    config = config_of(tmp_path / "deep" / "group", env=env, num_workers=0)
    with pytest.raises(SeedsError, match="seeds 0 did not"):
        train_seeds(Settings("rl2", replace(AGENT, episodes_per_trial=1), config), (0,))
    assert not (tmp_path / "deep").exists()
    said = capsys.readouterr()
    assert "no licence for the simulator" in said.out
    assert "resume with" not in said.out + said.err


@pytest.mark.parametrize("to_all", [False, True])
def test_a_signal_reaches_every_run_once(tmp_path, monkeypatch, to_all):
    """A cluster sends it to all processes of a job, not to the first one alone."""
    monkeypatch.chdir(tmp_path)
    number = signal.SIGUSR1 if to_all else signal.SIGTERM
    options = "--env bandit/n3-k2 --tasks-per-update 4 --hidden-size 6 --num-minibatches 2"
    command = [sys.executable, str(SCRIPT), *options.split(), "--iterations", "100000"]
    command += ["--checkpoint-interval", "1"]  # The second line of metrics comes after it.
    process = subprocess.Popen(
        [*command, "--seeds", "1", "2", "--run-dir", "group"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    metrics = [tmp_path / "group" / seed / "metrics.jsonl" for seed in ("1", "2")]
    while process.poll() is None and not all(
        m.exists() and m.read_text().count("\n") > 1 for m in metrics
    ):
        time.sleep(0.02)
    started = psutil.Process(process.pid).children(recursive=True) if to_all else []
    for each in [process, *started]:
        each.send_signal(number)
    output = process.communicate()[0]
    assert process.returncode == 128 + number, output
    for seed in ("1", "2"):
        assert Run.open(tmp_path / "group" / seed).checkpoints.load().iteration >= 1
        command = command_line("train", "--resume", f"group/{seed}")
        assert f"[seed {seed}] resume with: {command}" in output
    assert "Traceback" not in output
    (said,) = (line for line in output.splitlines() if line.startswith("resume with: "))
    last = max(Run.open(tmp_path / "group" / s).checkpoints.load().iteration for s in ("1", "2"))
    words = said.removeprefix(f"resume with: {command_line('train')}").split()
    more = ["--iterations", str(last + 1), "--evaluation-tasks", "5", "--validation-tasks", "2"]
    run_train([*words, *more])
    for seed in ("1", "2"):
        assert Run.open(tmp_path / "group" / seed).checkpoints.load().iteration == last + 1
    summary = json.loads((tmp_path / "group" / "evaluation" / "test.json").read_text())
    assert (summary["seed"], summary["num_tasks"]) == ([1, 2], 5)


def saved_curve(folder, seed, values, **fields):
    """Save the evaluation of one seed: values[point, task]."""
    values = np.asarray(values, np.float32)
    AdaptationCurve(
        *("x", "rl2", 0, "test", False, "adapting-episodes", False),
        episodes=tuple(range(len(values))),
        **{"returns": values, "seconds": 1.0, **fields},
    ).save(folder / str(seed) / "evaluation", "test")


def test_three_seeds_have_an_interval_and_two_have_none(tmp_path, capsys):
    rng = np.random.default_rng(0)
    values = {seed: rng.normal(size=(2, 30)) + seed for seed in (1, 2, 3)}
    for seed, own in values.items():
        saved_curve(tmp_path, seed, own)
    summary = summarize_seeds(tmp_path, (1, 2, 3))
    stacked = np.stack(list(values.values()), 1)
    estimate = crossed_mean(stacked)
    assert summary["return"]["mean"] == pytest.approx(estimate.mean)
    low = estimate.mean - estimate.half_width()
    assert summary["return"]["low"] == pytest.approx(low, rel=1e-4)
    assert np.transpose(summary["seed_means"]["return"]) == pytest.approx(stacked.mean(2), rel=1e-5)
    two = summarize_seeds(tmp_path, (1, 2))
    assert two["return"]["low"] is two["gain"]["low"] is None
    print_adaptation(two, two)
    assert "no intervals: 2 seeds are too few, they take 3" in capsys.readouterr().out


def test_recovery_is_that_of_the_mean_over_seeds(tmp_path):
    """The first seed is back at once, the second one after two episodes with the new task."""
    curves = np.array([[0, 8, 10, 9.5, 10, 10], [0, 8, 10, 0, 4, 10]])
    for seed, own in enumerate(curves):
        values = np.repeat(own[:, None], 5, 1)
        saved_curve(tmp_path, seed, values, conditions={"change_task_after": 3})
    summary = summarize_seeds(tmp_path, (0, 1))
    assert summary["recovery"] == recovery_of(curves.mean(0)[:, None], range(6), 3)
    assert summary["recovery"]["episodes"] == 2


def test_kinds_are_shown_and_count_equally_over_seeds(tmp_path):
    kinds = np.array(["push"] * 2 + ["reach"] * 4)
    returns = np.where(kinds == "push", 0.0, 1.0)[None] + np.zeros((2, 1))
    for seed in (0, 1, 2):
        saved_curve(tmp_path, seed, returns + seed, groups=kinds, strata=kinds)
    summary = summarize_seeds(tmp_path, (0, 1, 2))
    assert summary["return"]["mean"] == pytest.approx([1.5, 1.5])
    assert summary["groups"]["reach"]["return"]["mean"] == pytest.approx([2, 2])
    assert summary["groups"]["push"]["num_tasks"] == 2


def test_seeds_of_two_kinds_are_flagged(tmp_path, capsys):
    for seed, level in enumerate((0.0, 1.0, 0.0, 1.0, 1.0)):
        noise = np.random.default_rng(seed).normal(0, 0.1, (2, 40))
        saved_curve(tmp_path, seed, level + noise)
    summary = summarize_seeds(tmp_path, range(5))
    assert summary["two_kinds"]
    print_adaptation(summary, summary)
    assert "the mean describes neither kind" in capsys.readouterr().out


def test_a_group_is_one_curve_with_every_seed(group, tmp_path):
    plot([group[0]], "adaptation", tmp_path / "plot.csv", axis="env-steps")
    rows = list(csv.DictReader((tmp_path / "plot.csv").read_text().splitlines()))
    assert [row["curve"] for row in rows] == ["rl2"] * 3 + ["rl2, untrained"] * 3
    assert [row["environment steps"] for row in rows[:3]] == ["0", "1", "2"]  # an episode: a pull
    for point, row in enumerate(rows[:3]):
        assert float(row["mean"]) == pytest.approx(group[1]["return"]["mean"][point])
        assert row["low"] == ""  # of two seeds
        seeds = [float(x) for x in row["seeds"].split()]
        assert seeds == pytest.approx([s[point] for s in group[1]["seed_means"]["return"]])


def test_learning_of_a_group_is_the_mean_of_its_seeds(group, tmp_path):
    options = {"metric": "update/kl", "axis": "episodes"}
    plot([group[0]], "learning", tmp_path / "plot.csv", **options)
    rows = list(csv.DictReader((tmp_path / "plot.csv").read_text().splitlines()))
    assert [(row["run"], row["episodes"]) for row in rows] == [
        *(("0", "12"), ("0", "24")),  # 4 tasks of 3 episodes an update
        *(("1", "12"), ("1", "24")),
    ]
    lines = (group[0] / "3" / "metrics.jsonl").read_text().splitlines()
    assert [float(row["value"]) for row in rows[2:]] == [json.loads(x)["update/kl"] for x in lines]
    (((curve,),), _) = learning_curves([group[0]], "update/kl", "episodes", None)
    values = np.array([[y for _, y in seed] for seed in curve.seeds])
    assert [y for _, y in curve.mean()] == pytest.approx(values.mean(0))
    plot([group[0]], "learning", tmp_path / "plot.png", **options)
    with pytest.raises(UserError, match=r"--metric: got 'speed'; accepted: return, .*update/kl"):
        plot([group[0]], "learning", tmp_path / "plot.png", metric="speed")

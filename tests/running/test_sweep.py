"""`metarl sweep`: is every combination trained once, however often it is cut off and started?"""

import csv
import json
import os
import random
import shlex
import shutil
import signal
import time
from pathlib import Path

import pytest
from sweep_survival import differences, logged, make_twins, number_finished, start, survive

from metarl.errors import SeedsError, UserError
from metarl.running.auto import run_train
from metarl.running.commands import run_plot
from metarl.running.grid import Grid, read_axes, read_grid, settings_of_grid
from metarl.running.groups import run_compare
from metarl.running.manifest import MANIFEST, read_sweep
from metarl.running.run import Run
from metarl.running.sweep import run_sweep

EXAMPLE = Path(__file__).parents[2] / "examples" / "sweep.toml"
COMMON = [
    *("rl2", "--env", "bandit/n3-k2", "--tasks-per-update", "4", "--num-minibatches", "2"),
    *("--iterations", "2", "--evaluation-tasks", "20", "--validation-tasks", "2", "--no-check"),
]
GRID = ["--grid", "learning-rate=1e-3,3e-2", "hidden-size=4,6"]


pytestmark = pytest.mark.usefixtures("quick_children")


@pytest.fixture(scope="module")
def swept(tmp_path_factory, quick_children):
    """A finished sweep of four settings."""
    folder = tmp_path_factory.mktemp("swept") / "sweep"
    run_sweep([*COMMON, *GRID, "--run-dir", str(folder)])
    return folder


def files_of(folder):
    return {p: p.stat().st_mtime_ns for p in Path(folder).rglob("*") if p.is_file()}


NAMES = [
    "learning-rate-0.001_hidden-size-4",
    "learning-rate-0.001_hidden-size-6",
    "learning-rate-0.03_hidden-size-4",
    "learning-rate-0.03_hidden-size-6",
]


def test_every_combination_is_in_a_folder_that_names_it(swept):
    runs = read_sweep(swept)
    assert [run.directory for run in runs] == [swept / name / "0" for name in NAMES]
    assert runs[2].setting == "learning-rate=0.03 hidden-size=4"
    for run, rate, size in zip(runs, (1e-3, 1e-3, 3e-2, 3e-2), (4, 6, 4, 6), strict=True):
        config = Run.open(run.directory).settings.agent_config
        assert (config.ppo.learning_rate, config.core.hidden_size) == (rate, size)
        assert Run.open(run.directory).finished()
        assert "picture: " in run.directory.with_suffix(".log").read_text()


def test_the_same_command_does_nothing_again(swept, capsys):
    before = files_of(swept)
    run_sweep([*COMMON, "--grid", "learning-rate=0.001,3e-2", GRID[2], "--run-dir", str(swept)])
    assert capsys.readouterr().out == f"{swept}: finished, 4 runs\n"
    after = files_of(swept)
    command = json.loads((swept / MANIFEST).read_text())["command"]
    assert "learning-rate=0.001,3e-2" in command
    assert {**after, swept / MANIFEST: 0} == {**before, swept / MANIFEST: 0}


def test_new_values_and_seeds_are_added(swept, tmp_path, capsys):
    folder = shutil.copytree(swept, tmp_path / "sweep")
    before = files_of(folder)
    words = [*COMMON, "--grid", "learning-rate=1e-2,1e-3", "hidden-size=4", "--run-dir"]
    run_sweep([*words, str(folder), "--seeds", "0", "1"])
    assert "4 runs, 1 of them finished already" in capsys.readouterr().out
    after = files_of(folder)
    assert all(after[path] == when for path, when in before.items() if path.name != MANIFEST)
    runs = [(str(run.directory.parent.name), run.seed) for run in read_sweep(folder)]
    new = "learning-rate-0.01_hidden-size-4"
    assert runs == [(NAMES[0], 0), (NAMES[0], 1), *((n, 0) for n in NAMES[1:]), (new, 0), (new, 1)]
    assert all(Run.open(run.directory).finished() for run in read_sweep(folder))


def test_longer_runs_are_made_of_finished_ones(swept, tmp_path):
    folder = shutil.copytree(swept, tmp_path / "sweep")
    words = [*COMMON, "--iterations", "3", "--grid", "learning-rate=1e-3", "hidden-size=4"]
    run_sweep([*words, "--run-dir", str(folder)])
    found = {run.directory.parent.name: Run.open(run.directory) for run in read_sweep(folder)}
    assert found[NAMES[0]].checkpoints.iterations()[-1] == 3
    assert found[NAMES[1]].checkpoints.iterations()[-1] == 2


def test_a_sweep_is_compared_and_drawn_whole(swept, tmp_path, capsys):
    run_compare([str(swept), "--output", str(tmp_path / "out.json")])
    compared = json.loads((tmp_path / "out.json").read_text())
    groups = compared["measures"]["after 2 episodes"]["groups"]
    assert [group["label"] for group in groups] == [run.setting for run in read_sweep(swept)]
    assert [group["runs"] for group in groups] == [[str(swept / name / "0")] for name in NAMES]
    run_plot([str(swept), "--output", str(tmp_path / "out.csv")])
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert list(dict.fromkeys(row["curve"] for row in rows)) == [
        r.setting for r in read_sweep(swept)
    ]
    learning = ["--kind", "learning", "--metric", "update/kl"]
    run_plot([str(swept), *learning, "--output", str(tmp_path / "learning.csv")])
    rows = list(csv.DictReader((tmp_path / "learning.csv").read_text().splitlines()))
    assert list(dict.fromkeys(row["curve"] for row in rows)) == [
        r.setting for r in read_sweep(swept)
    ]
    run_plot([str(swept), "--output", str(tmp_path / "out.png")])
    capsys.readouterr()
    with pytest.raises(UserError, match="a sweep alone in its group"):
        run_compare([str(swept), str(swept / NAMES[0] / "0"), "--", str(tmp_path)])


def test_what_has_not_been_evaluated_is_left_out(swept, tmp_path, capsys):
    folder = shutil.copytree(swept, tmp_path / "sweep")
    shutil.rmtree(folder / NAMES[0])
    shutil.rmtree(folder / NAMES[1] / "0" / "evaluation")
    run_plot([str(folder), "--output", str(tmp_path / "out.csv")])
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert len({row["curve"] for row in rows}) == 2
    run_compare([str(folder), "--output", str(tmp_path / "out.json")])
    assert len(json.loads((tmp_path / "out.json").read_text())["left_out"]) == 1


def printed(capsys, *words):
    run_sweep([*words, "--print-commands"])
    return capsys.readouterr().out.splitlines()


def test_commands_are_printed_one_a_line_and_do_what_the_sweep_does(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = printed(capsys, *COMMON, *GRID, "--seeds", "1", "2", "--run-dir", "sweep")
    assert len(lines) == 8 and all("--resume auto" in line for line in lines)
    assert not list(Path("sweep").glob("*/*"))
    words = shlex.split(lines[1])
    run_train(words[words.index("train") + 1 :])
    assert Run.open(tmp_path / "sweep" / NAMES[0] / "2").finished()


def test_one_run_is_trained_by_its_index(tmp_path, capsys):
    words = [*COMMON, *GRID, "--seeds", "1", "2", "--run-dir", str(tmp_path)]
    run_sweep([*words, "--index", "5"])
    (made,) = tmp_path.glob("*/*/config.json")
    assert made.parent == tmp_path / NAMES[2] / "2"
    assert len(read_sweep(tmp_path)) == 8
    assert "--index" not in json.loads((tmp_path / MANIFEST).read_text())["command"]
    run_sweep([*words, "--index", "5"])
    assert f"{made.parent}: finished, 2 iterations" in capsys.readouterr().out
    with pytest.raises(UserError, match="--index: got 8; accepted: 0 to 7, the runs there are"):
        run_sweep([*words, "--index", "8"])


WRONG = [
    ("--grid learning-rate=1e-3,fast", r"--grid learning-rate=fast: .*'fast'"),
    ("--grid learning-rate=1e-3,-1", r"--grid learning-rate=-1: --learning-rate: got -1.0"),
    ("--grid num-epochs=2,0", r"--grid num-epochs=0: --num-epochs: got 0"),
    ("--grid hiden-size=4", r"--grid hiden-size=4: .*hiden-size"),
    ("--grid actions=all,some", r"--grid actions=all: .*actions"),
    ("--grid learning-rate", r"--grid: got 'learning-rate'; accepted: option=value,value"),
    ("--grid learning-rate=1,,2", r"--grid: got 'learning-rate=1,,2'; accepted: option=value"),
    ("--grid seed=1,2", r"--seed: accepted: no such option of the runs"),
    ("--grid iterations=2,3", r"--grid: got 'iterations'; accepted: an option that is not given"),
    ("--grid agent=rl2,maml-ppo", r"--grid: got 'agent'; accepted: an option that is not given"),
    ("--grid hidden-size=4,4", r"--grid: got 'hidden-size=4'; accepted: every setting once"),
    (
        "--grid hidden-size=4 hidden-size=5",
        r"--grid: got 'hidden-size=5'; accepted: hidden-size on",
    ),
    ("", r"--grid: got \[\]; accepted: at least one OPTION=VALUE"),
    ("--grid hidden-size=4 --seeds 1 1", r"--seeds: got \[1, 1\]; accepted: seeds that differ"),
    ("--grid hidden-size=4 --jobs 0", r"--jobs: got 0; accepted: at least 1"),
    ("--grid hidden-size=4 --index 0 --jobs 1", r"--index: got 0; accepted: no --jobs"),
    ("--grid hidden-size=4 --hiden-size 3", r"Unrecognized options: --hiden-size"),
    ("--grid core=gru,fast-weights --memory-size 8", r"--memory-size: got 8"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=[words for words, _ in WRONG])
def test_what_is_wrong_is_named_in_one_line_before_anything_starts(tmp_path, words, said):
    with pytest.raises(UserError, match=said) as error:
        run_sweep([*COMMON, *words.split(), "--run-dir", str(tmp_path / "sweep")])
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_tasks_that_do_not_exist_are_named_before_anything_starts(tmp_path):
    words = [word for word in COMMON if word not in ("--env", "bandit/n3-k2")]
    with pytest.raises(UserError, match=r"env=bandt: --env: .*did you mean bandit"):
        run_sweep([*words, "--grid", "env=bandit/n3-k2,bandt", "--run-dir", str(tmp_path / "s")])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_needed_and_must_not_be_of_other_settings(swept):
    with pytest.raises(UserError, match="--run-dir: got None; accepted: a folder for the sweep"):
        run_sweep([*COMMON, *GRID])
    before = files_of(swept)
    other = [word if word != "4" else "8" for word in COMMON]
    with pytest.raises(UserError, match=f"--tasks-per-update: got 8; accepted: 4, as {swept}"):
        run_sweep([*other, *GRID, "--run-dir", str(swept)])
    assert files_of(swept) == before


FILE = """
agent = "rl2"
folder = "sweep"
seeds = [3]

[options]
env = "bandit/n3-k2"
tasks_per_update = 8
check = false

[grid]
num-minibatches = [2, 4]
normalize-observations = [true, false]
checkpoint-interval = ["None", 5]
hidden-sizes = [[8, 4], [6]]
"""


def test_a_file_says_what_options_say(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("sweep.toml").write_text(
        FILE.replace('"rl2"', '"maml-ppo"').replace("num-minibatches", "num-epochs")
    )
    settings = settings_of_grid(read_grid(Path("sweep.toml")))
    assert len(settings) == 16
    one = settings[-2].settings
    assert (one.train.seed, one.train.check, one.train.env) == (0, False, "bandit/n3-k2")
    assert one.agent_config.tasks_per_update == 8
    assert (one.agent_config.normalize_observations, one.agent_config.hidden_sizes) == (
        False,
        (8, 4),
    )
    assert settings[0].settings.train.run.checkpoint_interval is None
    assert settings[-1].settings.train.run.checkpoint_interval == 5
    folder = "num-epochs-4_normalize-observations-false_checkpoint-interval-5_hidden-sizes-8x4"
    assert settings[-2].folder == folder
    lines = printed(capsys, "sweep.toml", "--tasks-per-update", "12", "--run-dir", "elsewhere")
    assert all("--tasks-per-update 12" in x and "tasks-per-update=8" not in x for x in lines)
    assert all("--seed=3 --run-dir elsewhere/" in line for line in lines)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("agent =", "agnt ="), "has 'agnt'; did you mean agent"),
        (("[3]", "[3.5]"), r"seeds: got \[3.5\]; accepted: a list of whole numbers"),
        (("[2, 4]", "2"), "grid: num-minibatches: got 2; accepted: a list of values"),
        (("[2, 4]", "["), "cannot be read: "),
        (('"sweep"', "1"), "folder: got 1; accepted: a text"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path, change, said):
    path = tmp_path / "sweep.toml"
    path.write_text(FILE.replace(*change))
    with pytest.raises(UserError, match=f"{path}: {said}"):
        run_sweep([str(path)])


def test_agents_tasks_and_presets_can_be_varied():
    words = ("--tasks-per-update", "10", "--normalize-observations")
    axes = read_axes(["agent=rl2,maml-ppo", "env=bandit/n3-k2,bandit/n4-k3"])
    settings = settings_of_grid(Grid(words, axes))
    assert [(x.settings.agent, x.settings.train.env) for x in settings] == [
        (agent, env) for agent in axes["agent"] for env in axes["env"]
    ]
    assert len({x.folder for x in settings}) == 4
    names = ["rl2-bandit-n100-k10", "rl2-mdp-n10"]
    settings = settings_of_grid(Grid((), {"preset": tuple(names)}))
    assert [x.settings.train.env for x in settings] == ["bandit/n100-k10", "mdp/n10"]


def test_the_example_is_a_sweep(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = [
        "--iterations",
        "1",
        "--tasks-per-update",
        "8",
        "--seeds",
        "0",
        "--evaluation-tasks",
        "4",
    ]
    run_sweep([str(EXAMPLE), *few, "--validation-tasks", "2", "--no-check"])
    assert "4 of 4 finished" in capsys.readouterr().out
    assert len(list(Path("runs/sweep").glob("*/0/evaluation/test.json"))) == 4


BREAKS = """
import metarl
from drift import Drift

class Breaks(Drift):
    def step(self, action):
        raise RuntimeError("joint 3 left its socket")

def make(kind):
    return metarl.FunctionTasks(
        lambda params: kind(**params), {"drift": metarl.Uniform(-1, 1)}, horizon=3
    )

broken, sound = make(Breaks), make(Drift)
"""


def test_a_run_that_fails_does_not_stop_the_others(tmp_path, write_module, monkeypatch, capsys):
    path = f"{Path(__file__).parents[1]}:{os.environ.get('PYTHONPATH', '')}"
    monkeypatch.setenv("PYTHONPATH", path)
    write_module("breaks", BREAKS)
    words = [word for word in COMMON if word not in ("--env", "bandit/n3-k2")]
    words += ["--episodes-per-trial", "1", "--hidden-size", "4", "--run-dir", "sweep"]
    with pytest.raises(SeedsError, match=r"1 of 2 runs did not finish: sweep/.*/0\.log"):
        run_sweep([*words, "--grid", "env=breaks:broken,breaks:sound", "--jobs", "1"])
    out = capsys.readouterr().out
    assert "did not finish: env-breaks-broken" in out and "1 of 2 finished: env-breaks-sound" in out
    broken, sound = read_sweep(Path("sweep"))
    assert "joint 3 left its socket" in broken.directory.with_suffix(".log").read_text()
    assert Run.open(sound.directory).finished()


def test_a_signal_stops_all_runs_in_order_and_the_same_command_goes_on(tmp_path, quick_python):
    words = ["sweep", *COMMON, "--iterations", "100000", "--checkpoint-interval", "1", *GRID]
    words += ["--run-dir", "sweep", "--jobs", "2"]
    sweep = start(words, tmp_path, "x", quick_python)
    while logged(tmp_path / "sweep") < 4 and sweep.poll() is None:
        time.sleep(0.01)
    sweep.send_signal(signal.SIGUSR1)
    output = sweep.communicate()[0]
    assert sweep.returncode == 128 + signal.SIGUSR1, output
    assert "go on with: " in output and "Traceback" not in output
    begun = [run for run in read_sweep(tmp_path / "sweep") if run.directory.is_dir()]
    assert 1 <= len(begun) <= 2
    last = max(Run.open(run.directory).checkpoints.iterations()[-1] for run in begun)
    for run in begun:
        assert "is saved: " in run.directory.with_suffix(".log").read_text()
    said = next(line for line in output.splitlines() if line.startswith("go on with: "))
    again = shlex.split(said)
    again = [str(last + 1) if x == "100000" else x for x in again[again.index("sweep") :]]
    done = start([*again, "--evaluation-tasks", "3"], tmp_path, "x", quick_python)
    assert done.communicate() and done.returncode == 0
    assert number_finished(tmp_path) == 4


def test_a_sweep_that_is_killed_twice_equals_its_uninterrupted_runs(tmp_path, capsys, quick_python):
    words = ["sweep", *COMMON, "--iterations", "12", "--checkpoint-interval", "3", *GRID]
    make_twins(words, tmp_path / "twins")
    moments = sorted(random.Random(1).sample(range(1, 4 * 12), 2))
    kills = list(zip(moments, (True, False), strict=True))
    survive([*words, "--run-dir", "sweep", "--jobs", "2"], tmp_path, kills, quick_python)
    for run in read_sweep(tmp_path / "sweep"):
        assert (
            differences(run.directory, tmp_path / "twins" / run.directory.parent.name / "0") == []
        )

"""`metarl runs`: is every run found, is its state true, and does damage hide nothing?"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from metarl.agents.rl2 import RL2Config
from metarl.errors import UserError
from metarl.files import write_json
from metarl.options import with_options
from metarl.running.listing import blocks_below, run_runs
from metarl.running.lock import held
from metarl.running.manifest import MANIFEST, SweepRun, record_sweep
from metarl.running.parsing import command_line
from metarl.running.run import Run
from metarl.running.settings import Settings, TrainConfig
from metarl.running.states import FAILURE, last_lines, state_of
from metarl.running.train import train

FIRST_EDITION = Path(__file__).parent / "first_edition" / "rl2"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("listed") / "run"
    options = {"env": "bandit/n3-k2", "iterations": 3, "evaluation_tasks": 3, "run_dir": folder}
    options |= {"validation_tasks": 2, "validation_interval": 2, "check": False, "seed": 7}
    agent = with_options(RL2Config(), tasks_per_update=4, hidden_size=6, num_minibatches=2)
    return train(Settings("rl2", agent, with_options(TrainConfig(), **options))).directory


@pytest.fixture
def runs(trained, tmp_path, monkeypatch):
    """The folder ``runs`` with a finished run in it, which tests change."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "runs/env/rl2/first")
    return Path("runs/env/rl2/first")


def logged(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def cut_off(run, iteration=2):
    """Make of a finished run one that was killed after an iteration."""
    shutil.rmtree(run / "evaluation")
    for folder in (run / "checkpoints").iterdir():
        if int(folder.name) > iteration:
            shutil.rmtree(folder)


def test_a_finished_run_has_its_last_figures_and_no_command(runs):
    state = state_of(runs)
    assert (state.state, state.iteration, state.iterations, state.command) == ("finished", 3, 3, "")
    assert (state.agent, state.env, state.seed) == ("rl2", "bandit/n3-k2", 7)
    last = logged(runs)[-1]
    assert state.validation == last["validation/return_after"]
    assert state.after == last["train/return_after"]
    assert 0 <= state.age_seconds < 3600


def test_the_last_validation_may_be_far_back(runs):
    file = runs / "metrics.jsonl"
    lines = logged(runs)
    wanted = lines[-1]["validation/return_after"]
    plain = json.dumps({"iteration": 9, "train/return_after": 5.0, "x": "y" * 100})
    with file.open("a") as out:
        out.write("\n".join([plain] * 3000) + '\n{"iteration": 10, "train/ret')
    state = state_of(runs)
    assert (state.validation, state.after) == (wanted, 5.0)


@pytest.mark.parametrize("size", [1, 2, 7, 100])
@pytest.mark.parametrize("text", ["", "a", "a\n", "a\n\nbc\ndef", "a\nbc\n", "\n"])
def test_lines_are_read_from_the_end(tmp_path, monkeypatch, size, text):
    monkeypatch.setattr("metarl.running.states._BLOCK", size)
    (tmp_path / "x").write_text(text)
    assert list(last_lines(tmp_path / "x")) == text.encode().split(b"\n")[:-1][::-1]


def test_a_run_that_was_cut_off_says_where_and_how_it_goes_on(runs, capsys):
    cut_off(runs)
    run_runs([])
    out = capsys.readouterr().out
    assert "seed 7  stopped at 2 of 3" in out
    assert command_line("train", "--resume", str(runs)) in out
    assert out.endswith("1 run: 1 stopped\n")


@pytest.mark.parametrize(
    ("change", "state", "said"),
    [
        (lambda run: shutil.rmtree(run / "checkpoints"), "waiting", ""),
        (lambda run: shutil.rmtree(run / "evaluation"), "stopped", "at 3 of 3, not evaluated"),
        (lambda run: (run / "evaluation/test-untrained.json").unlink(), "stopped", "not evaluated"),
        (lambda run: (run / "config.json").unlink(), "damaged", "has no config.json"),
        (lambda run: (run / "config.json").write_text('{"for'), "damaged", "cannot be read"),
        (lambda run: (run / "config.json").write_text("{}"), "damaged", "'train_config'"),
        (lambda run: (run / "metrics.jsonl").write_text("x\n"), "damaged", "Expecting value"),
        (lambda run: (run / "evaluation/test.json").write_text("["), "damaged", "cannot be read"),
    ],
)
def test_the_state_is_that_of_the_files_and_other_runs_are_shown(runs, capsys, change, state, said):
    shutil.copytree(runs, "runs/other")
    change(runs)
    run_runs([])
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if str(runs) in line)
    assert state in line and said in out
    assert "runs/other" in out and out.endswith(f"2 runs: 1 {state}, 1 finished\n")


def test_a_run_that_lives_and_one_that_failed(runs, capsys):
    cut_off(runs)
    write_json(runs / FAILURE, {"error": "EnvError: environment failed\nin worker 1"})
    with held(runs):
        assert state_of(runs).state == "running"
        assert state_of(runs).command == ""
    run_runs([])
    out = capsys.readouterr().out
    assert "failed at 2 of 3" in out and "EnvError: environment failed in worker 1\n" in out


def test_seeds_and_sweeps_are_blocks(runs, capsys):
    content = json.loads((runs / "config.json").read_text())
    shutil.move(runs, "runs/seeds/0")
    shutil.copytree("runs/seeds/0", "runs/seeds/1")
    cut_off(Path("runs/seeds/1"))
    write_json(Path("runs/seeds/config.json"), {**content, "seeds": [0, 1, 2]})
    folder = Path("runs/sweep")
    shutil.copytree("runs/seeds/0", folder / "a" / "0")
    planned = [SweepRun(f"size={x}", folder / x / "0", 0) for x in "ab"]
    record_sweep(folder, planned, "metarl sweep x.toml")
    shutil.rmtree("runs/env")
    run_runs(["runs"])
    out = capsys.readouterr().out.splitlines()
    first = out.index("runs/seeds: seeds, 1 of 3 runs finished")
    assert "finished, 3 iterations" in out[first + 1] and "stopped at 2 of 3" in out[first + 2]
    assert "damaged" in out[first + 3] and "runs/seeds/2: is missing" in out[first + 4]
    assert out[first + 5].strip() == command_line("train", "--resume", "runs/seeds")
    second = out.index("runs/sweep: sweep, 1 of 2 runs finished")
    assert "a/0" in out[second + 1] and "waiting" in out[second + 2]
    assert out[second + 3].strip() == "metarl sweep x.toml"
    (folder / MANIFEST).write_text("{")
    run_runs(["runs/sweep", "runs/seeds"])
    out = capsys.readouterr().out
    assert "damaged: runs/sweep/sweep.json: cannot be read" in out and "runs/seeds: seeds" in out


def test_everything_is_there_for_machines(runs, capsys):
    shutil.copytree(runs, "runs/cut")
    cut_off(Path("runs/cut"))
    run_runs(["--json"])
    cut, first = json.loads(capsys.readouterr().out)
    assert (cut["directory"], cut["state"], cut["iteration"]) == ("runs/cut", "stopped", 2)
    assert cut["command"].endswith("train --resume runs/cut")
    assert (first["state"], first["kind"], first["group"]) == ("finished", "run", None)


def test_modules_of_the_user_s_are_named_in_the_command(runs):
    cut_off(runs)
    content = json.loads((runs / "config.json").read_text())
    content["agent"] = "mine:Agent"
    content["train_config"] |= {"env": "rooms:tasks", "callback": "mine:stop"}
    write_json(runs / "config.json", content)
    words = ["mine:Agent", "--resume", str(runs), "--env", "rooms:tasks", "--callback", "mine:stop"]
    assert state_of(runs).command == command_line("train", *words)
    assert Run.open(runs).resume_command() == state_of(runs).command


def test_runs_of_the_first_edition_are_listed():
    state = state_of(FIRST_EDITION)
    assert (state.agent, state.state) == ("rl2", "finished")
    assert state.validation is not None


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"FOLDER: got .*none'; accepted: a folder"):
        run_runs([str(tmp_path / "none")])


def test_two_hundred_runs_are_listed_without_torch(runs):
    for number in range(200):
        folder = Path(f"runs/many/{number}")
        for part in ("checkpoints/0000003", "evaluation"):
            (folder / part).mkdir(parents=True)
        for name in ("config.json", "metrics.jsonl", "evaluation/test.json"):
            os.link(runs / name, folder / name)
        os.link(runs / "evaluation/test-untrained.json", folder / "evaluation/test-untrained.json")
    assert len(list(blocks_below(Path("runs")))) == 201
    code = (
        "import sys; from metarl.__main__ import run; run(['runs', 'runs/many/0']); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("1 run: 1 finished\nFalse\n"), done.stderr


def test_a_folder_that_vanishes_meanwhile_is_left_out(tmp_path):
    """A run that fails at once is removed while others are listed."""
    assert list(blocks_below(tmp_path / "gone")) == []

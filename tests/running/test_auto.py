"""One command for a run's first start and all others: does it start, go on or leave it?"""

import errno
import json
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from metarl.errors import UserError
from metarl.files import write_json
from metarl.running import auto, lock
from metarl.running.auto import run_train, without_auto, without_option
from metarl.running.lock import LOCK, held, is_held
from metarl.running.run import Run
from metarl.running.train import FAILURE

SMALL = [
    *("--env", "bandit/n3-k2", "--tasks-per-update", "4", "--hidden-size", "6"),
    *("--num-minibatches", "2", "--evaluation-tasks", "5", "--validation-tasks", "2"),
    *("--no-check", "--resume", "auto"),
]


@pytest.fixture(scope="module", autouse=True)
def impatience(quick_children):
    """Wait hardly for a lock that another process holds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lock, "PATIENCE", 0.2)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that is finished, and the words that made it."""
    folder = tmp_path_factory.mktemp("auto") / "run"
    words = ["rl2", *SMALL, "--iterations", "2", "--run-dir", str(folder)]
    run_train(words)
    return folder, words


def files_of(folder):
    return {p: p.stat().st_mtime_ns for p in Path(folder).rglob("*")}


def test_the_same_command_leaves_a_finished_run_as_it_is(finished, capsys):
    folder, words = finished
    before = files_of(folder)
    run_train(words)
    assert capsys.readouterr().out == f"{folder}: finished, 2 iterations\n"
    assert files_of(folder) == before
    assert not (folder / LOCK).exists()


def test_more_iterations_and_a_missing_evaluation_are_made_up_for(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    shutil.rmtree(folder / "evaluation")
    words = [*finished[1][:-1], str(folder)]
    run_train(words)
    assert Run.open(folder).evaluated(2)
    run_train([*words, "--iterations=3"])
    assert Run.open(folder).checkpoints.iterations()[-1] == 3
    assert Run.open(folder).evaluated(3)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--hidden-size 8", "--hidden-size: got 8; accepted: 6 with --resume"),
        ("--seed 1", "--seed: got 1; accepted: 0 with --resume"),
        ("--preset rl2-bandit-n100-k10", "--env: got 'bandit/n100-k10'|--tasks-per-update: got"),
        ("--seeds 1 2", "--seeds: got .1, 2.; accepted: no seeds, since .* holds one run"),
        ("--print-config", "no --print-config beside it"),
        ("--iterations 1", "--iterations: got 1; accepted: at least 2"),
    ],
)
def test_what_contradicts_the_run_is_refused(finished, more, said):
    folder, words = finished
    typed = words if "--preset" not in more else ["--resume", "auto", "--run-dir", str(folder)]
    before = files_of(folder)
    with pytest.raises(UserError, match=said) as error:
        run_train([*typed, *more.split()])
    assert "\n" not in str(error.value)
    assert files_of(folder) == before


def test_a_folder_must_be_named():
    with pytest.raises(UserError, match="--resume: got 'auto'; accepted: --run-dir FOLDER beside"):
        run_train(SMALL)


def test_an_impossible_command_leaves_no_folder(tmp_path):
    with pytest.raises(UserError, match="--hidden-size: got 0"):
        run_train([*SMALL, "--run-dir", str(tmp_path / "deep" / "run"), "--hidden-size=0"])
    with pytest.raises(UserError, match="--run-dir: got '/proc/none/run'; accepted: a writable"):
        run_train([*SMALL, "--run-dir", "/proc/none/run"])
    assert not (tmp_path / "deep").exists()


def test_settings_and_presets_may_be_beside_it(finished, tmp_path, capsys):
    """They start the run, and say the same of it when it has begun."""
    folder, own = finished[0], str(tmp_path / "own")
    words = ["--config", str(folder), "--run-dir", own, "--resume", "auto"]
    run_train(words)
    run_train(words)
    assert f"{own}: finished, 2 iterations\n" in capsys.readouterr().out
    content = json.loads((folder / "config.json").read_text())
    content["agent_config"]["core"]["hidden_size"] = 7
    write_json(tmp_path / "other.json", content)
    with pytest.raises(UserError, match=f"--hidden-size: got 7; accepted: 6, as {own} has it"):
        run_train(["--config", str(tmp_path / "other.json"), *words[2:]])


def test_settings_that_were_cut_off_do_not_block_a_start(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text('{"format": 2, "age')
    (folder / LOCK).write_text("process 1 on elsewhere")
    words = [*SMALL, "--iterations", "1", "--run-dir", str(folder)]
    run_train(words)
    assert Run.open(folder).finished()
    (folder / "config.json").write_text('{"format": 2, "age')
    with pytest.raises(UserError, match=r"config\.json: cannot be read"):
        run_train(words)
    assert (folder / "checkpoints").exists()


def test_several_seeds_start_whatever_was_left_and_go_on_and_finish(tmp_path, capsys):
    folder = tmp_path / "group"
    words = [*SMALL, "--iterations", "1", "--run-dir", str(folder), "--seeds", "0", "1"]
    (folder / "0").mkdir(parents=True)  # Killed as the folders of the runs were made.
    write_json(folder / "0" / "config.json", {"format": 2})
    run_train(words)
    before = {p: t for p, t in files_of(folder).items() if p.is_file()}
    capsys.readouterr()
    run_train(words)
    assert capsys.readouterr().out == f"{folder}: finished, seeds 0, 1\n"
    shutil.rmtree(folder / "1" / "evaluation")
    run_train(words)
    assert Run.open(folder / "1").finished()
    (folder / "2").mkdir()  # Killed as a seed was added.
    write_json(folder / "2" / "config.json", {"format": 2})
    run_train([*words, "2"])
    assert json.loads((folder / "evaluation" / "test.json").read_text())["seed"] == [0, 1, 2]
    after = files_of(folder)
    kept = [p for p in before if p.parent.name.isdigit() and "checkpoints" in p.parts]
    assert kept and all(after[p] == before[p] for p in kept)
    with pytest.raises(UserError, match="--seeds beside it, since the folder holds the runs of se"):
        run_train([*SMALL, "--run-dir", str(folder)])
    with pytest.raises(UserError, match="--hidden-size: got 9"):
        run_train([*words, "--hidden-size=9"])


def test_words_are_taken_out_of_a_command():
    assert without_auto(["rl2", "--resume", "auto", "--seed", "1"]) == ["rl2", "--seed", "1"]
    assert without_auto(["--resume=auto"]) == []
    assert without_auto(["--resume", "./auto"]) is None
    words = ["--run_dir=a", "--seed", "1", "--run-dir", "b"]
    assert without_option(words, "--run-dir") == ["--seed", "1"]


PYTHON = sys.executable  # A quick one is not dead at once when it is killed, but its fork is later.
HOLD = """
import sys
from pathlib import Path
from metarl.running.lock import held

with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(finished):
    """A process that holds the lock of the finished run."""
    process = subprocess.Popen(
        [PYTHON, "-c", HOLD, str(finished[0])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("resume", ["auto", "itself"])
def test_a_second_process_is_refused_until_the_first_is_gone(finished, holder, resume):
    """The lock of a process that was killed is gone with it, though its file stays."""
    folder, words = finished
    again = words if resume == "auto" else ["--resume", str(folder)]
    assert is_held(folder)
    with pytest.raises(UserError, match=f"{folder}: process .* on .* writes to this folder"):
        run_train(again)
    holder.kill()
    holder.communicate()
    assert (folder / LOCK).exists() and not is_held(folder)
    run_train(again)
    assert not (folder / LOCK).exists()


def test_a_process_that_ends_soon_is_waited_for(finished, holder, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 60)
    real = lock.time.sleep
    monkeypatch.setattr(lock.time, "sleep", lambda s: (holder.send_signal(signal.SIGKILL), real(s)))
    run_train(finished[1])


def test_a_lock_is_taken_again_by_its_process_and_leaves_nothing(tmp_path):
    folder = tmp_path / "deep" / "run"
    with held(folder):
        with held(folder):
            assert is_held(folder)
        assert is_held(folder)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_whose_file_is_gone_takes_no_other_away(tmp_path):
    """A run that fails at once removes its folder, and another process may begin there."""
    with held(tmp_path):
        (tmp_path / LOCK).unlink()
        (tmp_path / LOCK).write_text("another")
    assert (tmp_path / LOCK).read_text() == "another"


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="cannot be locked .No locks available."), held(tmp_path):
        assert not is_held(tmp_path)


def test_no_warning_where_there_are_locks(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with held(tmp_path):
            pass


def test_the_error_that_ends_a_run_is_written_down_until_it_goes_on(
    finished, tmp_path, monkeypatch
):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    words = [*finished[1][:-1], str(folder), "--iterations=3"]
    agent = auto.registry.agent_class("rl2")

    def fail(*_):
        raise RuntimeError("broken")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="broken"):
        patch.setattr(agent, "update", fail)
        run_train(words)
    said = json.loads((folder / FAILURE).read_text())
    assert said == {"error": "RuntimeError: broken"}
    run_train(words)
    assert not (folder / FAILURE).exists()

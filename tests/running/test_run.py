"""The run directory: does it record what was done, and is nothing else mistaken for one?"""

import dataclasses
import errno
import json
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import metarl
from metarl import registry
from metarl.agents.rl2 import RL2Config
from metarl.envs.bandit import BernoulliBandit
from metarl.errors import EnvError, UserError
from metarl.files import create_json, remove_leftovers, write_whole
from metarl.options import with_options
from metarl.running.api import evaluate
from metarl.running.folders import NewFolder, default_directory, refuse_used
from metarl.running.metrics import read_metrics
from metarl.running.plot import plot
from metarl.running.run import Run
from metarl.running.settings import Settings, TrainConfig
from metarl.running.train import train
from metarl.stepping.workers import usable_cores

AGENT = with_options(
    RL2Config(), tasks_per_update=4, hidden_size=6, num_minibatches=2, encoder_sizes=(5,)
)


def tiny(directory, **changes):
    values = {"env": "bandit/n3-k2", "iterations": 2, "evaluation_tasks": 3, "validation_tasks": 2}
    return with_options(TrainConfig(), **{**values, "run_dir": directory, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(Settings("rl2", AGENT, tiny(tmp_path_factory.mktemp("runs") / "trained")))


@pytest.fixture
def run(trained, tmp_path):
    """A copy to spoil."""
    shutil.copytree(trained.directory, tmp_path / "run")
    return Run.open(tmp_path / "run")


def edit(run, change):
    path = run.directory / "config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return run.directory


# what a run holds


def test_directory_holds_what_the_design_names(trained):
    files = {str(p.relative_to(trained.directory)) for p in trained.directory.rglob("*")}
    assert {"config.json", "metrics.jsonl", "tensorboard", "checkpoints/0000002"} <= files
    for name in ("test.json", "test.npz", "test.png", "test-untrained.json"):
        assert f"evaluation/{name}" in files
    assert not [name for name in files if "partial" in name]


def test_config_says_what_was_run_and_on_what(trained):
    content = json.loads((trained.directory / "config.json").read_text())
    assert content["format"] == 2
    assert content["agent"] == "rl2"
    assert content["agent_config"]["core"]["hidden_size"] == 6
    assert content["train_config"]["schedule_iterations"] == 2  # resolved: resume needs it
    assert content["train_config"]["env"] == "bandit/n3-k2"
    assert content["train_config"]["iterations"] == 2
    assert content["packages"]["torch"] == torch.__version__
    assert content["python"] == ".".join(map(str, sys.version_info[:3]))
    assert content["device"] == f"cpu ({platform.machine()}, {len(usable_cores())} cores)"
    assert {"commit", "command"} <= content.keys()
    assert content["spec"]["action"] == {"type": "Discrete", "n": 2, "start": 0}


def test_env_steps_are_written_as_iterations(tmp_path):
    config = tiny(tmp_path / "run", iterations=None, env_steps=13)
    run = train(Settings("rl2", AGENT, config))
    assert run.train_config.iterations == 2  # 4 tasks x 3 pulls an iteration
    assert run.checkpoints.load().env_steps == 24


def test_opened_run_has_the_configs_it_was_made_with(trained):
    opened = Run.open(trained.directory)
    assert opened.settings.agent_config == AGENT  # lists of JSON are tuples again
    asked = tiny(trained.directory)
    resolved = with_options(asked, schedule_iterations=2, validation_interval=1)
    assert opened.train_config == resolved


def test_default_directory_has_a_tame_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tasks = metarl.make("half-cheetah/velocity:high=2.0")
    config = tiny(None, env="half-cheetah/Velocity:high=2.0,low=-1", seed=7)
    first = Run.create(Settings("rl2", AGENT, config), tasks).directory
    second = Run.create(Settings("rl2", AGENT, config), tasks).directory
    assert first != second
    assert first.parts[:3] == ("runs", "half-cheetah-velocity-high-2.0-low--1", "rl2")
    assert first.name.startswith("7-")


@pytest.mark.parametrize("content", ["file", "folder"])
def test_what_is_in_the_way_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "mine"
    if content == "file":
        path.write_text("precious")
    else:
        path.mkdir()
        (path / "notes.txt").write_text("precious")
    with pytest.raises(UserError, match=r"--run-dir: got .*mine.*; accepted: .*empty"):
        train(Settings("rl2", AGENT, tiny(path)))
    kept = path if content == "file" else path / "notes.txt"
    assert kept.read_text() == "precious"
    assert len(list(tmp_path.rglob("*"))) == (1 if content == "file" else 2)


def test_an_empty_directory_is_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    made = Run.create(Settings("rl2", AGENT, tiny(tmp_path / "empty")), metarl.make("bandit/n3-k2"))
    assert Run.open(made.directory).settings.agent_config == AGENT


# what is no run


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a run directory"):
        Run.open(tmp_path)
    with pytest.raises(UserError, match="not a run directory"):
        metarl.load(tmp_path / "absent")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": 2}', '"text"'])
def test_a_config_of_another_format_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        Run.open(tmp_path)


@pytest.mark.parametrize("section", ["agent_config", "train_config"])
def test_an_unknown_key_lists_near_matches(run, section):
    known = {"agent_config": "chunk_length", "train_config": "iterations"}[section]
    edit(run, lambda c: c[section].update({known + "s": 1}))
    opened = Run.open(run.directory)
    with pytest.raises(UserError, match=f"no '{known}s'; did you mean {known}"):
        _ = opened.settings


def test_a_checkpoint_of_another_shape_is_refused(run):
    edit(run, lambda c: c["agent_config"]["core"].update(hidden_size=7))
    with pytest.raises(UserError, match="does not fit rl2"):
        metarl.load(run.directory)


def test_an_unknown_agent_is_refused(run):
    edit(run, lambda c: c.update(agent="rl3"))
    with pytest.raises(UserError, match="unknown agent 'rl3'; did you mean rl2"):
        metarl.load(run.directory)


def test_an_absent_device_is_refused(tmp_path):
    with pytest.raises(UserError, match="--device: got 'tpu'; accepted: cpu"):
        train(Settings("rl2", AGENT, tiny(tmp_path / "run", device="tpu")))
    assert not (tmp_path / "run").exists()


# loading


def test_agent_is_rebuilt_without_its_environment(trained, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("an environment was made")

    monkeypatch.setattr(registry, "make", refuse)
    agent = metarl.load(trained.directory)
    saved = trained.checkpoints.load().tensors
    assert all(saved[name].equal(x) for name, x in agent.state()[0].items())
    assert agent.config == AGENT


def test_best_and_final_are_what_they_are_called(trained):
    scores = {
        line["iteration"]: line.get("validation/return_after", -np.inf)
        for line in read_metrics(trained.directory / "metrics.jsonl")
    }
    best = trained.load_agent("best")[1]
    assert best.score == scores[best.iteration] == max(scores.values())
    assert trained.load_agent("final")[1].iteration == 2


# the security of opening what others made

EVIL = """
from pathlib import Path
from metarl.envs.bandit import BernoulliBandit
Path("imported").touch()
class Tasks(BernoulliBandit):
    def __init__(self):
        super().__init__(3, 2)
"""


@pytest.fixture
def evil(run, tmp_path, monkeypatch):
    """A run whose config names a module of the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "evil_module", raising=False)
    (tmp_path / "evil_module.py").write_text(EVIL)
    edit(run, lambda c: c["train_config"].update(env="evil_module:Tasks"))
    yield Run.open(run.directory)
    sys.modules.pop("evil_module", None)


def test_a_module_named_by_a_file_is_not_imported(evil, tmp_path):
    with pytest.raises(UserError, match="--env evil_module:Tasks"):
        evaluate(evil, evaluation_tasks=2)
    metarl.load(evil.directory)
    plot([evil.directory], "adaptation", tmp_path / "plot.png")
    assert not (tmp_path / "imported").exists()


def test_a_module_named_by_a_file_is_not_imported_on_resume(evil, tmp_path, monkeypatch):
    from metarl.running.commandline import parse_train

    with pytest.raises(UserError, match="--env evil_module:Tasks"):
        request = parse_train(["--resume", str(evil.directory), "--iterations", "3"])
        train(
            request.settings,
            resume=request.resume,
        )
    assert not (tmp_path / "imported").exists()


def test_a_module_named_on_the_command_line_is_imported(evil, tmp_path):
    from metarl.running.commandline import parse_train

    command = ["--resume", str(evil.directory), "--iterations", "3", "--env", "evil_module:Tasks"]
    request = parse_train(command)
    train(
        request.settings,
        resume=request.resume,
    )
    assert evil.checkpoints.load().iteration == 3
    assert (tmp_path / "imported").exists()


# evaluating


def test_evaluation_is_written_beside_that_of_an_untrained_agent(run):
    curve = evaluate(run, evaluation_tasks=5, split="train", seed=3, greedy=True, checkpoint="best")
    folder = run.directory / "evaluation"
    name = "train-tasks-5-seed-3-greedy-best"
    trained = json.loads((folder / f"{name}.json").read_text())
    untrained = json.loads((folder / f"{name}-untrained.json").read_text())
    assert trained["return"]["mean"] == pytest.approx(curve.returns.mean(1).tolist())
    for key, value in {"split": "train", "seed": 3, "actions": "greedy", "agent": "rl2"}.items():
        assert trained[key] == untrained[key] == value
    assert (trained["checkpoint"], trained["num_tasks"]) == ("best", 5)
    assert (untrained["iteration"], untrained["env_steps"]) == (0, 0)
    assert trained["env_steps"] == 12 * trained["iteration"]
    with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
        assert arrays["return"].shape == (3, 5)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({"evaluation_tasks": 2}, "test-tasks-2"),
        ({"episodes_per_trial": 2}, "test-episodes-2"),
        ({"env": "bandit/n6-k2"}, "test-bandit-n6-k2"),
        ({"score": "greedy-copy", "seed": 2}, "test-seed-2-greedy-copy"),
        ({"checkpoint": "best"}, "test-best"),
        ({"split": "validation"}, "validation"),
    ],
)
def test_another_evaluation_never_replaces_the_run_s_own(run, asked, name):
    folder = run.directory / "evaluation"
    own = {file: file.read_bytes() for file in folder.iterdir()}
    evaluate(run, **asked)
    new = {file for file in folder.iterdir() if file not in own}
    kinds = (".json", ".npz", ".png", "-untrained.json", "-untrained.npz")
    assert new == {folder / f"{name}{kind}" for kind in kinds}
    assert all(file.read_bytes() == content for file, content in own.items())


def test_the_run_s_own_evaluation_again_replaces_itself(run):
    folder = run.directory / "evaluation"
    files = set(folder.iterdir())
    (folder / "test.json").write_text("{}")
    curve = evaluate(run, episodes_per_trial=3)  # as many as it has anyway
    assert set(folder.iterdir()) == files
    written = json.loads((folder / "test.json").read_text())
    assert written["return"]["mean"] == pytest.approx(curve.returns.mean(1).tolist())


def test_an_evaluation_goes_where_it_is_told_to(run, tmp_path):
    evaluate(run, output=tmp_path / "deep" / "folder")
    assert (tmp_path / "deep" / "folder" / "test.json").is_file()


def test_the_table_is_printed_even_if_no_file_can_be_written(run, tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file: the evaluation cannot be written.* --output FOLDER"):
        evaluate(run, output=tmp_path / "file")
    assert "untrained," in capsys.readouterr().out


def test_training_and_evaluation_leave_torch_s_threads_as_they_were(run, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        config = with_options(run.train_config, run_dir=tmp_path / "other")
        train(dataclasses.replace(run.settings, train=config))
        assert torch.get_num_threads() == 2
        evaluate(run, evaluation_tasks=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_evaluation_on_tasks_with_other_spaces_is_refused(run):
    with pytest.raises(UserError, match="space"):
        evaluate(run, env=metarl.make("bandit/n3-k7"), evaluation_tasks=2)


def test_evaluation_on_other_tasks_with_the_same_spaces_says_which(run):
    curve = evaluate(run, env=metarl.make("bandit/n6-k2"), evaluation_tasks=2)
    assert (curve.env, curve.episodes) == ("bandit/n6-k2", (0, 1, 2, 3, 4, 5))


# going on


def test_more_iterations_on_resume_are_kept_in_the_configuration(run):
    config = with_options(run.train_config, iterations=3)
    train(dataclasses.replace(run.settings, train=config), resume=run)
    again = Run.open(run.directory)
    assert again.train_config.iterations == 3
    assert again.checkpoints.iterations()[-1] == 3


def test_a_finished_run_that_was_not_evaluated_is_evaluated_on_resume(run):
    path = run.directory / "evaluation" / "test.json"
    before = json.loads(path.read_text())
    path.unlink()
    train(run.settings, resume=run)
    after = json.loads(path.read_text())
    assert after["return"] == before["return"]
    assert run.checkpoints.iterations()[-1] == 2


# folders that several processes want


def claim(path):
    return NewFolder.claim(None, path).path


def test_folders_that_several_want_at_once_are_different_ones(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        claimed = list(pool.map(claim, [tmp_path / "deep" / "0-now"] * 16))
    assert len(set(claimed)) == 16
    assert {path.parent for path in claimed} == {tmp_path / "deep"}


def test_one_process_alone_begins_a_run_in_a_folder(tmp_path):
    def begin(seed):
        try:
            config = tiny(tmp_path / "run", seed=seed)
            return Run.create(
                Settings("rl2", AGENT, config), metarl.make(config.env)
            ).train_config.seed
        except UserError as error:
            assert "a new or empty directory" in str(error)
            return None

    with ThreadPoolExecutor(8) as pool:
        begun = [seed for seed in pool.map(begin, range(8)) if seed is not None]
    assert len(begun) == 1
    assert Run.open(tmp_path / "run").train_config.seed == begun[0]
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["config.json"]


def test_files_that_several_write_at_once_never_mix(tmp_path):
    texts = [str(i) * 200_000 for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: write_whole(tmp_path / "file", text.encode()), texts))
    assert (tmp_path / "file").read_text() in texts
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_long_name_of_tasks_makes_a_folder_all_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [f"gym/Pendulum-v1:{'g=2..20,' * 60}m=0.5..{i}" for i in (1, 2)]
    folders = [default_directory(tiny(None, env=name), "rl2", "0") for name in names]
    assert folders[0].parent != folders[1].parent
    for folder in folders:
        assert claim(folder).is_dir()


def test_a_directory_is_claimed_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.EOPNOTSUPP, "no links here")

    monkeypatch.setattr("metarl.files.os.link", refuse)
    tasks = metarl.make("bandit/n3-k2")
    Run.create(Settings("rl2", AGENT, tiny(tmp_path / "run")), tasks)
    with pytest.raises(FileExistsError):
        create_json(tmp_path / "run" / "config.json", {})
    assert Run.open(tmp_path / "run").settings.agent_config == AGENT


def test_what_a_killed_process_had_begun_to_write_is_removed_and_no_other(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for writer in (f"{dead.pid}-0123abcd.", "", f"{os.getpid()}-0123abcd."):
        (tmp_path / f".config.json.{writer}partial").touch()
    refuse_used(tmp_path)
    remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [f".config.json.{os.getpid()}-0123abcd.partial"]


# a run that never began


def broken(error):
    class Broken(BernoulliBandit):
        def make_vec(self, num_envs, **options):
            raise error

    return Broken(3, 2)


@pytest.mark.parametrize("error", [UserError("bad"), EnvError(0, 1, None, "broke")])
def test_a_run_whose_environments_cannot_be_made_leaves_nothing(tmp_path, monkeypatch, error):
    monkeypatch.setattr(registry, "make", lambda name: broken(error))
    with pytest.raises(type(error)):
        train(Settings("rl2", AGENT, tiny(tmp_path / "deep" / "run", check=False)))
    assert not (tmp_path / "deep").exists()
    monkeypatch.undo()
    train(Settings("rl2", AGENT, tiny(tmp_path / "deep" / "run")))  # the same command again


def test_a_folder_that_was_there_stays(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(registry, "make", lambda name: broken(UserError("bad")))
    with pytest.raises(UserError, match="bad"):
        train(Settings("rl2", AGENT, tiny(tmp_path / "run", check=False)))
    assert list((tmp_path / "run").iterdir()) == []


def test_a_run_that_a_signal_stops_before_it_began_can_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "make", lambda name: broken(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        train(Settings("rl2", AGENT, tiny(tmp_path / "run", check=False)))
    monkeypatch.undo()
    run = Run.open(tmp_path / "run")
    train(run.settings, resume=run)
    assert run.evaluated(run.train_config.iterations)


def test_an_agent_that_cannot_be_made_leaves_no_folder(tmp_path):
    with pytest.raises((RuntimeError, TypeError)):
        train(Settings("rl2", with_options(AGENT, hidden_size=2**62), tiny(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


class FailsToClose(BernoulliBandit):
    def make_vec(self, num_envs, **options):
        envs = super().make_vec(num_envs, **options)

        def close():
            raise RuntimeError("stuck")

        envs.close = close
        return envs


def test_vector_environments_that_fail_to_close_take_no_results_along(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "make", lambda name: FailsToClose(3, 2))
    with pytest.warns(UserWarning, match=r"close\(\) failed: RuntimeError: stuck"):
        run = train(Settings("rl2", AGENT, tiny(tmp_path / "run", check=False)))
    assert run.evaluated(run.train_config.iterations)


def test_another_number_of_evaluation_tasks_on_resume_is_evaluated(run):
    config = with_options(run.train_config, evaluation_tasks=4)
    train(dataclasses.replace(run.settings, train=config), resume=run)
    written = json.loads((run.directory / "evaluation" / "test.json").read_text())
    assert written["num_tasks"] == 4 and Run.open(run.directory).evaluated(2)


@pytest.mark.parametrize("seeds", [["../x"], [1.5], [True]])
def test_seeds_of_a_file_that_are_no_whole_numbers_are_refused(run, seeds):
    edit(run, lambda content: content.update(seeds=seeds))
    with pytest.raises(UserError, match="accepted: whole numbers"):
        Run.open(run.directory)

"""Tuning: is the search resumable and repeatable, and does it look at validation tasks only?"""

import csv
import fcntl
import json
import shutil
import sys
import types

import matplotlib.image
import pytest

from metarl.agents.rl2 import RL2Config
from metarl.errors import TuningError, UserError
from metarl.running import estimate as estimating
from metarl.running import tune as tuning
from metarl.running.commandline import parse_train
from metarl.running.estimate import Estimate, Pace
from metarl.running.metrics import read_metrics
from metarl.running.run import Run
from metarl.running.train import train
from metarl.running.tune import TuneConfig, run_tune, tune
from metarl.running.tune_report import TrialRecord, best_of
from metarl.running.tune_study import Study
from metarl.running.tune_trial import train_trial
from metarl.search import Tuned, TunedAmong

SMALL = ["--env", "bandit/n2-k2", "--iterations", "2", "--tasks-per-update", "4"]
SMALL += ["--num-workers", "0", "--validation-tasks", "40"]
SMALL += ["--num-minibatches", "1", "--hidden-size", "4", "--num-epochs", "1"]
SEARCH = ["--search", "learning-rate", "core=gru,fast-weights"]


pytestmark = pytest.mark.usefixtures("quick_children")


def search(folder, *words, trials=3):
    own = ["--trials", str(trials), *SEARCH]
    run_tune(["rl2", *own, *words, *SMALL, "--run-dir", str(folder)])


def rows(folder):
    """Return the trials of a search, without the time they took."""
    with (folder / "trials.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def found(tmp_path_factory, quick_children):
    folder = tmp_path_factory.mktemp("tune") / "search"
    search(folder)
    return folder


def test_best_json_trains_with_the_settings_of_the_trial_that_scored_most(found, tmp_path):
    trials = rows(found)
    assert [row["state"] for row in trials] == ["complete"] * 3
    scores = [float(row["score"]) for row in trials]
    number = scores.index(max(scores))
    content = json.loads((found / "best.json").read_text())
    assert content["tuned"]["trial"] == number and content["tuned"]["score"] == max(scores)
    words = ["--config", str(found / "best.json"), "--run-dir", str(tmp_path / "run")]
    settings = parse_train([*words, "--evaluation-tasks", "4", "--no-check"]).settings
    assert str(settings.agent_config.ppo.learning_rate) == trials[number]["learning_rate"]
    assert settings.agent_config.core.kind == trials[number]["core"]
    assert settings.train.run.wandb_group is None
    run = train(settings)
    trial = found / "trials" / f"{number:04d}" / "metrics.jsonl"
    again = read_metrics(run.directory / "metrics.jsonl")[-1]
    assert again["validation/return_after"] == max(scores)
    assert again["update/value_loss"] == read_metrics(trial)[-1]["update/value_loss"]


def test_no_trial_looks_at_test_tasks(found):
    folders = [path for path in (found / "trials").iterdir() if path.is_dir()]
    assert len(folders) == 3
    for folder in folders:
        assert not (folder / "evaluation").exists()
        lines = read_metrics(folder / "metrics.jsonl")
        assert not [name for line in lines for name in line if name.startswith("test")]
        assert [("validation/return_after" in line) for line in lines] == [True, True]


def test_a_search_leaves_a_picture_and_every_trial_s_output(found):
    picture = matplotlib.image.imread(found / "tuning.png")
    assert min(picture.shape[:2]) > 100 and picture[..., :3].std() > 0.05
    assert "training 2/2" in (found / "trials" / "0000.txt").read_text()


def test_the_same_command_gives_the_same_trials(found, tmp_path):
    search(tmp_path / "again")
    assert rows(tmp_path / "again") == rows(found)
    shown = (tmp_path / "again" / "trials" / "0002" / "config.json").read_text()
    assert json.loads(shown)["train_config"]["evaluation"]["validation_interval"] == 1


def test_trials_at_once_are_the_same_as_one_after_the_other(found, tmp_path):
    """The first ten settings are random, so that they do not depend on what has ended before."""
    search(tmp_path / "two", "--jobs", "2")
    assert rows(tmp_path / "two") == rows(found)


def test_a_search_that_was_killed_goes_on_with_the_trial_that_was_running(
    found, tmp_path, monkeypatch, capsys
):
    started, start, follow = [], tuning._start, tuning._follow

    def starting(asked, *rest):
        started.append(asked.number)
        return start(asked, *rest)

    def following(study, asked, process):
        if asked.number == 1:
            raise KeyboardInterrupt
        return follow(study, asked, process)

    monkeypatch.setattr(tuning, "_start", starting)
    folder = tmp_path / "killed"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tuning, "_follow", following)
        search(folder)
    assert f"--run-dir {folder}" in capsys.readouterr().err.partition("go on with: ")[2]
    assert not (folder / "best.json").exists()
    (folder / "journal.log.lock").touch()  # A process that was killed while writing leaves it.
    search(folder)
    assert started == [0, 1, 1, 2]
    assert rows(folder) == rows(found)


def test_more_trials_are_added_to_a_finished_search(found, tmp_path):
    folder = tmp_path / "longer"
    shutil.copytree(found, folder)
    search(folder, trials=4)
    assert rows(folder)[:3] == rows(found) and len(rows(folder)) == 4
    before = (folder / "trials" / "0000.txt").stat().st_mtime
    search(folder, trials=4)  # Nothing is left to run.
    assert len(rows(folder)) == 4
    assert (folder / "trials" / "0000.txt").stat().st_mtime == before


OWN_AGENT = """
from dataclasses import dataclass
from typing import Annotated
from agent_template import Reinforce, ReinforceConfig
from metarl.errors import DivergenceError
from metarl.search import Tuned

@dataclass(frozen=True)
class Config(ReinforceConfig):
    steps: Annotated[int, Tuned(1, 100)] = 1
    '''Number of steps.'''

class Mine(Reinforce):
    Config = Config

    def update(self, trial, generator, progress):
        if self.config.steps > 50:
            raise DivergenceError("the loss")
        return super().update(trial, generator, progress)
"""


def test_an_own_agent_s_range_is_searched_and_trials_that_diverge_have_failed(
    write_module, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(sys.path)}")
    write_module("mine", OWN_AGENT)
    small = SMALL[:8]
    run_tune(["mine:Mine", "--trials", "3", *small, "--run-dir", "search"])
    trials = rows(tmp_path / "search")
    assert {row["state"] for row in trials} == {"complete", "failed"}
    for row in trials:
        assert (row["state"] == "failed") == (int(row["steps"]) > 50)
        assert (row["error"] == "diverged: the loss is not finite") == (int(row["steps"]) > 50)
    with pytest.raises(TuningError, match="no trial was completed; diverged: the loss"):
        words = ["--search", "steps=60..70", "--run-dir", "none", "--trials", "1"]
        run_tune(["mine:Mine", *words, *small])


def test_values_that_do_not_go_together_are_a_failed_trial(tmp_path):
    """Each is accepted with the other option's own value, but not always both together."""
    words = ["--search", "num-minibatches=4,9", "tasks-per-update=8,20", "--trials", "4"]
    small = [*SMALL[:2], "--iterations", "1", *SMALL[6:10], "--hidden-size", "4"]
    run_tune(["rl2", *words, *small, "--run-dir", str(tmp_path / "search")])
    trials = rows(tmp_path / "search")
    for row in trials:
        together = int(row["num_minibatches"]) <= int(row["tasks_per_update"])
        assert row["state"] == ("complete" if together else "failed")
    refused = [row["error"] for row in trials if row["state"] == "failed"]
    assert refused and all("1 to tasks-per-update (8)" in error for error in refused)


# the study


def study_of(folder, prune=True, kind=None, **space):
    folder.mkdir(exist_ok=True)
    space = space or {"learning_rate": Tuned(1e-4, 1e-2, log=True)}
    return Study(folder, space, kind or RL2Config, 0, prune)


def run_with(study, scores):
    """Run a trial with the scores; return the number of the one after which it was pruned."""
    asked = study.ask()
    for number, score in enumerate(scores, 1):
        if asked.report(score):
            study.finish(asked, 1.0, pruned=True)
            return number
    study.finish(asked, 1.0)
    return None


@pytest.mark.parametrize(("prune", "expected"), [(True, 3), (False, None)])
def test_a_trial_below_the_median_is_pruned_after_the_warm_up(tmp_path, prune, expected):
    study = study_of(tmp_path / "study", prune)
    for score in (1.0, 1.1, 1.2, 1.3, 1.4):
        assert run_with(study, [score] * 6) is None
    assert run_with(study, [0.5] * 6) == expected
    assert run_with(study, [1.5] * 6) is None
    states = [record.state for record in study.records()]
    assert states == ["complete"] * 5 + ["pruned" if prune else "complete", "complete"]
    assert best_of(study.records()).number == 6


def test_a_pruned_trial_s_process_is_stopped_unless_it_has_just_ended(tmp_path):
    class Process:
        seconds, ended, stopped = 1.0, False, False

        def __init__(self, *scores):
            self.new = list(scores)

        def scores(self):
            return self.new

        def stop(self):
            self.stopped = True

        def wait(self):
            pass

        def failure(self):
            return None

    study = study_of(tmp_path / "study")
    for _ in range(5):
        run_with(study, [1.0] * 6)
    process = Process(*((0.1, False) for _ in range(9)))
    assert tuning._follow(study, study.ask(), process) and process.stopped
    assert study.records()[-1].state == "pruned" and study.records()[-1].score == 0.1
    process = Process(*((0.1, number == 2) for number in range(3)))
    process.ended = True
    assert tuning._follow(study, study.ask(), process) and not process.stopped
    assert study.records()[-1].state == "complete"


def test_values_are_within_their_ranges_and_of_the_option_s_type(tmp_path):
    space = {
        "learning_rate": Tuned(1e-4, 1e-2, log=True),
        "clip": Tuned(0, 1),
        "num_epochs": Tuned(1, 3),
        "target_kl": TunedAmong(None, 0.1),
        "encoder_sizes": TunedAmong((4,), (8, 8)),
    }
    study = study_of(tmp_path / "study", **space)
    tried = []
    for number in range(12):
        asked = study.ask()
        tried.append(asked.values)
        asked.report(float(number))
        study.finish(asked, 1.0)
    assert {type(values["clip"]) for values in tried} == {float}
    assert {values["num_epochs"] for values in tried} == {1, 2, 3}
    assert {values["target_kl"] for values in tried} == {None, 0.1}
    assert {values["encoder_sizes"] for values in tried} == {(4,), (8, 8)}
    assert all(1e-4 <= values["learning_rate"] <= 1e-2 for values in tried)
    assert sum(values["learning_rate"] < 1e-3 for values in tried) > 2  # equal factors
    assert [dict(record.values) for record in study.records()] == tried
    importances = study.importances()
    assert set(importances) == set(space) and sum(importances.values()) == pytest.approx(1)


def test_a_trial_without_a_validation_has_failed(tmp_path):
    study = study_of(tmp_path / "study")
    study.finish(study.ask(), 1.0)
    [record] = study.records()
    assert (record.state, record.score) == ("failed", None)
    assert "before its first validation" in record.error and study.importances() == {}


def test_the_best_trial_is_a_complete_one():
    kinds = [("complete", 1.0), ("pruned", 3.0), ("complete", 2.0), ("failed", None)]
    records = [TrialRecord(i, state, score, {}, 1.0) for i, (state, score) in enumerate(kinds)]
    assert best_of(records).number == 2 and best_of(records[3:]) is None


# the time of a trial


def test_as_many_updates_as_fit_into_the_time_beside_the_validations():
    assert Pace(0.5, validation=1.0).plan(60.0) == {"iterations": 100, "validation_interval": 10}
    assert Pace(0.5, validation=4.0).plan(60.0) == {"iterations": 96, "validation_interval": 32}
    assert Pace(0.5, validation=0.0).plan(60.0)["iterations"] == 120
    assert Pace(99.0, validation=1.0).plan(60.0) == {"iterations": 1, "validation_interval": 1}


def test_the_minutes_of_a_trial_decide_its_updates_before_it_begins(tmp_path, monkeypatch):
    steps = 40 * 10 * 1  # of a validation, which then takes 0.1 s
    measured = Estimate(4, 10, 1, 1.0, 1.0, 2**20, step=0.1 / steps)
    monkeypatch.setattr(estimating, "measure_iteration", lambda *_: measured)
    settings = parse_train(["rl2", "--env", "bandit/n10-k2", *SMALL[4:]]).settings
    settings = settings.with_train(run_dir=tmp_path / "run", minutes=0.5)
    run = train_trial(settings)
    config = Run.open(run.directory).train_config
    assert 20 < config.iterations <= 29 and config.schedule_iterations == config.iterations
    assert config.evaluation.validation_interval == 3
    assert read_metrics(run.directory / "metrics.jsonl")[-1]["iteration"] == config.iterations


def test_the_time_ends_a_trial_that_has_become_slower(tmp_path, monkeypatch):
    measured = Estimate(4, 2, 1, 2**-12, 2**-12, 2**20)
    monkeypatch.setattr(estimating, "measure_iteration", lambda *_: measured)
    settings = parse_train(["rl2", *SMALL[:2], *SMALL[4:]]).settings
    run = train_trial(settings.with_train(run_dir=tmp_path / "run", minutes=0.005))
    config = Run.open(run.directory).train_config
    assert config.schedule_iterations == 1228 > config.iterations
    last = read_metrics(run.directory / "metrics.jsonl")[-1]
    assert last["iteration"] == config.iterations and "validation/return_after" in last


# errors

BAD = [
    ("rl2 --search learning-rat", "--search: rl2 has no option 'learning-rat'", "did you mean"),
    ("rl2 --search discount", "--search: got 'discount'", "discount=LOW..HIGH"),
    ("rl2 --search discount=0.5..2", "--search: got 'discount=0.5..2'", "0 to 1"),
    ("random", "agent: unknown agent 'random'", "rl2"),
    ("rl2 --trials 0", "--trials: got 0", "at least 1"),
    ("rl2 --jobs 0", "--jobs: got 0", "at least 1"),
    ("rl2 --minutes 0", "--minutes: got 0.0", "above 0"),
    ("rl2 --minutes 1 --iterations 2", "--minutes: got --iterations beside it", "one of"),
    ("rl2 --minutes 1 --env-steps 2", "--minutes: got --env-steps beside it", "one of"),
    ("rl2 --resume x", "--resume: got", "--run-dir goes on"),
    ("rl2 --seeds 0 1", "--seeds: got", "no --seeds"),
    ("rl2 --env bandt/n2-k2", "--env", "did you mean"),
    ("nobody", "agent: unknown agent 'nobody'", "rl2"),
    ("rl2 --run-dir full", "--run-dir: got 'full'", "empty"),
]


@pytest.mark.parametrize(("words", "said", "accepted"), BAD, ids=[words for words, *_ in BAD])
def test_bad_input_is_refused_in_one_line_before_any_trial(
    tmp_path, monkeypatch, words, said, accepted
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError) as error:
        run_tune(words.split())
    assert str(error.value).startswith(said) and accepted in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_a_folder_goes_on_only_with_the_same_search(found):
    with pytest.raises(UserError, match=r"--clip: got 0.3; accepted: 0.2, as in "):
        search(found, "--clip", "0.3")
    with pytest.raises(UserError, match=r"--prune: got False; accepted: True, as in "):
        search(found, "--no-prune")
    with pytest.raises(UserError, match=r"--search: got .*; accepted: .*as in"):
        run_tune(["rl2", "--search", "clip", *SMALL, "--run-dir", str(found)])


def test_two_searches_do_not_share_a_folder(found):
    with (found / "tuning.json").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="no other metarl tune is running"):
            search(found)


def test_a_missing_optuna_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "metarl.running.tune_study", raising=False)
    said = r"metarl tune: needs its package: pip install 'metarl-toolkit\[tune\]'"
    with pytest.raises(UserError, match=said):
        search(tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_runs_of_a_search_are_a_group_of_weights_and_biases(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace())
    groups = []

    def note(study, folder, settings, config):
        groups.append((folder.name, settings.train.run.wandb_group))
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "_run_trials", note)
    settings = parse_train(["rl2", *SMALL]).settings
    settings = settings.with_train(run_dir=tmp_path / "mine", wandb_project="p")
    with pytest.raises(KeyboardInterrupt):
        tune(settings, TuneConfig(trials=1))
    assert groups == [("mine", "mine")]


def test_all_trials_are_scored_on_as_many_tasks():
    """A default that followed from the length of a trial would make short ones noisier."""
    settings = parse_train(["rl2", "--env", "bandit/n3-k2", "--minutes", "1"]).settings
    assert settings.train.evaluation.validation_tasks is None
    shared = tuning._for_trials(settings, TuneConfig())
    assert shared.train.evaluation.validation_tasks == 200 and shared.train.minutes == 1
    own = tuning._for_trials(settings.with_train(validation_tasks=7), TuneConfig())
    assert own.train.evaluation.validation_tasks == 7

"""Weights & Biases: is a run shown there as its users expect, and does a failure cost nothing?"""

import json
import struct
import subprocess
import sys
import types

import pytest

from metarl.agents.rl2 import RL2Config
from metarl.errors import UserError
from metarl.options import with_options
from metarl.running import seeds
from metarl.running.metrics import MetricsLog
from metarl.running.run import Run
from metarl.running.settings import RunConfig, Settings, TrainConfig
from metarl.running.train import train
from metarl.running.wandb_run import wandb_run

SMALL = {"iterations": 2, "evaluation_tasks": 4, "validation_tasks": 2, "check": False}
SMALL |= {"num_workers": 0, "env": "bandit/n2-k2", "wandb_project": "mine"}


def settings(folder, **options):
    agent = with_options(RL2Config(), tasks_per_update=4, num_minibatches=1, hidden_size=4)
    return Settings("rl2", agent, with_options(TrainConfig(), **SMALL, **options, run_dir=folder))


class FakeRun:
    def __init__(self, said):
        self.said, self.summary = said, {}

    def define_metric(self, name, step_metric):
        self.said.append((name, step_metric))

    def log(self, line):
        self.said.append(line)

    def log_artifact(self, artifact):
        self.said.append(artifact)

    def finish(self, exit_code):
        self.said.append(exit_code)


class FakeArtifact:
    def __init__(self, name, type):
        self.name, self.type, self.files = name, type, []

    def add_file(self, path):
        self.files.append(path.rpartition("/")[2])


@pytest.fixture
def said(monkeypatch):
    """Put a fake in the place of wandb, and return what it is told."""
    told = []

    def init(**options):
        told.append(options)
        told.append(run := FakeRun(told))
        return run

    fake = types.SimpleNamespace(
        init=init,
        Table=lambda columns, data: ("table", columns, data),
        Image=lambda path: ("image", path),
        plot=types.SimpleNamespace(line=lambda table, x, y, title: ("line", table, x, y)),
        Artifact=FakeArtifact,
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return told


def begun(folder, **content):
    """Return a folder with the ``config.json`` of a run."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"id": "1234", "agent": "rl2"} | content))
    return folder


def test_a_run_has_its_project_group_tags_config_and_id(tmp_path, said):
    options = RunConfig(
        wandb_project="mine", wandb_entity="we", wandb_group="g", wandb_tags=("a", "b")
    )
    folder = begun(tmp_path / "run")
    with wandb_run(options, folder) as run:
        run.log({"iteration": 1, "env_steps": 100, "train/x": 1.0})
    given, _, *rest = said
    shown = {"project": "mine", "entity": "we", "group": "g", "tags": ["a", "b"], "id": "1234"}
    assert shown.items() <= given.items()
    assert (given["resume"], given["name"]) == ("allow", "run")
    assert given["config"] == {"id": "1234", "agent": "rl2"}
    line = {"iteration": 1, "env_steps": 100, "train/x": 1.0}
    assert rest == [("*", "env_steps"), line, 0]


def test_without_a_project_nothing_is_started(tmp_path, said):
    with wandb_run(RunConfig(), tmp_path) as run:
        assert run is None
    assert said == []


def test_a_run_that_fails_is_marked_as_failed(tmp_path, said):
    options = RunConfig(wandb_project="mine")
    with pytest.raises(ZeroDivisionError), wandb_run(options, begun(tmp_path / "run")):
        raise ZeroDivisionError
    assert said[-1] == 1


def test_a_missing_package_is_reported_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        UserError, match=r"--wandb-project: .*pip install 'metarl-toolkit\[wandb\]'"
    ):
        train(settings(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", ["init", "define_metric", "log", "finish"])
def test_a_failure_is_said_once_and_ends_nothing(tmp_path, said, monkeypatch, place):
    def fail(*args, **kwargs):
        raise ConnectionError("no\nway")

    owner = sys.modules["wandb"] if place == "init" else FakeRun
    monkeypatch.setattr(owner, place, fail)
    folder = begun(tmp_path / "run")
    with (
        pytest.warns(UserWarning) as warned,
        wandb_run(RunConfig(wandb_project="mine"), folder) as run,
        MetricsLog(folder, 1, run) as log,
    ):
        log.write(2, 100, {"train/x": 1.0})
        log.write(3, 200, {"train/x": 2.0})
    assert [str(w.message) for w in warned] == ["Weights & Biases: no way; no more is logged there"]
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_run_shows_its_final_evaluation_and_goes_on_under_the_same_id(tmp_path, said):
    run = train(settings(tmp_path / "run"))
    given, shown, _, *lines = said
    test = json.loads((tmp_path / "run/evaluation/test.json").read_text())
    untrained = json.loads((tmp_path / "run/evaluation/test-untrained.json").read_text())
    table = lines[2]["test/adaptation"]
    assert [line["iteration"] for line in lines[:2]] == [1, 2]
    assert lines[2]["env_steps"] == lines[1]["env_steps"] == 16
    assert table[1] == ["episodes", "return", "return low", "return high", "untrained return"]
    assert [row[0] for row in table[2]] == test["episodes"] == [0, 1]
    assert [row[1] for row in table[2]] == test["return"]["mean"]
    assert [row[2] for row in table[2]] == test["return"]["low"]
    assert [row[4] for row in table[2]] == untrained["return"]["mean"]
    assert lines[2]["test/adaptation_curve"] == ("line", table, "episodes", "return")
    assert lines[2]["test/picture"] == ("image", str(tmp_path / "run/evaluation/test.png"))
    assert lines[3].files == ["test.json", "test-untrained.json", "test.png"]
    assert lines[4] == 0
    assert shown.summary == {
        "test/return_before": test["return"]["mean"][0],
        "test/return_after": test["return"]["mean"][1],
        "test/gain": test["gain"]["mean"],
        "test/trial_return": test["trial_return"]["mean"],
    }
    said.clear()
    opened = Run.open(run.directory)
    longer = opened.settings.with_train(iterations=3)
    train(longer, resume=opened)
    assert said[0]["id"] == given["id"] == opened.content["id"]
    assert [line["iteration"] for line in said[3:4]] == [3]


def test_seeds_are_a_group_named_as_their_folder_unless_another_is_given(
    tmp_path, said, monkeypatch
):
    monkeypatch.setattr(seeds, "resume_seeds", lambda folder, **_: {})
    seeds.train_seeds(settings(tmp_path / "mine"), [0, 1])
    seeds.train_seeds(settings(tmp_path / "mine"), [2])
    seeds.train_seeds(settings(tmp_path / "other", wandb_group="all"), [0])
    groups = {
        str(path.parent.relative_to(tmp_path)): Run.open(path.parent).train_config.run.wandb_group
        for path in tmp_path.glob("*/*/config.json")
    }
    assert groups == {"mine/0": "mine", "mine/1": "mine", "mine/2": "mine", "other/0": "all"}
    with wandb_run(Run.open(tmp_path / "mine/0").train_config.run, tmp_path / "mine/0"):
        assert said[0]["name"] == "mine/0"


def records(path):
    """Return the records of a file of wandb, which is a log in the format of LevelDB."""
    wandb_internal_pb2 = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    data, at, part, found = path.read_bytes(), 7, b"", []
    while at < len(data):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        part, at = part + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(wandb_internal_pb2.Record.FromString(part))
            part = b""
    return found


LOGGING = """
import json, sys
from pathlib import Path
from metarl.running.settings import RunConfig
from metarl.running.wandb_run import wandb_run
folder, summary = Path(sys.argv[1]), json.loads(sys.argv[2])
options = RunConfig(wandb_project="mine", wandb_group="several", wandb_tags=("a",))
with wandb_run(options, folder) as run:
    run.log({"env_steps": 100, "train/x": 1.5})
    run.log_evaluation(summary, summary, folder / "evaluation")
"""


def test_the_real_package_writes_a_run_without_a_network(tmp_path, monkeypatch, quick_python):
    """In a process of its own, since other tests put something else in the package's place."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    (tmp_path / "several").mkdir()
    folder = begun(tmp_path / "several" / "0")
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "test.json").write_text("{}")
    summary = {"split": "test", "env_steps": 200, "episodes": [0, 9], "success": None}
    summary |= {"return": {"mean": [0.5, 0.7], "low": None, "high": None}}
    summary |= {"gain": {"mean": 0.2}, "trial_return": None}
    command = [quick_python, "-c", LOGGING, str(folder), json.dumps(summary)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [written] = folder.glob("wandb/offline-run-*/run-1234.wandb")
    by_kind = {}
    for record in records(written):
        by_kind.setdefault(record.WhichOneof("record_type"), []).append(record)
    assert "run" in by_kind, sorted(by_kind)
    [begin] = by_kind["run"]
    assert (begin.run.run_group, begin.run.display_name) == ("several", "several/0")
    assert (begin.run.run_id, list(begin.run.tags)) == ("1234", ["a"])
    assert "agent" in [item.key for item in begin.run.config.update]
    assert [m.metric.step_metric for m in by_kind["metric"]] == ["env_steps"]
    logged = [{i.nested_key[0]: i.value_json for i in h.history.item} for h in by_kind["history"]]
    assert (logged[0]["env_steps"], logged[0]["train/x"]) == ("100", "1.5")
    assert logged[1]["env_steps"] == "200" and "test/adaptation" in logged[1]
    assert "evaluation" in [a.artifact.type for a in by_kind["artifact"]]
    figures = {i.key: i.value_json for s in by_kind["summary"] for i in s.summary.update}
    assert figures["test/return_after"] == "0.7"

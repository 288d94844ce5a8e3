"""Reading a run: is everything there that was written, and is it the same?"""

import importlib
import json
import shutil
import sys
import types

import numpy as np
import pytest

import metarl
from metarl.agents.rl2 import RL2Config
from metarl.errors import UserError
from metarl.options import with_options
from metarl.running.reading import OverTraining, over_training, validation_over_training
from metarl.running.run import Run
from metarl.running.settings import Settings, TrainConfig
from metarl.running.train import train

SMALL = {"tasks_per_update": 4, "hidden_size": 6, "num_minibatches": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = with_options(
        TrainConfig(),
        env="bandit/n3-k2",
        iterations=3,
        evaluation_tasks=5,
        validation_interval=2,
        validation_tasks=2,
        check=False,
        run_dir=tmp_path_factory.mktemp("runs") / "trained",
    )
    return train(Settings("rl2", with_options(RL2Config(), **SMALL), config))


def test_settings_metrics_and_evaluations_are_what_was_written(run):
    record = metarl.read_run(run.directory)
    assert record.settings == Run.open(run.directory).content
    lines = [json.loads(x) for x in (run.directory / "metrics.jsonl").read_text().splitlines()]
    for number, line in enumerate(lines):
        for name, values in record.metrics.items():
            assert values[number] == line[name] if name in line else np.isnan(values[number])
    assert set(record.metrics) == set().union(*lines)
    assert list(record.evaluations) == ["test", "test-untrained"]
    with np.load(run.directory / "evaluation" / "test.npz") as arrays:
        assert np.array_equal(record.evaluations["test"].returns, arrays["return"])


def test_final_and_maximum_are_two_figures(run):
    metrics = {
        "env_steps": np.array([10.0, 20, 30, 40]),
        "validation/success_after": np.array([0.25, 0.75, 0.5, np.nan]),
    }
    found = over_training(metrics, "validation/success_after")
    assert found == OverTraining(0.5, 0.75, 20)
    with pytest.raises(UserError, match="metric: got 'speed'; accepted: env_steps"):
        over_training(metrics, "speed")
    record = metarl.read_run(run.directory)
    returns = record.metrics["validation/return_after"]
    logged = returns[~np.isnan(returns)]
    assert record.over_training().maximum == max(logged)
    (line,) = validation_over_training(run)
    assert f"final {logged[-1]:.3f}, maximum over training {max(logged):.3f}" in line


def test_a_run_without_metrics_has_no_line(tmp_path, run):
    assert validation_over_training(Run(tmp_path, {})) == []


def test_a_metric_that_was_never_a_number_has_no_line(tmp_path):
    """It would have ended an evaluation before its picture."""
    lines = [
        {"iteration": i, "env_steps": 10 * i, "validation/return_after": value}
        | {"validation/success_after": i / 4}
        for i, value in ((1, float("nan")), (2, float("nan")))
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    (line,) = validation_over_training(Run(tmp_path, {}))
    assert line.startswith("success after") and "final 0.500, maximum over training 0.500" in line


def test_what_is_no_run_or_damaged_is_refused(tmp_path, run):
    with pytest.raises(UserError, match="not a run directory"):
        metarl.read_run(tmp_path)


@pytest.mark.parametrize(("suffix", "content"), [(".npz", b"PK cut"), (".json", b"{}")])
def test_a_damaged_evaluation_is_named_and_the_rest_is_read(run, tmp_path, suffix, content):
    folder = tmp_path / "run"
    shutil.copytree(run.directory, folder)
    (folder / "evaluation" / f"test{suffix}").write_bytes(content)
    with pytest.warns(UserWarning, match=rf"left out: .*evaluation/test\{suffix}: ") as warned:
        record = metarl.read_run(folder)
    assert list(record.evaluations) == ["test-untrained"] and len(warned) == 1
    assert warned[0].filename == __file__
    assert len(record.metrics["iteration"]) == 3


def test_frames_need_pandas_and_say_so(run, monkeypatch):
    record = metarl.read_run(run.directory)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        record.metrics_frame()


def test_frames_have_a_row_for_each_line_and_for_each_point_and_task(run, monkeypatch):
    """With pandas where it is installed, and with what is asked of it otherwise."""
    try:
        importlib.import_module("pandas")
    except ImportError:
        stand_in = types.SimpleNamespace(
            DataFrame=dict,
            concat=lambda parts, ignore_index: {
                name: np.concatenate([part[name] for part in parts]) for name in parts[0]
            },
        )
        monkeypatch.setitem(sys.modules, "pandas", stand_in)
    record = metarl.read_run(run.directory)
    assert list(record.metrics_frame()["iteration"]) == [1, 2, 3]
    frame = record.evaluations_frame()
    assert len(frame["return"]) == 2 * 3 * 5
    curve = record.evaluations["test-untrained"]
    rows = [i for i, name in enumerate(frame["evaluation"]) if name == "test-untrained"]
    for row in rows:
        point = curve.episodes.index(frame["episodes"][row])
        assert frame["return"][row] == curve.returns[point, frame["task"][row]]

"""TensorBoard: are a run's settings and its final evaluation there, each once?"""

import json

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from metarl.agents.rl2 import RL2Config
from metarl.options import with_options
from metarl.running import train as training
from metarl.running.run import Run
from metarl.running.settings import Settings, TrainConfig
from metarl.running.train import train


def events_of(run):
    events = EventAccumulator(str(run.directory / "tensorboard"), size_guidance={"tensors": 0})
    return events.Reload()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    options = {"env": "bandit/n2-k2", "iterations": 1, "evaluation_tasks": 4, "check": False}
    folder = tmp_path_factory.mktemp("tensorboard") / "run"
    config = with_options(TrainConfig(), validation_tasks=2, run_dir=folder, **options)
    agent = with_options(RL2Config(), tasks_per_update=4, num_minibatches=1, hidden_size=4)
    return train(Settings("rl2", agent, config))


def text(event):
    return event.tensor_proto.string_val[0].decode()


def test_settings_are_shown_as_text_and_as_hyper_parameters_of_the_run(run):
    events = events_of(run)
    [shown] = events.Tensors("config/text_summary")
    written = (run.directory / "config.json").read_text()
    assert json.loads(text(shown).strip("`json")) == json.loads(written)
    data = events.PluginTagToContent("hparams")
    start = plugin_data_pb2.HParamsPluginData.FromString(data["_hparams_/session_start_info"])
    values = start.session_start_info.hparams
    assert values["hidden_size"].number_value == 4 and values["agent"].string_value == "rl2"
    assert values["env"].string_value == "bandit/n2-k2"
    about = plugin_data_pb2.HParamsPluginData.FromString(data["_hparams_/experiment"])
    assert [m.name.tag for m in about.experiment.metric_infos] == ["validation/return_after"]
    assert [e.step for e in events.Scalars("validation/return_after")] == [8]


def test_the_final_evaluation_is_shown_at_its_environment_steps(run):
    events = events_of(run)
    test = json.loads((run.directory / "evaluation" / "test.json").read_text())
    [after] = events.Scalars("test/return_after")
    assert (after.step, after.value) == (8, pytest.approx(test["return"]["mean"][-1]))
    [picture] = events.Images("test/adaptation")
    assert picture.step == 8 and picture.width > picture.height > 100
    [table] = events.Tensors("test/adaptation/text_summary")
    lines = text(table).splitlines()
    assert lines[0].startswith("| episodes | return | return low | return high | untrained")
    assert lines[2].startswith(f"| 0 | {test['return']['mean'][0]:.4g} |")
    assert len(lines) == 4


def test_a_resumed_run_shows_settings_once_and_the_last_evaluation_only(run):
    opened = Run.open(run.directory)
    train(opened.settings.with_train(iterations=2), resume=opened)
    events = events_of(run)
    assert len(events.Tensors("config/text_summary")) == 1
    assert [e.step for e in events.Scalars("test/return_after")] == [16]
    assert [e.step for e in events.Scalars("train/return_after")] == [8, 16]


def test_a_full_disk_costs_the_picture_in_tensorboard_only(run, monkeypatch):
    def fail(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(training, "add_evaluation", fail)
    opened = Run.open(run.directory)
    iterations = opened.train_config.iterations + 1
    with pytest.warns(UserWarning, match="TensorBoard does not show the evaluation: No space"):
        train(opened.settings.with_train(iterations=iterations), resume=opened)
    written = json.loads((run.directory / "evaluation" / "test.json").read_text())
    assert written["iteration"] == iterations and np.isfinite(written["return"]["mean"]).all()

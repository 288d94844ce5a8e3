"""Runs that the first edition wrote (``first_edition/``): they load, are evaluated and drawn."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import metarl
from metarl.errors import UserError
from metarl.running.api import evaluate
from metarl.running.commandline import parse_train
from metarl.running.plot import plot
from metarl.running.run import Run
from metarl.running.train import train

RUNS = Path(__file__).with_name("first_edition")
AGENTS = pytest.mark.parametrize("agent", ["rl2", "maml-ppo"])


@pytest.fixture
def first(tmp_path, agent):
    """A copy of a run of the first edition; the very first ones did not say the horizon."""
    folder = Path(shutil.copytree(RUNS / agent, tmp_path / agent))
    content = json.loads((folder / "config.json").read_text())
    assert content.pop("horizon") > 0
    (folder / "config.json").write_text(json.dumps(content))
    return folder


@AGENTS
def test_it_is_evaluated_to_the_same_numbers(first, agent):
    before = np.load(first / "evaluation" / "test.npz")["return"]
    curve = evaluate(Run.open(first), num_workers=0)
    assert np.array_equal(curve.returns, before)
    assert curve.iteration == 2


@AGENTS
def test_it_loads_and_is_drawn(first, agent, monkeypatch, tmp_path):
    loaded = metarl.load(first)
    tasks = metarl.make(Run.open(first).env)
    # The first edition did not count the numbers of a task.
    assert loaded.spec == dataclasses.replace(metarl.TaskSpec.of(tasks), task_size=None)
    for kind in ("adaptation", "learning"):
        assert plot([first], kind, tmp_path / f"{kind}.png").stat().st_size > 5000


@AGENTS
def test_its_settings_start_a_new_run(first, agent, tmp_path):
    new = tmp_path / "new"
    request = parse_train(["--config", str(first), "--iterations", "1", "--run-dir", str(new)])
    run = train(request.settings)
    assert json.loads((run.directory / "config.json").read_text())["format"] == 2
    assert run.train_config.schedule_iterations == 1


@AGENTS
def test_it_is_not_resumed_and_says_so_in_one_line(first, agent):
    run = Run.open(first)
    with pytest.raises(UserError, match=r"^[^\n]*begun by the first edition[^\n]*$"):
        train(run.settings, resume=run)

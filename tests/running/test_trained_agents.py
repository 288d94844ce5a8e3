"""The trained agents in benchmarks/agents load, fit their tasks and are all listed in README."""

from pathlib import Path

import pytest

import metarl
from metarl.experience.agent import require_spaces
from metarl.running.run import Run

ROOT = Path(__file__).parents[2]
FOLDERS = sorted((ROOT / "benchmarks/agents").iterdir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_trained_agent_loads_and_fits_its_tasks(folder):
    run = Run.open(folder)
    tasks = run.make_tasks()
    require_spaces(metarl.load(folder), tasks.observation_space, tasks.action_space, folder.name)
    assert run.checkpoint("final").env_steps > 100_000
    assert run.content["command"].split()[0] == "scripts/train.py"
    assert f"`{folder.name}`" in (ROOT / "README.md").read_text()

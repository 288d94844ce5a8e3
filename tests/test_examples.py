"""Every example does what its first lines say."""

from pathlib import Path

import pytest
from averaging import Averager

import metarl
from metarl.evaluation.evaluate import evaluate_adaptation
from metarl.options import with_options
from metarl.running.settings import TrainConfig
from metarl.running.training import meta_train

EXAMPLES = Path(__file__).parents[1] / "examples"


def make(tasks, **values):
    return Averager(Averager.Config(**values), metarl.TaskSpec.of(tasks), seed=0, device="cpu")


def test_averaging_is_under_sixty_lines():
    lines = (EXAMPLES / "averaging.py").read_text().splitlines()
    assert len([line for line in lines if line]) < 60


def test_averaging_keeps_the_contract_of_agents():
    for name in ("bandit/n4-k3", "mdp/n3"):
        tasks = metarl.make(name)
        metarl.check_agent(make(tasks), tasks)
    with pytest.raises(metarl.errors.UserError, match="Averager: got action space Box"):
        make(metarl.make("navigation"), episodes_per_trial=2)


@pytest.mark.learning
def test_averaging_learns_to_learn_bandits(tmp_path):
    """Random pulls earn 5.0 of 10, Gittins indices 6.66 (RL², table 1)."""
    tasks = metarl.make("bandit/n10-k5")
    agent = make(tasks)
    meta_train(agent, tasks, with_options(TrainConfig(), iterations=150), tmp_path)
    assert evaluate_adaptation(agent, tasks, num_tasks=5000).trial_return.mean() > 6.2

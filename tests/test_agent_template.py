"""The template for agents: is it short and complete, do the commands take it, does it learn?"""

import json
import sys
from pathlib import Path

import agent_template
import pytest
from uneven import Uneven

import metarl
from metarl.__main__ import run
from metarl.evaluation.evaluate import evaluate_adaptation
from metarl.options import with_options
from metarl.running.settings import TrainConfig
from metarl.running.training import meta_train

NAME = "agent_template:Reinforce"
TINY = (
    "--iterations 2 --tasks-per-update 3 --hidden-size 4 --evaluation-tasks 2 --validation-tasks 2"
)


def make(tasks, **values):
    config = with_options(agent_template.Reinforce.Config(), **values)
    return agent_template.Reinforce(config, metarl.TaskSpec.of(tasks))


def test_the_template_is_short():
    lines = Path(agent_template.__file__).read_text().splitlines()
    assert len([line for line in lines if line]) <= 60


@pytest.mark.parametrize(
    "tasks",
    [metarl.make("bandit/n4-k3"), metarl.make("navigation:horizon=4"), Uneven(discrete=True)],
    ids=lambda tasks: tasks.name,
)
def test_the_template_keeps_the_contract_of_agents(tasks):
    metarl.check_agent(make(tasks, hidden_size=4), tasks)


def test_the_ordinary_commands_train_and_evaluate_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["metarl"])
    words = f"{NAME} --env bandit/n4-k3 --run-dir run {TINY} --no-check"
    run(["train", *words.split()])
    run(["evaluate", "run", "--agent", NAME, "--evaluation-tasks", "3"])
    assert "untrained" in capsys.readouterr().out
    assert json.loads(Path("run/config.json").read_text())["agent"] == NAME
    assert Path("run/evaluation/test-tasks-3.json").exists()


@pytest.mark.learning
def test_the_template_learns_to_learn_two_armed_bandits(tmp_path):
    tasks = metarl.make("bandit/n6-k2")
    agent = make(tasks)
    meta_train(
        agent, tasks, with_options(TrainConfig(), iterations=60, validation_tasks=1), tmp_path
    )
    returns = evaluate_adaptation(agent, tasks, num_tasks=2000).returns
    # Chance earns 3 of 6, the Bayes-optimal policy 3.508; the mean of 2000 trials has a standard
    # error below 0.05.
    assert returns.sum(0).mean() > 3.0 + 0.2
    assert returns[-2:].mean() > returns[0].mean() + 0.05

"""Agents that come with the toolkit load by name, fit their tasks, and do what is said of them."""

from pathlib import Path

import numpy as np
import pytest

import metarl
from metarl.errors import UserError
from metarl.evaluation.curve import AdaptationCurve
from metarl.evaluation.evaluate import evaluate_adaptation, evaluation_shape
from metarl.experience.agent import require_spaces
from metarl.running import trained
from metarl.running.run import Run
from metarl.stepping.options import Workers

AGENTS = trained.trained_agents()
QUICK = ("bandit", "mdp", "navigation")
"""Tasks that are computed as arrays; the others' simulators take seconds."""


@pytest.mark.parametrize("name", AGENTS)
def test_a_trained_agent_loads_and_fits_its_tasks(name):
    run = Run.open(Path(name))
    tasks = run.make_tasks()
    require_spaces(metarl.load(name), tasks.observation_space, tasks.action_space, name)
    assert run.checkpoint("final").env_steps > 100_000
    assert run.content["command"].split()[0] == "scripts/train.py"
    size = sum(file.stat().st_size for file in run.directory.rglob("*") if file.is_file())
    assert size < 2.1e6


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n.startswith(QUICK) else pytest.mark.learning) for n in AGENTS],
)
def test_a_trained_agent_scores_what_its_evaluation_says(name):
    agent, tasks = metarl.load(name), Run.open(AGENTS[name].directory).make_tasks()
    shape = evaluation_shape(agent, tasks, None)
    quick = name.startswith(QUICK)
    number = 400 if name.startswith("bandit") else 20 if quick else 4
    episodes = shape.num_episodes if quick or not shape.sequential else 2
    curve = evaluate_adaptation(
        agent,
        tasks,
        num_tasks=number,
        num_episodes=episodes,
        seed=AGENTS[name].summary["seed"],
        workers=Workers(num_workers=0),
    )
    known = AdaptationCurve.load(AGENTS[name].directory / "evaluation", "test").returns
    known = known[: len(curve.returns)].astype(float)
    apart = curve.returns - known[:, :number]  # the same tasks and noise
    # Rounding may differ, of which a simulator makes much: then episodes are others of their kind.
    error = known.std(axis=1, ddof=1) / number**0.5 if apart.any() else np.zeros(len(apart))
    assert (np.abs(apart.mean(axis=1)) <= 3 * error).all()


def test_short_names_are_those_of_the_first_tasks():
    assert trained.find(Path("bandit/rl2")).name == "bandit-n10-k5-rl2"
    assert trained.find(Path("bandit-n100-k10/rl2")).name == "bandit-n100-k10-rl2"
    assert trained.find(Path("bandit/nobody")) is None
    with pytest.raises(UserError, match="nobody/rl2: not a run directory"):
        metarl.load("nobody/rl2")


def test_results_of_a_trained_agent_go_to_the_current_folder():
    folder = trained.find(Path("navigation/rl2"))
    assert Run.open(folder).results == Path("runs/trained/navigation-rl2")
    assert trained.results_of(Path("runs/mine")) == Path("runs/mine")


def test_names_are_listed(capsys):
    from metarl.running.catalogue import run_list

    run_list([])
    out = capsys.readouterr().out
    for word in ("navigation/maml-ppo", "thompson", "rl2-mdp-n10", "half-cheetah/velocity"):
        assert word in out
    run_list(["trained"])
    assert "thompson" not in capsys.readouterr().out
    with pytest.raises(UserError, match="metarl list: got 'trainde'; did you mean trained"):
        run_list(["trainde"])

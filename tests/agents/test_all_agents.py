"""Every registered agent: do copies of it act and learn as it does?"""

import ast
import copy
import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

import metarl
from metarl import registry
from metarl.experience.lanes import TrialKeys
from metarl.experience.rollout import run_trial, torch_generator
from metarl.options import option_paths, option_values, with_options
from metarl.seeding import Phase

ROOT = Path(__file__).parents[2]
FILES = sorted(p for p in (ROOT / "agents").glob("*.py") if p.name != "__init__.py")
SHARED = {
    *("networks", "cores", "heads", "normalization", "returns", "losses", "ppo", "update_rules"),
    *("state", "distributions"),
}
"""Modules of learning/ that DESIGN names; any other must serve two agents or none."""
TASKS = {"continuous": "navigation:horizon=4", "discrete": "bandit/n3-k2"}
SMALL = {
    "tasks_per_update": 3,
    "num_minibatches": 1,
    "hidden_size": 4,
    "hidden_sizes": (4,),
    "episodes_per_trial": 2,
    "episodes_per_adaptation": 2,
    "normalize_observations": True,
    "num_epochs": 2,
    "episodes_per_task": 2,
    "buffer_size": 50,
    "learning_starts": 2,
}
PAIRS = [
    (name, kind)
    for name in sorted(registry.AGENTS)
    for kind in TASKS
    if (name, kind) != ("sac-multitask", "discrete")  # which takes a Box of actions
]


def copied(agent):
    return copy.deepcopy(agent)


def pickled(agent):
    return pickle.loads(pickle.dumps(agent))


def make(name, kind, scaled):
    tasks = metarl.make(TASKS[kind])
    cls = registry.agent_class(name)
    known = option_paths(cls.Config)
    values = {k: v for k, v in SMALL.items() if k in known} | {"normalize_observations": scaled}
    agent = cls(with_options(cls.Config(), **values), metarl.TaskSpec.of(tasks), seed=2)
    agent.name, agent.kind = name, kind
    return agent, tasks


def trial_of(agent, tasks, seed=0):
    batch = tasks.sample(np.random.default_rng(seed), agent.tasks_per_update, "train")
    return run_trial(
        agent,
        tasks.make_vec(agent.tasks_per_update * agent.shape.episodes_per_round),
        batch,
        shape=agent.shape,
        keys=TrialKeys(seed, Phase.TRAIN, 0, len(batch)),
    )


def same(a, b):
    x, y = pytree.tree_leaves(a), pytree.tree_leaves(b)
    return len(x) == len(y) and all(
        torch.equal(p, q) if torch.is_tensor(p) else p == q for p, q in zip(x, y, strict=True)
    )


def state_of(agent):
    return copy.deepcopy(agent.state())


@pytest.mark.parametrize("copy_of", [copied, pickled])
@pytest.mark.parametrize("scaled", [True, False], ids=["scaled", "raw"])
@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_a_copy_acts_and_learns_alike_and_leaves_the_agent_alone(name, kind, scaled, copy_of):
    agent, tasks = make(name, kind, scaled)
    agent.update(
        trial_of(agent, tasks), torch_generator(0), 0.0
    )  # optimisers and normalisers hold moments
    twin = copy_of(agent)
    trial, again = trial_of(agent, tasks, 1), trial_of(twin, tasks, 1)
    assert same(trial.rounds, again.rounds) and same(trial.context, again.context)
    before = state_of(agent)
    metrics = twin.update(again, torch_generator(1), 0.0)
    assert same(agent.state(), before)
    assert same(trial_of(agent, tasks, 2).rounds[0], trial_of(copy_of(agent), tasks, 2).rounds[0])
    assert agent.update(trial, torch_generator(1), 0.0) == metrics
    assert same(agent.state(), twin.state()) and not same(agent.state(), before)


@pytest.mark.parametrize("copy_of", [copied, pickled])
@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_a_copy_of_an_adapted_policy_goes_on_alike(name, kind, copy_of):
    agent, tasks = make(name, kind, True)
    agent.update(trial_of(agent, tasks), torch_generator(0), 0.0)
    env = tasks.make(tasks.sample(np.random.default_rng(0), 1, "test")[0])
    policy = metarl.adapt(agent, env, episodes=2)
    observation, _ = env.reset(seed=0)
    policy.act(observation)
    twin = copy_of(policy)
    for _ in range(3):
        assert np.array_equal(twin.act(observation, 0.5), policy.act(observation, 0.5))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_agent_s_file_is_short(path):
    assert len(path.read_text().splitlines()) <= 250


def test_no_piece_of_learning_serves_one_agent_alone():
    used = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("metarl.learning"):
                parts = node.module.split(".")[2:] or [alias.name for alias in node.names]
                used.setdefault(parts[0], set()).add(path.name)
    assert used and all(len(files) > 1 or name in SHARED for name, files in used.items())


@pytest.mark.parametrize("name", sorted(registry.AGENTS))
def test_a_config_is_frozen_and_its_options_survive_json(name):
    config = registry.agent_class(name).Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.tasks_per_update = 3
    values = json.loads(json.dumps(option_values(config)))
    tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    assert with_options(type(config)(), **tuples) == config

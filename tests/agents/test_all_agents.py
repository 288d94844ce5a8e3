"""Every registered agent: do copies of it act and learn as it does?"""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

import metarl
from metarl import registry
from metarl.experience.lanes import TrialKeys
from metarl.experience.rollout import run_trial, torch_generator
from metarl.learning.normalization import ObservationScaler
from metarl.seeding import Phase

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
}


def copied(agent):
    return copy.deepcopy(agent)


def pickled(agent):
    return pickle.loads(pickle.dumps(agent))


def loaded(agent):
    """What a checkpoint makes of a copy of a new agent."""
    fresh = copy.deepcopy(make(agent.name, agent.kind, agent.config.normalize_observations)[0])
    fresh.load_state(*copy.deepcopy(agent.state()))
    return fresh


def make(name, kind, scaled):
    tasks = metarl.make(TASKS[kind])
    cls = registry.agent_class(name)
    known = {field.name for field in dataclasses.fields(cls.Config)}
    values = {k: v for k, v in SMALL.items() if k in known} | {"normalize_observations": scaled}
    agent = cls(cls.Config(**values), metarl.TaskSpec.of(tasks), seed=2)
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


@pytest.mark.parametrize("copy_of", [copied, pickled, loaded])
@pytest.mark.parametrize("scaled", [True, False], ids=["scaled", "raw"])
@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("name", sorted(registry.AGENTS))
def test_a_copy_acts_and_learns_alike_and_leaves_the_agent_alone(name, kind, scaled, copy_of):
    agent, tasks = make(name, kind, scaled)
    agent.update(
        trial_of(agent, tasks), torch_generator(0), 0.0
    )  # optimisers and scalers hold moments
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
@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("name", sorted(registry.AGENTS))
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


def test_a_scaler_s_copy_is_not_changed_by_loading_into_the_original():
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0)) + 2
    scaler = ObservationScaler(3)
    scaler.track(x)
    expected = scaler(x)
    twin = copy.deepcopy(scaler)
    scaler.load_state_dict(ObservationScaler(3).state_dict())
    assert twin(x).equal(expected) and scaler(x).equal(x)
    scaler.load_state_dict(twin.state_dict())
    assert scaler(x).equal(expected)
    assert sorted(scaler.state_dict()) == ["count", "mean", "square"]


def test_a_scaler_scales_on_the_device_that_it_was_moved_to():
    scaler = ObservationScaler(3)
    scaler.track(torch.randn(30, 3))
    moved = copy.deepcopy(scaler).to("meta")
    assert moved(torch.zeros(2, 3, device="meta")).device.type == "meta"

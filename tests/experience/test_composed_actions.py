"""Actions that are Dicts and Tuples, through all that acts in environments."""

import contextlib

import machine
import numpy as np
import pytest
import torch
from gymnasium.vector.utils import batch_space
from uneven import Uneven

import metarl
from metarl.agents.maml_ppo import MAMLPPO
from metarl.agents.rl2 import RL2
from metarl.errors import UserError
from metarl.evaluation.evaluate import evaluate_adaptation
from metarl.experience.agent import TrialShape
from metarl.experience.lanes import TrialKeys
from metarl.experience.rollout import run_trial
from metarl.options import with_options
from metarl.registry import make_baseline
from metarl.sb3.vector import vec_env
from metarl.seeding import Phase
from metarl.stepping.actions import ActionCodec
from metarl.stepping.disturbances import Disturbances, disturbed
from metarl.tasks.checks import check_task_distribution

SMALL = {"tasks_per_update": 3, "num_minibatches": 1, "hidden_size": 8}


def rl2(tasks):
    return RL2(with_options(RL2.Config(), **SMALL), metarl.TaskSpec.of(tasks), seed=1)


def maml(tasks):
    config = MAMLPPO.Config(3, 2, 1, hidden_sizes=(8,))
    return MAMLPPO(config, metarl.TaskSpec.of(tasks), seed=1)


def trial(agent, tasks, workers=0, slots=6, batch=None):
    batch = batch or [machine.task(load) for load in (0.0, 0.5, 1.0)]
    with contextlib.closing(tasks.make_vec(slots, num_workers=workers, restarts=1)) as envs:
        keys = TrialKeys(0, Phase.TRAIN, 0, len(batch))
        return run_trial(agent, envs, batch, shape=agent.shape, keys=keys)


@pytest.mark.parametrize("make", [rl2, maml])
def test_a_trial_takes_what_was_chosen_and_does_not_depend_on_workers(make):
    tasks = machine.tasks()
    agent, codec = make(tasks), ActionCodec(tasks.action_space)
    here, there = (trial(agent, tasks, workers) for workers in (0, 2))
    for mine, other in zip(here.rounds, there.rounds, strict=True):
        assert torch.equal(mine.action, other.action)
        assert torch.equal(mine.observation, other.observation)
        # The environment observes the action that it was told, in its own order.
        taken = mine.taken[..., :-1, :].flatten(0, 2).numpy()
        rows = codec.to_env(taken)
        seen = mine.observation[..., 1:, :].flatten(0, 2).numpy()
        both, force, gear = np.split(rows, [3, 5], -1)
        np.testing.assert_allclose(seen, np.concatenate([gear, force, both], -1), rtol=1e-5)
        assert len(np.unique(rows[:, -1])) == 3
    agent.update(here, torch.Generator().manual_seed(0), 0.0)


def test_a_lost_worker_replays_actions_with_parts(tmp_path):
    tasks, agent = machine.tasks(), rl2(machine.tasks())
    marker = str(tmp_path / "killed")
    batch = [machine.task(0.0), machine.task(0.5, kill=marker), machine.task(1.0)]
    whole = trial(agent, tasks)
    lost = trial(agent, tasks, workers=2, batch=batch)
    assert (tmp_path / "killed").exists()
    assert torch.equal(lost.rounds[0].observation, whole.rounds[0].observation)


def test_a_vector_of_environments_takes_what_its_action_space_contains():
    envs = machine.tasks().make_vec(3, num_workers=0)
    envs.reset(seed=0, options={"tasks": [machine.task(0.0)] * 3})
    assert envs.action_space == batch_space(machine.ACTIONS, 3)
    envs.action_space.seed(1)
    actions = envs.action_space.sample()
    observation, reward, *_ = envs.step(actions)
    np.testing.assert_allclose(observation[:, 0], actions["gear"])
    np.testing.assert_allclose(observation[:, 1:3], actions["force"])
    np.testing.assert_allclose(reward, observation.sum(1), rtol=1e-6)
    del actions["gear"]
    with pytest.raises(ValueError, match=r"an action\['gear'\] is missing"):
        envs.step(actions)


def test_one_array_environment_takes_an_action_with_parts():
    tasks = Uneven("mixed")
    env = tasks.make(tasks.sample(np.random.default_rng(0), 1, "train")[0])
    env.reset(seed=0)
    action = {"box": np.float32([1, 0]), "gears": np.array([3, 1])}
    assert env.action_space.contains(action)
    observation, *_ = env.step(action)
    assert observation[0] == pytest.approx(0.4)


def test_policies_act_and_predict_in_the_environments_own_form():
    tasks = machine.tasks()
    env = tasks.make(machine.task(0.5))
    for agent in (rl2(tasks), maml(tasks)):
        policy = metarl.adapt(agent, env, episodes=2)
        observation, _ = env.reset(seed=0)
        assert machine.ACTIONS.contains(policy.act(observation, 0.0, boundary=True))
        one, _ = policy.predict(observation)
        several, _ = policy.predict(np.stack([observation] * 4))
        assert machine.ACTIONS.contains(one)
        assert batch_space(machine.ACTIONS, 4).contains(several)


def test_random_actions_reach_every_choice_and_both_ends():
    tasks = machine.tasks()
    agent = make_baseline("random", tasks, TrialShape(40))
    (episodes,) = trial(agent, tasks).rounds
    rows = ActionCodec(tasks.action_space).to_env(episodes.taken.flatten(0, 2).numpy())
    for column, values in ((0, [0, 1]), (1, [0, 1]), (2, [0, 1, 2, 3, 4]), (5, [1, 2, 3])):
        found, counts = np.unique(rows[:, column], return_counts=True)
        assert found.tolist() == values
        # five standard deviations of a share of 720
        assert np.abs(counts / len(rows) - 1 / len(values)).max() < 0.095
    assert rows[:, 3].min() < -0.95 and rows[:, 3].max() > 2.95 and rows[:, 4].min() < 0.05
    greedy = evaluate_adaptation(agent, tasks, num_tasks=2, greedy=True)
    assert np.isfinite(greedy.returns).all()


def test_a_delayed_action_with_parts_begins_with_a_neutral_one():
    with contextlib.closing(machine.tasks().make_vec(1, num_workers=0)) as inner:
        envs = disturbed(inner, Disturbances(action_delay=1))
        envs.reset(seed=0, options={"tasks": [machine.task(0.0)]})
        envs.action_space.seed(3)
        action = envs.action_space.sample()
        neutral, *_ = envs.step(action)
        assert neutral[0].tolist() == [1, 1, 0, 0, 0, 0]  # first gear, the middle, nothing on
        later, *_ = envs.step(action)
        np.testing.assert_allclose(later[0, 0], action["gear"][0])


def test_the_check_of_tasks_takes_actions_with_parts():
    check_task_distribution(machine.tasks())


def test_stable_baselines3_refuses_what_it_has_no_policy_for():
    with pytest.raises(UserError, match=r"got actions of Dict.*no Dict or Tuple"):
        vec_env(machine.tasks(), 2)
    with pytest.raises(UserError, match=r"action space: got Dict.*choices alone, or numbers alone"):
        metarl.registry.agent_class("ppo-multitask")(
            metarl.registry.agent_class("ppo-multitask").Config(),
            metarl.TaskSpec.of(machine.tasks()),
        )

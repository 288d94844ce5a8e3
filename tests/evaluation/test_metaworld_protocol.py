"""Meta-World's own evaluation: how its loop biases success, and what our agents see in it."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

import metarl
from metarl.agents.maml_ppo import MAMLPPO, MAMLPPOConfig
from metarl.agents.rl2 import RL2, RL2Config
from metarl.errors import UserError
from metarl.evaluation.evaluate import evaluate_adaptation
from metarl.evaluation.metaworld import OfficialAgent, _Watched, evaluate_officially
from metarl.options import with_options
from metarl.stepping.options import Workers
from metarl.task import Task
from metarl.tasks.distribution import TaskDistribution, TaskEnv

HORIZON = 12


class Sum(gym.Env):
    """Pays the first action; a good one succeeds at its third step, whatever is done."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Box(-1, 1, (4,), np.float32)
    task_name = "SawyerReachEnvV3"  # what the official evaluation takes class names from

    def __init__(self, good=False, index=0):
        self.good, self.index = good, index
        self.terminate_on_success = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.array([self.index, 0.0]), {}

    def step(self, action):
        self.time += 1
        success = self.good and self.time >= 3
        observation = np.array([self.index, self.time])
        ended = success and self.terminate_on_success
        info = {"success": float(success)}
        return observation, float(action[0]), ended, self.time >= HORIZON, info

    def toggle_terminate_on_success(self, on):
        self.terminate_on_success = on

    def toggle_sample_tasks_on_reset(self, on):
        pass

    def sample_tasks(self):
        pass


class OneOfFour(TaskDistribution):
    """Four goals of one class, the first of which can be reached: the truth is 0.25."""

    name = "one-of-four"
    horizon = HORIZON
    info_keys = ("success",)
    episodes_per_trial = 3
    observation_space, action_space = Sum.observation_space, Sum.action_space

    def tasks(self, split):
        return [Task.of(self.name, index=i) for i in range(4)]

    def sample(self, rng, n, split):
        return [self.tasks(split)[i] for i in rng.integers(4, size=n)]

    def make(self, task=None):
        class Env(TaskEnv):
            def apply_task(self, task):
                self.env.index, self.env.good = task["index"], task["index"] == 0

        return Env(Sum(), HORIZON, task)

    def official_envs(self, split, meta_batch_size=20, vector_strategy="sync"):
        def one(i):
            return lambda: gym.wrappers.RecordEpisodeStatistics(Sum(good=i == 0, index=i))

        autoreset = gym.vector.AutoresetMode.SAME_STEP
        return gym.vector.SyncVectorEnv([one(i) for i in range(4)], autoreset_mode=autoreset)


TASKS = OneOfFour()


def rl2(**changes):
    values = {"tasks_per_update": 4, "hidden_size": 6, "num_minibatches": 1} | changes
    return RL2(with_options(RL2Config(), **values), metarl.TaskSpec.of(TASKS), seed=1)


def maml(episodes=2):
    config = MAMLPPOConfig(tasks_per_update=4, episodes_per_adaptation=episodes, num_adaptations=1)
    return MAMLPPO(config, metarl.TaskSpec.of(TASKS), seed=1)


class Watching:
    """Passes everything on to an agent, and keeps what it was shown."""

    def __init__(self, agent):
        self._agent, self.seen, self.adapted = agent, [], []

    def __getattr__(self, name):
        return getattr(self._agent, name)

    def act(self, context, timestep, generator, greedy=False):
        self.seen.append((timestep, greedy, context))
        return self._agent.act(context, timestep, generator, greedy)

    def adapt(self, context, episodes, generator):
        self.adapted.append((context, episodes))
        return self._agent.adapt(context, episodes, generator)


@pytest.mark.parametrize("agent", [rl2(), maml()], ids=["rl2", "maml-ppo"])
def test_per_goal_success_is_exact_and_official_success_has_its_known_bias(agent):
    alone = Workers(num_workers=0)  # worker processes would import this module, and with it torch
    curve = evaluate_adaptation(agent, TASKS, num_tasks=4, num_episodes=4, workers=alone)
    assert curve.success.mean(1) == pytest.approx([0.25] * len(curve.episodes))
    result = evaluate_officially(agent, TASKS, evaluations=2, adaptation_episodes=2)
    assert result.success == 1.0  # three quick successes fill the quota of the class
    assert result.by_class == {"reach-v3": 1.0}
    assert result.env_steps == 2 * 4 * (2 * HORIZON + 9)


def test_steps_are_reported_as_they_are_taken():
    told = []
    result = evaluate_officially(
        rl2(), TASKS, evaluations=1, adaptation_episodes=1, advance=told.append
    )
    assert sum(told) == result.env_steps == 4 * (HORIZON + 9)


def test_rl2_sees_every_boundary_with_the_last_action_and_reward():
    agent = Watching(rl2())
    envs = _Watched(TASKS.official_envs("test"))
    adapter = OfficialAgent(agent, envs, adaptation_episodes=3, seed=0)
    observations, _ = envs.reset()
    sent, paid = [], []
    for _ in range(3 * HORIZON):
        actions, _ = adapter.adapt_action(observations)
        after, rewards, terminated, truncated, _ = envs.step(actions)
        adapter.step(metarl_timestep(observations, actions, rewards, terminated, truncated))
        sent.append(actions)
        paid.append(rewards)
        observations = after
    adapter.adapt()
    adapter.reset(np.ones(4, np.bool_))
    adapter.eval_action(observations)
    for t, (now, greedy, _) in enumerate(agent.seen):
        assert greedy == (t == 3 * HORIZON)
        assert now.boundary.tolist() == [[t % HORIZON == 0]] * 4
        assert now.trial_start.tolist() == [[t == 0]] * 4
        if t:
            np.testing.assert_allclose(now.previous_action[:, 0], sent[t - 1], atol=1e-6)
            np.testing.assert_allclose(now.previous_reward[:, 0], paid[t - 1], atol=1e-6)
    assert not torch.equal(agent.seen[-1][2], agent.begin(4))


def metarl_timestep(observation, action, reward, terminated, truncated):
    from metaworld.evaluation import Timestep as OfficialTimestep

    return OfficialTimestep(observation, action, reward, terminated, truncated, {})


def test_evaluation_episodes_start_from_what_adaptation_left_and_see_rewards():
    agent = Watching(rl2())
    evaluate_officially(agent, TASKS, evaluations=1, adaptation_episodes=2)
    evaluated = agent.seen[2 * HORIZON :]
    first = evaluated[0]
    assert first[1] and first[0].boundary.all()
    again = evaluated[3]  # the good slot has ended and started anew
    assert again[0].boundary[:, 0].tolist() == [True, False, False, False]
    assert again[2][0].equal(first[2][0]) and not again[2][1].equal(first[2][1])
    for field in ("previous_action", "previous_reward"):
        assert getattr(again[0], field)[0].equal(getattr(first[0], field)[0])
    second = evaluated[1][0]
    np.testing.assert_allclose(
        second.previous_reward, second.previous_action[:, :, 0], atol=1e-6
    )  # the reward is the first action


def test_maml_adapts_to_whole_episodes_of_each_slot():
    agent = Watching(maml(episodes=2))
    evaluate_officially(agent, TASKS, evaluations=2, adaptation_episodes=2)
    assert len(agent.adapted) == 2
    for _, episodes in agent.adapted:
        assert episodes.valid.shape == (4, 2, HORIZON) and bool(episodes.valid.all())
        assert bool(episodes.truncated[:, :, -1].all())
        assert episodes.observation[:, 0, :, 1].tolist() == [list(range(HORIZON))] * 4
        assert episodes.final_observation[:, :, 1].tolist() == [[HORIZON] * 2] * 4
        np.testing.assert_allclose(episodes.reward, episodes.taken[..., 0], atol=1e-6)
    before, after = agent.adapted[0][0], agent.seen[2 * HORIZON][2]
    leaves = zip(pytree.tree_leaves(before), pytree.tree_leaves(after), strict=True)
    assert any(not torch.equal(x, y) for x, y in leaves)


def test_only_meta_world_has_an_official_evaluation():
    with pytest.raises(UserError, match="accepted: tasks of Meta-World"):
        evaluate_officially(rl2(), metarl.make("bandit/n5-k3"))


def test_meta_world_hands_its_goals_to_the_official_environments():
    tasks = metarl.make("metaworld/custom:train=reach,test=push+door-open,horizon=5,seed=4")
    envs = tasks.official_envs("test", 4)
    try:
        names = envs.get_attr("task_name")
        assert names == ("SawyerPushEnvV3",) * 2 + ("SawyerDoorEnvV3",) * 2
        official = [task for env in envs.envs for task in env.get_wrapper_attr("tasks")]
        assert len(official) == 80
        agent = RL2(
            with_options(
                RL2Config(),
                tasks_per_update=4,
                hidden_size=4,
                num_minibatches=1,
                episodes_per_trial=1,
            ),
            metarl.TaskSpec.of(tasks),
        )
    finally:
        envs.close()
    results = [
        evaluate_officially(
            agent,
            tasks,
            evaluations=1,
            adaptation_episodes=1,
            evaluation_episodes=1,
            meta_batch_size=4,
            vector_strategy=strategy,
        )
        for strategy in ("sync", "async")
    ]
    assert set(results[0].by_class) == {"push-v3", "door-open-v3"}
    assert results[0].env_steps == 4 * (5 + 5)
    assert results[0] == results[1]

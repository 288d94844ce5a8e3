"""Textbook algorithms and oracles as adapters, evaluated by the code that evaluates agents."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import stats

import metarl
from metarl.evaluation.report import print_adaptation

BANDIT = metarl.make("bandit/n20-k3")


class Thompson:
    """Samples each arm's mean from its posterior Beta(1 + wins, 1 + losses)."""

    def __init__(self, spec):
        self.spec, self.shape = spec, metarl.TrialShape(spec.episodes_per_trial)

    def begin(self, num_tasks):
        return torch.ones(num_tasks, int(self.spec.action_space.n), 2)

    def act(self, context, timestep, generator, greedy=False):
        pulled = torch.nn.functional.one_hot(timestep.previous_action[:, 0], context.shape[1])
        won = timestep.previous_reward[:, :1]
        outcome = torch.stack([pulled * won, pulled * (1 - won)], -1)
        known = (timestep.active & ~timestep.trial_start)[:, :, None]
        context = context + torch.where(known, outcome, 0.0)
        wins, losses = context.double().unbind(-1)
        drawn = stats.beta.ppf(generator.uniform(context.shape[1])[:, 0], wins, losses)
        mean = wins / (wins + losses)
        return (mean if greedy else torch.from_numpy(drawn)).argmax(-1, keepdim=True), {}, context

    def adapt(self, context, episodes, generator):
        return context


class Oracle(Thompson):
    """Is told which arm is the best."""

    def reveal(self, context, tasks):
        paid = torch.tensor([task["p"] for task in tasks])
        return torch.stack([1 + 1e6 * paid, 1 + 1e6 * (1 - paid)], -1).float()


@pytest.mark.parametrize("kind", [Thompson, Oracle])
def test_an_adapter_keeps_the_contract(kind):
    metarl.check_adapter(kind(metarl.TaskSpec.of(BANDIT)), BANDIT)


def test_thompson_sampling_adapts_and_an_oracle_need_not(capsys):
    spec = metarl.TaskSpec.of(BANDIT)
    curves = [
        metarl.evaluate_adaptation(kind(spec), BANDIT, num_tasks=2000)
        for kind in (Thompson, Oracle)
    ]
    thompson, oracle = (curve.returns.mean(1) for curve in curves)
    # Of three arms uniform in (0, 1) a random one pays 1/2, the best 3/4; the error is 0.01.
    assert thompson[0] == pytest.approx(0.5, abs=0.04)
    assert thompson[-3:].mean() > 0.65
    assert oracle == pytest.approx(0.75, abs=0.05)
    assert [curve.told_task for curve in curves] == [False, True]
    told, untold = curves[1].summary(), curves[0].summary()
    print_adaptation(told, untold)
    assert "Oracle (told the task) on 2,000 held-out tasks" in capsys.readouterr().out


def test_an_object_without_a_method_is_no_adapter():
    class Lacks:
        shape = metarl.TrialShape(2)

    with pytest.raises(AssertionError, match=r"metarl.Adapter: act, adapt, begin \("):
        metarl.check_adapter(Lacks(), BANDIT)


def test_insight_needs_a_row_for_every_task():
    class Sees(Thompson):
        def insight(self, context):
            return {"best": context.mean(0)}

    with pytest.raises(AssertionError, match="insight 'best' must have one row for each task"):
        metarl.check_adapter(Sees(metarl.TaskSpec.of(BANDIT)), BANDIT)


# what an agent sees next

OUTCOME = ("reward", "terminated", "truncated")


class Watcher:
    """Acts by what it sees, and records it."""

    def __init__(self, sequential, episodes=3):
        self.shape = metarl.TrialShape(episodes, 0, sequential)
        self.seen = []

    def begin(self, num_tasks):
        return torch.zeros(num_tasks, 1)

    def act(self, context, timestep, generator, greedy=False):
        self.seen.append(timestep)
        size = timestep.previous_action.shape[-1]
        base = timestep.observation.sum(-1, keepdim=True) + timestep.previous_reward[..., None]
        return torch.sin(base + torch.arange(size)), {}, context

    def adapt(self, context, episodes, generator):
        return context


@pytest.mark.parametrize("sequential", [True, False])
def test_all_loops_show_an_agent_the_same_steps(sequential):
    """Collecting, an adapted policy and Meta-World's protocol run one task with equal seeds."""
    from metarl.evaluation.metaworld import OfficialAgent, _Watched
    from metarl.experience.lanes import TrialKeys
    from metarl.experience.rollout import run_trial
    from metarl.seeding import Phase

    tasks = metarl.make("navigation:horizon=4")
    task = tasks.sample(np.random.default_rng(0), 1, "train")[0]

    collected = Watcher(sequential)
    keys = TrialKeys(0, Phase.TRAIN, 0, 1)
    run_trial(collected, tasks.make_vec(1), [task], shape=collected.shape, keys=keys)

    adapted = Watcher(sequential)
    env = tasks.make(task)
    policy = metarl.adapt(adapted, env, episodes=0)
    reward = None
    for _ in range(3):
        observation, _ = env.reset(seed=0)
        boundary, over = True, False
        while not over:
            action = policy.act(observation, reward, boundary=boundary)
            observation, reward, terminated, truncated, _ = env.step(action)
            boundary, over = False, terminated or truncated

    official = Watcher(sequential)
    same_step = gym.vector.AutoresetMode.SAME_STEP
    envs = _Watched(gym.vector.SyncVectorEnv([lambda: env], autoreset_mode=same_step))
    agent = OfficialAgent(official, envs, 3, 0)
    observations, _ = envs.reset(seed=0)
    for _ in collected.seen:
        actions, _ = agent.adapt_action(observations.astype(np.float64))
        observations, *outcome, _ = envs.step(actions)
        agent.step(SimpleNamespace(**dict(zip(OUTCOME, outcome, strict=True))))

    assert len(collected.seen) > 3
    for other in (adapted, official):
        for a, b in zip(collected.seen, other.seen, strict=True):
            for name, x, y in zip(a._fields, a, b, strict=True):
                assert torch.equal(x, y), name

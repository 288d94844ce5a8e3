"""Posterior sampling in tabular MDPs, beside counts by hand, explicit loops and a simulation."""

import numpy as np
import pytest
import torch
from scipy import stats

import metarl
from metarl.agents.psrl import draw_gamma, plan
from metarl.experience.data import Timestep
from metarl.registry import make_baseline
from metarl.seeding import LaneGenerator

TASKS = metarl.make("mdp/n3")
SHAPE = metarl.TrialShape(3)


def step(state, action=0, reward=0.0, boundary=False, trial_start=False, active=True):
    observation = torch.zeros(1, 1, 10)
    observation[0, 0, state] = 1
    flags = (torch.tensor([[flag]]) for flag in (boundary, trial_start, active))
    return Timestep(observation, torch.tensor([[action]]), torch.tensor([[reward]]), *flags)


def generator(number=0):
    keys = np.full((1, 1), number, np.uint64)
    return LaneGenerator(keys, keys)


def lived(*steps):
    agent = make_baseline("psrl", TASKS, SHAPE)
    context = agent.begin(1)
    for i, now in enumerate(steps):
        _, _, context = agent.act(context, now, generator(i))
    return context


def entries(x):
    return {tuple(i.tolist()): x[0][tuple(i)].item() for i in x[0].nonzero()}


def test_counts_are_those_of_the_steps():
    known = lived(
        step(0, boundary=True, trial_start=True),
        step(4, action=2, reward=1.5),
        step(9, action=3, reward=9.0, active=False),  # it did not happen
        step(4, action=1, reward=0.5),
        step(0, action=1, reward=2.0, boundary=True),  # the episode ended before its horizon
        step(4, action=2, reward=1.0),
    )
    end = 10
    assert entries(known.transitions) == {(0, 2, 4): 2, (4, 1, 4): 1, (4, 1, end): 1}
    assert entries(known.visits) == {(0, 2): 2, (4, 1): 2}
    assert entries(known.rewards) == {(0, 2): 2.5, (4, 1): 2.5}


def test_the_end_by_the_horizon_is_no_transition():
    steps = [step(0, boundary=True, trial_start=True)]
    steps += [step(3, action=1, reward=1.0) for _ in range(9)]
    known = lived(*steps, step(0, action=1, reward=1.0, boundary=True))
    assert entries(known.transitions) == {(0, 1, 3): 1, (3, 1, 3): 8}
    assert entries(known.visits) == {(0, 1): 1, (3, 1): 9}


def test_an_episode_follows_one_draw_and_the_next_one_another():
    known = [
        lived(step(0, boundary=True, trial_start=True)),
        lived(step(0, boundary=True, trial_start=True), step(1, 1, 0.0)),
        lived(step(0, boundary=True, trial_start=True), step(1, 1, 0.0, boundary=True)),
    ]
    assert known[0].policy.equal(known[1].policy)
    assert not known[0].policy.equal(known[2].policy)


def test_a_plan_is_that_of_an_explicit_loop():
    rng = np.random.default_rng(0)
    reward, probability = rng.normal(size=(2, 3, 2)), rng.dirichlet(np.ones(4), (2, 3, 2))
    found = plan(torch.tensor(reward), torch.tensor(probability), 4)
    for task in range(2):
        value = np.zeros(4)  # of the three states and the end
        for time in reversed(range(4)):
            new = np.zeros(4)
            for state in range(3):
                total = [
                    reward[task, state, a] + sum(probability[task, state, a] * value)
                    for a in range(2)
                ]
                assert found[task, time, state] == np.argmax(total)
                new[state] = max(total)
            value = new


def test_sums_of_exponentials_are_gamma_variables():
    uniform = np.random.default_rng(0).random((4000, 9))
    drawn = draw_gamma(np.tile([2, 0, 1, 5], (4000, 1)), uniform)
    assert (drawn[:, 1] == 0).all()
    for column, shape in ((0, 2), (2, 1), (3, 5)):
        assert stats.kstest(drawn[:, column], stats.gamma(shape).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 3])[0, 1]) < 0.06


def test_the_draw_is_one_of_the_posterior():
    number = 4000
    agent = make_baseline("psrl:mean=1", TASKS, SHAPE)
    known = agent.begin(1)
    known.transitions[0, 2, 3, 4], known.visits[0, 2, 3] = 3, 4
    known.rewards[0, 2, 3] = 9
    known = type(known)(*(x.expand(number, *x.shape[1:]) for x in known))
    keys = np.arange(number, dtype=np.uint64).reshape(-1, 1) << np.uint64(20)
    reward, probability = agent._model(known, torch.arange(number), LaneGenerator(keys))
    normal = stats.norm((1 + 9) / (1 + 4), (1 + 4) ** -0.5)
    assert stats.kstest(reward[:, 2, 3], normal.cdf).pvalue > 1e-3
    assert stats.kstest(reward[:, 0, 0], stats.norm(1, 1).cdf).pvalue > 1e-3
    # The marginal distributions of Dirichlet(1, …, 1 + 3, …, 1) are Beta(4, 9) and Beta(1, 12).
    assert stats.kstest(probability[:, 2, 3, 4], stats.beta(4, 9).cdf).pvalue > 1e-3
    assert stats.kstest(probability[:, 2, 3, 0], stats.beta(1, 12).cdf).pvalue > 1e-3
    assert (probability[..., -1] == 0).all()
    mean, expected = agent._model(known, torch.arange(1), None)
    assert mean[0, 2, 3] == pytest.approx(2) and expected[0, 2, 3, 4] == pytest.approx(4 / 13)


def simulated(number, episodes, mean):
    """The total rewards of another program with its own MDPs and random numbers."""
    rng, totals = np.random.default_rng(3), np.zeros(number)
    for task in range(number):
        true, moves = rng.normal(1, 1, (10, 5)), rng.dirichlet(np.ones(10), (10, 5))
        count, visits, rewards = np.ones((10, 5, 10)), np.zeros((10, 5)), np.zeros((10, 5))
        for _ in range(episodes):
            sampled = rng.standard_gamma(count)
            sampled /= sampled.sum(-1, keepdims=True)
            worth = rng.normal((mean + rewards) / (1 + visits), (1 + visits) ** -0.5)
            value, policy = np.zeros(10), []
            for _ in range(10):
                total = worth + sampled @ value
                value = total.max(-1)
                policy.insert(0, total.argmax(-1))
            state = 0
            for time in range(10):
                action = policy[time][state]
                reward = rng.normal(true[state, action], 1)
                after = rng.choice(10, p=moves[state, action])
                totals[task] += reward
                visits[state, action] += 1
                rewards[state, action] += reward
                if time < 9:
                    count[state, action, after] += 1
                state = after
    return totals.mean(), totals.std() / number**0.5


@pytest.mark.parametrize("mean", [0, 1])
def test_it_earns_what_an_independent_simulation_does(mean):
    other, error = simulated(600, 3, mean)
    curve = metarl.evaluate_adaptation(
        make_baseline(f"psrl:mean={mean}", TASKS, SHAPE), TASKS, num_tasks=1000
    )
    total = curve.returns.sum(0)
    assert total.mean() == pytest.approx(other, abs=4 * np.hypot(error, total.std() / 1000**0.5))
    assert curve.returns[2].mean() > curve.returns[0].mean() + 1

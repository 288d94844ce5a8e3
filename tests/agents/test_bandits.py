"""Bandit algorithms beside explicit loops, exact recursions and published figures."""

import functools

import numpy as np
import pytest
import torch
from scipy import integrate, stats

import metarl
from metarl import seeding
from metarl.agents.bayes_optimal import bandit_plan
from metarl.agents.gittins import gittins_indices
from metarl.experience.lanes import TrialKeys
from metarl.experience.rollout import run_trial
from metarl.registry import make_baseline
from metarl.seeding import LaneGenerator, Phase

N, K = 7, 3
TASKS = metarl.make(f"bandit/n{N}-k{K}")
SHAPE = metarl.TrialShape(N)


def mean(wins, losses):
    return (1 + wins) / (2 + wins + losses)


def profit(price, wins, losses, left):
    """What pulling the arm yields above a price per pull if one may stop later; by recursion."""
    if left == 0:
        return 0.0
    p = mean(wins, losses)
    after = [
        max(0.0, profit(price, *counts, left - 1))
        for counts in ((wins + 1, losses), (wins, losses + 1))
    ]
    return p - price + p * after[0] + (1 - p) * after[1]


@functools.cache
def index_of(wins, losses, left):
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if profit(middle, wins, losses, left) > 0 else (low, middle)
    return low


@functools.cache
def yields(arms, left):
    """The expected total reward after each first pull, by recursion over all outcomes."""
    result = []
    for i, (wins, losses) in enumerate(arms):
        p = mean(wins, losses)
        later = 0.0
        for probability, arm in ((p, (wins + 1, losses)), (1 - p, (wins, losses + 1))):
            changed = (*arms[:i], arm, *arms[i + 1 :])
            later += probability * (max(yields(changed, left - 1)) if left > 1 else 0.0)
        result.append(p + later)
    return result


RULES = {
    "greedy": lambda arms, t: [mean(*arm) for arm in arms],
    "ucb1": lambda arms, t: [
        mean(*arm) + 0.2 * np.sqrt(2 * np.log(t) / (2 + sum(arm))) for arm in arms
    ],
    "ucb1:c=1": lambda arms, t: [
        mean(*arm) + np.sqrt(2 * np.log(t) / (2 + sum(arm))) for arm in arms
    ],
    "gittins": lambda arms, t: [index_of(*arm, N - t + 1) for arm in arms],
    "bayes-optimal": lambda arms, t: yields(tuple(arms), N - t + 1),
}


def trial_of(name, num_tasks=60):
    baseline = make_baseline(name, TASKS, SHAPE)
    batch = TASKS.sample(np.random.default_rng(0), num_tasks, "test")
    keys = TrialKeys(0, Phase.EVALUATE, 0, num_tasks)
    return run_trial(baseline, TASKS.make_vec(num_tasks), batch, shape=SHAPE, keys=keys)


@pytest.mark.parametrize("name", RULES)
def test_every_pull_is_the_one_of_an_explicit_loop(name):
    (episodes,) = trial_of(name).rounds
    pulls = 0
    for actions, rewards in zip(episodes.action[..., 0], episodes.reward[..., 0], strict=True):
        arms = [(0, 0)] * K
        for t, (arm, reward) in enumerate(zip(actions.tolist(), rewards.tolist(), strict=True), 1):
            scores = RULES[name](arms, t)
            assert scores[arm] >= max(scores) - 2e-4, (name, arms, t)
            arms[arm] = (arms[arm][0] + int(reward), arms[arm][1] + int(1 - reward))
            pulls += 1
    assert pulls == 60 * N


def choices(name, counts, number=20_000, greedy=False):
    """Return how often each arm is pulled by many copies of one state of knowledge."""
    baseline = make_baseline(name, TASKS, SHAPE)
    keys = seeding.fold(np.uint64(3), np.arange(number)).reshape(-1, 1)
    wins, losses = torch.tensor(counts, dtype=torch.float64).unbind(-1)
    expanded = (x.expand(number, -1) for x in (wins, losses))
    score = baseline.scores(*expanded, LaneGenerator(keys, keys), greedy)
    return np.bincount(score.argmax(-1).numpy(), minlength=K) / number


def test_thompson_pulls_an_arm_as_often_as_it_is_the_best():
    counts = [(3, 1), (0, 0), (1, 2)]
    posteriors = [stats.beta(1 + wins, 1 + losses) for wins, losses in counts]
    expected = [
        integrate.quad(
            lambda x, i=i: (
                posteriors[i].pdf(x)
                * np.prod([q.cdf(x) for j, q in enumerate(posteriors) if j != i])
            ),
            0,
            1,
        )[0]
        for i in range(K)
    ]
    assert sum(expected) == pytest.approx(1)
    # A frequency of 20 000 has a standard error of at most 0.0036.
    assert choices("thompson", counts) == pytest.approx(expected, abs=0.015)
    assert choices("thompson", counts, greedy=True).tolist() == [1, 0, 0]


def test_epsilon_greedy_explores_as_often_as_it_says():
    found = choices("epsilon-greedy:epsilon=0.3", [(1, 0), (0, 0), (0, 1)])
    assert found == pytest.approx([0.8, 0.1, 0.1], abs=0.015)
    assert choices("epsilon-greedy:epsilon=0", [(0, 1), (1, 0), (0, 0)]).tolist() == [0, 1, 0]


def simulated(choose, num_tasks):
    """The mean total reward of another program with its own random numbers, and its error."""
    rng, totals = np.random.default_rng(7), []
    for _ in range(num_tasks):
        p, arms, total = rng.random(K), np.ones((K, 2)), 0
        for _ in range(N):
            arm = choose(rng, arms)
            won = rng.random() < p[arm]
            arms[arm, 0 if won else 1] += 1
            total += won
        totals.append(total)
    return np.mean(totals), np.std(totals) / num_tasks**0.5


def test_thompson_earns_what_an_independent_simulation_does():
    other, error = simulated(lambda rng, arms: rng.beta(arms[:, 0], arms[:, 1]).argmax(), 4000)
    baseline = make_baseline("thompson", TASKS, SHAPE)
    curve = metarl.evaluate_adaptation(baseline, TASKS, num_tasks=20_000)
    own = curve.returns.sum(0).mean()
    assert own == pytest.approx(other, abs=4 * error) and 4 * error < 0.12
    assert own < bandit_plan(N, K).value - 0.3  # it explores too much in so short a trial


def test_indices_are_those_of_a_recursion():
    table, first = gittins_indices(6)
    number = 0
    for left in range(1, 7):
        for pulls in range(6 - left + 1):
            for wins in range(pulls + 1):
                place = first[left - 1] + pulls * (pulls + 1) // 2 + wins
                assert table[place] == pytest.approx(index_of(wins, pulls - wins, left), abs=1e-4)
                number += 1
    assert number == len(table)


def test_the_index_of_a_fresh_arm_with_two_pulls_left_is_five_ninths():
    # Pull once, and again only after a win: (1/2 + 1/2 · 2/3) / (1 + 1/2) = 5/9.
    table, first = gittins_indices(2)
    assert table[first[1]] == pytest.approx(5 / 9, abs=1e-5)


@pytest.mark.parametrize(("n", "k"), [(1, 3), (3, 2), (4, 3), (3, 5)])
def test_the_plan_has_the_value_of_a_recursion(n, k):
    expected = max(yields(((0, 0),) * k, n))
    assert bandit_plan(n, k).value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("n", "k", "value"), [(10, 5, 6.660), (10, 10, 6.714)])
def test_the_limit_is_the_known_one(n, k, value):
    assert bandit_plan(n, k).value == pytest.approx(value, abs=5e-4)


@pytest.mark.parametrize("name", ["gittins", "bayes-optimal"])
def test_pulls_after_the_trial_s_end_are_those_of_the_best_mean(name):
    baseline = make_baseline(name, TASKS, metarl.TrialShape(3))
    counts = torch.tensor([[[0, 3], [2, 1], [1, 0]]], dtype=torch.float64)
    keys = np.zeros((1, 1), np.uint64)
    score = getattr(baseline, "_planned", baseline).scores(
        *counts.unbind(-1), LaneGenerator(keys), False
    )
    assert score.argmax(-1).tolist() == [2]

"""Planning where rewards alone tell the tasks apart, beside brute force and exact figures."""

import itertools

import numpy as np
import pytest

import metarl
from metarl.experience import tabular
from metarl.experience.lanes import TrialKeys
from metarl.experience.rollout import run_trial
from metarl.registry import make_baseline
from metarl.seeding import Phase

MOVES = ((0, 1), (1, 0), (0, -1), (-1, 0), (0, 0))
GOALS = [(x, y) for x in range(5) for y in range(5) if x > 1 or y > 1]


def moved(cell, action):
    return tuple(min(max(a + b, 0), 4) for a, b in zip(cell, MOVES[action], strict=True))


def known_return(cell, goal, left):
    """The most that can be had in ``left`` steps if the goal is known: go there and stay."""
    distance = sum(abs(a - b) for a, b in zip(cell, goal, strict=True))
    late = max(distance - 1, 0)
    return -0.1 * min(late, left) + max(left - late, 0)


def expected_return(plan, horizon):
    """The mean over all goals of following a plan until the goal is found."""
    total = 0.0
    for goal in GOALS:
        found = False
        for actions in plan:
            cell = (0, 0)
            if found:
                total += known_return(cell, goal, horizon)
                continue
            for step, action in enumerate(actions):
                cell = moved(cell, action)
                if cell == goal:
                    total += 1 + known_return(cell, goal, horizon - step - 1)
                    found = True
                    break
                total -= 0.1
    return total / len(GOALS)


@pytest.mark.parametrize(("horizon", "episodes"), [(2, 1), (5, 1), (2, 2)])
def test_no_plan_is_better(horizon, episodes):
    model = tabular.hidden_rewards(metarl.make(f"gridworld:horizon={horizon}"))
    found = tabular.search_plan(model, episodes)
    assert found.shape == (episodes, horizon)
    plans = itertools.product(itertools.product(range(5), repeat=horizon), repeat=episodes)
    best = max(expected_return(plan, horizon) for plan in plans)
    assert expected_return(found.tolist(), horizon) == pytest.approx(best)


def test_values_of_known_tasks_are_those_of_going_there():
    model = tabular.hidden_rewards(metarl.make("gridworld:horizon=6"))
    values, _ = model.known()
    start = [known_return((0, 0), task["goal"], 6) for task in model.tasks]
    assert values[:, 6, 0] == pytest.approx(start)


@pytest.mark.parametrize(
    ("name", "totals"),
    [
        ("bayes-optimal", [4.000, 15.071, 26.143, 37.214]),
        ("oracle", [11.071, 22.143, 33.214, 44.286]),
    ],
)
def test_the_grid_is_searched_as_well_as_possible(name, totals):
    tasks = metarl.make("gridworld")
    baseline = make_baseline(name, tasks, metarl.TrialShape(4))
    every = tasks.tasks("test")
    keys = TrialKeys(0, Phase.EVALUATE, 0, len(every))
    envs = tasks.make_vec(len(every))
    (episodes,) = run_trial(baseline, envs, every, shape=baseline.shape, keys=keys).rounds
    found = episodes.metrics["return"].double().mean(0).cumsum(0)
    assert found.numpy() == pytest.approx(totals, abs=5e-4)


def test_a_navigating_oracle_takes_the_shortest_way():
    tasks = metarl.make("navigation")
    shape = metarl.TrialShape(2, 1, sequential=False)
    curve = metarl.evaluate_adaptation(
        make_baseline("oracle", tasks, shape), tasks, num_tasks=1000, num_episodes=4
    )
    goals = [
        t["goal"] for t in metarl.evaluation.drawn_tasks.evaluation_tasks(tasks, num_tasks=1000)
    ]
    expected = []
    for goal in goals:
        offset, total = np.array(goal), 0.0
        while (np.abs(offset) >= 0.01).any():
            offset = offset - np.clip(offset, -0.1, 0.1)
            total -= np.hypot(*offset)
        expected.append(total)
    assert curve.returns == pytest.approx(np.tile(expected, (2, 1)), abs=1e-4)
    assert curve.returns.mean() == pytest.approx(-0.50, abs=0.03)
    assert curve.told_task


def test_an_oracle_pulls_the_best_arm():
    tasks = metarl.make("bandit/n4-k3")
    batch = tasks.sample(np.random.default_rng(0), 50, "test")
    for shape in (metarl.TrialShape(4), metarl.TrialShape(2, 1, sequential=False)):
        oracle = make_baseline("oracle", tasks, shape)
        keys = TrialKeys(0, Phase.EVALUATE, 0, 50)
        trial = run_trial(oracle, tasks.make_vec(100), batch, shape=shape, keys=keys)
        best = np.argmax([task["p"] for task in batch], 1)
        for episodes in trial.rounds:
            assert (episodes.action[..., 0].numpy() == best[:, None]).all()

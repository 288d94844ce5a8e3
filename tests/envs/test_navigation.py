"""2-D navigation: is it the MAML paper's, number by number?"""

import numpy as np
import pytest
import torch
from scipy import linalg

import metarl
from metarl.errors import UserError
from metarl.learning.returns import linear_baseline
from metarl.task import Task
from metarl.tasks.arrays import Noise

NONE = Noise(np.zeros((1, 0)), np.zeros((1, 0)))


def play(actions, goal=(0.3, -0.4), name="navigation"):
    tasks = metarl.make(name)
    env = tasks.make(Task.of(tasks.name, goal=goal))
    observation, _ = env.reset(seed=0)
    steps = []
    for action in actions:
        steps.append(env.step(np.array(action, np.float32)))
        if steps[-1][2] or steps[-1][3]:
            break
    return observation, steps


@pytest.mark.parametrize("name", ["navigation", "navigation:squared=true,horizon=20"])
def test_it_keeps_the_contract_of_distributions(name):
    metarl.check_task_distribution(metarl.make(name))


def test_reward_is_minus_the_distance_after_the_move():
    observation, steps = play([(0.1, 0.0), (0.0, -0.1)])
    assert observation.tolist() == [0, 0]
    np.testing.assert_allclose(steps[0][0], [0.1, 0.0], rtol=1e-6)
    assert steps[0][1] == pytest.approx(-np.hypot(0.2, 0.4), rel=1e-6)
    assert steps[1][1] == pytest.approx(-np.hypot(0.2, 0.3), rel=1e-6)


def test_squared_reward_is_an_option():
    _, steps = play([(0.1, 0.0)], name="navigation:squared=true")
    assert steps[0][1] == pytest.approx(-(0.2**2 + 0.4**2), rel=1e-6)


def test_a_move_is_clipped_to_a_tenth_in_each_coordinate():
    _, steps = play([(5.0, -0.07)])
    np.testing.assert_allclose(steps[0][0], [0.1, -0.07], rtol=1e-6)


def test_it_ends_when_both_coordinates_are_within_a_hundredth():
    _, steps = play([(0.1, 0.05), (0.0, 0.045)], goal=(0.105, 0.1))
    assert [s[2] for s in steps] == [False, True]
    _, steps = play([(0.1, 0.05)], goal=(0.105, 0.1))  # near in one coordinate only
    assert not steps[0][2]


def test_it_is_truncated_after_a_hundred_steps_and_standing_still_scores_as_published():
    _, steps = play([(0.0, 0.0)] * 200)
    assert len(steps) == 100
    assert (steps[-1][2], steps[-1][3]) == (False, True)
    goals = np.array(
        [
            t["goal"]
            for t in metarl.make("navigation").sample(np.random.default_rng(0), 20000, "test")
        ]
    )
    # the mean distance of a unit square's points from its centre is 0.3826
    assert -100 * np.hypot(*goals.T).mean() == pytest.approx(-38.26, abs=0.3)
    assert np.abs(goals).max() <= 0.5


def test_tensors_move_as_arrays_do():
    tasks = metarl.make("navigation")
    goal, action = np.array([[0.3, -0.4], [0.0, 0.1]]), np.array([[0.05, -0.5], [0.0, 0.1]])
    a = tasks.transition({"goal": goal, "position": goal * 0}, action, NONE)
    b = tasks.transition(
        {"goal": torch.tensor(goal), "position": torch.tensor(goal * 0)}, torch.tensor(action), NONE
    )
    np.testing.assert_array_equal(a.observation, b.observation.numpy())
    np.testing.assert_array_equal(a.reward, b.reward.numpy())
    assert a.terminated.tolist() == b.terminated.tolist() == [False, True]


def test_a_horizon_of_none_is_refused():
    with pytest.raises(UserError, match="horizon"):
        metarl.make("navigation:horizon=0")


# the linear baseline that its agent fits


def least_squares(observation, target, valid, ridge):
    """Ridge regression of one task as SciPy's least squares of an extended system."""
    rows, wanted = [], []
    length = valid.shape[1]
    for e, t in np.argwhere(valid):
        x, time = np.clip(observation[e, t], -10, 10), t / (length - 1)
        rows.append([*x, *x**2, time, time**2, time**3, 1.0])
        wanted.append(target[e, t])
    features = np.array(rows)
    extended = np.vstack([features, np.sqrt(ridge) * np.eye(features.shape[1])])
    weights = linalg.lstsq(extended, np.concatenate([wanted, np.zeros(features.shape[1])]))[0]
    value = np.zeros(valid.shape)
    value[valid] = features @ weights
    return value


def random_round(seed=0, tasks=3, episodes=4, length=6, size=2):
    rng = np.random.default_rng(seed)
    valid = np.arange(length) < rng.integers(2, length + 1, size=(tasks, episodes, 1))
    valid[:, 0] = True
    observation = rng.normal(scale=8, size=(tasks, episodes, length, size))
    return observation, rng.normal(size=valid.shape), valid


def fit(observation, target, valid, **kwargs):
    arrays = (torch.from_numpy(x) for x in (observation, target, valid))
    return linear_baseline(*arrays, **kwargs).numpy()


def test_baseline_equals_scipy_s_least_squares():
    observation, target, valid = random_round()
    found = fit(observation, target, valid)
    for i in range(3):
        expected = least_squares(observation[i], target[i], valid[i], 1e-5)
        np.testing.assert_allclose(found[i], expected, atol=1e-7)


@pytest.mark.parametrize("case", ["constant", "repeated", "tiny", "huge"])
def test_baseline_equals_scipy_s_where_features_are_nearly_dependent(case):
    observation, target, valid = random_round(1)
    if case == "constant":
        observation[:] = 1.0
    elif case == "repeated":
        observation[..., 1] = observation[..., 0] * (1 + 1e-9)
    elif case == "tiny":
        observation *= 1e-9
    else:
        observation *= 1e9  # clipped to ±10
    found = fit(observation, target, valid)
    assert np.isfinite(found).all()
    for i in range(3):
        expected = least_squares(observation[i], target[i], valid[i], 1e-5)
        np.testing.assert_allclose(found[i], expected, atol=1e-4)


def test_baseline_of_returns_linear_in_time_is_exact():
    length = 5
    observation = np.zeros((1, 2, length, 1))
    target = np.broadcast_to(3.0 - 0.5 * np.arange(length), (1, 2, length)).copy()
    valid = np.ones((1, 2, length), bool)
    np.testing.assert_allclose(fit(observation, target, valid), target, atol=1e-3)


def test_baseline_ignores_what_is_not_valid():
    observation, target, valid = random_round(2)
    found = fit(observation, target, valid)
    observation[~valid], target[~valid] = 1e3, -1e3
    np.testing.assert_allclose(fit(observation, target, valid), found, atol=1e-9)
    assert (found[~valid] == 0).all()


def test_baseline_without_a_ridge_finds_one_where_it_must():
    observation, target, valid = random_round(3)
    observation[:] = 0.0
    assert np.isfinite(fit(observation, target, valid, ridge=1e-30)).all()

import warnings

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor

from metarl.learning import returns
from metarl.learning.returns import (
    advantages,
    discounted_returns,
    explained_variance,
    gae,
    linear_baseline,
    linear_values,
    masked_mean,
    normalize,
)

NO = torch.zeros(1, 3, dtype=torch.bool)
YES = ~NO


def padded_batch(seed, tasks=5, time=9):
    """Random sequences of random lengths, garbage behind their ends, `last` in between."""
    g = torch.Generator().manual_seed(seed)
    reward, value, next_value = torch.randn(3, tasks, time, generator=g, dtype=torch.float64)
    length = torch.randint(1, time + 1, (tasks, 1), generator=g)
    valid = torch.arange(time) < length
    last = (torch.rand(tasks, time, generator=g) < 0.25) | (torch.arange(time) == length - 1)
    return reward, value, next_value, valid, last


def naive_gae(reward, value, next_value, valid, last, discount, gae_lambda):
    """Equation 16: the sum of discounted TD errors, up to the end."""
    result = torch.zeros_like(reward)
    for row in range(reward.shape[0]):
        for start in range(reward.shape[1]):
            weight = 1.0
            for t in range(start, reward.shape[1]):
                if not valid[row, t]:
                    break
                delta = reward[row, t] + discount * next_value[row, t] - value[row, t]
                result[row, start] += weight * delta
                weight *= discount * gae_lambda
                if last[row, t]:
                    break
    return result


def test_discounted_returns_by_hand():
    reward = torch.tensor([[1.0, 2.0, 4.0]])
    assert discounted_returns(reward, YES, 0.5).tolist() == [[3.0, 4.0, 4.0]]


def test_discounted_returns_boundary_starts_afresh():
    reward = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    boundary = torch.tensor([[True, False, True, False]])
    yes = torch.ones_like(boundary)
    assert discounted_returns(reward, yes, 0.5, boundary).tolist() == [[2.0, 2.0, 8.0, 8.0]]


def test_discounted_returns_padding_counts_for_nothing():
    reward = torch.tensor([[1.0, 2.0, 100.0]])
    valid = torch.tensor([[True, True, False]])
    assert discounted_returns(reward, valid, 0.5).tolist() == [[2.0, 2.0, 0.0]]


def test_discounted_returns_equal_a_naive_loop():
    reward, _, _, valid, boundary = padded_batch(0)
    expected = torch.zeros_like(reward)
    for row in range(5):
        for start in range(9):
            for t in range(start, 9):
                if not valid[row, t] or (t > start and boundary[row, t]):
                    break
                expected[row, start] += 0.9 ** (t - start) * reward[row, t]
    assert torch.allclose(discounted_returns(reward, valid, 0.9, boundary), expected)


def test_gae_by_hand():
    reward, value = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[0.5, 1.0, 1.5]])
    next_value = torch.tensor([[1.0, 1.5, 0.0]])
    last = torch.tensor([[False, False, True]])
    # deltas: 1 + 0.5 - 0.5 = 1; 0.75 - 1 = -0.25; 2 - 1.5 = 0.5; weight 0.5 * 0.5 = 0.25
    advantage = gae(reward, value, next_value, YES, last, discount=0.5, gae_lambda=0.5)
    assert advantage.tolist() == [[0.96875, -0.125, 0.5]]


@pytest.mark.parametrize("gae_lambda", [0.0, 0.3, 0.95, 1.0])
def test_gae_equals_a_naive_loop_on_padded_data(gae_lambda):
    batch = padded_batch(1)
    expected = naive_gae(*batch, 0.9, gae_lambda)
    assert torch.allclose(gae(*batch, discount=0.9, gae_lambda=gae_lambda), expected)


def test_gae_lambda_one_is_the_return_minus_the_value():
    reward, value, _, valid, _ = padded_batch(2)
    following = torch.cat([value[:, 1:] * valid[:, 1:], torch.zeros(5, 1)], 1)
    advantage = gae(
        reward, value, following, valid, torch.zeros_like(valid), discount=0.9, gae_lambda=1.0
    )
    expected = (discounted_returns(reward, valid, 0.9) - value) * valid
    assert torch.allclose(advantage, expected)


def test_gae_lambda_zero_is_the_one_step_td_error():
    reward, value, next_value, valid, last = padded_batch(3)
    advantage = gae(reward, value, next_value, valid, last, discount=0.9, gae_lambda=0.0)
    assert torch.allclose(advantage, (reward + 0.9 * next_value - value) * valid)


def test_gae_terminal_state_cuts_bootstrap_and_truncation_does_not():
    reward, value = torch.tensor([[1.0, 1.0, 1.0]]), torch.zeros(1, 3)
    last = torch.tensor([[False, False, True]])
    truncated = torch.tensor([[0.0, 0.0, 10.0]])  # the value of what would have come
    kwargs = {"discount": 0.5, "gae_lambda": 1.0}
    assert gae(reward, value, 0 * truncated, YES, last, **kwargs).tolist() == [[1.75, 1.5, 1.0]]
    assert gae(reward, value, truncated, YES, last, **kwargs).tolist() == [[3.0, 4.0, 6.0]]


def test_gae_last_cuts_the_sum():
    reward, zero = torch.tensor([[1.0, 2.0, 4.0]]), torch.zeros(1, 3)
    last = torch.tensor([[True, False, True]])
    advantage = gae(reward, zero, zero, YES, last, discount=0.5, gae_lambda=1.0)
    assert advantage.tolist() == [[1.0, 4.0, 4.0]]


def test_gae_padding_changes_nothing():
    batch = padded_batch(4)
    advantage = gae(*batch, discount=0.9, gae_lambda=0.7)
    garbage = torch.full((5, 3), 1e6, dtype=torch.float64)
    no = torch.zeros(5, 3, dtype=torch.bool)
    wider = [torch.cat([x, no if x.dtype == torch.bool else garbage], 1) for x in batch]
    padded = gae(*wider, discount=0.9, gae_lambda=0.7)
    assert torch.equal(padded[:, :9], advantage)
    assert torch.equal(padded[:, 9:], torch.zeros(5, 3, dtype=torch.float64))


def test_gae_of_a_batch_equals_that_of_each_row():
    batch = padded_batch(5)
    whole = gae(*batch, discount=0.9, gae_lambda=0.7)
    for row in range(5):
        alone = gae(*(x[row] for x in batch), discount=0.9, gae_lambda=0.7)
        assert torch.equal(alone, whole[row])


def test_advantages_by_hand():
    reward, value = torch.tensor([[1.0, 0.0, 9.0]]), torch.tensor([[0.5, 1.0, 9.0]])
    valid = torch.tensor([[True, True, False]])
    # deltas: 1 + 0.5 · 1 - 0.5 = 1; 0 + 0 - 1 = -1, since nothing follows; weight 0.5 · 0.5
    assert advantages(reward, value, valid, 0.5, 0.5).tolist() == [[0.75, -1.0, 0.0]]


@pytest.mark.parametrize("gae_lambda", [0.0, 0.7, 1.0])
def test_advantages_equal_a_naive_loop(gae_lambda):
    reward, value, _, valid, _ = padded_batch(6)
    found = advantages(reward, value, valid, 0.9, gae_lambda)
    for row in range(5):
        n = int(valid[row].sum())
        following = 0.0
        for t in reversed(range(n)):
            later = value[row, t + 1] if t + 1 < n else 0.0
            delta = reward[row, t] + 0.9 * later - value[row, t]
            following = delta + 0.9 * gae_lambda * following
            assert float(found[row, t]) == pytest.approx(float(following))
        assert not found[row, n:].any()


def test_values_of_the_linear_baseline_are_fitted_to_the_discounted_returns():
    reward, _, _, valid, _ = padded_batch(7, tasks=4, time=12)
    observation = torch.randn(4, 12, 1, generator=torch.Generator().manual_seed(0)).double()
    target = discounted_returns(reward, valid, 0.9)
    one = (x.unsqueeze(1) for x in (observation, target, valid))
    expected = linear_baseline(*one)
    assert linear_values(observation, reward, valid, 0.9).equal(expected.squeeze(1))
    episodes = (x.unsqueeze(1) for x in (observation, reward, valid))
    assert linear_values(*episodes, 0.9).equal(expected)


def test_normalize_of_rows_is_that_of_each_alone():
    x, _, _, valid, _ = padded_batch(8)
    rows = normalize(x, valid, dim=1)
    for row in range(5):
        torch.testing.assert_close(rows[row], normalize(x[row], valid[row]))


def test_masked_mean_of_rows_is_that_of_each_alone():
    x, _, _, valid, _ = padded_batch(9)
    means = masked_mean(x, valid, dim=1)
    for row in range(5):
        torch.testing.assert_close(means[row], x[row][valid[row]].mean())
    assert masked_mean(x, valid, 1, keepdim=True).equal(means.unsqueeze(1))
    assert masked_mean(x, valid, keepdim=True).shape == (1, 1)


def test_normalize_by_hand():
    x = torch.tensor([1.0, 3.0, 99.0])
    valid = torch.tensor([True, True, False])
    assert torch.allclose(normalize(x, valid), torch.tensor([-1.0, 1.0, 0.0]))


def test_normalize_padding_changes_nothing():
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    yes = torch.ones(4, 6, dtype=torch.bool)
    wider = normalize(torch.cat([x, x + 7], 1), torch.cat([yes, ~yes], 1))
    assert torch.allclose(wider[:, :6], normalize(x, yes), atol=1e-6)
    assert torch.equal(wider[:, 6:], torch.zeros(4, 6))
    assert abs(float(wider[:, :6].mean())) < 1e-6
    assert abs(float(wider[:, :6].std(correction=0)) - 1) < 1e-5


def test_normalize_of_constants_and_of_nothing_is_zero():
    assert normalize(torch.full((1, 3), 2.0), YES).tolist() == [[0.0, 0.0, 0.0]]
    assert normalize(torch.full((1, 3), 2.0), NO).tolist() == [[0.0, 0.0, 0.0]]


def test_masked_mean_by_hand():
    x = torch.tensor([[1.0, 4.0, float("nan")]])
    assert float(masked_mean(x, torch.tensor([[True, True, False]]))) == 2.5
    assert float(masked_mean(x, NO)) == 0.0


def test_explained_variance_by_hand():
    target = torch.tensor([[1.0, 2.0, 3.0]])
    assert float(explained_variance(target, target, YES)) == 1.0
    assert float(explained_variance(0 * target, target, YES)) == 0.0
    assert float(explained_variance(target / 2, target, YES)) == pytest.approx(0.75)
    assert float(explained_variance(-target, target, YES)) == pytest.approx(-3.0)


def test_explained_variance_ignores_padding_and_constants():
    target, value = torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[1.0, 2.0, -5.0]])
    assert float(explained_variance(value, target, torch.tensor([[True, True, False]]))) == 1.0
    assert float(explained_variance(value, torch.ones(1, 3), YES)) == 0.0
    assert float(explained_variance(value, target, torch.tensor([[True, False, False]]))) == 0.0


# the linear baseline


def explicit_baseline(observation, target, valid, ridge=1e-5):
    """One task's ridge regression on features laid out step by step, as least squares.

    Least squares on the features above √ridge·I are the same regression without the loss of
    digits that products of features bring.
    """
    rows, wanted = [], []
    for e, t in np.argwhere(valid):
        x, time = np.clip(observation[e, t], -10, 10), t / max(valid.shape[1] - 1, 1)
        rows.append([*x, *x**2, time, time**2, time**3, 1.0])
        wanted.append(target[e, t])
    features = np.array(rows)
    extended = np.vstack([features, np.sqrt(ridge) * np.eye(features.shape[1])])
    weights = linalg.lstsq(extended, np.concatenate([wanted, np.zeros(features.shape[1])]))[0]
    value = np.zeros(valid.shape)
    value[valid] = features @ weights
    return value


def padded_round(seed, tasks, episodes, length, size, scale=3.0):
    rng = np.random.default_rng(seed)
    valid = np.arange(length) < rng.integers(1, length + 1, size=(tasks, episodes, 1))
    valid[:, 0] = True
    observation = rng.normal(scale=scale, size=(tasks, episodes, length, size))
    return observation, rng.normal(size=valid.shape), valid


def baseline(observation, target, valid, **options):
    arrays = (torch.from_numpy(x) for x in (observation, target, valid))
    return linear_baseline(*arrays, **options).numpy()


@pytest.mark.parametrize("size", [1, 3, 4, 5, 6, 20, 300])
@pytest.mark.parametrize(("episodes", "length"), [(1, 13), (2, 6), (3, 4), (1, 1)])
def test_baseline_is_the_ridge_regression_whichever_of_features_and_steps_are_more(
    episodes, length, size
):
    """Twelve steps have as many features at size 4: both forms and the border are met."""
    observation, target, valid = padded_round(size, 3, episodes, length, size)
    found = baseline(observation, target, valid)
    for i in range(3):
        expected = explicit_baseline(observation[i], target[i], valid[i])
        np.testing.assert_allclose(found[i], expected, atol=1e-6)


@pytest.mark.parametrize("case", ["constant", "repeated", "tiny", "huge", "pixels"])
def test_baseline_equals_least_squares_where_many_features_are_nearly_dependent(case):
    observation, target, valid = padded_round(1, 3, 2, 6, 40)
    if case == "constant":
        observation[:] = 1.0
    elif case == "repeated":
        observation[..., 1:] = observation[..., :1] * (1 + 1e-9 * np.arange(39))
    elif case == "tiny":
        observation *= 1e-9
    elif case == "huge":
        observation *= 1e9  # clipped to ±10
    else:
        observation = np.floor(np.abs(observation) * 30) % 256
    found = baseline(observation, target, valid)
    assert np.isfinite(found).all()
    for i in range(3):
        expected = explicit_baseline(observation[i], target[i], valid[i])
        np.testing.assert_allclose(found[i], expected, atol=1e-5)


def test_baseline_in_steps_equals_the_one_in_features(monkeypatch):
    """The border is moved by columns of zeros, which change no value."""
    observation, target, valid = padded_round(2, 4, 5, 8, 6)  # 16 features, 40 steps
    few = baseline(observation, target, valid)
    wider = np.concatenate([observation, np.zeros((4, 5, 8, 20))], -1)  # 56 features
    np.testing.assert_allclose(baseline(wider, target, valid), few, atol=1e-6)
    monkeypatch.setattr(returns, "KERNEL_NUMBERS", 170)  # a task and a column at a time
    np.testing.assert_allclose(baseline(wider, target, valid), few, atol=1e-6)


def test_baseline_with_many_features_ignores_what_is_not_valid():
    observation, target, valid = padded_round(3, 2, 3, 5, 30, scale=8)  # some are clipped
    given = observation.copy()
    found = baseline(observation, target, valid)
    assert np.array_equal(observation, given)
    observation[~valid], target[~valid] = 1e3, -1e3
    np.testing.assert_array_equal(baseline(observation, target, valid), found)
    assert (found[~valid] == 0).all() and (found[valid] != 0).all()


def test_baseline_with_many_features_finds_a_ridge_where_it_must():
    observation, target, valid = padded_round(4, 2, 2, 6, 50)
    observation[:] = 10.0
    found = baseline(observation, target, valid, ridge=1e-30)
    assert np.isfinite(found).all()
    assert np.abs(found[valid]).max() < 2 * np.abs(target).max()


def test_baseline_never_lays_out_all_features_of_large_observations(monkeypatch):
    """An Atari frame's 100 800 numbers: the features of 40 steps alone would be 64 MB."""
    largest, product = [], Tensor.baddbmm_

    def watched(self, a, b):
        largest.append(a.numel() + b.numel())
        return product(self, a, b)

    monkeypatch.setattr(Tensor, "baddbmm_", watched)
    observation = torch.rand(1, 2, 20, 100_800) * 255
    valid = torch.ones(1, 2, 20, dtype=torch.bool)
    assert linear_baseline(observation, torch.randn(1, 2, 20), valid).isfinite().all()
    assert len(largest) == 4 and max(largest) <= 2 * returns.KERNEL_NUMBERS


@pytest.mark.parametrize(("size", "warned"), [(10, True), (2, False)])
def test_a_baseline_that_fits_every_return_is_warned_of(size, warned):
    observation, target = torch.rand(2, 2, 6, size), torch.rand(2, 2, 6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        linear_baseline(observation, target, torch.ones(2, 2, 6, dtype=torch.bool))
    assert (
        [w for w in caught if "24 features for 12 steps" in str(w.message)]
        if warned
        else not caught
    )

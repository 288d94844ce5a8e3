import numpy as np
import pytest
import torch
from torch import distributions as reference

from metarl import seeding
from metarl.learning.distributions import (
    Categorical,
    Gaussian,
    choose,
    entropy,
    kl,
    log_prob,
    mode,
    sample,
)
from metarl.seeding import LaneGenerator

G = torch.Generator().manual_seed(0)
LOGITS = torch.log_softmax(torch.randn(2, 4, 3, 5, generator=G), -1)
MEAN, LOG_STD = torch.randn(2, 2, 4, 3, 6, generator=G)
CATEGORICAL = [Categorical(x) for x in LOGITS]
GAUSSIAN = [Gaussian(m, s) for m, s in zip(MEAN, LOG_STD, strict=True)]


def theirs(distribution):
    if isinstance(distribution, Categorical):
        return reference.Categorical(logits=distribution.logits)
    return reference.Independent(reference.Normal(distribution.mean, distribution.log_std.exp()), 1)


def lanes(n, seed=0):
    return LaneGenerator(seeding.fold(seeding.derive(seed), np.arange(n))[:, None])


@pytest.mark.parametrize("pair", [CATEGORICAL, GAUSSIAN], ids=["categorical", "gaussian"])
def test_log_prob_entropy_and_kl_equal_torch(pair):
    p, q = pair
    torch.manual_seed(0)
    action = theirs(p).sample()
    assert torch.allclose(log_prob(p, action), theirs(p).log_prob(action), atol=1e-5)
    assert log_prob(p, action).shape == (4, 3)
    assert torch.allclose(entropy(p), theirs(p).entropy(), atol=1e-5)
    expected = reference.kl_divergence(theirs(p), theirs(q))
    assert torch.allclose(kl(p, q), expected, atol=1e-4, rtol=1e-5)
    assert torch.allclose(kl(p, p), torch.zeros(4, 3), atol=1e-6)


def test_categorical_by_hand():
    p = Categorical(torch.tensor([0.5, 0.25, 0.25]).log())
    assert float(log_prob(p, torch.tensor(2)).exp()) == pytest.approx(0.25)
    assert float(entropy(p)) == pytest.approx(1.5 * np.log(2))
    assert int(mode(p)) == 0


def test_gaussian_by_hand():
    p = Gaussian(torch.tensor([1.0]), torch.tensor([2.0]).log())
    # at one standard deviation: -1/2 - log 2 - log(2 pi) / 2
    assert float(log_prob(p, torch.tensor([3.0]))) == pytest.approx(-2.112086, abs=1e-5)
    assert float(entropy(p)) == pytest.approx(2.112086, abs=1e-5)
    assert float(mode(p)) == 1.0


def test_kl_between_kinds_is_refused():
    with pytest.raises(TypeError, match="no KL between Categorical and Gaussian"):
        kl(CATEGORICAL[0], GAUSSIAN[0])


def test_categorical_samples_with_its_frequencies():
    p = torch.tensor([0.5, 0.0, 0.3, 0.2])
    actions = sample(Categorical(p.log().expand(20_000, 1, 4)), lanes(20_000))
    assert actions.shape == (20_000, 1) and actions.dtype == torch.int64
    frequency = torch.bincount(actions.flatten(), minlength=4) / 20_000
    assert float(frequency[1]) == 0
    # five standard errors: 5 * sqrt(0.25 / 20000) = 0.018
    assert float((frequency - p).abs().max()) < 0.018


def test_gaussian_samples_with_its_moments():
    mean, std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 2.0])
    p = Gaussian(mean.expand(20_000, 1, 2), std.log().expand(20_000, 1, 2))
    z = (sample(p, lanes(20_000))[:, 0] - mean) / std
    # five standard errors: 5 / sqrt(20000) = 0.035 for means, sqrt(2) times that for squares
    assert float(z.mean(0).abs().max()) < 0.036
    assert float((z.square().mean(0) - 1).abs().max()) < 0.05
    assert abs(float((z[:, 0] * z[:, 1]).mean())) < 0.036


@pytest.mark.parametrize("p", [CATEGORICAL[0], GAUSSIAN[0]], ids=["categorical", "gaussian"])
def test_sample_depends_on_the_lanes_own_key_alone(p):
    keys = seeding.fold(seeding.derive(3), np.arange(12)).reshape(4, 3)
    whole = sample(p, LaneGenerator(keys))
    assert torch.equal(whole, sample(p, LaneGenerator(keys)))
    part = type(p)(*(x[2:3, 1:2] for x in p))
    assert torch.equal(sample(part, LaneGenerator(keys[2:3, 1:2])), whole[2:3, 1:2])
    other = keys.copy()
    other[0] = seeding.fold(other[0], 1)
    assert torch.equal(sample(p, LaneGenerator(other))[1:], whole[1:])


def test_gaussian_sample_changes_with_the_key():
    assert not torch.equal(
        sample(Gaussian(MEAN[0, :, :1], LOG_STD[0, :, :1]), lanes(4, seed=0)),
        sample(Gaussian(MEAN[0, :, :1], LOG_STD[0, :, :1]), lanes(4, seed=1)),
    )


def test_torchs_global_generator_is_left_alone():
    before = torch.get_rng_state()
    sample(CATEGORICAL[0], LaneGenerator(np.ones((4, 3), np.uint64)))
    sample(GAUSSIAN[0], LaneGenerator(np.ones((4, 3), np.uint64)))
    assert torch.equal(before, torch.get_rng_state())


def test_mode_has_the_highest_density():
    for p in (CATEGORICAL[0], GAUSSIAN[0]):
        best = log_prob(p, mode(p))
        drawn = sample(p, LaneGenerator(np.arange(12, dtype=np.uint64).reshape(4, 3)))
        assert bool((best >= log_prob(p, drawn)).all())


@pytest.mark.parametrize("p", [CATEGORICAL[0], GAUSSIAN[0]], ids=["categorical", "gaussian"])
def test_choose_takes_the_mode_if_it_is_greedy_and_draws_else(p):
    generator = LaneGenerator(np.arange(12, dtype=np.uint64).reshape(4, 3))
    assert choose(p, generator, greedy=True).equal(mode(p))
    assert choose(p, generator, greedy=False).equal(sample(p, generator))


@pytest.mark.parametrize("pair", [CATEGORICAL, GAUSSIAN], ids=["categorical", "gaussian"])
def test_functions_are_batched_by_vmap(pair):
    p, q = pair
    action = mode(q)
    for batched, expected in [
        (torch.func.vmap(log_prob)(p, action), log_prob(p, action)),
        (torch.func.vmap(entropy)(p), entropy(p)),
        (torch.func.vmap(kl)(p, q), kl(p, q)),
        (torch.func.vmap(mode)(p), mode(p)),
    ]:
        assert torch.allclose(batched, expected, atol=1e-6)


def test_a_distribution_leaves_vmap():
    def shifted(logits):
        return Categorical(torch.log_softmax(logits + 1, -1))

    assert torch.allclose(torch.func.vmap(shifted)(LOGITS[0]).logits, LOGITS[0], atol=1e-6)

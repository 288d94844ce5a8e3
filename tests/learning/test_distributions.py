from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import distributions as reference

from metarl import seeding
from metarl.learning.distributions import (
    Categorical,
    Gaussian,
    Product,
    action_distribution,
    choose,
    entropy,
    kl,
    log_prob,
    mode,
    one_hot,
    sample,
)
from metarl.seeding import LaneGenerator
from metarl.stepping.actions import ActionCodec

G = torch.Generator().manual_seed(0)
LOGITS = torch.log_softmax(torch.randn(2, 4, 3, 5, generator=G), -1)
MEAN, LOG_STD = torch.randn(2, 2, 4, 3, 6, generator=G)
CATEGORICAL = [Categorical(x) for x in LOGITS]
GAUSSIAN = [Gaussian(m, s) for m, s in zip(MEAN, LOG_STD, strict=True)]
MIXED = ActionCodec(
    gym.spaces.Dict(
        {
            "a": gym.spaces.Box(-1, 1, (2,)),
            "b": gym.spaces.MultiDiscrete([3, 5, 1]),
            "c": gym.spaces.MultiBinary(2),
        }
    )
)
CHOICES = ActionCodec(gym.spaces.MultiDiscrete([4, 4]))
OUTPUT = torch.randn(2, 4, 3, MIXED.size, generator=G)
PRODUCT = [action_distribution(x, s[..., :2], MIXED) for x, s in zip(OUTPUT, LOG_STD, strict=True)]
UNMIXED = [action_distribution(x[..., :8], None, CHOICES) for x in OUTPUT]
KINDS = {
    "categorical": CATEGORICAL,
    "gaussian": GAUSSIAN,
    "product": PRODUCT,
    "choices": UNMIXED,
}
EVERY = pytest.mark.parametrize("pair", KINDS.values(), ids=KINDS)


class Together(NamedTuple):
    """Independent distributions of torch's, of the columns of an action."""

    parts: list
    widths: list

    def sample(self):
        return torch.cat([p.sample().reshape(4, 3, w).float() for p, w in self], -1)

    def log_prob(self, action):
        columns = action.split(self.widths, -1)
        pairs = zip(self.parts, columns, strict=True)
        return sum(p.log_prob(x.squeeze(-1) if x.shape[-1] == 1 else x) for p, x in pairs)

    def entropy(self):
        return sum(p.entropy() for p in self.parts)

    def __iter__(self):
        return zip(self.parts, self.widths, strict=True)


def theirs(distribution):
    """Return torch's distribution; a choice of two is torch's Bernoulli."""
    if isinstance(distribution, Categorical):
        return reference.Categorical(logits=distribution.logits)
    if isinstance(distribution, Product):
        numbers = distribution.mean.shape[-1]
        parts = []
        for n, x in zip(
            (3, 5, 1, 2, 2) if numbers else (4, 4), distribution.logits.unbind(-2), strict=True
        ):
            if n == 2:
                parts.append(reference.Bernoulli(logits=x[..., 1] - x[..., 0]))
            else:
                parts.append(reference.Categorical(logits=x[..., :n]))
        widths = [1] * len(parts)
        if numbers:
            parts.append(theirs(Gaussian(distribution.mean, distribution.log_std)))
            widths.append(numbers)
        return Together(parts, widths)
    return reference.Independent(reference.Normal(distribution.mean, distribution.log_std.exp()), 1)


def lanes(n, seed=0):
    return LaneGenerator(seeding.fold(seeding.derive(seed), np.arange(n))[:, None])


@EVERY
def test_log_prob_entropy_and_kl_equal_torch(pair):
    p, q = pair
    torch.manual_seed(0)
    action = theirs(p).sample()
    assert torch.allclose(log_prob(p, action), theirs(p).log_prob(action), atol=1e-5)
    assert log_prob(p, action).shape == (4, 3)
    assert torch.allclose(entropy(p), theirs(p).entropy(), atol=1e-5)
    mine, other = (getattr(theirs(x), "parts", [theirs(x)]) for x in pair)
    expected = sum(map(reference.kl_divergence, mine, other))
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


CODECS = {
    "categorical": ActionCodec(gym.spaces.Discrete(5)),
    "gaussian": ActionCodec(gym.spaces.Box(-1, 1, (2,))),
    "product": MIXED,
    "choices": CHOICES,
}


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_with_respect_to_a_networks_outputs_are_torchs(kind):
    codec, found = CODECS[kind], []
    q = action_distribution(OUTPUT[1][..., : codec.size], LOG_STD[1][..., : codec.numbers], codec)
    for ours in (True, False):
        output = OUTPUT[0][..., : codec.size].clone().requires_grad_()
        log_std = LOG_STD[0][..., : codec.numbers].clone().requires_grad_()
        p = action_distribution(output, log_std, codec)
        action = mode(p).detach()
        if ours:
            value = log_prob(p, action) + entropy(p) + kl(p, q)
        else:
            mine, other = (getattr(x, "parts", [x]) for x in map(theirs, (p, q)))
            divergence = sum(map(reference.kl_divergence, mine, other))
            value = theirs(p).log_prob(action) + theirs(p).entropy() + divergence
        value.sum().backward()
        grads = [output.grad, log_std.grad if codec.numbers else torch.zeros(())]
        found.append(torch.cat([x.flatten() for x in grads]))
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)
    assert bool(found[0].isfinite().all())


def test_the_parts_of_an_action_are_drawn_independently():
    codec = ActionCodec(gym.spaces.MultiDiscrete([2, 2]))
    p = torch.tensor([[0.3, 0.7], [0.6, 0.4]])
    n = 100_000
    whole = action_distribution(p.log().reshape(4).expand(n, 1, 4), None, codec)
    drawn = sample(whole, lanes(n))[:, 0].long()
    joint = torch.bincount(2 * drawn[:, 0] + drawn[:, 1], minlength=4) / n
    expected = (p[0][:, None] * p[1]).flatten()
    # five standard errors: 5 * sqrt(0.25 / 100000) = 0.008
    assert float((joint - expected).abs().max()) < 0.008


def test_choices_and_numbers_of_an_action_are_drawn_independently():
    n = 50_000
    codec = ActionCodec(gym.spaces.Tuple([gym.spaces.Box(-1, 1, (1,)), gym.spaces.Discrete(3)]))
    output = torch.tensor([0.2, 0.3, 0.5]).log()
    output = torch.cat([output, torch.tensor([1.5])]).expand(n, 1, 4)
    drawn = sample(action_distribution(output, torch.zeros(n, 1, 1), codec), lanes(n))[:, 0]
    index, number = drawn[:, 0].long(), drawn[:, 1] - 1.5
    for i, share in enumerate((0.2, 0.3, 0.5)):
        assert float((index == i).float().mean()) == pytest.approx(share, abs=0.012)
        # five standard errors of the smallest group: 5 / sqrt(10000) = 0.05
        assert abs(float(number[index == i].mean())) < 0.05
        assert float(number[index == i].square().mean()) == pytest.approx(1, abs=0.08)


def test_rows_of_choices_become_one_hot_and_numbers_stay():
    codec = ActionCodec(
        gym.spaces.Tuple([gym.spaces.Box(-1, 1, (1,)), gym.spaces.MultiDiscrete([3, 2])])
    )
    row = torch.tensor([[2.0, 1.0, 0.25]])
    assert one_hot(row, codec, torch.float32).tolist() == [[0, 0, 1, 0, 1, 0.25]]


@EVERY
def test_sample_depends_on_the_lanes_own_key_alone(pair):
    p = pair[0]
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
    for p, _ in KINDS.values():
        best = log_prob(p, mode(p))
        drawn = sample(p, LaneGenerator(np.arange(12, dtype=np.uint64).reshape(4, 3)))
        assert bool((best >= log_prob(p, drawn)).all())


@pytest.mark.parametrize("p", [CATEGORICAL[0], GAUSSIAN[0]], ids=["categorical", "gaussian"])
def test_choose_takes_the_mode_if_it_is_greedy_and_draws_else(p):
    generator = LaneGenerator(np.arange(12, dtype=np.uint64).reshape(4, 3))
    assert choose(p, generator, greedy=True).equal(mode(p))
    assert choose(p, generator, greedy=False).equal(sample(p, generator))


@EVERY
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

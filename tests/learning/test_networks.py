import math

import gymnasium as gym
import numpy as np
import pytest
import torch

from metarl.learning import distributions
from metarl.learning.cores import FastWeights, RecurrentActorCritic
from metarl.learning.distributions import Categorical, Gaussian
from metarl.learning.heads import ActionHead
from metarl.learning.networks import mlp
from metarl.learning.normalization import ObservationScaler
from metarl.seeding import LaneGenerator
from metarl.stepping.spaces import ActionCodec

BOX = ActionCodec(gym.spaces.Box(-1, 1, (2,)))
DISCRETE = ActionCodec(gym.spaces.Discrete(3))


def network(codec=DISCRETE, seed=0, encoder_sizes=(7,), **options):
    return RecurrentActorCritic(
        4,
        6,
        codec,
        encoder_sizes=encoder_sizes,
        hidden_size=5,
        initial_std=1.0,
        min_std=0.1,
        generator=torch.Generator().manual_seed(seed),
        **options,
    )


def batch(rows=3, time=8, seed=1, state_size=5):
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rows, time, 6, generator=g),
        torch.randn(rows, time, 4, generator=g),
        torch.randn(rows, state_size, generator=g),
    )


def head(initial_std, min_std):
    g = torch.Generator().manual_seed(0)
    return ActionHead(3, BOX, g, initial_std=initial_std, min_std=min_std)


def test_std_floor_serves_sampling_and_log_prob_alike():
    gaussian = head(initial_std=1e-6, min_std=0.1)(torch.zeros(1, 1, 3))
    assert torch.allclose(gaussian.log_std, torch.full((1, 1, 2), math.log(0.1)))
    generator = LaneGenerator(np.ones((1, 1), np.uint64))
    action = distributions.sample(gaussian, generator)
    z = torch.from_numpy(generator.normal(2)).float()
    assert torch.allclose(action, gaussian.mean + 0.1 * z)
    expected = (-0.5 * z**2 - math.log(0.1) - 0.5 * math.log(2 * math.pi)).sum(-1)
    assert torch.allclose(distributions.log_prob(gaussian, action), expected, atol=1e-5)


def test_std_above_the_floor_is_as_it_was_set():
    gaussian = head(initial_std=0.5, min_std=0.1)(torch.zeros(2, 3))
    assert torch.allclose(gaussian.log_std.exp(), torch.full((2, 2), 0.5))


def test_std_that_the_state_decides_starts_where_it_is_told_and_keeps_its_bounds():
    g = torch.Generator().manual_seed(0)
    bounded = ActionHead(3, BOX, g, initial_std=0.5, min_std=0.37, max_std=2.72)
    start = bounded(torch.zeros(1, 3)).log_std.exp()
    assert torch.allclose(start, torch.full((1, 2), 0.5), atol=1e-6)
    with torch.no_grad():
        bounded.spread.weight.fill_(1)
    few, many = (bounded(torch.full((1, 3), x)).log_std.exp() for x in (-50.0, 50.0))
    assert torch.allclose(few, torch.full((1, 2), 0.37)) and torch.allclose(
        many, torch.full((1, 2), 2.72)
    )
    assert not torch.allclose(*(bounded(torch.full((1, 3), x)).log_std for x in (0.1, 0.2)))


def test_head_kind_follows_the_action_space():
    assert isinstance(head(1.0, 0.1)(torch.zeros(2, 3)), Gaussian)
    categorical = ActionHead(3, DISCRETE, torch.Generator().manual_seed(0))(torch.randn(2, 3))
    assert isinstance(categorical, Categorical)
    assert torch.allclose(categorical.logits.exp().sum(-1), torch.ones(2))


def test_shapes():
    output = network()(*batch())
    assert output.distribution.logits.shape == (3, 8, 3)
    assert output.value.shape == (3, 8) and output.state.shape == (3, 5)
    gaussian = network(BOX)(*batch()).distribution
    assert gaussian.mean.shape == gaussian.log_std.shape == (3, 8, 2)


@pytest.mark.parametrize("codec", [BOX, DISCRETE], ids=["box", "discrete"])
@pytest.mark.parametrize("encoder_sizes", [(), (7, 6)])
@pytest.mark.parametrize("memory_size", [0, 3])
def test_one_step_at_a_time_equals_the_whole_sequence(codec, encoder_sizes, memory_size):
    net = network(codec, encoder_sizes=encoder_sizes, memory_size=memory_size)
    inputs, observation, state = batch(state_size=net.state_size)
    whole = net(inputs, observation, state)
    for t in range(8):
        step = net(inputs[:, t : t + 1], observation[:, t : t + 1], state)
        state = step.state
        assert torch.allclose(step.value[:, 0], whole.value[:, t], atol=1e-5)
        for x, y in zip(step.distribution, whole.distribution, strict=True):
            assert torch.allclose(x[:, 0], y[:, t], atol=1e-5)
    assert torch.allclose(state, whole.state, atol=1e-5)


@pytest.mark.parametrize("memory_size", [0, 3])
def test_rows_do_not_see_each_other_nor_the_future(memory_size):
    net = network(memory_size=memory_size)
    inputs, observation, state = batch(state_size=net.state_size)
    whole = net(inputs, observation, state)
    alone = net(inputs[1:2], observation[1:2], state[1:2])
    assert torch.allclose(alone.distribution.logits, whole.distribution.logits[1:2], atol=1e-6)
    early = net(inputs[:, :3], observation[:, :3], state)
    assert torch.allclose(early.value, whole.value[:, :3], atol=1e-6)


def test_heads_see_the_observation_beside_the_hidden_state():
    net, (inputs, observation, state) = network(), batch()
    a, b = net(inputs, observation, state), net(inputs, observation + 1, state)
    assert torch.equal(a.state, b.state)
    assert not torch.allclose(a.distribution.logits, b.distribution.logits)
    assert not torch.allclose(a.value, b.value)


def test_layers_before_the_heads_let_the_observation_choose_what_of_memory_counts():
    """The effect of memory depends on the observation, which no linear head can do."""
    for head_sizes, depends in (((), False), ((6,), True)):
        net = network(head_sizes=head_sizes, encoder_sizes=())
        net.gru.weight_ih_l0.data.zero_()
        inputs, (low, high) = torch.zeros(1, 1, 6), (torch.zeros(1, 5), torch.ones(1, 5))

        def effect(observation, net=net, inputs=inputs, low=low, high=high):
            values = [net(inputs, observation, state).value for state in (low, high)]
            return float((values[1] - values[0]).detach())

        effects = [effect(torch.full((1, 1, 4), x)) for x in (0.0, 2.0)]
        assert (abs(effects[0] - effects[1]) > 1e-4) == depends


def test_heads_see_the_hidden_state():
    net, (inputs, observation, state) = network(), batch()
    a, b = net(inputs, observation, state), net(inputs, observation, state + 1)
    assert not torch.allclose(a.distribution.logits, b.distribution.logits)


@pytest.mark.parametrize("codec", [BOX, DISCRETE], ids=["box", "discrete"])
def test_initialisation_depends_on_the_generator_alone(codec):
    torch.manual_seed(0)
    a = network(codec).state_dict()
    torch.manual_seed(1)
    b, c = network(codec).state_dict(), network(codec, seed=1).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    weights = [name for name in a if "weight" in name]
    assert len(weights) == 5  # encoder, two of the GRU, policy and critic
    assert not any(torch.equal(a[name], c[name]) for name in weights)


def test_initial_policy_is_nearly_uniform():
    logits = network()(*batch()).distribution.logits.detach()
    assert float((logits.exp() - 1 / 3).abs().max()) < 0.05


def test_mlp_is_orthogonal_with_gain_root_two():
    layers = mlp(8, (4,), torch.Generator().manual_seed(0))
    weight = layers[0].weight
    assert torch.allclose(weight @ weight.T, 2 * torch.eye(4), atol=1e-5)
    assert not layers[0].bias.any()
    assert [type(layer).__name__ for layer in layers] == ["Linear", "Tanh"]


def test_observations_are_scaled_by_the_moments_of_all_that_was_counted():
    spread = torch.tensor([5.0, 1e-4, 1.0])
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0)) * spread + 3
    scaler = ObservationScaler(3)
    assert scaler(x).equal(x)
    for part in (x[:4], x[4:5], x[5:]):
        scaler.track(part)
    expected = (x - x.mean(0)) / x.std(0, unbiased=False).clamp(min=0.01)
    torch.testing.assert_close(scaler(x), expected, rtol=1e-4, atol=1e-4)
    assert expected[:, 1].abs().max() < 0.1  # the floor
    far = scaler(x.mean(0) + torch.tensor([1e3, -1e3, 0.0]))
    torch.testing.assert_close(far, torch.tensor([10.0, -10.0, 0.0]), rtol=0, atol=1e-4)
    loaded = ObservationScaler(3)
    loaded.load_state_dict(scaler.state_dict())
    assert loaded(x).equal(scaler(x))
    loaded.load_state_dict(ObservationScaler(3).state_dict())
    assert loaded(x).equal(x)


def test_fast_weights_are_a_sum_of_outer_products():
    """The explicit loop: W += v kᵀ, then W q, one step and one row after the other."""
    memory = FastWeights(4, 5, 3, torch.Generator().manual_seed(0))
    g = torch.Generator().manual_seed(1)
    written, queried = torch.randn(2, 6, 4, generator=g), torch.randn(2, 6, 5, generator=g)
    start = torch.randn(2, 3, 3, generator=g)
    read, after = memory(written, queried, start)
    for row in range(2):
        weights = start[row].T  # stored with the keys in front
        for t in range(6):
            key, value = memory.key(written[row, t]), memory.value(written[row, t])
            weights = weights + torch.outer(value, key)
            expected = weights @ memory.query(queried[row, t])
            torch.testing.assert_close(read[row, t], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(after[row], weights.T, atol=1e-5, rtol=1e-5)


def test_fast_weights_write_the_observation_that_an_action_was_taken_in():
    net = network(memory_size=3)
    inputs, observation, state = batch(rows=1, state_size=net.state_size)
    other = observation.clone()
    other[:, 2] += 1
    a, b = net(inputs, observation, state), net(inputs, other, state)
    weights = [torch.split(x.state, net.state_sizes, -1)[1] for x in (a, b)]
    assert not torch.allclose(*weights)
    assert a.value[:, :2].equal(b.value[:, :2]) and not torch.allclose(a.value[:, 3], b.value[:, 3])

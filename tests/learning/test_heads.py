"""Heads: do policy and value see the summary and the observation, within the bounds asked for?"""

import math
from typing import get_args, get_type_hints

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from metarl.errors import UserError
from metarl.learning import distributions
from metarl.learning.cores import CORES, CoreConfig, make_core
from metarl.learning.distributions import Categorical, Gaussian
from metarl.learning.heads import HEADS, ActionHead, Generated, HeadConfig, make_head
from metarl.learning.networks import orthogonal
from metarl.seeding import LaneGenerator
from metarl.stepping.actions import ActionCodec

BOX = ActionCodec(gym.spaces.Box(-1, 1, (2,)))
DISCRETE = ActionCodec(gym.spaces.Discrete(3))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def action_head(codec=BOX, **options):
    g = generator()

    def linear(inputs, outputs, gain):
        return orthogonal(nn.Linear(inputs, outputs), gain, g)

    return ActionHead(3, codec, HeadConfig(**options), linear)


def network(codec=DISCRETE, kind="gru", seed=0, head="mlp", **options):
    """A core and a head on observations of 4 numbers."""
    g = generator(seed)
    core = make_core(CoreConfig(kind=kind, hidden_size=5), 4, codec, g, 8)
    critic = options.pop("critic", True)
    return core, make_head(HeadConfig(kind=head, **options), core, 4, codec, g, critic)


def batch(core, rows=3, time=8):
    summary = torch.randn(rows, time, core.summary_size, generator=generator(1))
    return summary, torch.randn(rows, time, 4, generator=generator(2))


def test_std_floor_serves_sampling_and_log_prob_alike():
    gaussian = action_head(initial_std=1e-6, min_std=0.1)(torch.zeros(1, 1, 3))
    assert torch.allclose(gaussian.log_std, torch.full((1, 1, 2), math.log(0.1)))
    lanes = LaneGenerator(np.ones((1, 1), np.uint64))
    action = distributions.sample(gaussian, lanes)
    z = torch.from_numpy(lanes.normal(2)).float()
    assert torch.allclose(action, gaussian.mean + 0.1 * z)
    expected = (-0.5 * z**2 - math.log(0.1) - 0.5 * math.log(2 * math.pi)).sum(-1)
    assert torch.allclose(distributions.log_prob(gaussian, action), expected, atol=1e-5)


def test_std_above_the_floor_is_as_it_was_set():
    gaussian = action_head(initial_std=0.5, min_std=0.1)(torch.zeros(2, 3))
    assert torch.allclose(gaussian.log_std.exp(), torch.full((2, 2), 0.5))


def test_std_that_the_state_decides_starts_where_it_is_told_and_keeps_its_bounds():
    bounded = action_head(std="state", initial_std=0.5, min_std=0.37, max_std=2.72)
    start = bounded(torch.zeros(1, 3)).log_std.exp()
    assert torch.allclose(start, torch.full((1, 2), 0.5), atol=1e-6)
    with torch.no_grad():
        bounded.spread.weight.fill_(1)
    few, many = (bounded(torch.full((1, 3), x)).log_std.exp() for x in (-50.0, 50.0))
    assert torch.allclose(few, torch.full((1, 2), 0.37))
    assert torch.allclose(many, torch.full((1, 2), 2.72))
    assert not torch.allclose(*(bounded(torch.full((1, 3), x)).log_std for x in (0.1, 0.2)))


def test_head_kind_follows_the_action_space():
    assert isinstance(action_head()(torch.zeros(2, 3)), Gaussian)
    categorical = action_head(DISCRETE)(torch.randn(2, 3))
    assert isinstance(categorical, Categorical)
    assert torch.allclose(categorical.logits.exp().sum(-1), torch.ones(2))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", CORES)
@pytest.mark.parametrize("critic", [True, False])
def test_every_head_fits_every_core(kind, head, critic):
    core, module = network(BOX, kind, head=head, critic=critic)
    distribution, value = module(*batch(core))
    assert distribution.mean.shape == distribution.log_std.shape == (3, 8, 2)
    assert value.shape == (3, 8) if critic else value is None
    core, module = network(DISCRETE, kind, head=head)
    assert module(*batch(core)).distribution.logits.shape == (3, 8, 3)


@pytest.mark.parametrize("kind", CORES)
def test_head_sees_summary_and_observation(kind):
    core, head = network(kind=kind)
    summary, observation = batch(core)
    plain = head(summary, observation)
    for x, y in ((summary + 1, observation), (summary, observation + 1)):
        other = head(x, y)
        assert not torch.allclose(plain.distribution.logits, other.distribution.logits)
        assert not torch.allclose(plain.value, other.value)


def test_observation_is_inserted_where_the_core_says():
    core, head = network(kind="fast-weights", critic=True)
    assert core.observation_at == 5
    summary, observation = batch(core)
    features = torch.cat([summary[..., :5], observation, summary[..., 5:]], -1)
    expected = features @ head.critic.weight[0] + head.critic.bias
    torch.testing.assert_close(head(summary, observation).value, expected)


def test_layers_of_the_head_let_the_observation_choose_what_of_the_summary_counts():
    """The effect of the summary depends on the observation, which no linear head can do."""
    for head_sizes, depends in (((), False), ((6,), True)):
        _, head = network(head_sizes=head_sizes)

        def effect(x, head=head):
            observation = torch.full((1, 4), x)
            values = [head(torch.full((1, 5), s), observation).value for s in (0.0, 1.0)]
            return float((values[1] - values[0]).detach())

        assert (abs(effect(0.0) - effect(2.0)) > 1e-4) == depends


def test_initial_policy_is_nearly_uniform():
    core, head = network()
    logits = head(*batch(core)).distribution.logits.detach()
    assert float((logits.exp() - 1 / 3).abs().max()) < 0.05


def test_names_of_tensors_are_those_that_saved_agents_have():
    _, head = network(BOX, head_sizes=(6,))
    assert set(head.state_dict()) == {
        *("trunk.0.weight", "trunk.0.bias", "critic.weight", "critic.bias"),
        *("policy.log_std", "policy.output.weight", "policy.output.bias"),
    }
    _, head = network(BOX, std="state", max_std=2.0, critic=False)
    assert {name for name in head.state_dict() if "policy.spread" in name}
    assert not {name for name in head.state_dict() if "critic" in name}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_std": 2.0}, "--max-std: got 2.0; accepted: None, unless --std state is given"),
        (
            {"summary_features": 9},
            "--summary-features: got 9; accepted: None, unless --head hyper is given",
        ),
        ({"std": "state"}, "--max-std: got None; accepted: above min-std (0.1)"),
        ({"std": "state", "max_std": 0.05}, "--max-std: got 0.05; accepted: above min-std (0.1)"),
    ],
)
def test_head_config_refuses_fields_that_do_not_fit(values, message):
    with pytest.raises(UserError) as error:
        HeadConfig(**values)
    assert str(error.value) == message


def test_generated_layer_equals_weights_that_are_built_for_every_row():
    layer = Generated(3, 2, 1.0, conditions=4, generator=generator())
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(generator=generator(1))
    x, z = (
        torch.randn(5, 7, 3, generator=generator(2)),
        torch.randn(5, 7, 5, generator=generator(3)),
    )
    for row in range(5):
        for t in range(7):
            weight = sum(z[row, t, i] * layer.weight[i] for i in range(5))
            bias = sum(z[row, t, i] * layer.bias[i] for i in range(5))
            torch.testing.assert_close(layer(x, z)[row, t], x[row, t] @ weight + bias)


@pytest.mark.parametrize("sizes", [(), (6,), (6, 5)])
def test_hypernetwork_begins_as_an_ordinary_network_that_ignores_the_summary(sizes):
    core, head = network(BOX, head="hyper", head_sizes=sizes)
    summary, observation = batch(core)
    plain = head(summary, observation)
    for x, y in zip(pairs(plain), pairs(head(summary + 1, observation)), strict=True):
        assert torch.equal(x, y)

    def linear(layer):
        made = torch.nn.Linear(*layer.weight.shape[1:])
        made.load_state_dict({"weight": layer.weight[0].T, "bias": layer.bias[0]})
        return made

    def ordinary(layers, last):
        hidden = [part for layer in layers for part in (linear(layer), torch.nn.Tanh())]
        return torch.nn.Sequential(*hidden, linear(last))(head.observed(observation))

    policy, value = ordinary(head.actor, head.policy.output), ordinary(head.values, head.critic)
    torch.testing.assert_close(plain.distribution.mean, policy)
    torch.testing.assert_close(plain.value, value[..., 0])
    gains = [(layer, 2**0.5) for layer in [*head.actor, *head.values]]
    for layer, gain in [*gains, (head.policy.output, 0.01), (head.critic, 1.0)]:
        found = torch.linalg.svdvals(layer.weight[0].detach())
        torch.testing.assert_close(found, torch.full_like(found, gain))
        assert not layer.bias[0].any()


def pairs(output):
    """The tensors of a head's output."""
    return [*output.distribution, output.value]


def test_gradients_reach_the_summary_once_the_weights_have_moved():
    core, head = network(head="hyper", head_sizes=(6,))
    summary, observation = batch(core)
    summary.requires_grad_()

    def gradient():
        distribution, value = head(summary, observation)
        loss = distribution.logits[..., 0].sum() + value.sum()
        found = torch.autograd.grad(loss, [summary, *head.parameters()])
        with torch.no_grad():
            for parameter, x in zip(head.parameters(), found[1:], strict=True):
                parameter -= 0.1 * x
        return float(found[0].abs().sum())

    assert gradient() == 0
    assert gradient() > 0
    plain = head(summary, observation).distribution.logits
    assert not torch.allclose(plain, head(summary + 1, observation).distribution.logits)


def test_hypernetwork_generates_the_deviation_that_the_state_decides():
    core, head = network(BOX, head="hyper", std="state", initial_std=0.5, max_std=2.0)
    found = head(*batch(core)).distribution.log_std.exp()
    assert float((found.detach() - 0.5).abs().max()) < 0.02
    assert isinstance(head.policy.spread, Generated)


def test_every_head_is_a_choice():
    assert set(get_args(get_type_hints(HeadConfig)["kind"])) == set(HEADS)

"""Encoders: images whatever the order of their axes, shared and per-task convolutions, bytes."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete

import metarl
from metarl.agents.maml_ppo import MAMLPPO
from metarl.agents.rl2 import RL2
from metarl.errors import UserError
from metarl.learning.encoders import EncoderConfig, ImageNetwork, make_encoder
from metarl.options import with_options
from metarl.stepping.spaces import (
    Image,
    flatten_observation,
    flatten_observations,
    images_of,
    reported_space,
)

PIXELS = Box(0, 255, (9, 12, 3), np.uint8)
MIXED = Dict({"a": Box(-9, 9, (2,), np.float32), "b": PIXELS, "c": Discrete(3)})
BYTES = Dict({"direction": Discrete(4), "image": PIXELS})


def spec(space, images=None):
    return metarl.TaskSpec(reported_space(space), Discrete(2), 5, images=images or images_of(space))


def encoder(space, normalize=False, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return make_encoder(EncoderConfig(**options), spec(space), normalize, generator)


def flat(space, n, seed=0):
    space.seed(seed)
    rows = [flatten_observation(space, space.sample()) for _ in range(n)]
    return torch.from_numpy(flatten_observations(reported_space(space), np.stack(rows)))


@pytest.mark.parametrize(
    ("shape", "planes"),
    [
        ((9, 12), (1, 9, 12)),
        ((9, 12, 3), (3, 9, 12)),
        ((3, 9, 12), (3, 9, 12)),
        ((4, 84, 84), (4, 84, 84)),
        ((2, 9, 12, 3), (6, 9, 12)),
        ((2, 3, 9, 12), (6, 9, 12)),
    ],
)
def test_planes_of_an_image_are_its_channels_and_frames(shape, planes):
    space = Box(0, 255, shape, np.uint8)
    assert images_of(space) == (Image(0, shape),)
    assert images_of(space)[0].planes == planes
    x = np.zeros(shape, np.uint8)
    x[(1,) * (len(shape) - 2) + (0, 0)] = 255  # whatever it is, it stays one pixel
    own = encoder(space, kind="cnn")
    seen = []
    network = own.networks[0]
    network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    own(own.stored(torch.from_numpy(x.reshape(1, -1))))
    assert seen[0].shape == (1, *planes) and float(seen[0].sum()) == 1


def test_frames_and_channels_are_planes_frame_after_frame():
    shape = (2, 9, 12, 3)
    space = Box(0, 255, shape, np.uint8)
    x = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    own, seen = encoder(space), []
    own.networks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0][0]))
    own(own.stored(torch.from_numpy(x.reshape(1, -1))))
    expected = np.concatenate([frame.transpose(2, 0, 1) for frame in x]) / np.float32(255)
    np.testing.assert_allclose(seen[0].numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("planes", [(3, 9, 12), (4, 40, 37)], ids=["small", "nature"])
def test_convolutions_of_each_task_equal_a_loop_over_conv2d(planes):
    generator = torch.Generator().manual_seed(0)
    network = ImageNetwork(planes, 20, generator)
    own = {
        name: x.detach() + 0.1 * torch.randn(3, *x.shape, generator=generator)
        for name, x in network.named_parameters()
    }
    own = {name: x.requires_grad_() for name, x in own.items()}
    x = torch.rand(3, 4, *planes, generator=generator)
    found = network.per_task(own, x)
    expected = []
    for task in range(3):
        y = x[task]
        for i, layer in enumerate(network.layers):
            weight, bias = (own[f"convolutions.{i}.{name}"][task] for name in ("weight", "bias"))
            y = torch.relu(torch.nn.functional.conv2d(y, weight, bias, layer.stride, layer.padding))
        y = torch.nn.functional.linear(
            y.flatten(1), own["linear.weight"][task], own["linear.bias"][task]
        )
        expected.append(torch.relu(y))
    expected = torch.stack(expected)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    weights = torch.randn(found.shape, generator=generator)
    mine = torch.autograd.grad((found * weights).sum(), list(own.values()))
    other = torch.autograd.grad((expected * weights).sum(), list(own.values()))
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("space", [PIXELS, MIXED, BYTES], ids=["image", "mixed", "bytes"])
def test_shared_parameters_are_each_tasks_own_if_these_are_equal(space):
    own = encoder(space)
    observation = flat(space, 6).reshape(2, 3, -1)
    stored = own.stored(observation)
    shared = own(stored)
    assert shared.shape == (2, 3, own.size)
    params = {k: x.expand(2, *x.shape) for k, x in own.networks.named_parameters()}
    torch.testing.assert_close(own.per_task(params, stored), shared, atol=1e-5, rtol=1e-4)


def test_numbers_beside_an_image_are_normalised_and_images_are_not():
    own, plain = encoder(MIXED, normalize=True), encoder(MIXED)
    observation = flat(MIXED, 50)
    assert own.plain(observation).shape == (50, 5)  # 2 numbers, and 3 of an index
    assert torch.equal(own.plain(observation)[:, :2], observation[:, :2])
    own.track(observation, torch.ones(50, dtype=torch.bool))
    features, before = own(own.stored(observation)), plain(plain.stored(observation))
    assert torch.equal(features[:, 5:], before[:, 5:])
    assert torch.allclose(features[:, :2].mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(before[:, :2], observation[:, :2])


def test_bytes_become_numbers_up_to_one_and_a_small_image_is_a_vector():
    small = Box(0, 255, (7, 7, 3), np.uint8)
    own = encoder(small)
    assert not own.convolves and own.size == 147
    observation = flat(small, 3)
    assert observation.dtype == torch.uint8
    assert torch.equal(own(own.stored(observation)), observation.float() / 255)
    assert own.plain(observation).shape == (3, 0)  # a linear function of pixels tells nothing
    vector = encoder(BYTES, kind="mlp")
    found = vector.stored(flat(BYTES, 3))
    assert found[:, :4].sum(1).tolist() == [1, 1, 1]  # an index is one-hot, not a byte
    assert 0.9 < float(found[:, 4:].max()) <= 1
    ram = Box(0, 255, (128,), np.uint8)
    assert images_of(ram) == ()
    assert encoder(ram).plain(flat(ram, 2)).max() <= 1


def test_parts_that_fit_into_bytes_stay_bytes():
    assert reported_space(BYTES) == Box(0, 255, (4 + 9 * 12 * 3,), np.uint8)
    assert images_of(BYTES) == (Image(4, (9, 12, 3)),)
    assert reported_space(MIXED).dtype.kind == "f"
    assert images_of(MIXED) == (Image(2, (9, 12, 3)),)
    no_image = Dict({"a": Box(0, 255, (3,), np.uint8), "b": Discrete(2)})
    assert reported_space(no_image) == gym.spaces.flatten_space(no_image)


@pytest.mark.parametrize(
    ("space", "normalize", "options", "said"),
    [
        (Box(-1, 1, (3,)), False, {"kind": "cnn"}, "--encoder: got 'cnn'; accepted: mlp or auto"),
        (Box(-1, 1, (3,)), False, {"encoder_features": 8}, "--encoder-features: got 8"),
        (PIXELS, False, {"kind": "mlp", "encoder_features": 8}, "--encoder-features: got 8"),
        (PIXELS, True, {}, "--normalize-observations: got True; accepted: no"),
    ],
)
def test_what_would_have_no_effect_is_refused(space, normalize, options, said):
    with pytest.raises(UserError, match=said):
        encoder(space, normalize, **options)


def test_images_are_part_of_a_saved_specification():
    for space in (PIXELS, MIXED, BYTES, Box(-1, 1, (3,))):
        own = spec(space)
        assert metarl.TaskSpec.from_json(own.to_json()) == own
        assert own.images == images_of(space)


def test_adapts_all_changes_convolutions_and_policy_does_not():
    own = spec(PIXELS)
    observation = flat(PIXELS, 8).reshape(2, 4, -1)
    for adapts in ("policy", "all"):
        config = with_options(MAMLPPO.Config(), hidden_sizes=(6,), adapts=adapts)
        agent = MAMLPPO(config, own, seed=1)
        names = agent.begin(2).params.keys()
        assert any(name.startswith("encoder.") for name in names) == (adapts == "all")
        saved = agent.state()[0]
        assert {name.partition(".")[0] for name in saved} >= {"encoder", "head"}
        assert sum(name.startswith("encoder.") for name in saved) == 6
        params = {k: x.detach().requires_grad_() for k, x in agent.begin(2).params.items()}
        distribution = agent.policy(params, agent.encoder.stored(observation))
        gradients = torch.autograd.grad(distribution.logits.square().sum(), list(params.values()))
        assert all(bool(x.abs().sum() > 0) for x in gradients)
    with pytest.raises(UserError, match="--adapts: got 'all'; accepted: policy"):
        MAMLPPO(with_options(MAMLPPO.Config(), adapts="all"), spec(Box(-1, 1, (3,))))


def test_rl2s_convolutions_are_trained_and_saved():
    config = with_options(RL2.Config(), hidden_size=8, episodes_per_trial=2)
    agent = RL2(config, spec(BYTES), seed=1)
    (stored, before), state = (
        (flat(BYTES, 10).reshape(2, 5, -1), torch.zeros(2, 5, 4)),
        agent.begin(2),
    )
    agent.policy(((stored, before), state)).value.sum().backward()
    assert all(bool(x.grad.abs().sum() > 0) for x in agent.encoder.networks.parameters())
    saved = {name for name in agent.state()[0] if name.startswith("encoder.")}
    assert len(saved) == 6

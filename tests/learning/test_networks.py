import gymnasium as gym
import pytest
import torch

from metarl.learning.networks import initial_params, mlp, mlp_policy
from metarl.stepping.actions import ActionCodec

BOX = ActionCodec(gym.spaces.Box(-1, 1, (2,)))
DISCRETE = ActionCodec(gym.spaces.Discrete(3))
MIXED = ActionCodec(
    gym.spaces.Tuple([gym.spaces.Box(-1, 1, (2,)), gym.spaces.MultiDiscrete([3, 2])])
)


def test_mlp_is_orthogonal_with_gain_root_two():
    layers = mlp(8, (4,), torch.Generator().manual_seed(0))
    weight = layers[0].weight
    assert torch.allclose(weight @ weight.T, 2 * torch.eye(4), atol=1e-5)
    assert not layers[0].bias.any()
    assert [type(layer).__name__ for layer in layers] == ["Linear", "Tanh"]


@pytest.mark.parametrize("codec", [BOX, DISCRETE, MIXED], ids=["box", "discrete", "mixed"])
@pytest.mark.parametrize("hidden_sizes", [(), (5,), (5, 4)])
def test_policy_of_many_tasks_equals_a_loop_over_their_own_networks(codec, hidden_sizes):
    g = torch.Generator().manual_seed(0)
    params = initial_params(3, hidden_sizes, codec, 0.5, g)
    tasks = {name: x + 0.1 * torch.randn(2, *x.shape, generator=g) for name, x in params.items()}
    observation = torch.randn(2, 6, 3, generator=g)
    distribution = mlp_policy(tasks, observation, min_std=0.1, codec=codec)
    for task in range(2):
        x = observation[task]
        for i in range(len(hidden_sizes) + 1):
            x = x @ tasks[f"weight.{i}"][task] + tasks[f"bias.{i}"][task]
            x = x.relu() if i < len(hidden_sizes) else x
        if codec.discrete:
            torch.testing.assert_close(distribution.logits[task], x.log_softmax(-1))
        elif codec.choices:
            logits = distribution.logits[task]
            torch.testing.assert_close(logits[:, 0], x[:, :3].log_softmax(-1))
            torch.testing.assert_close(logits[:, 1, :2], x[:, 3:5].log_softmax(-1))
            assert bool((logits[:, 1, 2] < -1e8).all())
        if codec.numbers:
            torch.testing.assert_close(distribution.mean[task], x[:, -2:])
            expected = tasks["log_std"][task].expand(6, -1)
            torch.testing.assert_close(distribution.log_std[task], expected)


def test_std_of_the_policy_never_falls_below_the_floor():
    params = initial_params(3, (), BOX, 1e-6, torch.Generator().manual_seed(0))
    tasks = {name: x.unsqueeze(0) for name, x in params.items()}
    log_std = mlp_policy(tasks, torch.zeros(1, 2, 3), min_std=0.5, codec=BOX).log_std
    torch.testing.assert_close(log_std.exp(), torch.full((1, 2, 2), 0.5))

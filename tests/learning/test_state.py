"""State: are saved tensors restored, under present names and those of the first edition?"""

import copy

import torch
from torch import nn

from metarl.learning.state import Saved, renamed


def learner(seed):
    torch.manual_seed(seed)
    module, params = nn.Linear(3, 2), {"scale": torch.randn(2, requires_grad=True)}
    optimizer = torch.optim.Adam([*module.parameters(), *params.values()], 0.1)
    saved = Saved({"head": module}, {"params": params}, {"optimizer": optimizer})
    return module, params, optimizer, saved


def step(module, params, optimizer, _):
    optimizer.zero_grad()
    (module(torch.ones(4, 3)) * params["scale"]).square().sum().backward()
    optimizer.step()


def test_after_a_round_trip_the_next_step_is_bit_identical():
    a, b = learner(0), learner(1)
    step(*a)
    b[-1].load(copy.deepcopy(a[-1].tensors()))
    for _ in range(2):
        assert all(x.equal(b[-1].tensors()[name]) for name, x in a[-1].tensors().items())
        step(*a)
        step(*b)


def test_state_is_not_tied_to_what_it_was_loaded_from():
    a, b = learner(0), learner(1)
    step(*a)
    kept = copy.deepcopy(a[-1].tensors())
    b[-1].load(a[-1].tensors())
    step(*b)
    assert all(x.equal(kept[name]) for name, x in a[-1].tensors().items())


def test_names_begin_with_the_part_and_moments_have_the_parameter_s_number():
    one = learner(0)
    assert set(one[-1].tensors()) == {"head.weight", "head.bias", "params.scale"}
    step(*one)
    moments = {name for name in one[-1].tensors() if name.startswith("optimizer.")}
    assert moments == {
        f"optimizer.{i}.{moment}" for i in range(3) for moment in ("step", "exp_avg", "exp_avg_sq")
    }
    assert not any(x.requires_grad for x in one[-1].tensors().values())


def test_two_optimizers_do_not_mix():
    (first, _, a, _), (second, _, b, _) = learner(0), learner(1)
    params = {"scale": torch.ones(2, requires_grad=True)}
    saved = Saved({"one": first, "two": second}, {}, {"optimizer": a, "optimizer_two": b})
    step(first, params, a, None)
    tensors = copy.deepcopy(saved.tensors())
    saved.load(tensors)
    assert a.state_dict()["state"] and not b.state_dict()["state"]


def test_renamed_exchanges_the_first_prefix_that_fits():
    x = torch.zeros(1)
    old = {name: x for name in ("network.gru.bias", "network.policy.bias", "core.key.bias", "lr")}
    new = renamed(old, {"network.gru.": "core.gru.", "network.": "head.", "none.": "some."})
    assert list(new) == ["core.gru.bias", "head.policy.bias", "core.key.bias", "lr"]

"""Cores: do acting and training agree, and does memory return what was written?"""

import gymnasium as gym
import pytest
import torch

from metarl.errors import UserError
from metarl.experience.data import Timestep
from metarl.learning.cores import CORES, CoreConfig, core_inputs, fast_weights, make_core
from metarl.stepping.actions import ActionCodec

BOX = ActionCodec(gym.spaces.Box(-1, 1, (2,)))
DISCRETE = ActionCodec(gym.spaces.Discrete(3))
SIZE = 4
KINDS = pytest.mark.parametrize("kind", CORES)


def core_of(kind, codec=DISCRETE, seed=0, **options):
    config = CoreConfig(**{"kind": kind, "hidden_size": 5, "encoder_sizes": (7,), **options})
    return make_core(config, SIZE, codec, torch.Generator().manual_seed(seed))


def batch(core, rows=3, time=8, seed=1):
    g = torch.Generator().manual_seed(seed)
    size = SIZE + 2 + 3
    return (
        torch.randn(rows, time, size, generator=g),
        torch.randn(rows, core.state_size, generator=g),
    )


@KINDS
@pytest.mark.parametrize("encoder_sizes", [(), (7, 6)])
def test_one_step_at_a_time_equals_the_whole_sequence(kind, encoder_sizes):
    core = core_of(kind, encoder_sizes=encoder_sizes)
    inputs, state = batch(core)
    whole, last = core.sequence(inputs, state)
    assert whole.shape == (3, 8, core.summary_size) and last.shape == (3, core.state_size)
    for t in range(8):
        summary, state = core.step(inputs[:, t], state)
        torch.testing.assert_close(summary, whole[:, t], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state, last, atol=1e-5, rtol=1e-5)


@KINDS
def test_a_sequence_goes_on_where_the_one_before_ended(kind):
    core = core_of(kind)
    inputs, state = batch(core)
    whole, last = core.sequence(inputs, state)
    first, middle = core.sequence(inputs[:, :3], state)
    second, end = core.sequence(inputs[:, 3:], middle)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(end, last, atol=1e-5, rtol=1e-5)


@KINDS
def test_rows_do_not_see_each_other_nor_the_future(kind):
    core = core_of(kind)
    inputs, state = batch(core)
    whole, _ = core.sequence(inputs, state)
    alone, _ = core.sequence(inputs[1:2], state[1:2])
    torch.testing.assert_close(alone, whole[1:2], atol=1e-6, rtol=1e-5)
    early, _ = core.sequence(inputs[:, :3], state)
    torch.testing.assert_close(early, whole[:, :3], atol=1e-6, rtol=1e-5)


@KINDS
def test_state_and_inputs_both_reach_the_summary(kind):
    core = core_of(kind)
    inputs, state = batch(core)
    summary, _ = core.sequence(inputs, state)
    assert not torch.allclose(summary, core.sequence(inputs, state + 1)[0])
    assert not torch.allclose(summary, core.sequence(inputs + 1, state)[0])


@KINDS
def test_initialisation_depends_on_the_generator_alone(kind):
    torch.manual_seed(0)
    a = core_of(kind).state_dict()
    torch.manual_seed(1)
    b, c = core_of(kind).state_dict(), core_of(kind, seed=1).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    weights = [name for name in a if "weight" in name]
    assert not any(torch.equal(a[name], c[name]) for name in weights)


def test_names_of_tensors_are_those_that_saved_agents_have():
    gru = {"encoder.0.weight", "encoder.0.bias"}
    gru |= {f"gru.{kind}_{end}_l0" for kind in ("weight", "bias") for end in ("ih", "hh")}
    assert set(core_of("gru").state_dict()) == gru
    memory = {f"{part}.{kind}" for part in ("key", "value", "query") for kind in ("weight", "bias")}
    assert set(core_of("fast-weights").state_dict()) == gru | memory


def test_fast_weights_are_a_sum_of_outer_products():
    """The explicit loop: W += v kᵀ, then W q, one step and one row after the other."""
    key, value, query = torch.randn(3, 2, 6, 3, generator=torch.Generator().manual_seed(1))
    start = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(2))
    read, after = fast_weights(key, value, query, start)
    for row in range(2):
        weights = start[row].T  # stored with the keys in front
        for t in range(6):
            weights = weights + torch.outer(value[row, t], key[row, t])
            torch.testing.assert_close(read[row, t], weights @ query[row, t])
        torch.testing.assert_close(after[row], weights.T)


def test_fast_weights_by_hand():
    one = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    value = torch.tensor([[[2.0, 3.0], [5.0, 7.0], [0.0, 0.0]]])
    query = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [1.0, 1.0]]])
    read, _ = fast_weights(one, value, query, torch.zeros(1, 2, 2))
    assert read.tolist() == [[[2.0, 3.0], [2.0, 3.0], [7.0, 10.0]]]


def test_fast_weights_write_the_observation_that_an_action_was_taken_in():
    core = core_of("fast-weights", memory_size=3)
    inputs, state = batch(core, rows=1)
    other = inputs.clone()
    other[:, 2, :SIZE] += 1
    (a, after), (b, changed) = core.sequence(inputs, state), core.sequence(other, state)
    assert a[:, :2].equal(b[:, :2]) and not torch.allclose(a[:, 3], b[:, 3])
    weights = [torch.split(x, core.state_sizes, -1)[1] for x in (after, changed)]
    assert not torch.allclose(*weights)
    assert torch.split(after, core.state_sizes, -1)[2].equal(inputs[:, -1, :SIZE])


def test_core_config_refuses_a_field_that_its_kind_does_not_use():
    with pytest.raises(UserError, match=r"^--memory-size: got 3; accepted: None, unless --core"):
        CoreConfig(memory_size=3)
    assert core_of("fast-weights").size == 32


def seen(action, **changes):
    """One step of a trial, not its first."""
    yes, no = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.bool)
    step = Timestep(
        observation=torch.tensor([[[9.0]]]),
        previous_action=action,
        previous_reward=torch.tensor([[9.0]]),
        boundary=no,
        trial_start=no,
        active=yes,
    )
    return step._replace(**changes)


def test_core_inputs_by_hand():
    observation, reward = torch.tensor([[[0.5]]]), torch.tensor([[2.0]])
    yes = torch.ones(1, 1, dtype=torch.bool)

    def inputs(step, codec):
        return core_inputs(observation, reward, step, codec).tolist()

    discrete = torch.tensor([[2]])
    assert inputs(seen(discrete), DISCRETE) == [[[0.5, 0.0, 0.0, 1.0, 2.0, 0.0]]]
    step = seen(discrete, boundary=yes)
    assert inputs(step, DISCRETE) == [[[0.5, 0.0, 0.0, 1.0, 2.0, 1.0]]]
    step = seen(discrete, boundary=yes, trial_start=yes)
    assert inputs(step, DISCRETE) == [[[0.5, 0.0, 0.0, 0.0, 2.0, 1.0]]]
    continuous = torch.tensor([[[0.25, -1.0]]])
    assert inputs(seen(continuous), BOX) == [[[0.5, 0.25, -1.0, 2.0, 0.0]]]

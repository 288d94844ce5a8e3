"""Cores: do acting and training agree, and does memory return what was written?"""

import gymnasium as gym
import pytest
import torch
from torch.utils import _pytree as pytree

from metarl.errors import UserError
from metarl.experience.data import Chunks, Timestep
from metarl.learning.cores import CORES, CoreConfig, core_inputs, make_core
from metarl.learning.recurrent import fast_weights
from metarl.stepping.actions import ActionCodec

BOX = ActionCodec(gym.spaces.Box(-1, 1, (2,)))
DISCRETE = ActionCodec(gym.spaces.Discrete(3))
SIZE = 4
KINDS = pytest.mark.parametrize("kind", CORES)
RECURRENT = ("gru", "fast-weights", "aggregator")
VARIANTS = {
    **{kind: {"kind": kind} for kind in CORES},
    "without-encoder": {"kind": "gru", "encoder_sizes": ()},
    "mean": {"kind": "aggregator", "aggregate": "mean"},
    "straight-through": {"kind": "aggregator", "straight_through": True},
    "learned": {"kind": "transformer", "positions": "learned"},
    "window": {"kind": "transformer", "window": 3},
    "learned-window": {"kind": "transformer", "positions": "learned", "window": 3},
    "one-layer": {"kind": "transformer", "num_layers": 1, "attention_heads": 1},
}
"""Settings of a core by the name of a test."""
CASES = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
STEPS = 8


def core_of(kind, codec=DISCRETE, seed=0, steps=STEPS, **options):
    config = CoreConfig(**{"kind": kind, "hidden_size": 6, "encoder_sizes": (7,), **options})
    core = make_core(config, SIZE, codec, torch.Generator().manual_seed(seed), steps)
    for name, parameter in core.named_parameters():
        if name == "bias":  # Learned positions begin with zeros, which would hide mistakes.
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(5))
    return core


def inputs_of(rows=3, time=STEPS, seed=1):
    return torch.randn(rows, time, SIZE + 2 + 3, generator=torch.Generator().manual_seed(seed))


def batch(core, rows=3, time=STEPS, seed=1):
    """Inputs, and states in the middle of a trial."""
    g = torch.Generator().manual_seed(seed + 1)
    return inputs_of(rows, time, seed), torch.randn(rows, core.state_size, generator=g)


def whole(core, inputs, first=0):
    """The summaries of whole trials, or of sequences whose first step has a number."""
    return core.sequence(inputs, core.recomputed(torch.full((len(inputs),), first)))


@torch.no_grad()
def stepped(core, inputs, state=None):
    """The summaries one step at a time, and the state after the last."""
    state, summaries = core.begin(len(inputs)) if state is None else state, []
    active = torch.ones(len(inputs), dtype=torch.bool)
    for t in range(inputs.shape[1]):
        summary, state = core.step(inputs[:, t], state, active)
        summaries.append(summary)
    return torch.stack(summaries, 1), state


@CASES
def test_one_step_at_a_time_equals_the_whole_sequence(options):
    core, inputs = core_of(**options), inputs_of()
    found, expected = stepped(core, inputs)[0], whole(core, inputs)
    assert expected.shape == (3, STEPS, core.summary_size)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [x for x in VARIANTS.values() if x["kind"] in RECURRENT])
def test_steps_and_a_sequence_from_the_middle_of_a_trial_end_in_the_same_state(options):
    core = core_of(**options)
    inputs, state = batch(core)
    if options["kind"] == "aggregator":
        state[:, -1] = 4.0  # The number of steps so far.
    summary, last = core.unroll(inputs, state)
    found, end = stepped(core, inputs, state)
    torch.testing.assert_close(found, summary, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(end, last, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["transformer", "graph"])
def test_a_sequence_does_not_go_on_from_a_cache_nor_do_steps_have_gradients(kind):
    core, inputs = core_of(kind), inputs_of()
    with pytest.raises(ValueError, match="sequence begins with what recomputed"):
        core.sequence(inputs, stepped(core, inputs[:, :2])[1])
    summary, _ = core.step(inputs[:, 0], core.begin(3), torch.ones(3, dtype=torch.bool))
    assert not summary.requires_grad


def test_a_window_is_as_long_as_asked_for_however_short_trials_are():
    core, inputs = core_of("transformer", window=6, steps=4), inputs_of()
    alike = core_of("transformer", window=6, steps=STEPS)
    assert core.slots == alike.slots == 6 and core.lookback == 4
    found = stepped(core, inputs)[0]
    torch.testing.assert_close(found, whole(alike, inputs), atol=1e-5, rtol=1e-5)


@CASES
def test_idle_rows_keep_their_state_and_others_do_not_notice(options):
    core, inputs = core_of(**options), inputs_of()
    expected, _ = stepped(core, inputs[:, :4])
    _, state = stepped(core, inputs[:, :2])
    before = [x.clone() for x in pytree.tree_leaves(state)]
    active = torch.tensor([True, False, True])
    with torch.no_grad():
        _, state = core.step(inputs[:, 2], state, active)
        for then, now in zip(before, pytree.tree_leaves(state), strict=True):
            assert torch.equal(then[1], now[1])
        again = torch.where(active[:, None], inputs[:, 3], inputs[:, 2])
        summary, _ = core.step(again, state, torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(summary[[0, 2]], expected[[0, 2], 3], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(summary[1], expected[1, 2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", RECURRENT)
def test_a_sequence_goes_on_where_the_one_before_ended(kind):
    core = core_of(kind)
    inputs, state = batch(core)
    both, last = core.unroll(inputs, state)
    first, middle = core.unroll(inputs[:, :3], state)
    second, end = core.unroll(inputs[:, 3:], middle)
    torch.testing.assert_close(torch.cat([first, second], 1), both, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(end, last, atol=1e-5, rtol=1e-5)


@CASES
def test_rows_do_not_see_each_other_nor_the_future(options):
    core, inputs = core_of(**options), inputs_of()
    expected = whole(core, inputs)
    torch.testing.assert_close(whole(core, inputs[1:2]), expected[1:2], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(whole(core, inputs[:, :3]), expected[:, :3], atol=1e-6, rtol=1e-5)


@CASES
def test_the_present_and_the_past_both_reach_the_summary(options):
    core, inputs = core_of(**options), inputs_of()
    expected = whole(core, inputs)[:, 3]
    for t in (1, 3):
        other = inputs.clone()
        other[:, t] += 1
        assert not torch.allclose(whole(core, other)[:, 3], expected, atol=1e-4)


@KINDS
def test_initialisation_depends_on_the_generator_alone(kind):
    torch.manual_seed(0)
    a = core_of(kind).state_dict()
    torch.manual_seed(1)
    b, c = core_of(kind).state_dict(), core_of(kind, seed=1).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    weights = [name for name, x in a.items() if "weight" in name and x.ndim > 1]
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
    (a, after), (b, changed) = core.unroll(inputs, state), core.unroll(other, state)
    assert a[:, :2].equal(b[:, :2]) and not torch.allclose(a[:, 3], b[:, 3])
    weights = [torch.split(x, core.state_sizes, -1)[1] for x in (after, changed)]
    assert not torch.allclose(*weights)
    assert torch.split(after, core.state_sizes, -1)[2].equal(inputs[:, -1, :SIZE])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"memory_size": 3}, "--memory-size: got 3; accepted: None, unless --core fast-weights"),
        ({"window": 3}, "--window: got 3; accepted: None, unless --core transformer is given"),
        ({"kind": "graph", "num_layers": 2}, "--num-layers: got 2; accepted: None, unless --core"),
        (
            {"attention_heads": 2},
            "--attention-heads: got 2; accepted: None, unless --core transformer or --core graph",
        ),
        ({"straight_through": True}, "--straight-through: got True; accepted: False, unless"),
        ({"kind": "aggregator", "hidden_size": 1}, "--hidden-size: got 1; accepted: at least 2"),
    ],
)
def test_core_config_refuses_a_field_that_its_kind_does_not_use(values, message):
    with pytest.raises(UserError) as error:
        CoreConfig(**values)
    assert str(error.value).startswith(message)


def test_attention_needs_to_know_how_many_steps_there_are():
    with pytest.raises(UserError, match=r"^--window: got None; accepted: a number of steps"):
        core_of("transformer", steps=None)
    assert core_of("transformer", steps=None, window=4).slots == 4
    assert core_of("fast-weights").size == 32


@pytest.mark.parametrize("start", [0, 4])
def test_the_maximum_and_the_mean_are_those_of_a_loop(start):
    """With ``start`` steps before the sequence, whose maximum and mean are in the state."""
    for kind in ("max", "mean"):
        core, inputs = core_of("aggregator", aggregate=kind), inputs_of()
        hidden, _ = core.run_gru(core.encoder(inputs), torch.zeros(3, 6))
        so_far = [hidden[:, :, :3][:, : t + 1] for t in range(STEPS)]
        expected = torch.stack(
            [x.amax(1) if kind == "max" else x.mean(1) for x in so_far],
            1,
        )
        _, state = stepped(core, inputs[:, :start]) if start else (None, core.begin(3))
        found, last = core.unroll(inputs[:, start:], state)
        torch.testing.assert_close(found[..., :3], expected[:, start:], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(found[..., 3:], hidden[:, start:, 3:], atol=1e-6, rtol=1e-5)
        assert last[:, -1].tolist() == [STEPS] * 3


def test_a_maximum_teaches_the_step_it_comes_from_and_straight_through_every_step():
    for through, expected in ((False, [0.0, 1.0, 0.0]), (True, [1.0, 1.0, 1.0])):
        core = core_of("aggregator", straight_through=through, encoder_sizes=(), hidden_size=2)
        output = torch.tensor([[[0.1, 0.0], [0.5, 0.0], [0.2, 0.0]]], requires_grad=True)
        core.run_gru = lambda encoded, hidden, output=output: (output, hidden)
        summary = core.sequence(inputs_of(1, 3), core.begin(1))
        assert summary[0, :, 0].tolist() == pytest.approx([0.1, 0.5, 0.5])
        summary[0, -1, 0].backward()
        assert output.grad[0, :, 0].tolist() == expected


def test_attention_is_that_of_a_loop_over_queries_and_keys():
    core = core_of("transformer", num_layers=1, attention_heads=2)
    inputs = inputs_of(rows=1)
    x = core.embed(inputs, torch.arange(STEPS)[None])[0]
    block = core.blocks[0]
    query, entry = block.queries(x), block.entries(x)
    key, value = entry.split(6, -1)
    read = torch.zeros(STEPS, 6)
    for t in range(STEPS):
        for head in (slice(0, 3), slice(3, 6)):
            score = torch.stack([query[t, head] @ key[s, head] for s in range(t + 1)]) / 3**0.5
            weight = score.exp() / score.exp().sum()
            read[t, head] = sum(weight[s] * value[s, head] for s in range(t + 1))
    expected = core.last_norm(block(x, read))
    torch.testing.assert_close(whole(core, inputs)[0], expected, atol=1e-5, rtol=1e-5)


def test_learned_positions_add_a_number_for_each_head_and_distance():
    core = core_of("transformer", num_layers=1, attention_heads=2, positions="learned")
    inputs = inputs_of(rows=1)
    x = core.embed(inputs, torch.arange(STEPS)[None])[0]
    query, entry = core.blocks[0].queries(x), core.blocks[0].entries(x)
    key, value = entry.split(6, -1)
    read = torch.zeros(STEPS, 6)
    for t in range(STEPS):
        for number, head in enumerate((slice(0, 3), slice(3, 6))):
            score = torch.stack([query[t, head] @ key[s, head] for s in range(t + 1)]) / 3**0.5
            score = score + torch.stack([core.bias[number, t - s] for s in range(t + 1)])
            read[t, head] = score.softmax(0) @ value[: t + 1, head]
    expected = core.last_norm(core.blocks[0](x, read))
    torch.testing.assert_close(whole(core, inputs)[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_a_window_over_the_trial_is_no_window_and_a_shorter_one_forgets(positions):
    inputs = inputs_of()
    plain = core_of("transformer", positions=positions)
    expected = whole(plain, inputs)
    wide = core_of("transformer", positions=positions, window=STEPS)
    torch.testing.assert_close(whole(wide, inputs), expected, atol=1e-6, rtol=1e-5)
    narrow = core_of("transformer", positions=positions, window=3, num_layers=2)
    other = inputs.clone()
    other[:, 0] += 1
    summary, changed = whole(narrow, inputs), whole(narrow, other)
    assert narrow.lookback == 4  # Two layers of two steps each.
    assert torch.allclose(summary[:, 5:], changed[:, 5:], atol=1e-6)
    assert not torch.allclose(summary[:, 4], changed[:, 4], atol=1e-6)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
@pytest.mark.parametrize("length", [1, 3, 5])
def test_chunks_with_their_past_equal_the_whole_trial(length, positions):
    core, inputs = core_of("transformer", window=3, positions=positions), inputs_of()
    valid = torch.ones(3, STEPS, dtype=torch.bool)
    valid[1, 6:] = False
    starts = valid[:, ::length].flatten()
    kept = starts.nonzero().squeeze(1)
    each = len(starts) // 3
    chunks = Chunks(length, kept, kept // each, kept % each * length)
    past = core.lookback
    summary = core.sequence(chunks.cut(inputs, past), core.recomputed(chunks.start - past))
    expected, real = chunks.cut(whole(core, inputs)), chunks.cut(valid)
    torch.testing.assert_close(summary[:, past:][real], expected[real], atol=1e-5, rtol=1e-5)
    summary.sum().backward()
    assert all(x.grad.isfinite().all() for x in core.parameters())


@pytest.mark.parametrize("kind", ["transformer", "graph"])
def test_memory_is_bounded_and_a_longer_trial_sees_its_last_steps(kind):
    core, inputs = core_of(kind, steps=3), inputs_of()
    with pytest.warns(UserWarning, match="attention sees their last 3 steps") as warned:
        summary, memory = stepped(core, inputs)
    assert len(warned) == 1  # not one for each step
    assert memory.cache.shape[2] == 3 and memory.length.tolist() == [STEPS] * 3
    other = inputs.clone()
    other[:, 0] += 1
    last = stepped(core, other)[0]
    late = slice(core.layers * 2 + 1 + (kind == "graph"), None)
    assert torch.allclose(summary[:, late], last[:, late], atol=1e-6)
    assert not torch.allclose(summary[:, 2], last[:, 2], atol=1e-4)
    if kind == "transformer":
        windowed = core_of(kind, steps=3, window=3)
        torch.testing.assert_close(summary, whole(windowed, inputs), atol=1e-5, rtol=1e-5)


def test_the_order_of_past_transitions_changes_nothing_for_a_graph():
    """Transition t is what step t says of the step before: inputs t and the observation t - 1."""
    core = core_of("graph")
    g = torch.Generator().manual_seed(3)
    observed, rest = torch.randn(STEPS, SIZE, generator=g), torch.randn(STEPS, 5, generator=g)
    active = torch.ones(1, dtype=torch.bool)

    def after(order):
        state = core.begin(1)
        for t in order:
            state = state._replace(observation=observed[t - 1][None])
            with torch.no_grad():
                _, state = core.step(torch.cat([observed[t], rest[t]])[None], state, active)
        present = state._replace(observation=observed[2][None])
        return core.step(torch.cat([observed[0], rest[0]])[None], present, active)[0]

    with torch.no_grad():
        plain, mixed, fewer = after([1, 2, 3, 4]), after([3, 1, 4, 2]), after([1, 2, 3])
        twice = after([1, 2, 3, 4, 1, 2, 3, 4])
    torch.testing.assert_close(plain, mixed, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(plain, fewer, atol=1e-4)
    assert not torch.allclose(plain, twice, atol=1e-4)  # How many there are counts too.


@pytest.mark.parametrize("options", [{"positions": "learned"}, {}, {"window": 3}])
def test_attention_that_is_shown_is_what_the_last_step_looked_at(options):
    core, inputs = core_of("transformer", num_layers=1, attention_heads=2, **options), inputs_of()
    _, memory = stepped(core, inputs)
    insight, weights = core.insight(memory), core.weights(memory)
    assert weights.shape == (3, 1, 2, core.slots)
    torch.testing.assert_close(insight["attention"], weights.mean(2))
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 1, 2))
    ago = torch.arange(core.slots)
    x = core.embed(inputs, torch.arange(STEPS).expand(3, -1))
    query, entry = core.blocks[0].queries(x), core.blocks[0].entries(x)
    score = torch.einsum(
        "rhd,rshd->rhs",
        query[:, -1].unflatten(-1, (2, 3)),
        entry[:, STEPS - 1 - ago, :6].unflatten(-1, (2, 3)),
    )
    bias = 0 if core.bias is None else core.bias
    expected = (score / 3**0.5 + bias).softmax(-1)
    torch.testing.assert_close(weights[:, 0], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(insight["summary"], whole(core, inputs)[:, -1], atol=1e-5, rtol=1e-5)
    start = core.insight(core.begin(2))["attention"][0, 0]
    assert start.tolist() == [1.0] + [0.0] * (core.slots - 1)


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "transformer"},
        {"kind": "transformer", "window": 3},
        {"kind": "transformer", "steps": 3},
        {"kind": "graph"},
    ],
)
@pytest.mark.filterwarnings("ignore:trials are longer")
def test_a_memory_means_the_same_whatever_has_gone_on_from_it(options):
    core, inputs = core_of(**options), inputs_of()
    _, memory = stepped(core, inputs[:, :4])
    before = core.insight(memory)
    ways = [inputs[:, 4:], inputs[:, 5:], inputs[:, 4:]]
    found = [stepped(core, way, memory)[0] for way in ways]
    for way, summary in zip(ways, found, strict=True):
        fresh, _ = stepped(core, torch.cat([inputs[:, :4], way], 1))
        torch.testing.assert_close(summary, fresh[:, 4:], atol=1e-5, rtol=1e-5)
    for name, x in core.insight(memory).items():
        assert torch.equal(x, before[name])
    rows = [memory._replace(**{k: x[1:] for k, x in memory._asdict().items()}) for _ in "12"]
    one, other = (stepped(core, way[1:], row)[0] for way, row in zip(ways, rows, strict=False))
    assert torch.equal(one, found[0][1:]) and torch.equal(other, found[1][1:])


def test_a_trial_that_goes_straight_on_copies_no_cache():
    core, inputs = core_of("transformer"), inputs_of()
    start = core.begin(3)
    _, memory = stepped(core, inputs[:, :5], start)
    assert memory.cache.data_ptr() == start.cache.data_ptr()
    _, branched = stepped(core, inputs[:, 5:], start)
    assert branched.cache.data_ptr() != start.cache.data_ptr()


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

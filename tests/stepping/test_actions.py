"""Actions of every space: what a policy chooses is what the environment gets."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.vector.utils import batch_space

from metarl.errors import UserError
from metarl.stepping.actions import ActionCodec, ActionRows

SMALL = Box(np.int8([-3, 0]), np.int8([2, 1]), dtype=np.int8)
SPACES = {
    "discrete": Discrete(3, start=-1),
    "multi-discrete": MultiDiscrete([3, 2, 5], start=[4, -1, 0]),
    "matrix of choices": MultiDiscrete([[3, 2], [1, 5]], dtype=np.int32),
    "multi-binary": MultiBinary((2, 3)),
    "small integers": SMALL,
    "bytes": Box(0, 255, (2,), np.uint8),
    "large integers": Box(np.array([-1000, 0]), np.array([1000, 10**6]), dtype=np.int64),
    "every integer": Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (2,), np.int64),
    "every natural number": Box(0, np.iinfo(np.uint64).max, (2,), np.uint64),
    "floats": Box(-2, 3, (2, 2), np.float64),
    "dict": Dict(
        {
            "move": Box(np.float32([-1, -np.inf]), np.float32([3, np.inf])),
            "gear": Discrete(4, start=2, dtype=np.int32),
            "lights": MultiBinary(2),
            "dose": SMALL,
        }
    ),
    "tuple": Tuple([Discrete(2), Box(-1, 1, (1,), np.float64), MultiDiscrete([2, 3])]),
    "nested": Dict({"hands": Tuple([Box(0, 1, (2,)), Discrete(2)]), "foot": Discrete(3)}),
    "choices in parts": Dict({"a": Discrete(3), "b": MultiBinary(1)}),
}
EVERY = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


def rows_of(codec, n=200, seed=0):
    """Return policy actions of every kind: any choice, numbers inside and far outside."""
    rng = np.random.default_rng(seed)
    if codec.discrete:
        return rng.integers(codec.size, size=n)
    chosen = [rng.integers(count, size=n) for count in codec.choices]
    numbers = rng.normal(0, 3, (codec.numbers, n))
    return np.stack([*chosen, *numbers], -1).astype(np.float32)


@EVERY
def test_the_environment_gets_what_its_space_contains(space):
    codec = ActionCodec(space)
    taken = codec.taken(rows_of(codec))
    assert taken.dtype == codec.dtype and taken.shape == (200, *codec.shape)
    rows = codec.to_env(taken)
    assert rows.shape == (200, *codec.rows.shape) and rows.dtype == codec.rows.dtype
    for row in rows:
        assert space.contains(codec.rows.unpack(row))
    assert batch_space(space, 200).contains(codec.rows.unpack_batch(rows))


EXACT = [name for name in SPACES if "every" not in name]
"""Those whose actions float32 tells apart."""


@pytest.mark.parametrize("name", EXACT)
def test_actions_of_the_space_come_back_from_policy_units(name):
    space = SPACES[name]
    codec = ActionCodec(space)
    space.seed(0)
    sampled = [space.sample() for _ in range(100)]
    rows = np.stack([codec.rows.row(action) for action in sampled])
    units = codec.from_env(rows)
    assert units.dtype == codec.dtype and units.shape == (100, *codec.shape)
    again = codec.to_env(codec.taken(units))
    np.testing.assert_allclose(again.astype(float), rows.astype(float), rtol=1e-5, atol=1e-6)
    batch = codec.rows.unpack_batch(rows)
    assert np.array_equal(codec.rows.batch(batch, 100), rows)
    assert np.array_equal(codec.from_env(batch), units)
    for action, row in zip(sampled, rows, strict=True):
        assert np.array_equal(codec.rows.row(codec.rows.unpack(row)), codec.rows.row(action))


def test_a_row_has_choices_first_and_then_numbers():
    codec = ActionCodec(SPACES["dict"])
    # In the order of the keys, which Gymnasium sorts: dose, gear, lights, move.
    assert codec.choices == (6, 2, 4, 2, 2) and codec.numbers == 2
    assert codec.size == 6 + 2 + 4 + 2 + 2 + 2 and codec.shape == (7,)
    taken = codec.taken(np.array([[5, 0, 3, 1, 0, 7, -9]], np.float32))
    assert taken.tolist() == [[5, 0, 3, 1, 0, 1, -9]]
    action = codec.rows.unpack(codec.to_env(taken)[0])
    assert action["dose"].tolist() == [2, 0]
    assert action["gear"] == 5 and action["gear"].dtype == np.int32
    assert action["lights"].tolist() == [1, 0]
    assert action["move"].tolist() == [3, -9] and action["move"].dtype == np.float32


def test_integers_of_a_large_box_are_rounded_numbers():
    codec = ActionCodec(SPACES["large integers"])
    assert not codec.choices and codec.numbers == 2
    taken = codec.taken(np.array([[0.5006, 2], [-0.0004, -1]], np.float32))
    assert codec.to_env(taken).tolist() == [[501, 10**6], [0, 0]]
    unbounded = ActionCodec(SPACES["every integer"])
    assert unbounded.to_env(np.array([[2.6, -7.2]], np.float32)).tolist() == [[3, -7]]


def test_every_choice_of_a_multi_discrete_can_be_made():
    codec = ActionCodec(SPACES["multi-discrete"])
    rows = np.stack(np.meshgrid(*map(np.arange, codec.choices)), -1).reshape(-1, 3)
    made = codec.to_env(rows.astype(np.float32))
    assert len(np.unique(made, axis=0)) == 30
    assert made.min(0).tolist() == [4, -1, 0] and made.max(0).tolist() == [6, 0, 4]


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (gym.spaces.Text(5), r"action space: got Text.*accepted: Box, Discrete"),
        (
            Dict({"a": Tuple([Discrete(2), gym.spaces.Text(5)])}),
            r"action space\['a'\]\[1\]: got Text",
        ),
        (gym.spaces.Sequence(Discrete(2)), "action space: got Sequence"),
        (Dict({}), "action space: got Dict.*not empty"),
        (Box(-1, 1, (0,)), "action space: got Box.*not empty"),
    ],
)
def test_other_action_spaces_are_refused(space, said):
    with pytest.raises(UserError, match=said):
        ActionCodec(space)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a.pop("gear"), r"an action\['gear'\] is missing"),
        (lambda a: a.update(gear=np.full(3, 9)), r"an action\['gear'\] is 9, outside Discrete"),
        (lambda a: a.update(gear=np.full(3, 2.5)), r"an action\['gear'\] of float64 does not fit"),
        (
            lambda a: a.update(move=np.zeros((3, 1))),
            r"an action\['move'\] must have shape \(3, 2\)",
        ),
        (
            lambda a: a.update(lights=np.full((3, 2), 2)),
            r"an action\['lights'\] is \[2 2\], outside",
        ),
    ],
)
def test_a_dict_of_other_actions_is_refused(change, said):
    space = SPACES["dict"]
    batched = batch_space(space, 3)
    batched.seed(0)
    actions = dict(batched.sample())
    change(actions)
    rows = ActionRows(space)
    with pytest.raises(ValueError, match=said):
        rows.checked(rows.batch(actions, 3), np.ones(3, np.bool_))


def test_action_maps_onto_asymmetric_bounds():
    codec = ActionCodec(gym.spaces.Box(np.float32([0, -3]), np.float32([4, 1])))
    actions = np.array([[-1, -1], [0, 0], [1, 1], [0.5, -0.5]], np.float32)
    assert codec.size == 2 and not codec.discrete
    assert codec.to_env(actions).tolist() == [[0, -3], [2, -1], [4, 1], [3, -2]]
    assert codec.to_env(actions).dtype == np.float32


def test_action_outside_is_clipped_in_policy_units():
    codec = ActionCodec(gym.spaces.Box(0, 4, (1,)))
    taken = codec.taken(np.array([[-7], [0.5], [1.5]], np.float32))
    assert taken.dtype == np.float32
    assert taken.tolist() == [[-1], [0.5], [1]]
    assert codec.to_env(taken).tolist() == [[0], [3], [4]]


def test_action_of_an_unbounded_dimension_passes_as_it_is():
    codec = ActionCodec(gym.spaces.Box(np.float32([-np.inf, 0]), np.float32([np.inf, 4])))
    taken = codec.taken(np.array([[-7, -7], [5, 5]], np.float32))
    assert taken.tolist() == [[-7, -1], [5, 1]]
    assert codec.to_env(taken).tolist() == [[-7, 0], [5, 4]]


def test_taken_actions_respect_a_one_sided_bound():
    codec = ActionCodec(gym.spaces.Box(np.float32([0, -np.inf]), np.float32([np.inf, 2])))
    taken = codec.taken(np.array([[-0.5, -7], [5, 5]], np.float32))
    assert taken.tolist() == [[0, -7], [5, 2]]
    assert codec.to_env(taken).tolist() == taken.tolist()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_bound_that_is_the_largest_number_counts_as_infinite(dtype):
    largest = np.finfo(dtype).max
    codec = ActionCodec(gym.spaces.Box(-largest, largest, (1,), dtype))
    assert codec.to_env(codec.taken(np.array([[0.5]], np.float32))).tolist() == [[0.5]]
    below = ActionCodec(gym.spaces.Box(dtype(0), largest, (1,), dtype))
    assert below.taken(np.array([[-0.5], [0.5]], np.float32)).tolist() == [[0], [0.5]]


def expected(a, low, high, dtype):
    """Return what the environment gets for ``a``, and what that is for the policy."""
    largest = min(float(np.finfo(np.float32).max), float(np.finfo(dtype).max))
    if -largest < low and high < largest:
        inside = min(max(a, -1.0), 1.0)
        return low + (high - low) * (inside + 1) / 2, inside
    got = min(max(a, low, -largest), high, largest)
    return got, got


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_taken_actions_are_those_that_the_environment_gets(dtype):
    """For boxes whose every dimension is bounded on both sides, on one, or on none."""
    rng, size = np.random.default_rng(0), 400
    center, half = rng.normal(0, 3, size), np.exp(rng.normal(0, 1, size))
    infinite = rng.choice([np.inf, float(np.finfo(dtype).max)], (2, size))
    open_below, open_above = rng.random((2, size)) < 0.5
    low = np.where(open_below, -infinite[0], center - half).astype(dtype)
    high = np.where(open_above, infinite[1], center + half).astype(dtype)
    codec = ActionCodec(gym.spaces.Box(low, high, dtype=dtype))
    actions = (4 * rng.normal(size=(50, size))).astype(np.float32)
    taken = codec.taken(actions)
    got = codec.to_env(taken)
    assert got.dtype == dtype and all(codec.space.contains(row) for row in got)
    rows = zip(*np.broadcast_arrays(actions, low, high), strict=True)
    oracle = np.array(
        [
            [expected(float(a), float(x), float(y), dtype) for a, x, y in zip(*r, strict=True)]
            for r in rows
        ]
    )
    kinds = {
        (bool(below), bool(above)) for below, above in zip(open_below, open_above, strict=True)
    }
    assert len(kinds) == 4
    resolution = max(1e-6, float(np.finfo(dtype).eps))
    np.testing.assert_allclose(got, oracle[..., 0], rtol=resolution, atol=20 * resolution)
    np.testing.assert_allclose(taken, oracle[..., 1], rtol=1e-6, atol=1e-6)
    both = ~open_below & ~open_above
    wide = high[both].astype(float) - low[both]
    decoded = got.astype(np.float64)
    decoded[:, both] = 2 * (decoded[:, both] - low[both]) / wide - 1
    error = np.abs(decoded - taken)
    error[:, both] *= wide / 2  # the environment's type rounds in its own units
    assert (error <= np.maximum(1e-5, resolution * np.abs(got.astype(np.float64)))).all()


def test_action_box_keeps_its_shape_and_type():
    codec = ActionCodec(gym.spaces.Box(-2, 2, (2, 3), np.float64))
    made = codec.to_env(np.ones((5, 6), np.float32))
    assert made.shape == (5, 2, 3) and made.dtype == np.float64 and (made == 2).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_actions_lie_inside_the_space(dtype):
    rng = np.random.default_rng(0)
    low = rng.uniform(-1, 1, 500).astype(dtype)
    space = gym.spaces.Box(low, low + rng.uniform(0.1, 2, 500).astype(dtype), dtype=dtype)
    codec = ActionCodec(space)
    for sign in (-1, 1):
        assert space.contains(codec.to_env(np.full((1, 500), sign, np.float32))[0])


def test_discrete_action_counts_from_its_start():
    codec = ActionCodec(gym.spaces.Discrete(3, start=5))
    actions = np.array([0, 2, 1])
    assert codec.discrete and codec.size == 3 and codec.dtype == np.int64
    assert codec.taken(actions).tolist() == [0, 2, 1]
    assert codec.to_env(actions).tolist() == [5, 7, 6]


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Box(np.float32([-2, 0, -np.inf, 3]), np.float32([4, 1, np.inf, 3])),
        gym.spaces.Box(-3, 5, (2, 3), np.float64),
        gym.spaces.Discrete(4, start=-2),
    ],
    ids=["mixed bounds", "shaped", "discrete"],
)
def test_action_of_the_environment_s_units_reaches_it_unchanged(space):
    codec = ActionCodec(space)
    space.seed(0)
    actions = np.stack([space.sample() for _ in range(50)])
    units = codec.from_env(actions)
    assert units.dtype == codec.dtype
    assert units.shape == ((50,) if codec.discrete else (50, codec.size))
    taken = codec.taken(units)
    np.testing.assert_allclose(codec.to_env(taken), actions, rtol=1e-5, atol=1e-6)


def test_action_of_the_environment_s_units_by_hand():
    codec = ActionCodec(gym.spaces.Box(np.float32([0, -np.inf]), np.float32([4, np.inf])))
    assert codec.from_env(np.array([[0, -7], [4, 7], [3, 0]])).tolist() == [
        [-1, -7],
        [1, 7],
        [0.5, 0],
    ]

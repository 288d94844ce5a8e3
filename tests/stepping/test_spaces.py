import tracemalloc

import gymnasium as gym
import numpy as np
import pytest

from metarl.errors import UserError
from metarl.stepping.spaces import (
    ActionCodec,
    blank_observations,
    fit,
    flatten_observation,
    flatten_observations,
    observation_size,
    reported_space,
)

DEEP = gym.spaces.Dict(
    {
        "a": gym.spaces.Tuple(
            [gym.spaces.MultiDiscrete([2, 3], start=[1, -1]), gym.spaces.MultiBinary(2)]
        )
    }
)

COMPOSED = [
    DEEP,
    gym.spaces.Dict({"b": gym.spaces.Box(-1, 1, (2,)), "a": gym.spaces.Discrete(3, start=-1)}),
    gym.spaces.MultiDiscrete([[2, 3], [1, 4]], start=[[0, 1], [-2, 5]]),
    gym.spaces.MultiDiscrete([2, 3]),
    gym.spaces.MultiBinary(2),
    gym.spaces.Dict({"a": gym.spaces.Discrete(2), "b": gym.spaces.Box(-1, 1, (2, 2))}),
    gym.spaces.Tuple([gym.spaces.Discrete(2)]),
]


def test_box_is_raveled_to_float32():
    space = gym.spaces.Box(-1, 1, (2, 3), np.float64)
    flat = flatten_observations(space, np.arange(12.0).reshape(2, 2, 3))
    assert observation_size(space) == 6
    assert flat.dtype == np.float32
    assert flat.tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]


def test_box_without_axes_has_size_one():
    space = gym.spaces.Box(-1, 1, ())
    assert observation_size(space) == 1
    assert flatten_observations(space, np.array([0.5, 0.25])).tolist() == [[0.5], [0.25]]


def test_discrete_is_one_hot_from_its_start():
    space = gym.spaces.Discrete(3, start=-1)
    flat = flatten_observations(space, np.array([-1, 1, 0]))
    assert observation_size(space) == 3
    assert flat.dtype == np.float32
    assert flat.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]


@pytest.mark.parametrize("space", COMPOSED, ids=lambda s: type(s).__name__)
def test_composed_observations_are_flattened_gymnasiums_way(space):
    space.seed(0)
    reported = reported_space(space)
    for _ in range(20):
        observation = space.sample()
        flat = flatten_observation(space, observation)
        assert isinstance(reported, gym.spaces.Box) and flat in reported
        assert np.array_equal(flat, gym.spaces.flatten(space, observation))
    assert observation_size(space) == reported.shape[0]
    with pytest.raises(UserError, match=f"(?s){type(space).__name__}.*accepted: Discrete, Box of"):
        ActionCodec(space)


FITS = [
    (np.float64([0.1, -2.5]), np.float32),
    (np.float32([np.inf, np.nan]), np.float16),  # who may hold them is asked elsewhere
    (np.float64([np.inf, -np.inf]), np.float32),
    (np.array([0, 1, 255]), np.uint8),
    (np.array([-128, 127]), np.int8),
    (np.array([2**63], np.uint64), np.uint64),
    (np.array([2**63 - 1], np.uint64), np.int64),
    (np.float32([0, 3, 255]), np.uint8),
    (np.float64([-(2.0**63)]), np.int64),
    (np.array([2**24, -(2**24), 2**30]), np.float32),
    (np.array([2**62]), np.float64),
    (np.array([2048]), np.float16),
    (np.array([True, False]), np.int8),
    (np.array([True, False]), np.float16),
    (np.array([0, 1]), np.bool_),
    (np.array([0.0, 1.0]), np.bool_),
    (np.zeros((0, 2)), np.uint8),
    (np.array([1, 2], ">i4"), np.int32),
    ([1, 2, 3], np.uint8),
]


@pytest.mark.parametrize(("value", "dtype"), FITS, ids=str)
def test_numbers_that_a_type_holds_stay_what_they_are(value, dtype):
    fitted = fit(value, dtype, "an observation")
    assert fitted.dtype == dtype and fitted.shape == np.shape(value)
    assert np.array_equal(
        fitted, np.asarray(value).astype(dtype), equal_nan=fitted.dtype.kind == "f"
    )
    if np.asarray(value).dtype.kind != "f":
        assert fitted.tolist() == np.asarray(value).tolist()


def test_an_array_of_the_right_type_is_not_copied():
    value = np.float32([1, 2])
    assert fit(value, np.float32, "an observation") is value


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ([0.3, 0.9, 0.99], np.uint8),
        ([256.0], np.uint8),
        ([256], np.uint8),
        ([-1], np.uint8),
        ([-1], np.uint64),
        ([-1.0], np.uint8),
        ([np.nan], np.int64),
        ([np.inf], np.int64),
        ([2.0**63], np.int64),
        ([-(2.0**63) - 2048], np.int64),
        ([2.0**64], np.uint64),
        (np.array([2**63], np.uint64), np.int64),
        ([2**24 + 1], np.float32),
        ([2**53 + 1], np.float64),
        ([2**63 - 1], np.float64),
        ([70000], np.float16),
        ([1e300], np.float32),
        ([1.0, -1e5], np.float16),
        ([2], np.bool_),
        ([0.5], np.bool_),
        ([1j], np.float64),
        ([1 + 0j], np.complex64),
        (["1"], np.float32),
        ([None], np.float32),
        ([2**70], np.float64),
        (None, np.float32),
    ],
    ids=str,
)
def test_numbers_that_a_type_does_not_hold_are_refused(value, dtype):
    with pytest.raises(
        ValueError, match=f"an action of .* does not fit the declared {np.dtype(dtype)}: "
    ):
        fit(value, dtype, "an action")


@pytest.mark.parametrize("space", [gym.spaces.Box(0, 255, (3,), np.uint8), gym.spaces.Discrete(3)])
def test_an_observation_for_an_agent_is_looked_at_too(space):
    with pytest.raises(ValueError, match="an observation of float64 does not fit the declared"):
        flatten_observation(space, np.full(space.shape, 0.5))
    with pytest.raises(ValueError, match=r"an observation has shape \(2,\), observation_space has"):
        flatten_observation(space, np.zeros(2, np.int8))


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        ({"a": ([2, 2], [0, 1])}, r"\['a'\]\[0\] is \[2 2\], outside MultiDiscrete"),
        ({"a": ([0, -1], [0, 1])}, r"\['a'\]\[0\] is \[ 0 -1\], outside MultiDiscrete"),
        ({"a": ([1, -1], [0, 2])}, r"\['a'\]\[1\] is \[0 2\], outside MultiBinary\(2\)"),
        ({"a": ([1.5, -1], [0, 1])}, r"\['a'\]\[0\] of float64 does not fit the declared int64"),
        ({"a": ([1, -1], [0.5, 1])}, r"\['a'\]\[1\] of float64 does not fit the declared int8"),
        (
            {"a": ([1, -1], [[0], [1]])},
            r"\['a'\]\[1\] has shape \(2, 1\), .*\['a'\]\[1\] has \(2,\)",
        ),
        ({"a": ([1, -1],)}, r"\['a'\] has 1 parts, observation_space\['a'\] has 2"),
        ({"a": ([1, -1], [0, 1]), "b": 0}, r"has the keys \['a', 'b'\], .* has \['a'\]"),
        ([0], r"has no keys, observation_space has \['a'\]"),
    ],
    ids=str,
)
def test_a_part_that_does_not_fit_is_named(observation, message):
    with pytest.raises(
        ValueError, match="an observation" + message if message[0] == "\\" else message
    ):
        flatten_observation(DEEP, observation)


def test_the_ends_of_all_parts_are_inside():
    assert flatten_observation(DEEP, {"a": ([1, -1], [0, 0])}).tolist() == [1, 0, 1, 0, 0, 0, 0]
    assert flatten_observation(DEEP, {"a": ([2, 1], [1, 1])}).tolist() == [0, 1, 0, 0, 1, 1, 1]


def test_an_observation_outside_a_space_of_another_kind_is_refused():
    space = gym.spaces.OneOf([gym.spaces.Discrete(2), gym.spaces.Box(0, 1, (1,))])
    assert flatten_observation(space, (0, 1)).tolist() == [0, 0, 1]
    for outside in ((-1, np.float32([0])), (0, -1), (1, np.float64([0.5]))):
        with pytest.raises(ValueError, match=r"an observation is \(.*\), outside OneOf"):
            flatten_observation(space, outside)


@pytest.mark.parametrize("start", [0, -3])
def test_an_index_outside_is_not_one_hot(start):
    space = gym.spaces.Discrete(3, start=start)
    for value in (start - 1, start + 3):
        with pytest.raises(ValueError, match=rf"an observation is {value}, outside Discrete\(3"):
            flatten_observations(space, np.array([start, value]))


def test_one_hot_of_a_small_type_does_not_overflow():
    space = gym.spaces.Discrete(127, start=-100, dtype=np.int8)
    assert flatten_observations(space, np.int8([-100, 26])).argmax(1).tolist() == [0, 126]


def test_one_hot_of_many_needs_the_memory_of_its_rows_alone():
    space = gym.spaces.Discrete(20_000)
    tracemalloc.start()
    flat = flatten_observations(space, np.array([3, 19_999]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert flat.shape == (2, 20_000) and flat.argmax(1).tolist() == [3, 19_999]
    assert flat.sum() == 2 and peak < 4 * flat.nbytes


@pytest.mark.parametrize("space", [gym.spaces.Discrete(3, start=5), gym.spaces.Box(-1, 1, (2,))])
def test_a_blank_observation_has_the_space_s_form(space):
    blank = blank_observations(space, 3)
    assert blank.dtype == space.dtype and blank.shape == (3, *space.shape)
    assert all(space.contains(row) for row in blank)


def test_space_without_flat_form_is_refused_by_its_key():
    inner = gym.spaces.Tuple([gym.spaces.Discrete(2), gym.spaces.Text(3)])
    space = gym.spaces.Dict({"image": gym.spaces.Box(0, 1, (2,)), "mission": inner})
    with pytest.raises(UserError, match=r"observation space\['mission'\]\[1\]: got Text; accepted"):
        observation_size(space)
    sequence = gym.spaces.Sequence(gym.spaces.Discrete(2))
    with pytest.raises(UserError, match="observation space: got Sequence; accepted"):
        reported_space(sequence)


def test_action_box_of_integers_is_refused():
    with pytest.raises(UserError, match=r"int32.*accepted: Discrete, Box of floats"):
        ActionCodec(gym.spaces.Box(0, 3, (2,), np.int32))


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

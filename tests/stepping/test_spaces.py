import tracemalloc

import gymnasium as gym
import numpy as np
import pytest

from metarl.errors import UserError
from metarl.stepping.spaces import (
    Flattener,
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


@pytest.mark.parametrize("space", COMPOSED, ids=lambda s: type(s).__name__)
def test_an_observation_is_written_over_another_one(space):
    space.seed(0)
    flattener = Flattener(space)
    flat = np.ones(flattener.space.shape, flattener.space.dtype)
    for _ in range(20):
        observation = space.sample()
        flattener.write(observation, flat)
        assert np.array_equal(flat, gym.spaces.flatten(space, observation))


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

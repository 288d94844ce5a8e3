import gymnasium as gym
import numpy as np
import pytest

from metarl.errors import UserError
from metarl.spaces import (
    ActionCodec,
    flatten_observation,
    flatten_observations,
    observation_size,
    reported_space,
)

COMPOSED = [
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
    observation = space.sample()
    flat = flatten_observation(space, observation)
    reported = reported_space(space)
    assert isinstance(reported, gym.spaces.Box) and flat in reported
    assert np.array_equal(flat, gym.spaces.flatten(space, observation))
    assert observation_size(space) == reported.shape[0]
    with pytest.raises(UserError, match=f"{type(space).__name__}.*accepted: Discrete, Box of"):
        ActionCodec(space)


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

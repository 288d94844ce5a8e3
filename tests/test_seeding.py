import numpy as np
import pytest

from metarl import seeding
from metarl.seeding import Component, LaneGenerator, Phase

KEYS = seeding.fold(seeding.derive(0), np.arange(20_000))


def splitmix(x):
    """The output function of SplitMix64, with Python's integers."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def test_numbers_never_change():
    assert seeding.derive(0) == 15793235383387715774
    assert seeding.derive(1, Phase.EVALUATE, Component.ACTIONS, 3, 1) == 4281803340713065664
    key = np.array([1], np.uint64)
    assert seeding.fold(key, 2).tolist() == [12017601128915079454]
    np.testing.assert_allclose(
        seeding.uniform(key, 3),
        [[0.3681895156516695, 0.4669663109258259, 0.651475462601699]],
        rtol=1e-15,
    )
    np.testing.assert_allclose(
        seeding.normal(key, 3),
        [[-0.3366522922158838, -0.08289802827922674, 0.38930697825439436]],
        rtol=1e-12,
    )
    drawn = seeding.numpy_generator(1, 2, 3).integers(1000, size=4)
    assert drawn.tolist() == [925, 89, 40, 228]


def test_fold_equals_splitmix_with_python_integers():
    golden = 0x9E3779B97F4A7C15
    for key, index in [(0, 0), (1, 2), (2**64 - 1, 10**6), (12345678901234567890, 7)]:
        expected = splitmix((splitmix((key + (index + 1) * golden) % 2**64) + golden) % 2**64)
        assert seeding.fold(np.array([key], np.uint64), index).tolist() == [expected]


def test_fold_is_distinct_for_distinct_indices_and_keys():
    assert len(np.unique(seeding.fold(np.uint64(0), np.arange(100_000)))) == 100_000
    grid = seeding.fold(np.arange(300, dtype=np.uint64)[:, None], np.arange(300))
    assert grid.shape == (300, 300)
    assert len(np.unique(grid)) == 300 * 300


def test_uniform_mean_variance_and_bins():
    u = seeding.uniform(KEYS, 4)  # 80 000 values
    assert u.shape == (20_000, 4) and u.min() > 0 and u.max() < 1
    # five standard errors: sqrt(1/12 / 80000) = 0.00102, and sqrt(1/180 / 80000) = 0.00026
    assert abs(u.mean() - 0.5) < 0.0051
    assert abs(u.var() - 1 / 12) < 0.0013
    counts = np.histogram(u, 20, (0, 1))[0]
    chi_square = ((counts - 4000) ** 2 / 4000).sum()
    assert chi_square < 60  # 19 degrees of freedom: exceeded with probability 4e-6


def test_uniform_neighbours_are_uncorrelated():
    u = seeding.uniform(KEYS, 4)
    limit = 5 / np.sqrt(len(u))
    assert abs(np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]) < limit  # neighbouring keys
    off_diagonal = np.corrcoef(u.T)[~np.eye(4, dtype=bool)]  # draws of one key
    assert np.abs(off_diagonal).max() < limit
    raw = seeding.uniform(np.arange(20_000, dtype=np.uint64), 1)[:, 0]  # keys not hashed yet
    assert abs(np.corrcoef(raw[:-1], raw[1:])[0, 1]) < limit


def unmix(x):
    """The inverse of ``splitmix``."""
    x = x ^ (x >> 31) ^ (x >> 62)
    x = x * pow(0x94D049BB133111EB, -1, 2**64) % 2**64
    x = x ^ (x >> 27) ^ (x >> 54)
    x = x * pow(0xBF58476D1CE4E5B9, -1, 2**64) % 2**64
    return x ^ (x >> 30) ^ (x >> 60)


@pytest.mark.parametrize("bits", [0, 2**64 - 1])
def test_uniform_is_inside_the_open_interval_at_the_extreme_keys(bits):
    golden = 0x9E3779B97F4A7C15
    key = (unmix((unmix(bits) - golden) % 2**64) - golden) % 2**64
    keys = np.array([key], np.uint64)
    assert seeding.fold(keys, 0).tolist() == [bits]
    assert 0 < seeding.uniform(keys, 1)[0, 0] < 1
    assert np.isfinite(seeding.normal(keys, 1)).all()


def test_normal_moments():
    z = seeding.normal(KEYS, 4).ravel()
    # five standard errors of 80 000 values: 1, sqrt(2), sqrt(15), sqrt(96) over sqrt(80000)
    assert abs(z.mean()) < 0.018
    assert abs((z**2).mean() - 1) < 0.025
    assert abs((z**3).mean()) < 0.069
    assert abs((z**4).mean() - 3) < 0.174


def test_a_row_alone_equals_that_row_in_a_batch():
    for draw in (seeding.uniform, seeding.normal):
        batch = draw(KEYS[:60].reshape(5, 4, 3), 2)
        assert batch.shape == (5, 4, 3, 2)
        assert np.array_equal(draw(KEYS[:60], 2).reshape(5, 4, 3, 2), batch)
        assert np.array_equal(draw(KEYS[17:18], 2)[0], batch.reshape(60, 2)[17])
    assert np.array_equal(seeding.fold(KEYS[:3], 4)[1:2], seeding.fold(KEYS[1:2], 4))


def test_derive_differs_by_seed_phase_component_and_iteration():
    keys = [
        seeding.derive(seed, phase, component, iteration)
        for seed in (0, 1)
        for phase in Phase
        for component in Component
        for iteration in range(3)
    ]
    assert len(set(keys)) == 2 * len(Phase) * len(Component) * 3


def test_derive_tells_the_order_and_number_of_its_keys():
    assert len({seeding.derive(0, *key) for key in [(), (0,), (0, 0), (1,), (1, 2), (2, 1)]}) == 6


def test_numpy_generators_are_equal_for_equal_keys_only():
    draws = [seeding.numpy_generator(*key).random(4).tolist() for key in [(0, 1), (0, 1), (0, 2)]]
    assert draws[0] == draws[1] != draws[2]


def test_lane_generator_draws_by_key_alone():
    keys = KEYS[:6].reshape(3, 2)
    generator = LaneGenerator(keys)
    assert generator.uniform(4).shape == generator.normal(4).shape == (3, 2, 4)
    assert np.array_equal(generator.normal(4), generator.normal(4))
    alone = LaneGenerator(keys[1:2, 1:2])
    assert np.array_equal(alone.uniform(4)[0, 0], generator.uniform(4)[1, 1])

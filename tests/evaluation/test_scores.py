"""What scores say: is it what loops over runs and tasks say, and are two kinds of seeds seen?"""

import itertools

import numpy as np
import pytest

from metarl.evaluation.scores import (
    area_under_curve,
    has_two_kinds,
    holm,
    performance_profile,
    planned,
    probability_of_improvement,
    robust_means,
    seeds_for_half_width,
    seeds_for_significance,
)
from metarl.evaluation.statistics import crossed_mean, difference, task_weights

RNG = np.random.default_rng(3)


def test_median_and_iqm_are_of_scores_only():
    scores = np.array([[1.0, 2, 3, 4], [5, 6, 7, 100]])
    assert robust_means(scores[None], 10) == {"median": [4.5], "iqm": [4.5]}  # of 3, 4, 5, 6
    assert robust_means(scores, 20) == {"median": [2.5, 6.5], "iqm": [2.5, 6.5]}
    assert robust_means(scores, 9) == {"median": None, "iqm": None}


def test_area_is_that_of_trapezoids():
    values, episodes = RNG.normal(size=(4, 3)), (0, 10, 20, 60)
    for task in range(3):
        area = sum(
            (b - a) * (values[i, task] + values[i + 1, task]) / 2
            for i, (a, b) in enumerate(itertools.pairwise(episodes))
        )
        assert area_under_curve(values, episodes)[task] == pytest.approx(area / 60)
    assert area_under_curve(np.array([[3.0, 4]]), (0,)).tolist() == [3, 4]
    assert area_under_curve(np.full((3, 2), 7.0), (0, 1, 5)) == pytest.approx([7, 7])


def test_improvement_is_counted_over_pairs_of_runs_on_each_task():
    first, second = (RNG.integers(0, 3, (n, 6)).astype(float) for n in (4, 3))
    kinds = np.array([0, 0, 0, 1, 1, 2])
    weights = task_weights(6, kinds)
    share = 0.0
    for task, own, other in itertools.product(range(6), first, second):
        won = 1.0 if own[task] > other[task] else 0.5 if own[task] == other[task] else 0.0
        share += weights[task] * won / 12
    found = probability_of_improvement(first, second, weights)
    assert found.probability == pytest.approx(share)
    assert found.low <= share <= found.high
    other_way = probability_of_improvement(second, first, weights)
    assert other_way.probability == pytest.approx(1 - share)
    few = probability_of_improvement(first[:2], second, weights)
    assert few.low is few.high is None


def test_improvement_s_interval_resamples_runs():
    """Pairs decided by the first group's run alone: the interval is that of a mean of runs."""
    good = np.arange(20) < 12
    first = np.where(good, 1.0, -1.0)[:, None] + np.zeros(5)
    found = probability_of_improvement(first, np.zeros((20, 5)), task_weights(5))
    assert found.probability == pytest.approx(0.6)
    drawn = np.random.default_rng(1).choice(good, (20_000, 20)).mean(1)
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=0.051)


def test_profile_is_the_share_above_a_threshold():
    scores, thresholds = RNG.normal(size=(3, 5)), np.linspace(-2, 2, 9)
    found = performance_profile(scores, thresholds, task_weights(5))
    for least, share in zip(thresholds, found, strict=True):
        assert share == pytest.approx(sum(x > least for x in scores.ravel()) / 15)


def test_holm_steps_down():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1, 1])
    assert holm([0.04]) == [0.04]


def scattered(scores, noise=1e-3, tasks=30):
    return np.asarray(scores, float)[:, None] + np.random.default_rng(0).normal(
        0, noise, (len(scores), tasks)
    )


@pytest.mark.parametrize("scores", [(1, 0.02, 0.98, 0.01, 0.97), (0.97, 0.96, 0.98, 0.99, 0.1)])
def test_seeds_that_succeed_or_fail_are_two_kinds(scores):
    assert has_two_kinds(scattered(scores))


@pytest.mark.parametrize("scores", [(1, 0.5, 0.1, 0.8, 0.3), (1, 2), (0.5, 0.5, 0.5, 0.5)])
def test_seeds_of_one_kind_are_not_two(scores):
    assert not has_two_kinds(scattered(scores))


@pytest.mark.parametrize(("seeds", "missed"), [(3, 1 / 4), (4, 1 / 8)])
def test_intervals_miss_where_few_seeds_came_out_alike_and_that_is_not_flagged(seeds, missed):
    rng = np.random.default_rng(seeds)
    succeeds = rng.random((600, seeds)) < 0.5
    values = rng.normal(size=(600, seeds, 50)) + (2.0 * succeeds - 1)[:, :, None]
    found = crossed_mean(values)
    misses = np.abs(found.mean) > found.half_width()
    alike = succeeds.all(1) | ~succeeds.any(1)
    assert misses.mean() == pytest.approx(missed, abs=0.04) and not (misses & ~alike).any()
    assert not any(has_two_kinds(group) for group in values[misses])


def test_one_task_more_or_less_is_no_kind_of_seeds():
    """Three seeds that succeed on 50, 50 and 49 of 50 tasks."""
    values = np.ones((3, 50))
    values[2, 7] = 0
    assert not has_two_kinds(values)


@pytest.mark.parametrize("seeds", [3, 4, 5, 6, 9, 10, 12, 20])
def test_one_in_twenty_gaussian_groups_looks_like_two_kinds(seeds):
    scores = np.random.default_rng(seeds).normal(size=(2000, seeds, 1)) + np.zeros(2)
    assert np.mean([has_two_kinds(group) for group in scores]) == pytest.approx(0.05, abs=0.017)


@pytest.mark.parametrize(("seeds", "least"), [(5, 0.95), (10, 0.99)])
def test_two_kinds_a_deviation_of_a_twentieth_apart_are_seen(seeds, least):
    rng = np.random.default_rng(0)
    succeeds = rng.random((500, seeds)) < 0.5
    succeeds[:, 0], succeeds[:, 1] = True, False
    scores = succeeds + rng.normal(0, 0.05, succeeds.shape)
    assert np.mean([has_two_kinds(np.stack([s, s], 1)) for s in scores]) > least


def test_planned_seeds_are_the_fewest_that_are_enough():
    found = crossed_mean(RNG.normal(size=(4, 30)) + RNG.normal(size=(4, 1)))
    half = 0.7 * float(found.half_width())
    number = seeds_for_half_width(found, half)
    assert planned(found, number).half_width() <= half < planned(found, number - 1).half_width()
    assert planned(found, 4).by_seeds == found.by_seeds
    assert seeds_for_half_width(found, 10 * half) == 3
    assert seeds_for_half_width(found, 1e-9) is None  # as wide as the tasks alone make it
    assert seeds_for_half_width(crossed_mean(RNG.normal(size=(1, 30))), half) is None


def test_that_many_seeds_show_the_difference_as_often_as_planned():
    rng = np.random.default_rng(5)

    def groups(number, size):
        """Groups of seeds of deviation 1 whose true difference is 1."""
        rest = rng.normal(0, 0.1, (2, number, size, 20))
        first, second = rest + rng.normal(size=(2, number, size, 1))
        return first + 1, second

    pilot = difference(*(x[0] for x in groups(1, 400)))  # knows the deviations well
    number = seeds_for_significance(pilot)
    found = difference(*groups(1000, number))
    assert np.mean(np.abs(found.mean) > found.half_width()) == pytest.approx(0.8, abs=0.08)
    same = RNG.normal(size=(4, 9))
    assert seeds_for_significance(difference(same, same)) is None

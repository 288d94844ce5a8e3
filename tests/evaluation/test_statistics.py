"""Estimates over seeds and tasks: are they what loops compute, and do intervals cover?"""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from metarl.evaluation.statistics import crossed_mean, difference, task_weights

RNG = np.random.default_rng(7)
KINDS = np.array(["push", "reach", "push", "reach", "push", "door"])


def mean_squares(values):
    """Seeds, tasks and rest, by loops over the table: values[seed, task]."""
    seeds, tasks = values.shape
    grand = sum(values[s, t] for s in range(seeds) for t in range(tasks)) / (seeds * tasks)
    by_seed = [sum(values[s]) / tasks for s in range(seeds)]
    by_task = [sum(values[:, t]) / seeds for t in range(tasks)]
    rest = sum(
        (values[s, t] - by_seed[s] - by_task[t] + grand) ** 2
        for s in range(seeds)
        for t in range(tasks)
    )
    return (
        tasks * sum((x - grand) ** 2 for x in by_seed) / (seeds - 1),
        seeds * sum((x - grand) ** 2 for x in by_task) / (tasks - 1),
        rest / ((seeds - 1) * (tasks - 1)),
    )


def test_components_are_those_of_the_analysis_of_variance():
    values = RNG.normal(size=(4, 7)) + RNG.normal(size=(4, 1)) + RNG.normal(size=7)
    of_seeds, of_tasks, of_rest = mean_squares(values)
    found = crossed_mean(values)
    assert found.mean == pytest.approx(values.mean())
    assert found.by_seeds == pytest.approx(of_seeds / 28)
    assert found.over_tasks == pytest.approx(of_tasks / 28)
    assert found.by_tasks == pytest.approx(max(of_tasks - of_rest, 0) / 28)
    assert (found.seed_freedom, found.task_freedom) == (3, 6)
    squared = stats.t.ppf(0.975, 3) ** 2 * found.by_seeds
    squared += stats.t.ppf(0.975, 6) ** 2 * found.by_tasks
    assert found.half_width() == pytest.approx(np.sqrt(squared))


def test_hand_typed_table():
    found = crossed_mean(np.array([[1.0, 3], [2, 4], [3, 8]]))
    assert found.mean == 3.5
    assert found.by_seeds == pytest.approx(np.var([2, 3, 5.5], ddof=1) / 3)
    assert found.over_tasks == 2.25  # means of tasks 2 and 5: variance 4.5, over two tasks half
    assert found.by_tasks == 2  # the rest is ±0.5, ±0.5, ±1: mean square 3 / 2, over six values


def test_variance_over_tasks_that_noise_explains_is_none():
    values = np.array([[1.0, -1], [-1, 1], [2, -2]])
    found = crossed_mean(values)
    assert found.by_tasks == 0 < found.over_tasks
    # The interval is not narrower than that of the tasks alone.
    assert found.half_width() == pytest.approx(found.half_width_over_tasks())


def test_fixed_tasks_leave_the_t_interval_of_seed_means():
    values = RNG.normal(size=(5, 21)) * 3 + np.arange(21)
    scores = values.mean(1)
    low, high = stats.t.interval(0.95, 4, scores.mean(), stats.sem(scores))
    found = crossed_mean(values, fixed_tasks=True)
    assert found.half_width() == pytest.approx((high - low) / 2)
    alone = crossed_mean(values, strata=np.arange(21))  # every task is a kind of its own
    assert alone.half_width() == pytest.approx(found.half_width())


def test_kinds_are_fixed_and_count_equally():
    values = RNG.normal(size=(3, 6)) + np.array([0, 5, 1, 6, 2, 9])
    mean, over_tasks, noise, degrees = 0.0, 0.0, 0.0, 0.0
    for kind in ("push", "reach", "door"):
        own = values[:, kind == KINDS]
        mean += own.mean() / 3
        if own.shape[1] > 1:
            _, of_tasks, of_rest = mean_squares(own)
            part = of_tasks / own.size / 9
            over_tasks += part
            noise += of_rest / own.size / 9
            degrees += part**2 / (own.shape[1] - 1)
    scores = [
        np.mean([seed[kind == KINDS].mean() for kind in ("push", "reach", "door")])
        for seed in values
    ]
    found = crossed_mean(values, KINDS)
    assert found.mean == pytest.approx(mean)
    assert found.by_seeds == pytest.approx(np.var(scores, ddof=1) / 3)
    assert found.over_tasks == pytest.approx(over_tasks)
    assert found.by_tasks == pytest.approx(max(over_tasks - noise, 0))
    assert found.task_freedom == pytest.approx(over_tasks**2 / degrees)
    assert task_weights(6, KINDS) == pytest.approx([1 / 9, 1 / 6, 1 / 9, 1 / 6, 1 / 9, 1 / 3])


def test_a_difference_is_paired_by_task_and_its_seeds_are_welch_s():
    tasks = RNG.normal(0, 100, 40)
    first, second = RNG.normal(1, 1, (3, 40)) + tasks, RNG.normal(0, 4, (5, 40)) + tasks
    found = difference(first, second)
    expected = stats.ttest_ind(first.mean(1), second.mean(1), equal_var=False)
    assert found.mean == pytest.approx(first.mean() - second.mean())
    assert found.seed_freedom == pytest.approx(expected.df)
    assert found.mean / np.sqrt(found.by_seeds) == pytest.approx(expected.statistic)
    paired = first.mean(0) - second.mean(0)
    assert found.over_tasks == pytest.approx(paired.var(ddof=1) / 40)
    noise = mean_squares(first)[2] / first.size + mean_squares(second)[2] / second.size
    assert found.by_tasks == pytest.approx(max(found.over_tasks - noise, 0))
    fixed = difference(first, second, fixed_tasks=True)
    assert fixed.p_value() == pytest.approx(expected.pvalue, rel=1e-6)


def test_points_are_estimated_as_each_alone():
    values = RNG.normal(size=(4, 3, 6)).cumsum(0)
    together = crossed_mean(values, KINDS)
    for point, one in enumerate(values):
        alone = crossed_mean(one, KINDS)
        for name, value in vars(alone).items():
            found = getattr(together, name)
            assert (found if name == "num_seeds" else found[point]) == pytest.approx(value)
        assert together.half_width()[point] == pytest.approx(alone.half_width())


@pytest.mark.parametrize("seeds", [1, 2])
def test_below_three_seeds_there_is_no_interval(seeds):
    values = RNG.normal(size=(seeds, 9))
    found = crossed_mean(values)
    assert found.half_width() is found.p_value() is None
    assert difference(RNG.normal(size=(5, 9)), values).half_width() is None
    half = stats.t.ppf(0.975, 8) * stats.sem(values.mean(0))
    assert found.half_width_over_tasks() == pytest.approx(half)


def test_p_value_is_the_level_whose_interval_ends_at_zero():
    found = crossed_mean(RNG.normal(0.4, 1, (6, 30)))
    p = found.p_value()
    assert 0 < p < 1
    assert found.half_width(1 - p) == pytest.approx(abs(found.mean))
    assert replace(found, mean=np.array(0.0)).p_value() == 1
    assert crossed_mean(np.ones((3, 4))).p_value() < 1e-9


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("tasks", [50, 200])
def test_intervals_cover_as_often_as_they_say(seeds, tasks):
    """Equal deviations of seeds, tasks and rest: 95% with a standard error of 0.2% here."""
    rng, number = np.random.default_rng(seeds), 4000
    values = rng.standard_normal((number, seeds, tasks), np.float32)
    values += rng.standard_normal((number, seeds, 1), np.float32)
    values += rng.standard_normal((number, 1, tasks), np.float32)
    found = crossed_mean(values)
    assert 0.93 < np.mean(np.abs(found.mean) < found.half_width()) < 0.97
    # Half of the seeds against the others: no difference but that of seeds.
    if seeds == 10:
        found = difference(values[:, :5], values[:, 5:])
        assert 0.93 < np.mean(np.abs(found.mean) < found.half_width()) < 0.97


def test_intervals_of_goals_within_classes_cover():
    rng, number = np.random.default_rng(1), 4000
    strata = np.repeat(np.arange(5), 10)
    values = rng.standard_normal((number, 4, 50), np.float32) + 10 * strata
    values += rng.standard_normal((number, 4, 1), np.float32) * 0.5
    values += rng.standard_normal((number, 1, 50), np.float32) * 2
    found = crossed_mean(values, strata)
    assert 0.93 < np.mean(np.abs(found.mean - 20) < found.half_width()) < 0.98

"""Train, validation and test: do splits share a task, and did the training tasks stay the same?"""

import hashlib

import numpy as np
import pytest

import metarl
from metarl.task import SPLITS, mark_split

TRAINING_TASKS = {
    "ant/direction": "7608b550e5d5d617",
    "ant/goal": "8541827ce6276b12",
    "bandit/n10-k5": "0b758f7d531cb796",
    "gridworld": "eeecd561d27c2ea1",
    "gym/CartPole-v1:force_mag=-10/10,horizon=200": "6aa007f4fadcb6cb",
    "gym/Pendulum-v1:g=2..20": "70f9b6c1a133088f",
    "half-cheetah/direction": "e4c82ca665fa74f9",
    "half-cheetah/velocity": "45c62835e44f8fe5",
    "hopper/params": "52f79da6a7158134",
    "mdp/n10": "84daaf0d198272a0",
    "metaworld/ml10": "b6ecd4d04a7d00d1",
    "navigation": "7ce2732b8f425848",
}
"""Digest of twenty training tasks of each family, as the first edition drew them."""


def digest(tasks):
    """Return a digest of the tasks' numbers, to nine digits: libraries round the last ones."""
    leaves = []

    def collect(value):
        if isinstance(value, tuple):
            for part in value:
                collect(part)
        else:
            leaves.append(value if isinstance(value, str) else f"{float(value):.9g}")

    for task in tasks:
        collect(tuple(value for _, value in task.params))
    return hashlib.sha256(" ".join(leaves).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", TRAINING_TASKS)
def test_training_tasks_are_those_of_the_first_edition(name):
    drawn = metarl.make(name).sample(np.random.default_rng(11), 20, "train")
    assert digest(drawn) == TRAINING_TASKS[name]


@pytest.mark.parametrize("name", TRAINING_TASKS)
def test_no_two_splits_share_a_task_unless_the_family_says_so(name):
    tasks = metarl.make(name)
    train, validation, test = (
        set(tasks.sample(np.random.default_rng(0), 500, split)) for split in SPLITS
    )
    if tasks.shared_split:
        assert train == validation == test
    else:
        assert not train & validation and not train & test and not validation & test


def test_split_bits_are_disjoint_and_leave_training_as_it_was():
    drawn = np.arange(64)
    train, validation, test = (set(mark_split(drawn, split).tolist()) for split in SPLITS)
    assert train == set(range(0, 64, 2))
    assert validation == set(range(1, 64, 4)) and test == set(range(3, 64, 4))
    for split in SPLITS:  # no number moves further than its last bits
        assert (np.abs(mark_split(drawn, split) - drawn) <= 3).all()


@pytest.mark.parametrize("name", ["metaworld/ml1-reach", "metaworld/ml10"])
def test_meta_worlds_validation_goals_are_other_goals_of_the_training_classes(name):
    tasks = metarl.make(name)
    train, validation, test = (tasks.tasks(split) for split in SPLITS)
    assert [t["cls"] for t in validation] == [t["cls"] for t in train]
    assert len({*train, *validation, *test}) == len(train) + len(validation) + len(test)


def test_validation_tasks_fill_the_same_range_as_training_tasks():
    tasks = metarl.make("half-cheetah/velocity")
    drawn = [t["velocity"] for t in tasks.sample(np.random.default_rng(0), 2000, "validation")]
    assert min(drawn) < 0.01 and max(drawn) > 2.99
    assert np.mean(drawn) == pytest.approx(1.5, abs=5 * 3 / np.sqrt(12 * 2000))

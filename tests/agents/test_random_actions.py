"""Random actions cover every kind of action space, evenly."""

import gymnasium as gym
import numpy as np
import pytest
from scipy import stats
from uneven import Uneven

import metarl
from metarl import seeding
from metarl.experience.lanes import Lanes
from metarl.registry import make_baseline
from metarl.seeding import LaneGenerator
from metarl.stepping.actions import ActionCodec

BOXES = Uneven(discrete=False)
BOXES.action_space = gym.spaces.Box(
    np.array([-2, -np.inf, 1, -np.inf], np.float32), np.array([4, np.inf, np.inf, -3], np.float32)
)
TASKS = [BOXES, Uneven(discrete=True), metarl.make("bandit/n4-k3"), metarl.make("navigation")]


def drawn(tasks, greedy=False, number=20_000):
    agent = make_baseline("random", tasks, metarl.TrialShape(2))
    keys = seeding.fold(np.uint64(5), np.arange(number)).reshape(-1, 1)
    beginning = Lanes(number, 1, None, ActionCodec(tasks.action_space), None, True)
    now = beginning.timestep(np.zeros((number, 2), np.float32))
    action, _, _ = agent.act(agent.begin(number), now, LaneGenerator(keys, keys), greedy)
    return action[:, 0].numpy()


@pytest.mark.parametrize("tasks", TASKS[1:], ids=lambda tasks: tasks.name)
def test_it_keeps_the_contract(tasks):
    for shape in (metarl.TrialShape(2), metarl.TrialShape(2, 1, sequential=False)):
        metarl.check_adapter(make_baseline("random", tasks, shape), tasks)


def test_every_index_is_drawn_equally_often():
    count = np.bincount(drawn(TASKS[1]), minlength=3)
    assert len(count) == 3 and stats.chisquare(count).pvalue > 1e-3


def test_every_dimension_of_a_box_has_the_distribution_of_gymnasium_s_sample():
    action = drawn(BOXES)
    for column, expected in zip(
        action.T,
        [
            stats.uniform(-1, 2),  # mapped onto [-2, 4] afterwards
            stats.norm(),
            stats.expon(1),
            stats.expon(3),
        ],
        strict=True,
    ):
        values = -column if expected.args == (3,) else column
        assert stats.kstest(values, expected.cdf).pvalue > 1e-3


def test_a_greedy_action_is_the_middle_of_a_box_or_the_first_index():
    assert (drawn(TASKS[3], greedy=True, number=3) == 0).all()
    assert (drawn(TASKS[2], greedy=True, number=3) == 0).all()

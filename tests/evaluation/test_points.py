"""Points of finished tasks: what a cut off evaluation leaves, and what the next one makes of it."""

import numpy as np
import pytest
import torch

import metarl
from metarl.agents.rl2 import RL2, RL2Config
from metarl.evaluation.evaluate import evaluate_adaptation
from metarl.evaluation.points import Points, Unfinished
from metarl.options import with_options
from metarl.stepping.options import Workers

TASKS = metarl.make("gym/CartPole-v1:force_mag=-10/10,horizon=5")
TASKS.group = "force_mag"
SAID = {"env": "navigation", "seed": 0, "conditions": {}}


def points(first, tasks, totals=True):
    """Return points with numbers that tell tasks apart."""
    returns = torch.arange(3.0) + 10 * torch.arange(first, first + tasks)[:, None]
    return Points(
        (0, 1, 2), {"return": returns, "success": returns / 7}, returns.sum(1) if totals else None
    )


@pytest.mark.parametrize("totals", [True, False])
def test_points_are_read_as_those_of_one_batch(tmp_path, totals):
    unfinished = Unfinished(tmp_path / "new" / "curve.unfinished", SAID, seconds=0.0)
    assert unfinished.read() == []
    unfinished.write([points(0, 2, totals), points(2, 1, totals)])
    (found,) = Unfinished(unfinished.file, dict(SAID)).read()
    expected = points(0, 3, totals)
    assert len(found) == 3 and found.episodes == (0, 1, 2)
    assert found.metrics.keys() == expected.metrics.keys()
    assert all(torch.equal(found.metrics[k], x) for k, x in expected.metrics.items())
    assert torch.equal(found.total, expected.total) if totals else found.total is None
    unfinished.remove()
    assert unfinished.read() == [] and not unfinished.file.exists()
    unfinished.remove()


def test_points_of_another_evaluation_and_damaged_files_are_not_read(tmp_path):
    unfinished = Unfinished(tmp_path / "curve", SAID, seconds=0.0)
    unfinished.write([points(0, 2)])
    assert Unfinished(unfinished.file, SAID | {"seed": 1}).read() == []
    data = unfinished.file.read_bytes()
    for damaged in (b"", data[:50], data[:-4], b"{}"):
        unfinished.file.write_bytes(damaged)
        assert unfinished.read() == []


def test_they_are_written_now_and_then_and_not_where_nothing_can_be_written(tmp_path):
    seldom = Unfinished(tmp_path / "curve", SAID, seconds=1000.0)
    seldom.write([points(0, 2)])
    assert not seldom.file.exists()
    (tmp_path / "file").touch()
    Unfinished(tmp_path / "file" / "curve", SAID, seconds=0.0).write([points(0, 2)])


@pytest.mark.parametrize("score", ["adapting-episodes", "greedy-copy"])
def test_an_evaluation_goes_on_where_it_was_cut_off(tmp_path, score):
    config = with_options(RL2Config(), hidden_size=8, episodes_per_trial=2)
    agent = RL2(config, metarl.TaskSpec.of(TASKS))
    finished = []

    def advance(tasks):
        finished.append(tasks)
        if len(finished) == 2:
            raise KeyboardInterrupt

    def curve(**options):
        # Two slots: two tasks at once.
        return evaluate_adaptation(
            agent, TASKS, num_tasks=7, score=score, workers=Workers(num_envs=2), **options
        )

    whole = curve()
    unfinished = Unfinished(tmp_path / "curve", SAID, seconds=0.0)
    with pytest.raises(KeyboardInterrupt):
        curve(advance=advance, unfinished=unfinished)
    finished = [0, 0]
    both = curve(advance=advance, unfinished=unfinished)
    assert finished == [0, 0, 2, 1]
    assert np.array_equal(both.returns, whole.returns)
    assert np.array_equal(both.groups, whole.groups) and set(both.groups) == {"-10", "10"}
    assert np.array_equal(both.trial_return, whole.trial_return) or score == "greedy-copy"
    assert np.array_equal(curve(unfinished=unfinished).returns, whole.returns)  # all are kept

"""T-maze, dark room and point robot: their dynamics by hand, and what can be had in them."""

from pathlib import Path

import numpy as np
import pytest

import metarl
from metarl.registry import make_baseline
from metarl.task import Task


def played(tasks, task, actions, seed=0):
    """The observations of an episode, its rewards, and how it ended."""
    env = tasks.make(task)
    observation, _ = env.reset(seed=seed)
    observations, rewards = [observation], []
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        observations.append(observation)
        rewards.append(float(reward))
        if terminated or truncated:
            break
    return observations, rewards, (terminated, truncated), info


# t-maze


def test_t_maze_shows_the_signal_once_and_pays_at_the_junction():
    tasks = metarl.make("t-maze/n3")
    (task,) = tasks.tasks("test")
    ways = set()
    for seed in range(20):
        for action in (0, 1):
            observations, rewards, ended, info = played(tasks, task, [0, 1, 0, action], seed)
            signal = observations[0][0]
            assert signal in (-1, 1)
            assert [o[0] for o in observations[1:]] == [0] * 4
            assert [o[1] for o in observations[:4]] == [0, 0, 0, 1]  # at the junction
            assert {float(o[2]) for o in observations} <= {-1.0, 1.0}
            right = (signal > 0) == (action == 1)
            assert rewards == [0, 0, 0, 4.0 if right else -3.0]
            assert ended == (True, False) and info["success"] == right
        ways.add(float(signal))
    assert ways == {-1.0, 1.0}  # drawn anew for every episode


def test_t_maze_yields_half_a_point_by_chance_and_four_with_memory():
    tasks, slots = metarl.make("t-maze/n5"), 20_000
    envs = tasks.make_vec(slots)
    observation, _ = envs.reset(seed=0, options={"tasks": tasks.tasks("train") * slots})
    signal = observation[:, 0]
    noise = [observation[:, 2]]
    for _ in range(5):
        observation, reward, terminated, _, _ = envs.step(np.zeros(slots, np.int64))
        assert not terminated.any() and not reward.any()
        noise.append(observation[:, 2])
    guess = np.arange(slots) % 2
    remembering = slots // 2
    guess[:remembering] = signal[:remembering] > 0
    _, reward, terminated, _, _ = envs.step(guess)
    assert terminated.all() and (reward[:remembering] == 4).all()
    assert abs(reward[remembering:].mean() - 0.5) < 0.18  # five standard errors
    correlation = np.corrcoef(np.stack([signal, *noise]))
    assert np.abs(correlation - np.eye(7)).max() < 0.04  # the noise says nothing


# dark room


def test_dark_room_moves_pays_on_the_goal_and_has_walls():
    tasks = metarl.make("dark-room/n3:horizon=6")
    task = Task.of(tasks.name, goal=(2, 1))
    observations, rewards, ended, info = played(tasks, task, [1, 1, 4, 3, 0, 0])
    assert observations == [4, 7, 7, 7, 4, 5, 5]  # right, wall, stay, left, up, wall
    assert rewards == [1, 1, 1, 0, 0, 0]
    assert ended == (False, True) and not info["success"]


def test_dark_room_s_oracle_gets_what_is_known():
    tasks = metarl.make("dark-room/n9")
    assert len(tasks.tasks("test")) == 81
    oracle = make_baseline("oracle", tasks, metarl.TrialShape(4))
    curve = metarl.evaluate_adaptation(oracle, tasks, num_tasks=81)
    assert curve.returns.mean() == pytest.approx(1340 / 81)  # 16.54


def test_dark_room_s_goals_can_be_divided():
    tasks = metarl.make("dark-room/n9:split=true")
    goals = {split: set(tasks.tasks(split)) for split in ("train", "validation", "test")}
    assert [len(goals[split]) for split in goals] == [57, 8, 16]
    assert len(set.union(*goals.values())) == 81
    assert not tasks.shared_split and metarl.make("dark-room/n9").shared_split


def test_what_a_search_plan_yields_is_what_the_room_pays(monkeypatch):
    """Every goal in turn: follow the plan until the goal is found, stay, and go there later."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import dark_room_plan

    room = dark_room_plan.Room(5)
    plan = dark_room_plan.beam_search(room, 200)
    assert [len(actions) for actions in plan] == [20] * 4
    tasks = metarl.make("dark-room/n5")
    oracle = {}
    total, by_episode = 0.0, np.zeros(4)
    for task in tasks.tasks("test"):
        found = False
        for episode, actions in enumerate(plan):
            if found:
                paid = best_known(tasks, task, oracle)
            else:
                paid, found = searched(tasks, task, actions)
            total += paid
            by_episode[episode] += paid / 25
    assert room.total(plan) == total
    np.testing.assert_allclose(room.by_episode(plan), by_episode)
    changed = dark_room_plan.annealed(room, [[4] * 20] * 4, 3000, 0)
    assert room.total(changed) > 2 * room.total([[4] * 20] * 4)


def searched(tasks, task, actions):
    """What an episode pays whose actions stop once the goal is found, and whether it is."""
    env = tasks.make(task)
    env.reset(seed=0)
    paid, found = 0.0, False
    for action in actions:
        _, reward, *_ = env.step(4 if found else action)
        found = found or reward > 0
        paid += float(reward)
    return paid, found


def best_known(tasks, task, oracle):
    """What an episode pays if the goal is known, by walking straight to it."""
    if task not in oracle:
        x, y = task["goal"][0] - 2, task["goal"][1] - 2
        walk = [1 if x > 0 else 3] * abs(x) + [0 if y > 0 else 2] * abs(y)
        oracle[task] = searched(tasks, task, walk + [4] * (20 - len(walk)))[0]
    return oracle[task]


# point robot


def test_point_robot_pays_near_its_goal_alone():
    tasks = metarl.make("point-robot:horizon=12")
    task = Task.of(tasks.name, goal=(0.0, 0.95))
    up = np.array([0.0, 0.5], np.float32)  # clipped to 0.1
    observations, rewards, ended, info = played(tasks, task, [up] * 12)
    np.testing.assert_allclose(np.array(observations)[:, 1], 0.1 * np.arange(13), atol=1e-6)
    expected = [0.0] * 7 + [0.85, 0.95, 0.95, 0.85, 0.0]
    np.testing.assert_allclose(rewards, expected, atol=1e-5)
    assert ended == (False, True) and not info["success"]
    dense = metarl.make("point-robot:dense=true,horizon=12")
    _, rewards, _, _ = played(dense, Task.of(dense.name, goal=(0.0, 1.0)), [up] * 3)
    np.testing.assert_allclose(rewards, [-0.9, -0.8, -0.7], atol=1e-6)


@pytest.mark.parametrize(("horizon", "known"), [(20, 13.38), (100, 93.38)])
def test_point_robot_s_oracle_gets_what_is_known(horizon, known):
    tasks = metarl.make(f"point-robot:horizon={horizon}")
    oracle = make_baseline("oracle", tasks, metarl.TrialShape(1))
    curve = metarl.evaluate_adaptation(oracle, tasks, num_tasks=4000)
    assert curve.returns.mean() == pytest.approx(known, abs=0.05)
    angles = [
        np.arctan2(*reversed(t["goal"]))
        for t in tasks.sample(np.random.default_rng(0), 4000, "train")
    ]
    assert 0 <= min(angles) < 0.01 and np.pi - 0.01 < max(angles) <= np.pi
    assert abs(np.mean(angles) - np.pi / 2) < 0.07

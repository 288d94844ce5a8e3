"""Disturbances: noise, delays and losses, beside loops over single environments."""

import gymnasium as gym
import numpy as np
import pytest
from counters import ArrayCounterTasks, CounterTasks, counter_task

import metarl
from metarl.errors import UserError
from metarl.stepping.disturbances import OWN_REWARD, Disturbances, disturbed

FAMILIES = {"slots": CounterTasks, "arrays": ArrayCounterTasks}
TASKS = [counter_task(5), counter_task(3), counter_task(5)]


def played(envs, num_steps=5, seeds=(7, 8, 9), tasks=TASKS):
    """Return what is seen at the reset and in every step, with other actions in each."""
    seed = np.array(seeds, np.uint64)
    seen = [(envs.reset(seed=seed, options={"tasks": list(tasks)})[0], None, None, {})]
    for t in range(num_steps):
        actions = np.full((envs.num_envs, 2), 0.1 * (t + 1), np.float32)
        observation, reward, terminated, truncated, info = envs.step(actions)
        seen.append((observation, reward, terminated | truncated, info))
    envs.close()
    return seen


def both(family, tasks=TASKS, seeds=(7, 8, 9), **options):
    """Return what is seen without and with disturbances."""
    made = family()
    plain = played(made.make_vec(len(tasks)), tasks=tasks, seeds=seeds)
    inner = made.make_vec(len(tasks))
    return plain, played(disturbed(inner, Disturbances(**options)), tasks=tasks, seeds=seeds)


def test_without_disturbances_the_environments_are_themselves():
    envs = ArrayCounterTasks().make_vec(2)
    assert disturbed(envs, Disturbances()) is envs and Disturbances().conditions() == {}
    assert Disturbances(action_delay=2).conditions() == {"action_delay": 2}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_noise_is_normal_on_what_is_seen_and_leaves_the_world_alone(family):
    plain, noisy = both(family, observation_noise=0.5, reward_noise=2.0)
    differences = []
    for (clean, reward, ended, _), (seen, told, also, info) in zip(plain, noisy, strict=True):
        if reward is None:
            differences.append(seen - clean)
            continue
        assert (ended == also).all() and (info[OWN_REWARD] == reward).all()
        live = reward != 0
        assert (told[live] != reward[live]).all() and (told[~live] == 0).all()
        assert {"success", "clock"} <= info.keys()
        differences.append((seen - clean)[live])
    noise = np.concatenate(differences)
    assert noise.std() == pytest.approx(0.5, rel=0.3) and abs(noise.mean()) < 0.2
    assert len(np.unique(noise.round(6))) > 0.95 * noise.size  # of every number of its own


def test_noise_has_the_standard_deviation_that_is_asked_for():
    tasks = [counter_task(5)] * 400
    plain, noisy = both(
        ArrayCounterTasks, tasks, range(400), observation_noise=0.5, reward_noise=2.0
    )
    told = np.concatenate([b[1] - a[1] for a, b in zip(plain[1:], noisy[1:], strict=True)])
    seen = np.concatenate([b[0] - a[0] for a, b in zip(plain, noisy, strict=True)])
    assert told.std() == pytest.approx(2, rel=0.05) and abs(told.mean()) < 0.15
    assert seen.std() == pytest.approx(0.5, rel=0.05) and abs(seen.mean()) < 0.03


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_actions_take_effect_later_and_episodes_begin_with_neutral_ones(family):
    _, seen = both(family, action_delay=2)
    taken = [observation[0, 2:].tolist() for observation, *_ in seen]
    neutral = [0.0, 2.0]  # the middle of the bounds
    assert taken[1:3] == [neutral, neutral]
    assert taken[3:] == [pytest.approx([0.1 * t] * 2) for t in (1, 2, 3)]


def test_no_action_of_an_episode_reaches_the_next_one():
    envs = disturbed(ArrayCounterTasks().make_vec(1), Disturbances(action_delay=1))
    for _ in range(2):
        envs.reset(seed=np.array([1], np.uint64), options={"tasks": [counter_task(5)]})
        first = envs.step(np.full((1, 2), 0.7, np.float32))[0]
        assert first[0, 2:].tolist() == [0.0, 2.0]
    envs.close()


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_lost_observations_repeat_the_last_one_that_was_seen(family):
    plain, seen = both(family, drop_observations=0.5)
    kinds = set()
    for slot in range(3):
        last = plain[0][0][slot]
        assert (seen[0][0][slot] == last).all()
        for (clean, reward, *_), (got, told, *_) in zip(plain[1:], seen[1:], strict=True):
            lost = (got[slot] == last).all() and not (clean[slot] == last).all()
            kinds.add(bool(lost))
            assert lost or (got[slot] == clean[slot]).all()
            assert reward[slot] == told[slot]
            last = got[slot]
    assert kinds == {False, True}


def test_how_often_observations_are_lost():
    tasks = [counter_task(5)] * 500
    plain, seen = both(ArrayCounterTasks, tasks, range(500), drop_observations=0.3)
    lost = [(a[0][:, 0] != b[0][:, 0]).mean() for a, b in zip(plain[1:], seen[1:], strict=True)]
    assert lost == [pytest.approx(0.3, abs=0.08)] * 5


def test_what_is_disturbed_does_not_depend_on_the_slots():
    options = {"observation_noise": 1.0, "reward_noise": 1.0, "drop_observations": 0.3}
    _, together = both(ArrayCounterTasks, **options)
    for slot in range(3):
        _, alone = both(ArrayCounterTasks, [TASKS[slot]], [7 + slot], **options)
        for (a, b, *_), (c, d, *_) in zip(together, alone, strict=True):
            assert (a[slot] == c[0]).all() and (b is None or b[slot] == d[0])


@pytest.mark.parametrize(
    ("env", "options", "said"),
    [
        ("bandit/n4-k3", {"observation_noise": 0.1}, "--observation-noise: got 0.1; accepted: 0"),
        ("mdp/n2", {"observation_noise": 0.1}, "not real numbers that vary"),
        ("bandit/n4-k3", {"drop_observations": 0.1}, "--drop-observations: got 0.1; accepted: 0"),
        ("bandit/n4-k3", {"action_delay": 1}, "--action-delay: got 1; accepted: less than the hor"),
        ("navigation", {"action_delay": 100}, "less than the horizon of 100"),
    ],
)
def test_what_would_change_nothing_is_refused(env, options, said):
    tasks = metarl.make(env)
    with pytest.raises(UserError, match=said):
        Disturbances(**options).require_effect(tasks, tasks.horizon)
    Disturbances(reward_noise=1.0).require_effect(tasks, tasks.horizon)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"observation_noise": -1.0}, "--observation-noise: got -1.0; accepted: 0 or more"),
        ({"drop_observations": 1.5}, "--drop-observations: got 1.5; accepted: 0 to 1"),
        ({"action_delay": -1}, "--action-delay: got -1; accepted: 0 or more"),
    ],
)
def test_values_out_of_range_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        Disturbances(**options)


def test_actions_of_a_finite_set_are_delayed_too():
    tasks = metarl.make("mdp/n2")
    envs = disturbed(tasks.make_vec(1), Disturbances(action_delay=1))
    assert isinstance(tasks.action_space, gym.spaces.Discrete)
    task = tasks.sample(np.random.default_rng(0), 1, "test")
    plain = tasks.make_vec(1)
    for each in (envs, plain):
        each.reset(seed=np.array([3], np.uint64), options={"tasks": task})
    for late, now in ((2, 0), (1, 2), (4, 1)):
        seen, own = envs.step(np.array([late])), plain.step(np.array([now]))
        assert (seen[0] == own[0]).all() and (seen[1] == own[1]).all()
    envs.close()

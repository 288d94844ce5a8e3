"""A task distribution as a vector environment of Stable-Baselines3."""

import contextlib
import itertools

import gymnasium as gym
import numpy as np
import pytest
from counters import CounterTasks, counter_task
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize
from uneven import Uneven

import metarl
from metarl.errors import UserError
from metarl.stepping.options import Workers

LOCAL = Workers(num_workers=0)


def vec_env(tasks, number, **options):
    return contextlib.closing(metarl.sb3.vec_env(tasks, number, workers=LOCAL, **options))


def act(envs, rng):
    space = envs.action_space
    if isinstance(space, gym.spaces.Discrete):
        return rng.integers(space.n, size=envs.num_envs)
    return rng.uniform(-1, 1, (envs.num_envs, *space.shape)).astype(np.float32)


def play(envs, steps, seed=0):
    rng = np.random.default_rng(seed)
    seen = [(envs.reset(), None, None, [{}] * envs.num_envs, envs.get_attr("task"))]
    for _ in range(steps):
        seen.append((*envs.step(act(envs, rng)), envs.get_attr("task")))
    return seen


@pytest.mark.parametrize("episodes", [1, 2])
@pytest.mark.parametrize("discrete", [False, True])
def test_a_task_lasts_for_its_episodes_and_an_ended_episode_tells_its_last_observation(
    discrete, episodes
):
    tasks = Uneven(discrete)
    with vec_env(tasks, 3, episodes_per_task=episodes, seed=4) as envs:
        steps = play(envs, 60)
    before = steps[0][4]
    counts = [episodes - 1] * 3
    seen = 0
    for (_, _, _, _, old), (observation, reward, ended, infos, now) in itertools.pairwise(steps):
        assert reward.dtype == np.float32
        for i in range(3):
            if not ended[i]:
                assert now[i] is old[i] and "terminal_observation" not in infos[i]
                continue
            seen += 1
            last = infos[i]["terminal_observation"]
            assert infos[i]["task"] == old[i] and last.shape == (2,)
            assert last[1] < 0.4 or infos[i]["TimeLimit.truncated"]  # else it ended by chance
            assert (now[i] is old[i]) == (counts[i] > 0)
            counts[i] = counts[i] - 1 if counts[i] else episodes - 1
            assert (observation[i] == 0).all()  # where every episode begins
    assert seen > 30 and len(set(before)) == 3


def test_time_limits_are_told_apart_from_ends():
    with vec_env(Uneven(False), 8) as envs:
        infos = [
            (info, bool(ended[i]))
            for _, _, ended, all_infos, _ in play(envs, 40)[1:]
            for i, info in enumerate(all_infos)
        ]
    cut = [info["TimeLimit.truncated"] for info, ended in infos if ended]
    assert all(("TimeLimit.truncated" in info) == ended for info, ended in infos)
    assert any(cut) and not all(cut)


def test_equal_seeds_give_equal_tasks_and_episodes_whatever_the_workers():
    def run(seed, workers=0):
        own = metarl.sb3.vec_env(CounterLike(), 5, seed=seed, workers=Workers(num_workers=workers))
        with contextlib.closing(own) as envs:
            return [np.concatenate([x.ravel() for x in step[:1]]) for step in play(envs, 30)]

    first, again, two, other = run(1), run(1), run(1, workers=2), run(2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(first, two, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))


class CounterLike(CounterTasks):
    """Tasks that can be sampled."""

    def sample(self, rng, n, split):
        return [counter_task(int(k), 2) for k in rng.integers(1, 9, size=n)]


def test_seed_of_a_model_holds_from_its_next_reset_on():
    with vec_env(Uneven(False), 3, seed=1) as a, vec_env(Uneven(False), 3, seed=9) as b:
        assert a.seed(5) == b.seed(5)
        assert a.reset() is not None and b.reset() is not None
        assert a.get_attr("task") == b.get_attr("task")
        same = [play(envs, 20) for envs in (a, b)]
        for x, y in zip(*same, strict=True):
            assert np.array_equal(x[0], y[0]) and x[4] == y[4]


class Reporting(Uneven):
    """Reports how far the point is from its target, and success near it."""

    info_keys = ("success", "distance")

    def transition(self, state, action, noise):
        made = super().transition(state, action, noise)
        distance = np.abs(made.state["x"] - state["target"])
        return made._replace(info={"distance": distance, "success": distance < 0.5})


def test_reported_numbers_are_in_every_step_s_info():
    with vec_env(Reporting(False), 3) as envs:
        for _, reward, _, infos, _ in play(envs, 20)[1:]:
            for info, own in zip(infos, reward.tolist(), strict=True):
                assert info["distance"] == pytest.approx(-own)
                assert info["is_success"] == (info["distance"] < 0.5)


def test_observed_tasks_end_the_observations():
    with vec_env(metarl.make("navigation:horizon=2"), 4, observe_task=True) as envs:
        assert envs.observation_space.shape == (4,)
        for observation, _, ended, infos, tasks in play(envs, 7):
            goals = np.array([task["goal"] for task in tasks], np.float32)
            assert np.array_equal(observation[:, 2:], goals)
            for i in range(4):
                if ended is not None and ended[i]:
                    told = infos[i]["terminal_observation"][2:]
                    assert np.array_equal(told, np.float32(infos[i]["task"]["goal"]))


def test_tasks_with_text_cannot_be_observed():
    class Worded(Uneven):
        def sample(self, rng, n, split):
            return [metarl.Task.of("uneven", target="left") for _ in range(n)]

    with pytest.raises(UserError, match=r"--observe-task: got uneven\(target=left\); accepted"):
        metarl.sb3.vec_env(Worded(False), 1, observe_task=True)


@pytest.mark.parametrize(
    ("option", "value"), [("num_envs", 0), ("episodes_per_task", 0), ("seed", -1)]
)
def test_bad_arguments_are_refused(option, value):
    given = {"num_envs": 2, option: value}
    with pytest.raises(UserError, match=f"{option}: got {value}"):
        metarl.sb3.vec_env(Uneven(False), **given)


def test_environments_have_no_attributes_and_methods_of_their_own():
    with vec_env(Uneven(False), 2) as envs:
        assert envs.get_attr("task") == [None, None] and envs.render_mode is None
        assert envs.env_is_wrapped(gym.Wrapper) == [False, False]
        for refuse in (
            lambda: envs.get_attr("gravity"),
            lambda: envs.set_attr("gravity", 1),
            lambda: envs.env_method("fly"),
        ):
            with pytest.raises(AttributeError, match=r"have no '(gravity|fly)'"):
                refuse()


@pytest.mark.parametrize("discrete", [False, True])
def test_stable_baselines3_trains_monitors_normalizes_and_evaluates(discrete):
    with vec_env(Uneven(discrete), 4) as envs:
        watched = VecNormalize(VecMonitor(envs))
        model = PPO("MlpPolicy", watched, n_steps=8, batch_size=16, n_epochs=1, seed=0)
        model.learn(64)
        assert model.num_timesteps == 64 and len(model.ep_info_buffer) > 10
        mean, _ = evaluate_policy(model, watched, n_eval_episodes=5)
        assert np.isfinite(mean) and watched.obs_rms.count > 60


def test_off_policy_algorithms_train_too():
    with vec_env(Uneven(False), 4) as envs:
        model = SAC("MlpPolicy", envs, buffer_size=100, learning_starts=8, batch_size=8, seed=0)
        model.learn(40)
        buffer = model.replay_buffer
    assert buffer.pos == 10
    timeouts = buffer.timeouts[:10]
    assert (timeouts <= buffer.dones[:10]).all()

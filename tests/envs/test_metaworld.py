"""Meta-World: the official goals and the official numbers, only faster."""

import json
import pickle
import warnings

import gymnasium as gym
import metaworld
import mujoco
import numpy as np
import pytest
from metaworld.policies import ENV_POLICY_MAP
from metaworld.sawyer_xyz_env import SawyerXYZEnv

import metarl
from metarl.envs import metaworld_helpers, metaworld_step
from metarl.envs.metaworld import ML10
from metarl.envs.metaworld_goals import CLASSES, NUM_GOALS, draw_goals
from metarl.envs.metaworld_step import fast
from metarl.errors import UserError
from metarl.evaluation.drawn_tasks import evaluation_tasks
from metarl.task import Task

# Their features: grasping, quaternions, two objects, moving sites, a mocked goal, a door.
SIX = ["push-v3", "basketball-v3", "hammer-v3", "door-lock-v3", "stick-pull-v3", "door-close-v3"]
BENCHMARKS = {"ml10": metaworld.ML10, "ml25": metaworld.ML25, "ml45": metaworld.ML45}


def official_goals(tasks):
    goals = {}
    for task in tasks:
        goals.setdefault(task.env_name, []).append(pickle.loads(task.data)["rand_vec"])
    return {name: np.array(vectors) for name, vectors in goals.items()}


def assert_same_goals(ours, official):
    assert list(ours) == list(official)
    for name, vectors in official.items():
        np.testing.assert_array_equal(ours[name], vectors)


def simulators(name, **options):
    """An official simulator and a fast one, ready for a goal."""
    pair = CLASSES[name](**options), fast(CLASSES[name])(**options)
    for simulator in pair:
        simulator._freeze_rand_vec = simulator._set_task_called = True
    return pair


def actions(name, official, kind, rng, observation):
    """The scripted policy, that policy with noise, or noise alone."""
    if kind == "random":
        return rng.uniform(-1, 1, 4).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seen = np.concatenate([observation[:36], official._target_pos])
        action = ENV_POLICY_MAP[name]().get_action(seen)
    noise = 0.1 * rng.normal(size=4) if kind == "noisy" else 0
    return np.clip(action + noise, -1, 1).astype(np.float32)


def assert_parity(name, goals, steps, **options):
    """Compare every number, over resets that are computed and resets that are remembered."""
    official, ours = simulators(name, **options)
    rng = np.random.default_rng(0)
    kinds = ["scripted", "random", "noisy"]
    visits = [(goal, kinds[i % 3], steps) for i, goal in enumerate(goals)]
    visits += [(goal, kinds[(i + 1) % 3], steps // 4) for i, goal in enumerate(goals)]
    visits = [(g, kind, min(n, 200) if kind == "random" else n) for g, kind, n in visits]
    for goal, kind, length in visits:
        for simulator in (official, ours):
            simulator._last_rand_vec = goal.copy()
        observation, _ = official.reset()
        np.testing.assert_array_equal(ours.reset()[0], observation)
        for _ in range(length):
            action = actions(name, official, kind, rng, observation)
            expected, got = official.step(action), ours.step(action)
            observation = expected[0]
            assert np.array_equal(got[0], observation), (got[0], observation)
            assert got[0].dtype == observation.dtype
            assert (got[1], got[2], got[3]) == (expected[1], expected[2], expected[3])
            assert got[4].keys() == expected[4].keys()
            for key, value in expected[4].items():
                assert np.array_equal(got[4][key], value), key


# goals


@pytest.fixture
def unsettled(monkeypatch):
    """Leave out the settling of the hand: it takes most of an official reset and draws nothing."""

    def without_settling(self, steps=50):
        mujoco.mj_forward(self.model, self.data)
        self.init_tcp = self.tcp_center

    monkeypatch.setattr(SawyerXYZEnv, "_reset_hand", without_settling)


@pytest.mark.parametrize("task", ["reach", "coffee-pull", "door-open"])
def test_ml1_has_the_official_goals(task, unsettled):
    ours, official = (
        metarl.make(f"metaworld/ml1-{task}:seed=7"),
        metaworld.ML1(f"{task}-v3", seed=7),
    )
    assert_same_goals(ours.goals["train"], official_goals(official.train_tasks))
    assert_same_goals(ours.goals["test"], official_goals(official.test_tasks))


@pytest.mark.metaworld
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmarks_have_the_official_goals(name, request):
    """Only ML45, which has all 50 classes, is made by official resets without a short cut."""
    if name != "ml45":
        request.getfixturevalue("unsettled")
    ours, official = metarl.make(f"metaworld/{name}:seed=3"), BENCHMARKS[name](seed=3)
    assert_same_goals(ours.goals["train"], official_goals(official.train_tasks))
    assert_same_goals(ours.goals["test"], official_goals(official.test_tasks))


@pytest.mark.metaworld
@pytest.mark.timeout(300)
def test_custom_has_the_goals_of_the_official_custom_benchmark(unsettled):
    ours = metarl.make("metaworld/custom:train=reach+push,test=pick-place+door-open,seed=3")
    official = metaworld.CustomML(["reach-v3", "push-v3"], ["pick-place-v3", "door-open-v3"], 3)
    assert_same_goals(ours.goals["train"], official_goals(official.train_tasks))
    assert_same_goals(ours.goals["test"], official_goals(official.test_tasks))


@pytest.mark.metaworld
@pytest.mark.timeout(300)
@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_has_the_official_goals(cls, unsettled):
    official = metaworld.ML1(cls, seed=1)
    assert_same_goals(draw_goals([cls], 1), official_goals(official.train_tasks))


@pytest.mark.parametrize("cls", ["sweep-into-v3", "push-v3", "box-close-v3"])
def test_goals_too_close_are_drawn_again_as_officially(cls, unsettled):
    """Many draws show even rare rejections."""
    for seed in (0, 1, 10, 47):  # at 10 and 47 it matters that the goal of sweep-into stays
        arguments = {cls: {"args": [], "kwargs": {"task_id": 0}}}
        official = metaworld._make_tasks(
            {cls: CLASSES[cls]}, arguments, {"partially_observable": True}, seed=seed
        )
        assert_same_goals(draw_goals([cls], seed), official_goals(official))


@pytest.mark.parametrize("name", ["metaworld/ml1-reach", "metaworld/ml10", "metaworld/ml45"])
def test_splits_share_no_task_and_the_seed_decides(name):
    tasks, again, other = (metarl.make(name + seed) for seed in ("", "", ":seed=1"))
    splits = {split: tasks.tasks(split) for split in ("train", "test")}
    for split, members in splits.items():
        assert len(set(members)) == len(members) == NUM_GOALS * len(tasks.goals[split])
        assert members == again.tasks(split)
        assert members[0] != other.tasks(split)[0]
    assert not set(splits["train"]) & set(splits["test"])


@pytest.mark.parametrize(
    "name", ["metaworld/ml1-reach", "metaworld/custom:train=push,test=reach+door-open"]
)
def test_more_goals_than_the_official_ones_are_of_further_seeds(name):
    """200 held-out goals: none twice, none of another split, classes in turns as the first 50."""
    tasks = metarl.make(name)
    goals = evaluation_tasks(tasks, num_tasks=200)
    official = tasks.tasks("test")
    assert goals[: len(official)] == official
    assert goals == tasks.more_tasks("test", 200) == tasks.more_tasks("test", 300)[:200]
    others = tasks.more_tasks("train", 200) + tasks.more_tasks("validation", 200)
    assert len({*goals, *others}) == 600
    classes = tasks.classes["test"]
    assert [goal["cls"] for goal in goals] == [*classes] * (200 // len(classes))
    assert evaluation_tasks(tasks, num_tasks=200, seed=7) == goals


def test_a_task_survives_json():
    tasks = metarl.make("metaworld/ml10").tasks("test")
    for task in tasks[::40]:
        back = Task.from_json(json.loads(json.dumps(task.to_json())))
        assert back == task and hash(back) == hash(task)
        assert np.array_equal(back["rand_vec"], task["rand_vec"])


@pytest.mark.parametrize(("n", "most"), [(10, 1), (13, 2), (23, 3), (4, 1), (1200, 120)])
def test_a_meta_batch_is_balanced_over_classes(n, most):
    tasks = metarl.make("metaworld/ml10")
    batch = tasks.sample(np.random.default_rng(0), n, "train")
    counts = {cls: sum(t["cls"] == cls for t in batch) for cls in tasks.classes["train"]}
    assert len(batch) == n and max(counts.values()) == most
    assert max(counts.values()) - min(counts.values()) <= 1
    order = [tasks.classes["train"].index(t["cls"]) for t in batch]
    assert order == sorted(order)  # a class's slots lie together
    assert len(set(batch)) == min(n, 10 * NUM_GOALS)  # without replacement while there are enough


def test_classes_with_one_task_more_change_from_batch_to_batch():
    tasks, rng = metarl.make("metaworld/ml10"), np.random.default_rng(0)
    seen = {t["cls"] for _ in range(30) for t in tasks.sample(rng, 3, "train")}
    assert seen == set(tasks.classes["train"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("metaworld/ml1-reac", "did you mean reach"),
        ("metaworld/ml11", "did you mean metaworld/ml10"),
        ("metaworld/custom:train=reach", "lacks test"),
        ("metaworld/custom:train=reach,test=push+reach", "reach in train and test"),
        ("metaworld/custom:train=reach+reach,test=push", "each class once"),
        ("metaworld/custom:train=reach,test=pusch", "did you mean push"),
        ("metaworld/ml10:reward=v3", "v2 or v1"),
        ("metaworld/ml10:horizon=1", "at least 2"),
        ("metaworld/ml10:goals=3", "has no option 'goals'"),
    ],
)
def test_bad_names_say_what_there_is(name, message):
    with pytest.raises(UserError, match=message):
        metarl.make(name)


# the step


@pytest.mark.parametrize("name", SIX)
def test_six_classes_step_as_the_official_ones(name):
    assert_parity(name, draw_goals([name], 5)[name][:2], 60)


@pytest.mark.parametrize("name", ["push-v3", "reach-v3"])
def test_the_first_reward_function_too(name):
    assert_parity(name, draw_goals([name], 5)[name][:1], 60, reward_function_version="v1")


@pytest.mark.metaworld
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CLASSES)
def test_every_class_steps_as_the_official_one(name):
    assert_parity(name, draw_goals([name], 5)[name][:3], 500)


@pytest.mark.parametrize("name", ["door-lock-v3", "basketball-v3", "box-close-v3"])
def test_simulators_of_a_class_share_a_model_and_nothing_else(name):
    """Two simulators with different goals, stepped in turn, each equal an official one."""
    goals, rng = draw_goals([name], 5)[name], np.random.default_rng(0)
    pairs = [simulators(name) for _ in range(2)]
    for episode in range(3):
        for i, pair in enumerate(pairs):
            for simulator in pair:
                simulator._last_rand_vec = goals[(i + episode) % 3].copy()
            np.testing.assert_array_equal(pair[0].reset()[0], pair[1].reset()[0])
        for _ in range(25):
            for official, ours in pairs:
                action = rng.uniform(-1, 1, 4).astype(np.float32)
                expected, got = official.step(action), ours.step(action)
                np.testing.assert_array_equal(got[0], expected[0])
                assert got[1] == expected[1]
    assert pairs[0][1].model is pairs[1][1].model


def test_scripted_policies_grasp():
    """The comparisons above include an arm that touches its object, not only one in the air."""
    official, _ = simulators("push-v3")
    official._last_rand_vec = draw_goals(["push-v3"], 5)["push-v3"][0]
    observation, _ = official.reset()
    touched = False
    for _ in range(60):
        action = actions("push-v3", official, "scripted", None, observation)
        observation = official.step(action)[0]
        touched |= official.touching_main_object
    assert touched


def test_fast_helpers_agree_with_the_ones_they_stand_for():
    rng = np.random.default_rng(0)
    for _ in range(300):
        x, margin = np.float64(rng.uniform(-1, 2)), rng.choice([0.0, 0.3])
        kind = rng.choice(["long_tail", "gaussian", "linear", "hyperbolic"])
        arguments = (x, (0.0, 0.5), margin, kind)
        expected = metaworld_helpers.reward_utils.tolerance(*arguments)
        assert metaworld_helpers.tolerance(*arguments) == expected
    for matrix in (np.eye(3), np.diag([1.0, -1.0, -1.0]), np.diag([-1.0, -1.0, 1.0])):
        expected = metaworld_helpers.scipy_quaternion(matrix)
        np.testing.assert_array_equal(metaworld_helpers.scalar_quaternion(matrix), expected)


def test_a_finished_episode_is_not_stepped_past_its_end():
    env = metarl.make("metaworld/ml1-reach:horizon=3").make()
    env.reset(options={"task": metarl.make("metaworld/ml1-reach:horizon=3").tasks("train")[0]})
    assert [env.step(np.zeros(4, np.float32))[3] for _ in range(3)] == [False, False, True]
    with pytest.raises(ValueError, match="reset"):
        env.step(np.zeros(4, np.float32))


def test_another_meta_world_steps_officially_and_says_so(monkeypatch):
    monkeypatch.setattr(metaworld_step.metadata, "version", lambda name: "9.9")
    with pytest.warns(UserWarning, match="9.9 is installed"):
        assert fast.__wrapped__(CLASSES["reach-v3"]) is CLASSES["reach-v3"]
    monkeypatch.setattr("metarl.envs.metaworld.fast", lambda cls: cls)
    tasks = metarl.make("metaworld/ml1-reach:horizon=3")
    env = tasks.make(tasks.tasks("train")[0])
    env.reset(seed=0)
    assert [env.step(np.zeros(4, np.float32))[3] for _ in range(3)] == [False, False, True]
    assert env.model is env._simulator.model  # cameras find it too


# slots


def test_simulators_are_shared_by_class_and_built_once(monkeypatch):
    tasks = metarl.make("metaworld/ml10:horizon=3")
    built = []
    real = metaworld_step._FastStep.__init__
    monkeypatch.setattr(
        metaworld_step._FastStep,
        "__init__",
        lambda self, **o: built.append(type(self)) or real(self, **o),
    )
    envs = tasks.make_vec(4, num_workers=0)
    for classes in ((0, 0, 1, 2), (1, 0, 0, 2), (2, 1, 0, 0)):
        chosen = [tasks.tasks("train")[c] for c in classes]
        envs.reset(seed=[1, 2, 3, 4], options={"tasks": chosen})
        envs.step(np.zeros((4, 4), np.float32))
    assert len(built) == 4  # a slot that changes class leaves its simulator to the next
    envs.close()
    again = tasks.make_vec(2, num_workers=0)
    before = len(built)
    again.reset(seed=[1, 2], options={"tasks": [tasks.tasks("train")[0]] * 2})
    assert len(built) == before
    again.close()


def test_simulators_are_handed_on_behind_wrappers_too():
    class Wrapped(ML10):
        def make(self, task=None):
            return gym.Wrapper(super().make(task))

    tasks = Wrapped(horizon=2)
    a, b = tasks.tasks("train")[:2]
    assert a["cls"] != b["cls"]
    envs = tasks.make_vec(2, num_workers=0)
    simulators = []
    for chosen in ([a, b], [b, a]):
        envs.reset(seed=[1, 2], options={"tasks": chosen})
        simulators.append([e.unwrapped._simulator for e in envs._pool.slots.envs.values()])
    envs.close()
    assert simulators[1] == simulators[0][::-1]


@pytest.mark.timeout(120)
def test_workers_change_nothing():
    tasks = metarl.make("metaworld/ml10:horizon=4")
    chosen = tasks.sample(np.random.default_rng(0), 5, "train")
    results = []
    for workers in (0, 2):
        with_workers = tasks.make_vec(5, num_workers=workers)
        observations = [
            with_workers.reset(seed=list(range(5)), options={"tasks": chosen})[0].copy()
        ]
        rng = np.random.default_rng(1)
        for _ in range(4):
            observation, reward, _, _, info = with_workers.step(
                rng.uniform(-1, 1, (5, 4)).astype(np.float32)
            )
            observations += [observation.copy(), reward.copy(), info["success"].copy()]
        with_workers.close()
        results.append(observations)
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_goal_is_hidden_and_stays_for_the_trial():
    tasks = metarl.make("metaworld/ml1-push:horizon=5")
    env = tasks.make(tasks.tasks("train")[3])
    targets = []
    for seed in range(3):
        observation, _ = env.reset(seed=seed)
        assert not observation[-3:].any()
        observation = env.step(np.ones(4, np.float32))[0]
        assert not observation[-3:].any() and env.observation_space.contains(observation)
        targets.append(env._simulator._target_pos.copy())
    assert np.ptp(targets, axis=0).max() == 0
    assert isinstance(env, gym.Env)


def test_conformance():
    metarl.check_task_distribution(metarl.make("metaworld/ml1-reach:horizon=8"))

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from stable_baselines3 import PPO

import metarl
from metarl.task import Task
from metarl.tasks.arrays import Noise

ROOT = Path(__file__).parents[2]
VELOCITY = Task.of("half-cheetah/velocity", velocity=1.5)


@pytest.mark.parametrize(
    "name",
    [
        "ant/direction",
        "ant/goal",
        "bandit/n10-k5",
        "bandit/n1-k2",
        "bandit/n100-k50",
        "dark-room/n9",
        "dark-room/n5:split=true",
        "gridworld",
        "gym/CartPole-v1:length=0.3..1.0,masspole=0.05..0.5",
        "gym/Hopper-v5:body_mass=each:0.5x..2x,gravity=5..15,horizon=50",
        "gym/Pendulum-v1:g=2..20",
        "half-cheetah/direction",
        "half-cheetah/velocity",
        "hopper/params",
        "mdp/n10",
        "point-robot",
        "point-robot:dense=true,horizon=20",
        "t-maze/n5",
        "t-maze/n100",
        "walker/params",
    ],
)
def test_family_keeps_the_contract(name):
    metarl.check_task_distribution(metarl.make(name))


def test_envs_never_load_torch():
    """A worker that only steps environments should not pay for it."""
    modules = [f"metarl.envs.{p.stem}" for p in (ROOT / "envs").glob("*.py")]
    for folder in ("stepping", "tasks"):
        files = (ROOT / "metarl" / folder).glob("*.py")
        modules += [f"metarl.{folder}.{p.stem}" for p in files if p.stem != "__init__"]
    modules += [f"metarl.{p.stem}" for p in (ROOT / "metarl").glob("*.py") if p.stem[0] != "_"]
    code = (
        "import importlib, json, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "import metarl\n"
        "envs = metarl.make('bandit/n10-k5').make_vec(2)\n"
        "print(json.dumps([name for name in sys.modules if name.partition('.')[0] == 'torch']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == []


def test_bandit_arm_pays_its_probability():
    p = (0.1, 0.5, 0.9)
    slots = 30_000
    tasks = metarl.make("bandit/n10-k3")
    envs = tasks.make_vec(slots)
    envs.reset(seed=0, options={"tasks": [Task.of("bandit/n10-k3", p=p)] * slots})
    arms = np.arange(slots) % 3
    _, reward, terminated, truncated, _ = envs.step(arms)
    assert set(np.unique(reward)) == {0.0, 1.0}
    means = [reward[arms == arm].mean() for arm in range(3)]
    np.testing.assert_allclose(means, p, atol=0.025)  # five standard errors of 10 000 pulls
    assert (terminated | truncated).all()  # an episode is one pull


def test_bandit_probabilities_are_uniform():
    for split in ("train", "test"):
        drawn = metarl.make("bandit/n10-k5").sample(np.random.default_rng(0), 4000, split)
        p = np.array([task["p"] for task in drawn])
        assert p.shape == (4000, 5) and p.min() >= 0 and p.max() < 1
        assert abs(p.mean() - 0.5) < 0.011  # five standard errors: 5 * sqrt(1/12 / 20000)
        assert abs(p.var() - 1 / 12) < 0.003


def test_bandit_functions_give_the_same_with_torch_as_with_numpy():
    tasks = metarl.make("bandit/n10-k5")
    params = tasks.stack(tasks.sample(np.random.default_rng(0), 40, "train"))
    rng = np.random.default_rng(1)
    noise = Noise(rng.random((40, 1)), np.zeros((40, 0)))
    action = rng.integers(5, size=40)
    state, observation = tasks.initial(params, noise)
    result = tasks.transition(state, action, noise)

    as_torch = {name: torch.from_numpy(x) for name, x in params.items()}
    torch_noise = Noise(*(torch.from_numpy(x) for x in noise))
    torch_state, torch_observation = tasks.initial(as_torch, torch_noise)
    torch_result = tasks.transition(torch_state, torch.from_numpy(action), torch_noise)

    assert isinstance(torch_result.reward, torch.Tensor)
    assert np.array_equal(torch_observation.numpy(), observation)
    assert np.array_equal(torch_result.reward.numpy(), result.reward)
    assert np.array_equal(torch_result.terminated.numpy(), result.terminated)
    assert 0 < result.reward.sum() < 40


def test_bandit_functions_write_into_no_argument():
    tasks = metarl.make("bandit/n10-k2")
    params = {"p": np.array([[0.2, 0.8]])}
    noise = Noise(np.array([[0.5]]), np.zeros((1, 0)))
    for array in (params["p"], noise.uniform):
        array.flags.writeable = False
    state, _ = tasks.initial(params, noise)
    assert tasks.transition(state, np.array([1]), noise).reward.tolist() == [1.0]
    assert tasks.transition(state, np.array([0]), noise).reward.tolist() == [0.0]


def test_half_cheetah_reward_is_distance_to_the_velocity_and_control():
    env = metarl.make("half-cheetah/velocity").make(VELOCITY)
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(20):
        action = env.action_space.sample()
        _, reward, _, _, info = env.step(action)
        control = 0.05 * sum(float(a) ** 2 for a in action)
        assert reward == pytest.approx(-abs(info["x_velocity"] - 1.5) - control, abs=1e-5)
    env.close()


def test_half_cheetah_moves_as_gymnasium_s_does_bit_for_bit():
    tasks = metarl.make("half-cheetah/direction")
    ours, theirs = tasks.make(tasks.tasks("train")[0]), HalfCheetahEnv()
    for seed in (0, 1):  # the second episode in used environments
        assert np.array_equal(ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0])
        theirs.action_space.seed(seed)
        for _ in range(200):
            action = theirs.action_space.sample()
            observation, _, _, _, info = ours.step(action)
            expected, _, _, _, expected_info = theirs.step(action)
            assert observation.dtype == expected.dtype
            assert np.array_equal(observation, expected)
            assert all(info[k] == expected_info[k] for k in ("x_position", "x_velocity"))
    with pytest.raises(ValueError, match=r"an action has shape \(6,\), got \(1,\)"):
        ours.step(np.zeros(1))


def test_half_cheetah_task_changes_the_reward_and_not_the_motion():
    env = metarl.make("half-cheetah/velocity").make()
    seen = []
    for velocity in (0.0, 3.0):
        env.reset(seed=0, options={"task": Task.of("half-cheetah/velocity", velocity=velocity)})
        seen.append(env.step(np.full(6, 0.5, np.float32)))
    assert np.array_equal(seen[0][0], seen[1][0])
    x = seen[0][4]["x_velocity"]
    assert seen[1][1] - seen[0][1] == pytest.approx(abs(x) - abs(x - 3))
    env.close()


@pytest.mark.parametrize(("low", "high"), [(0.0, 3.0), (-1.5, 0.5)])
def test_half_cheetah_velocities_fill_their_range(low, high):
    tasks = metarl.make("half-cheetah/velocity", low=low, high=high)
    for split in ("train", "test"):
        drawn = tasks.sample(np.random.default_rng(0), 2000, split)
        velocity = np.array([task["velocity"] for task in drawn])
        assert low <= velocity.min() < low + 0.01 and high - 0.01 < velocity.max() < high
        # five standard errors of the mean of a uniform
        assert abs(velocity.mean() - (low + high) / 2) < 5 * (high - low) / np.sqrt(12 * 2000)


def test_half_cheetah_episode_is_truncated_after_its_horizon():
    env = metarl.make("half-cheetah/velocity:horizon=3").make(VELOCITY)
    env.reset(seed=0)
    flags = [env.step(np.zeros(6, np.float32))[2:4] for _ in range(3)]
    assert flags == [(False, False), (False, False), (False, True)]
    env.close()


def test_stable_baselines3_learns_in_one_task():
    env = metarl.make("half-cheetah/velocity").make(VELOCITY)
    agent = PPO("MlpPolicy", env, n_steps=64, n_epochs=1, device="cpu", seed=0).learn(64)
    assert agent.num_timesteps == 64
    assert env.observation_space.contains(env.reset()[0])
    env.close()


def test_mdp_statistics():
    tasks = metarl.make("mdp/n10")
    assert tasks.episodes_per_trial == tasks.horizon == 10
    drawn = tasks.stack(tasks.sample(np.random.default_rng(0), 500, "train"))
    mean, cumulated = drawn["mean"], drawn["cumulated"]
    assert mean.shape == (500, 10, 5) and cumulated.shape == (500, 10, 5, 10)
    assert abs(mean.mean() - 1) < 0.035 and abs(mean.std() - 1) < 0.03  # 5 standard errors
    probability = np.diff(cumulated, prepend=0.0, axis=-1)
    np.testing.assert_allclose(probability.sum(-1), 1)
    # one component of a flat Dirichlet over 10 is Beta(1, 9): variance 9 / (100 * 11)
    assert abs(probability.var() - 9 / 1100) < 3e-4


def test_mdp_pays_and_moves_as_its_task_says():
    tasks, slots, episodes = metarl.make("mdp/n10"), 1000, 20
    task = tasks.sample(np.random.default_rng(0), 1, "test")[0]
    law = tasks.stack([task])
    envs = tasks.make_vec(slots)
    steps = []
    for i in range(episodes):
        tasks_once = {"tasks": [task] * slots} if i == 0 else None
        assert (envs.reset(seed=i * slots, options=tasks_once)[0] == 0).all()
        steps.append([*envs.step(np.full(slots, 3))[:2], envs.step(np.full(slots, 1))[1]])
    later, reward, reward_after = map(np.concatenate, zip(*steps, strict=True))
    assert abs(reward.mean() - law["mean"][0, 0, 3]) < 0.036 and abs(reward.std() - 1) < 0.03
    expected = np.diff(law["cumulated"][0, 0, 3], prepend=0.0)
    got = np.bincount(later, minlength=10) / (slots * episodes)
    np.testing.assert_allclose(got, expected, atol=0.018)
    for s in (later[0], later[1]):
        at = later == s
        assert abs(reward_after[at].mean() - law["mean"][0, s, 1]) < 5 / np.sqrt(at.sum())


def test_mdp_random_policy_earns_what_the_paper_says():
    tasks, slots = metarl.make("mdp/n10"), 4000
    envs = tasks.make_vec(slots)
    envs.reset(seed=0, options={"tasks": tasks.sample(np.random.default_rng(0), slots, "test")})
    rng = np.random.default_rng(1)
    total = sum(envs.step(rng.integers(5, size=slots))[1].mean() for _ in range(10))
    assert abs(10 * total - 100.1) < 1.5


def test_gridworld_walks_and_pays():
    tasks = metarl.make("gridworld")
    assert len(tasks.tasks("train")) == 21 and tasks.shared_split
    assert (tasks.episodes_per_trial, tasks.horizon) == (4, 15)
    env = tasks.make(Task.of("gridworld", goal=(2, 1)))
    observation, _ = env.reset(seed=0)
    assert observation.tolist() == [0, 0]
    seen = []
    for action in (3, 1, 1, 0, 4, 2):  # left is a wall; right, right, up, stay, down
        observation, reward, *_, info = env.step(action)
        seen.append(((observation * 4).tolist(), reward, bool(info["success"])))
    assert seen == [
        ([0, 0], -0.1, False),
        ([1, 0], -0.1, False),
        ([2, 0], -0.1, False),
        ([2, 1], 1.0, True),
        ([2, 1], 1.0, True),
        ([2, 0], -0.1, False),
    ]


def test_direction_is_paid_both_ways():
    tasks = metarl.make("half-cheetah/direction")
    assert tasks.shared_split and tasks.horizon == 200
    forward, backward = (tasks.make(task) for task in tasks.tasks("train"))
    for env in (forward, backward):
        env.reset(seed=0)
    for action in np.random.default_rng(0).uniform(-1, 1, (20, 6)):
        a, ahead, *_, info = forward.step(action)
        b, behind, *_ = backward.step(action)
        assert np.array_equal(a, b)
        control = 0.05 * np.square(action).sum()
        assert ahead == pytest.approx(info["x_velocity"] - control)
        assert behind == pytest.approx(-info["x_velocity"] - control)


def test_ant_is_paid_along_its_angle_or_by_its_distance():
    run, goal = metarl.make("ant/direction"), metarl.make("ant/goal")
    angle = 2.0
    env = run.make(Task.of("ant/direction", angle=angle))
    env.reset(seed=0)
    for action in np.random.default_rng(0).uniform(-1, 1, (5, 8)):
        _, reward, *_, info = env.step(action)
        along = info["x_velocity"] * np.cos(angle) + info["y_velocity"] * np.sin(angle)
        cost = 0.5 * np.square(action).sum() - info["reward_contact"]
        assert reward == pytest.approx(along + 1 - cost)
    env = goal.make(Task.of("ant/goal", goal=(1.0, -2.0)))
    env.reset(seed=0)
    for action in np.random.default_rng(0).uniform(-1, 1, (5, 8)):
        observation, reward, terminated, _, info = env.step(action)
        x, y = observation[:2]
        cost = 0.1 * np.square(action).sum() - info["reward_contact"]
        assert reward == pytest.approx(-abs(x - 1) - abs(y + 2) - cost) and not terminated
    radii = [np.hypot(*t["goal"]) for t in goal.sample(np.random.default_rng(0), 4000, "test")]
    assert max(radii) <= 3 and abs(np.mean(radii) - 2) < 0.06  # 3 * 2/3, even over the disc


def test_random_dynamics_have_the_published_ranges():
    tasks = metarl.make("walker/params")
    drawn = tasks.sample(np.random.default_rng(0), 300, "train")
    for name, base in (("body_mass", 1.5), ("geom_friction", 1.5), ("dof_damping", 1.3)):
        exponents = np.log([task[name] for task in drawn]) / np.log(base)
        assert -3 <= exponents.min() < -2.95 and 2.95 < exponents.max() <= 3
        assert abs(exponents.mean()) < 0.15
    env = tasks.make(drawn[0])
    plain = tasks.make(drawn[0]).env.unwrapped.__class__()
    ratio = env.unwrapped.model.body_mass[1:] / plain.model.body_mass[1:]
    np.testing.assert_allclose(ratio, drawn[0]["body_mass"][1:])

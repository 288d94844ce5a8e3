import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

import metarl
from metarl.tasks import Noise, Task

ROOT = Path(__file__).parent.parent
VELOCITY = Task.of("half-cheetah/velocity", velocity=1.5)


@pytest.mark.parametrize(
    "name", ["bandit/n10-k5", "bandit/n1-k2", "bandit/n100-k50", "half-cheetah/velocity"]
)
def test_family_keeps_the_contract(name):
    metarl.check_task_distribution(metarl.make(name))


def test_envs_never_load_torch():
    """A worker that only steps environments should not pay for it."""
    modules = [f"metarl.envs.{p.stem}" for p in (ROOT / "envs").glob("*.py")]
    modules += [f"metarl.{name}" for name in ("tasks", "registry", "vector", "seeding", "spaces")]
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

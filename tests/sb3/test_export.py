"""From a meta-learned agent to a model of Stable-Baselines3: the same numbers, before it learns."""

import inspect
import json
import math
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import sb3_export as comparison
import torch
from drift import Drift
from sb3_export import Options
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

import metarl
from metarl.agents.maml_ppo import MAMLPPO
from metarl.agents.ppo_multitask import PPOMultitask
from metarl.agents.rl2 import RL2
from metarl.errors import UserError
from metarl.experience.agent import TaskSpec, TrialShape
from metarl.experience.data import Episodes, Timestep
from metarl.learning.distributions import from_record, log_prob
from metarl.learning.networks import PolicyNetwork
from metarl.options import with_options
from metarl.running.run import Run
from metarl.sb3.models import distribution_of
from metarl.seeding import LaneGenerator
from metarl.stepping.actions import ActionCodec
from metarl.stepping.spaces import (
    flatten_observation,
    flatten_observations,
    observation_size,
    reported_space,
)

export = inspect.unwrap(metarl.sb3.export)  # so that its own refusals show, not beartype's

IMAGE = gym.spaces.Box(0, 255, (4, 5, 3), np.uint8)
OBSERVATIONS = {
    "box": gym.spaces.Box(-2, 2, (3,), np.float32),
    "matrix": gym.spaces.Box(-2, 2, (2, 2), np.float64),
    "image": IMAGE,
    "discrete": gym.spaces.Discrete(4),
    "multi-discrete": gym.spaces.MultiDiscrete([2, 3]),
    "multi-binary": gym.spaces.MultiBinary(3),
    "dict": gym.spaces.Dict(
        {
            "z": gym.spaces.Box(-2, 2, (2, 2), np.float64),
            "image": IMAGE,
            "index": gym.spaces.Discrete(3),
            "both": gym.spaces.MultiDiscrete([2, 3]),
        }
    ),
}
BOX = OBSERVATIONS["box"]
ACTIONS = {
    "box": gym.spaces.Box(np.float32([-1, 0.2, 2]), np.float32([3, 0.5, 2]), (3,)),
    "small": gym.spaces.Box(-0.1, 0.1, (2,), np.float32),
    "matrix": gym.spaces.Box(-3, 1, (2, 2), np.float64),
    "discrete": gym.spaces.Discrete(5),
    "choices": gym.spaces.MultiDiscrete([3, 2, 4]),
    "switches": gym.spaces.MultiBinary(3),
}


class AnyEnv(gym.Env):
    """Pays for a small action, in any spaces; keeps the actions it got; episodes of 5 steps."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space
        self.actions = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.actions.append(action)
        self.t += 1
        reward = -float(np.square(action).sum())
        return self.observation_space.sample(), reward, False, self.t == 5, {}


def _largest(space):
    parts = space.spaces.values() if isinstance(space, gym.spaces.Dict) else [space]
    return [255.0 for part in parts if part == IMAGE]


def maml(env, normalized=False, **changes):
    """Return an agent whose parameters all matter."""
    spec = TaskSpec(reported_space(env.observation_space), env.action_space, 5)
    sizes = {"hidden_sizes": (8, 6), "min_std": 0.3, "tasks_per_update": 2}
    config = with_options(
        MAMLPPO.Config(), **{**sizes, "normalize_observations": normalized, **changes}
    )
    agent = MAMLPPO(config, spec, seed=3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, x in agent.params.items():
            noise = torch.randn(x.shape, generator=generator)
            x.add_(noise if name == "log_std" else 0.3 * noise)
        if not normalized:
            # Means in the hundreds, as pixels up to 255 make them, have no sixth decimal.
            agent.params["weight.0"].div_(np.max([1.0, *_largest(env.observation_space)]))
    if normalized:
        observation = seen(env.observation_space, sampled(env.observation_space))[0]
        agent.encoder.track(observation, torch.ones(observation.shape[:2], dtype=torch.bool))
    return agent


def seen(space, observations):
    """Return what an agent sees of observations, each of them a lane of one task."""
    flat = np.stack([flatten_observation(space, x) for x in observations])
    x = torch.from_numpy(flatten_observations(reported_space(space), flat)).unsqueeze(0)
    no, yes = torch.zeros(1, len(flat), dtype=torch.bool), torch.ones(1, len(flat)).bool()
    return Timestep(x, torch.zeros(1, len(flat), 1), torch.zeros(1, len(flat)), yes, yes, ~no)


def acted(agent, space, observations):
    """Return the agent's greedy actions ``[n, …]`` in policy units, and its distributions."""
    keys = np.zeros((1, len(observations)), np.uint64)
    timestep = seen(space, observations)
    action, record, _ = agent.act(agent.begin(1), timestep, LaneGenerator(keys, keys), greedy=True)
    return action[0], from_record({name: x[0] for name, x in record.items()})


def batch_of(space, observations):
    if isinstance(space, gym.spaces.Dict):
        return {key: np.stack([x[key] for x in observations]) for key in space}
    return np.stack(observations)


def sampled(space, n=20):
    space.seed(0)
    return [space.sample() for _ in range(n)]


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def compare(model, agent, space, actions):
    """Compare a model with its agent; return the number of different distributions."""
    codec, observations = ActionCodec(actions), sampled(space)
    greedy, distribution = acted(agent, space, observations)
    batch = batch_of(space, observations)
    expected = codec.to_env(codec.taken(greedy.numpy()))
    got = model.predict(batch, deterministic=True)[0]
    assert got.shape == expected.shape
    close(got, expected)
    for one, action in zip(observations[:2], expected, strict=False):
        close(model.predict(one, deterministic=True)[0], action)
    tensor, _ = model.policy.obs_to_tensor(batch)
    with torch.no_grad():
        if codec.discrete:
            tried = torch.arange(len(observations)) % codec.size
            values, probability, _ = model.policy.evaluate_actions(tensor, tried)
            close(probability, log_prob(distribution, tried))
        elif codec.choices:
            generator = torch.Generator().manual_seed(0)
            tried = [torch.randint(n, (len(greedy),), generator=generator) for n in codec.choices]
            tried = torch.stack(tried, -1).float()
            values, probability, _ = model.policy.evaluate_actions(tensor, tried)
            close(probability, log_prob(distribution, tried))
        else:
            tried = greedy + torch.randn(greedy.shape, generator=torch.Generator().manual_seed(0))
            center, scale = codec.units()
            in_env = torch.from_numpy(np.float32(center + scale * tried.numpy()))
            values, probability, _ = model.policy.evaluate_actions(tensor, in_env)
            close(probability + np.log(scale).sum(), log_prob(distribution, tried))
    assert values.shape == (len(observations), 1)
    return len(np.unique(distribution[0].numpy(), axis=0))


@pytest.mark.parametrize("actions", ["small", "discrete", "choices", "switches"])
@pytest.mark.parametrize("observations", OBSERVATIONS)
@pytest.mark.parametrize("normalized", [False, True])
def test_actions_and_log_probabilities_are_the_agent_s(observations, actions, normalized):
    env = AnyEnv(OBSERVATIONS[observations], ACTIONS[actions])
    agent = maml(env, normalized)
    different = compare(export(agent, env), agent, env.observation_space, env.action_space)
    assert different > 1


@pytest.mark.parametrize("actions", ACTIONS)
def test_actions_are_in_the_environment_s_units_whatever_its_bounds(actions):
    env = AnyEnv(OBSERVATIONS["box"], ACTIONS[actions])
    agent = maml(env)
    assert compare(export(agent, env), agent, env.observation_space, env.action_space) > 1


@pytest.mark.parametrize("hidden_sizes", [(), (4,), (5, 4, 3)])
def test_the_network_has_the_agent_s_layers(hidden_sizes):
    env = AnyEnv(OBSERVATIONS["box"], ACTIONS["small"])
    agent = maml(env, hidden_sizes=hidden_sizes)
    model = export(agent, env)
    layers = [x for x in model.policy.mlp_extractor.policy_net if isinstance(x, nn.Linear)]
    assert tuple(layer.out_features for layer in layers) == hidden_sizes
    compare(model, agent, env.observation_space, env.action_space)


def test_a_vector_of_environments_will_do():
    env = AnyEnv(OBSERVATIONS["dict"], ACTIONS["small"])
    agent = maml(env)
    model = export(
        agent, DummyVecEnv([lambda: AnyEnv(env.observation_space, env.action_space)] * 3)
    )
    assert model.n_envs == 3
    compare(model, agent, env.observation_space, env.action_space)


class Own:
    """A user's agent: tanh layers, and a critic; computed by hand, one observation at a time."""

    shape = TrialShape(2, 1, sequential=False)

    def __init__(self):
        draw = np.random.default_rng(0).standard_normal
        self.actor = [(draw((3, 4)), draw(4)), (draw((4, 2)), draw(2))]
        self.critic = [(draw((3, 5)), draw(5)), (draw((5, 6)), draw(6)), (draw((6, 1)), draw(1))]

    def begin(self, num_tasks):
        return torch.zeros(num_tasks)

    def run(self, layers, x):
        for i, (weight, bias) in enumerate(layers):
            x = [
                sum(x[k] * weight[k, j] for k in range(len(x))) + bias[j] for j in range(len(bias))
            ]
            x = x if i == len(layers) - 1 else [math.tanh(number) for number in x]
        return x

    def act(self, context, timestep, generator, greedy=False):
        return torch.tensor([[self.run(self.actor, x) for x in timestep.observation[0]]]), {}, None

    def adapt(self, context, episodes, generator):
        return context

    def network(self, context):
        def params(layers):
            return {
                f"{name}.{i}": torch.tensor(x, dtype=torch.float32)
                for i, layer in enumerate(layers)
                for name, x in zip(("weight", "bias"), layer, strict=True)
            }

        actor = params(self.actor) | {"log_std": torch.tensor([-1.0, 0.5])}
        return PolicyNetwork(actor, 0.5, nn.Tanh, params(self.critic))


def test_an_agent_of_the_user_s_is_exported_with_its_values():
    env, agent = AnyEnv(OBSERVATIONS["box"], ACTIONS["small"]), Own()
    model = export(agent, env)
    observations = np.stack(sampled(env.observation_space))
    expected = 0.1 * np.clip([agent.run(agent.actor, x) for x in observations], -1, 1)
    close(model.predict(observations, deterministic=True)[0], expected)
    tensor = torch.from_numpy(observations)
    values = model.policy.predict_values(tensor).detach()
    close(values, [agent.run(agent.critic, x) for x in observations])
    spread = model.policy.get_distribution(tensor).distribution.stddev
    close(spread.detach(), np.broadcast_to([0.05, 0.1 * math.exp(0.5)], spread.shape))


class Recording(PPOMultitask):
    """Records whole distributions, as ``compare`` reads them."""

    @torch.no_grad()
    def act(self, context, timestep, generator, greedy=False):
        action, _, context = super().act(context, timestep, generator, greedy)
        return action, distribution_of(self.policy, timestep.observation)._asdict(), context


@pytest.mark.parametrize("actions", ["small", "discrete", "choices"])
def test_a_policy_over_all_tasks_is_exported_with_its_values(actions):
    env = AnyEnv(OBSERVATIONS["box"], ACTIONS[actions])
    config = PPOMultitask.Config(
        hidden_sizes=(5, 4), normalize_observations=True, initial_std=0.3, observe_task=False
    )
    agent = Recording(config, TaskSpec(env.observation_space, env.action_space, 7), seed=3)
    seen = torch.from_numpy(np.stack(sampled(env.observation_space)))
    agent.normalizer.track(3 * seen + 1)
    model = export(agent, env)
    compare(model, agent, env.observation_space, env.action_space)
    close(model.policy.predict_values(seen).detach(), agent.policy.predict_values(seen).detach())
    told = PPOMultitask(
        PPOMultitask.Config(observe_task=True),
        TaskSpec(env.observation_space, env.action_space, 7, task_size=2),
    )
    with pytest.raises(UserError, match="an agent with a method network"):
        export(told, env)


# learning


class Rollouts(BaseCallback):
    """Keeps what the first rollout recorded."""

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        if not hasattr(self, "kept"):
            buffer = self.model.rollout_buffer
            self.kept = [np.copy(x) for x in (buffer.observations, buffer.actions)]
            self.log_prob = np.copy(buffer.log_probs)
            self.rewards, self.starts = np.copy(buffer.rewards), np.copy(buffer.episode_starts)


FEW = {"n_steps": 20, "batch_size": 10, "n_epochs": 2, "learning_rate": 1e-2}


def test_learning_starts_from_the_agent_s_policy_and_changes_every_layer():
    env = AnyEnv(OBSERVATIONS["box"], ACTIONS["box"])
    agent, rollouts = maml(env, normalized=True), Rollouts()
    model = export(agent, env, seed=0, **FEW)
    before = {name: x.clone() for name, x in model.policy.named_parameters()}
    model.learn(40, rollouts)
    observations, actions = (x[:, 0] for x in rollouts.kept)
    _, distribution = acted(agent, env.observation_space, list(observations))
    codec = ActionCodec(env.action_space)
    own = log_prob(distribution, torch.from_numpy(codec.from_env(actions)))
    close(rollouts.log_prob[:, 0], own - np.log(codec.units()[1]).sum())
    taken = np.clip(actions, env.action_space.low, env.action_space.high)
    np.testing.assert_array_equal(env.actions[:20], taken)
    assert all(not torch.equal(x, before[name]) for name, x in model.policy.named_parameters())
    assert not torch.equal(
        agent.params["weight.0"].T, model.policy.mlp_extractor.policy_net[0].weight
    )
    moments = model.policy.features_extractor.normalizer
    assert torch.equal(moments.mean, agent.encoder.normalizer.mean)  # PPO has no use for new ones


def test_learning_improves_what_the_environment_pays():
    env = AnyEnv(OBSERVATIONS["box"], gym.spaces.Box(0, 4, (1,), np.float32))
    model = export(maml(env), env, seed=0, **FEW | {"n_steps": 100, "batch_size": 50})
    observations = np.stack(sampled(env.observation_space))

    def cost():
        return np.square(model.predict(observations, deterministic=True)[0]).mean()

    before = cost()
    model.learn(1500)
    assert cost() < before / 2


def test_the_bound_on_the_standard_deviation_holds_while_learning():
    env = AnyEnv(OBSERVATIONS["box"], ACTIONS["small"])
    agent = maml(env, min_std=0.5)
    with torch.no_grad():
        agent.params["log_std"].copy_(torch.tensor([-5.0, 0.0]))
    model = export(agent, env, seed=0, **FEW)
    for _ in range(3):
        distribution = model.policy.get_distribution(torch.zeros(1, 3)).distribution
        assert distribution.stddev[0, 0].item() == pytest.approx(0.05)
        assert distribution.stddev[0, 1].item() >= 0.05
        model.learn(40)
    assert model.policy.log_std[1] != 0 and model.policy.log_std[0] == -5


def test_the_optimiser_is_the_user_s():
    env, kwargs = AnyEnv(BOX, ACTIONS["small"]), {"optimizer_class": torch.optim.SGD}
    model = export(maml(env), env, policy_kwargs=kwargs)
    assert isinstance(model.policy.optimizer, torch.optim.SGD)
    assert kwargs == {"optimizer_class": torch.optim.SGD}


def test_a_seed_makes_the_new_critic_the_same_and_its_values_are_zero():
    env = AnyEnv(BOX, ACTIONS["small"])
    policies = [export(maml(env), env, seed=s).policy for s in (1, 1, 2)]
    first, same, other = (p.mlp_extractor.value_net[0].weight for p in policies)
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert not any(p.predict_values(torch.ones(2, 3)).any() for p in policies)


OWN_STEP = {
    "n_epochs": 1,
    "vf_coef": 0.0,
    "gae_lambda": 1.0,
    "max_grad_norm": math.inf,
    "rollout_buffer_class": metarl.sb3.LinearBaselineBuffer,
    "policy_kwargs": {"optimizer_class": torch.optim.SGD},
}


class Clock(AnyEnv):
    """Episodes of 3 to 5 steps that end in either way."""

    def step(self, action):
        observation, reward, _, truncated, info = super().step(action)
        short = self.t == 3 and bool(self.np_random.random() < 0.4)
        return observation, reward, short, truncated and not short, info


@pytest.mark.parametrize("observations", ["box", "discrete", "multi-discrete"])
@pytest.mark.parametrize("actions", ["matrix", "discrete"])
def test_an_update_with_a_fitted_baseline_is_the_agent_s_own_step(observations, actions):
    spaces = OBSERVATIONS[observations], ACTIONS[actions]
    env, episodes, steps = Clock(*spaces), 8, 40
    agent = maml(env, inner_learning_rate=(0.1,), episodes_per_adaptation=episodes)
    rate = 0.1 * math.sqrt((2 * steps) / (2 * steps - 1))  # PPO's deviation is the unbiased one
    model = export(
        agent,
        DummyVecEnv([lambda: Clock(*spaces)] * 2),
        seed=0,
        n_steps=steps,
        batch_size=2 * steps,
        learning_rate=rate,
        **OWN_STEP,
    )
    rollouts = Rollouts()
    model.learn(2 * steps, rollouts)
    expected = inner_step_by_hand(agent, spaces[0], rollouts, steps)
    policy = model.policy
    layers = [x for x in policy.mlp_extractor.policy_net if isinstance(x, nn.Linear)]
    for i, layer in enumerate([*layers, policy.action_net]):
        close(layer.weight.detach(), expected[f"weight.{i}"].T)
        close(layer.bias.detach(), expected[f"bias.{i}"])
        assert not np.allclose(expected[f"weight.{i}"], agent.params[f"weight.{i}"].detach())
    if actions != "discrete":
        close(policy.log_std.detach(), expected["log_std"])


def inner_step_by_hand(agent, space, rollouts, steps):
    """Return the parameters after the agent's own step on what PPO has gathered."""
    codec, rows = ActionCodec(agent.spec.action_space), []
    for j in range(2):
        for i in range(steps):
            if i == 0 or rollouts.starts[i, j]:
                rows.append([])
            rows[-1].append((i, j))
    length = max(map(len, rows))
    shape = (1, len(rows), length)
    fields = {
        "observation": torch.zeros(*shape, observation_size(space)),
        "action": torch.zeros(*shape, *([] if codec.discrete else [codec.size])),
        "reward": torch.zeros(shape),
        "valid": torch.zeros(shape, dtype=torch.bool),
    }
    record = {}
    for e, row in enumerate(rows):
        for t, (i, j) in enumerate(row):
            observation = [rollouts.kept[0][i, j].reshape(space.shape).astype(space.dtype)]
            x, (_, distribution) = seen(space, observation)[0], acted(agent, space, observation)
            action = rollouts.kept[1][i, j]
            if codec.discrete:
                action = torch.as_tensor(int(action[0]))
            else:
                action = torch.from_numpy(codec.from_env(action[None])[0])
            fields["observation"][0, e, t], fields["action"][0, e, t] = x[0, 0], action
            fields["reward"][0, e, t] = float(rollouts.rewards[i, j])
            fields["valid"][0, e, t] = True
            for name, values in distribution._asdict().items():
                record.setdefault(name, torch.zeros(*shape, values.shape[-1]))
                record[name][0, e, t] = values[0]
    episodes = Episodes(
        **fields,
        taken=fields["action"],
        terminated=~fields["valid"],
        truncated=~fields["valid"],
        record=record,
        final_observation=fields["observation"][:, :, 0],
        metrics={},
    )
    after = agent.adapt(agent.begin(1), episodes, torch.Generator())
    return {name: x[0] for name, x in after.params.items()}


def test_a_fitted_baseline_takes_no_dict():
    env = AnyEnv(OBSERVATIONS["dict"], ACTIONS["small"])
    with pytest.raises(UserError, match=one_line("rollout_buffer_class: got 'Lin")):
        export(maml(env), env, **OWN_STEP)


LOAD = """
import sys, numpy as np
from stable_baselines3 import PPO
for name in ("small", "discrete"):
    model = PPO.load(f"{name}.zip")
    with np.load(f"{name}.npz") as kept:
        batch = {key: kept[key] for key in ("z", "image", "index", "both")}
        np.testing.assert_array_equal(model.predict(batch, deterministic=True)[0], kept["action"])
print(type(model.policy).__module__, type(model.policy).__name__)
"""


def test_a_saved_model_loads_in_a_fresh_process_and_goes_on_learning(quick_python, tmp_path):
    space = OBSERVATIONS["dict"]
    batch = batch_of(space, sampled(space))
    for actions in ("small", "discrete"):
        env = AnyEnv(space, ACTIONS[actions])
        agent = maml(env, normalized=True)
        model = export(agent, env, seed=0, **FEW)
        model.save(tmp_path / actions)
        action = model.predict(batch, deterministic=True)[0]
        np.savez(tmp_path / f"{actions}.npz", action=action, **batch)
        loaded = PPO.load(tmp_path / actions, env=env)
        compare(loaded, agent, space, env.action_space)
        assert loaded.learning_rate == 1e-2 and loaded.learn(20).num_timesteps == 20
    done = subprocess.run(
        [quick_python, "-c", LOAD], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout == "metarl.sb3.network NetworkPolicy\n", done.stderr


def test_a_policy_alone_is_saved_too(tmp_path):
    env = AnyEnv(OBSERVATIONS["image"], ACTIONS["box"])
    policy = export(maml(env, normalized=True), env).policy
    policy.save(tmp_path / "policy.pt")
    loaded, x = type(policy).load(tmp_path / "policy.pt"), np.stack(sampled(IMAGE))
    for deterministic in (True, False):
        torch.manual_seed(0)
        expected = policy.predict(x, deterministic=deterministic)[0]
        torch.manual_seed(0)
        np.testing.assert_array_equal(loaded.predict(x, deterministic=deterministic)[0], expected)


# agents that learn while they act


KINDS = {"continuous": "navigation:horizon=6", "discrete": "gridworld:horizon=6"}


def rl2(tasks, **changes):
    sizes = {"hidden_size": 8, "num_minibatches": 1, "tasks_per_update": 2}
    if tasks.episodes_per_trial is None:
        sizes["episodes_per_trial"] = 2
    agent = RL2(with_options(RL2.Config(), **sizes | changes), TaskSpec.of(tasks), seed=3)
    with torch.no_grad():  # so that what it sees and remembers moves its actions
        agent.head.policy.output.weight.mul_(50)
    return agent


def drawn(tasks, n):
    return tasks.sample(np.random.default_rng(0), n, "test")


def own_trial(agent, env, episodes, boundaries=True):
    """Return the greedy actions and the returns of a trial by :func:`metarl.adapt` and ``act``."""
    policy, actions, returns = metarl.adapt(agent, env, episodes=0), [], []
    reward = None
    for k in range(episodes):
        observation, _ = env.reset(seed=5 if k == 0 else None)
        ended, boundary = False, k > 0
        returns.append(0.0)
        while not ended:
            action = policy.act(observation, reward, boundary=boundary, greedy=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            actions.append(action)
            returns[-1] += reward
            ended, boundary = terminated or truncated, False
    return np.array(actions), returns


def exported_trial(policy, steps):
    """Return the greedy actions ``[step, env, …]`` of a trial in the policy's environments."""
    policy.env.seed(5)
    observation, state, start, actions = policy.env.reset(), None, None, []
    for _ in range(steps):
        action, state = policy.predict(observation, state, start, deterministic=True)
        observation, _, start, _ = policy.env.step(action)
        actions.append(action)
    return np.array(actions)


@pytest.mark.parametrize("core", ["gru", "fast-weights"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_recurrent_policy_acts_as_adapt_does_through_two_episodes(kind, core):
    tasks = metarl.make(KINDS[kind])
    (task,) = drawn(tasks, 1)
    agent = rl2(tasks, core=core)
    expected, _ = own_trial(agent, tasks.make(task), 2)
    got = exported_trial(export(agent, tasks.make(task)), len(expected))
    close(got[:, 0], expected)
    assert len(np.unique(got, axis=0)) > 2


@pytest.mark.parametrize("observations", ["image", "tuple", "dict"])
def test_a_recurrent_policy_sees_what_the_agent_saw(observations):
    space = OBSERVATIONS.get(observations, gym.spaces.Tuple([BOX, gym.spaces.Discrete(3, start=1)]))
    make = partial(AnyEnv, space, gym.spaces.Discrete(4, start=-1))
    sizes = {"hidden_size": 8, "num_minibatches": 1, "tasks_per_update": 2}
    spec = TaskSpec(reported_space(space), make().action_space, 5, 2)
    agent = RL2(with_options(RL2.Config(), **sizes), spec, seed=3)
    with torch.no_grad():
        agent.head.policy.output.weight.mul_(50)
    expected, _ = own_trial(agent, make(), 2)
    got = exported_trial(export(agent, make()), len(expected))
    np.testing.assert_array_equal(got[:, 0], expected)
    assert len(set(expected.tolist())) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_recurrent_policy_serves_several_environments_at_once(kind):
    tasks = metarl.make(KINDS[kind])
    agent, several = rl2(tasks), drawn(tasks, 3)
    envs = DummyVecEnv([lambda task=task: tasks.make(task) for task in several])
    together = exported_trial(export(agent, envs), 12)
    for i, task in enumerate(several):
        alone = export(agent, DummyVecEnv([lambda task=task: tasks.make(task)]))
        close(together[:, i], exported_trial(alone, 12)[:, 0])
    assert not np.array_equal(together[:, 0], together[:, 1]) or kind == "discrete"


def test_stable_baselines3_evaluates_a_whole_trial_in_wrappers_too():
    tasks = metarl.make("bandit/n5-k5")
    agent = rl2(tasks)
    for task in drawn(tasks, 3):
        _, expected = own_trial(agent, tasks.make(task), 5)
        policy = export(agent, tasks.make(task))
        for env in (policy.env, VecNormalize(policy.env, norm_obs=False)):
            policy.env.seed(5)
            returns, _ = evaluate_policy(
                policy, env, n_eval_episodes=5, return_episode_rewards=True
            )
            close(returns, expected)


class PullsWhatPaid:
    """Pulls an arm as long as it pays: RL² as it is at its simplest."""

    shape = TrialShape(1)

    def begin(self, num_tasks):
        return torch.zeros(num_tasks, 1, dtype=torch.int64)

    def act(self, context, timestep, generator, greedy=False):
        lost = (timestep.previous_reward == 0) & ~timestep.trial_start
        context = (context + lost) % 2
        return context, {}, context

    def adapt(self, context, episodes, generator):
        return context


class SecondPays(gym.Env):
    observation_space, action_space = gym.spaces.Discrete(1), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        return 0, float(action), True, False, {}


@pytest.mark.parametrize("make", [SecondPays, lambda: DummyVecEnv([SecondPays] * 2)])
def test_knowledge_lasts_through_the_episodes_of_a_trial_and_no_longer(make):
    policy = export(PullsWhatPaid(), make())
    for _ in range(2):
        returns, _ = evaluate_policy(
            policy, policy.env, n_eval_episodes=6, return_episode_rewards=True, warn=False
        )
        n = policy.env.num_envs
        assert returns == [0.0] * n + [1.0] * (6 - n)


def test_rewards_can_be_given_in_place_of_the_policy_s_environments():
    policy = export(PullsWhatPaid(), SecondPays())
    action, state = policy.predict(0)
    assert action == 0
    assert policy.predict(0, state, True, reward=1.0)[0] == 0
    assert policy.predict(0, state, True, reward=0.0)[0] == 1
    actions, state = policy.predict(np.zeros(3, np.int64))
    actions, _ = policy.predict(np.zeros(3, np.int64), state, np.ones(3, bool), reward=[0, 1, 0])
    assert actions.tolist() == [1, 0, 1]


def test_rewards_that_nobody_tells_are_asked_for():
    policy = export(PullsWhatPaid(), SecondPays())
    _, state = policy.predict(0)
    with pytest.raises(UserError, match=r"^reward: got None, and policy\.env was not [^\n]*$"):
        policy.predict(0, state)
    policy.env.reset()
    policy.env.step(np.array([1]))
    assert policy.predict(0, state)[0] == 0
    _, three = policy.predict(np.zeros(3, np.int64))
    policy.env.step(np.array([1]))
    with pytest.raises(UserError, match=r"^reward: got None for 3 environments; [^\n]*the 1 of"):
        policy.predict(np.zeros(3, np.int64), three)
    with pytest.raises(UserError, match=r"^reward: got shape \(2,\); accepted: \(3,\) or \(\)$"):
        policy.predict(np.zeros(3, np.int64), three, reward=[0, 1])
    with pytest.raises(UserError, match=r"^state: got a tuple; accepted: None, or what"):
        policy.predict(0, (1, 2))


# what is refused


def one_line(start):
    return rf"^{start}[^\n]*$"


REFUSED = {
    "tuple": (gym.spaces.Tuple([BOX, BOX]), ACTIONS["small"], "observation"),
    "nested": (gym.spaces.Dict(a=gym.spaces.Dict(b=BOX)), ACTIONS["small"], "observation"),
    "start": (gym.spaces.Discrete(3, start=1), ACTIONS["small"], "observation"),
    "start-multi": (gym.spaces.MultiDiscrete([2], start=[1]), ACTIONS["small"], "observation"),
    "axes": (gym.spaces.MultiDiscrete([[2, 2]]), ACTIONS["small"], "observation"),
    "actions": (BOX, gym.spaces.Discrete(3, start=1), "action"),
    "started": (BOX, gym.spaces.MultiDiscrete([3, 2], start=[1, 0]), "action"),
    "matrix": (BOX, gym.spaces.MultiBinary((2, 2)), "action"),
    "integers": (BOX, gym.spaces.Box(0, 3, (2,), np.int64), "action"),
    "parts": (BOX, gym.spaces.Dict(a=gym.spaces.Discrete(2)), "action"),
    "bounds": (BOX, gym.spaces.Box(-np.inf, 1, (2,), np.float32), "action"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_spaces_that_stable_baselines3_does_not_take_are_refused(name):
    observation_space, action_space, kind = REFUSED[name]
    env = AnyEnv(observation_space, action_space)
    with pytest.raises(UserError, match=one_line(f"env: got {kind} space .*; accepted: what Sta")):
        export(maml(env), env)


def test_a_recurrent_policy_s_spaces_are_not_nested():
    agent, nested = PullsWhatPaid(), gym.spaces.Dict(a=gym.spaces.Tuple([BOX]))
    with pytest.raises(UserError, match=one_line("env: got observation space .*: no Dict or Tup")):
        export(agent, AnyEnv(nested, ACTIONS["discrete"]))


@pytest.mark.parametrize("make", [maml, lambda env: rl2(metarl.make("bandit/n3-k5"))])
@pytest.mark.parametrize("vector", [False, True])
def test_spaces_other_than_the_agent_s_are_refused(make, vector):
    agent = make(AnyEnv(BOX, ACTIONS["small"]))
    env = AnyEnv(gym.spaces.Box(-2, 2, (4,), np.float32), ACTIONS["small"])
    with pytest.raises(UserError, match=one_line("env: got observation space .*; accepted: the a")):
        export(agent, DummyVecEnv([lambda: env]) if vector else env)


class Rounds(PullsWhatPaid):
    shape = TrialShape(2, 1, sequential=False)


@pytest.mark.parametrize(
    ("source", "env", "options", "message"),
    [
        (
            Rounds(),
            SecondPays(),
            {},
            "run_or_agent: got 'Rounds'; accepted: an agent with a method",
        ),
        (3, SecondPays(), {}, "run_or_agent: got 3; accepted: a run, its directory, or an agent"),
        ("none", SecondPays(), {}, r"none: not a run directory \(it has no config.json\)"),
        (
            PullsWhatPaid(),
            "CartPole-v1",
            {},
            "env: got 'str'; accepted: a gymnasium.Env or a VecEnv",
        ),
        (
            PullsWhatPaid(),
            SecondPays(),
            {"n_steps": 3},
            "export: got 'n_steps'; accepted: no op",
        ),
        (PullsWhatPaid(), SecondPays(), {"seed": -1}, "seed: got -1; accepted: 0 to"),
        (Own(), Drift(0), {"n_step": 3}, "export: no option 'n_step' of PPO; did you mean n_steps"),
        (
            Own(),
            Drift(0),
            {"policy_kwargs": {"net_arch": []}},
            "policy_kwargs: got 'net_arch'; acc",
        ),
        (Own(), Drift(0), {"policy": "x"}, "export: no option 'policy' of PPO; "),
    ],
)
def test_what_cannot_be_exported_is_refused(source, env, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=one_line(message)):
        export(source, env, **options)


# runs, and what is imported


TRAIN = """
import sys, metarl, metarl.sb3
from pathlib import Path
from metarl.evaluation import drawn_tasks
drawn_tasks.TASK_BLOCK = 10  # quicker
env = metarl.make("navigation").make()
metarl.train("maml-ppo", env="navigation:horizon=5", iterations=1, tasks_per_update=2,
    episodes_per_adaptation=2, hidden_sizes=(8,), evaluation_tasks=2, validation_tasks=2,
    normalize_observations=True, run_dir=Path("run"))
assert "stable_baselines3" not in sys.modules
metarl.sb3.export
assert "stable_baselines3" in sys.modules
"""


@pytest.fixture(scope="module")
def trained(quick_python, tmp_path_factory):
    """A run of a process that asserts that nothing has imported Stable-Baselines3."""
    folder = tmp_path_factory.mktemp("trained")
    done = subprocess.run(
        [quick_python, "-c", TRAIN], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_a_run_is_exported_and_training_it_imports_no_stable_baselines3(trained):
    tasks = metarl.make("navigation")
    env = tasks.make(drawn(tasks, 1)[0])
    agent = metarl.load(trained)
    for source in (Run.open(trained), trained, str(trained), agent):
        compare(export(source, env), agent, env.observation_space, env.action_space)


@pytest.fixture(scope="module")
def multitask(tmp_path_factory):
    folder = tmp_path_factory.mktemp("multitask") / "run"
    metarl.train(
        "ppo-multitask",
        env="navigation:horizon=5",
        iterations=1,
        **{"tasks_per_update": 2, "episodes_per_task": 2, "hidden_sizes": (8,)},
        **{"evaluation_tasks": 1, "validation_tasks": 1, "run_dir": folder, "check": False},
    )
    return folder


def test_the_comparison_pairs_beginnings_by_task(trained, multitask, tmp_path, capsys):
    rules = ("sgd-0.05", "sgd-0.1-halved")
    options = Options(
        trained,
        multitask,
        num_tasks=2,
        validation_tasks=1,
        measured_episodes=2,
        rules=rules,
        output=tmp_path / "out.json",
    )
    comparison.compare(options)
    found = json.loads(options.output.read_text())
    assert found["multitask"]["env_steps"] == Run.open(multitask).checkpoint().env_steps > 0
    returns = {name: np.array(x) for name, x in found["returns"].items()}
    assert found["episodes"] == [0, 20, 40] and {x.shape for x in returns.values()} == {(2, 3)}
    gain = (returns["meta-learned"] - returns["multitask"])[:, -1]
    assert found["meta_learned_minus"]["multitask"]["mean"] == pytest.approx(gain.mean())
    for chosen in found["chosen"].values():
        tried = chosen["validation_returns"]
        assert set(tried) == set(rules) and tried[chosen["rule"]] == max(tried.values())
    assert "meta-learned minus scratch after 40 episodes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rules": ("sgd",)}, "--rules: got sgd; did you mean sgd-0.1"),
        ({"num_episodes": 30}, "--num-episodes: got 30; accepted: a multiple of 20"),
        ({"run": Path("none")}, "none: not a run directory"),
        ({}, "--multitask: got 'maml-ppo on navigation:horizon=5'; accepted: a run of"),
    ],
)
def test_a_comparison_that_cannot_work_is_refused(changes, message, trained):
    with pytest.raises(UserError, match=one_line(message)):
        comparison.compare(replace(Options(trained, trained), **changes))


def test_the_rate_is_halved_at_every_update_after_the_first():
    rates = [comparison.halved(0.1, 4)(remaining) for remaining in (0.75, 0.5, 0.25, 0.0)]
    assert rates == [0.1, 0.05, 0.025, 0.0125]


def test_every_public_name_imports():
    assert sorted(metarl.sb3.__all__) == dir(metarl.sb3) == sorted(metarl.sb3._HOME)
    for name in metarl.sb3.__all__:
        module = sys.modules[getattr(metarl.sb3, name).__module__]
        assert module.__name__.startswith("metarl.sb3.")
        assert getattr(metarl.sb3, name) is getattr(module, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        metarl.sb3.nothing  # noqa: B018

"""RL²: does it train on what it acted with, remember what it should, refuse what cannot work?"""

import copy

import numpy as np
import pytest
import torch
from uneven import Uneven

import metarl
from metarl.agents import rl2
from metarl.agents.rl2 import RL2, RL2Config
from metarl.errors import UserError
from metarl.experience.data import Timestep, Trial
from metarl.experience.lanes import TrialKeys
from metarl.experience.rollout import run_trial, torch_generator
from metarl.learning import distributions
from metarl.learning.cores import CORES
from metarl.learning.heads import HEADS
from metarl.learning.returns import discounted_returns, linear_values, normalize
from metarl.learning.state import renamed
from metarl.options import with_options
from metarl.running.first_edition import PREFIXES
from metarl.seeding import LaneGenerator, Phase

BANDIT = metarl.make("bandit/n5-k3")
FAMILIES = {"bandit": BANDIT, "discrete": Uneven(True), "continuous": Uneven(False)}


def agent_for(tasks, seed=1, device="cpu", **changes):
    values = {"tasks_per_update": 6, "hidden_size": 8, "num_minibatches": 2} | changes
    spec = metarl.TaskSpec.of(tasks)
    if spec.episodes_per_trial is None:
        values = {"episodes_per_trial": 2} | values
    return RL2(with_options(RL2Config(), **values), spec, seed=seed, device=device)


def trial_of(agent, tasks, seed=0, num=6):
    batch = tasks.sample(np.random.default_rng(seed), num, "train")
    return run_trial(
        agent,
        tasks.make_vec(num),
        batch,
        shape=agent.shape,
        keys=TrialKeys(seed, Phase.TRAIN, 0, num),
    )


def update(agent, trial, seed=3, progress=0.0):
    return agent.update(trial, torch_generator(seed), progress)


def same_state(a, b):
    (tensors, extra), (others, other_extra) = a.state(), b.state()
    assert tensors.keys() == others.keys()
    return extra == other_extra and all(tensors[k].equal(others[k]) for k in tensors)


def step_of(previous_action=0, previous_reward=0.0, boundary=False, trial_start=False):
    def flag(x):
        return torch.tensor([[x]])

    return Timestep(
        observation=torch.ones(1, 1, 1),
        previous_action=torch.tensor([[previous_action]]),
        previous_reward=torch.tensor([[float(previous_reward)]]),
        boundary=flag(boundary),
        trial_start=flag(trial_start),
        active=flag(True),
    )


def act(agent, context, step):
    return agent.act(context, step, LaneGenerator(np.array([[5]], np.uint64)))


# conformance


@pytest.mark.parametrize("chunk_length", [None, 3])
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", ["bandit/n10-k5", "half-cheetah/velocity:horizon=5"])
def test_rl2_keeps_the_contract_of_an_agent(name, core, chunk_length):
    tasks = metarl.make(name)
    agent = agent_for(tasks, **in_chunks(core, chunk_length), encoder_sizes=(5,), core=core)
    metarl.check_agent(agent, tasks)


@pytest.mark.parametrize("core", CORES)
def test_a_hypernetwork_keeps_the_contract_of_an_agent(core):
    tasks = FAMILIES["continuous"]
    metarl.check_agent(agent_for(tasks, core=core, head="hyper", head_sizes=(4,)), tasks)


def in_chunks(core, chunk_length):
    """Options that cut trials into chunks: attention needs a window, and a graph cannot be cut."""
    if chunk_length is None:
        return {}
    if core == "graph":
        pytest.skip("a graph sees the whole trial")
    window = {"window": 2} if core == "transformer" else {}
    return {"chunk_length": chunk_length, **window}


@pytest.mark.parametrize(("core", "more"), [("transformer", ", or --window N"), ("graph", "")])
def test_chunks_are_refused_where_a_core_sees_the_whole_trial(core, more):
    message = f"--chunk-length: got 3; accepted: None (--chunk-length None): --core {core} sees"
    with pytest.raises(UserError) as error:
        with_options(RL2Config(), core=core, chunk_length=3)
    assert str(error.value) == f"{message} the whole trial{more}"


def test_a_trial_without_a_prescribed_number_of_episodes_needs_the_option():
    spec = metarl.TaskSpec.of(metarl.make("navigation"))
    with pytest.raises(UserError, match=r"^--episodes-per-trial: got None; accepted: "):
        RL2(RL2Config(), spec)
    assert RL2(RL2Config(episodes_per_trial=3), spec).shape == metarl.TrialShape(3)


# acting and updating see the same


@pytest.mark.parametrize(
    ("family", "chunk_length"),
    [
        ("bandit", None),
        ("bandit", 2),
        ("discrete", None),
        ("discrete", 4),
        ("continuous", None),
        ("continuous", 1),
        ("continuous", 4),
        ("continuous", 100),
    ],
)
@pytest.mark.parametrize("core", CORES)
def test_update_recomputes_what_was_recorded_while_acting(family, chunk_length, core):
    tasks = FAMILIES[family]
    agent = agent_for(
        tasks,
        **in_chunks(core, chunk_length),
        core=core,
        normalize_observations=True,
        learning_rate=0.03,
        target_kl=None,
    )
    update(agent, trial_of(agent, tasks))  # away from the first policy, which is nearly constant
    stream = trial_of(agent, tasks, seed=1).stream()
    assert family == "bandit" or not stream.valid.all()  # trials of different lengths
    chunks, inputs = agent.policy.cut(stream)
    valid = chunks.cut(stream.valid)
    assert int(valid.sum()) == int(stream.valid.sum())
    distribution, value = agent.policy(inputs)
    log_prob = distributions.log_prob(distribution, chunks.cut(stream.action))
    before = distributions.log_prob(distributions.from_record(stream.record), stream.action)
    value = agent.targets.denormalize(value)
    for new, old in ((log_prob, before), (value, stream.record["value"])):
        recorded = chunks.cut(old)[valid]
        assert float(recorded.std()) > 1e-4
        torch.testing.assert_close(new[valid], recorded, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scaled", [True, False])
def test_policy_sees_scaled_observations_where_it_is_asked_to(scaled):
    tasks = FAMILIES["continuous"]
    agent = agent_for(tasks, normalize_observations=scaled)
    stream = trial_of(agent, tasks).stream()
    update(agent, trial_of(agent, tasks))
    observation = stream.observation[stream.valid]
    chunks, ((stored, _), _) = agent.policy.cut(stream)
    seen = stored[chunks.cut(stream.valid)]
    if not scaled:
        assert seen.equal(observation)
        return
    mean, deviation = observation.mean(0), observation.std(0, unbiased=False).clamp(min=0.01)
    expected = ((observation - mean) / deviation).clamp(-10, 10)
    torch.testing.assert_close(seen, expected, rtol=1e-3, atol=1e-3)


def test_without_a_step_the_policy_stays_where_it_is():
    agent = agent_for(BANDIT, learning_rate=1e-12, final_learning_rate=0.0, num_epochs=5)
    metrics = update(agent, trial_of(agent, BANDIT))
    assert metrics["kl"] == pytest.approx(0, abs=1e-9)
    assert (metrics["clip_fraction"], metrics["num_epochs"]) == (0, 5)


@pytest.fixture
def batches(monkeypatch):
    """What every update optimises."""
    seen, optimize = [], rl2.optimize
    monkeypatch.setattr(rl2, "optimize", lambda *args: seen.append(args[2]) or optimize(*args))
    return seen


@pytest.mark.parametrize("lambdas", [{"gae_lambda": 1.0}, {"gae_lambda": 0.3, "value_lambda": 1.0}])
def test_value_targets_are_what_is_left_of_the_whole_trial(batches, lambdas):
    tasks = FAMILIES["continuous"]
    agent = agent_for(tasks, discount=0.9, **lambdas)
    trial = trial_of(agent, tasks)
    update(agent, trial)
    target, episodes = agent.targets.denormalize(batches[0].target), trial.rounds[0]
    for task in range(6):
        rewards = episodes.reward[task][episodes.valid[task]].tolist()
        expected, following = [], 0.0
        for reward in reversed(rewards):
            following = reward + 0.9 * following
            expected.insert(0, following)
        found = target[task, : len(rewards)].numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_linear_baseline_is_fitted_to_every_trial_and_there_is_no_critic(batches):
    tasks = FAMILIES["continuous"]
    agent = agent_for(tasks, baseline="linear", discount=0.9, gae_lambda=1.0)
    trial = trial_of(agent, tasks)
    metrics, stream = update(agent, trial), trial.stream()
    values = linear_values(stream.observation, stream.reward, stream.valid, 0.9)
    for task in range(6):
        n = int(stream.valid[task].sum())
        returns, following = np.zeros(n), 0.0
        for t in reversed(range(n)):
            following = float(stream.reward[task, t]) + 0.9 * following
            returns[t] = following
        x = stream.observation[task, :n].double().numpy()
        time = np.arange(n)[:, None] / (stream.valid.shape[1] - 1)
        features = np.hstack([x, x**2, time, time**2, time**3, np.ones((n, 1))])
        gram = features.T @ features + 1e-5 * np.eye(features.shape[1])
        expected = features @ np.linalg.solve(gram, features.T @ returns)
        np.testing.assert_allclose(values[task, :n].numpy(), expected, atol=1e-4)
    left = discounted_returns(stream.reward, stream.valid, 0.9) - values
    expected = normalize(left, stream.valid)
    torch.testing.assert_close(batches[0].advantage, expected, atol=1e-4, rtol=1e-4)
    assert "value_loss" not in metrics
    assert "value" not in trial.rounds[0].record
    assert not [name for name in agent.state()[0] if "critic" in name]


def test_lambda_of_the_critic_leaves_the_advantages_as_they_are(batches):
    tasks = FAMILIES["continuous"]
    for value_lambda in (None, 1.0):
        agent = agent_for(tasks, gae_lambda=0.3, value_lambda=value_lambda)
        update(agent, trial_of(agent, tasks))
    first, second = batches
    assert first.advantage.equal(second.advantage)
    assert not torch.allclose(first.target, second.target)


# memory


def test_hidden_state_survives_the_end_of_an_episode():
    agent = agent_for(BANDIT)
    contexts = []
    for reward in (0.0, 1.0):
        _, _, context = act(agent, agent.begin(1), step_of(previous_reward=reward))
        contexts.append(act(agent, context, step_of(boundary=True))[2])
    assert not torch.allclose(*contexts, atol=1e-4)


def test_hidden_state_does_not_survive_the_end_of_a_trial():
    fresh, used = agent_for(BANDIT), agent_for(BANDIT)
    trial_of(used, BANDIT, seed=8)
    a, b = trial_of(fresh, BANDIT, seed=9), trial_of(used, BANDIT, seed=9)
    assert a.context.equal(b.context)
    assert a.rounds[0].record["value"].equal(b.rounds[0].record["value"])


@pytest.mark.parametrize("change", [{"boundary": True}, {"previous_action": 1}])
@pytest.mark.parametrize("base", [{"previous_reward": 1.0}, {"previous_reward": 0.0}])
def test_boundary_and_last_action_change_what_the_policy_knows(base, change):
    agent = agent_for(BANDIT)
    plain = act(agent, agent.begin(1), step_of(**base))[2]
    assert not torch.allclose(plain, act(agent, agent.begin(1), step_of(**base, **change))[2])


@pytest.mark.parametrize(("scale", "blind"), [(1.0, False), (0.0, True)])
def test_last_reward_is_seen_times_the_observed_reward_scale(scale, blind):
    agent = agent_for(BANDIT, observed_reward_scale=scale)
    a, b = (act(agent, agent.begin(1), step_of(previous_reward=r))[2] for r in (0.0, 1.0))
    assert a.equal(b) == blind


def test_nothing_of_an_action_is_seen_at_the_start_of_a_trial():
    agent = agent_for(BANDIT)
    a, b = (act(agent, agent.begin(1), step_of(p, trial_start=True))[2] for p in (0, 2))
    assert a.equal(b)


# the update


def test_schedule_is_linear_and_ends_at_the_final_values():
    agent = agent_for(
        BANDIT,
        learning_rate=0.004,
        final_learning_rate=0.001,
        entropy_coefficient=0.03,
        final_entropy_coefficient=0.0,
    )
    trial = trial_of(agent, BANDIT)
    metrics = [update(agent, trial, progress=p) for p in (0.0, 1 / 3, 2 / 3, 1.0, 1.0)]
    rates = [m["learning_rate"] for m in metrics]
    assert rates == pytest.approx([0.004, 0.003, 0.002, 0.001, 0.001])
    bonus = [m["entropy_coefficient"] for m in metrics]
    assert bonus == pytest.approx([0.03, 0.02, 0.01, 0.0, 0.0])


@pytest.mark.parametrize(("target_kl", "epochs"), [(1e-6, 1), (None, 5)])
def test_kl_stops_an_update(target_kl, epochs):
    agent = agent_for(BANDIT, learning_rate=0.05, num_epochs=5, target_kl=target_kl)
    assert update(agent, trial_of(agent, BANDIT))["num_epochs"] == epochs


@pytest.mark.parametrize("chunk_length", [None, 4])
def test_padding_does_not_reach_the_update(chunk_length):
    tasks = FAMILIES["continuous"]
    clean, dirty = (agent_for(tasks, chunk_length=chunk_length) for _ in range(2))
    trial = trial_of(clean, tasks)
    episodes = trial.rounds[0]
    assert not episodes.valid.all()

    def spoil(x):
        mask = episodes.valid.reshape(*episodes.valid.shape, *[1] * (x.ndim - 3))
        return torch.where(mask, x, torch.full_like(x, 50))

    fields = ("observation", "action", "taken", "reward")
    spoiled = episodes._replace(
        **{name: spoil(getattr(episodes, name)) for name in fields},
        record={name: spoil(x) for name, x in episodes.record.items()},
    )
    assert update(clean, trial) == update(dirty, Trial(trial.tasks, [spoiled], trial.context))
    assert same_state(clean, dirty)


def test_min_std_holds_for_sampling_and_density():
    tasks = FAMILIES["continuous"]
    agent = agent_for(tasks, initial_std=0.5, min_std=0.5)
    with torch.no_grad():
        agent.head.policy.log_std.fill_(-9.0)
    episodes = trial_of(agent, tasks, num=60).rounds[0]
    spread = float(episodes.action[episodes.valid].std())
    assert spread == pytest.approx(0.5, rel=0.1)  # 1000 draws: 2 %


# config


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tasks_per_update", 0),
        ("hidden_size", 0),
        ("episodes_per_trial", 0),
        ("chunk_length", 0),
        ("encoder_sizes", (8, 0)),
        ("head_sizes", (0,)),
        ("discount", 1.1),
        ("discount", -0.1),
        ("gae_lambda", 1.1),
        ("gae_lambda", float("nan")),
        ("value_lambda", -0.1),
        ("memory_size", 3),
        ("max_std", 0.5),
        ("initial_std", 0.0),
        ("min_std", -0.1),
        ("num_minibatches", 1001),
    ],
)
def test_config_refuses_what_cannot_train(name, value):
    with pytest.raises(UserError, match=f"^--{name.replace('_', '-')}: got .*; accepted: "):
        with_options(RL2Config(), **{name: value})


def test_config_accepts_the_ends_of_its_ranges():
    values = {"discount": 1.0, "gae_lambda": 0.0, "value_lambda": 0.0, "num_minibatches": 1000}
    with_options(RL2Config(), **values, target_kl=None, clip=1e-9)


# state


def test_state_is_not_tied_to_what_it_was_loaded_from():
    agent, other = agent_for(BANDIT), agent_for(BANDIT, 2)
    trial = trial_of(agent, BANDIT)
    update(agent, trial)
    saved = copy.deepcopy(agent.state()[0])
    other.load_state(*agent.state())
    update(other, trial)
    assert all(saved[name].equal(value) for name, value in agent.state()[0].items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("core", CORES)
def test_one_update_on_cuda_equals_the_cpu(family, core, head):
    tasks, parts = FAMILIES[family], {"core": core, "head": head}
    cpu, cuda = agent_for(tasks, **parts), agent_for(tasks, device="cuda", **parts)
    trial = trial_of(cpu, tasks)
    for agent in (cpu, cuda):
        update(agent, trial)
    others = cuda.state()[0]
    for name, value in cpu.state()[0].items():
        assert others[name].device.type == "cuda" or value.ndim == 0
        torch.testing.assert_close(others[name].cpu(), value, atol=1e-4, rtol=1e-4)


# the first edition


def first_edition_names(core, critic=True):
    """The names of an agent's tensors today, and as the first edition wrote them."""
    agent = agent_for(
        FAMILIES["continuous"],
        core=core,
        encoder_sizes=(5,),
        head_sizes=(6,),
        normalize_observations=True,
        baseline="critic" if critic else "linear",
    )
    trunk = ["encoder.0.weight", "encoder.0.bias"]
    trunk += [f"gru.{kind}_{end}_l0" for kind in ("weight", "bias") for end in ("ih", "hh")]
    if core == "fast-weights":
        parts = [(part, kind) for part in ("key", "value", "query") for kind in ("weight", "bias")]
        trunk += [f"memory.{part}.{kind}" for part, kind in parts]
    trunk += ["trunk.0.weight", "trunk.0.bias"]
    trunk += ["policy.log_std", "policy.output.weight", "policy.output.bias"]
    trunk += ["critic.weight", "critic.bias"] if critic else []
    others = ["target_mean", "target_square"] + [f"scaler.{x}" for x in ("count", "mean", "square")]
    return agent, [f"network.{name}" for name in trunk] + others


@pytest.mark.parametrize("core", ["gru", "fast-weights"])
def test_checkpoints_of_the_first_edition_load_by_the_names_they_had(core):
    agent, names = first_edition_names(core)
    update(agent, trial_of(agent, FAMILIES["continuous"]))
    tensors, extra = copy.deepcopy(agent.state())
    renamed_back = renamed(tensors, BACK)
    moments = {name for name in tensors if name.startswith("optimizer.")}
    assert set(renamed_back) - moments == set(names)
    other, _ = first_edition_names(core)
    other.load_state(renamed(renamed_back, PREFIXES["rl2"]), extra)
    assert same_state(agent, other)


BACK = {
    **{f"core.{part}.": f"network.memory.{part}." for part in ("key", "value", "query")},
    "core.": "network.",
    "head.": "network.",
    "targets.": "target_",
    "normalizer.": "scaler.",
}


def test_order_of_parameters_is_the_first_edition_s_since_moments_have_numbers():
    agent, names = first_edition_names("fast-weights")
    own = [f"core.{name}" for name, _ in agent.core.named_parameters()]
    own += [f"head.{name}" for name, _ in agent.head.named_parameters()]
    assert list(renamed(dict.fromkeys(own, torch.zeros(0)), BACK)) == names[: len(own)]
    optimized = agent.optimizer.param_groups[0]["params"]
    parts = [*agent.core.parameters(), *agent.head.parameters()]
    assert all(x is y for x, y in zip(optimized, parts, strict=True))

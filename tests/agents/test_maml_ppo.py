"""MAML-PPO: is its meta-gradient exact, and is adaptation the same wherever it happens?"""

import copy
import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

import metarl
from metarl.agents.maml_ppo import MAMLPPO, MAMLPPOConfig, meta_loss
from metarl.errors import UserError
from metarl.experience.lanes import TrialKeys
from metarl.experience.rollout import collect, run_trial, torch_generator
from metarl.learning import distributions, returns
from metarl.learning.losses import accumulate_gradient, inner_loss
from metarl.learning.state import renamed
from metarl.learning.update_rules import inner_step
from metarl.running.first_edition import PREFIXES
from metarl.seeding import Phase
from metarl.task import Task

TINY = {
    "tasks_per_update": 3,
    "episodes_per_adaptation": 2,
    "num_adaptations": 1,
    "hidden_sizes": (4,),
}
ENVS = {"continuous": "navigation:horizon=5", "discrete": "bandit/n4-k3"}


def make(env="continuous", **changes):
    tasks = metarl.make(ENVS[env])
    config = MAMLPPOConfig(**{**TINY, **changes})
    return MAMLPPO(config, metarl.TaskSpec.of(tasks), seed=3), tasks


def gather(agent, tasks, order=None, num_adaptations=None):
    n = agent.tasks_per_update
    order = np.arange(n) if order is None else np.array(order)
    drawn = tasks.sample(np.random.default_rng(0), n, "train")
    return run_trial(
        agent,
        tasks.make_vec(n * agent.shape.episodes_per_round),
        [drawn[i] for i in order],
        shape=agent.shape
        if num_adaptations is None
        else dataclasses.replace(agent.shape, num_adaptations=num_adaptations),
        keys=TrialKeys(0, Phase.TRAIN, 0, order),
    )


def batches(agent, trial):
    return [agent.batch(episodes)[0] for episodes in trial.rounds]


def in_float64(agent, trial):
    """Return the agent's parameters and the trial's batches, in float64 and off the old policy.

    A parameter that moved since the experience was gathered makes every ratio differ from 1,
    so that no term of the objective is at a point where it happens to vanish.
    """
    rounds = pytree.tree_map(
        lambda x: x.double() if x.is_floating_point() else x, batches(agent, trial)
    )
    if "log_std" not in agent.params:  # rounded to float32, probabilities do not sum to 1 exactly
        rounds = [batch._replace(old=(batch.old[0].log_softmax(-1),)) for batch in rounds]
    noise = torch.Generator().manual_seed(0)
    params = {
        name: (
            x.detach().double() + 0.05 * torch.randn(x.shape, generator=noise, dtype=torch.float64)
        ).requires_grad_()
        for name, x in agent.params.items()
    }
    return params, rounds


def loss_of(agent, params, rounds):
    return meta_loss(params, rounds, agent.policy, agent.rule, agent.config)


def meta_gradient(agent, params, rounds):
    for x in params.values():
        x.grad = None
    tasks, chunk = [Task.of("some")] * len(rounds[0].valid), agent.config.tasks_per_chunk
    accumulate_gradient(lambda part: loss_of(agent, params, part), rounds, tasks, chunk)
    return {name: x.grad.clone() for name, x in params.items()}


def naive_forward(params, observation, min_std):
    x = observation
    layers = sum(name.startswith("weight") for name in params)
    for i in range(layers):
        x = x @ params[f"weight.{i}"] + params[f"bias.{i}"]
        if i + 1 < layers:
            x = x.clamp(min=0)
    if "log_std" not in params:
        return torch.distributions.Categorical(logits=x)
    std = params["log_std"].clamp(min=np.log(min_std)).exp()
    return torch.distributions.Independent(torch.distributions.Normal(x, std), 1)


def old_distribution(batch, task, keep):
    if len(batch.old) == 1:
        return torch.distributions.Categorical(logits=batch.old[0][task][keep])
    mean, log_std = (x[task][keep] for x in batch.old)
    return torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1)


def naive_surrogate(config, params, batch, task):
    keep = batch.valid[task]
    policy = naive_forward(params, batch.observation[task][keep], config.min_std)
    ratio = (policy.log_prob(batch.action[task][keep]) - batch.log_prob[task][keep]).exp()
    advantage = batch.advantage[task][keep]
    clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
    return torch.minimum(ratio * advantage, clipped * advantage).mean()


def naive_loss(agent, params, rounds):
    """The meta-objective, one task at a time, with torch.distributions."""
    config, losses = agent.config, []
    for task in range(len(rounds[0].valid)):
        own, penalty, between = dict(params), 0.0, []
        for k, support in enumerate(rounds[:-1]):
            keep = support.valid[task]
            policy = naive_forward(own, support.observation[task][keep], config.min_std)
            old = old_distribution(support, task, keep)
            penalty = penalty + torch.distributions.kl_divergence(old, policy).mean()
            if k > 0:
                between.append(naive_surrogate(config, own, support, task))
            ratio = (
                policy.log_prob(support.action[task][keep]) - support.log_prob[task][keep]
            ).exp()
            loss = -(ratio * support.advantage[task][keep]).mean()
            names = list(own)
            gradient = torch.autograd.grad(
                loss,
                [own[n] for n in names],
                create_graph=not config.first_order,
                retain_graph=True,
            )
            rate = config.inner_learning_rate[min(k, len(config.inner_learning_rate) - 1)]
            own = {n: own[n] - rate * g for n, g in zip(names, gradient, strict=True)}
        total = naive_surrogate(config, own, rounds[-1], task)
        if config.meta_loss == "every-step":
            total = (total + sum(between)) / (1 + len(between))
        losses.append(-total + config.kl_coefficient * penalty)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("chunk", [None, 1, 2])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize(
    ("steps", "averaged"), [(1, "last-step"), (2, "last-step"), (3, "every-step")]
)
@pytest.mark.parametrize("env", ["continuous", "discrete"])
def test_meta_gradient_equals_a_loop_over_tasks(env, steps, averaged, first_order, chunk):
    agent, tasks = make(
        env,
        num_adaptations=steps,
        meta_loss=averaged,
        first_order=first_order,
        tasks_per_chunk=chunk,
        inner_learning_rate=(0.5, 0.3),
        kl_coefficient=0.7,
        episodes_per_adaptation=8,  # fewer pulls may all pay the same
    )
    params, rounds = in_float64(agent, gather(agent, tasks))
    found = meta_gradient(agent, params, rounds)
    loss = naive_loss(agent, params, rounds)
    for name, expected in zip(
        params, torch.autograd.grad(loss, list(params.values())), strict=True
    ):
        assert expected.abs().max() > 1e-6
        torch.testing.assert_close(found[name], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("steps", [1, 2])
def test_meta_gradient_equals_central_finite_differences(steps):
    agent, tasks = make(num_adaptations=steps, inner_learning_rate=(0.5, 0.3), kl_coefficient=0.7)
    params, rounds = in_float64(agent, gather(agent, tasks))
    found = meta_gradient(agent, params, rounds)

    def loss():
        return loss_of(agent, params, rounds)[0].mean().item()

    h = 1e-6
    for name, x in params.items():
        flat, gradient = x.data.view(-1), found[name].view(-1)
        for i in range(0, len(flat), max(1, len(flat) // 5)):
            at = flat[i].item()
            flat[i] = at + h
            above = loss()
            flat[i] = at - h
            below = loss()
            flat[i] = at
            assert gradient[i].item() == pytest.approx(
                (above - below) / (2 * h), rel=1e-4, abs=1e-7
            )


def test_first_order_is_another_gradient():
    found = []
    for first_order in (False, True):
        agent, tasks = make(first_order=first_order, inner_learning_rate=(0.5,))
        found.append(meta_gradient(agent, *in_float64(agent, gather(agent, tasks))))
    exact, first = found
    difference = (exact["weight.0"] - first["weight.0"]).norm() / exact["weight.0"].norm()
    assert difference > 0.01


def test_without_inner_steps_taken_it_is_ppo_on_the_query_and_the_kl_term():
    agent, tasks = make(inner_learning_rate=(0.0,), kl_coefficient=0.7)
    params, rounds = in_float64(agent, gather(agent, tasks))
    found = meta_gradient(agent, params, rounds)
    support, query = rounds
    stacked = {name: x.expand(3, *x.shape) for name, x in params.items()}
    policy = agent.policy(stacked, query.observation)
    ratio = (distributions.log_prob(policy, query.action) - query.log_prob).exp()
    clipped = ratio.clamp(1 - agent.config.clip, 1 + agent.config.clip)
    surrogate = torch.minimum(ratio * query.advantage, clipped * query.advantage)
    penalty = distributions.kl(
        distributions.Gaussian(*support.old), agent.policy(stacked, support.observation)
    )
    per_task = [
        -surrogate[i][query.valid[i]].mean() + 0.7 * penalty[i][support.valid[i]].mean()
        for i in range(3)
    ]
    expected = torch.autograd.grad(torch.stack(per_task).mean(), list(params.values()))
    for name, gradient in zip(params, expected, strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-10)


def test_ratio_is_one_and_kl_zero_at_the_old_parameters():
    agent, tasks = make()
    _, metrics = loss_of(agent, agent.params, batches(agent, gather(agent, tasks)))
    assert metrics["kl"].abs().max() < 1e-5
    assert metrics["kl_before_adaptation"].abs().max() < 1e-6
    assert metrics["clip_fraction"].max() == 0
    # advantages are centred per task, so that the surrogate of ratio 1 is 0
    assert metrics["policy_loss"].abs().max() < 1e-5


def test_scaled_observations_are_acted_on_and_learned_from_alike():
    agent, tasks = make(normalize_observations=True, learning_rate=0.03)
    other, _ = make(normalize_observations=True, learning_rate=0.03)
    trial = gather(agent, tasks)
    agent.update(trial, torch_generator(0), 0.0)
    met = torch.cat([episodes.observation[episodes.valid] for episodes in trial.rounds])
    torch.testing.assert_close(agent.encoder.normalizer.mean.float(), met.mean(0))
    trial = gather(agent, tasks)
    rounds = batches(agent, trial)
    deviation = met.std(0, unbiased=False)
    expected = (trial.rounds[0].observation.flatten(1, 2) - met.mean(0)) / deviation
    torch.testing.assert_close(rounds[0].observation, expected.clamp(-10, 10), rtol=1e-3, atol=1e-3)
    _, metrics = loss_of(agent, agent.params, rounds)
    assert metrics["kl_before_adaptation"].abs().max() < 1e-6
    assert metrics["kl"].abs().max() < 1e-5
    other.load_state(*agent.state())
    learned = [one.update(trial, torch_generator(0), 0.0) for one in (other, agent)]
    assert learned[0] == learned[1]
    plain, _ = make()
    plain.update(gather(plain, tasks), torch_generator(0), 0.0)
    assert not plain.encoder.normalizer.count
    assert not any("normalizer" in name for name in plain.state()[0])


def test_task_order_does_not_matter():
    gradients = []
    for order in ([0, 1, 2], [2, 0, 1]):
        agent, tasks = make(inner_learning_rate=(0.5,))
        gradients.append(meta_gradient(agent, *in_float64(agent, gather(agent, tasks, order))))
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("env", ["continuous", "discrete"])
def test_adaptation_in_evaluation_equals_adaptation_in_training(env):
    agent, tasks = make(
        env, num_adaptations=2, inner_learning_rate=(0.5, 0.3), episodes_per_adaptation=8
    )
    trial = gather(agent, tasks)
    context = agent.begin(3)
    for episodes in trial.rounds[:-1]:
        context = agent.adapt(context, episodes, torch_generator(0))
    params = {name: x.expand(3, *x.shape) for name, x in agent.params.items()}
    for k, support in enumerate(batches(agent, trial)[:-1]):
        loss = partial(inner_loss, support=support, policy=agent.policy)
        steps = torch.full((3,), k)
        params, _ = inner_step(loss, params, agent.rule, steps, create_graph=True)
    for name, x in context.params.items():
        torch.testing.assert_close(x, params[name].detach(), rtol=1e-5, atol=1e-7)
        assert not torch.equal(x[0], agent.params[name])


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_each_baseline_is_fitted_once_in_an_iteration(monkeypatch, steps):
    agent, tasks = make(num_adaptations=steps)
    fitted, fit = [], returns.linear_baseline
    monkeypatch.setattr(
        returns, "linear_baseline", lambda *args: fitted.append(args[0]) or fit(*args)
    )
    trial = gather(agent, tasks)
    assert len(fitted) == steps
    agent.update(trial, torch_generator(0), 0.0)
    assert len(fitted) == steps + 1
    for seen, episodes in zip(fitted, trial.rounds, strict=True):
        assert seen.equal(episodes.observation)


def test_an_update_without_the_context_s_values_is_the_same():
    (agent, tasks), (other, _) = make(num_adaptations=2), make(num_adaptations=2)
    trial = gather(agent, tasks)
    metrics = agent.update(trial, torch_generator(0), 0.0)
    bare = trial._replace(context=other.begin(3))
    assert other.update(bare, torch_generator(0), 0.0) == metrics
    assert all(x.equal(other.params[name]) for name, x in agent.params.items())


def test_later_steps_take_the_smaller_rate():
    agent, tasks = make()
    trial = gather(agent, tasks, num_adaptations=2)
    first = agent.adapt(agent.begin(3), trial.rounds[0], torch_generator(0))
    assert first.num_steps.tolist() == [1, 1, 1]
    again = agent.begin(3)._replace(num_steps=torch.ones(3, dtype=torch.int64))
    later = agent.adapt(again, trial.rounds[0], torch_generator(0))
    for name, x in agent.params.items():
        torch.testing.assert_close(
            (later.params[name] - x) * 2, first.params[name] - x, rtol=1e-3, atol=1e-6
        )


def test_floored_log_std_is_what_samples_and_what_log_probs_are_of():
    agent, tasks = make(initial_std=1e-4, min_std=0.5)
    trial = gather(agent, tasks, num_adaptations=0)
    episodes = trial.rounds[0]
    deviation = (episodes.action - episodes.record["mean"])[episodes.valid].std()
    assert deviation.item() == pytest.approx(0.5, rel=0.35)  # 60 draws of two numbers
    normal = torch.distributions.Normal(episodes.record["mean"], 0.5)
    expected = normal.log_prob(episodes.action).sum(-1)
    batch, _ = agent.batch(episodes)
    torch.testing.assert_close(batch.log_prob[batch.valid], expected[episodes.valid])


def test_advantages_are_standardised_per_task():
    agent, tasks = make(episodes_per_adaptation=6)
    batch, _ = agent.batch(gather(agent, tasks, num_adaptations=0).rounds[0])
    for task in range(3):
        kept = batch.advantage[task][batch.valid[task]]
        assert kept.mean().item() == pytest.approx(0, abs=1e-5)
        assert kept.std(unbiased=False).item() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize(
    "env", ["navigation:horizon=7", "bandit/n4-k3", "half-cheetah/velocity:horizon=4"]
)
def test_it_keeps_the_contract_of_agents(env):
    tasks = metarl.make(env)
    config = MAMLPPOConfig(**{**TINY, "tasks_per_update": 4, "tasks_per_chunk": 3})
    metarl.check_agent(MAMLPPO(config, metarl.TaskSpec.of(tasks)), tasks)


def test_episodes_of_a_task_fill_the_lanes():
    agent, tasks = make(episodes_per_adaptation=4)
    seen = []
    act = agent.act
    agent.act = lambda context, timestep, *rest: (
        seen.append(timestep.active.shape) or act(context, timestep, *rest)
    )
    drawn = tasks.sample(np.random.default_rng(0), 3, "train")
    keys = TrialKeys(0, Phase.TRAIN, 0, 3).at(0)
    options = {"num_episodes": 4, "sequential": False, "keys": keys}
    rewards = []
    for slots in (12, 7, 3, 2):
        episodes, _, _ = collect(
            agent, tasks.make_vec(slots), drawn, agent.begin(3), None, **options
        )
        rewards.append(episodes.reward)
    assert set(seen) == {(3, 4), (3, 2), (3, 1), (2, 1), (1, 1)}
    for reward in rewards[1:]:
        torch.testing.assert_close(reward, rewards[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tasks_per_update", 0),
        ("episodes_per_adaptation", 0),
        ("num_epochs", 0),
        ("num_adaptations", -1),
        ("inner_learning_rate", (0.1, -0.1)),
        ("inner_learning_rate", ()),
        ("learning_rate", 0.0),
        ("clip", 0.0),
        ("discount", 1.1),
        ("min_std", 0.0),
        ("hidden_sizes", (10, 0)),
        ("tasks_per_chunk", 0),
    ],
)
def test_values_that_cannot_train_are_refused(name, value):
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')}: got"):
        dataclasses.replace(MAMLPPOConfig(), **{name: value})


def test_checkpoints_of_the_first_edition_load_by_the_names_they_had():
    (agent, tasks), (other, _) = (make(normalize_observations=True) for _ in range(2))
    agent.update(gather(agent, tasks), torch_generator(0), 0.0)
    tensors, extra = copy.deepcopy(agent.state())
    old = renamed(tensors, {"head.": "params.", "normalizer.": "scaler."})
    assert {name for name in old if not name.startswith("optimizer.")} == {
        *("params.weight.0", "params.bias.0", "params.weight.1", "params.bias.1"),
        *("params.log_std", "scaler.count", "scaler.mean", "scaler.square"),
    }
    other.load_state(renamed(old, PREFIXES["maml-ppo"]), extra)
    assert all(x.equal(other.state()[0][name]) for name, x in tensors.items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_an_update_on_cuda_equals_one_on_the_cpu():
    cpu, tasks = make()
    trial = gather(cpu, tasks)
    cuda = MAMLPPO(cpu.config, metarl.TaskSpec.of(tasks), seed=3, device="cuda")
    for agent in (cpu, cuda):
        agent.update(trial, torch_generator(0), 0.0)
    for name, x in cpu.params.items():
        torch.testing.assert_close(cuda.params[name].cpu(), x, rtol=1e-3, atol=1e-4)

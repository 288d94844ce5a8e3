"""PPO: is a step the gradient of the loss, and do epochs, schedules and KL stops work?"""

import copy

import pytest
import torch
from torch import nn

from metarl.errors import DivergenceError, UserError
from metarl.learning import distributions
from metarl.learning.distributions import Categorical
from metarl.learning.heads import HeadOutput
from metarl.learning.ppo import (
    Batch,
    PPOConfig,
    between,
    clip_gradient,
    descend,
    gradient_step,
    minibatches,
    optimize,
)

ROWS, TIME = 6, 5
CONFIG = {"num_epochs": 3, "num_minibatches": 2, "target_kl": None, "max_gradient_norm": 1e9}


class Policy(nn.Module):
    """Logits and a value, linear in the inputs."""

    def __init__(self, critic=True):
        super().__init__()
        torch.manual_seed(0)
        self.logits = nn.Linear(4, 3)
        self.value = nn.Linear(4, 1) if critic else None

    def forward(self, inputs):
        value = None if self.value is None else self.value(inputs).squeeze(-1)
        return HeadOutput(Categorical(self.logits(inputs).log_softmax(-1)), value)


def batch_of(policy, moved=0.0):
    """A batch of a policy that is a little away from the present one."""
    g = torch.Generator().manual_seed(1)
    inputs = torch.randn(ROWS, TIME, 4, generator=g)
    action = torch.randint(3, (ROWS, TIME), generator=g)
    log_prob = distributions.log_prob(policy(inputs).distribution, action).detach()
    return Batch(
        task=torch.arange(ROWS) // 2,
        inputs=inputs,
        action=action,
        log_prob=log_prob + moved * torch.randn(ROWS, TIME, generator=g),
        advantage=torch.randn(ROWS, TIME, generator=g),
        target=torch.randn(ROWS, TIME, generator=g),
        valid=torch.arange(TIME) < torch.randint(1, TIME + 1, (ROWS, 1), generator=g),
    )


def run(policy, batch, progress=0.0, seed=0, **config):
    config = PPOConfig(**{**CONFIG, **config})
    optimizer = torch.optim.SGD(policy.parameters(), 1.0)
    generator = torch.Generator().manual_seed(seed)
    tasks = ["first", "second", "third"]
    return optimize(policy, optimizer, batch, config, tasks, generator, progress), optimizer


def naive_loss(policy, batch, config, entropy_coefficient):
    """Every valid step by itself, with torch.distributions."""
    policies, values, entropies = [], [], []
    for row in range(len(batch.valid)):
        for t in range(TIME):
            if batch.valid[row, t]:
                x = batch.inputs[row, t]
                own = torch.distributions.Categorical(logits=policy.logits(x))
                ratio = (own.log_prob(batch.action[row, t]) - batch.log_prob[row, t]).exp()
                clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
                advantage = batch.advantage[row, t]
                policies.append(-torch.minimum(ratio * advantage, clipped * advantage))
                entropies.append(own.entropy())
                if policy.value is not None:
                    values.append(0.5 * (policy.value(x)[0] - batch.target[row, t]) ** 2)
    loss = torch.stack(policies).mean() - entropy_coefficient * torch.stack(entropies).mean()
    return loss + (config.value_coefficient * torch.stack(values).mean() if values else 0)


@pytest.mark.parametrize("critic", [True, False])
def test_a_step_follows_the_gradient_of_the_loss(critic):
    policy = Policy(critic)
    batch, config = batch_of(policy, 0.3), PPOConfig(max_gradient_norm=1e9, clip=0.1)
    expected = torch.autograd.grad(
        naive_loss(policy, batch, config, 0.05), list(policy.parameters())
    )
    before = copy.deepcopy(list(policy.parameters()))
    optimizer = torch.optim.SGD(policy.parameters(), 1.0)
    metrics = gradient_step(policy, optimizer, batch, config, 0.05, ["a", "b", "c"])
    for x, old, gradient in zip(policy.parameters(), before, expected, strict=True):
        torch.testing.assert_close(x, old - gradient)
    norm = torch.cat([x.flatten() for x in expected]).norm()
    torch.testing.assert_close(metrics["gradient_norm"], norm)
    assert ("value_loss" in metrics) == critic


def test_at_the_old_policy_ratio_is_one_and_kl_zero():
    policy = Policy()
    metrics, _ = run(policy, batch_of(policy), num_epochs=1, num_minibatches=1)
    assert metrics["kl"] == pytest.approx(0, abs=1e-7) and metrics["clip_fraction"] == 0


def test_minibatches_divide_the_rows_by_the_generator_alone():
    policy = Policy()
    batch = batch_of(policy)._replace(task=torch.arange(ROWS))
    for number, sizes in ((1, [6]), (4, [2, 2, 1, 1]), (50, [1] * 6)):
        g = torch.Generator().manual_seed(3)
        parts = list(minibatches(batch, number, g))
        assert [len(part.task) for part in parts] == sizes
        order = torch.cat([part.task for part in parts])
        assert order.equal(torch.randperm(ROWS, generator=torch.Generator().manual_seed(3)))
        for part in parts:
            for x, whole in zip(part, batch, strict=True):
                assert x.equal(whole[part.task])


def test_schedule_is_linear_and_stays_at_its_end():
    assert [between(4.0, 2.0, p) for p in (0.0, 0.25, 1.0, 1.5)] == [4.0, 3.5, 2.0, 2.0]
    options = {"learning_rate": 0.2, "final_learning_rate": 0.1}
    options |= {"entropy_coefficient": 0.4, "final_entropy_coefficient": 0.0}
    for progress, rate, bonus in ((0.0, 0.2, 0.4), (0.5, 0.15, 0.2), (2.0, 0.1, 0.0)):
        policy = Policy()
        metrics, optimizer = run(policy, batch_of(policy), progress, **options)
        assert metrics["learning_rate"] == pytest.approx(rate)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate)
        assert metrics["entropy_coefficient"] == pytest.approx(bonus)


@pytest.mark.parametrize(("target_kl", "epochs"), [(1e-9, 1), (None, 3), (1e9, 3)])
def test_kl_stops_the_epochs(target_kl, epochs):
    policy = Policy()
    metrics, _ = run(policy, batch_of(policy), target_kl=target_kl, learning_rate=0.5)
    assert metrics["num_epochs"] == epochs


def test_metrics_are_means_over_all_steps():
    policy, single = Policy(), Policy()
    batch = batch_of(policy, 0.2)
    metrics, _ = run(policy, batch, learning_rate=0.1, final_learning_rate=0.1)
    config = PPOConfig(**CONFIG)
    optimizer = torch.optim.SGD(single.parameters(), 0.1)
    g = torch.Generator().manual_seed(0)
    history = [
        gradient_step(single, optimizer, part, config, 0.02, [""] * 3)
        for _ in range(3)
        for part in minibatches(batch, 2, g)
    ]
    for name in ("policy_loss", "value_loss", "entropy", "kl", "clip_fraction", "gradient_norm"):
        expected = sum(float(m[name]) for m in history) / 6
        assert metrics[name] == pytest.approx(expected, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("log_prob", "the gradient"),
        ("inputs", "a log-probability in the update is not finite, of second"),
    ],
)
def test_numbers_that_are_not_finite_are_reported_with_their_task(field, message):
    policy = Policy(critic=False)
    batch = batch_of(policy)._replace(valid=torch.ones(ROWS, TIME, dtype=torch.bool))
    getattr(batch, field)[2, 1] = float("nan")
    with pytest.raises(DivergenceError, match=message):
        run(policy, batch)


def test_a_value_that_is_not_finite_is_reported():
    policy = Policy()
    with torch.no_grad():
        policy.value.bias.fill_(float("inf"))
    batch = batch_of(policy)
    with pytest.raises(
        DivergenceError, match=r"a value in the update is not finite, of (first|second|third)"
    ):
        run(policy, batch)


def test_clip_gradient_scales_to_the_norm_and_returns_the_one_before():
    x = torch.zeros(2, requires_grad=True)
    x.grad = torch.tensor([3.0, 4.0])
    optimizer = torch.optim.SGD([x], 1.0)
    assert float(clip_gradient(optimizer, 1.0)) == 5
    torch.testing.assert_close(x.grad, torch.tensor([0.6, 0.8]))
    assert float(clip_gradient(optimizer, 10.0)) == pytest.approx(1)


def test_descend_takes_as_many_steps_and_returns_means():
    x = torch.tensor(8.0, requires_grad=True)

    def accumulate():
        (x**2 / 2).backward()
        return {"x": x.item()}

    metrics = descend(accumulate, torch.optim.SGD([x], 0.5), 3, 1e9)
    assert x.item() == 1.0
    assert metrics == {"x": (8 + 4 + 2) / 3, "gradient_norm": pytest.approx((8 + 4 + 2) / 3)}
    x.data.fill_(float("nan"))
    with pytest.raises(DivergenceError, match="the meta-gradient"):
        descend(accumulate, torch.optim.SGD([x], 0.5), 3, 1e9)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", -1e-3),
        ("learning_rate", float("inf")),
        ("final_learning_rate", -1e-9),
        ("num_epochs", 0),
        ("num_minibatches", 0),
        ("clip", 0.0),
        ("entropy_coefficient", -0.1),
        ("final_entropy_coefficient", -0.1),
        ("value_coefficient", -0.5),
        ("max_gradient_norm", 0.0),
        ("target_kl", 0.0),
    ],
)
def test_config_refuses_what_cannot_train(name, value):
    with pytest.raises(UserError, match=f"^--{name.replace('_', '-')}: got .*; accepted: "):
        PPOConfig(**{name: value})

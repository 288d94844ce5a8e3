import math

import pytest
import torch

from metarl.errors import DivergenceError
from metarl.learning import distributions, losses
from metarl.learning.distributions import Categorical, Gaussian
from metarl.learning.losses import (
    PolicyBatch,
    accumulate_gradient,
    approximate_kl,
    clip_fraction,
    clipped_surrogate,
    require_finite,
    task_diagnostics,
    task_kl,
    task_surrogate,
    value_loss,
)

YES = torch.ones(3, dtype=torch.bool)
PART = torch.tensor([True, True, False])


def logs(*ratios):
    return torch.tensor(ratios).log()


def test_surrogate_at_ratio_one_is_minus_the_mean_advantage():
    log_prob, advantage = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([3.0, -1.0, 1.0])
    assert float(clipped_surrogate(log_prob, log_prob, advantage, YES, 0.2)) == -1.0


def test_surrogate_gradient_at_ratio_one_is_that_of_the_policy_gradient():
    log_prob = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    advantage = torch.tensor([3.0, -1.0, 1.0])
    clipped_surrogate(log_prob, log_prob.detach(), advantage, YES, 0.2).backward()
    assert torch.allclose(log_prob.grad, -advantage / 3)


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "slope"),
    [
        (1.5, 2.0, 2.4, 0.0),  # a gain is clipped at 1 + clip
        (1.1, 2.0, 2.2, 2.2),
        (0.5, 2.0, 1.0, 1.0),  # a loss is not
        (0.5, -2.0, -1.6, 0.0),  # a gain is clipped at 1 - clip
        (0.9, -2.0, -1.8, -1.8),
        (1.5, -2.0, -3.0, -3.0),  # a loss is not
    ],
)
def test_surrogate_clips_gains_only(ratio, advantage, objective, slope):
    log_prob = logs(ratio).requires_grad_()
    one = torch.ones(1, dtype=torch.bool)
    loss = clipped_surrogate(log_prob, logs(1.0), torch.tensor([advantage]), one, 0.2)
    loss.backward()
    assert loss.item() == pytest.approx(-objective, rel=1e-5)
    assert float(log_prob.grad) == pytest.approx(-slope, rel=1e-5)


def test_masked_entries_have_no_influence_and_no_gradient():
    old, advantage = logs(0.5, 0.4, 0.3), torch.tensor([1.0, -2.0, 3.0])

    def losses(x):
        return [
            clipped_surrogate(x, old, advantage, PART, 0.2),
            value_loss(x, advantage, PART),
            approximate_kl(x, old, PART),
            clip_fraction(x.detach(), old, PART, 0.2),
        ]

    a = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    b = torch.tensor([-1.0, -2.0, 5.0], requires_grad=True)
    for x, y in zip(losses(a), losses(b), strict=True):
        assert x.item() == y.item()
    for loss in losses(a)[:3]:
        (gradient,) = torch.autograd.grad(loss, a)
        assert float(gradient[2]) == 0 and float(gradient[:2].abs().sum()) > 0


def test_losses_padding_changes_nothing():
    x, y, z = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    yes = torch.ones(4, 6, dtype=torch.bool)

    def wide(t):
        return torch.cat([t, t.new_full((4, 2), 3)], 1)

    padded = torch.cat([yes, ~yes[:, :2]], 1)
    assert torch.allclose(
        clipped_surrogate(x, y, z, yes, 0.2),
        clipped_surrogate(wide(x), wide(y), wide(z), padded, 0.2),
    )
    assert torch.allclose(value_loss(x, y, yes), value_loss(wide(x), wide(y), padded))
    assert torch.allclose(approximate_kl(x, y, yes), approximate_kl(wide(x), wide(y), padded))


def test_value_loss_is_half_the_mean_square():
    value, target = torch.tensor([1.0, 2.0, 9.0]), torch.tensor([0.0, 4.0, 0.0])
    assert float(value_loss(value, target, PART)) == 1.25


def test_approximate_kl_is_zero_for_equal_policies():
    log_prob = torch.tensor([-1.0, -2.0, -3.0])
    assert float(approximate_kl(log_prob, log_prob, YES)) == 0


def test_approximate_kl_is_never_negative():
    x, y = 2 * torch.randn(2, 1000, 1, generator=torch.Generator().manual_seed(0))
    one = torch.ones(1, dtype=torch.bool)
    values = [float(approximate_kl(a, b, one)) for a, b in zip(x, y, strict=True)]
    assert min(values) >= 0 and max(values) > 1


def test_approximate_kl_estimates_the_kl_of_the_old_policy_from_the_new():
    old, new = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.25, 0.5])
    drawn = torch.tensor([0, 0, 1, 2])  # as often as the old policy would
    yes = torch.ones(4, dtype=torch.bool)
    exact = 0.5 * math.log(2) - 0.25 * math.log(2)
    estimate = approximate_kl(new.log()[drawn], old.log()[drawn], yes)
    assert float(estimate) == pytest.approx(exact, rel=1e-5)


def test_clip_fraction_counts_ratios_outside():
    valid = torch.tensor([True, True, True, True, False])
    ratios = logs(1.0, 1.19, 1.21, 0.79, 3.0)
    assert float(clip_fraction(ratios, torch.zeros(5), valid, 0.2)) == 0.5


# losses of each task


def experience(discrete, seed=0):
    """A round of 3 tasks with 2 episodes of up to 4 steps, and a policy a little beside it."""
    g = torch.Generator().manual_seed(seed)
    shape = (3, 2, 4)
    valid = torch.arange(4) < torch.randint(1, 5, (3, 2, 1), generator=g)
    if discrete:
        old, new = (
            Categorical(torch.randn(*shape, 3, generator=g).log_softmax(-1)) for _ in range(2)
        )
        action = torch.randint(3, shape, generator=g)
    else:
        old, new = (
            Gaussian(*torch.randn(2, *shape, 2, generator=g).mul(0.3).unbind()) for _ in range(2)
        )
        action = torch.randn(*shape, 2, generator=g)
    observation, advantage = torch.randn(*shape, 5, generator=g), torch.randn(shape, generator=g)
    batch = PolicyBatch.of(observation, action, old._asdict(), advantage, valid)
    return batch, type(new)(*(x.flatten(1, 2) for x in new)), (observation, advantage, valid)


def reference(distribution, task, keep):
    parts = [x[task][keep] for x in distribution]
    if len(parts) == 1:
        return torch.distributions.Categorical(logits=parts[0])
    normal = torch.distributions.Normal(parts[0], parts[1].exp())
    return torch.distributions.Independent(normal, 1)


@pytest.mark.parametrize("discrete", [True, False])
def test_task_losses_equal_a_loop_over_tasks_with_torch_distributions(discrete):
    batch, new, _ = experience(discrete)
    surrogate, kl = task_surrogate(new, batch, 0.1), task_kl(new, batch)
    logged = task_diagnostics(new, batch, 0.1)
    for task in range(3):
        keep = batch.valid[task]
        before, after = (reference(d, task, keep) for d in (type(new)(*batch.old), new))
        action, advantage = batch.action[task][keep], batch.advantage[task][keep]
        ratio = (after.log_prob(action) - before.log_prob(action)).exp()
        expected = -torch.minimum(ratio * advantage, ratio.clamp(0.9, 1.1) * advantage).mean()
        torch.testing.assert_close(surrogate[task], expected)
        divergence = torch.distributions.kl_divergence(before, after).mean()
        torch.testing.assert_close(kl[task], divergence)
        torch.testing.assert_close(logged["kl"][task], divergence)
        torch.testing.assert_close(logged["entropy"][task], after.entropy().mean())
        outside = ((ratio - 1).abs() > 0.1).float().mean()
        torch.testing.assert_close(logged["clip_fraction"][task], outside)


def test_a_policy_batch_joins_episodes_and_normalises_advantages_of_each_task():
    batch, _, (observation, advantage, valid) = experience(False)
    assert batch.observation.equal(observation.reshape(3, 8, 5))
    assert batch.valid.equal(valid.reshape(3, 8))
    old = distributions.log_prob(Gaussian(*batch.old), batch.action)
    assert batch.log_prob.equal(old)
    for task in range(3):
        kept = advantage[task][valid[task]]
        expected = (kept - kept.mean()) / kept.std(unbiased=False)
        torch.testing.assert_close(batch.advantage[task][batch.valid[task]], expected)


@pytest.mark.parametrize("chunk", [None, 1, 2, 5])
def test_gradient_in_chunks_is_that_of_the_mean_over_all_tasks(chunk):
    weight = torch.ones(2, requires_grad=True)
    x = torch.arange(6.0).reshape(3, 1, 2)

    def loss(part):
        own = (part["x"][:, 0] * weight).square().sum(1)
        return own, {"loss": own.detach(), "one": torch.ones(len(own))}

    logged = accumulate_gradient(loss, {"x": x}, "abc", chunk)
    (expected,) = torch.autograd.grad(loss({"x": x})[0].mean(), weight)
    torch.testing.assert_close(weight.grad, expected)
    assert logged == pytest.approx({"loss": (1 + 13 + 41) / 3, "one": 1.0})


def test_a_cpu_computes_as_many_tasks_at_once_as_fit_its_caches(monkeypatch):
    monkeypatch.setattr(losses, "STEPS_PER_CHUNK", 10)
    weight, sizes = torch.ones((), requires_grad=True), []

    def loss(part):
        sizes.append(len(part))
        return part.mean(1) * weight, {}

    accumulate_gradient(loss, torch.ones(7, 3), range(7), None)
    assert sizes == [3, 3, 1]


def test_require_finite_names_the_first_task_that_is_not():
    require_finite("x", torch.ones(3, 2), ["a", "b", "c"])
    require_finite("x", torch.ones(3, dtype=torch.int64), ["a", "b", "c"])
    values = torch.tensor([[1.0, 1.0], [1.0, math.nan], [math.inf, 1.0]])
    with pytest.raises(DivergenceError, match="x is not finite, of b"):
        require_finite("x", values, ["a", "b", "c"])

"""Update rules: is one batched step what each task would take alone, and differentiable?"""

import pytest
import torch

from metarl.learning.update_rules import SGD, UPDATE_RULES, UpdateRule, inner_step


def params_of(tasks, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(tasks, *shape, generator=g, dtype=torch.float64).requires_grad_()
        for name, shape in (("weight", (3, 2)), ("bias", (2,)))
    }


def loss_of(params):
    """A loss that is not quadratic, so that a step has a derivative."""
    hidden = params["weight"].sum(1) + params["bias"]
    return hidden.tanh().square().sum(1), hidden


def test_sgd_by_hand_and_its_last_rate_holds():
    params = {"x": torch.tensor([[1.0], [1.0], [1.0]])}
    gradients = [torch.tensor([[2.0], [2.0], [4.0]])]
    rule = SGD((0.5, 0.25))
    stepped = rule(params, gradients, torch.tensor([0, 1, 7]))
    assert stepped["x"].tolist() == [[0.0], [0.5], [0.0]]
    assert list(rule.parameters()) == []


@pytest.mark.parametrize("rule", UPDATE_RULES.values())
def test_every_rule_keeps_the_protocol(rule):
    assert isinstance(rule((0.1,)), UpdateRule)


def test_a_step_of_all_tasks_equals_one_of_each():
    params, steps = params_of(3), torch.tensor([0, 1, 2])
    rule = SGD((0.3, 0.2, 0.1))
    stepped, hidden = inner_step(loss_of, params, rule, steps)
    assert hidden.equal(loss_of(params)[1])
    for task, rate in enumerate((0.3, 0.2, 0.1)):
        own = {name: x[task : task + 1].detach().requires_grad_() for name, x in params.items()}
        loss = loss_of(own)[0].sum()
        for name, gradient in zip(own, torch.autograd.grad(loss, list(own.values())), strict=True):
            torch.testing.assert_close(stepped[name][task], (own[name] - rate * gradient)[0])


def test_a_gradient_through_two_steps_equals_finite_differences():
    rule, h = SGD((0.3,)), 1e-6

    def after(params, create_graph):
        for k in range(2):
            steps = torch.full((2,), k)
            params, _ = inner_step(loss_of, params, rule, steps, create_graph=create_graph)
        return loss_of(params)[0].sum()

    params = params_of(2)
    exact = torch.autograd.grad(after(params, True), params["bias"])[0]
    first = torch.autograd.grad(after(params, False), params["bias"])[0]
    assert not torch.allclose(exact, first, rtol=1e-3)
    flat = params["bias"].data.view(-1)
    for i, expected in enumerate(exact.view(-1).tolist()):
        at = flat[i].item()
        flat[i] = at + h
        above = after(params, False).item()
        flat[i] = at - h
        below = after(params, False).item()
        flat[i] = at
        assert (above - below) / (2 * h) == pytest.approx(expected, rel=1e-5)

"""Returns and advantages over sequences padded on the right."""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def discounted_returns(
    reward: Float[Tensor, "*batch time"],
    valid: Bool[Tensor, "*batch time"],
    discount: float,
    boundary: Bool[Tensor, "*batch time"] | None = None,
) -> Float[Tensor, "*batch time"]:
    """Return sum_k discount^k · reward[t + k], zero where not valid.

    A step marked by ``boundary`` starts afresh: rewards from there on do not count for the steps
    before it.
    """
    weight = torch.where(valid, discount, reward.new_zeros(()))
    if boundary is not None:
        weight[..., :-1].masked_fill_(boundary[..., 1:], 0.0)
    return _sums_of_what_follows(torch.where(valid, reward, 0.0), weight)


def gae(
    reward: Float[Tensor, "*batch time"],
    value: Float[Tensor, "*batch time"],
    next_value: Float[Tensor, "*batch time"],
    valid: Bool[Tensor, "*batch time"],
    last: Bool[Tensor, "*batch time"],
    *,
    discount: float,
    gae_lambda: float,
) -> Float[Tensor, "*batch time"]:
    """Generalised advantage estimation (Schulman et al., 2016, arXiv 1506.02438, eq. 16).

    Args:
        reward: r_t.
        value: V(s_t).
        next_value: V(s_{t+1}), zero where nothing follows; truncation bootstraps from it.
        valid: steps that happened; they come first in a sequence.
        last: steps after which the sum of TD errors stops: ends of an episode, or of a trial
            for agents that learn across episodes. The last valid step always is one.
        discount: gamma.
        gae_lambda: lambda.

    Returns:
        A_t, zero where not valid.
    """
    delta = reward + discount * next_value - value
    weight = torch.where(valid & ~last, discount * gae_lambda, reward.new_zeros(()))
    return _sums_of_what_follows(torch.where(valid, delta, 0.0), weight)


def advantages(
    reward: Float[Tensor, "*batch time"],
    value: Float[Tensor, "*batch time"],
    valid: Bool[Tensor, "*batch time"],
    discount: float,
    gae_lambda: float,
) -> Float[Tensor, "*batch time"]:
    """Return :func:`gae` of sequences after whose last valid step nothing follows.

    That holds for whole trials, and for values that are a function of the time left, so that the
    value at the horizon is known to be 0.
    """
    following = torch.cat([value[..., 1:] * valid[..., 1:], torch.zeros_like(value[..., :1])], -1)
    nowhere = torch.zeros_like(valid)
    return gae(reward, value, following, valid, nowhere, discount=discount, gae_lambda=gae_lambda)


def _sums_of_what_follows(
    x: Float[Tensor, "*batch time"], weight: Float[Tensor, "*batch time"]
) -> Float[Tensor, "*batch time"]:
    """Return y with y_t = x_t + weight_t · y_{t+1}."""
    sums, following = [], torch.zeros_like(x[..., 0])
    for now, share in zip(reversed(x.unbind(-1)), reversed(weight.unbind(-1)), strict=True):
        following = now + share * following
        sums.append(following)
    return torch.stack(sums[::-1], -1)


def normalize(
    x: Float[Tensor, "*batch"],
    valid: Bool[Tensor, "*batch"],
    dim: int | None = None,
    epsilon: float = 1e-8,
) -> Float[Tensor, "*batch"]:
    """Return ``x`` with mean 0 and standard deviation 1 over ``valid``, zero elsewhere.

    The moments are those of all numbers, or of each row along ``dim``.
    """
    mean = masked_mean(x, valid, dim, keepdim=True)
    centred = torch.where(valid, x - mean, 0.0)
    deviation = masked_mean(centred.square(), valid, dim, keepdim=True).sqrt()
    return centred / (deviation + epsilon)


def masked_mean(
    x: Float[Tensor, "*batch"],
    valid: Bool[Tensor, "*batch"],
    dim: int | None = None,
    *,
    keepdim: bool = False,
) -> Float[Tensor, "*rest"]:
    """Return the mean of ``x`` over ``valid``, of all axes or of ``dim``; 0 if nothing is valid."""
    total = torch.where(valid, x, 0.0).sum(dim, keepdim=keepdim)
    return total / valid.sum(dim, keepdim=keepdim).clamp(min=1)


def explained_variance(
    value: Float[Tensor, "*batch"],
    target: Float[Tensor, "*batch"],
    valid: Bool[Tensor, "*batch"],
) -> Float[Tensor, ""]:
    """Return 1 - Var[target - value] / Var[target] over ``valid`` (0 for constant targets)."""
    y, error = target[valid], (target - value)[valid]
    if y.numel() < 2 or float(y.var()) < 1e-12:
        return y.new_zeros(())
    return 1 - error.var() / y.var()


def linear_values(
    observation: Float[Tensor, "task *episode time observation"],
    reward: Float[Tensor, "task *episode time"],
    valid: Bool[Tensor, "task *episode time"],
    discount: float,
) -> Float[Tensor, "task *episode time"]:
    """Return the values of a :func:`linear_baseline` fitted to each task's discounted returns.

    Without an episode axis, what is given is one long episode.
    """
    target = discounted_returns(reward, valid, discount)
    if reward.ndim == 3:
        return linear_baseline(observation, target, valid)
    observation, target, valid = (x.unsqueeze(1) for x in (observation, target, valid))
    return linear_baseline(observation, target, valid).squeeze(1)


KERNEL_NUMBERS = 2**21
"""The largest number of float64 values that :func:`linear_baseline` lays out in one block."""


def linear_baseline(
    observation: Float[Tensor, "task episode time observation"],
    target: Float[Tensor, "task episode time"],
    valid: Bool[Tensor, "task episode time"],
    ridge: float = 1e-5,
) -> Float[Tensor, "task episode time"]:
    """Fit a linear value function per task, and return its values where it was fitted.

    Features are the observation clipped to ±10, its square, time, time², time³ and 1 (Duan et
    al., 2016, arXiv 1604.06778, section 5); time runs from 0 to 1 over the longest episode. All
    tasks are solved at once, in float64. If a task's equations are singular, its ridge grows
    tenfold until they are not.

    If there are more features than steps, the same values come from one equation per step
    (kernel ridge regression), without ever laying out all features: computing time grows with
    the observation's size, memory hardly does. Such a fit passes through almost every return,
    which leaves little to learn from, so a warning asks for more steps.
    """
    tasks, episodes, length = valid.shape
    time = torch.arange(length, dtype=torch.float64, device=valid.device) / max(length - 1, 1)
    powers = torch.stack([time, time**2, time**3, torch.ones_like(time)], -1)
    powers = powers.expand(tasks, episodes, length, 4)
    wanted = (target.double() * valid).flatten(1, 2).unsqueeze(-1)
    steps = episodes * length
    if 2 * observation.shape[-1] + 4 > steps:
        warnings.warn(
            f"the linear baseline has {2 * observation.shape[-1] + 4} features for {steps} steps a "
            "task: it fits almost every return, so that little is left to learn from; gather more "
            "episodes, or make observations smaller",
            stacklevel=2,
        )
        rows = [x.flatten(1, 2) for x in (observation, powers, valid.unsqueeze(-1))]
        tasks_at_once = max(1, KERNEL_NUMBERS // steps**2)
        parts = zip(*(torch.split(x, tasks_at_once) for x in (*rows, wanted)), strict=True)
        value = torch.cat([_kernel_fit(o, p, v, w, ridge) for o, p, v, w in parts])
    else:
        clipped = observation.double().clamp(-10, 10)
        features = torch.cat([clipped, clipped.square(), powers], -1).flatten(1, 2)
        features = features * valid.flatten(1, 2).unsqueeze(-1)
        strength = torch.full((tasks, 1, 1), ridge, dtype=time.dtype, device=time.device)
        gram, moment = features.mT @ features, features.mT @ wanted
        value = features @ _solve_with_ridge(gram, moment, strength)[0]
    return value.reshape(tasks, episodes, length).to(target.dtype)


def _kernel_fit(
    observation: Float[Tensor, "task step observation"],
    powers: Float[Tensor, "task step 4"],
    valid: Bool[Tensor, "task step 1"],
    wanted: Float[Tensor, "task step 1"],
    ridge: float,
) -> Float[Tensor, "task step 1"]:
    """Return Φ (ΦᵀΦ + λI)⁻¹ Φᵀ y = K (K + λI)⁻¹ y = y - λ (K + λI)⁻¹ y, with K = ΦΦᵀ.

    K is summed up over blocks of the observation's numbers.
    """
    powers = powers * valid
    kernel = powers @ powers.mT
    for block in torch.split(observation, max(1, KERNEL_NUMBERS // valid.numel()), -1):
        features = block.double().clamp(-10, 10).mul_(valid)
        kernel.baddbmm_(features, features.mT)
        features = features.square()
        kernel.baddbmm_(features, features.mT)
    # Steps with equal features make K singular up to rounding errors, which the ridge must exceed.
    trace = kernel.diagonal(dim1=1, dim2=2).sum(1).reshape(-1, 1, 1)
    strength = (torch.finfo(kernel.dtype).eps * trace).clamp(min=ridge)
    weights, strength = _solve_with_ridge(kernel, wanted, strength)
    return wanted - strength * weights


def _solve_with_ridge(
    matrix: Float[Tensor, "task row row"],
    right: Float[Tensor, "task row 1"],
    strength: Float[Tensor, "task 1 1"],
) -> tuple[Float[Tensor, "task row 1"], Float[Tensor, "task 1 1"]]:
    """Return (matrix + λI)⁻¹ right and each task's λ: ``strength``, or more if it is singular."""
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    for _ in range(12):
        factor, failed = torch.linalg.cholesky_ex(matrix + strength * identity)
        if not bool(failed.any()):
            break
        strength = torch.where(failed.reshape(-1, 1, 1) > 0, strength * 10, strength)
    return torch.cholesky_solve(right, factor), strength

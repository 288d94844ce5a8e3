"""The conformance test for people who write agents.

It raises an ``AssertionError`` that says what to mend, or returns nothing.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl import seeding
from metarl.experience.agent import Agent, require_spaces, trial_rounds
from metarl.experience.data import Timestep
from metarl.experience.rollout import Keys, collect, run_trial, torch_generator
from metarl.seeding import LaneGenerator, Phase
from metarl.stepping.spaces import ActionCodec, observation_size
from metarl.tasks.distribution import TaskDistribution


def check_agent(agent: object, tasks: TaskDistribution, *, learns: bool = True) -> None:
    """Check that ``agent`` keeps the contract of :class:`metarl.Agent`, acting in ``tasks``.

    Actions of the right shape; rows of inactive lanes left alone, contexts never written
    into, and left as they are by agents that are not sequential; greedy actions that do not
    depend on the generator; the same answers for tasks in another order; acting and adapting
    that change nothing of the agent; ``state`` that brings back the same agent, after an
    update too; copies by ``copy.deepcopy`` and ``pickle`` that act, learn and load by
    themselves.

    Args:
        agent: made for the spaces of ``tasks``; left as it was.
        tasks: which it acts in.
        learns: False for a fixed baseline, whose ``update`` need not change anything.
    """
    assert isinstance(agent, Agent), "the agent lacks a method or attribute of metarl.Agent"
    require_spaces(agent, tasks.observation_space, tasks.action_space, tasks.name)
    adaptations, per_round = trial_rounds(agent, tasks.episodes_per_trial or 2)
    n = 4
    batch = tasks.sample(np.random.default_rng(0), n, "train")
    lanes = 1 if agent.sequential else 2
    envs = tasks.make_vec(n * lanes, num_workers=0)
    before = _copy_state(agent)

    # one step, by hand
    context = agent.begin(n)
    saved = copy.deepcopy(context)
    now = _first_step(tasks, n, lanes)
    idle = now._replace(active=now.active.clone())
    idle.active[1] = False
    generator = LaneGenerator(seeding.fold(np.uint64(3), np.arange(n * lanes)).reshape(n, lanes))
    action, record, after = agent.act(context, now, generator)
    assert action.shape[:2] == (n, lanes), f"act returned actions {tuple(action.shape)}"
    for name, value in record.items():
        assert value.shape[:2] == (n, lanes), f"record {name!r} has shape {tuple(value.shape)}"
    assert _tree_equal(context, saved), "act wrote into the context it was given"
    if not agent.sequential:
        assert _tree_equal(after, context), "the agent is not sequential, yet act changed context"
    _, _, after_idle = agent.act(context, idle, generator)
    assert _tree_equal(_row(after_idle, 1), _row(context, 1)), (
        "act changed the context of a task whose lanes are not active"
    )
    greedy = agent.act(context, now, generator, greedy=True)[0]
    other = LaneGenerator(seeding.fold(np.uint64(4), np.arange(n * lanes)).reshape(n, lanes))
    assert torch.equal(greedy, agent.act(context, now, other, greedy=True)[0]), (
        "a greedy action depends on the generator"
    )

    # a trial, and the same with the tasks in another order
    keys = Keys.of(0, Phase.USE, 0, np.arange(n))
    kwargs: dict[str, Any] = {"num_adaptations": adaptations, "episodes_per_round": per_round}
    trial = run_trial(agent, envs, batch, keys=keys, **kwargs)
    order = [2, 0, 3, 1]
    shuffled = Keys.of(0, Phase.USE, 0, np.array(order))
    reordered = run_trial(agent, envs, [batch[i] for i in order], keys=shuffled, **kwargs)
    # the first steps only: a simulator may turn a rounding error into another episode
    for name in ("taken", "reward"):
        first, mixed = (getattr(t.rounds[0], name)[:, 0, :5] for t in (trial, reordered))
        assert torch.allclose(first[order].double(), mixed.double(), rtol=1e-3, atol=1e-3), (
            "the experience with a task depends on the place of the task in the batch"
        )
    single = agent.begin(n)
    episodes, _, single = collect(
        agent, envs, batch, single, None, num_episodes=per_round, keys=keys(0)
    )
    kept = copy.deepcopy(single)
    adapted = agent.adapt(single, episodes, torch_generator(0))
    assert _tree_equal(single, kept), "adapt wrote into the context it was given"
    turned = agent.adapt(_row(single, order), _row(episodes, order), torch_generator(0))
    assert _tree_equal(_row(adapted, order), turned, exact=False), (
        "what adapt makes of a task depends on the place of the task in the batch"
    )
    assert _states_equal(before, agent.state()), "acting or adapting changed the agent"

    # the meta-update, and the way back
    metrics = agent.update(trial, torch_generator(1))
    assert all(np.isfinite(value) for value in metrics.values()), f"update returned {metrics}"
    assert not (learns and _states_equal(before, agent.state())), (
        "update changed nothing (a fixed baseline is checked with learns=False)"
    )
    updated = _copy_state(agent)
    agent.load_state(*copy.deepcopy(before))
    assert _states_equal(before, agent.state()), "load_state does not bring back state()"
    agent.update(trial, torch_generator(1))
    assert _states_equal(updated, agent.state(), exact=False), (
        "after load_state, the same update leads elsewhere: state() leaves something out"
    )
    agent.load_state(*copy.deepcopy(before))

    # copies, as joblib, Ray and multiprocessing make them
    for way, copy_of in (("copy.deepcopy", _deep_copy), ("pickle", _pickled)):
        twin = copy_of(agent)

        def same(twin: Agent = twin) -> bool:
            a, b = (one.act(context, now, generator)[:2] for one in (agent, twin))
            return _tree_equal(a, b)

        assert same(), f"a copy by {way} acts otherwise"
        twin.update(trial, torch_generator(1))
        assert _states_equal(before, agent.state()), f"updating a copy by {way} changed the agent"
        assert _states_equal(updated, twin.state(), exact=False), (
            f"the same update leads a copy by {way} elsewhere"
        )
        for one in (twin, agent):
            one.load_state(*copy.deepcopy(updated))
        assert same(), f"a copy by {way} acts otherwise after load_state"
        agent.load_state(*copy.deepcopy(before))
    envs.close()


def _deep_copy(agent: Agent) -> Agent:
    try:
        return copy.deepcopy(agent)
    except Exception as error:
        raise AssertionError(
            f"copy.deepcopy(agent) raised {error!r}: keep no tensor that has a history (detach "
            "it), no generator and no open file in the agent"
        ) from error


def _pickled(agent: Agent) -> Agent:
    try:
        return cast("Agent", pickle.loads(pickle.dumps(agent)))
    except Exception as error:
        raise AssertionError(
            f"pickle raised {error!r}: keep no lambda and no local function in the agent, and "
            "define its class at the top of a module"
        ) from error


def _first_step(tasks: TaskDistribution, n: int, lanes: int) -> Timestep:

    codec = ActionCodec(tasks.action_space)
    shape = () if codec.discrete else (codec.size,)
    observation = torch.linspace(0, 1, n * lanes * observation_size(tasks.observation_space))
    yes = torch.ones(n, lanes, dtype=torch.bool)
    return Timestep(
        observation=observation.reshape(n, lanes, -1),
        previous_action=torch.from_numpy(np.zeros((n, lanes, *shape), codec.dtype)),
        previous_reward=torch.zeros(n, lanes),
        boundary=yes,
        trial_start=yes,
        active=yes,
    )


def _row(tree: Any, index: int | list[int]) -> Any:
    return pytree.tree_map(lambda x: x[index], tree)


def _tree_equal(a: Any, b: Any, exact: bool = True) -> bool:
    def same(p: Tensor, q: Tensor) -> bool:
        return torch.equal(p, q) if exact else torch.allclose(p, q, rtol=1e-3, atol=1e-5)

    x, y = pytree.tree_leaves(a), pytree.tree_leaves(b)
    return len(x) == len(y) and all(same(p, q) for p, q in zip(x, y, strict=True))


def _copy_state(agent: Agent) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, extra = agent.state()
    return {name: x.detach().clone() for name, x in tensors.items()}, copy.deepcopy(extra)


def _states_equal(
    a: tuple[dict[str, torch.Tensor], dict[str, Any]],
    b: tuple[dict[str, torch.Tensor], dict[str, Any]],
    exact: bool = True,
) -> bool:
    if a[1] != b[1] or a[0].keys() != b[0].keys():
        return False
    if exact:
        return all(a[0][name].equal(b[0][name]) for name in a[0])
    return all(a[0][name].allclose(b[0][name], rtol=1e-4, atol=1e-5) for name in a[0])

"""Conformance tests for authors of agents.

They raise an ``AssertionError`` that says what to correct, or return nothing.
"""

from __future__ import annotations

import contextlib
import copy
import math
import pickle
from collections.abc import Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl import seeding
from metarl.errors import UserError
from metarl.experience.agent import (
    Adapter,
    Agent,
    Insightful,
    RememberingAgent,
    TrialShape,
    remembered_steps,
    require_spaces,
    tell_tasks,
)
from metarl.experience.data import Context, Timestep, Trial, newest_trials
from metarl.experience.lanes import Lanes, TrialKeys
from metarl.experience.rollout import collect, run_trial, torch_generator
from metarl.seeding import LaneGenerator, Phase
from metarl.stepping.actions import ActionCodec
from metarl.stepping.spaces import has_bytes, observation_size, reported_space
from metarl.stepping.vector import SlotVectorEnv
from metarl.task import Task
from metarl.tasks.distribution import TaskDistribution

State: TypeAlias = tuple[dict[str, Tensor], dict[str, Any]]
"""The result of ``Agent.state``."""

NUM_TASKS = 4
MOST_TRIALS = 6
"""Largest number of trials that are collected to test what an agent remembers."""

ORDER = [2, 0, 3, 1]
"""Another order of the tasks, which must not change the results of any task."""


def check_adapter(adapter: object, tasks: TaskDistribution) -> None:
    """Check that ``adapter`` keeps the contract of :class:`metarl.Adapter`, acting in ``tasks``.

    The check covers: actions have the right shape and type; rows of inactive lanes do not change;
    contexts are never modified in place, and ``act`` changes none unless the adapter is sequential;
    greedy actions do not depend on the generator; tasks in another order give the same results;
    ``insight``, if it is defined, has a row for every task.

    Args:
        adapter: an adapter made for the spaces of ``tasks``; it is not changed.
        tasks: the tasks it acts in.

    Raises:
        AssertionError: if the contract is broken; the message says what to correct.

    >>> from metarl.registry import make_baseline
    >>> tasks = metarl.make("bandit/n10-k5")
    >>> metarl.check_adapter(make_baseline("thompson", tasks, metarl.TrialShape(10)), tasks)
    """
    assert isinstance(adapter, Adapter), _lacks(adapter, Adapter)
    assert isinstance(adapter.shape, TrialShape), (
        f"the attribute shape is {adapter.shape!r}; accepted: a metarl.TrialShape"
    )
    require_spaces(adapter, tasks.observation_space, tasks.action_space, tasks.name)
    with contextlib.closing(_slots(adapter, tasks)) as envs:
        _check_act(adapter, tasks)
        _check_adapt(adapter, envs, _trial(adapter, envs, tasks), _batch(tasks))


def check_agent(agent: object, tasks: TaskDistribution, *, learns: bool = True) -> None:
    """Check that ``agent`` keeps the contract of :class:`metarl.Agent`, acting in ``tasks``.

    The check covers all of :func:`check_adapter`, and: acting and adapting do not change the agent;
    ``load_state`` restores the agent, also after an update; copies by ``copy.deepcopy`` and
    ``pickle`` act, learn and load independently; an agent that remembers old experience continues
    from its state and the trials given to ``recall`` as if it had never been stopped.

    Args:
        agent: an agent made for the spaces of ``tasks``; it is not changed, but its memory is empty
            afterwards if it remembers experience.
        tasks: the tasks it acts in.
        learns: False for a fixed baseline, whose ``update`` need not change anything.

    Raises:
        AssertionError: if the contract is broken; the message says what to correct.

    >>> from metarl.registry import agent_class
    >>> RL2, tasks = agent_class("rl2"), metarl.make("bandit/n10-k5")
    >>> agent = RL2(RL2.Config(tasks_per_update=10), metarl.TaskSpec.of(tasks), seed=0)
    >>> metarl.check_agent(agent, tasks)
    """
    assert isinstance(agent, Agent), _lacks(agent, Agent)
    try:
        remembers = remembered_steps(agent)
    except UserError as error:
        raise AssertionError(f"{error} (metarl/experience/agent.py says what each is)") from error
    before = _copy_state(agent)
    _restore(agent, before, [])
    check_adapter(agent, tasks)
    assert _states_equal(before, agent.state()), "acting or adapting changed the agent"
    with contextlib.closing(_slots(agent, tasks)) as envs:
        trial = _trial(agent, envs, tasks)
        trials = _trials_to_remember(agent, envs, tasks, remembers)
    updated = _check_update(agent, trial, before, learns)
    _check_copies(agent, tasks, trial, before, updated)
    if remembers:
        _check_memory(agent, trials, before, remembers)


def _lacks(agent: object, protocol: type) -> str:
    names = [n for n in dir(protocol) if not n.startswith("_")]
    names += [n for p in protocol.__mro__ for n in getattr(p, "__annotations__", {}) if n[0] != "_"]
    missing = sorted({name for name in names if not hasattr(agent, name)})
    return (
        f"the agent lacks a method or attribute of metarl.{protocol.__name__}: "
        f"{', '.join(missing)} (metarl/experience/agent.py says what each is)"
    )


def _slots(adapter: Adapter, tasks: TaskDistribution) -> SlotVectorEnv:
    return tasks.make_vec(NUM_TASKS * (1 if adapter.shape.sequential else 2), num_workers=0)


def _batch(tasks: TaskDistribution) -> list[Task]:
    return tasks.sample(np.random.default_rng(0), NUM_TASKS, "train")


def _trial(
    adapter: Adapter, envs: SlotVectorEnv, tasks: TaskDistribution, iteration: int = 0
) -> Trial:
    keys = TrialKeys(0, Phase.USE, iteration, NUM_TASKS)
    return run_trial(adapter, envs, _batch(tasks), shape=adapter.shape, keys=keys)


def _lane_generator(key: int, lanes: int) -> LaneGenerator:
    keys = seeding.fold(np.uint64(key), np.arange(NUM_TASKS * lanes)).reshape(NUM_TASKS, lanes)
    return LaneGenerator(keys, keys)


def _check_act(adapter: Adapter, tasks: TaskDistribution) -> None:
    """Check two calls of ``act`` at made-up observations."""
    lanes = 1 if adapter.shape.sequential else 2
    codec = ActionCodec(tasks.action_space)
    context = adapter.begin(NUM_TASKS)
    for part in pytree.tree_leaves(context):
        assert isinstance(part, Tensor) and part.ndim and len(part) == NUM_TASKS, (
            "begin(n) must return a tree of tensors with n rows, one per task"
        )
    now = _first_step(tasks, NUM_TASKS, lanes)
    generator = _lane_generator(3, lanes)
    action, record, after = adapter.act(context, now, generator)
    expected = (NUM_TASKS, lanes, *codec.shape)
    assert tuple(action.shape) == expected, (
        f"act returned actions of shape {tuple(action.shape)}; accepted: {expected}"
    )
    assert action.is_floating_point() != codec.discrete, (
        f"act returned {action.dtype} actions; accepted: "
        f"{'int64, from 0' if codec.discrete else 'float32'}"
    )
    for name, value in record.items():
        assert value.shape[:2] == (NUM_TASKS, lanes), (
            f"record {name!r} has shape {tuple(value.shape)}; accepted: [task, lane, …]"
        )
    # At the start of a trial a memory may have nothing to add, so look at the next step too.
    started = torch.zeros_like(now.trial_start)
    later = now._replace(
        trial_start=started, boundary=started, previous_reward=torch.ones_like(now.previous_reward)
    )
    _check_context(adapter, adapter.begin(NUM_TASKS), now, generator)
    _check_context(adapter, after, later, generator)
    greedy = adapter.act(context, now, generator, greedy=True)[0]
    other = _lane_generator(4, lanes)
    assert torch.equal(greedy, adapter.act(context, now, other, greedy=True)[0]), (
        "a greedy action depends on the generator"
    )
    known = adapter.insight(after) if isinstance(adapter, Insightful) else {}
    for name, value in known.items():
        assert len(value) == NUM_TASKS, f"insight {name!r} must have one row for each task"


def _check_context(
    adapter: Adapter, context: Context, timestep: Timestep, generator: LaneGenerator
) -> None:
    """Check what ``act`` does with a context at one step."""
    saved = copy.deepcopy(context)
    _, _, after = adapter.act(context, timestep, generator)
    other = timestep._replace(previous_reward=1 - timestep.previous_reward)
    assert _tree_equal(context, saved) or _still_true(
        adapter, context, saved, (timestep, other), generator
    ), "act wrote into the context it was given"
    kept = copy.deepcopy(after)
    adapter.act(context, other, generator)
    assert _tree_equal(after, kept) or _still_true(
        adapter, after, kept, (timestep, other), generator
    ), "act wrote into the context of another branch, which goes on from the one it was given"
    if not adapter.shape.sequential:
        assert _tree_equal(after, saved), "the agent is not sequential, yet act changed context"
    idle = timestep._replace(active=timestep.active.clone())
    idle.active[1] = False
    _, _, after_idle = adapter.act(copy.deepcopy(saved), idle, generator)
    assert _tree_equal(_row(after_idle, 1), _row(saved, 1)), (
        "act changed the context of a task whose lanes are not active"
    )


def _still_true(
    adapter: Adapter,
    written: Context,
    saved: Context,
    timesteps: Sequence[Timestep],
    generator: LaneGenerator,
) -> bool:
    """Return whether a context that was written into means what it meant before.

    Attention writes keys and values to places that the context does not count.
    """
    if isinstance(adapter, Insightful) and not _tree_equal(
        adapter.insight(written), adapter.insight(saved)
    ):
        return False
    return all(
        _tree_equal(
            adapter.act(copy.deepcopy(written), timestep, generator),
            adapter.act(copy.deepcopy(saved), timestep, generator),
        )
        for timestep in timesteps
    )


def _check_adapt(
    adapter: Adapter, envs: SlotVectorEnv, trial: Trial, batch: Sequence[Task]
) -> None:
    """Check that the order of the tasks changes nothing, and that ``adapt`` modifies nothing."""
    shape = adapter.shape
    shuffled = TrialKeys(0, Phase.USE, 0, np.array(ORDER))
    reordered = run_trial(adapter, envs, [batch[i] for i in ORDER], shape=shape, keys=shuffled)
    # Compare the first steps only: a simulator may turn a rounding error into another episode.
    for name in ("taken", "reward"):
        first, mixed = (getattr(t.rounds[0], name)[:, 0, :5] for t in (trial, reordered))
        assert torch.allclose(first[ORDER].double(), mixed.double(), rtol=1e-3, atol=1e-3), (
            "the experience with a task depends on the place of the task in the batch"
        )
    keys = TrialKeys(0, Phase.USE, 0, NUM_TASKS).at(0)
    episodes, _, context = collect(
        adapter,
        envs,
        batch,
        tell_tasks(adapter, adapter.begin(NUM_TASKS), batch),
        None,
        num_episodes=shape.episodes_per_round,
        sequential=shape.sequential,
        keys=keys,
    )
    kept = copy.deepcopy(context)
    after = adapter.adapt(context, episodes, torch_generator(0))
    assert _tree_equal(context, kept), "adapt wrote into the context it was given"
    turned = adapter.adapt(_row(context, ORDER), _row(episodes, ORDER), torch_generator(0))
    assert _tree_equal(_row(after, ORDER), turned, exact=False), (
        "the result of adapt for a task depends on the place of the task in the batch"
    )


def _check_update(agent: Agent, trial: Trial, before: State, learns: bool) -> State:
    """Check ``update`` and ``load_state``; return the state after one update."""
    metrics = agent.update(trial, torch_generator(1), 0.0)
    assert isinstance(metrics, dict), f"update returned {metrics!r}; accepted: a dict of numbers"
    for name, value in metrics.items():
        number = isinstance(value, int | float | np.number) and math.isfinite(value)
        assert number, f"update returned the metric {name!r} as {value!r}; accepted: a finite float"
    assert not (learns and _states_equal(before, agent.state())), (
        "update changed nothing (a fixed baseline is checked with learns=False)"
    )
    updated = _copy_state(agent)
    _restore(agent, before, [])
    assert _states_equal(before, agent.state()), "load_state does not bring back state()"
    agent.update(trial, torch_generator(1), 0.0)
    assert _states_equal(updated, agent.state(), exact=False), (
        "after load_state, the same update gives another state: state() leaves something out"
        + (", or recall([]) does not empty the memory" if remembered_steps(agent) else "")
    )
    # Repeat this after an update: only then does an optimiser whose moments are lost differ.
    _restore(agent, updated, [])
    agent.update(trial, torch_generator(2), 0.0)
    twice = _copy_state(agent)
    agent.update(trial, torch_generator(3), 0.0)
    _restore(agent, updated, [])
    agent.update(trial, torch_generator(2), 0.0)
    assert _states_equal(twice, agent.state(), exact=False), (
        "after load_state, a second update gives another state: state() leaves something out, "
        "such as the moments of an optimiser"
    )
    _restore(agent, before, [])
    return updated


def _trials_to_remember(
    agent: Agent, envs: SlotVectorEnv, tasks: TaskDistribution, remembers: int
) -> list[Trial]:
    """Return trials of several updates: more than are remembered, if a few are enough for that."""
    trials: list[Trial] = []
    while remembers and len(trials) < MOST_TRIALS:
        trials.append(_trial(agent, envs, tasks, len(trials) + 1))
        # The agent is not given the first and the last trial back.
        if len(trials) > 2 and sum(trial.env_steps for trial in trials[1:-1]) >= remembers:
            break
    return trials


def _check_memory(agent: Agent, trials: list[Trial], before: State, remembers: int) -> None:
    """Check that state and recalled trials continue a training as if it had never stopped."""
    *earlier, last = trials
    _restore(agent, before, [])
    for i, trial in enumerate(earlier):
        agent.update(trial, torch_generator(i), 0.0)
    stopped = _copy_state(agent)
    agent.update(last, torch_generator(len(earlier)), 0.0)
    whole = _copy_state(agent)
    try:
        _restore(agent, stopped, newest_trials(earlier, remembers))
        agent.update(last, torch_generator(len(earlier)), 0.0)
    except Exception as error:
        raise AssertionError(
            f"an update after recall raised {error!r}: recalled trials have no context and no "
            f"seconds, and there may be fewer than before"
        ) from error
    on_cpu = all(x.device.type == "cpu" for x in whole[0].values())
    assert _states_equal(whole, agent.state(), exact=on_cpu), (
        "after load_state and recall, the same update gives another state than without a stop: "
        "recall must replace the whole memory by the trials it is given, and the agent must learn "
        f"only from them (the newest that together have remembers = {remembers} environment steps) "
        "and from no context of an old trial"
    )
    _restore(agent, before, [])


def _check_copies(
    agent: Agent, tasks: TaskDistribution, trial: Trial, before: State, updated: State
) -> None:
    """Check copies, as joblib, Ray and multiprocessing make them."""
    lanes = 1 if agent.shape.sequential else 2
    context, generator = agent.begin(NUM_TASKS), _lane_generator(3, lanes)
    now = _first_step(tasks, NUM_TASKS, lanes)
    for way, copy_of in (("copy.deepcopy", _deep_copy), ("pickle", _pickled)):
        twin = copy_of(agent)

        def same(twin: Agent = twin) -> bool:
            a, b = (one.act(context, now, generator)[:2] for one in (agent, twin))
            return _tree_equal(a, b)

        assert same(), f"a copy by {way} acts differently"
        twin.update(trial, torch_generator(1), 0.0)
        assert _states_equal(before, agent.state()), f"updating a copy by {way} changed the agent"
        assert _states_equal(updated, twin.state(), exact=False), (
            f"the same update gives a copy by {way} another state"
        )
        for one in (twin, agent):
            _restore(one, updated, [trial])
        assert same(), f"a copy by {way} acts differently after load_state"
        _restore(agent, before, [])


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
    beginning = Lanes(n, lanes, None, ActionCodec(tasks.action_space), None, lanes == 1)
    size = observation_size(tasks.observation_space)
    is_bytes = has_bytes(reported_space(tasks.observation_space))
    numbers = np.linspace(0, 255 if is_bytes else 1, n * lanes * size, dtype=np.float32)
    return beginning.timestep(
        numbers.astype(np.uint8 if is_bytes else np.float32).reshape(-1, size)
    )


def _row(tree: Any, index: int | list[int]) -> Any:
    return pytree.tree_map(lambda x: x[index], tree)


def _tree_equal(a: Any, b: Any, exact: bool = True) -> bool:
    def same(p: Tensor, q: Tensor) -> bool:
        return torch.equal(p, q) if exact else torch.allclose(p, q, rtol=1e-3, atol=1e-5)

    x, y = pytree.tree_leaves(a), pytree.tree_leaves(b)
    return len(x) == len(y) and all(same(p, q) for p, q in zip(x, y, strict=True))


def _copy_state(agent: Agent) -> State:
    tensors, extra = agent.state()
    return {name: x.detach().clone() for name, x in tensors.items()}, copy.deepcopy(extra)


def _restore(agent: Agent, state: State, trials: Sequence[Trial]) -> None:
    """Restore ``agent`` as the trainer does when a run is resumed."""
    agent.load_state(*copy.deepcopy(state))
    if remembered_steps(agent):
        remembered = [trial._replace(context=None, seconds={}) for trial in trials]
        cast(RememberingAgent, agent).recall(copy.deepcopy(remembered))


def _states_equal(
    a: State,
    b: State,
    exact: bool = True,
) -> bool:
    if a[1] != b[1] or a[0].keys() != b[0].keys():
        return False
    if exact:
        return all(a[0][name].equal(b[0][name]) for name in a[0])
    return all(a[0][name].allclose(b[0][name], rtol=1e-4, atol=1e-5) for name in a[0])

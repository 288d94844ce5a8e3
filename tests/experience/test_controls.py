"""Controls: do they equal loops over single tasks, and is the trial itself left as it is?"""

import copy
import itertools

import numpy as np
import pytest
import torch
from fakes import ArrayCounterTasks, CounterTasks, StubAgent

import metarl
from metarl.errors import UserError
from metarl.experience.agent import TrialShape
from metarl.experience.changes import partners_of
from metarl.experience.controls import (
    Batch,
    ForgetsEveryStep,
    controls_of,
    run_controlled,
)
from metarl.experience.data import Timestep, join_episodes
from metarl.experience.lanes import TrialKeys
from metarl.experience.rollout import adapted, collect, run_trial
from metarl.seeding import Phase
from metarl.task import Task

SHAPES = {
    "sequential": TrialShape(3),
    "rounds": TrialShape(2, 2, sequential=False),
    "both": TrialShape(2, 1, sequential=True),
}


class Notes:
    """Notes all it has seen; acts by that, whatever the order; an oracle notes its task too."""

    def __init__(self, shape, told=False):
        self.shape = shape
        if told:
            self.reveal = self.note

    def note(self, context, tasks):
        return context + torch.tensor([[float(task["length"])] for task in tasks])

    def begin(self, num_tasks):
        return torch.zeros(num_tasks, 1)

    def act(self, context, timestep, generator, greedy=False):
        if self.shape.sequential:
            seen = timestep.previous_reward + timestep.previous_action.sum(-1)
            seen = seen + 0.5 * timestep.trial_start + 0.25 * timestep.boundary
            context = torch.where(timestep.active, 0.7 * context + seen, context)
        u = torch.from_numpy(generator.uniform(1)).float()
        action = torch.cat([(context[:, None] + u).sin(), u], -1)
        return action.expand(*timestep.active.shape, 2), {}, context

    def adapt(self, context, episodes, generator):
        if self.shape.num_adaptations == 0:
            return context
        noise = torch.rand(1, generator=generator)
        return context + episodes.taken.sum((1, 2, 3))[:, None] + noise


class Echo(CounterTasks):
    """The action's first number is reported."""

    info_keys = ("success", "clock", "acted")

    def make(self, task=None):
        env = super().make(task)
        inner, step = env.unwrapped, env.unwrapped.step

        def reporting(action):
            *result, info = step(action)
            return *result, {**info, "acted": float(action[0])}

        inner.step = reporting
        return env


def draw(tasks, n):
    return tasks.sample(np.random.default_rng(0), n, "test")


def keys_of(numbers):
    return TrialKeys(5, Phase.EVALUATE, 0, np.asarray(numbers))


def explicit(agent, tasks, drawn, partners, control, shape):
    """Return ``acted`` of every episode, ``[task, episode]``: one task after another."""
    envs, result = tasks.make_vec(shape.episodes_per_round), []
    known = [histories(agent, envs, task, i, shape) for i, task in enumerate(drawn)]
    for i, task in enumerate(drawn):
        row = []
        for unit in range(len(known[i])):
            whose, when = {
                "own": (i, unit),
                "another-task": (partners[i], unit),
                "reset-every-episode": (i, 0),
            }[control]
            context, timestep = copy.deepcopy(known[whose][when])
            episodes = one(agent, envs, task, i, context, timestep, unit)[0]
            row += episodes.metrics["acted"][0].tolist()
        result.append(row)
    envs.close()
    return np.array(result)


def histories(agent, envs, task, number, shape):
    """Return what is known of a task before every unit of its own trial."""
    context, timestep, round_ = agent.begin(1), None, []
    if hasattr(agent, "reveal"):
        context = agent.reveal(context, [task])
    found = []
    for unit in range(shape.num_episodes if shape.sequential else shape.num_rounds):
        found.append((copy.deepcopy(context), timestep))
        episodes, timestep, context = one(agent, envs, task, number, context, timestep, unit)
        round_.append(episodes)
        if not shape.sequential or (unit + 1) % shape.episodes_per_round == 0:
            k = unit // shape.episodes_per_round if shape.sequential else unit
            keys = keys_of([number]).round(k, shape)
            context, round_ = adapted(agent, context, join_episodes(round_), keys, [task]), []
    return found


def one(agent, envs, task, number, context, timestep, unit):
    shape, keys = agent.shape, keys_of([number])
    own = keys.at(0)._replace(first_episode=unit) if shape.sequential else keys.at(unit)
    n = 1 if shape.sequential else shape.episodes_per_round
    return collect(
        *(agent, envs, [task], context, timestep),
        num_episodes=n,
        sequential=shape.sequential,
        keys=own,
    )


def controlled(agent, tasks, drawn, partners, cuts=(), num_envs=8, **options):
    bounds = [0, *cuts, len(drawn)]
    batches = [Batch(drawn[a:b], keys_of(range(a, b))) for a, b in itertools.pairwise(bounds)]
    envs = tasks.make_vec(num_envs)
    found = run_controlled(agent, envs, batches, agent.shape, partners, **options)
    envs.close()
    return {
        name: {
            metric: torch.cat([torch.cat([r[metric] for r in rounds], 1) for rounds in every])
            for metric in every[0][0]
        }
        for name, every in found.items()
    }


@pytest.mark.parametrize(("kind", "told"), [*((k, False) for k in SHAPES), ("rounds", True)])
def test_every_control_is_that_of_an_explicit_loop(kind, told):
    shape, tasks = SHAPES[kind], Echo()
    agent, drawn = Notes(shape, told), draw(tasks, 4)
    partners = partners_of(drawn, np.random.default_rng(1))
    found = controlled(agent, tasks, drawn, partners, cuts=(2,))
    assert ("reset-every-step" in found) == shape.sequential
    for control in ("own", "another-task", "reset-every-episode"):
        expected = explicit(agent, tasks, drawn, partners, control, shape)
        np.testing.assert_allclose(found[control]["acted"], expected, atol=1e-5, err_msg=control)
    acted = {name: values["acted"] for name, values in found.items()}
    assert not torch.equal(acted["own"], acted["another-task"])
    assert not torch.equal(acted["own"], acted["reset-every-episode"])
    first = 1 if shape.sequential else shape.episodes_per_round
    same = torch.equal(acted["own"][:, :first], acted["another-task"][:, :first])
    assert same != told  # what it is told is there before any experience


@pytest.mark.parametrize("family", [CounterTasks, ArrayCounterTasks])
@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("cuts", [(), (1, 4)])
def test_own_is_the_trial_itself_to_the_last_bit(family, sequential, cuts):
    tasks, agent = family(), StubAgent(sequential)
    drawn = draw(tasks, 6)
    found = controlled(agent, tasks, drawn, partners_of(drawn, np.random.default_rng(0)), cuts)
    envs = tasks.make_vec(8)
    for a, b in itertools.pairwise([0, *cuts, 6]):
        trial = run_trial(agent, envs, drawn[a:b], shape=agent.shape, keys=keys_of(range(a, b)))
        for name, values in found["own"].items():
            whole = torch.cat([episodes.metrics[name] for episodes in trial.rounds], 1)
            assert torch.equal(values[a:b], whole), name
    envs.close()


def test_the_same_whatever_the_batches_and_slots():
    tasks, agent = Echo(), Notes(SHAPES["sequential"])
    drawn = draw(tasks, 6)
    partners = partners_of(drawn, np.random.default_rng(0))
    one, other = (
        controlled(agent, tasks, drawn, partners, cuts, num_envs)
        for cuts, num_envs in (((), 6), ((2, 3), 1))
    )
    for name, values in one.items():
        assert torch.equal(values["acted"], other[name]["acted"]), name


def test_who_forgets_every_step_sees_the_start_of_a_trial_and_what_it_was_told():
    agent = Notes(SHAPES["sequential"], told=True)
    agent.seen, act = [], agent.act

    def noted(context, timestep, generator, greedy=False):
        agent.seen.append((context, timestep))
        return act(context, timestep, generator, greedy)

    agent.act = noted
    tasks = Echo()
    drawn, forgets = draw(tasks, 3), ForgetsEveryStep(agent)
    envs = tasks.make_vec(3)
    trial = run_trial(forgets, envs, drawn, shape=agent.shape, keys=keys_of(range(3)))
    envs.close()
    assert len(agent.seen) > 6
    known = torch.tensor([[float(task["length"])] for task in drawn])
    for context, timestep in agent.seen:
        assert isinstance(timestep, Timestep) and timestep.trial_start.all()
        assert timestep.boundary.all() and not timestep.previous_action.any()
        assert not timestep.previous_reward.any() and torch.equal(context, known)
    assert torch.equal(trial.context, known)


class Cache(Notes):
    """Writes its steps into memory beyond the length that its context counts."""

    def begin(self, num_tasks):
        return {
            "length": torch.zeros(num_tasks, dtype=torch.int64),
            "cache": torch.zeros(num_tasks, 40),
        }

    def act(self, context, timestep, generator, greedy=False):
        length, cache = context["length"], context["cache"]
        active = timestep.active[:, 0]
        rows = torch.arange(len(length))
        assert not cache[rows, length].any()  # what is not yet written is zero
        reward = 1 + timestep.previous_reward[:, 0]
        cache[rows[active], length[active]] = reward[active]
        length = length + active
        known = torch.where(torch.arange(40) < length[:, None], cache, 0.0).sum(1)
        action = torch.stack([known.sin(), known.cos()], -1)[:, None]
        return action, {}, {"length": length, "cache": cache}


def test_contexts_that_are_written_beyond_their_length_are_not_mixed_up():
    tasks, agent = Echo(), Cache(SHAPES["sequential"])
    drawn = draw(tasks, 4)
    partners = partners_of(drawn, np.random.default_rng(0))
    found = controlled(agent, tasks, drawn, partners)
    for control in ("own", "another-task", "reset-every-episode"):
        expected = explicit(agent, tasks, drawn, partners, control, agent.shape)
        np.testing.assert_allclose(found[control]["acted"], expected, atol=1e-5, err_msg=control)


@pytest.mark.parametrize(("kind", "number"), [("rounds", 3), ("sequential", 4)])
def test_progress_counts_the_trials_of_every_task(kind, number):
    tasks, agent, counted = Echo(), Notes(SHAPES[kind]), []
    drawn = draw(tasks, 4)
    partners = partners_of(drawn, np.random.default_rng(0))
    controlled(agent, tasks, drawn, partners, (3,), advance=counted.append)
    assert counted == [3, 1] * number and len(controls_of(agent.shape)) == number
    counted.clear()
    controlled(agent, tasks, drawn, partners, one_step=True, advance=counted.append)
    assert counted == [4] * number


class Values(Notes):
    """Keeps something as long as the longest episode of the batch, as maml-ppo does."""

    def begin(self, num_tasks):
        return super().begin(num_tasks), ()

    def act(self, context, timestep, generator, greedy=False):
        action, record, known = super().act(context[0], timestep, generator, greedy)
        return action, record, (known, context[1])

    def adapt(self, context, episodes, generator):
        known = super().adapt(context[0], episodes, generator)
        return known, (*context[1], episodes.reward)


def test_contexts_of_batches_may_differ_in_size():
    tasks, agent, plain = Echo(), Values(SHAPES["rounds"]), Notes(SHAPES["rounds"])
    drawn = sorted(draw(tasks, 6), key=lambda task: task["length"])
    partners = partners_of(drawn, np.random.default_rng(0))
    cuts = (next(i for i, task in enumerate(drawn) if task["length"] == 5),)
    found, same = (controlled(a, tasks, drawn, partners, cuts) for a in (agent, plain))
    for control, values in same.items():
        assert torch.equal(found[control]["acted"], values["acted"]), control


@pytest.mark.parametrize("name", ["thompson", "random"])
def test_in_episodes_of_one_step_both_resets_are_the_same(name):
    tasks = metarl.make("bandit/n4-k3")
    agent = metarl.registry.make_baseline(name, tasks, TrialShape(4))
    drawn = draw(tasks, 5)
    partners = partners_of(drawn, np.random.default_rng(0))
    quick, whole = (
        controlled(agent, tasks, drawn, partners, one_step=one_step) for one_step in (True, False)
    )
    for control, values in whole.items():
        assert torch.equal(values["return"], quick[control]["return"]), control


# who gets whose context


@pytest.mark.parametrize("sizes", [(1, 1), (1, 2), (3, 1), (5, 5), (2, 2, 2), (4, 1, 1), (1,) * 9])
def test_partners_differ_and_are_used_once_if_that_can_be(sizes):
    tasks = [Task.of("t", n=n) for n, size in enumerate(sizes) for _ in range(size)]
    for seed in range(20):
        rng = np.random.default_rng(seed)
        drawn = [tasks[i] for i in rng.permutation(len(tasks))]
        partners = partners_of(drawn, rng)
        assert all(drawn[j] != drawn[i] for i, j in enumerate(partners))
        if 2 * max(sizes) <= len(tasks):
            assert sorted(partners) == list(range(len(tasks)))
        else:  # The others' contexts are used as evenly as possible.
            few = np.bincount(partners, minlength=len(tasks))
            few = few[
                [drawn[i] != tasks[np.repeat(sizes, sizes).argmax()] for i in range(len(tasks))]
            ]
            assert few.max() - few.min() <= 1


def test_partners_depend_on_the_seed_alone():
    tasks = [Task.of("t", n=n) for n in range(50)]
    one, same, other = (partners_of(tasks, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert one.tolist() == same.tolist() != other.tolist()
    assert abs(np.corrcoef(np.arange(50), one)[0, 1]) < 0.5


def test_tasks_of_which_no_two_differ_are_refused():
    with pytest.raises(UserError, match="--controls: got 3 tasks, of which no two differ"):
        partners_of([Task.of("t", n=1)] * 3, np.random.default_rng(0))

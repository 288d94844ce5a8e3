"""A task that changes within the trial: the same as a loop in which it does."""

import numpy as np
import pytest
import torch
from fakes import ArrayCounterTasks, CounterTasks, StubAgent, counter_task

from metarl.errors import UserError
from metarl.experience.agent import TrialShape
from metarl.experience.changes import change_drawn, require_change, sections_of
from metarl.experience.data import Change
from metarl.experience.lanes import TrialKeys
from metarl.experience.rollout import adapted, collect, run_trial
from metarl.seeding import Phase

OWN = [counter_task(3), counter_task(5)]
OTHERS = [counter_task(5), counter_task(3)]
KEYS = TrialKeys(2, Phase.EVALUATE, 0, 2)


@pytest.mark.parametrize("family", [CounterTasks, ArrayCounterTasks])
@pytest.mark.parametrize("after", [1, 3])
def test_a_sequential_agent_keeps_its_context_and_its_random_numbers(family, after):
    agent, envs = StubAgent(sequential=True), family().make_vec(2)
    trial = run_trial(agent, envs, OWN, shape=agent.shape, keys=KEYS, change=Change(after, OTHERS))
    plain = run_trial(agent, envs, OWN, shape=agent.shape, keys=KEYS)
    context, timestep, lengths = agent.begin(2), None, []
    for episode in range(4):  # episode by episode, with the tasks that there are
        keys = KEYS.at(0)._replace(first_episode=episode)
        tasks = OWN if episode < after else OTHERS
        done, timestep, context = collect(
            *(agent, envs, tasks, context, timestep),
            **{"num_episodes": 1, "sequential": True, "keys": keys},
        )
        lengths.append(done.metrics["length"][:, 0])
        steps = done.valid.shape[2]
        assert torch.equal(trial.rounds[0].reward[:, episode, :steps], done.reward[:, 0])
    envs.close()
    assert torch.equal(trial.rounds[0].metrics["length"], torch.stack(lengths, 1))
    assert torch.equal(trial.context, context)
    same = trial.rounds[0].metrics["return"] == plain.rounds[0].metrics["return"]
    assert same[:, :after].all() and not same[:, after:].all()
    assert len(trial.rounds) == 1 and trial.change == Change(after, OTHERS) and trial.tasks == OWN
    assert trial.stream().trial_start.sum() == 2  # one trial, that it does not see end


def test_an_agent_that_adapts_in_rounds_meets_the_others_in_a_later_round():
    agent, envs = StubAgent(sequential=False), CounterTasks().make_vec(6)
    shape = TrialShape(3, 2, sequential=False)
    trial = run_trial(agent, envs, OWN, shape=shape, keys=KEYS, change=Change(3, OTHERS))
    context = agent.begin(2)
    for k, tasks in enumerate((OWN, OTHERS, OTHERS)):
        keys = KEYS.at(k)
        options = {"num_episodes": 3, "sequential": False, "keys": keys}
        done, _, _ = collect(agent, envs, tasks, context, None, **options)
        assert torch.equal(trial.rounds[k].reward, done.reward)
        if k < 2:
            context = adapted(agent, context, done, keys, tasks)
    envs.close()
    assert torch.equal(trial.context, context)


def test_an_oracle_is_told_of_the_change():
    agent, envs, told = StubAgent(sequential=True), CounterTasks().make_vec(2), []
    agent.reveal = lambda context, tasks: told.append(tasks) or context
    run_trial(agent, envs, OWN, shape=agent.shape, keys=KEYS, change=Change(2, OTHERS))
    envs.close()
    assert told == [OWN, OTHERS]


def test_sections_cover_every_episode_once_and_change_once():
    for shape in (TrialShape(5), TrialShape(2, 3), TrialShape(3, 2, sequential=False)):
        for after in range(1, shape.num_episodes):
            if not shape.sequential and after % shape.episodes_per_round:
                continue
            found, changes = [], 0
            for k in range(shape.num_rounds):
                first = 0
                for section in sections_of(k, shape, OWN, Change(after, OTHERS)):
                    assert section.first_episode == first and section.num_episodes > 0
                    first += section.num_episodes
                    found += [section.tasks is OTHERS] * section.num_episodes
                    changes += section.changes
                assert first == shape.episodes_per_round
            assert found == [episode >= after for episode in range(shape.num_episodes)]
            assert changes == 1


@pytest.mark.parametrize(
    ("shape", "after", "accepted"),
    [
        (TrialShape(4), 4, r"0 \(never\), or fewer than the 4 episodes of a trial$"),
        (TrialShape(20, 1, sequential=False), 10, r"a multiple of 20 \(one round each\)"),
        (TrialShape(20, 0, sequential=False), 20, "fewer than the 20 episodes"),
    ],
)
def test_a_change_that_is_not_within_the_trial_is_refused(shape, after, accepted):
    with pytest.raises(
        UserError, match=f"--change-task-after: got {after}; accepted: .*{accepted}"
    ):
        require_change(after, shape)
    require_change(0, shape)


def test_other_tasks_are_drawn_until_they_differ():
    rng = np.random.default_rng(0)
    tasks = [counter_task(3), counter_task(5)] * 20

    def draw(number):
        return [counter_task(int(n)) for n in rng.choice([3, 5], number)]

    change = change_drawn(2, tasks, draw)
    assert change.after == 2 and len(change.tasks) == 40
    assert all(one != other for one, other in zip(tasks, change.tasks, strict=True))
    assert change_drawn(0, tasks, draw) is None
    with pytest.raises(UserError, match="--change-task-after: got tasks that are all counter"):
        change_drawn(2, tasks[:1], lambda number: tasks[:1] * number)

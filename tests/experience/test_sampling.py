import json

import numpy as np
import pytest
import torch
from fakes import CounterTasks, StubAgent

from metarl.errors import UserError
from metarl.experience.agent import TrialShape
from metarl.experience.data import Trial
from metarl.experience.lanes import TrialKeys
from metarl.experience.rollout import run_trial
from metarl.experience.sampling import SAMPLERS, Hardest, TaskSampler, Uniform, make_sampler
from metarl.seeding import Phase
from metarl.task import Task

FAMILY = CounterTasks()


def trial_of(tasks):
    keys = TrialKeys(0, Phase.TRAIN, 0, len(tasks))
    envs = FAMILY.make_vec(len(tasks))
    return run_trial(StubAgent(True), envs, tasks, shape=TrialShape(2), keys=keys)


def met(returns):
    """A trial whose tasks had these returns, one episode each."""
    tasks = [Task.of("t", x=float(i)) for i in range(len(returns))]
    episodes = trial_of(FAMILY.sample(np.random.default_rng(0), len(returns), "train")).rounds[0]
    totals = torch.tensor(returns).float().unsqueeze(1)
    return Trial(tasks, [episodes._replace(metrics={"return": totals})], None)


def test_uniform_draws_the_training_tasks_of_the_distribution():
    drawn = Uniform(FAMILY).sample(np.random.default_rng(3), 7)
    assert drawn == FAMILY.sample(np.random.default_rng(3), 7, "train")


def test_hardest_remembers_the_worst_tenth():
    sampler = Hardest(FAMILY)
    returns = np.random.default_rng(0).permutation(40).astype(float)
    trial = met(returns.tolist())
    sampler.update(trial.tasks, trial)
    expected = [trial.tasks[i] for i in np.argsort(returns)[:4]]
    assert sampler.tail() == expected


def test_hardest_draws_half_anew_and_half_from_the_tail():
    sampler = Hardest(FAMILY)
    assert sampler.sample(np.random.default_rng(1), 8) == FAMILY.sample(
        np.random.default_rng(1), 8, "train"
    )
    trial = met([5.0, -3.0, 2.0])
    sampler.update(trial.tasks, trial)
    drawn = sampler.sample(np.random.default_rng(1), 9)
    assert drawn[5:] == [trial.tasks[1]] * 4
    assert drawn[:5] == FAMILY.sample(np.random.default_rng(1), 5, "train")


def test_hardest_keeps_the_newest_return_of_a_task_and_forgets_the_oldest():
    sampler = Hardest(FAMILY)
    sampler.MEMORY = 3
    for returns in ([0.0, 1.0], [2.0, 1.0], [2.0, 1.0, 9.0, -1.0]):
        trial = met(returns)
        sampler.update(trial.tasks, trial)
    assert [value for _, value in sampler._met] == [1.0, 9.0, -1.0]
    assert sampler.tail() == [trial.tasks[3]]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_goes_on_from_its_state(name):
    sampler, other = (make_sampler(name, FAMILY) for _ in range(2))
    assert isinstance(sampler, TaskSampler)
    tasks = sampler.sample(np.random.default_rng(0), 6)
    sampler.update(tasks, trial_of(tasks))
    other.load_state(json.loads(json.dumps(sampler.state())))
    assert other.state() == sampler.state()
    again = [x.sample(np.random.default_rng(5), 6) for x in (sampler, other)]
    assert again[0] == again[1]
    other.load_state({})  # as a checkpoint before the first update has it


def test_wrong_samplers_are_refused():
    with pytest.raises(UserError, match="unknown sampler 'hardst'; did you mean hardest"):
        make_sampler("hardst", FAMILY)
    with pytest.raises(UserError, match="--task-sampler: builtins:str lacks sample, update"):
        make_sampler("builtins:str", FAMILY)

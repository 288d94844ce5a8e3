"""Meta-World's scripted policies: are they told the goal that the official observation shows?"""

import warnings

import numpy as np
import pytest
from metaworld.policies import ENV_POLICY_MAP

import metarl
from metarl.experience.lanes import TrialKeys
from metarl.experience.rollout import run_trial
from metarl.registry import make_baseline
from metarl.seeding import Phase
from metarl.stepping.options import Workers

ALONE = Workers(num_workers=0)
SHORT = metarl.make("metaworld/custom:train=reach+door-close,test=push,horizon=5")


def test_it_keeps_the_contract():
    for shape in (metarl.TrialShape(1), metarl.TrialShape(2, 1, sequential=False)):
        metarl.check_adapter(make_baseline("scripted", SHORT, shape), SHORT)


def test_it_acts_as_the_official_policy_on_the_official_observation():
    for task in SHORT.tasks("train")[:2]:
        official, env = SHORT.make_official(task), SHORT.make(task)
        official.unwrapped._partially_observable = False
        observation, _ = official.reset()
        hidden, _ = env.reset()
        assert (hidden[-3:] == 0).all() and (observation[-3:] != 0).any()
        np.testing.assert_array_equal(env.goal, observation[-3:])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = np.clip(ENV_POLICY_MAP[task["cls"]]().get_action(observation), -1, 1)
        scripted = make_baseline("scripted", SHORT, metarl.TrialShape(1))
        context = scripted.reveal(scripted.begin(1), [task])
        assert context[0, 1:].tolist() == observation[-3:].tolist()
        assert first_action(scripted, task) == pytest.approx(expected, abs=1e-5)
        env.close()
        official.close()


def first_action(scripted, task):
    keys = TrialKeys(0, Phase.EVALUATE, 0, 1)
    envs = SHORT.make_vec(1, num_workers=0)
    trial = run_trial(scripted, envs, [task], shape=scripted.shape, keys=keys)
    envs.close()
    return trial.rounds[0].action[0, 0, 0].numpy()


def test_it_succeeds_and_is_marked():
    tasks = metarl.make("metaworld/ml1-reach:horizon=100")
    scripted = make_baseline("scripted", tasks, metarl.TrialShape(1))
    curve = metarl.evaluate_adaptation(scripted, tasks, num_tasks=2, num_episodes=1, workers=ALONE)
    assert curve.told_task and curve.success.mean() == 1

"""Every baseline: does it keep the contract, and does it refuse tasks that it is not made for?"""

import gymnasium as gym
import pytest
import torch
from scripted import Scripted

import metarl
from metarl import registry
from metarl.errors import UserError
from metarl.registry import make_baseline
from metarl.tasks.arrays import Noise

BANDIT, GRID = metarl.make("bandit/n6-k3"), metarl.make("gridworld:horizon=3")
MDP, POINT = metarl.make("mdp/n2"), metarl.make("navigation:horizon=4")
APPLIES = {
    "bayes-optimal": [BANDIT, GRID],
    "epsilon-greedy": [BANDIT],
    "gittins": [BANDIT],
    "greedy": [BANDIT],
    "oracle": [BANDIT, GRID, POINT],
    "psrl": [MDP],
    "random": [BANDIT, GRID, MDP, POINT],
    "thompson": [BANDIT],
    "ucb1": [BANDIT],
}
SHAPE = metarl.TrialShape(3, 1, sequential=False)


class Stochastic(type(GRID)):
    """The grid, if some of what differs made planning wrong."""

    def __init__(self, ends=False, shows=False, chance=False):
        super().__init__(horizon=3)
        self.ends, self.shows, self.name = ends, shows, "grid-of-tests"
        if chance:
            self.transition_noise = self.transition_noise._replace(uniform=1)

    def transition(self, state, action, noise: Noise):
        result = super().transition(state, action, noise)
        reached = result.info["success"]
        if self.shows:
            observation = result.observation + reached[:, None].astype("float32") / 100
            return result._replace(observation=observation)
        return result._replace(terminated=reached) if self.ends else result


@pytest.mark.parametrize(("name", "tasks"), [(n, t) for n, of in APPLIES.items() for t in of])
def test_a_baseline_keeps_the_contract(name, tasks):
    baseline = make_baseline(name, tasks, SHAPE)
    metarl.check_adapter(baseline, tasks)
    assert baseline.shape.num_episodes == SHAPE.num_episodes
    assert hasattr(baseline, "reveal") == (name == "oracle")


def test_every_baseline_is_tested():
    known = {n for n, e in registry.BASELINES.items() if "metarl.agents" in e.path}
    assert set(APPLIES) <= known


OTHERS = [
    *((name, POINT) for name in ("bayes-optimal", "psrl", "thompson", "ucb1", "gittins")),
    ("greedy", GRID),
    ("epsilon-greedy", MDP),
    ("psrl", BANDIT),
    ("psrl", GRID),
    ("oracle", MDP),
    ("oracle", metarl.make("half-cheetah/velocity")),
    ("scripted", POINT),
    ("bayes-optimal", metarl.make("bandit/n100-k10")),
    ("bayes-optimal", Stochastic(ends=True)),
    ("bayes-optimal", Stochastic(shows=True)),
    ("oracle", Stochastic(chance=True)),
]


@pytest.mark.parametrize(("name", "tasks"), OTHERS, ids=lambda x: getattr(x, "name", x))
def test_a_baseline_refuses_other_tasks_in_one_line(name, tasks):
    shape = metarl.TrialShape(tasks.episodes_per_trial or 4)
    with pytest.raises(UserError) as refused:
        make_baseline(name, tasks, shape)
    message = str(refused.value)
    assert message.startswith(f"--baselines: {name}: got tasks {tasks.name}; accepted: ")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ucb1:c=-1", "ucb1: c: got -1.0; accepted: a finite number from 0"),
        ("ucb1:c=inf", "ucb1: c: got inf"),
        ("epsilon-greedy:epsilon=1.5", "epsilon: got 1.5; accepted: 0 to 1"),
        ("thompson:c=1", "thompson has no option 'c'; it takes none"),
    ],
)
def test_a_bad_option_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        make_baseline(text, BANDIT, SHAPE)


def test_a_long_trial_has_no_gittins_indices():
    with pytest.raises(UserError, match="at most 200 pulls a trial"):
        make_baseline("gittins", BANDIT, metarl.TrialShape(201))


def test_rewards_between_0_and_1_are_refused():
    space = gym.spaces.Box(2, 2, (1,))
    tasks = Scripted(space, space.low, reward=0.5, terminated=True)
    tasks.horizon = 1
    baseline = make_baseline("thompson", tasks, metarl.TrialShape(2))
    with pytest.raises(UserError, match=r"thompson: got a reward of 0\.5; accepted: rewards of 0"):
        metarl.evaluate_adaptation(baseline, tasks, num_tasks=1, num_episodes=2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("name", "tasks"), [(n, t) for n, of in APPLIES.items() for t in of])
def test_a_baseline_acts_on_a_gpu_as_on_the_cpu(name, tasks):
    own, other = (
        metarl.evaluate_adaptation(
            make_baseline(name, tasks, SHAPE, device=device), tasks, num_tasks=20, num_episodes=6
        )
        for device in ("cpu", "cuda")
    )
    assert own.returns == pytest.approx(other.returns, abs=1e-4)

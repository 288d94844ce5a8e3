"""Learning: are agents better than chance, than untrained ones, and than before adaptation?"""

import gymnasium as gym
import numpy as np
import pages
import pytest

import metarl
from metarl.agents.maml_ppo import MAMLPPO, MAMLPPOConfig
from metarl.agents.rl2 import RL2, RL2Config
from metarl.envs.navigation import Navigation
from metarl.evaluation.evaluate import evaluate_adaptation
from metarl.options import with_options
from metarl.running.settings import TrainConfig
from metarl.running.training import meta_train
from metarl.task import Task
from metarl.tasks.arrays import ArrayTaskDistribution, NoiseSpec, Transition

pytestmark = pytest.mark.learning


class HiddenTarget(ArrayTaskDistribution):
    """Hit a number x in [-1, 1] with one action an episode, which pays -|action - x|.

    Nothing is ever observed: x can only be found by remembering the actions and rewards of the
    episodes before.
    """

    name = "hidden-target"
    horizon = 1
    episodes_per_trial = 4
    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def sample(self, rng, n, split):
        bits = (rng.integers(2**40, size=n) & ~1) | (split == "test")
        return [Task.of(self.name, x=x) for x in (2 * bits * 2.0**-40 - 1).tolist()]

    def initial(self, params, noise):
        return {"x": params["x"]}, np.zeros((len(params["x"]), 1))

    def transition(self, state, action, noise):
        nothing = np.zeros((len(action), 1))
        reward = -np.abs(action[:, 0] - state["x"])
        return Transition(state, nothing, reward, np.ones(len(action), np.bool_), {})


NUMBERS = with_options(
    RL2Config(),
    tasks_per_update=400,
    hidden_size=32,
    discount=0.9,
    entropy_coefficient=0.0,
    initial_std=0.5,
    min_std=0.05,
)
"""Settings for actions with numbers that are to be exact in the end."""


def learn(tasks, config, iterations, directory):
    """Return ``[point, task]`` on 2000 held-out tasks of a trained and an untrained agent."""
    spec = metarl.TaskSpec.of(tasks)
    agent, untrained = (RL2(config, spec) for _ in range(2))
    train = with_options(TrainConfig(), iterations=iterations, validation_tasks=1)
    meta_train(agent, tasks, train, directory)
    return (evaluate_adaptation(a, tasks, num_tasks=2000).returns for a in (agent, untrained))


def test_rl2_learns_to_learn_two_armed_bandits(tmp_path):
    config = with_options(RL2Config(), tasks_per_update=400, hidden_size=32)
    trained, untrained = learn(metarl.make("bandit/n6-k2"), config, 60, tmp_path)
    # Chance earns 3 of 6, the Bayes-optimal policy 3.508. A trial's total has a standard
    # deviation below 2, so the mean of 2000 has a standard error below 0.05: the margin of 0.25
    # is five of them, and half of what there is to gain.
    assert trained.sum(0).mean() > 3.0 + 0.25
    assert trained.sum(0).mean() > untrained.sum(0).mean() + 0.25
    # Nothing is known at the first pull (0.5); a difference of means of pulls has a standard
    # error below 0.016.
    assert trained[0].mean() == pytest.approx(0.5, abs=0.05)
    assert trained[-2:].mean() > trained[0].mean() + 0.05


def test_rl2_learns_to_find_a_hidden_target(tmp_path):
    trained, untrained = learn(HiddenTarget(), NUMBERS, 80, tmp_path)
    first, *_, last = trained.mean(1)
    # Without knowledge at best -0.5 is earned (by 0, on average over x), so that a policy which
    # forgets never passes it, and one that remembers comes close to 0. An episode's return has a
    # standard deviation below 0.6, the mean of 2000 a standard error below 0.014.
    assert first < -0.45
    assert last > first + 0.25
    assert last > -0.25
    assert last > untrained[-1].mean() + 0.25


class TwoGoals(Navigation):
    """Navigation to one of two corners, which only the rewards tell apart."""

    shared_split = True

    def sample(self, rng, n, split):
        corners = ((0.4, 0.4), (-0.4, -0.4))
        return [Task.of(self.name, goal=corners[i]) for i in rng.integers(2, size=n)]


def test_maml_ppo_learns_to_adapt_to_one_of_two_goals(tmp_path):
    tasks = TwoGoals(horizon=20)
    config = MAMLPPOConfig(
        tasks_per_update=10,
        episodes_per_adaptation=10,
        num_adaptations=1,
        hidden_sizes=(32,),
        learning_rate=3e-3,
    )
    agent = MAMLPPO(config, metarl.TaskSpec.of(tasks))
    train = with_options(TrainConfig(), iterations=60, validation_tasks=1)
    meta_train(agent, tasks, train, tmp_path)
    before, after = evaluate_adaptation(agent, tasks, num_tasks=100, num_episodes=20).returns
    # Standing still scores -0.566 · 20 = -11.3, and one set of parameters cannot do better on
    # both goals; a policy that goes straight to its goal scores about -1.5. The mean over 100
    # tasks of 10 episodes has a standard error well below 0.5.
    assert before.mean() < -9
    assert after.mean() > before.mean() + 3


class TwoBandits(ArrayTaskDistribution):
    """Two bandits at once, of 4 and 3 arms: a MultiDiscrete pulls one of each, and what they pay
    is added up.
    """

    name = "two-bandits"
    horizon = 1
    episodes_per_trial = 8
    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.MultiDiscrete([4, 3])
    transition_noise = NoiseSpec(uniform=2)

    def sample(self, rng, n, split):
        bits = (rng.integers(2**40, size=(n, 7)) & ~1) | (split == "test")
        p = (bits * 2.0**-40).tolist()
        return [Task.of(self.name, first=x[:4], second=x[4:]) for x in p]

    def initial(self, params, noise):
        arms = {key: np.asarray(params[key]) for key in ("first", "second")}
        return arms, np.zeros((len(arms["first"]), 1))

    def transition(self, state, action, noise):
        rows = np.arange(len(action))
        pulled = state["first"][rows, action[:, 0]], state["second"][rows, action[:, 1]]
        reward = np.sum(noise.uniform < np.stack(pulled, 1), 1, dtype=np.float64)
        return Transition(state, np.zeros((len(action), 1)), reward, np.ones(len(action), bool), {})


class Lock(ArrayTaskDistribution):
    """A hidden button is to be pressed and a hidden number to be set, in one action of both."""

    name = "lock"
    horizon = 1
    episodes_per_trial = 6
    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Dict(
        {"button": gym.spaces.Discrete(3, start=1), "number": gym.spaces.Box(-2, 2, (1,))}
    )

    def sample(self, rng, n, split):
        bits = (rng.integers(2**40, size=n) & ~1) | (split == "test")
        numbers, buttons = (4 * bits * 2.0**-40 - 2).tolist(), rng.integers(1, 4, size=n).tolist()
        pairs = zip(buttons, numbers, strict=True)
        return [Task.of(self.name, button=button, number=number) for button, number in pairs]

    def initial(self, params, noise):
        return dict(params), np.zeros((len(params["number"]), 1))

    def transition(self, state, action, noise):
        number = action["number"][:, 0]
        pressed = (action["button"] == state["button"]).astype(np.float64)
        reward = pressed - np.abs(number - state["number"]) / 2
        nothing = np.zeros((len(number), 1))
        return Transition(state, nothing, reward, np.ones(len(number), bool), {})


def test_rl2_learns_actions_of_several_choices(tmp_path):
    config = with_options(RL2Config(), tasks_per_update=400, hidden_size=32)
    trained, untrained = learn(TwoBandits(), config, 80, tmp_path)
    # Nothing is known at first (1 of 2), and an untrained agent learns nothing. A pull of both has
    # a standard deviation of 0.7: a mean of four of them over 2000 tasks has one below 0.012.
    assert trained[0].mean() == pytest.approx(1.0, abs=0.08)
    assert trained[-4:].mean() > 1.06
    assert trained[-4:].mean() > untrained[-4:].mean() + 0.06


def test_rl2_learns_actions_of_choices_and_numbers(tmp_path):
    trained, untrained = learn(Lock(), NUMBERS, 80, tmp_path)
    # The button alone can earn 1 - 0.5 on average, the number alone 1/3 - 0: who knows both earns
    # close to 1. Without knowledge it is 1/3 - 0.5 at best.
    assert trained[0].mean() < -0.1
    assert trained[-1].mean() > 0.65
    assert untrained[-1].mean() < -0.1


@pytest.mark.parametrize("tasks", [TwoBandits(), Lock()], ids=lambda tasks: tasks.name)
def test_maml_ppo_adapts_choices_and_numbers(tasks, tmp_path):
    config = MAMLPPOConfig(20, 100, 1, (3.0,), hidden_sizes=())
    agent = MAMLPPO(config, metarl.TaskSpec.of(tasks))
    train = with_options(TrainConfig(), iterations=40, validation_tasks=1)
    meta_train(agent, tasks, train, tmp_path)
    before, after = evaluate_adaptation(agent, tasks, num_tasks=100, num_episodes=200).returns
    # A mean over 100 tasks of 100 episodes has a standard error below 0.02.
    assert after.mean() > before.mean() + 0.08


class Sides(ArrayTaskDistribution):
    """Press the bright side of a picture or, by task, the other one; five pictures an episode."""

    name = "sides"
    horizon = 5
    episodes_per_trial = 2
    shared_split = True
    observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)
    initial_noise = transition_noise = NoiseSpec(uniform=2)

    def sample(self, rng, n, split):
        return [Task.of(self.name, other=int(x)) for x in rng.integers(2, size=n)]

    def picture(self, noise):
        bright = (noise.uniform[:, 0] < 0.5).astype(np.int64)
        image = np.zeros((len(bright), 16, 16, 3), np.uint8)
        image[:] = (40 + 60 * noise.uniform[:, 1]).astype(np.uint8)[:, None, None, None]
        image[bright == 0, :, :8] += 100
        image[bright == 1, :, 8:] += 100
        return bright, image

    def initial(self, params, noise):
        bright, image = self.picture(noise)
        return {"other": params["other"], "bright": bright}, image

    def transition(self, state, action, noise):
        reward = (action == (state["bright"] ^ state["other"])).astype(np.float64)
        bright, image = self.picture(noise)
        going_on = np.zeros(len(action), np.bool_)
        return Transition({**state, "bright": bright}, image, reward, going_on, {})


@pytest.mark.parametrize("seed", range(3 if pages.FULL else 1))
@pytest.mark.parametrize("name", ["rl2", "maml-ppo"])
def test_agents_learn_from_images(name, seed, tmp_path):
    """Who presses at random, or the same way in both tasks, earns 2.5 of 5."""
    tasks = Sides()
    spec = metarl.TaskSpec.of(tasks)
    if name == "rl2":
        # Without a layer before the actions some seeds learn one side alone, or nothing.
        config = with_options(
            RL2Config(),
            tasks_per_update=100,
            encoder_features=64,
            head_sizes=(64,),
            discount=0.9,
            gae_lambda=0.3,
            target_kl=None,
        )
        agent, iterations = RL2(config, spec, seed=seed), 110
    else:
        config = MAMLPPOConfig(20, 20, 1, (0.5,), hidden_sizes=(32,), learning_rate=3e-3)
        agent, iterations = MAMLPPO(config, spec, seed=seed), 25
    train = with_options(TrainConfig(), iterations=iterations, validation_tasks=2, seed=seed)
    meta_train(agent, tasks, train, tmp_path)
    before, after, *_ = evaluate_adaptation(agent, tasks, num_tasks=200).returns.mean(1)
    assert after > 4.5
    assert before < after - 0.3  # what the first press has not told yet

"""Adapting to a given environment: its length, the spaces it accepts, and the policy it returns."""

import copy
import dataclasses
import inspect
import json
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from drift import Drift
from fakes import CounterTasks
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

import metarl
from metarl.agents.maml_ppo import MAMLPPO
from metarl.agents.rl2 import RL2, RL2Config
from metarl.errors import UserError
from metarl.evaluation import metaworld as official
from metarl.evaluation.evaluate import evaluate_adaptation
from metarl.evaluation.video import record_adaptation
from metarl.experience.adaptation import PolicyState, adapt
from metarl.experience.agent import TaskSpec, TrialShape, require_spaces
from metarl.options import with_options
from metarl.running.api import evaluate
from metarl.running.plot import _plot_paths
from metarl.running.run import Run
from metarl.running.settings import Settings, TrainConfig
from metarl.running.train import train
from metarl.running.training import meta_train
from metarl.task import Task

KINDS = {"continuous": "navigation:horizon=6", "discrete": "gridworld:horizon=6"}
TimeLimit = gym.wrappers.TimeLimit


class Recorder:
    """Takes the first action there is, and keeps what it was shown; its context counts steps."""

    tasks_per_update = 2

    def __init__(self, sequential=True, space=Drift.action_space):
        self.space = space
        self.shape = TrialShape(1) if sequential else TrialShape(2, 1, sequential=False)
        self.seen, self.rounds = [], []

    def begin(self, num_tasks):
        return {"steps": torch.zeros(num_tasks, 1)}

    def act(self, context, timestep, generator, greedy=False):
        self.seen.append(timestep)
        shape = (*timestep.active.shape, *([2] if isinstance(self.space, gym.spaces.Box) else []))
        action = torch.full(shape, 0.5 if len(shape) == 3 else 1)
        if self.shape.sequential:
            context = {"steps": context["steps"] + timestep.active}
        return action if len(shape) == 3 else action.long(), {}, context

    def adapt(self, context, episodes, generator):
        self.rounds.append(episodes)
        return context

    def update(self, trial, generator, progress):
        return {}

    def state(self):
        return {}, {}

    def load_state(self, tensors, extra):
        pass


def small(cls, tasks, seed=3, **changes):
    sizes = {RL2: {"num_minibatches": 1, "hidden_size": 8}, MAMLPPO: {"hidden_sizes": (8,)}}[cls]
    if cls is RL2 and tasks.episodes_per_trial is None:
        sizes |= {"episodes_per_trial": 2}
    if cls is MAMLPPO:
        sizes |= {"episodes_per_adaptation": 2, "inner_learning_rate": (0.5,)}
    config = with_options(cls.Config(), tasks_per_update=2, **{**sizes, **changes})
    agent = cls(config, metarl.TaskSpec.of(tasks), seed=seed)
    with torch.no_grad():  # so that what it sees and remembers moves its actions
        last = agent.head.policy.output.weight if cls is RL2 else agent.params["weight.1"]
        last.mul_(50)
    return agent


def adapted(cls, kind, episodes=4):
    """A policy for one task, and what makes the task's environments."""
    tasks = metarl.make(KINDS[kind])
    task = tasks.sample(np.random.default_rng(0), 1, "test")[0]
    agent = small(cls, tasks)
    return adapt(agent, tasks.make(task), episodes=episodes), lambda: tasks.make(task)


# where an episode ends


def steps_of(agent, env, **options):
    """Return the steps of every episode that ``agent`` adapted in."""
    adapt(agent, env, episodes=2, **options)
    boundaries = [i for i, step in enumerate(agent.seen) if step.boundary.all()]
    return np.diff([*boundaries, len(agent.seen)]).tolist()


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize(
    ("env", "trained", "options", "expected"),
    [
        (Drift(0), None, {"max_steps": 4}, 4),
        (Drift(0), 5, {}, 5),
        (Drift(0), 5, {"max_steps": 7}, 7),
        (TimeLimit(Drift(0), 6), None, {}, 6),
        (TimeLimit(Drift(0), 6), 9, {}, 6),
        (TimeLimit(Drift(0), 6), None, {"max_steps": 9}, 6),
        (TimeLimit(Drift(0), 9), 5, {}, 5),
        (CounterTasks(horizon=3).make(Task.of("counter", length=9, spread=0)), None, {}, 3),
    ],
)
def test_an_episode_is_cut_off_where_it_was_in_training(
    sequential, env, trained, options, expected
):
    agent = Recorder(sequential, env.action_space)
    if trained:
        agent.spec = TaskSpec(env.observation_space, env.action_space, trained)
    assert steps_of(agent, env, **options) == [expected, expected]


def test_an_environment_without_any_limit_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"^max_steps: got None; accepted: [^\n]*$"):
        adapt(Recorder(), Drift(0), episodes=2)
    policy = adapt(Recorder(), Drift(0), episodes=0)  # there is nothing to cut off
    assert policy.act({"x": [0.0, 0.0], "odd": 0}) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": 0}, "max_steps: got 0; accepted: an integer, 1 or more"),
        ({"max_steps": -3}, "max_steps: got -3"),
        ({"seed": -1}, "seed: got -1; accepted: 0 to 2"),
        ({"seed": 2**63}, "seed: got 9223372036854775808"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(options, message):
    with pytest.raises(UserError, match=f"^{message}"):
        adapt(Recorder(), Drift(0), **{"episodes": 2, "max_steps": 3, **options})


@pytest.mark.parametrize("steps", [0, 2.5, "long"])
def test_a_limit_that_ends_no_episode_is_refused(steps):
    with pytest.raises(UserError, match=f"^max_steps: got {steps!r}; accepted: an integer"):
        inspect.unwrap(adapt)(Recorder(), Drift(0), episodes=1, max_steps=steps)


def test_largest_seed_works():
    adapt(Recorder(), Drift(0), episodes=1, max_steps=2, seed=2**63 - 1)


def test_a_vector_environment_is_refused():
    envs = DummyVecEnv([lambda: TimeLimit(Drift(0), 5)])
    with pytest.raises(UserError, match=r"env: got 'DummyVecEnv'; accepted: a gymnasium\.Env"):
        inspect.unwrap(adapt)(Recorder(), envs, episodes=1)  # tests check types before


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on bandits, whose episodes are one pull."""
    config = with_options(
        TrainConfig(),
        env="bandit/n3-k5",
        iterations=1,
        evaluation_tasks=2,
        validation_tasks=2,
        run_dir=tmp_path_factory.mktemp("runs") / "bandit",
    )
    return train(
        Settings("rl2", with_options(RL2Config(), tasks_per_update=2, num_minibatches=1), config)
    ).directory


def test_a_run_remembers_how_long_its_episodes_were(trained):
    assert json.loads((trained / "config.json").read_text())["spec"]["horizon"] == 1
    agent = metarl.load(trained)
    assert copy.deepcopy(agent).spec.horizon == agent.spec.horizon == 1


def edited(trained, tmp_path, **changes):
    """Return a copy of the run whose ``config.json`` says something else."""
    copied = tmp_path / "run"
    copied.mkdir()
    (copied / "checkpoints").symlink_to(trained / "checkpoints")
    content = json.loads((trained / "config.json").read_text()) | changes
    text = json.dumps({name: value for name, value in content.items() if value is not None})
    (copied / "config.json").write_text(text)
    return copied


class Pulls(gym.Env):
    """Five arms that all pay nothing, for ever."""

    observation_space, action_space = gym.spaces.Discrete(1), gym.spaces.Discrete(5)

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        return 0, 0.0, False, False, {}


def test_a_run_of_before_has_the_environment_s_own_limit_or_one_that_is_given(trained, tmp_path):
    spec = json.loads((trained / "config.json").read_text())["spec"]
    agent = metarl.load(edited(trained, tmp_path, spec=spec | {"horizon": 0}))
    adapt(agent, TimeLimit(Pulls(), 3), episodes=1)
    with pytest.raises(UserError, match="max_steps: got None"):
        adapt(agent, Pulls(), episodes=1)


def test_a_damaged_horizon_is_refused(trained, tmp_path):
    spec = json.loads((trained / "config.json").read_text())["spec"]
    with pytest.raises(UserError, match="'spec' is damaged"):
        metarl.load(edited(trained, tmp_path, spec=spec | {"horizon": "long"}))


# spaces


def space_message(kind):
    return rf"^[^\n]*: got {kind} space [^\n]*; accepted: the agent's, [^\n]*$"


def bandits(k):
    return metarl.make(f"bandit/n3-k{k}")


DOORS = {
    "adapt": lambda agent, tasks, folder: adapt(
        agent, tasks.make(tasks.sample(np.random.default_rng(0), 1, "test")[0]), episodes=0
    ),
    "evaluate_adaptation": lambda agent, tasks, folder: evaluate_adaptation(
        agent, tasks, num_tasks=2
    ),
    "meta_train": lambda agent, tasks, folder: meta_train(
        agent, tasks, with_options(TrainConfig(), iterations=1), folder / "run"
    ),
    "check_agent": lambda agent, tasks, folder: metarl.check_agent(agent, tasks),
    "record_adaptation": lambda agent, tasks, folder: record_adaptation(
        agent,
        tasks,
        tasks.sample(np.random.default_rng(0), 1, "test"),
        folder,
        name="x",
        episodes=1,
    ),
}


@pytest.mark.parametrize("arms", [3, 8])
@pytest.mark.parametrize("door", [door for door in DOORS if door != "record_adaptation"])
def test_other_actions_than_the_agent_s_are_refused_everywhere(door, arms, tmp_path):
    agent = small(RL2, bandits(5))
    with pytest.raises(UserError, match=space_message("action")):
        DOORS[door](agent, bandits(arms), tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("door", [door for door in DOORS if door != "record_adaptation"])
def test_other_observations_than_the_agent_s_are_refused_everywhere(door, tmp_path):
    agent = small(MAMLPPO, metarl.make("gridworld"))
    agent.action_space = bandits(5).action_space
    with pytest.raises(UserError, match=space_message("observation")):
        DOORS[door](agent, bandits(5), tmp_path)


def test_another_agent_is_refused_by_the_official_evaluation():
    tasks = metarl.make("metaworld/ml1-reach", horizon=5)
    with pytest.raises(UserError, match=space_message("observation")):
        official.evaluate_officially(small(RL2, metarl.make("navigation")), tasks)


def test_another_agent_is_not_filmed(tmp_path, monkeypatch):
    tasks = metarl.make("half-cheetah/velocity", horizon=3)
    monkeypatch.setattr("metarl.evaluation.films.mp4_writer", lambda option: None)
    monkeypatch.setattr("metarl.evaluation.cameras.renderer_of", lambda model, option: gym.Env())
    with pytest.raises(UserError, match=space_message("observation")):
        DOORS["record_adaptation"](small(RL2, metarl.make("navigation")), tasks, tmp_path)


@pytest.mark.parametrize(
    ("env", "kind"), [("bandit/n3-k8", "action"), ("navigation", "observation")]
)
def test_a_run_is_evaluated_on_its_own_spaces_alone(trained, env, kind):
    with pytest.raises(UserError, match=f"^--env: {env}: got {kind} space"):
        evaluate(Run.open(trained), env=env, evaluation_tasks=2)


def test_paths_are_drawn_of_tasks_with_the_agent_s_own_spaces_alone(tmp_path, trained):
    run = Run.open(trained)
    with pytest.raises(UserError, match=r"^--env: navigation: got observation space"):
        _plot_paths(run, metarl.make("navigation"), tmp_path / "paths.png", "test")


def test_an_agent_that_keeps_no_spaces_is_not_compared():
    require_spaces(Recorder(), gym.spaces.Discrete(3), gym.spaces.Discrete(3), "env")


def test_a_composed_space_is_the_agent_s_if_it_is_flattened_to_it():
    agent = small(RL2, metarl.make("navigation"))
    agent.spec = TaskSpec(Drift.observation_space, Drift.action_space, 5)
    require_spaces(agent, Drift.observation_space, Drift.action_space, "env")
    flat = gym.spaces.flatten_space(Drift.observation_space)
    agent.spec = TaskSpec(flat, Drift.action_space, 5)
    require_spaces(agent, Drift.observation_space, Drift.action_space, "env")
    with pytest.raises(UserError, match=space_message("observation")):
        require_spaces(agent, gym.spaces.Dict(x=gym.spaces.Discrete(2)), Drift.action_space, "env")


def test_bounds_count_and_a_long_message_has_one_line():
    low = np.linspace(-3, -1, 200)
    agent = small(RL2, metarl.make("navigation"))
    own = gym.spaces.Box(low, -low, dtype=np.float64)
    agent.spec = dataclasses.replace(agent.spec, action_space=own)
    with pytest.raises(UserError, match=space_message("action")):
        other = gym.spaces.Box(low, -2 * low, dtype=np.float64)
        require_spaces(agent, agent.spec.observation_space, other, "env")


# predict


@pytest.mark.parametrize("num_envs", [None, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cls", [RL2, MAMLPPO])
def test_stable_baselines3_evaluates_a_policy_as_our_own_loop_does(cls, kind, num_envs):
    policy, make = adapted(cls, kind)
    vector = make() if num_envs is None else DummyVecEnv([make] * num_envs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        returns, lengths = evaluate_policy(
            policy, vector, n_eval_episodes=3, return_episode_rewards=True, warn=False
        )
    env, expected = make(), []
    for _ in range(3):
        own = copy.deepcopy(policy)  # every episode starts from what adaptation left
        observation, _ = env.reset()
        total, ended, boundary = 0.0, False, True
        while not ended:
            action = own.act(observation, boundary=boundary, greedy=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, ended, boundary = total + reward, terminated or truncated, False
        expected.append(total)
    assert lengths == [6, 6, 6]
    np.testing.assert_allclose(returns, expected, rtol=1e-4)
    mean, deviation = evaluate_policy(policy, vector, n_eval_episodes=3, warn=False)
    assert mean == pytest.approx(np.mean(expected), rel=1e-4) and np.isfinite(deviation)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cls", [RL2, MAMLPPO])
def test_a_row_of_a_batch_acts_as_the_same_row_alone(cls, kind):
    policy, make = adapted(cls, kind)
    space = make().observation_space
    space.seed(0)
    together, alone = None, [None] * 4
    different = set()
    for t in range(5):
        observation = np.stack([np.clip(space.sample(), -2, 2) for _ in range(4)])
        starts = np.array([t % (i + 2) == 0 for i in range(4)])
        actions, together = policy.predict(observation, together, starts, deterministic=True)
        assert actions.shape == (4, *make().action_space.shape)
        assert actions.dtype == make().action_space.dtype
        for i in range(4):
            action, alone[i] = policy.predict(observation[i], alone[i], starts[i], True)
            assert make().action_space.contains(action)
            np.testing.assert_allclose(action, actions[i], rtol=1e-4, atol=1e-5)
            different.add(str(action))
    assert len(different) > 1


@pytest.mark.parametrize("cls", [RL2, MAMLPPO])
def test_predict_leaves_the_policy_and_the_state_it_was_given_as_they_are(cls):
    policy, _ = adapted(cls, "continuous")
    twin = copy.deepcopy(policy)
    x = np.array([0.5, -0.25])
    first, state = policy.predict(x, deterministic=True)
    kept = copy.deepcopy(state)
    second, _ = policy.predict(x, state, deterministic=True)
    assert np.array_equal(state.taken, kept.taken)
    assert all(
        np.array_equal(getattr(state.lanes, name), getattr(kept.lanes, name))
        for name in ("boundary", "trial_start", "previous_action", "previous_reward")
    )
    again, _ = policy.predict(x, state, deterministic=True)
    assert np.array_equal(second, again)
    assert np.array_equal(policy.predict(x, deterministic=True)[0], first)
    assert not np.array_equal(first, second) or cls is MAMLPPO  # a memory of its own step
    for _ in range(2):
        assert np.array_equal(policy.act(x, 0.5), twin.act(x, 0.5))
    assert np.array_equal(policy.predict(x, deterministic=True)[0], first)


@pytest.mark.parametrize("cls", [RL2, MAMLPPO])
def test_sampled_actions_differ_by_row_and_call_and_are_the_same_for_one_seed(cls):
    policy, _ = adapted(cls, "continuous")
    twin = copy.deepcopy(policy)
    x = np.zeros((3, 2))
    actions = [policy.predict(x)[0] for _ in range(2)]
    assert len(np.unique(np.concatenate(actions), axis=0)) == 6
    assert np.array_equal(actions, [twin.predict(x)[0] for _ in range(2)])


def drift_policy(sequential, episodes=2):
    agent = Recorder(sequential)
    return agent, adapt(agent, Drift(1), episodes=episodes, max_steps=3)


def test_a_state_holds_what_a_step_leaves_and_episode_start_marks_boundaries():
    agent, policy = drift_policy(True)
    batch = {"x": np.array([[1.0, 2.0], [3.0, 4.0]]), "odd": np.array([0, 1])}
    _, state = policy.predict(batch)
    _, state = policy.predict(batch, state)
    actions, state = policy.predict(batch, state, np.array([False, True]))
    first, second, third = agent.seen[-3:]
    assert isinstance(state, PolicyState) and actions.tolist() == [1, 1]
    assert state.context["steps"].tolist() == [[9.0], [7.0]]  # six of adaptation
    assert first.boundary.tolist() == [[True], [True]] and not first.trial_start.any()
    assert first.previous_action.tolist() == [[1], [1]]
    assert first.previous_reward.unique().numel() == 1 and first.previous_reward.all()
    assert second.boundary.tolist() == [[False], [False]]
    assert third.boundary.tolist() == [[False], [True]]
    assert second.previous_reward.tolist() == [[0.0], [0.0]]  # nobody tells
    assert third.previous_reward.tolist() == [[0.0], first.previous_reward[1].tolist()]
    assert second.previous_action.tolist() == third.previous_action.tolist() == [[1], [1]]
    assert third.observation.tolist() == [[[1, 0, 1, 2]], [[0, 1, 3, 4]]]  # the odd one-hot first


def test_rewards_that_stable_baselines3_does_not_pass_on_are_not_learned_as_zeros():
    """An arm that pays is pulled again until it does not: RL² as it is at its simplest."""

    class PullsWhatPaid(Recorder):
        def begin(self, num_tasks):
            return torch.zeros(num_tasks, 1, dtype=torch.int64)

        def act(self, context, timestep, generator, greedy=False):
            lost = (timestep.previous_reward == 0) & ~timestep.trial_start
            context = (context + lost) % 2
            return context, {}, context

    class SecondPays(gym.Env):
        observation_space, action_space = gym.spaces.Discrete(1), gym.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return 0, {}

        def step(self, action):
            return 0, float(action), True, False, {}

    policy = adapt(PullsWhatPaid(), SecondPays(), episodes=3, max_steps=1)
    assert evaluate_policy(policy, SecondPays(), n_eval_episodes=6, warn=False)[0] == 1
    observation, reward, total = 0, None, 0.0
    for _ in range(6):
        action = policy.act(observation, reward, boundary=True)
        observation, reward, *_ = SecondPays().step(action)
        total += reward
    assert total == 6


def test_a_policy_that_did_not_learn_while_acting_sees_nothing_before_an_episode():
    agent, policy = drift_policy(False)
    one = {"x": np.array([1.0, 2.0]), "odd": 1}
    batch = {"x": np.array([[1.0, 2.0]] * 2), "odd": np.array([0, 1])}
    state = policy.predict(batch)[1]
    state = policy.predict(batch, state)[1]
    policy.predict(batch, state, [False, True])
    third = agent.seen[-1]
    assert third.boundary.tolist() == third.trial_start.tolist() == [[False, True]]
    assert third.previous_action.tolist() == [[1, 0]]
    policy.act(one), policy.act(one), policy.act(one, 2.0, boundary=True)
    before, now = agent.seen[-2:]
    assert before.previous_action.item() == 1
    assert (now.previous_action.item(), now.previous_reward.item()) == (0, 0)
    assert now.trial_start.item()


SPACES = [
    gym.spaces.Box(-1, 1, ()),
    gym.spaces.Box(0, 255, (2, 2, 1), np.uint8),
    gym.spaces.Discrete(3, start=-1),
    gym.spaces.MultiDiscrete([2, 3]),
    gym.spaces.MultiBinary((2, 2)),
    gym.spaces.Tuple([gym.spaces.Discrete(2), gym.spaces.Box(-1, 1, (2,))]),
    gym.spaces.Dict(b=gym.spaces.Dict(c=gym.spaces.Box(-1, 1, (2,))), a=gym.spaces.Discrete(2)),
]


def stacked(space, several):
    """Observations as vector environments give them: an array for every part."""
    if isinstance(space, gym.spaces.Dict):
        return {key: stacked(space[key], [one[key] for one in several]) for key in space}
    if isinstance(space, gym.spaces.Tuple):
        parts = enumerate(space)
        return tuple(stacked(part, [one[i] for one in several]) for i, part in parts)
    return np.stack(several)


class Fixed(gym.Env):
    action_space = gym.spaces.Discrete(2)

    def __init__(self, space):
        self.observation_space = space


@pytest.mark.parametrize("space", SPACES, ids=lambda space: type(space).__name__)
def test_one_observation_and_a_batch_are_told_apart_in_every_space(space):
    agent = Recorder()
    policy = adapt(agent, Fixed(space), episodes=0)
    space.seed(1)
    several = [space.sample() for _ in range(3)]
    actions, _ = policy.predict(stacked(space, several))
    assert actions.tolist() == [1, 1, 1]
    seen = agent.seen[-1].observation[:, 0]
    for row, one in zip(seen, several, strict=True):
        assert policy.predict(one)[0] == policy.act(one) == 1
        for step in agent.seen[-2:]:
            assert step.observation.shape[:2] == (1, 1) and step.observation[0, 0].equal(row)
        expected = gym.spaces.flatten(space, one) if space.shape != () else row.numpy()
        np.testing.assert_allclose(row.numpy(), np.ravel(expected), rtol=1e-6)
        alone, _ = policy.predict(stacked(space, [one]))
        assert alone.shape == (1,)


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        ({"x": np.ones(3), "odd": 0}, r"observation\['x'\]: got shape \(3,\); accepted: \(2,\)"),
        ({"x": np.zeros((2, 2, 2)), "odd": 0}, r"observation\['x'\]: got shape \(2, 2, 2\)"),
        ({"x": np.zeros((0, 2)), "odd": 0}, r"observation\['x'\]: got shape \(0, 2\)"),
        ({"x": 0.0, "odd": 0}, r"observation\['x'\]: got shape \(\)"),
        ({"x": np.zeros(2), "odd": 2}, r"observation\['odd'\]: got 2; accepted: integers 0 to 1"),
        ({"x": np.zeros(2), "odd": -1}, r"observation\['odd'\]: got -1"),
        ({"x": np.zeros(2), "odd": 0.5}, r"observation\['odd'\]: got 0\.5"),
        ({"x": np.zeros((2, 2)), "odd": 0}, "observation: got parts of one and 2 environments"),
        ({"x": np.zeros((2, 2)), "odd": [0, 1, 0]}, "observation: got parts of 3 and 2 environ"),
        ({"x": np.zeros(2)}, "observation: got a dict of x; accepted: a dict of odd, x"),
        (np.zeros(2), r"observation: got ndarray \(2,\); accepted: a dict of odd, x"),
    ],
)  # fmt: skip
def test_a_shape_that_does_not_fit_is_refused_with_both(observation, message):
    _, policy = drift_policy(True)
    for use in (policy.predict, policy.act):
        with pytest.raises(UserError, match=f"^{message}"):
            use(observation)


def test_a_state_or_start_that_does_not_fit_is_refused():
    _, policy = drift_policy(True)
    batch = {"x": np.zeros((2, 2)), "odd": np.zeros(2, int)}
    one = {"x": np.zeros(2), "odd": 0}
    _, state = policy.predict(batch)
    with pytest.raises(UserError, match="state: got that of 2 environments; accepted: None, or"):
        policy.predict(one, state)
    with pytest.raises(UserError, match="state: got a tuple; accepted"):
        policy.predict(one, (np.zeros(3),))
    with pytest.raises(UserError, match=r"episode_start: got shape \(3,\); accepted: \(2,\)"):
        policy.predict(batch, state, [True, False, True])
    with pytest.raises(UserError, match="observation: got '2 at once'; accepted: one"):
        policy.act(batch)


def test_an_agent_s_act_need_not_switch_gradients_off():
    class Learns(Recorder):
        def act(self, context, timestep, generator, greedy=False):
            weight = torch.ones(2, requires_grad=True)
            return weight.expand(*timestep.active.shape, 2) * 1, {}, context

    tasks = CounterTasks()
    env = tasks.make(Task.of("counter", length=3, spread=0))
    policy = adapt(Learns(space=env.action_space), env, episodes=1)
    assert policy.act(np.zeros(4)).tolist() == policy.predict(np.zeros(4))[0].tolist() == [1, 4]

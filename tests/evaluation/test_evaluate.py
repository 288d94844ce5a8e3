"""Adaptation curves: the right number at the right point, whatever the batching?"""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import stats

import metarl
from metarl.agents.rl2 import RL2, RL2Config
from metarl.errors import EnvError, UserError
from metarl.evaluation.curve import AdaptationCurve, read_summary
from metarl.evaluation.drawn_tasks import (
    default_tasks,
    evaluation_tasks,
    partners_in_blocks,
    strata_of,
)
from metarl.evaluation.evaluate import evaluate_adaptation, evaluation_slots
from metarl.evaluation.summaries import summarize, summarize_metrics, summarize_returns
from metarl.experience.adaptation import adapt
from metarl.experience.agent import TrialShape
from metarl.options import with_options
from metarl.stepping.options import Workers
from metarl.task import Task
from metarl.tasks.arrays import ArrayTaskDistribution, NoiseSpec, Transition

BANDIT = metarl.make("bandit/n4-k3")
FIELDS = {
    "format",
    "env",
    "agent",
    "seed",
    "split",
    "shared_split",
    "told_task",
    "iteration",
    "env_steps",
    "checkpoint",
    "score",
    "actions",
    "episodes",
    "num_tasks",
    "fixed",
    "seconds",
    "return",
    "success",
    "info",
    "gain",
    "trial_return",
    "groups",
}


class Echo(ArrayTaskDistribution):
    """Two steps an episode, each of which pays the action; success is an action of 1 or more."""

    name = "echo"
    horizon = 2
    episodes_per_trial = 4
    info_keys = ("success",)
    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def sample(self, rng, n, split):
        return [Task.of(self.name, x=x + (split == "test")) for x in rng.uniform(size=n)]

    def initial(self, params, noise):
        return {"x": params["x"]}, params["x"][:, None]

    def transition(self, state, action, noise):
        paid = action[:, 0].astype(float)
        never = np.zeros(len(paid), np.bool_)
        return Transition(state, state["x"][:, None], paid, never, {"success": paid >= 1})


class Lottery(Echo):
    """Pays a number drawn at the start of the episode, whatever is done."""

    initial_noise = NoiseSpec(uniform=1)

    def initial(self, params, noise):
        return {"x": noise.uniform[:, 0]}, params["x"][:, None]

    def transition(self, state, action, noise):
        return super().transition(state, action, noise)._replace(reward=state["x"])


class PaysItsParameter(Echo):
    """Pays the task's parameter at every step."""

    def transition(self, state, action, noise):
        return super().transition(state, action, noise)._replace(reward=state["x"])


class Reports(Echo):
    """Says how fast it was in each step: 1 more than the action."""

    info_keys = ("success", "speed")

    def transition(self, state, action, noise):
        now = super().transition(state, action, noise)
        return now._replace(info=now.info | {"speed": now.reward + 1})


class Kinds(PaysItsParameter):
    """60 tasks of three kinds, in turns."""

    group = "kind"

    def tasks(self, split):
        return [Task.of(self.name, x=float(i), kind=i % 3) for i in range(60)]

    def stack(self, tasks):
        return {"x": np.array([task["x"] for task in tasks])}


class Counter:
    """Acts with what it has counted: episodes begun before this one, or adaptations."""

    tasks_per_update = 2

    def __init__(self, per_round=None, episodes=4):
        self.sequential = per_round is None
        one, several = TrialShape(episodes), TrialShape(per_round or 1, 1, sequential=False)
        self.shape = one if self.sequential else several
        self.seen, self.adapted_to = [], []

    def begin(self, num_tasks):
        return torch.full((num_tasks, 1), -1.0 if self.sequential else 0.0)

    def act(self, context, timestep, generator, greedy=False):
        self.seen.append((timestep, greedy))
        if self.sequential:
            context = context + (timestep.boundary & timestep.active)
        return context.expand(timestep.active.shape).unsqueeze(-1), {}, context

    def adapt(self, context, episodes, generator):
        self.adapted_to.append(episodes.metrics["return"].shape)
        return context + 1

    def update(self, trial, generator, progress):
        raise AssertionError("an evaluation does not train")

    def state(self):
        return {}, {}

    def load_state(self, tensors, extra):
        pass


def rl2(tasks=BANDIT, **changes):
    values = {"tasks_per_update": 4, "hidden_size": 8, "num_minibatches": 1} | changes
    agent = RL2(with_options(RL2Config(), **values), metarl.TaskSpec.of(tasks), seed=4)
    with torch.no_grad():  # so that what it remembers moves its actions
        agent.head.policy.output.weight.mul_(200)
    return agent


def evaluate(agent, tasks=BANDIT, **changes):
    if "num_envs" in changes:
        changes["workers"] = Workers(num_envs=changes.pop("num_envs"))
    if "num_envs" in changes:
        changes["workers"] = Workers(num_envs=changes.pop("num_envs"))
    return evaluate_adaptation(agent, tasks, **{"num_tasks": 12, **changes})


# what a result depends on


@pytest.mark.parametrize("num_envs", [5, 12, 100])
@pytest.mark.parametrize("score", ["adapting-episodes", "greedy-copy"])
def test_number_of_slots_does_not_change_the_results(num_envs, score):
    few = evaluate(rl2(), num_envs=num_envs, score=score)
    assert np.array_equal(few.returns, evaluate(rl2(), score=score).returns)


@pytest.mark.parametrize("num_envs", [None, 2, 100])
def test_a_slow_adapter_takes_its_tasks_a_few_at_a_time(num_envs):
    expected, agent, finished = evaluate(rl2()), rl2(), []
    agent.tasks_at_once = 5
    options = {"num_envs": num_envs} if num_envs else {}
    found = evaluate(agent, advance=finished.append, **options)
    assert np.array_equal(found.returns, expected.returns)
    assert finished == ([2] * 6 if num_envs == 2 else [5, 5, 2])


def test_slots_are_as_many_as_episodes_side_by_side_up_to_forty_or_the_tasks():
    agent = Counter(per_round=3)
    assert evaluation_slots(agent, Echo(), 4, Workers()) == 12
    cheetahs = metarl.make("half-cheetah/velocity")
    assert evaluation_slots(agent, cheetahs, 4, Workers()) == 12
    assert evaluation_slots(agent, cheetahs, 30, Workers()) == 40
    assert evaluation_slots(agent, cheetahs, 50, Workers()) == 50
    agent.tasks_at_once = 2
    assert evaluation_slots(agent, Echo(), 4, Workers()) == 6


def test_first_tasks_of_a_larger_evaluation_are_those_of_a_smaller():
    small, large = evaluate(rl2(), num_tasks=5), evaluate(rl2(), num_tasks=40)
    assert np.array_equal(small.returns, large.returns[:, :5])
    assert np.array_equal(small.trial_return, large.trial_return[:5])


@pytest.mark.parametrize("num_envs", [None, 300])
def test_tasks_beyond_the_first_block_are_new(num_envs):
    agent = Counter()
    evaluate(agent, Echo(), num_tasks=1010, num_episodes=1, num_envs=num_envs)
    firsts = [t.observation.flatten() for t, _ in agent.seen if t.trial_start.all()]
    shown = torch.cat(firsts)  # Echo shows its task, as float32: two may look alike by chance
    assert len(shown) == 1010
    assert len(set(shown.tolist())) > 1005


def drawn(**changes):
    agent, tasks = Counter(), Echo()
    curve = evaluate(agent, tasks, num_tasks=20, **changes)
    assert curve.returns.shape == (4, 20)
    return agent.seen[0][0].observation.flatten().numpy() % 1  # Echo shows its task


def test_seed_phase_and_iteration_choose_the_tasks():
    base = drawn()
    assert np.array_equal(base, drawn())
    for change in ({"seed": 1}, {"phase": metarl.seeding.Phase.VALIDATE}, {"iteration": 1}):
        assert np.abs(base - drawn(**change)).min() > 1e-5


def test_splits_have_tasks_that_are_not_even_alike():
    assert np.abs(drawn(split="test") - drawn(split="train")).min() > 1e-5


def test_agent_is_not_changed():
    agent = rl2()
    before = {name: x.clone() for name, x in agent.state()[0].items()}
    evaluate(agent)
    assert all(before[name].equal(x) for name, x in agent.state()[0].items())


def test_greedy_actions_do_not_depend_on_the_draw():
    tasks = Echo()
    agent = rl2(tasks)
    greedy, sampled = (evaluate(agent, tasks, greedy=g).returns for g in (True, False))
    agent.head.policy.log_std.data.fill_(3.0)  # draws are wider, the most likely stays
    assert np.array_equal(evaluate(agent, tasks, greedy=True).returns, greedy)
    assert not np.array_equal(evaluate(agent, tasks).returns, sampled)


def test_an_untrained_agent_earns_what_chance_does():
    tasks = metarl.make("bandit/n10-k5")
    agent = RL2(RL2Config(), metarl.TaskSpec.of(tasks))
    curve = evaluate(agent, tasks, num_tasks=2000)
    # 20 000 pulls, correlated within a task at most: standard error below 0.5 / sqrt(2000) = 0.011
    assert curve.returns.mean() == pytest.approx(0.5, abs=0.04)
    assert curve.trial_return == pytest.approx(curve.returns.sum(0))


# points


def test_an_agent_that_learns_as_it_acts_has_a_point_an_episode():
    curve = evaluate(Counter(), Echo())
    assert curve.episodes == (0, 1, 2, 3)
    assert np.array_equal(curve.returns, np.tile([[0], [2], [4], [6]], 12))  # two steps
    assert np.array_equal(curve.success, np.tile([[0], [1], [1], [1]], 12))
    assert np.array_equal(curve.trial_return, np.full(12, 12))


@pytest.mark.parametrize("num_envs", [1, 3, 100])
def test_an_agent_that_adapts_in_rounds_has_a_point_a_round(num_envs):
    agent = Counter(per_round=3)
    curve = evaluate(agent, Echo(), num_episodes=9, num_tasks=5, num_envs=num_envs)
    assert curve.episodes == (0, 3, 6)
    assert np.array_equal(curve.returns, np.tile([[0], [2], [4]], 5))
    assert np.array_equal(curve.success, np.tile([[0], [1], [1]], 5))
    assert np.array_equal(curve.trial_return, np.full(5, 18))  # 3 episodes a round
    assert sum(tasks for tasks, _ in agent.adapted_to) == 10  # 5 tasks, twice
    assert {episodes for _, episodes in agent.adapted_to} == {3}


def test_without_a_number_an_agent_that_adapts_has_four_points():
    assert evaluate(Counter(20), Echo(), num_tasks=2).episodes == (0, 20, 40, 60)


def test_a_probe_leaves_the_context_as_it_was():
    agent = Counter()
    curve = evaluate(agent, Echo(), score="greedy-copy")
    assert curve.episodes == (0, 1, 2, 3)
    assert np.array_equal(curve.returns, np.tile([[0], [2], [4], [6]], 12))
    assert curve.trial_return is None
    assert curve.summary()["actions"] == "greedy"
    assert [greedy for _, greedy in agent.seen] == [True, True, False, False] * 3 + [True, True]


@pytest.mark.parametrize("adapts_every", [None, 3])
def test_a_task_s_probes_start_alike(adapts_every):
    agent = Counter(adapts_every)
    probes = evaluate(agent, Lottery(), score="greedy-copy", num_episodes=9).returns
    assert len(np.unique(probes[0])) == 12  # another draw for each task
    assert np.array_equal(probes, np.tile(probes[0], (len(probes), 1)))
    experienced = evaluate(agent, Lottery(), num_episodes=9).returns
    assert not np.array_equal(experienced[0], experienced[1])


def test_a_probe_of_an_agent_that_adapts_in_rounds_has_its_points():
    agent = Counter(per_round=3)
    curve = evaluate(agent, Echo(), score="greedy-copy", num_episodes=9, num_tasks=4)
    assert curve.episodes == (0, 3, 6)
    assert np.array_equal(curve.returns, np.tile([[0], [2], [4]], 4))
    assert agent.adapted_to == [(4, 3)] * 2


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"num_tasks": 0}, "--evaluation-tasks"),
        ({"num_episodes": 0}, "--episodes-per-trial"),
        ({"num_envs": 0}, "--num-envs"),
        ({"num_envs": -3}, "--num-envs"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_numbers_that_make_no_evaluation_are_refused(changes, name):
    with pytest.raises(UserError, match=f"^{name}: got"):
        evaluate(Counter(), Echo(), **changes)


@pytest.mark.parametrize("num_episodes", [2, 4])
def test_episodes_that_fill_no_round_are_refused(num_episodes):
    said = f"--episodes-per-trial: got {num_episodes}; accepted: a multiple of 3"
    with pytest.raises(UserError, match=said):
        evaluate(Counter(3), Echo(), num_episodes=num_episodes)


# statistics


def test_summary_of_hand_typed_numbers():
    values = np.array([[1.0, 2, 3, 4, 100], [7, 7, 7, 7, 7]])
    result = summarize_returns(values, episodes_per_score=10)
    assert result["mean"] == [22, 7]
    assert result["iqm"] == result["median"] == [3, 7]  # of the middle half: 2, 3, 4
    assert result["low"][0] < 22 < result["high"][0]
    assert result["low"][1] == result["high"][1] == 7


def test_one_task_has_no_interval():
    """Its value as both bounds would say that other tasks have the same value."""
    assert summarize(np.array([[3.0]])) == {"mean": [3], "low": None, "high": None}


def test_only_means_over_ten_episodes_have_a_median_and_an_interquartile_mean():
    """Of single outcomes, both would be 0 for 22 of 100 successes, and 1 for 96."""
    paid = np.stack([np.zeros(100), (np.arange(100) < 22).astype(float)])
    assert summarize_returns(paid)["iqm"] is summarize_returns(paid)["median"] is None
    for number, given in ((9, False), (10, True)):
        metrics = {"return": paid, "success": paid, "speed": 3 * paid}
        summary = summarize_metrics(metrics, episodes_per_score=number)
        assert summary["gain"]["mean"] == 0.22
        for name in ("gain", "return"):
            assert (summary[name]["iqm"] is not None) == (summary[name]["median"] is not None)
            assert (summary[name]["iqm"] is not None) == given
        for values in (summary["success"], summary["info"]["speed"]):
            assert values.keys() == {"mean", "low", "high"}


def test_rounds_of_ten_episodes_have_an_interquartile_mean_and_pulls_have_not():
    pulls = evaluate(rl2()).summary()
    assert pulls["return"]["iqm"] is pulls["gain"]["iqm"] is pulls["trial_return"]["iqm"] is None
    rounds = evaluate(Counter(10), Kinds()).summary()
    assert None not in (rounds["return"]["iqm"], rounds["gain"]["median"])
    group = rounds["groups"]["0"]
    assert group["success"].keys() == {"mean", "low", "high"}
    assert group["return"]["iqm"] is not None


@pytest.mark.parametrize(("num_tasks", "fixed"), [(59, None), (60, "tasks"), (150, "tasks")])
def test_a_finite_set_that_is_gone_through_whole_is_fixed(tmp_path, num_tasks, fixed):
    """Returns are the number of the task, so that nothing varies but the task."""
    curve = evaluate(Counter(), Kinds(), num_tasks=num_tasks)
    summary = curve.save(tmp_path, "test")
    assert summary["fixed"] == fixed
    low, high = (summary["return"][name] for name in ("low", "high"))
    if num_tasks == 59:
        assert low[0] < summary["return"]["mean"][0] < high[0]
    elif num_tasks == 60:
        assert low is high is None  # There is nothing to take a sample of.
    else:  # 30 tasks were met three times and 30 twice, each with one result.
        assert low == high == summary["return"]["mean"]
        assert summary["return"]["mean"] == pytest.approx([59] * 4)  # 29.5 at both steps
    again = AdaptationCurve.load(tmp_path, "test")
    assert again.fixed == fixed and np.array_equal(again.strata, curve.strata)


def test_trials_of_two_tasks_are_of_no_kind_and_no_finite_set(tmp_path):
    plain = evaluate_adaptation(Counter(), Kinds(), num_tasks=120)
    changed = evaluate_adaptation(Counter(), Kinds(), num_tasks=120, change_task_after=2)
    assert plain.groups is not None and plain.strata is not None
    assert changed.groups is changed.strata is changed.fixed is None
    summary = changed.save(tmp_path, "x")
    assert summary["groups"] is None and summary["return"]["low"] is not None


def test_the_first_of_the_tasks_change_to_the_same_ones_whatever_follows(monkeypatch):
    monkeypatch.setattr("metarl.evaluation.drawn_tasks.TASK_BLOCK", 10)
    few, more = (
        evaluate_adaptation(Counter(), PaysItsParameter(), num_tasks=number, change_task_after=2)
        for number in (20, 31)
    )
    assert (more.returns[:, :20] == few.returns).all()
    assert (more.returns[0] != more.returns[3]).all()  # the single one of the last block too


def test_partners_differ_in_blocks_of_equal_tasks_too(monkeypatch):
    monkeypatch.setattr("metarl.evaluation.drawn_tasks.TASK_BLOCK", 4)
    tasks = [Task.of("t", x=x) for x in (0, 0, 0, 0, 0, 0, 1, 2, 0)]
    partners = partners_in_blocks(tasks, np.random.default_rng(0), "--x")
    assert all(tasks[i] != tasks[j] for i, j in enumerate(partners))
    assert set(partners[4:8]) <= {4, 5, 6, 7}
    with pytest.raises(UserError, match="--x: got 5 tasks, of which no two differ"):
        partners_in_blocks(tasks[:5], np.random.default_rng(0), "--x")


def test_kinds_of_a_set_that_was_drawn_are_fixed_and_its_tasks_are_not():
    class Drawn(Kinds):
        drawn_set = True

    curve = evaluate(Counter(), Drawn(), num_tasks=60)
    assert curve.fixed == "kinds"
    low, high = (curve.summary()["return"][name][0] for name in ("low", "high"))
    over = [curve.returns[0, i::3].var(ddof=1) / 20 for i in range(3)]
    half = stats.t.ppf(0.975, 57) * np.sqrt(sum(over)) / 3
    assert (high - low) / 2 == pytest.approx(half, rel=1e-3)


@pytest.mark.parametrize(("n", "tolerance"), [(200, 0.1), (1000, 0.1), (1001, 1e-6), (5000, 1e-6)])
def test_interval_is_the_normal_one_where_there_are_many_tasks(n, tolerance):
    values = np.random.default_rng(0).normal(5, 2, (3, n))
    result = summarize(values)
    half = 1.959964 * values.std(1, ddof=1) / np.sqrt(n)
    for i in range(3):
        assert result["high"][i] - result["mean"][i] == pytest.approx(half[i], rel=tolerance)
        assert result["mean"][i] - result["low"][i] == pytest.approx(half[i], rel=tolerance)


@pytest.mark.parametrize("n", [2, 7, 999])
def test_the_quick_interval_of_whole_numbers_is_scipy_s_to_the_bit(n):
    values = np.random.default_rng(n).integers(-3, 1000, (4, n)).astype(float)
    drawn = stats.bootstrap(
        (values,),
        np.mean,
        axis=1,
        n_resamples=2000,
        batch=50,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    result = summarize(values.astype(np.float32))
    assert result["low"] == drawn.confidence_interval.low.tolist()
    assert result["high"] == drawn.confidence_interval.high.tolist()


# files


@pytest.mark.parametrize("score", ["adapting-episodes", "greedy-copy"])
@pytest.mark.parametrize("tasks", [BANDIT, Echo()], ids=["bandit", "echo"])
def test_files_have_the_fields_of_the_design(tmp_path, tasks, score):
    agent = Counter() if isinstance(tasks, Echo) else rl2()
    curve = evaluate(agent, tasks, score=score, greedy=True, agent_name="rl2", seed=3)
    curve.save(tmp_path, "test")
    summary = read_summary(tmp_path / "test.json")
    assert summary.keys() == FIELDS
    assert (summary["format"], summary["split"], summary["num_tasks"]) == (1, "test", 12)
    assert (summary["score"], summary["actions"]) == (score, "greedy")
    assert summary["episodes"] == [0, 1, 2, 3]
    assert summary["return"].keys() == {"mean", "median", "iqm", "low", "high"}
    assert all(len(summary["return"][name]) == 4 for name in ("mean", "low", "high"))
    assert (summary["success"] is None) == (tasks is BANDIT)
    with np.load(tmp_path / "test.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["return"], curve.returns)
        assert ("success" in arrays) == (tasks is not BANDIT)
        assert ("trial_return" in arrays) == (score == "adapting-episodes")
    paired = curve.returns[-1] - curve.returns[0]
    assert summary["gain"]["mean"] == pytest.approx(paired.mean(), abs=1e-6)
    assert summary["gain"]["low"] >= paired.min() and summary["gain"]["high"] <= paired.max()
    if score == "adapting-episodes":
        assert summary["trial_return"]["mean"] == pytest.approx(curve.trial_return.mean())


@pytest.mark.parametrize("score", ["adapting-episodes", "greedy-copy"])
@pytest.mark.parametrize("adapts_every", [None, 3])
def test_reported_values_are_shown_like_success(tmp_path, score, adapts_every):
    curve = evaluate(Counter(adapts_every), Reports(), score=score, num_episodes=9)
    curve.save(tmp_path, "test")
    points = len(curve.episodes)
    summary = read_summary(tmp_path / "test.json")
    assert summary["info"].keys() == {"speed"}  # the mean over an episode's steps
    assert summary["info"]["speed"]["mean"] == [1.0 + k for k in range(points)]
    with np.load(tmp_path / "test.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["info.speed"], np.tile(1.0 + np.arange(points)[:, None], 12))


def test_what_an_environment_reports_is_shown_by_kind_of_task():
    class ReportingKinds(Kinds, Reports):
        info_keys = Reports.info_keys

    groups = evaluate(Counter(), ReportingKinds(), num_tasks=7).summary()["groups"]
    assert groups["2"]["info"]["speed"].keys() == {"mean", "low", "high"}


@pytest.mark.parametrize("name", ["return", "length"])
def test_a_reported_value_does_not_replace_an_episode_s_own(name):
    class Hides(Reports):
        info_keys = (name,)

        def transition(self, state, action, noise):
            now = super().transition(state, action, noise)
            return now._replace(info={name: now.info["speed"]})

    with pytest.raises(UserError, match=f"info_keys: got '{name}'; accepted: other names"):
        evaluate(Counter(), Hides())


@pytest.mark.parametrize("score", ["adapting-episodes", "greedy-copy"])
def test_a_reported_value_that_is_not_finite_is_named(score):
    class Unsure(Reports):
        def transition(self, state, action, noise):
            now = super().transition(state, action, noise)
            return now._replace(info=now.info | {"speed": np.full(len(now.reward), np.nan)})

    with pytest.raises(EnvError, match=r"info\['speed'\] is nan; accepted: a finite number"):
        evaluate(Counter(), Unsure(), score=score)


def test_json_is_strict(tmp_path):
    evaluate(rl2()).save(tmp_path, "test")

    def refuse(token):
        raise AssertionError(token)

    json.loads((tmp_path / "test.json").read_text(), parse_constant=refuse)


@pytest.mark.parametrize("text", [None, "{", "[]", '{"format": 2}'])
def test_what_is_no_summary_is_refused(tmp_path, text):
    path = tmp_path / "test.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=r"test\.json"):
        read_summary(path)


# one environment


def test_an_adapted_policy_plays_an_ordinary_environment():
    (task,) = BANDIT.sample(np.random.default_rng(0), 1, "test")
    env = BANDIT.make(task)
    policy = metarl.adapt(rl2(), env, episodes=5)
    observation, _ = env.reset(seed=0)
    action = policy.act(observation)
    assert env.action_space.contains(action)
    _, reward, *_ = env.step(action)
    observation, _ = env.reset()
    assert env.action_space.contains(policy.act(observation, reward, boundary=True))
    action, _ = policy.predict(observation, deterministic=True)
    assert env.action_space.contains(action)


def test_an_adapted_policy_acts_within_the_bounds():
    tasks = metarl.make("half-cheetah/velocity", horizon=5)
    env = tasks.make(Task.of(tasks.name, velocity=1.0))
    agent = rl2(tasks, initial_std=30.0, episodes_per_trial=1)
    policy = metarl.adapt(agent, env, episodes=1)
    observation, _ = env.reset(seed=0)
    actions = [policy.act(observation) for _ in range(5)]
    assert all(env.action_space.contains(action) for action in actions)
    assert np.abs(actions).max() == 1  # it was clipped
    assert env.step(actions[0])[0].shape == (17,)


def echo_env():
    return Echo().make(Task.of("echo", x=0.25))


@pytest.mark.parametrize("episodes", [0, 1, 3])
def test_a_policy_has_adapted_for_the_episodes_asked_for(episodes):
    policy = adapt(Counter(), echo_env(), episodes=episodes)
    assert policy.act([0.25], boundary=True) == [episodes]


@pytest.mark.parametrize("episodes", [0, 1, 3])
def test_a_policy_s_first_action_is_at_the_start_of_an_episode(episodes):
    agent = Counter()
    policy = adapt(agent, echo_env(), episodes=episodes)
    policy.act([0.25])
    policy.act([0.25], 1.5)
    first, second = (timestep for timestep, _ in agent.seen[-2:])
    assert bool(first.boundary)
    assert bool(first.trial_start) == (episodes == 0)
    assert not second.boundary


def test_a_policy_is_fed_its_last_action_and_reward():
    agent = Counter()
    policy = adapt(agent, echo_env(), episodes=3)
    policy.act([0.25], boundary=True)
    policy.act([0.75], 1.5)
    (before, _), (now, _) = agent.seen[-2:]
    assert (before.previous_action.item(), before.previous_reward.item()) == (2, 2)
    assert (now.previous_action.item(), now.previous_reward.item()) == (3, 1.5)
    assert (now.observation.item(), now.trial_start.item()) == (0.75, False)


def test_a_reward_that_is_not_given_is_not_the_last_one_again():
    agent = Counter()
    policy = adapt(agent, echo_env(), episodes=3)
    for _ in range(2):
        policy.act([0.25])
    (first, _), (second, _) = agent.seen[-2:]
    assert (first.previous_reward.item(), second.previous_reward.item()) == (2, 0)


def test_adapting_in_rounds_takes_whole_rounds():
    assert adapt(Counter(3), echo_env(), episodes=6).act([0.25]) == [2]
    with pytest.raises(UserError, match="episodes: got 4; accepted: a multiple of 3"):
        adapt(Counter(3), echo_env(), episodes=4)


def test_negative_episodes_are_refused():
    with pytest.raises(UserError, match="episodes: got -1"):
        adapt(Counter(), echo_env(), episodes=-1)


def test_sampled_actions_differ_and_are_the_same_for_one_seed():
    agent, env = rl2(Echo()), echo_env()
    first, again, other = (adapt(agent, env, episodes=1, seed=seed) for seed in (0, 0, 1))
    actions = [policy.act([0.25]).item() for policy in (first, again, other)]
    assert actions[0] == actions[1] != actions[2]
    assert first.act([0.25]) != again.act([0.25], greedy=True)


@pytest.mark.parametrize("split", ["train", "test"])
def test_evaluation_tasks_are_those_of_the_results(monkeypatch, split):
    monkeypatch.setattr(
        "metarl.evaluation.drawn_tasks.TASK_BLOCK", 5
    )  # the tasks come from three blocks
    tasks = PaysItsParameter()
    curve = evaluate_adaptation(Counter(), tasks, split=split, num_tasks=12, seed=3)
    drawn = evaluation_tasks(tasks, split=split, num_tasks=12, seed=3)
    assert curve.returns[0] == pytest.approx([2 * task["x"] for task in drawn])
    assert len({task["x"] for task in drawn}) == 12


def test_finite_tasks_are_gone_through_in_turn_each_as_often_as_the_others():
    assert default_tasks(Kinds(), "test") == 60
    curve = evaluate_adaptation(Counter(), Kinds())
    assert curve.returns[0] == pytest.approx([2.0 * i for i in range(60)])
    more = evaluate_adaptation(Counter(), Kinds(), num_tasks=130, workers=Workers(num_envs=50))
    assert more.returns[0] == pytest.approx([2.0 * (i % 60) for i in range(130)])


def test_few_tasks_and_infinitely_many_are_evaluated_on_1000():
    direction = metarl.make("half-cheetah/direction")
    assert default_tasks(direction, "test") == 1000
    assert default_tasks(PaysItsParameter(), "test") == 1000


def test_each_kind_of_task_has_its_own_means(tmp_path):
    curve = evaluate_adaptation(Counter(), Kinds(), num_tasks=7, num_episodes=2)
    curve.save(tmp_path, "test")
    groups = json.loads((tmp_path / "test.json").read_text())["groups"]
    assert {label: group["num_tasks"] for label, group in groups.items()} == {
        "0": 3,
        "1": 2,
        "2": 2,
    }
    assert groups["1"]["return"]["mean"] == pytest.approx([2 * (1 + 4) / 2] * 2)
    assert groups["2"]["success"]["mean"] == [0, 1]
    with np.load(tmp_path / "test.npz", allow_pickle=False) as arrays:
        assert arrays["group"].tolist() == ["0", "1", "2", "0", "1", "2", "0"]


@pytest.mark.parametrize(("last", "whole"), [(499, True), (9999, False)])
def test_thousands_of_generated_tasks_are_a_population_and_hundreds_are_a_set(last, whole):
    """Of 500 numbers 100 are for tests, of 10 000 there are 2000."""
    levels = {"level": metarl.Integers(0, last)}
    tasks = metarl.FunctionTasks(lambda p: gym.make("CartPole-v1"), levels, horizon=3)
    assert default_tasks(tasks, "test") == (100 if whole else 1000)
    drawn = evaluation_tasks(tasks, num_tasks=100)
    assert (strata_of(tasks, "test", 100, []) is not None) == whole
    numbers = [task["level"] for task in drawn]
    assert (numbers == sorted(numbers)) == whole
    assert not {x % 5 for x in numbers} & {
        task["level"] % 5 for task in tasks.sample(np.random.default_rng(0), 200, "train")
    }

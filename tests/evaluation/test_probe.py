"""A linear probe: does it read what a context holds, when it holds it, and nothing else?"""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch

import metarl
from metarl.agents.rl2 import RL2Config
from metarl.errors import UserError
from metarl.evaluation.drawn_tasks import evaluation_tasks
from metarl.evaluation.probe import PENALTIES, parameters_of, predict_across, probe_context
from metarl.experience.agent import TrialShape
from metarl.options import with_options
from metarl.running.commands import run_evaluate
from metarl.running.settings import Settings, TrainConfig
from metarl.running.train import train
from metarl.stepping.options import Workers
from metarl.task import Task
from metarl.tasks.arrays import ArrayTaskDistribution, Transition


class Shown(ArrayTaskDistribution):
    """Two episodes of up to four steps; every observation is the task's number ``x``."""

    name = "shown"
    horizon = 4
    episodes_per_trial = 2
    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def sample(self, rng, n, split):
        return [Task.of(self.name, x=x, constant=1.0) for x in rng.uniform(size=n)]

    def initial(self, params, noise):
        return {"x": params["x"]}, params["x"][:, None]

    def transition(self, state, action, noise):
        never = np.zeros(len(action), np.bool_)
        return Transition(state, state["x"][:, None], action[:, 0], never, {})


class Short(Shown):
    """Episodes of half of the tasks end after one step."""

    def transition(self, state, action, noise):
        return super().transition(state, action, noise)._replace(terminated=state["x"] < 0.5)


class Equal(Shown):
    """All tasks are the same."""

    def sample(self, rng, n, split):
        return [Task.of(self.name, x=0.5, constant=1.0)] * n


class LateReader:
    """Writes the observation of the fourth step of a trial into its context, and keeps it."""

    def __init__(self, shape=None):
        self.shape = shape or TrialShape(2)

    def begin(self, num_tasks):
        return {"steps": torch.zeros(num_tasks, 1), "read": torch.zeros(num_tasks, 1)}

    def act(self, context, timestep, generator, greedy=False):
        steps, read = context["steps"], context["read"]
        now = timestep.active & (steps == 3)
        read = torch.where(now, timestep.observation[:, :, 0], read)
        steps = steps + timestep.active
        return torch.zeros(*timestep.active.shape, 1), {}, {"steps": steps, "read": read}

    def adapt(self, context, episodes, generator):
        return context


class Adapts(LateReader):
    """Reads the first observation of a round when it adapts."""

    def act(self, context, timestep, generator, greedy=False):
        return torch.zeros(*timestep.active.shape, 1), {}, context

    def adapt(self, context, episodes, generator):
        return context | {"read": episodes.observation[:, 0, 0]}


class Empty(LateReader):
    """Keeps nothing."""

    def begin(self, num_tasks):
        return ()


def ridge(features, targets, penalty):
    """Return the function that a ridge regression with a free intercept has found."""
    center, mean = features.mean(0), targets.mean(0)
    x = features - center
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (targets - mean))
    return lambda new: (new - center) @ weights + mean


def test_predictions_are_those_of_ridge_regressions_with_the_best_left_out_error():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(24, 5)) * [1, 10, 0.1, 1, 0] + 3  # the last one is constant
    targets = np.stack([features[:, 0] + 0.1 * rng.normal(size=24), rng.normal(size=24)], 1)
    folds = rng.permutation(24) % 3
    predicted, guessed = predict_across(features, targets, folds)
    for fold in range(3):
        own, others = folds == fold, folds != fold
        scale = features[others].std(0)[:4] * 2  # two is the root of the number of features
        x, y = features[others][:, :4] / scale, targets[others]
        np.testing.assert_allclose(guessed[own], np.tile(y.mean(0), (own.sum(), 1)))
        for target in range(2):
            errors = []
            for penalty in PENALTIES * len(x):
                left_out = [
                    ridge(np.delete(x, i, 0), np.delete(y[:, target], i), penalty)(x[i])
                    - y[i, target]
                    for i in range(len(x))
                ]
                errors.append(np.sum(np.square(left_out)))
            best = PENALTIES[np.argmin(errors)] * len(x)
            expected = ridge(x, y[:, target], best)(features[own][:, :4] / scale)
            margin = 0.25 * np.ptp(y[:, target])
            expected = expected.clip(y[:, target].min() - margin, y[:, target].max() + margin)
            np.testing.assert_allclose(predicted[own, target], expected, atol=1e-8)


def test_a_context_of_noise_tells_nothing_and_a_linear_one_all():
    rng = np.random.default_rng(1)
    targets = rng.normal(size=(200, 2))
    folds = np.arange(200) % 5
    noise = rng.normal(size=(200, 400))
    predicted, guessed = predict_across(noise, targets, folds)
    r2 = 1 - ((targets - predicted) ** 2).sum(0) / ((targets - guessed) ** 2).sum(0)
    assert (r2 < 0.05).all() and (r2 > -0.3).all()
    mixed = targets @ rng.normal(size=(2, 400)) + 0.01 * noise
    predicted, _ = predict_across(mixed, targets, folds)
    assert ((targets - predicted) ** 2).mean() < 1e-3


class Few(Shown):
    """Tasks of a few kinds: an observation is one of as many unit vectors, in no order."""

    name = "few"
    observation_space = gym.spaces.Box(-np.inf, np.inf, (12,), np.float32)

    def __init__(self, number):
        super().__init__()
        self.number = number

    def sample(self, rng, n, split):
        numbers = rng.permutation(n) % self.number
        return [Task.of(self.name, x=float(i)) for i in numbers]

    def initial(self, params, noise):
        return {"x": params["x"]}, np.eye(12, dtype=np.float32)[params["x"].astype(int)]

    def transition(self, state, action, noise):
        seen = np.eye(12, dtype=np.float32)[state["x"].astype(int)]
        never = np.zeros(len(action), np.bool_)
        return Transition(state, seen, action[:, 0], never, {})


class Recogniser(LateReader):
    """Remembers what it sees: which task it is, and nothing of how tasks are related."""

    def begin(self, num_tasks):
        return torch.zeros(num_tasks, 12)

    def act(self, context, timestep, generator, greedy=False):
        return torch.zeros(*timestep.active.shape, 1), {}, timestep.observation[:, 0]


@pytest.mark.parametrize(("number", "known"), [(12, False), (4, True)])
def test_a_probe_is_asked_of_other_tasks_unless_there_are_few(number, known):
    """Nothing about a new task follows from its being another one than those met before."""
    curve = probe_context(Recogniser(), Few(number), num_tasks=120)
    assert (curve.mean[-1] > 0.9) if known else (curve.mean[-1] < 0.1)


def test_a_row_with_unusual_features_does_not_decide_the_result():
    rng = np.random.default_rng(2)
    targets = rng.uniform(size=(50, 1))
    features = targets + 0.1 * rng.normal(size=(50, 1))
    features[7] = 1e4
    predicted, _ = predict_across(features, targets, np.arange(50) % 5)
    assert predicted.min() >= -0.25 and predicted.max() <= 1.25


def test_a_probe_finds_the_step_at_which_the_context_knows():
    curve = probe_context(LateReader(), Shown(), num_tasks=40)
    assert curve.unit == "steps" and curve.experience == (0, 1, 2, 3, 4, 5, 6, 7)
    assert curve.parameters == ("x",)  # the other one is constant
    np.testing.assert_array_equal(curve.r2[:3], 0.0)
    np.testing.assert_allclose(curve.r2[3:], 1.0, atol=1e-3)
    assert (curve.low <= curve.mean).all() and (curve.mean <= curve.high).all()
    in_parts = probe_context(LateReader(), Shown(), num_tasks=40, workers=Workers(num_envs=7))
    np.testing.assert_array_equal(in_parts.r2, curve.r2)


def test_trials_that_have_ended_are_left_out():
    curve = probe_context(LateReader(), Short(), num_tasks=60)
    short = sum(task["x"] < 0.5 for task in evaluation_tasks(Short(), num_tasks=60))
    expected = [60, 60] + [60 - short] * 6  # two episodes of one step each
    assert list(curve.num_tasks) == expected


def test_an_agent_that_adapts_in_rounds_is_probed_between_them():
    shape = TrialShape(2, num_adaptations=1, sequential=False)
    curve = probe_context(Adapts(shape), Shown(), num_tasks=30, num_episodes=6)
    assert curve.unit == "episodes" and curve.experience == (0, 2, 4)
    np.testing.assert_array_equal(curve.r2[0], 0.0)
    np.testing.assert_allclose(curve.r2[1:], 1.0, atol=1e-3)
    assert json.loads(json.dumps(curve.summary()))["r2"]["by_parameter"]["x"][0] == 0.0


def test_parameters_are_numbers_entries_of_vectors_and_texts():
    tasks = [
        Task.of("t", cls="reach", goal=(1.0, 5.0), c=2),
        Task.of("t", cls="push", goal=(2.0, 5.0), c=2),
    ]
    names, values = parameters_of(tasks)
    assert names == ("cls=push", "cls=reach", "goal[0]")
    np.testing.assert_array_equal(values, [[0, 1, 1], [1, 0, 2]])


@pytest.mark.parametrize(
    ("agent", "tasks", "number", "message"),
    [
        (LateReader(), Shown(), 19, "--evaluation-tasks: got 19; accepted: 20 to 2000 for a probe"),
        (LateReader(), Equal(), 30, "--probe: got equal tasks of shown; accepted: tasks that"),
        (Empty(), Shown(), 30, "--probe: Empty keeps nothing of its tasks in its context"),
    ],
)
def test_what_cannot_be_probed_is_refused(agent, tasks, number, message):
    with pytest.raises(UserError, match=message):
        probe_context(agent, tasks, num_tasks=number)


def test_the_command_probes_a_run_beside_an_untrained_agent(tmp_path, capsys, monkeypatch):
    config = with_options(RL2Config(), tasks_per_update=4, hidden_size=4, num_minibatches=1)
    options = {"iterations": 1, "evaluation_tasks": 7, "validation_tasks": 2, "check": False}
    options = with_options(TrainConfig(), env="bandit/n4-k3", run_dir=tmp_path / "run", **options)
    monkeypatch.setattr("metarl.running.evaluate.plot_adaptation", lambda lines, path: None)
    train(Settings("rl2", config, options))
    capsys.readouterr()
    run_evaluate([str(tmp_path / "run"), "--probe", "--evaluation-tasks", "25"])
    content = json.loads((tmp_path / "run/evaluation/test-tasks-25-probe.json").read_text())
    assert content["trained"]["experience"] == content["untrained"]["experience"] == [0, 1, 2, 3]
    assert len(content["trained"]["r2"]["by_parameter"]) == 3
    assert (tmp_path / "run/evaluation/test-tasks-25-probe.png").stat().st_size > 1000
    shown = capsys.readouterr().out
    assert "linear probe" in shown and "steps" in shown
    assert content["checkpoint"] == "final"
    both = metarl.evaluate_probe(tmp_path / "run", evaluation_tasks=25, output=tmp_path / "same")
    again = json.loads((tmp_path / "same/test-tasks-25-probe.json").read_text())
    assert again == content and both[0].summary() == content["trained"]
    with pytest.raises(UserError, match="evaluate_probe: no option 'task'"):
        metarl.evaluate_probe(tmp_path / "run", task=25)

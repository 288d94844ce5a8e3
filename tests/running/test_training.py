"""The training loop: does a seed give the same parameters, whatever interrupts or observes it?"""

import contextlib
import dataclasses
from contextlib import closing
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch

import metarl
from metarl.agents.rl2 import RL2, RL2Config
from metarl.envs.bandit import BernoulliBandit
from metarl.envs.gridworld import GridWorld
from metarl.errors import DivergenceError, UserError
from metarl.evaluation.evaluate import evaluate_adaptation
from metarl.options import with_options
from metarl.running.checkpoints import CheckpointStore
from metarl.running.metrics import read_metrics
from metarl.running.settings import TrainConfig
from metarl.running.training import meta_train, resident_mib

pytestmark = pytest.mark.usefixtures("small_blocks")

TASKS = metarl.make("bandit/n2-k2")
AGENT = with_options(
    RL2Config(), tasks_per_update=6, hidden_size=4, num_minibatches=2, num_epochs=1
)
CONFIG = with_options(
    TrainConfig(),
    env="bandit/n2-k2",
    iterations=4,
    checkpoint_interval=2,
    validation_interval=2,
    validation_tasks=2,
    schedule_iterations=4,
)


class Stumbling(RL2):
    """Fails in the middle of an update, with half of it done."""

    fails_at = 3
    error: type[BaseException] = RuntimeError

    def update(self, trial, generator, progress):
        if self.targets.num_updates == self.fails_at:
            super().update(trial, generator, progress)
            raise self.error("stumbled")
        return super().update(trial, generator, progress)


def new_agent(seed=0, kind=RL2):
    return kind(AGENT, metarl.TaskSpec.of(TASKS), seed=seed)


def train(directory, agent=None, **changes):
    config = with_options(CONFIG, **changes)
    directory.mkdir(exist_ok=True)
    return meta_train(agent or new_agent(config.seed), TASKS, config, directory)


def resume(directory, **changes):
    saved = CheckpointStore(directory / "checkpoints").load()
    agent = new_agent(seed=99)  # nothing of what it starts with may be left
    saved.load_into(agent)
    at = {"iteration": saved.iteration, "env_steps": saved.env_steps}
    return meta_train(agent, TASKS, with_options(CONFIG, **changes), directory, **at)


def metrics_of(directory):
    lines = read_metrics(directory / "metrics.jsonl")
    return [
        {k: v for k, v in line.items() if not k.startswith(("time/", "memory/"))} for line in lines
    ]


def same(a, b):
    """Compare parameters, optimiser, counters, bit for bit."""
    assert any(name.startswith("optimizer.") for name in a.tensors)
    return (
        (a.iteration, a.env_steps, a.extra) == (b.iteration, b.env_steps, b.extra)
        and a.tensors.keys() == b.tensors.keys()
        and all(a.tensors[name].equal(b.tensors[name]) for name in a.tensors)
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory, small_blocks):
    """A run that never stopped: its directory and its last checkpoint."""
    directory = tmp_path_factory.mktemp("whole")
    return directory, train(directory)


# which tasks a training may look at


class Guarded:
    """Refuses to hand out a test task."""

    def sample(self, rng, n, split):
        assert split != "test", "training looked at a test task"
        return super().sample(rng, n, split)

    def tasks(self, split):
        assert split != "test", "training looked at a test task"
        return super().tasks(split)


@pytest.mark.parametrize("family", [BernoulliBandit, GridWorld], ids=["infinite", "finite"])
def test_a_training_looks_at_no_test_task(family, tmp_path):
    tasks = type("Guarded", (Guarded, family), {})()
    spec = metarl.TaskSpec.of(tasks)
    checkpoint = meta_train(RL2(AGENT, spec), tasks, CONFIG, tmp_path)
    assert checkpoint.score is not None  # it was validated
    with pytest.raises(AssertionError, match="looked at a test task"):
        evaluate_adaptation(RL2(AGENT, spec), tasks, num_tasks=2)


def test_a_training_is_validated_on_validation_tasks(tmp_path, monkeypatch):
    asked = []
    sample = type(TASKS).sample

    def watch(self, rng, n, split):
        asked.append(split)
        return sample(self, rng, n, split)

    monkeypatch.setattr(type(TASKS), "sample", watch)
    train(tmp_path)
    # One task more tells how many numbers a task has.
    assert asked.count("train") == CONFIG.iterations + 1
    assert set(asked) == {"train", "validation"}


# numbers that grow out of all proportion


class Pixels(BernoulliBandit):
    """Pays as a bandit does, and shows a number of up to 255."""

    def __init__(self):
        super().__init__(2, 2)
        self.observation_space = gym.spaces.Box(0, 255, (1,), np.float32)

    def initial(self, params, noise):
        state, observation = super().initial(params, noise)
        return state, observation[:, None] + 255

    def transition(self, state, action, noise):
        result = super().transition(state, action, noise)
        return result._replace(observation=result.observation[:, None] + 255)


class Leaping(RL2):
    leap = 3e9

    def update(self, trial, generator, progress):
        return super().update(trial, generator, progress) | {"kl": self.leap}


def run_leaping(tasks, directory, leap=3e9, **config):
    agent = Leaping(dataclasses.replace(AGENT, **config), metarl.TaskSpec.of(tasks))
    agent.leap = leap
    meta_train(agent, tasks, with_options(CONFIG, iterations=1), directory)


def test_an_update_that_leaps_is_warned_of_with_its_probable_cause(tmp_path):
    with pytest.warns(
        UserWarning, match="iteration 1: update/kl is 3e\\+09.*reach 255.*--normalize"
    ):
        run_leaping(Pixels(), tmp_path)


@pytest.mark.parametrize(
    ("tasks", "config"), [(TASKS, {}), (Pixels(), {"normalize_observations": True})]
)
def test_observations_that_are_small_or_scaled_are_not_blamed(tasks, config, tmp_path):
    with pytest.warns(UserWarning, match="a smaller learning rate may help"):
        run_leaping(tasks, tmp_path, **config)


def test_a_divergence_names_large_observations_as_its_probable_cause(tmp_path):
    with pytest.raises(DivergenceError, match="update/kl is not finite; observations reach 255"):
        run_leaping(Pixels(), tmp_path, leap=float("nan"))


def test_an_ordinary_update_is_not_warned_of(tmp_path, recwarn):
    run_leaping(Pixels(), tmp_path, leap=0.03)
    assert not [w for w in recwarn if "update/kl" in str(w.message)]


# determinism


def test_same_seed_gives_the_same_parameters_bit_for_bit(whole, tmp_path):
    assert same(train(tmp_path), whole[1])
    assert metrics_of(tmp_path) == metrics_of(whole[0])


def test_another_seed_gives_other_parameters(whole, tmp_path):
    other = train(tmp_path, agent=new_agent(seed=0), seed=1)  # the same agent, other experience
    assert not other.tensors["head.critic.weight"].equal(whole[1].tensors["head.critic.weight"])


@pytest.mark.parametrize("num_envs", [1, 4])
def test_number_of_slots_does_not_change_training(whole, tmp_path, num_envs):
    other = train(tmp_path, num_envs=num_envs)
    returns = [[m["train/trial_return"] for m in metrics_of(d)] for d in (tmp_path, whole[0])]
    assert returns[0] == returns[1]
    for name, value in whole[1].tensors.items():  # matrix products round by their size
        torch.testing.assert_close(other.tensors[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "intervals", [{"validation_interval": 100}, {"checkpoint_interval": 1}, {"validation_tasks": 7}]
)
def test_looking_on_does_not_change_training(whole, tmp_path, intervals):
    assert same(train(tmp_path, **intervals), whole[1])


# stopping and going on


def test_resume_equals_never_stopped_bit_for_bit(whole, tmp_path):
    train(tmp_path, iterations=2)
    assert same(resume(tmp_path), whole[1])
    assert metrics_of(tmp_path) == metrics_of(whole[0])


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_the_last_finished_iteration(whole, tmp_path, monkeypatch, error):
    monkeypatch.setattr("metarl.running.training.copy_is_cheap", lambda *seconds: True)
    agent = new_agent(kind=Stumbling)
    agent.error = error
    with pytest.raises(error, match="stumbled"):
        train(tmp_path, agent)
    assert CheckpointStore(tmp_path / "checkpoints").iterations() == [2, 3]
    assert same(resume(tmp_path), whole[1])
    assert metrics_of(tmp_path) == metrics_of(whole[0])


def test_a_run_that_fails_at_once_leaves_its_start(whole, tmp_path):
    agent = new_agent(kind=Stumbling)
    agent.fails_at = 0
    with pytest.raises(RuntimeError, match="stumbled"):
        train(tmp_path, agent)
    assert same(resume(tmp_path), whole[1])


@pytest.mark.parametrize("call", [1, 2])
def test_an_interrupted_validation_is_done_again_on_resume(whole, tmp_path, monkeypatch, call):
    calls, validate = [], evaluate_adaptation

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return validate(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("metarl.running.training.evaluate_adaptation", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path)
    assert same(resume(tmp_path), whole[1])
    assert metrics_of(tmp_path) == metrics_of(whole[0])


def test_a_killed_run_resumes_from_its_last_checkpoint(whole, tmp_path):
    train(tmp_path, iterations=2)
    with (tmp_path / "metrics.jsonl").open("a") as file:  # two more iterations, one cut off
        file.write('{"iteration": 3, "env_steps": 999}\n{"iteration": 4, "en')
    assert same(resume(tmp_path), whole[1])
    assert metrics_of(tmp_path) == metrics_of(whole[0])


def test_a_finished_run_has_nothing_left_to_do(whole):
    before = metrics_of(whole[0])
    assert same(resume(whole[0]), whole[1])
    assert metrics_of(whole[0]) == before


# what is written


def test_metrics_have_the_numbers_one_looks_for(whole):
    metrics = metrics_of(whole[0])
    assert [m["iteration"] for m in metrics] == [1, 2, 3, 4]
    assert [m["env_steps"] for m in metrics] == [12, 24, 36, 48]  # 6 tasks, 2 pulls
    for line in metrics:
        parts = {f"train/{name}" for name in ("return_before", "return_after", "trial_return")}
        assert parts <= line.keys()
        assert ("validation/trial_return" in line) == (line["iteration"] % 2 == 0)


def test_best_checkpoint_is_the_one_validated_best(whole):
    scores = {
        m["iteration"]: m["validation/return_after"]
        for m in metrics_of(whole[0])
        if "validation/return_after" in m
    }
    best = CheckpointStore(whole[0] / "checkpoints").load("best")
    assert best.score == scores[best.iteration] == max(scores.values())


def test_training_uses_as_many_threads_as_asked_for_and_puts_them_back(tmp_path):
    seen = []

    class Watching(RL2):
        def act(self, *args):
            seen.append(torch.get_num_threads())
            return super().act(*args)

        def update(self, *args):
            seen.append(torch.get_num_threads())
            return super().update(*args)

    train(tmp_path, new_agent(kind=Watching), iterations=1, torch_threads=2)
    assert seen[:3] == [1, 1, 2]  # two pulls and the update, then validation
    assert torch.get_num_threads() == 1


# config


@pytest.mark.parametrize(
    ("steps", "iterations"), [(1, 1), (12, 1), (13, 2), (24, 2), (1000, 84), (None, 400)]
)
def test_env_steps_become_the_iterations_that_take_them(steps, iterations):
    resolved = with_options(TrainConfig(), env_steps=steps).resolve(new_agent(), TASKS)
    assert (resolved.iterations, resolved.env_steps) == (iterations, None)


def test_env_steps_count_full_length_episodes():
    tasks = metarl.make("half-cheetah/velocity", horizon=50)
    config = dataclasses.replace(AGENT, episodes_per_trial=3)
    agent = RL2(config, metarl.TaskSpec.of(tasks))
    resolved = with_options(TrainConfig(), env_steps=1801).resolve(
        agent, tasks
    )  # 6 tasks x 3 episodes x 50
    assert resolved.iterations == 3


def test_episodes_that_nobody_prescribes_are_asked_for():
    tasks = metarl.make("half-cheetah/velocity")
    with pytest.raises(UserError, match="--episodes-per-trial"):
        RL2(AGENT, metarl.TaskSpec.of(tasks))


@pytest.mark.parametrize(
    "name",
    [
        "torch_threads",
        "iterations",
        "env_steps",
        "num_envs",
        "checkpoint_interval",
        "keep_checkpoints",
        "validation_interval",
        "validation_tasks",
        "evaluation_tasks",
    ],
)
def test_config_refuses_less_than_one(name):
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')}: got 0; accepted: at least 1"):
        with_options(TrainConfig(), **{name: 0})


def test_config_refuses_negative_seeds_and_two_lengths():
    with pytest.raises(UserError, match="--seed: got -1"):
        with_options(TrainConfig(), seed=-1)
    with pytest.raises(UserError, match="--env-steps: got --iterations beside it"):
        with_options(TrainConfig(), iterations=1, env_steps=10)


def test_memory_counts_workers():
    """A worker's memory is counted as long as it lives."""
    tasks = metarl.make("half-cheetah/direction")
    with closing(tasks.make_vec(2, num_workers=0)) as here:
        alone = resident_mib(here)
        with closing(tasks.make_vec(2, num_workers=1)) as there:
            assert resident_mib(there) > alone + 30
        assert resident_mib(here) == pytest.approx(alone, abs=30)


def test_shares_of_time_add_up(tmp_path):
    """The times of stepping and acting are within that of gathering."""
    tasks = metarl.make("half-cheetah/direction:horizon=20")
    small = with_options(
        RL2Config(), tasks_per_update=2, hidden_size=4, num_minibatches=1, episodes_per_trial=2
    )
    agent = RL2(small, metarl.TaskSpec.of(tasks))
    config = with_options(
        TrainConfig(), env=tasks.name, iterations=1, num_workers=0, validation_tasks=1
    )
    meta_train(agent, tasks, config, tmp_path)
    (line,) = read_metrics(tmp_path / "metrics.jsonl")
    parts = {name: line[f"time/{name}_share"] for name in ("step", "act", "collect", "update")}
    assert all(share > 0 for share in parts.values())
    assert parts["collect"] + parts["update"] == pytest.approx(1)
    assert parts["step"] + parts["act"] < parts["collect"]


# metrics


def test_what_an_environment_reports_is_logged_before_and_after_adaptation(tmp_path):
    from fakes import ArrayCounterTasks, StubAgent

    config = with_options(CONFIG, iterations=1)
    meta_train(StubAgent(sequential=False), ArrayCounterTasks(), config, tmp_path)
    (line,) = read_metrics(tmp_path / "metrics.jsonl")
    for kind in ("train", "validation"):
        for name in ("return", "success", "clock"):
            assert {f"{kind}/{name}_before", f"{kind}/{name}_after"} <= line.keys()
        assert 0 < line[f"{kind}/success_before"] <= 1
        assert line[f"{kind}/clock_before"] >= 1  # 1 to 6 in turn, averaged over the steps


# the bar


def test_the_bar_shows_the_last_validation_beside_every_iteration(tmp_path, monkeypatch):
    notes = []

    @contextlib.contextmanager
    def ticker(*words, **options):
        yield SimpleNamespace(advance=lambda note: notes.append(note))

    monkeypatch.setattr("metarl.running.training.ticker", ticker)
    train(tmp_path / "noted", iterations=5)
    lines = metrics_of(tmp_path / "noted")

    def said(line, what):
        return "{:.2f} → {:.2f}".format(*(line[f"{what}/return_{x}"] for x in ("before", "after")))

    shown = [None, lines[1], lines[1], lines[3], lines[4]]  # validated after 2, 4 and the last, 5
    for note, line, validated in zip(notes, lines, shown, strict=True):
        expected = f"return {said(line, 'train')} (trial {line['train/trial_return']:.2f}), "
        if validated is not None:
            expected += f"validation {said(validated, 'validation')}, "
        assert note == f"{expected}{line['env_steps']:,} steps" and len(note) < 100

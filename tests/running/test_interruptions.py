"""Trainings that are interrupted at any place: can they be resumed to the same bits?

Copying the agent's state after every iteration is cheap for a small agent and dear for a large
one. Both would take time, so these tests tell the trainer which of the two it is.
"""

import dataclasses

import pytest
import torch
from replaying import Replaying, ReplayingConfig

import metarl
from metarl.errors import DivergenceError, EnvError, Stopped
from metarl.experience.sampling import Hardest
from metarl.options import with_options
from metarl.running import training
from metarl.running.checkpoints import Checkpoint, CheckpointStore
from metarl.running.metrics import MetricsLog, read_metrics
from metarl.running.settings import Settings, TrainConfig
from metarl.running.store import ExperienceStore, recall_experience
from metarl.running.train import train
from metarl.running.training import copy_is_cheap, meta_train

pytestmark = pytest.mark.usefixtures("small_blocks")

TASKS = metarl.make("bandit/n2-k2")
CONFIG = with_options(
    TrainConfig(),
    env="bandit/n2-k2",
    iterations=12,
    schedule_iterations=12,
    checkpoint_interval=4,
    validation_interval=6,
    validation_tasks=2,
    evaluation_tasks=2,
    check=False,
)
AGENT = ReplayingConfig(memory=30)
"""The agent remembers three trials, fewer than there are between two checkpoints."""
ERRORS = {
    "an exception": RuntimeError("broken"),
    "Ctrl-C": KeyboardInterrupt(),
    "a signal": Stopped(15),
    "an environment": EnvError(None, 0, None, "broken"),
    "a divergence": DivergenceError("the loss"),
}


@pytest.fixture(params=["cheap", "dear"])
def copying(request, monkeypatch):
    choose(monkeypatch, request.param)
    return request.param


def choose(monkeypatch, copying):
    name = "metarl.running.training.copy_is_cheap"
    monkeypatch.setattr(name, lambda *seconds: copying == "cheap")


def new_agent(seed=0, kind=Replaying):
    return kind(AGENT, metarl.TaskSpec.of(TASKS), seed=seed)


def train_in(directory, agent=None, **options):
    return meta_train(
        agent or new_agent(), TASKS, CONFIG, directory, sampler=Hardest(TASKS), **options
    )


def go_on(directory):
    saved = CheckpointStore(directory / "checkpoints").load()
    agent, sampler = new_agent(seed=99), Hardest(TASKS)
    saved.load_into(agent)
    recall_experience(agent, directory, saved.iteration)
    sampler.load_state(saved.sampler)
    at = {"iteration": saved.iteration, "env_steps": saved.env_steps}
    return meta_train(agent, TASKS, CONFIG, directory, sampler=sampler, **at)


def saved(directory):
    return CheckpointStore(directory / "checkpoints").iterations()[-1]


def assert_goes_on_to(whole, directory):
    last = go_on(directory)
    assert dataclasses.replace(last, tensors={}) == dataclasses.replace(whole[1], tensors={})
    assert all(last.tensors[name].equal(value) for name, value in whole[1].tensors.items())
    scores = [CheckpointStore(d / "checkpoints").load("best") for d in (directory, whole[0])]
    assert scores[0].score == scores[1].score and scores[0].iteration == scores[1].iteration
    assert metrics_of(directory) == metrics_of(whole[0])


def metrics_of(directory):
    lines = read_metrics(directory / "metrics.jsonl")
    return [
        {k: v for k, v in line.items() if not k.startswith(("time/", "memory/"))} for line in lines
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, small_blocks):
    """A run that never stopped: its directory and its last checkpoint."""
    directory = tmp_path_factory.mktemp("whole")
    return directory, train_in(directory)


def raise_at(monkeypatch, owner, name, call, error, *, after=True):
    """Let the given call of a method, counted from 1, raise after (or before) it has worked."""
    method, calls = getattr(owner, name), []

    def raising(*args, **kwargs):
        calls.append(1)
        if len(calls) == call and not after:
            raise error
        result = method(*args, **kwargs)
        if len(calls) == call:
            raise error
        return result

    monkeypatch.setattr(owner, name, raising)


# when the state is copied


def test_copying_is_cheap_up_to_half_a_hundredth_of_the_time_since_the_last_copy():
    assert copy_is_cheap(0.0005, 0.1)
    assert copy_is_cheap(0.0, 0.0)
    assert not copy_is_cheap(0.0006, 0.1)


@pytest.mark.parametrize(
    ("costs", "expected"),
    [("cheap", list(range(13))), ("dear", [0, 4, 6, 8, 12])],
)
def test_the_state_is_copied_after_every_iteration_only_where_that_is_cheap(
    tmp_path, monkeypatch, costs, expected
):
    """Otherwise it is copied for checkpoints: the first, every fourth, at validations, the last."""
    choose(monkeypatch, costs)
    copied, of = [], Checkpoint.of

    def watched(agent, iteration, *rest):
        copied.append(iteration)
        return of(agent, iteration, *rest)

    monkeypatch.setattr(Checkpoint, "of", watched)
    train_in(tmp_path)
    assert copied == expected


@pytest.mark.parametrize(
    ("iteration_seconds", "expected"),
    [(601, list(range(13))), (599, [0, 2, 4, 6, 8, 10, 12]), (50, [0, 4, 6, 8, 12])],
)
def test_the_choice_follows_from_the_times_that_are_measured(
    tmp_path, monkeypatch, iteration_seconds, expected
):
    """A copy takes 3 s here: after 600 s it is cheap."""
    now, copied, of = [0.0], [], Checkpoint.of
    monkeypatch.setattr("metarl.running.training.time.perf_counter", lambda: now[0])

    def slow_copy(agent, iteration, *rest):
        now[0] += 3 + 5 * (iteration == 4)  # one that a busy machine delays says nothing
        copied.append(iteration)
        return of(agent, iteration, *rest)

    class Slow(Replaying):
        def update(self, *args):
            now[0] += iteration_seconds
            return super().update(*args)

    monkeypatch.setattr(Checkpoint, "of", slow_copy)
    config = with_options(CONFIG, checkpoint_seconds=float("inf"))
    meta_train(new_agent(kind=Slow), TASKS, config, tmp_path)
    assert copied == expected


# cut off


class Stumbling(Replaying):
    """Fails in its eighth update, half of which is done."""

    error: BaseException

    def update(self, trial, generator, progress):
        self.num_updates = getattr(self, "num_updates", 0) + 1
        if self.num_updates == 8:
            self.momentum = self.momentum + 1
            self.logits += 1
            self.remember(trial)
            raise self.error
        return super().update(trial, generator, progress)


@pytest.mark.parametrize("error", ERRORS)
def test_an_update_that_is_cut_off_goes_on_from_the_newest_copy(whole, tmp_path, copying, error):
    agent = new_agent(kind=Stumbling)
    agent.error = ERRORS[error]
    with pytest.raises(type(agent.error)):
        train_in(tmp_path, agent)
    assert saved(tmp_path) == (7 if copying == "cheap" else 6)
    assert_goes_on_to(whole, tmp_path)


@pytest.mark.parametrize("error", ERRORS)
def test_outside_of_updates_the_last_whole_iteration_is_saved(
    whole, tmp_path, monkeypatch, copying, error
):
    """The state is copied at the error, which comes while the eighth iteration acts."""
    agent = new_agent()
    raise_at(monkeypatch, agent, "act", 2 * 7 + 2 + 2, ERRORS[error])  # two pulls, one validation
    with pytest.raises(type(ERRORS[error])):
        train_in(tmp_path, agent)
    assert saved(tmp_path) == 7
    assert_goes_on_to(whole, tmp_path)


PLACES = {
    "sampling tasks": (Hardest, "sample", 8),
    "the sampler's update": (Hardest, "update", 8),
    "validation": (training, "evaluate_adaptation", 1),
    "making metrics": (training, "point_metrics", 8),
    "writing metrics": (MetricsLog, "write", 8),
    "keeping experience": (ExperienceStore, "add", 12),
    "copying the state": (Checkpoint, "of", 4),
    "deciding whether to save": (training._Saver, "due", 7),
    "writing experience": (ExperienceStore, "write", 4),
    "writing a checkpoint": (CheckpointStore, "save", 4),
    "evicting experience": (ExperienceStore, "evict", 4),
}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("place", PLACES)
def test_an_interruption_anywhere_costs_nothing_but_time(
    whole, tmp_path, monkeypatch, copying, place, after
):
    """An iteration counts as soon as its metrics are written; one that does not is done again."""
    with monkeypatch.context() as patch:
        raise_at(patch, *PLACES[place], KeyboardInterrupt(), after=after)
        with pytest.raises(KeyboardInterrupt):
            train_in(tmp_path)
    assert saved(tmp_path) >= (2 if copying == "cheap" else 4)
    assert_goes_on_to(whole, tmp_path)


def test_a_state_that_can_no_longer_be_read_leaves_the_newest_copy(whole, tmp_path, monkeypatch):
    """As after the failure of a GPU."""
    choose(monkeypatch, "dear")
    agent = new_agent()
    raise_at(monkeypatch, agent, "act", 18, RuntimeError("the GPU has failed"))
    state = agent.state
    calls = []

    def failing():
        calls.append(1)
        if len(calls) == 11:  # one per update, one per copy, this one at the error
            raise RuntimeError("the GPU is still failing")
        return state()

    monkeypatch.setattr(agent, "state", failing)
    with pytest.raises(RuntimeError, match="has failed"):
        train_in(tmp_path, agent)
    assert len(calls) == 11 and saved(tmp_path) == 6
    assert_goes_on_to(whole, tmp_path)


def test_numbers_that_are_not_finite_are_found_where_nothing_is_copied(
    whole, tmp_path, monkeypatch
):
    choose(monkeypatch, "dear")
    agent = new_agent()
    update = agent.update

    def diverging(trial, generator, progress):
        metrics = update(trial, generator, progress)
        if len(lines) == 7:
            agent.momentum = agent.momentum * torch.nan
        lines.append(metrics)
        return metrics

    lines = []
    monkeypatch.setattr(agent, "update", diverging)
    with pytest.raises(DivergenceError, match="the agent's momentum is not finite"):
        train_in(tmp_path, agent)
    assert saved(tmp_path) == 6
    assert_goes_on_to(whole, tmp_path)


@pytest.mark.parametrize(
    ("copying", "fails", "said"),
    [
        ("cheap", 8, "iteration 8 was not finished; 7 is saved: "),
        ("dear", 7, "iteration 7 was not finished; 6 is saved: "),
        ("dear", 6, "iteration 5 was finished but not saved; 4 is saved: "),
        ("dear", 12, "iterations 9 to 11 were finished but not saved; 8 is saved: "),
        ("dear", 4, "iterations 1 to 3 were finished but not saved; 0 is saved: "),
    ],
)
def test_the_message_says_what_has_really_been_saved(
    tmp_path, monkeypatch, capsys, copying, fails, said
):
    choose(monkeypatch, copying)
    raise_at(monkeypatch, Replaying, "remember", fails, RuntimeError("broken"))
    config = with_options(CONFIG, run_dir=tmp_path / "run")
    with pytest.raises(RuntimeError, match="broken"):
        train(Settings("replaying:Replaying", AGENT, config))
    assert said in capsys.readouterr().err

"""Agents that learn from old trials: do they go on as if they had never been stopped?"""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from damages import DAMAGES
from replaying import Replaying, ReplayingConfig

import metarl
from metarl.errors import UserError
from metarl.options import option_values, with_options
from metarl.running.checkpoints import CheckpointStore
from metarl.running.run import Run
from metarl.running.settings import Settings, TrainConfig
from metarl.running.store import ExperienceStore, recall_experience
from metarl.running.train import train
from metarl.running.training import meta_train

pytestmark = pytest.mark.usefixtures("small_blocks")

NAME = "replaying:Replaying"
TASKS = metarl.make("bandit/n2-k2")
TESTS = Path(__file__).parents[1]
CONFIG = with_options(
    TrainConfig(),
    env="bandit/n2-k2",
    iterations=30,
    schedule_iterations=30,
    checkpoint_interval=2,
    validation_interval=11,
    validation_tasks=2,
    evaluation_tasks=2,
    check=False,
)


def new_agent(seed=0):
    return Replaying(ReplayingConfig(), metarl.TaskSpec.of(TASKS), seed=seed)


def train_in(directory, **changes):
    """Train without the evaluation at the end."""
    config = with_options(CONFIG, **changes)
    directory.mkdir(exist_ok=True)
    return meta_train(new_agent(config.seed), TASKS, config, directory)


def go_on(directory, recall=recall_experience, **changes):
    saved = CheckpointStore(directory / "checkpoints").load()
    agent = new_agent(seed=99)  # nothing of what it starts with may be left
    saved.load_into(agent)
    recall(agent, directory, saved.iteration)
    at = {"iteration": saved.iteration, "env_steps": saved.env_steps}
    return meta_train(agent, TASKS, with_options(CONFIG, **changes), directory, **at)


def same(a, b):
    return (a.iteration, a.env_steps, a.extra) == (b.iteration, b.env_steps, b.extra) and all(
        a.tensors[name].equal(b.tensors[name]) for name in b.tensors
    )


def saved(directory):
    return CheckpointStore(directory / "checkpoints").iterations()


def stored(directory):
    return sorted(int(path.stem) for path in (directory / "experience").iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory, small_blocks):
    """A run that never stopped: its directory and its last checkpoint."""
    directory = tmp_path_factory.mktemp("whole")
    return directory, train_in(directory)


def test_the_store_holds_what_the_kept_checkpoints_need(whole):
    """That is the six trials before each of the two newest and the best, in files of two."""
    kept = saved(whole[0])
    ends = [*range(2, 31, 2), 11, 22]  # of the files; 12 and 22 hold one trial and two
    needed = {min(e for e in ends if e >= n) for c in kept for n in range(max(1, c - 5), c + 1)}
    assert kept[-2:] == [28, 30] and set(stored(whole[0])) == needed


@pytest.mark.parametrize("stops", [[2], [3, 4, 7, 21], list(range(1, 30, 3))], ids=str)
def test_resume_equals_never_stopped(whole, tmp_path, stops):
    """Before the memory is full and after many evictions."""
    train_in(tmp_path, iterations=stops[0])
    for iterations in [*stops[1:], 30]:
        last = go_on(tmp_path, iterations=iterations)
    assert same(last, whole[1])


def test_the_past_matters_to_this_agent(whole, tmp_path):
    """Else the tests of resuming would show nothing."""
    train_in(tmp_path, iterations=20)
    assert not same(go_on(tmp_path, recall=lambda *_: None), whole[1])


CHILD = """
import os, signal, sys
import metarl.files
from metarl.__main__ import main
from metarl.running import store
from metarl.running.checkpoints import CheckpointStore

moment, countdown = sys.argv[1], int(sys.argv[2])
write, replace, save = store._write_tensors, os.replace, CheckpointStore.save

def count_down():
    global countdown
    countdown -= 1
    if countdown == 0:
        os.kill(os.getpid(), signal.SIGKILL)

def killed_in_the_middle(file, *content):
    write(file, *content)
    if countdown == 1:
        file.truncate(file.tell() // 2)
    count_down()

def killed_before_it_has_its_name(source, target):
    if "experience" in str(target):
        count_down()
    replace(source, target)

def killed_before_the_checkpoint(self, checkpoint):
    count_down()
    save(self, checkpoint)

if moment == "half written":
    store._write_tensors = killed_in_the_middle
if moment == "not renamed":
    metarl.files.os.replace = killed_before_it_has_its_name
if moment == "before its checkpoint":
    CheckpointStore.save = killed_before_the_checkpoint
sys.argv = ["metarl", *sys.argv[3:]]
main()
"""


def run_killed(folder, moment, countdown, *words):
    """Train in another process that kills itself at a moment, the how manieth of its kind."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, moment, str(countdown), "train", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{TESTS}:{TESTS.parent}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("moment", ["half written", "not renamed", "before its checkpoint"])
def test_a_run_that_is_killed_while_it_stores_ends_where_others_do(whole, tmp_path, moment):
    words = [NAME, "--run-dir", "run", "--no-check", "--evaluation-tasks", "2"]
    names = ("env", "iterations", "checkpoint_interval", "validation_interval", "validation_tasks")
    for name in names:
        words += [f"--{name.replace('_', '-')}", str(option_values(CONFIG)[name])]
    run_killed(tmp_path, moment, 8, *words)  # the first files have been evicted
    run = tmp_path / "run"
    first = saved(run)[-1]
    assert 10 < first < 16
    files = set((run / "experience").iterdir())
    partial = {path for path in files if path.name.endswith(".partial")}
    late = {path for path in files - partial if int(path.stem) > first}
    assert (len(partial), len(late)) == ((0, 1) if moment == "before its checkpoint" else (1, 0))
    if moment == "half written":  # again, while it makes up for that
        run_killed(tmp_path, moment, 4, NAME, "--resume", "run")
        assert first < saved(run)[-1] < 24
    assert same(go_on(run), whole[1])
    assert stored(run) == stored(whole[0])


def damage_checkpoint(directory, iteration):
    path = directory / "checkpoints" / f"{iteration:07d}" / "agent.safetensors"
    path.write_bytes(b"damaged")


def test_a_damaged_newest_checkpoint_costs_only_time(whole, tmp_path):
    """The store still serves the checkpoint before; the experience after it is no longer used."""
    train_in(tmp_path, iterations=20)
    assert saved(tmp_path)[-2:] == [18, 20]
    damage_checkpoint(tmp_path, 20)
    with pytest.warns(UserWarning, match="iteration 18 is loaded instead"):
        last = go_on(tmp_path)
    assert same(last, whole[1])


def test_the_best_checkpoint_is_served_where_it_alone_is_sound(whole, tmp_path):
    train_in(tmp_path, iterations=20, validation_interval=9)
    best = CheckpointStore(tmp_path / "checkpoints").load("best").iteration
    for iteration in saved(tmp_path):
        if iteration != best:
            damage_checkpoint(tmp_path, iteration)
    with pytest.warns(UserWarning, match=f"iteration {best} is loaded instead"):
        last = go_on(tmp_path)
    assert same(last, whole[1])


def test_experience_of_later_iterations_is_not_used(whole, tmp_path):
    """As a run leaves it that was killed between a file and its checkpoint."""
    train_in(tmp_path / "run", iterations=20)
    train_in(tmp_path / "other", iterations=24, seed=1)
    for file in ("0000022.safetensors", "0000024.safetensors"):
        other = (tmp_path / "other" / "experience" / file).read_bytes()
        (tmp_path / "run" / "experience" / file).write_bytes(other)
    assert same(go_on(tmp_path / "run"), whole[1])


def resume(directory, **changes):
    run = Run.open(directory, NAME)
    config = with_options(run.train_config, **changes)
    return train(dataclasses.replace(run.settings, train=config), resume=run)


def test_a_run_whose_experience_is_damaged_is_refused_in_one_line(whole, tmp_path, capsys):
    config = with_options(CONFIG, run_dir=tmp_path / "run", iterations=20)
    run = train(Settings(NAME, ReplayingConfig(), config))
    file = run.directory / "experience" / "0000020.safetensors"
    sound = file.read_bytes()
    for damage in DAMAGES.values():
        damage(file)
        with pytest.raises(UserError, match=r"^[^\n]*experience[^\n]*$") as refused:
            resume(run.directory, iterations=30)
        said = "cannot be resumed after iteration 20 (it can be resumed after iteration 18"
        assert said in str(refused.value)
        file.write_bytes(sound)
    assert "resume with" not in capsys.readouterr().err
    assert Run.open(run.directory).train_config.iterations == 20  # nothing was written
    file.unlink()
    resume(run.directory, evaluation_tasks=3)  # the evaluation of a finished run does without it
    (run.directory / "checkpoints" / "0000020").rename(tmp_path / "removed")
    assert same(go_on(run.directory), whole[1])


def test_agents_that_remember_nothing_pay_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(ExperienceStore, "__init__", None)  # nobody makes one
    agent = new_agent()
    agent.remembers = 0
    agent.remember = lambda trial: setattr(agent, "trials", [trial])
    meta_train(agent, TASKS, with_options(CONFIG, iterations=4), tmp_path)
    recall_experience(agent, tmp_path, 4)
    assert not (tmp_path / "experience").exists()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("recall", None, r"Replaying remembers 72 environment steps but has no method recall"),
        ("remembers", -1, r"Replaying.remembers: got -1; accepted: a number of environment steps"),
        ("remembers", "all", r"Replaying.remembers: got 'all'"),
    ],
)
def test_an_agent_that_cannot_remember_is_refused(tmp_path, name, value, said):
    agent = new_agent()
    setattr(agent, name, value)
    with pytest.raises(UserError, match=said):
        recall_experience(agent, tmp_path, 0)
    with pytest.raises(AssertionError, match=said):
        metarl.check_agent(agent, TASKS)

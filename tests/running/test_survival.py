"""Interrupted runs: do they continue as if nothing had happened, whatever interrupted them?"""

import dataclasses
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
import torch

import metarl
from metarl import registry
from metarl.agents.maml_ppo import MAMLPPOConfig
from metarl.agents.rl2 import RL2Config
from metarl.errors import DivergenceError, EnvError, SaveError, UserError
from metarl.experience.sampling import Uniform
from metarl.files import write_synced
from metarl.options import option_paths, with_options
from metarl.running.commandline import parse_train
from metarl.running.metrics import MetricsLog, read_metrics
from metarl.running.parsing import command_line
from metarl.running.run import Run
from metarl.running.settings import Settings, TrainConfig
from metarl.running.train import prepare, train
from metarl.running.training import _Saver, training_trial

TRAIN = Path(__file__).parents[2] / "scripts" / "train.py"
RL2 = with_options(
    RL2Config(), tasks_per_update=4, hidden_size=6, num_minibatches=2, episodes_per_trial=2
)
MAML = MAMLPPOConfig(
    tasks_per_update=3,
    episodes_per_adaptation=2,
    num_adaptations=1,
    hidden_sizes=(5,),
    inner_learning_rate=(0.1,),
)
CHEETAH = "half-cheetah/velocity:horizon=4"


def config_of(directory, env="bandit/n2-k2", **changes):
    values = {"env": env, "iterations": 4, "evaluation_tasks": 3, "validation_tasks": 2}
    values |= {"check": False}
    return with_options(
        TrainConfig(), **{**values, "validation_interval": 2, "run_dir": directory, **changes}
    )


def metrics_of(run):
    lines = read_metrics(run.directory / "metrics.jsonl")
    return [
        {k: v for k, v in line.items() if not k.startswith(("time/", "memory/"))} for line in lines
    ]


def assert_same(run, other):
    a, b = run.checkpoints.load(), other.checkpoints.load()
    assert (a.iteration, a.env_steps, a.extra, a.score) == (
        b.iteration,
        b.env_steps,
        b.extra,
        b.score,
    )
    assert a.tensors.keys() == b.tensors.keys()
    assert all(a.tensors[name].equal(b.tensors[name]) for name in a.tensors)
    assert metrics_of(run) == metrics_of(other)
    assert run.checkpoints.load("best").iteration == other.checkpoints.load("best").iteration


# metrics


@pytest.mark.parametrize(
    ("agent", "config", "env"),
    [("rl2", RL2, "metaworld/ml1-reach:horizon=3"), ("maml-ppo", MAML, CHEETAH)],
)
def test_every_metric_is_defined_in_the_pages(tmp_path, agent, config, env):
    """The metrics that users look for first are there, for every agent."""
    run = train(
        Settings(agent, config, config_of(tmp_path / "run", env, iterations=1, num_workers=0))
    )
    (line,) = read_metrics(run.directory / "metrics.jsonl")
    kinds = {"kl", "entropy", "clip_fraction", "explained_variance", "gradient_norm"}
    wanted = {f"update/{kind}" for kind in kinds}
    wanted |= {f"time/{kind}" for kind in ("env_steps_per_s", "step_share", "act_share")}
    for split in ("train", "validation"):
        wanted |= {f"{split}/return_before", f"{split}/return_after", f"{split}/trial_return"}
        if agent == "rl2":
            wanted |= {f"{split}/success_before", f"{split}/success_after"}
    assert wanted <= line.keys()
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    defined = {name for name in line if f"`{name}`" in page}
    validated = {name for name in line if name.startswith("validation/")}
    assert line.keys() - defined - validated == set()


# resume


def test_resume_equals_never_stopped_and_processes_change_nothing(tmp_path):
    """The first half steps in a worker process, and everything else in this process.

    Tests below resume every agent after it was killed.
    """
    whole = train(Settings("rl2", RL2, config_of(tmp_path / "whole", CHEETAH, num_workers=0)))
    half = config_of(tmp_path / "half", CHEETAH, num_workers=1, iterations=2, schedule_iterations=4)
    run = train(Settings("rl2", RL2, half))
    longer = with_options(run.train_config, iterations=4, num_workers=0)
    train(dataclasses.replace(run.settings, train=longer), resume=run)
    assert_same(run, whole)


def test_a_sampler_that_learns_resumes_exactly(tmp_path):
    """The tasks of an iteration depend on how earlier ones went."""
    options = {"task_sampler": "hardest", "env": "navigation:horizon=4"}
    whole = train(Settings("maml-ppo", MAML, config_of(tmp_path / "whole", **options)))
    half = config_of(tmp_path / "half", **options, iterations=2, schedule_iterations=4)
    run = train(Settings("maml-ppo", MAML, half))
    longer = with_options(run.train_config, iterations=4)
    train(Settings("maml-ppo", MAML, longer), resume=run)
    assert_same(run, whole)
    plain = train(Settings("maml-ppo", MAML, config_of(tmp_path / "plain", options["env"])))
    with pytest.raises(AssertionError):
        assert_same(plain, whole)


def test_a_callback_sees_every_iteration_and_ends_a_training(tmp_path, write_module, capsys):
    seen = []

    def callback(iteration, trial, metrics):
        seen.append((iteration, len(trial.tasks), "update/kl" in metrics))
        return iteration < 3

    run = train(Settings("rl2", RL2, config_of(tmp_path / "run")), callback=callback)
    assert seen == [(i, RL2.tasks_per_update, True) for i in (1, 2, 3)]
    assert run.checkpoints.iterations()[-1] == 3
    assert "the callback ends the training after iteration 3" in capsys.readouterr().out
    name = write_module("watching", "def stop(iteration, trial, metrics):\n    return False\n")
    run = train(Settings("rl2", RL2, config_of(tmp_path / "named", callback=f"{name}:stop")))
    assert run.checkpoints.iterations()[-1] == 1
    with pytest.raises(UserError, match="has --callback watching:stop, which a file alone cannot"):
        parse_train(["--resume", str(run.directory)])
    again = parse_train(["--resume", str(run.directory), "--callback", "watching:stop"])
    assert again.settings.train.callback == "watching:stop"
    assert "--callback watching:stop" in run.resume_command()


def test_a_run_without_a_checkpoint_starts_again(tmp_path):
    whole = train(Settings("rl2", RL2, config_of(tmp_path / "whole")))
    config = config_of(tmp_path / "run")
    settings, tasks, _ = prepare(Settings("rl2", RL2, config))
    run = Run.create(settings, tasks)
    train(run.settings, resume=run)
    assert_same(run, whole)


def test_a_damaged_newest_checkpoint_costs_only_time(tmp_path):
    whole = train(Settings("rl2", RL2, config_of(tmp_path / "whole")))
    run = train(Settings("rl2", RL2, config_of(tmp_path / "run", checkpoint_interval=1)))
    (run.checkpoints.directory / "0000004" / "agent.safetensors").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="iteration 3 is loaded instead"):
        train(run.settings, resume=run)
    assert_same(run, whole)


def test_a_warning_is_a_line_of_its_own(tmp_path, python):
    run = train(Settings("rl2", RL2, config_of(tmp_path / "run", checkpoint_interval=1)))
    (run.checkpoints.directory / "0000004" / "agent.safetensors").write_bytes(b"damaged")
    code, output = python("--resume", "run", "--iterations", "5")
    assert code == 0, output
    (said,) = (line for line in output.splitlines() if "instead" in line)
    assert said.startswith("warning: run/checkpoints/0000004: ")


# signals and kills


SMALL = {
    "tasks_per_update": 4,
    "episodes_per_trial": 2,
    "episodes_per_adaptation": 2,
    "num_adaptations": 1,
    "hidden_size": 6,
    "hidden_sizes": 6,
    "num_minibatches": 2,
}
COMMAND = (
    "--env half-cheetah/velocity:horizon=4 --checkpoint-interval 1 --validation-interval 2 "
    "--validation-tasks 2 --evaluation-tasks 2 --no-check --run-dir run"
)
USERS = """
import os, signal, sys


def writes(event, arguments):
    \"\"\"Return whether an event changes what is on the disk.\"\"\"
    if event == "open":
        path, _, flags = arguments
        return "run" in str(path).split("/") and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    return event in ("os.rename", "os.mkdir", "os.link", "os.remove", "os.rmdir")


left = int(os.environ.get("CHANGES_BEFORE_THE_KILL", 0))


def count(event, arguments):
    global left
    if writes(event, arguments):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


sys.addaudithook(count)


def look_on(iteration, trial, metrics):
    \"\"\"Send a signal during the iteration after LAST_ITERATION.\"\"\"
    if iteration != int(os.environ.get("LAST_ITERATION", 0)):
        return
    from metarl.agents.rl2 import RL2
    method = os.environ["METHOD"]
    real = getattr(RL2, method)

    def interrupted(*arguments):
        setattr(RL2, method, real)
        os.kill(os.getpid(), getattr(signal, os.environ["SIGNAL"]))
        return real(*arguments)

    setattr(RL2, method, interrupted)
"""
"""A module of a user's, whose callback sends a real signal at a moment that is always the same.

A kill at any moment leaves what the changes of the disk up to then have made, so that killing
before the n-th of them, whatever n, is killing anywhere, and no clock decides where.
"""


@pytest.fixture
def python(quick_python, tmp_path):
    """Run ``train.py`` in a process of its own; return its exit code and output.

    No process may be left over: all that it starts have a mark in their environment.
    """
    (tmp_path / "users.py").write_text(USERS)

    def run(*arguments, **environment):
        mark = str(uuid.uuid4())
        done = subprocess.run(
            [quick_python, str(TRAIN), *arguments],
            cwd=tmp_path,
            env=os.environ | {"METARL_TEST_MARK": mark, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        while list(processes(f"METARL_TEST_MARK={mark}")):  # pytest's own timeout is the limit
            time.sleep(0.01)
        return done.returncode, done.stdout

    return run


def processes(mark):
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                yield folder.name
        except OSError:
            continue


def begin(agent, iterations, workers):
    """The words of a command that trains a small ``agent``."""
    known = option_paths(registry.agent_class(agent).Config)
    own = [f"--{name.replace('_', '-')}={x}" for name, x in SMALL.items() if name in known]
    counts = [f"--iterations={iterations}", f"--num-workers={workers}"]
    return [agent, *COMMAND.split(), *own, *counts]


def uninterrupted(folder, agent, iterations):
    request = parse_train(begin(agent, iterations, 0))
    config = with_options(request.settings.train, run_dir=folder / "uninterrupted")
    return train(Settings(agent, request.settings.agent_config, config))


def survive_kills(folder, python, words, kills):
    """Kill a run before the n-th change of the disk, again and again; return it finished."""
    shared = set(os.listdir("/dev/shm")) if Path("/dev/shm").exists() else set()
    for kill in kills:
        again = ["--resume", "run"] if (folder / "run" / "config.json").exists() else words
        users = ("--callback", "users:look_on")
        code, output = python(*again, *users, CHANGES_BEFORE_THE_KILL=str(kill))
        assert code == -signal.SIGKILL, output
    if Path("/dev/shm").exists():
        assert set(os.listdir("/dev/shm")) <= shared
    run = Run.open(folder / "run")
    config = with_options(run.train_config, callback=None, num_workers=0)
    train(dataclasses.replace(run.settings, train=config), resume=run)
    assert not list(run.directory.rglob("*.partial"))
    return run


@pytest.mark.parametrize("agent", sorted(registry.agents()))
def test_a_killed_run_ends_where_an_uninterrupted_one_does(agent, tmp_path, monkeypatch, python):
    """Killed while its folder is made, while it saves, and once more after that."""
    monkeypatch.chdir(tmp_path)
    run = survive_kills(tmp_path, python, begin(agent, 4, 1), KILLS)
    assert_same(run, uninterrupted(tmp_path, agent, 4))


@pytest.mark.parametrize("part", ["fast-weights", "aggregator", "transformer", "graph", "hyper"])
def test_a_killed_run_of_other_parts_ends_where_an_uninterrupted_one_does(
    part, tmp_path, monkeypatch, python
):
    monkeypatch.chdir(tmp_path)
    words = ["--head" if part == "hyper" else "--core", part, "--hidden-size=8"]
    words = [*begin("rl2", 3, 0), *words]
    run = survive_kills(tmp_path, python, words, (16,))
    request = parse_train(words)
    config = with_options(request.settings.train, run_dir=tmp_path / "uninterrupted")
    assert_same(run, train(Settings("rl2", request.settings.agent_config, config)))


KILLS = (2, 16, 9)


def test_one_command_goes_on_after_kills_at_any_moment(tmp_path, monkeypatch, python):
    """Killed as the folder is made, is locked, gets its settings, is saved to, and in between."""
    monkeypatch.chdir(tmp_path)
    words = [*begin("rl2", 4, 0), "--resume", "auto", "--callback", "users:look_on"]
    for kill in (1, 2, 3, 4, 5, 16, 9):
        code, output = python(*words, CHANGES_BEFORE_THE_KILL=str(kill))
        assert code == -signal.SIGKILL, output
    code, output = python(*words)
    assert code == 0, output
    assert_same(Run.open(tmp_path / "run"), uninterrupted(tmp_path, "rl2", 4))
    code, output = python(*words)
    assert (code, output) == (0, "run: finished, 4 iterations\n")


@pytest.mark.learning
@pytest.mark.timeout(1200)
def test_twenty_kills_change_nothing(tmp_path, monkeypatch, python):
    monkeypatch.chdir(tmp_path)
    rng = random.Random(0)
    kills = [rng.randint(1, 14) for _ in range(20)]
    run = survive_kills(tmp_path, python, begin("rl2", 40, 2), kills)
    assert_same(run, uninterrupted(tmp_path, "rl2", 40))


def test_signals_end_a_run_in_order(tmp_path, monkeypatch, python):
    """The first signal comes during acting, beside a worker, and the second during an update."""
    monkeypatch.chdir(tmp_path)
    words = [*begin("rl2", 6, 1), "--callback", "users:look_on"]
    for name, code, last, method in (
        ("SIGINT", 130, 2, "act"),
        ("SIGTERM", 143, 4, "update"),
        ("SIGUSR1", 128 + signal.SIGUSR1, 5, "act"),
    ):
        wanted = {"SIGNAL": name, "LAST_ITERATION": str(last), "METHOD": method}
        returned, output = python(*words, **wanted)
        assert returned == code, output
        assert "Traceback" not in output
        assert Run.open(tmp_path / "run").checkpoints.iterations()[-1] == last
        assert f"iteration {last + 1} was not finished; {last} is saved" in output
        (command,) = (x for x in output.splitlines() if x.startswith("resume with: "))
        words = command.removeprefix(f"resume with: {command_line('train')}").split()
        words += ["--num-workers", "0"]
    code, output = python(*words)
    assert code == 0, output
    assert_same(Run.open(tmp_path / "run"), uninterrupted(tmp_path, "rl2", 6))


def test_a_second_signal_leaves_at_once():
    script = (
        "import os, signal\n"
        "from metarl.running.exits import exits\n"
        "@exits\n"
        "def main():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        signal.pause()\n"
        "    finally:\n"
        "        print('saving', flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        print('saved', flush=True)\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (143, "saving\n")


def test_a_process_of_a_parent_s_ends_in_order_however_many_signals_it_gets():
    """A cluster signals all processes of a job, and the parent passes its signal on."""
    script = (
        "import os, signal\n"
        "from metarl.running.exits import exits\n"
        "def main():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGUSR1)\n"
        "        signal.pause()\n"
        "    finally:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        print('saved', flush=True)\n"
        "exits(main, patient=True)()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (128 + signal.SIGUSR1, "saved\n")


def test_a_signal_while_modules_are_imported_waits_for_their_end(quick_python):
    """An exception in the middle of an import may come out as another one."""
    script = (
        "import importlib, os, signal, sys\n"
        "from metarl import __main__ as command\n"
        "real = importlib.import_module\n"
        "def interrupted(name):\n"
        "    importlib.import_module = real\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    module = real(name)\n"
        "    print('imported', flush=True)\n"
        "    return module\n"
        "importlib.import_module = interrupted\n"
        "sys.argv = ['metarl', 'train', '--list']\n"
        "command.main()\n"
    )
    done = subprocess.run([quick_python, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "imported\n", "")


def test_a_signal_that_is_swallowed_stops_before_the_next_iteration(tmp_path):
    from metarl.errors import Stopped

    Stopped.requested = signal.SIGTERM
    try:
        with pytest.raises(Stopped, match="SIGTERM"):
            train(Settings("rl2", RL2, config_of(tmp_path / "run")))
    finally:
        Stopped.requested = None
    assert Run.open(tmp_path / "run").checkpoints.iterations() == [0]


def test_an_exception_says_what_is_saved(tmp_path, monkeypatch, capsys):
    agent = registry.agent_class("rl2")
    update = agent.update

    def fail(self, trial, generator, *rest):
        if self.targets.num_updates == 2:
            raise RuntimeError("broken")
        return update(self, trial, generator, *rest)

    monkeypatch.setattr(agent, "update", fail)
    with pytest.raises(RuntimeError, match="broken"):
        train(Settings("rl2", RL2, config_of(tmp_path / "run")))
    said = capsys.readouterr().err
    assert "iteration 3 was not finished; 2 is saved: " in said
    assert f"--resume {tmp_path / 'run'}" in said


def test_an_interrupted_evaluation_is_reported(tmp_path, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise RuntimeError("broken")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="broken"):
        patch.setattr("metarl.running.evaluate.plot_adaptation", fail)
        train(Settings("rl2", RL2, config_of(tmp_path / "run")))
    assert "the training was finished but not the evaluation; 4 is saved" in capsys.readouterr().err


@pytest.mark.parametrize("cut_off", ["test.json", "test-untrained.json", "other iteration"])
def test_an_incomplete_evaluation_is_repeated(tmp_path, cut_off):
    run = train(Settings("rl2", RL2, config_of(tmp_path / "run")))
    folder = run.directory / "evaluation"
    before = json.loads((folder / "test.json").read_text())
    if cut_off == "other iteration":
        (folder / "test.json").write_text(json.dumps({**before, "iteration": 3}))
    else:
        (folder / cut_off).unlink()
    train(run.settings, resume=run)
    after = json.loads((folder / "test.json").read_text())
    assert {**after, "seconds": 0} == {**before, "seconds": 0}
    assert (folder / "test-untrained.json").exists()


def test_fewer_iterations_than_are_done_are_refused(tmp_path):
    run = train(Settings("rl2", RL2, config_of(tmp_path / "run")))
    fewer = with_options(run.train_config, iterations=3)
    with pytest.raises(UserError, match="--iterations: got 3; accepted: at least 4"):
        train(dataclasses.replace(run.settings, train=fewer), resume=run)
    assert Run.open(run.directory).train_config.iterations == 4


# a full disk


class FullDisk:
    """Refuses what is written while it is full."""

    def __init__(self):
        self.write, self.full, self.mended = write_synced, False, False

    def __call__(self, path, data):
        if self.full and not self.mended:
            path.write_bytes(data[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.write(path, data)


@pytest.fixture
def disk(monkeypatch):
    disk = FullDisk()
    monkeypatch.setattr("metarl.running.checkpoints.write_synced", disk)
    agent = registry.agent_class("rl2")
    update = agent.update

    def fill(self, trial, generator, *rest):
        disk.full = self.targets.num_updates == 1  # while iteration 2 is saved
        return update(self, trial, generator, *rest)

    monkeypatch.setattr(agent, "update", fill)
    return disk


def test_a_full_disk_is_reported_and_the_run_continues(disk, tmp_path):
    with pytest.warns(UserWarning, match=r"iteration 2 could not be saved.*No space.*iteration 1"):
        run = train(Settings("rl2", RL2, config_of(tmp_path / "run", checkpoint_interval=1)))
    assert run.checkpoints.iterations() == [3, 4]
    assert [line["iteration"] for line in metrics_of(run)] == [1, 2, 3, 4]


def test_a_full_disk_stops_the_run_where_it_is_asked_to(disk, tmp_path):
    config = config_of(tmp_path / "run", checkpoint_interval=1, on_save_error="stop")
    with pytest.raises(SaveError, match="iteration 2 could not be saved"):
        train(Settings("rl2", RL2, config))
    run = Run.open(tmp_path / "run")
    assert run.checkpoints.load().iteration == 1
    disk.mended = True
    train(run.settings, resume=run)
    assert run.checkpoints.iterations()[-1] == 4


def test_a_last_checkpoint_that_cannot_be_written_is_an_error(disk, tmp_path):
    """Otherwise an earlier one would be evaluated in its place."""
    config = config_of(tmp_path / "run", iterations=2)
    with pytest.warns(UserWarning), pytest.raises(SaveError, match="iteration 2 could not"):
        train(Settings("rl2", RL2, config))
    assert not (tmp_path / "run" / "evaluation").exists()


def test_saving_is_a_hundredth_of_the_time_at_most(tmp_path, monkeypatch):
    """However slow the disk is, checkpoints by time leave 99% of the time to the training."""
    config = config_of(tmp_path)
    saver = _Saver(config.run, tmp_path, MetricsLog(tmp_path))
    now = [1000.0]
    monkeypatch.setattr("metarl.running.training.time.perf_counter", lambda: now[0])
    saver._last, saver._took = now[0], 3.0
    now[0] += 299
    assert not saver.due(1)
    now[0] += 2
    assert saver.due(1)
    saver._last, saver._took = now[0], 0.01
    now[0] += 59
    assert not saver.due(1)
    now[0] += 2
    assert saver.due(1)


# divergence


def diverge(agent, name):
    parameter = dict(agent.head.named_parameters())[name]
    with torch.no_grad():
        parameter.view(-1)[0] = float("nan")


@pytest.mark.parametrize(
    ("env", "said"),
    [("bandit/n2-k2", "an advantage"), (CHEETAH, "the agent's action")],
)
def test_parameters_that_are_not_finite_are_found_out(env, said):
    tasks = metarl.make(env)
    agent = registry.agent_class("rl2")(RL2, metarl.TaskSpec.of(tasks))
    diverge(agent, "critic.weight" if "bandit" in env else "policy.output.weight")
    envs = tasks.make_vec(4, num_workers=0)
    with pytest.raises(DivergenceError, match=rf"diverged: {said} is not finite, of "):
        agent.update(
            training_trial(agent, Uniform(tasks), envs, seed=0, iteration=0),
            torch.Generator().manual_seed(0),
            0.0,
        )


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("observation", DivergenceError, "observation is not finite, of .*goal"),
        (
            "reward",
            EnvError,
            "slot 1, task navigation.goal=.*: a reward is inf; accepted: a finite",
        ),
    ],
)
def test_an_array_environment_that_is_not_finite_is_found_out(monkeypatch, name, error, said):
    tasks = metarl.make("navigation")
    transition = tasks.transition

    def spoiled(state, action, noise):
        result = transition(state, action, noise)
        values = getattr(result, name).copy()
        values[1] = float("inf")
        return result._replace(**{name: values})

    monkeypatch.setattr(tasks, "transition", spoiled)
    agent = registry.agent_class("maml-ppo")(MAML, metarl.TaskSpec.of(tasks))
    envs = tasks.make_vec(3)
    with pytest.raises(error, match=said):
        training_trial(agent, Uniform(tasks), envs, seed=0, iteration=0)


@pytest.mark.parametrize(
    ("agent", "config", "env", "option", "said"),
    [
        ("rl2", RL2, "bandit/n2-k2", {"learning_rate": 1e30}, "the gradient"),
        ("maml-ppo", MAML, "navigation", {"learning_rate": 1e30}, "the loss .*goal"),
        (
            "maml-ppo",
            MAML,
            "navigation",
            {"inner_learning_rate": (1e38,)},
            "the agent's action .*goal",
        ),
    ],
)
def test_a_run_that_diverges_keeps_its_last_good_checkpoint(
    tmp_path, monkeypatch, capsys, agent, config, env, option, said
):
    monkeypatch.setattr("metarl.running.training.copy_is_cheap", lambda *seconds: True)
    with pytest.raises(DivergenceError, match=said):
        train(
            Settings(
                agent,
                with_options(config, **option),
                config_of(tmp_path / "run", env, iterations=50),
            )
        )
    run = Run.open(tmp_path / "run")
    saved = run.checkpoints.load()
    assert all(x.isfinite().all() for x in saved.tensors.values())
    text = capsys.readouterr().err
    assert f"iteration {saved.iteration + 1} was not finished; {saved.iteration} is saved" in text
    assert "diverges there again" in text
    assert command_line("train", "--config", str(run.directory / "config.json")) in text
    assert all(
        isinstance(x, (int, float)) and json.dumps(x, allow_nan=False)
        for line in read_metrics(run.directory / "metrics.jsonl")
        for x in line.values()
    )

"""Runs that are cut off, by whatever: do they go on as if nothing had happened?"""

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
from metarl.options import with_options
from metarl.running.commandline import parse_train
from metarl.running.metrics import MetricsLog, read_metrics
from metarl.running.run import Run
from metarl.running.settings import TrainConfig
from metarl.running.train import Plan, train
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
    return TrainConfig(**{**values, "validation_interval": 2, "run_dir": directory, **changes})


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
def test_every_metric_is_defined_in_the_readme(tmp_path, agent, config, env):
    """And those that one looks for are there, whichever the agent."""
    run = train(config_of(tmp_path / "run", env, iterations=1, num_workers=0), agent, config)
    (line,) = read_metrics(run.directory / "metrics.jsonl")
    kinds = {"kl", "entropy", "clip_fraction", "explained_variance", "gradient_norm"}
    wanted = {f"update/{kind}" for kind in kinds}
    wanted |= {f"time/{kind}" for kind in ("env_steps_per_s", "step_share", "act_share")}
    for split in ("train", "validation"):
        wanted |= {f"{split}/return_before", f"{split}/return_after", f"{split}/trial_return"}
        if agent == "rl2":
            wanted |= {f"{split}/success_before", f"{split}/success_after"}
    assert wanted <= line.keys()
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    defined = {name for name in line if f"`{name}`" in readme}
    validated = {name for name in line if name.startswith("validation/")}
    assert line.keys() - defined - validated == {"iteration", "env_steps"}


# resume


@pytest.mark.parametrize(
    ("agent", "config", "env", "workers"),
    [
        ("rl2", RL2, "bandit/n2-k2", None),
        ("maml-ppo", MAML, "navigation", None),
        ("rl2", RL2, CHEETAH, 2),
        ("maml-ppo", MAML, CHEETAH, 2),
    ],
)
def test_resume_equals_never_stopped(tmp_path, agent, config, env, workers):
    whole = train(config_of(tmp_path / "whole", env, num_workers=workers), agent, config)
    half = config_of(
        tmp_path / "half", env, num_workers=workers, iterations=2, schedule_iterations=4
    )
    run = train(half, agent, config)
    longer = dataclasses.replace(run.train_config, iterations=4)
    train(longer, agent, run.agent_config, resume=run)
    assert_same(run, whole)


def test_a_sampler_that_learns_resumes_exactly(tmp_path):
    """The tasks of an iteration depend on how earlier ones went."""
    options = {"task_sampler": "hardest", "env": "navigation"}
    whole = train(config_of(tmp_path / "whole", **options), "maml-ppo", MAML)
    half = config_of(tmp_path / "half", **options, iterations=2, schedule_iterations=4)
    run = train(half, "maml-ppo", MAML)
    longer = dataclasses.replace(run.train_config, iterations=4)
    train(longer, "maml-ppo", MAML, resume=run)
    assert_same(run, whole)
    plain = train(config_of(tmp_path / "plain", "navigation"), "maml-ppo", MAML)
    with pytest.raises(AssertionError):
        assert_same(plain, whole)


def test_a_callback_sees_every_iteration_and_ends_a_training(tmp_path, write_module, capsys):
    seen = []

    def callback(iteration, trial, metrics):
        seen.append((iteration, len(trial.tasks), "update/kl" in metrics))
        return iteration < 3

    run = train(config_of(tmp_path / "run"), "rl2", RL2, callback=callback)
    assert seen == [(i, RL2.tasks_per_update, True) for i in (1, 2, 3)]
    assert run.checkpoints.iterations()[-1] == 3
    assert "the callback ends the training after iteration 3" in capsys.readouterr().out
    name = write_module("watching", "def stop(iteration, trial, metrics):\n    return False\n")
    run = train(config_of(tmp_path / "named", callback=f"{name}:stop"), "rl2", RL2)
    assert run.checkpoints.iterations()[-1] == 1
    with pytest.raises(UserError, match="has --callback watching:stop, which is not imported"):
        parse_train(["--resume", str(run.directory)])
    again = parse_train(["--resume", str(run.directory), "--callback", "watching:stop"])
    assert again.config.callback == "watching:stop"
    assert "--callback watching:stop" in run.resume_command()


def test_a_run_without_a_checkpoint_starts_again(tmp_path):
    whole = train(config_of(tmp_path / "whole"), "rl2", RL2)
    config = config_of(tmp_path / "run")
    plan = Plan.of(config, "rl2", RL2)
    run = Run.create(plan.config, "rl2", plan.agent_config, plan.tasks, plan.derived)
    train(run.train_config, "rl2", run.agent_config, resume=run)
    assert_same(run, whole)


def test_a_damaged_newest_checkpoint_costs_only_time(tmp_path):
    whole = train(config_of(tmp_path / "whole"), "rl2", RL2)
    run = train(config_of(tmp_path / "run", checkpoint_interval=1), "rl2", RL2)
    (run.checkpoints.directory / "0000004" / "agent.safetensors").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="iteration 3 is loaded instead"):
        train(run.train_config, "rl2", run.agent_config, resume=run)
    assert_same(run, whole)


def test_a_warning_is_a_line_of_its_own(tmp_path):
    run = train(config_of(tmp_path / "run", checkpoint_interval=1), "rl2", RL2)
    (run.checkpoints.directory / "0000004" / "agent.safetensors").write_bytes(b"damaged")
    process = Process(tmp_path, "--resume", "run", "--iterations", "5")
    code, output = process.end()
    assert code == 0, output
    (said,) = (line for line in output.splitlines() if "instead" in line)
    assert said.startswith("warning: run/checkpoints/0000004: ")


# signals and kills


COMMAND = (
    "--env half-cheetah/velocity:horizon=10 --tasks-per-update 4 --episodes-per-trial 2 "
    "--hidden-size 8 --num-minibatches 2 --num-workers 2 --checkpoint-interval 1 "
    "--validation-interval 10 --validation-tasks 2 --evaluation-tasks 2 --iterations 20"
)


class Process:
    """``train.py`` in a process of its own; all that it starts has a mark in its environment."""

    def __init__(self, directory, *arguments):
        self.mark = f"METARL_TEST_MARK={uuid.uuid4()}"
        name, value = self.mark.split("=")
        self.process = subprocess.Popen(
            [sys.executable, str(TRAIN), *arguments],
            cwd=directory,
            env=os.environ | {name: value, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @staticmethod
    def start(directory):
        return Process(directory, *COMMAND.split(), "--run-dir", "run")

    @staticmethod
    def resume(directory):
        if not (directory / "run" / "config.json").exists():  # it had not begun
            return Process.start(directory)
        return Process(directory, "--resume", "run")

    def wait_for(self, condition):
        while self.process.poll() is None and not condition():
            time.sleep(0.001)

    def end(self):
        """Wait for its end: exit code and output. Nothing that it started may be left."""
        output = self.process.communicate(timeout=120)[0]
        deadline = time.monotonic() + 5
        while orphans := list(processes(self.mark)):
            assert time.monotonic() < deadline, f"left behind: {orphans}"
            time.sleep(0.05)
        return self.process.returncode, output


def processes(mark):
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                yield folder.name
        except OSError:
            continue


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    started = time.monotonic()
    code, output = Process.start(folder).end()
    assert code == 0, output
    return Run.open(folder / "run"), time.monotonic() - started


def saving(folder):
    return lambda: any(folder.glob("run/checkpoints/.*.partial"))


def lines(folder, count):
    path = folder / "run" / "metrics.jsonl"
    return lambda: path.exists() and path.read_bytes().count(b"\n") >= count


def survive_kills(folder, kills, uninterrupted):
    """Kill a run again and again, at random moments and while it saves; return it finished."""
    shared = set(os.listdir("/dev/shm")) if Path("/dev/shm").exists() else set()
    rng = random.Random(0)
    for kill in range(kills):
        process = Process.resume(folder)
        if kill % 3 == 1:
            process.wait_for(saving(folder))
        else:  # the first seconds among them, in which nothing has begun
            time.sleep(rng.uniform(0, uninterrupted[1]))
        process.process.kill()
        process.end()
    code, output = Process.resume(folder).end()
    assert code == 0, output
    if Path("/dev/shm").exists():
        assert set(os.listdir("/dev/shm")) <= shared
    run = Run.open(folder / "run")
    assert not list(run.directory.rglob("*.partial"))
    return run


def test_killed_runs_end_where_uninterrupted_ones_do(uninterrupted, tmp_path):
    assert_same(survive_kills(tmp_path, 2, uninterrupted), uninterrupted[0])


@pytest.mark.learning
@pytest.mark.timeout(1200)
def test_twenty_kills_change_nothing(uninterrupted, tmp_path):
    assert_same(survive_kills(tmp_path, 20, uninterrupted), uninterrupted[0])


def test_signals_end_a_run_in_order(uninterrupted, tmp_path):
    words = [*COMMAND.split(), "--run-dir", "run"]
    for number, code, finished in ((signal.SIGINT, 130, 3), (signal.SIGTERM, 143, 8)):
        process = Process(tmp_path, *words)
        process.wait_for(lines(tmp_path, finished))
        process.process.send_signal(number)
        returned, output = process.end()
        assert returned == code, output
        assert "Traceback" not in output
        last = Run.open(tmp_path / "run").checkpoints.iterations()[-1]
        assert f"iteration {last + 1} was not finished; {last} is saved" in output
        (command,) = (x for x in output.splitlines() if x.startswith("go on with: "))
        words = command.removeprefix("go on with: python scripts/train.py ").split()
    code, output = Process(tmp_path, *words).end()
    assert code == 0, output
    assert_same(Run.open(tmp_path / "run"), uninterrupted[0])


def test_a_second_signal_leaves_at_once(tmp_path):
    script = (
        "import os, signal, time\n"
        "from metarl.running.exits import exits\n"
        "@exits\n"
        "def main():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        print('saving', flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        print('saved', flush=True)\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (143, "saving\n")


def test_a_signal_while_modules_are_imported_waits_for_their_end():
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
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "imported\n", "")


def test_a_signal_that_is_swallowed_stops_before_the_next_iteration(tmp_path):
    from metarl.errors import Stopped

    Stopped.requested = signal.SIGTERM
    try:
        with pytest.raises(Stopped, match="SIGTERM"):
            train(config_of(tmp_path / "run"), "rl2", RL2)
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
        train(config_of(tmp_path / "run"), "rl2", RL2)
    said = capsys.readouterr().err
    assert "iteration 3 was not finished; 2 is saved: " in said
    assert f"--resume {tmp_path / 'run'}" in said


def test_an_evaluation_that_is_cut_off_is_said_to_be(tmp_path, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise RuntimeError("broken")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="broken"):
        patch.setattr("metarl.running.evaluate.plot_adaptation", fail)
        train(config_of(tmp_path / "run"), "rl2", RL2)
    assert "training was finished, evaluation not; 4 is saved" in capsys.readouterr().err


@pytest.mark.parametrize("cut_off", ["test.json", "test-untrained.json", "other iteration"])
def test_an_evaluation_that_is_not_whole_is_done_again(tmp_path, cut_off):
    run = train(config_of(tmp_path / "run"), "rl2", RL2)
    folder = run.directory / "evaluation"
    before = json.loads((folder / "test.json").read_text())
    if cut_off == "other iteration":
        (folder / "test.json").write_text(json.dumps({**before, "iteration": 3}))
    else:
        (folder / cut_off).unlink()
    train(run.train_config, "rl2", run.agent_config, resume=run)
    after = json.loads((folder / "test.json").read_text())
    assert {**after, "seconds": 0} == {**before, "seconds": 0}
    assert (folder / "test-untrained.json").exists()


def test_fewer_iterations_than_are_done_are_refused(tmp_path):
    run = train(config_of(tmp_path / "run"), "rl2", RL2)
    fewer = dataclasses.replace(run.train_config, iterations=3)
    with pytest.raises(UserError, match="--iterations: got 3; accepted: at least 4"):
        train(fewer, "rl2", run.agent_config, resume=run)
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


def test_a_full_disk_is_said_and_the_run_goes_on(disk, tmp_path):
    with pytest.warns(UserWarning, match=r"iteration 2 could not be saved.*No space.*iteration 1"):
        run = train(config_of(tmp_path / "run", checkpoint_interval=1), "rl2", RL2)
    assert run.checkpoints.iterations() == [3, 4]
    assert [line["iteration"] for line in metrics_of(run)] == [1, 2, 3, 4]


def test_a_full_disk_stops_the_run_where_it_is_asked_to(disk, tmp_path):
    config = config_of(tmp_path / "run", checkpoint_interval=1, on_save_error="stop")
    with pytest.raises(SaveError, match="iteration 2 could not be saved"):
        train(config, "rl2", RL2)
    run = Run.open(tmp_path / "run")
    assert run.checkpoints.load().iteration == 1
    disk.mended = True
    train(run.train_config, "rl2", run.agent_config, resume=run)
    assert run.checkpoints.iterations()[-1] == 4


def test_a_last_checkpoint_that_cannot_be_written_is_an_error(disk, tmp_path):
    """Else an earlier one would be evaluated in its place."""
    config = config_of(tmp_path / "run", iterations=2)
    with pytest.warns(UserWarning), pytest.raises(SaveError, match="iteration 2 could not"):
        train(config, "rl2", RL2)
    assert not (tmp_path / "run" / "evaluation").exists()


def test_saving_is_a_hundredth_of_the_time_at_most(tmp_path, monkeypatch):
    """However slow the disk is, checkpoints by time leave it 99 parts of 100."""
    config = config_of(tmp_path)
    saver = _Saver(config, tmp_path, MetricsLog(tmp_path))
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
    tmp_path, capsys, agent, config, env, option, said
):
    with pytest.raises(DivergenceError, match=said):
        train(
            config_of(tmp_path / "run", env, iterations=50),
            agent,
            with_options(config, **option),
        )
    run = Run.open(tmp_path / "run")
    saved = run.checkpoints.load()
    assert all(x.isfinite().all() for x in saved.tensors.values())
    text = capsys.readouterr().err
    assert f"iteration {saved.iteration + 1} was not finished; {saved.iteration} is saved" in text
    assert "diverges there again" in text
    assert all(
        isinstance(x, (int, float)) and json.dumps(x, allow_nan=False)
        for line in read_metrics(run.directory / "metrics.jsonl")
        for x in line.values()
    )

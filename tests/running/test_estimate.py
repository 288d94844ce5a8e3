"""What an iteration takes: is it measured well, said, and refused where nobody can mean it?"""

import json

import numpy as np
import pytest
from counters import CounterTasks, counter_task

import metarl
from metarl import registry
from metarl.errors import UserError
from metarl.experience.agent import TaskSpec
from metarl.options import with_options
from metarl.running import estimate as estimating
from metarl.running.commandline import run_train
from metarl.running.estimate import Estimate, duration, measure_iteration, size_of_iteration
from metarl.running.metrics import read_metrics
from metarl.running.run import Run
from metarl.running.settings import TrainConfig, ValidationConfig
from metarl.running.training import seconds_spent
from metarl.stepping import shortened
from metarl.stepping.shortened import ShortenedVectorEnv

TINY = [
    "rl2",
    "--tasks-per-update",
    "4",
    "--num-minibatches",
    "1",
    "--hidden-size",
    "8",
    "--num-workers",
    "0",
]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0412, "0.041 s"), (9.96, "10 s"), (99, "99 s"), (100, "2 min"), (7200, "2.0 h")],
)
def test_lengths_of_time_in_words(seconds, text):
    assert duration(seconds) == text


def test_the_line_says_what_an_iteration_is():
    size = Estimate(40, 2, 200)
    assert size.text(50) == (
        "an iteration: 40 tasks × 2 episodes × 200 steps = 16,000 steps; 50 iterations"
    )
    assert "1 task × 1 episode × 1 step = 1 steps" in Estimate(1, 1, 1).text(1)
    measured = size._replace(seconds=1.5, longest=1.6, memory=2**29)
    assert measured.text(100).endswith(
        "16,000 steps, about 1.6 s; 100 iterations, about 3 min; about 512 MiB of memory"
    )
    wide = measured._replace(longest=15.0)
    assert "1.5 s to 15 s; 100 iterations, 2 min to 25 min" in wide.text(100)
    assert wide.expected == pytest.approx(np.sqrt(1.5 * 15))


@pytest.mark.parametrize("limit", [2, 5])
def test_shortened_episodes_are_truncated_and_begin_again(limit):
    tasks = CounterTasks()
    whole = tasks.make_vec(2, num_workers=0)
    envs = ShortenedVectorEnv(whole, limit)
    given = [counter_task(1000, 7), counter_task(1000, 3)]  # The last ends by itself.
    envs.reset(seed=0, options={"tasks": given})
    for start in range(2):
        actions = np.zeros((2, *envs.single_action_space.shape), np.float32)
        steps = [envs.step(actions)[2:4] for _ in range(limit)]
        terminated, truncated = (np.array([step[i] for step in steps]) for i in (0, 1))
        assert truncated[:-1, 0].sum() == 0 and truncated[-1, 0]
        assert not (terminated & truncated).any()
        if start == 0:
            envs.reset(seed=1)
    assert envs.reset_seconds > 0
    whole.close()


class Clock:
    """A clock that only what is measured moves on."""

    now = 0.0

    def perf_counter(self):
        return self.now


class Slow(CounterTasks):
    """Resets and steps take a given time by a clock, and only the horizon ends an episode."""

    def __init__(self, clock, horizon, resets, steps):
        super().__init__(horizon)
        self.clock, self.resets, self.steps = clock, resets, steps

    def sample(self, rng, n, split):
        return [counter_task(1000) for _ in range(n)]

    def make(self, task=None):
        env = super().make(task)
        reset, step = env.reset, env.step

        def slow_reset(**options):
            self.clock.now += self.resets
            return reset(**options)

        def slow_step(action):
            self.clock.now += self.steps
            return step(action)

        env.reset, env.step = slow_reset, slow_step
        return env


def _made(tasks, **options):
    spec = TaskSpec.of(tasks)
    config = with_options(
        metarl.RL2Config(),
        **{"tasks_per_update": 4, "num_minibatches": 1, "hidden_size": 8} | options,
    )
    return registry.agent_class("rl2")(config, spec)


@pytest.mark.parametrize("horizon", [3, 60, 500])
@pytest.mark.parametrize(
    ("resets", "steps", "fixed", "each"),
    [(0.4, 0.0, 0.0, 0.0), (0.0, 0.01, 0.0, 0.0), (0.1, 0.01, 3.0, 0.002)],
)
def test_an_estimate_is_what_an_iteration_takes(monkeypatch, horizon, resets, steps, fixed, each):
    clock = Clock()
    monkeypatch.setattr(estimating, "time", clock)
    monkeypatch.setattr(shortened, "time", clock)
    tasks = Slow(clock, horizon, resets, steps)
    agent, envs = _made(tasks, episodes_per_trial=3), tasks.make_vec(4, num_workers=0)
    update = agent.update

    def slow_update(trial, *rest):
        clock.now += fixed + each * trial.env_steps
        return update(trial, *rest)

    agent.update = slow_update
    found = measure_iteration(agent, tasks, TrainConfig(), envs, seconds=2.0)
    envs.close()
    cells = 4 * 3 * horizon
    assert found.longest == pytest.approx(12 * resets + cells * (steps + each) + fixed)
    assert found.seconds == pytest.approx(found.longest)


@pytest.mark.parametrize("delayed", [2, 3])
def test_a_delay_while_little_is_played_hardly_moves_an_estimate(monkeypatch, delayed):
    clock, calls = Clock(), []
    monkeypatch.setattr(estimating, "time", clock)
    monkeypatch.setattr(shortened, "time", clock)
    tasks = Slow(clock, 500, 0.0, 0.01)
    agent, envs = _made(tasks, episodes_per_trial=3), tasks.make_vec(4, num_workers=0)
    update = agent.update

    def slow_update(trial, *rest):
        calls.append(trial.env_steps)
        clock.now += 3.0 + 0.002 * trial.env_steps + (len(calls) == delayed)
        return update(trial, *rest)

    agent.update = slow_update
    found = measure_iteration(agent, tasks, TrainConfig(), envs, seconds=18.0)
    envs.close()
    assert calls[-1] > 800 and sum(calls) < 3000  # of 6000 steps, in about the time given
    assert found.longest == pytest.approx(75.0, rel=0.1)


def test_episodes_that_end_early_make_an_iteration_shorter(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(estimating, "time", clock)
    monkeypatch.setattr(shortened, "time", clock)
    tasks = Slow(clock, 200, 0.0, 0.01)
    monkeypatch.setattr(tasks, "sample", lambda rng, n, split: [counter_task(9)] * n)
    agent, envs = _made(tasks, episodes_per_trial=3), tasks.make_vec(4, num_workers=0)
    found = measure_iteration(agent, tasks, TrainConfig(), envs, seconds=100.0)
    envs.close()
    assert found.longest == pytest.approx(24.0)  # 12 episodes of 200 steps
    assert found.seconds == pytest.approx(12 * 9 * 0.01, rel=0.01)


def test_an_agent_that_learns_from_whole_episodes_only_is_trained(tmp_path, capsys, monkeypatch):
    def refuse(*rest):
        raise ValueError("too short to learn from")

    monkeypatch.setattr(estimating, "measure_iteration", refuse)
    with pytest.warns(UserWarning, match="could not be measured: ValueError: too short to learn"):
        _train(capsys, *TINY, "--iterations", "1", "--run-dir", str(tmp_path / "run"))
    assert Run.open(tmp_path / "run").checkpoint().iteration == 1
    with pytest.raises(ValueError, match="too short"):  # How many updates are a minute?
        _train(capsys, *TINY, "--minutes", "1", "--run-dir", str(tmp_path / "other"))


def test_few_tasks_stand_for_many():
    tasks = metarl.make("navigation:horizon=6")
    agent = _made(tasks, tasks_per_update=2000, episodes_per_trial=2)
    with pytest.MonkeyPatch.context() as patch:
        played = []
        run = estimating.run_trial
        patch.setattr(
            estimating, "run_trial", lambda *a, **k: played.append(len(a[2])) or run(*a, **k)
        )
        envs = tasks.make_vec(20)
        found = measure_iteration(agent, tasks, TrainConfig(), envs, seconds=0.01)
    assert set(played) == {20}
    one = size_of_iteration(agent, tasks)
    assert (found.tasks, found.episodes, found.horizon) == (2000, 2, 6) == one[:3]
    assert one.seconds is None and found.memory > 2**25


def _train(capsys, *words):
    try:
        run_train(words)
    except UserError as error:
        return str(error)
    finally:
        capsys.readouterr()
    return None


def test_a_measurement_changes_no_number_of_a_training(tmp_path, capsys):
    states = []
    for name, check in (("a", "--check"), ("b", "--no-check")):
        _train(capsys, *TINY, "--iterations", "2", check, "--run-dir", str(tmp_path / name))
        states.append(Run.open(tmp_path / name).checkpoint())
    first, second = states
    assert first.tensors.keys() == second.tensors.keys()
    assert all(first.tensors[name].equal(x) for name, x in second.tensors.items())


def test_an_iteration_of_over_ten_minutes_needs_a_yes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(estimating, "LONGEST", 1e-9)
    folder = tmp_path / "run"
    words = [*TINY, "--iterations", "1", "--run-dir", str(folder)]
    said = _train(capsys, *words)
    assert said.startswith("an iteration takes over ten minutes (an iteration: 4 tasks × 10 ep")
    assert said.endswith(
        "--tasks-per-update or --episodes-per-trial, or --yes to train nevertheless"
    )
    assert not folder.exists()
    group = tmp_path / "group"
    assert "over ten minutes" in _train(capsys, *words[:-1], str(group), "--seeds", "0", "1")
    assert not group.exists()
    assert _train(capsys, *words, "--yes") is None
    assert Run.open(folder).checkpoint().iteration == 1


def test_an_iteration_of_more_memory_than_there_is_needs_a_yes(tmp_path, capsys, monkeypatch):
    free = type("Memory", (), {"available": 2**20, "total": 2**20})
    monkeypatch.setattr(estimating.psutil, "virtual_memory", lambda: free)
    said = _train(capsys, *TINY, "--iterations", "1", "--run-dir", str(tmp_path / "run"))
    assert said.startswith("an iteration needs more than the 1 MiB free (an iteration: 4 tasks")


def test_without_a_check_only_the_size_is_said(tmp_path, capsys):
    run_train([*TINY, "--iterations", "1", "--no-check", "--run-dir", str(tmp_path / "run")])
    said = capsys.readouterr().out
    assert "4 tasks × 10 episodes × 1 step = 40 steps; 1 iterations\n" in said


def test_a_training_of_some_minutes_has_as_many_updates_as_there_is_time_for(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        estimating, "measure_iteration", lambda *rest: Estimate(4, 10, 1, 1.0, 1.0, 2**20)
    )
    folder = tmp_path / "run"
    run_train([*TINY, "--minutes", "0.2", "--run-dir", str(folder)])
    said = capsys.readouterr().out
    assert "4 tasks × 10 episodes × 1 step = 40 steps, about 1 s; 10 iterations, about 10 s" in said
    config = Run.open(folder).train_config
    assert (config.minutes, config.iterations, config.schedule_iterations) == (0.2, 10, 10)
    assert (config.evaluation.validation_interval, config.evaluation.validation_tasks) == (2, 10)
    assert Run.open(folder).checkpoint().iteration == 10
    again = Run.open(folder).settings.for_another_run().train
    assert (again.minutes, again.iterations, again.schedule_iterations) == (None, 10, None)


@pytest.mark.parametrize(
    ("given", "iterations", "interval"),
    [
        ({}, 54, None),  # Validation adds a tenth at most.
        ({"validation_tasks": 40}, 50, 5),  # Ten validations of a second each.
        ({"validation_tasks": 400}, 50, 50),  # A validation of ten seconds.
        ({"validation_tasks": 40, "validation_interval": 2}, 40, 2),
        ({"validation_interval": 7}, 54, 7),
    ],
)
def test_a_training_in_minutes_has_time_for_its_validations(given, iterations, interval):
    tasks = metarl.make("bandit/n10-k5")
    measured = Estimate(4, 10, 1, 1.0, 1.0, 2**20, step=1 / 400)
    config = with_options(TrainConfig(minutes=1), **given)
    found = estimating.planned(config, measured, _made(tasks), tasks)
    assert (found.iterations, found.evaluation.validation_interval) == (iterations, interval)


def test_a_training_ends_when_its_minutes_are_over(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        estimating, "measure_iteration", lambda *rest: Estimate(4, 10, 1, 1e-4, 1e-4, 2**20)
    )
    folder = tmp_path / "run"
    run_train([*TINY, "--minutes", "0.005", "--run-dir", str(folder)])
    said = capsys.readouterr().out
    run = Run.open(folder)
    reached, config = run.checkpoint().iteration, run.train_config
    assert 1 <= reached < 2700 and reached == config.iterations
    assert f"0.005 minutes are over after iteration {reached} of 2727" in said
    assert config.schedule_iterations == 2727
    assert "schedule_iterations" not in run.content["derived"]
    assert run.settings.for_another_run().train.schedule_iterations == 2727
    assert 0.3 <= seconds_spent(folder, reached) < 5
    assert seconds_spent(folder, reached - 1) < 0.3
    lines = read_metrics(folder / "metrics.jsonl")
    assert "validation/return_after" in lines[-1]  # As after any other training.
    before = (folder / "config.json").read_bytes()
    content = json.loads(before)
    content["train_config"]["iterations"] = 2727  # As if it had been killed just before.
    (folder / "config.json").write_text(json.dumps(content))
    run_train(["--resume", str(folder)])
    assert len(read_metrics(folder / "metrics.jsonl")) == reached
    assert json.loads((folder / "config.json").read_bytes()) == json.loads(before)
    before = (folder / "config.json").read_bytes()
    run_train(["--resume", str(folder)])
    assert (folder / "config.json").read_bytes() == before
    assert Run.open(folder).checkpoint().iteration == reached


def test_a_run_that_was_killed_before_it_was_measured_is_measured_when_resumed(
    tmp_path, capsys, monkeypatch
):
    folder = tmp_path / "run"
    words = [*TINY, "--minutes", "0.2", "--run-dir", str(folder)]

    def killed(*rest):
        raise KeyboardInterrupt

    monkeypatch.setattr(estimating, "measure_iteration", killed)
    with pytest.raises(KeyboardInterrupt):
        run_train(words)
    assert json.loads((folder / "config.json").read_text())["train_config"]["iterations"] is None
    monkeypatch.setattr(
        estimating, "measure_iteration", lambda *rest: Estimate(4, 10, 1, 5.0, 5.0, 2**20)
    )
    run_train(["--resume", str(folder)])
    assert Run.open(folder).train_config.iterations == 2
    assert Run.open(folder).checkpoint().iteration == 2
    said = _train(capsys, "--resume", str(folder), "--minutes", "3")
    assert said.startswith(
        "--minutes: got '3'; accepted: 0.2, as the run has, or --iterations with"
    )
    run_train(["--resume", str(folder), "--iterations", "3"])
    assert Run.open(folder).checkpoint().iteration == 3


def test_defaults_of_validation_follow_from_the_length_of_a_training():
    tasks = metarl.make("navigation")
    agent = registry.agent_class("maml-ppo")(metarl.MAMLPPOConfig(), TaskSpec.of(tasks))
    # An update has 20 tasks × 60 episodes; a validation task 80 episodes.
    long = TrainConfig(env="navigation", iterations=4000).resolve(agent, tasks).evaluation
    assert (long.validation_interval, long.validation_tasks) == (50, 75)
    assert long.evaluation_tasks is None  # A training looks at no test task, not even at all.
    assert long.after(agent, tasks, 4000).evaluation_tasks == 1000
    short = TrainConfig(env="navigation", iterations=80).resolve(agent, tasks).evaluation
    assert (short.validation_interval, short.validation_tasks) == (10, 15)
    assert short.after(agent, tasks, 80).evaluation_tasks == 120
    tiny = TrainConfig(env="navigation", iterations=2).resolve(agent, tasks).evaluation
    assert tiny == ValidationConfig(1, 10)
    assert tiny.after(agent, tasks, 2).evaluation_tasks == 100
    own = TrainConfig(env="navigation", iterations=80)
    own = with_options(own, validation_tasks=3, validation_interval=7, evaluation_tasks=5)
    assert own.resolve(agent, tasks).evaluation == own.evaluation
    assert own.evaluation.after(agent, tasks, 80) == own.evaluation
    finite = metarl.make("metaworld/ml1-reach")
    agent = _made(finite, tasks_per_update=2)
    assert ValidationConfig().after(agent, finite, 2).evaluation_tasks == 50


def test_the_number_of_evaluation_tasks_is_recorded_after_the_training(tmp_path, capsys):
    folder = tmp_path / "run"
    _train(capsys, *TINY, "--iterations", "2", "--run-dir", str(folder))
    run = Run.open(folder)
    assert run.train_config.evaluation.evaluation_tasks == 100
    assert json.loads((folder / "evaluation/test.json").read_text())["num_tasks"] == 100
    assert run.settings.for_another_run().train.evaluation == ValidationConfig()


@pytest.mark.parametrize(
    "words", ["--iterations 3 --minutes 1", "--minutes 1 --env-steps 9", "--minutes 0"]
)
def test_lengths_that_cannot_be_are_refused(words, capsys):
    assert _train(capsys, *TINY, *words.split()).startswith(("--minutes: got", "--env-steps: got"))

"""Worker processes: the same bits as without them, and every fault ends in one clear error."""

import contextlib
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import psutil
import pytest
from counters import CounterTasks, counter_task
from fragile import Fragile, fragile
from gymnasium.envs.registration import EnvSpec

import metarl
from metarl.envs.half_cheetah import HalfCheetahVelocity
from metarl.errors import EnvError, UserError
from metarl.imports import import_module
from metarl.stepping.workers import usable_cores


def play(envs, tasks, steps=50):
    """Return all that the slots report, episodes started again where they end."""
    rng = np.random.default_rng(0)
    observation, _ = envs.reset(seed=5, options={"tasks": tasks})
    seen = [observation]
    for _ in range(steps):
        actions = rng.uniform(-1, 1, envs.action_space.shape)
        observation, reward, terminated, truncated, info = envs.step(actions)
        seen += [observation, reward, terminated, truncated, *info.values()]
        ended = terminated | truncated
        if ended.any():
            seen.append(envs.reset(options={"reset_mask": ended})[0])
    return seen


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def is_running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(autouse=True)
def no_worker_left_behind():
    yield
    running = [child for child in psutil.Process().children() if is_running(child.pid)]
    workers = [c for c in running if "metarl.stepping.workers" in " ".join(c.cmdline())]
    for worker in workers:
        worker.kill()  # Otherwise the next tests would find it too.
    assert not workers


def test_experience_does_not_depend_on_the_number_of_workers():
    slots = [counter_task(1 + i % 4, 2) for i in range(7)]
    runs = []
    for workers in (0, 1, 3):
        envs = CounterTasks().make_vec(7, num_workers=workers)
        runs.append(play(envs, slots))
        envs.close()
    assert all(same(runs[0], run) for run in runs[1:])


@pytest.mark.parametrize("workers", [0, 2, None])
def test_resized_environments_equal_new_ones(workers):
    """Larger, smaller, fewer slots than workers; what was there before leaves no trace."""
    with contextlib.closing(CounterTasks().make_vec(4, num_workers=workers)) as envs:
        for number in (4, 9, 1, 3, 40, 2):
            first = envs.worker_pids()
            if number != envs.num_envs:
                envs.resize(number)
            kept = min(len(first), len(envs.worker_pids()))
            assert first[:kept] == envs.worker_pids()[:kept]
            slots = [counter_task(1 + i % 4, 2) for i in range(number)]
            with pytest.raises(ValueError, match="task"):
                envs.reset(seed=0)  # no slot has a task yet
            with contextlib.closing(CounterTasks().make_vec(number, num_workers=0)) as new:
                assert same(play(envs, slots, 12), play(new, slots, 12))


@pytest.mark.parametrize("workers", [0, 1])
def test_environments_are_closed_before_others_are_made_in_their_place(tmp_path, workers):
    """Two sets of simulators would take twice the memory."""

    def note(what):
        with (tmp_path / "log").open("a") as log:
            log.write(what)

    class NotesClosing(gym.Wrapper):
        def close(self):
            note("c")

    class Closing(CounterTasks):
        def make(self, task=None):
            note("m")
            return NotesClosing(super().make(task))

    with contextlib.closing(Closing().make_vec(3, num_workers=workers)) as envs:
        envs.resize(2)
        assert (tmp_path / "log").read_text() == "mmmcccmm"
    assert (tmp_path / "log").read_text() == "mmmcccmmcc"


def test_a_worker_lost_after_resizing_is_replaced(tmp_path):
    slots = [fragile()] * 4
    with contextlib.closing(Fragile().make_vec(4, num_workers=0)) as whole:
        expected = play(whole, slots)
    slots[1] = fragile("kill", tmp_path / "marker")
    with contextlib.closing(Fragile().make_vec(2, num_workers=2, restarts=1)) as envs:
        play(envs, slots[2:])
        envs.resize(4)
        assert same(play(envs, slots), expected)
    assert (tmp_path / "marker").exists()


def test_neighbouring_rows_share_a_worker_and_every_worker_has_its_share():
    with contextlib.closing(CounterTasks().make_vec(7, num_workers=3)) as envs:
        for rows in range(1, 8):
            slots = np.array(envs.slots_for(rows))
            assert sorted(slots.tolist()) == list(range(rows))
            worker = slots % 3
            assert np.count_nonzero(np.diff(worker)) == min(rows, 3) - 1
            assert np.ptp(np.bincount(worker, minlength=3)) <= 1


def test_rows_that_follow_each_other_are_stepped_in_one_process():
    class WithProcess(gym.Wrapper):
        def step(self, action):
            *result, info = self.env.step(action)
            return *result, info | {"process": os.getpid()}

    class Processes(CounterTasks):
        info_keys = ("process",)

        def make(self, task=None):
            return WithProcess(super().make(task))

    with contextlib.closing(Processes().make_vec(8, num_workers=2)) as envs:
        envs.reset(seed=0, options={"tasks": [counter_task(3)] * 8})
        process = envs.step(np.zeros((8, 2)))[4]["process"]
        a, b = process[envs.slots_for(6)].reshape(2, 3).tolist()
    assert len(set(a)) == len(set(b)) == 1 and a[0] != b[0]


def test_step_async_and_step_wait_come_in_turn():
    envs = CounterTasks().make_vec(2, num_workers=0)
    envs.reset(seed=0, options={"tasks": [counter_task(3)] * 2})
    with pytest.raises(RuntimeError, match="step_wait was called without step_async"):
        envs.step_wait()
    envs.step_async(np.zeros((2, 2)))
    with pytest.raises(RuntimeError, match="step_async was called twice"):
        envs.step_async(np.zeros((2, 2)))


def test_finished_and_taskless_slots_are_not_stepped(tmp_path):
    envs = Fragile().make_vec(3, num_workers=1)
    envs.reset(seed=0, options={"tasks": [fragile(), None, fragile()]})
    calls = envs._pool.views["progress"][0, 0]
    before = int(calls)
    envs.step(np.zeros((3, 1)))
    assert int(envs._pool.views["progress"][0, 0]) - before == 3  # two steps, and the end
    envs.close()


def test_worker_loads_no_slow_module_and_one_blas_thread():
    class Spy(HalfCheetahVelocity):
        def make(self, task=None):
            slow = {"torch", "scipy.special"} & sys.modules.keys()
            assert not slow, f"{slow} were loaded"
            assert os.environ["OMP_NUM_THREADS"] == "1"
            return super().make(task)

    envs = Spy().make_vec(2, num_workers=1)
    envs.close()


def test_an_id_whose_module_imports_torch_costs_other_tasks_nothing(write_module):
    """A module that registers ids and loads torch is imported where its ids are used alone."""
    write_module(
        "heavy",
        "import gymnasium as gym\nimport torch\n\n\nclass Heavy(gym.Env):\n    pass\n\n\n"
        "gym.register('Heavy-v0', Heavy)\n",
    )
    import_module("heavy", "")
    try:
        test_worker_loads_no_slow_module_and_one_blas_thread()
    finally:
        del gym.registry["Heavy-v0"]


def test_a_module_that_registers_again_in_a_worker_warns_of_nothing(write_module, capfd):
    write_module(
        "again",
        "import gymnasium as gym\nfrom drift import Drift\n\n"
        "gym.register('Again-v0', lambda drift: Drift(drift))\n\n\n"
        "def make(params):\n    return gym.make('Again-v0', drift=params['drift'])\n",
    )
    module = import_module("again", "")
    try:
        params = {"drift": metarl.Uniform(0, 1)}
        tasks = metarl.FunctionTasks(module.make, params, horizon=5)
        drawn = tasks.sample(np.random.default_rng(0), 2, "train")
        with contextlib.closing(tasks.make_vec(2, num_workers=1)) as envs:
            envs.reset(seed=0, options={"tasks": drawn})
        assert "Overriding" not in capfd.readouterr().err
    finally:
        del gym.registry["Again-v0"]


def registered(monkeypatch, name, **changes):
    """Register ``name`` until the test ends; by default it makes a CartPole."""
    own = {"entry_point": "gymnasium.envs.classic_control:CartPoleEnv"}
    spec = EnvSpec(name, **own | changes)
    monkeypatch.setitem(gym.registry, name, spec)
    return spec


class Wrapped(gym.Wrapper):
    def __init__(self):
        super().__init__(gym.make("CartPole-v1"))


def test_a_worker_knows_the_ids_that_this_process_has_registered(monkeypatch):
    registered(monkeypatch, "OwnClass-v0", entry_point=Wrapped, max_episode_steps=7)
    registered(monkeypatch, "OwnFunction-v0", entry_point=lambda: Wrapped())
    registered(monkeypatch, "OfGymnasium-v0", kwargs={"sutton_barto_reward": True})
    registered(monkeypatch, "CartPole-v1", max_episode_steps=9)  # not the package's own any more
    registered(monkeypatch, "Unsendable-v0", kwargs={"lock": threading.Lock()})

    def look(params):
        limits = {name: gym.spec(name).max_episode_steps for name in ("OwnClass-v0", "CartPole-v1")}
        assert limits == {"OwnClass-v0": 7, "CartPole-v1": 9}
        gym.make("OwnFunction-v0").close()
        assert gym.make("OfGymnasium-v0").unwrapped._sutton_barto_reward
        return gym.make("OwnClass-v0")

    tasks = metarl.FunctionTasks(look, {"mass": metarl.Choice(1, 2)})
    slots = tasks.sample(np.random.default_rng(0), 1, "train")
    with contextlib.closing(tasks.make_vec(1, num_workers=1)) as envs:
        envs.reset(seed=0, options={"tasks": slots})
        assert envs.step(np.array([0]))[1].tolist() == [1.0]


def test_a_worker_has_this_process_s_arguments_variables_and_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["train.py", "--iterations", "3", "\udcff"])
    monkeypatch.setenv("METARL_TEST", "set in code")
    monkeypatch.chdir(tmp_path)

    class Spy(Fragile):
        def make(self, task=None):
            assert sys.argv == ["train.py", "--iterations", "3", "\udcff"]
            assert os.environ["METARL_TEST"] == "set in code"
            assert Path.cwd() == tmp_path
            return super().make(task)

    Spy().make_vec(1, num_workers=1).close()


def test_a_worker_whose_parent_leaves_before_it_has_begun_says_nothing(tmp_path):
    here, there = socket.socketpair()
    here.close()
    with (tmp_path / "views").open("wb") as file:
        numbers = there.fileno(), file.fileno()
        command = "from metarl.stepping.workers import work; work({}, {})".format(*numbers)
        done = subprocess.run(
            [sys.executable, "-c", command],
            capture_output=True,
            text=True,
            pass_fds=numbers,
            env=os.environ | {"PYTHONPATH": str(Path(metarl.__file__).parents[1])},
        )
    there.close()
    assert (done.returncode, done.stderr) == (0, "")


FAULTS = {
    "raise": "RuntimeError: joint 3 left its socket",
    "shape": r"ValueError: an observation has shape \(3,\), observation_space has \(2,\)",
    "nan": "ValueError: an observation has NaN or inf",
    "reward": "ValueError: step returned the reward inf",
    "key": "ValueError: step's info has no 'clock'; info_keys promises a finite number",
    "reset": "RuntimeError: bad start",
    "space": "ValueError: spaces differ between tasks",
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fault", FAULTS)
def test_fault_names_worker_slot_task_and_cause(fault, workers):
    envs = Fragile().make_vec(4, num_workers=workers)
    with pytest.raises(EnvError, match=FAULTS[fault]) as caught:
        play(envs, [fragile(), fragile(), fragile(), fragile(fault)])
    assert (caught.value.worker, caught.value.slot) == (1 if workers else None, 3)
    assert caught.value.task == fragile(fault)
    message = str(caught.value)
    assert "slot 3, task fragile(fault=" + fault in message
    if fault == "raise":
        assert "in step" in message and "fragile.py" in message  # the original traceback
    envs.close()


def test_killed_worker_is_reported():
    envs = Fragile().make_vec(4, num_workers=2)
    with pytest.raises(EnvError, match=r"in worker 0, slot 2, task .*killed by SIGKILL"):
        play(envs, [fragile(), fragile(), fragile("kill"), fragile()])
    envs.close()


class Clock:
    """A clock for pools of two workers that stands still until an environment of worker 0 hangs.

    The environment writes the file ``marker`` just before. The clock then shows a later time at
    every look until worker 0 is replaced, but not before worker 1 has answered: however slow the
    machine, worker 1 is never late. While ``envs`` is None, nothing is expected to hang, and the
    clock stands still.
    """

    def __init__(self, marker):
        self.marker, self.envs, self.hanging = marker, None, None
        self.now = 0.0

    def monotonic(self):
        workers = [] if self.envs is None else self.envs._pool._workers
        if workers:
            self.hanging = self.hanging or workers[0]
            hangs = workers[0] is self.hanging and self.marker.exists()
            if hangs and workers[1].answers_within(0.0):
                self.now += 1000
        return self.now


@pytest.fixture
def clock(tmp_path, monkeypatch):
    clock = Clock(tmp_path / "marker")
    monkeypatch.setattr("metarl.stepping.pools.time", clock)
    return clock


def test_hung_environment_is_reported(clock):
    clock.envs = Fragile().make_vec(4, num_workers=2, timeout=0.01)
    with pytest.raises(EnvError, match=r"worker 0, slot 2, task .*did not return within 0.01 s"):
        play(clock.envs, [fragile(), fragile(), fragile("hang", clock.marker), fragile()])
    clock.envs.close()


@pytest.mark.parametrize("fault", ["kill", "hang"])
def test_restarted_worker_replays_its_unfinished_episodes(fault, clock):
    sound = Fragile().make_vec(5, num_workers=0)
    expected = play(sound, [fragile()] * 5, steps=80)
    envs = Fragile().make_vec(5, num_workers=2, timeout=0.01, restarts=1)
    clock.envs = envs if fault == "hang" else None
    slots = [fragile()] * 5
    slots[2] = fragile(fault, clock.marker)
    assert same(play(envs, slots, steps=80), expected)
    assert clock.marker.exists()
    envs.close()


def test_an_environment_that_returns_again_and_again_is_not_hung(monkeypatch):
    """Two calls together may take longer than the timeout of one."""
    now = iter(range(10**6))
    monkeypatch.setattr("metarl.stepping.pools.time", SimpleNamespace(monotonic=lambda: next(now)))
    with contextlib.closing(Fragile().make_vec(2, num_workers=1, timeout=3.0)) as envs:
        worker = envs._pool._workers[0]
        worker.pending.append(("step", None))
        for calls in range(1, 9):  # A second passes before each look.
            envs._pool.views["progress"][0, 0] += calls % 2
            envs._pool._check_progress(worker)
        worker.pending.clear()


def test_restarted_worker_leaves_finished_slots_as_they_are(tmp_path):
    envs = Fragile().make_vec(2, num_workers=1, restarts=1)
    envs.reset(seed=0, options={"tasks": [fragile("kill", tmp_path / "x"), fragile()]})
    for _ in range(36):
        envs.step(np.zeros((2, 1)))
    envs._live[1], envs._truncated[1] = False, True  # as if it had ended
    before = envs._observation[1].copy()
    observation, reward, _, truncated, _ = envs.step(np.zeros((2, 1)))
    assert np.array_equal(observation[1], before) and reward[1] == 0 and truncated[1]
    again, _ = envs.reset(seed=[1, 9], options={"reset_mask": np.array([False, True])})
    fresh = Fragile().make(fragile()).reset(seed=9)[0]
    assert np.array_equal(again[1], fresh)  # the task was kept, too
    envs.close()


def test_restarts_are_counted():
    envs = Fragile().make_vec(2, num_workers=1, restarts=2)
    with pytest.raises(EnvError, match="killed by SIGKILL"):
        play(envs, [fragile("kill"), fragile()])
    assert envs._pool._restarts_left == 0
    envs.close()


def test_worker_killed_from_outside_between_steps():
    envs = Fragile().make_vec(2, num_workers=1, restarts=1)
    envs.reset(seed=0, options={"tasks": [fragile()] * 2})
    a = envs.step(np.zeros((2, 1)))
    process = envs._pool._workers[0].process
    process.kill()
    process.wait()
    b = envs.step(np.zeros((2, 1)))
    assert (b[0][:, 0] == 2).all() and (b[0][:, 1] > a[0][:, 1]).all()
    envs.close()


def test_distribution_that_does_not_pickle_is_refused():
    tasks = Fragile()
    tasks.lock = threading.Lock()
    with pytest.raises(UserError, match=r"fragile: cannot be sent to worker processes.*lock"):
        tasks.make_vec(2, num_workers=1)


def test_error_while_making_is_reported():
    class Broken(Fragile):
        def make(self, task=None):
            raise OSError("no asset")

    for workers in (0, 1):
        with pytest.raises(EnvError, match="slot 0: OSError: no asset"):
            Broken().make_vec(2, num_workers=workers)


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, signal
            import metarl
            tasks = metarl.make("gym/CartPole-v1:length=0.3..1.0")
            envs = tasks.make_vec(2, num_workers=2)
            print(*(w.process.pid for w in envs._pool._workers), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
            """
        )
    )
    root = Path(metarl.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, str(script)],  # no `if __name__ == "__main__"` needed
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    pids = [int(p) for p in done.stdout.split()]
    assert len(pids) == 2, done.stderr
    while any(map(is_running, pids)):  # pytest's own timeout is the limit
        time.sleep(0.1)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="num_workers and restarts must be at least 0"):
        Fragile().make_vec(2, num_workers=-1)


def can_pin():
    if not hasattr(os, "sched_setaffinity"):
        return False
    try:
        os.sched_setaffinity(0, os.sched_getaffinity(0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not can_pin(), reason="this machine does not let processes choose their cores")
def test_as_many_workers_as_cores_have_one_each(monkeypatch):
    every = usable_cores()
    few = every[:2]
    monkeypatch.setattr("metarl.stepping.pools.usable_cores", lambda: few)

    def cores_of_workers(num_workers):
        with contextlib.closing(Fragile().make_vec(4, num_workers=num_workers)) as envs:
            return [sorted(os.sched_getaffinity(pid)) for pid in envs.worker_pids()]

    assert cores_of_workers(len(few)) == [[core] for core in few]
    assert cores_of_workers(len(few) + 1) == [every] * (len(few) + 1)


def test_the_shared_buffer_has_no_name():
    with contextlib.closing(Fragile().make_vec(2, num_workers=1)) as envs:
        assert os.fstat(envs._pool._file.fileno()).st_nlink == 0

"""Worker processes that step environments: few processes, many slots each.

A worker is a plain Python process (``python -c``), not a fork: it is safe beside CUDA and
threads, does not import the caller's main module, and loads no torch. What slots report
lives in one shared buffer, an unlinked file: nothing is left behind however the processes
end. A step costs one message to every worker and one back.
"""

from __future__ import annotations

import contextlib
import copy
import json
import mmap
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import cloudpickle
import gymnasium as gym
import numpy as np
import numpy.typing as npt

from metarl.errors import EnvError, UserError, described
from metarl.stepping.slots import MakesEnvs, SlotError, Slots, Unfinished, arrays, fields, num_bytes
from metarl.task import Task

START_TIMEOUT = 120.0
"""Seconds that one environment may take to be made."""


SPIN = 0.003
"""Seconds for which a worker looks for its next command before it sleeps, giving way to whoever
wants its core: on virtual machines waking up can take longer than a step."""


_BOOT = (
    "import json, sys; channel, file = map(int, sys.argv[2:]); "
    "sys.path[:], sys.argv[:] = json.loads(sys.argv[1]); "
    "from metarl.stepping.workers import work; work(channel, file)"
)


Command = tuple[str, Any]
"""``("reset", [Start, …])`` or ``("step", None)``."""


class Pool(Protocol):
    """Steps slots, here or elsewhere."""

    views: dict[str, npt.NDArray[Any]]

    def pids(self) -> list[int]:
        """Return the worker processes' numbers."""

    def send(self, command: Command) -> None:
        """Ask for something; the next command may follow after :meth:`wait`."""

    def wait(self) -> None:
        """Return once what was asked for is done."""

    def close(self) -> None:
        """Close all environments."""


class LocalPool:
    """Slots in this process, one after another; a hung environment hangs the program."""

    def __init__(self, tasks: MakesEnvs, num_envs: int) -> None:
        layout = fields(tasks, num_envs, 0)
        self.views = arrays(layout, bytearray(num_bytes(layout)))
        self._tasks: dict[int, Task] = {}
        self._pending: Command | None = None
        try:
            self.slots = Slots(tasks, self.views, range(num_envs))
        except SlotError as failure:
            raise self._error(failure) from failure.__cause__

    def send(self, command: Command) -> None:
        """See :class:`Pool`."""
        self._pending = command

    def wait(self) -> None:
        """See :class:`Pool`."""
        if self._pending is None:
            return
        (kind, argument), self._pending = self._pending, None
        try:
            if kind == "step":
                self.slots.step()
            else:
                self._tasks |= {s.slot: s.task for s in argument if s.task is not None}
                self.slots.reset(argument)
        except SlotError as failure:
            raise self._error(failure) from failure.__cause__

    def pids(self) -> list[int]:
        """Return none."""
        return []

    def close(self) -> None:
        """See :class:`Pool`."""
        self.slots.close()

    def _error(self, failure: SlotError) -> EnvError:
        task = self._tasks.get(failure.slot)
        return EnvError(None, failure.slot, task, failure.cause, failure.trace)


class _Worker:
    """One process and what it has been asked."""

    def __init__(self, process: subprocess.Popen[bytes], connection: Connection) -> None:
        self.process, self.connection = process, connection
        self._poll = select.poll()
        self._poll.register(connection.fileno(), select.POLLIN)
        self.pending: deque[Command] = deque()
        """Commands it has not answered: one, or two while it starts again."""
        self.calls = 0
        """Its count of environment calls when last looked at, …"""
        self.moved = time.monotonic()
        """… and when that had last changed."""

    def answers_within(self, seconds: float) -> bool:
        """Return whether there is an answer to read, or an end, after so long at most."""
        return bool(self._poll.poll(1000 * seconds))


class WorkerPool:
    """Slots in ``num_workers`` processes: slot i is in worker i modulo their number.

    Args:
        tasks: makes the environments; it travels by cloudpickle. So do the ids registered with
            Gymnasium; ``sys.argv``, ``sys.path``, the environment variables and the current
            folder are this process's too. Other modules are imported afresh in a worker: what
            this process has changed in one of their variables is not known there.
        num_envs: slots over all workers.
        num_workers: processes.
        timeout: seconds that one call of an environment may take.
        restarts: how many times, in all, a killed or hung worker is started again. Its
            unfinished episodes are then replayed from their seeds and recorded actions.
    """

    def __init__(
        self,
        tasks: MakesEnvs,
        num_envs: int,
        num_workers: int,
        *,
        timeout: float,
        restarts: int,
    ) -> None:
        self._timeout, self._restarts_left = timeout, restarts
        self._record = restarts > 0
        self._layout = fields(tasks, num_envs, num_workers)
        size = num_bytes(self._layout)
        folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        # it has no name, so that nothing can leak
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed by close()
        self._file.truncate(size)
        self.views = arrays(self._layout, mmap.mmap(self._file.fileno(), size))
        self._live = self.views["live"]
        self._step_message = pickle.dumps(("step", None))
        try:
            self._tasks_bytes = cloudpickle.dumps(tasks)
        except (Exception, SystemExit) as error:
            raise UserError(
                f"{tasks.name}: cannot be sent to worker processes "
                f"({described(error)}); accepted: a distribution that pickles, "
                "or --num-workers 0"
            ) from error
        self._registered = _registered()
        self._num_workers, self._num_envs = num_workers, num_envs
        self._task: dict[int, Task] = {}
        self._seed: dict[int, int] = {}
        self._actions: dict[int, list[npt.NDArray[Any]]] = {}
        self._workers: list[_Worker] = []
        try:
            self._workers = [self._spawn() for _ in range(num_workers)]
            for w in range(num_workers):
                self._introduce(w, [])
            self._answers(set(range(num_workers)))
        except BaseException:
            self.close()
            raise

    def send(self, command: Command) -> None:
        """See :class:`Pool`."""
        kind, argument = command
        if kind == "step":
            for w, worker in enumerate(self._workers):
                if self._live[self._slots(w)].any():
                    worker.pending.append(command)
                    self._tell(worker, self._step_message)
            return
        for slot, seed, task in argument:
            if task is not None:
                self._task[slot] = task
            self._seed[slot] = seed
            self._actions[slot] = []
        for w, worker in enumerate(self._workers):
            part = [start for start in argument if start.slot % self._num_workers == w]
            if part:
                worker.pending.append((kind, part))
                self._tell(worker, pickle.dumps((kind, part)))

    def wait(self) -> None:
        """See :class:`Pool`."""
        self._answers({w for w, worker in enumerate(self._workers) if worker.pending})

    def pids(self) -> list[int]:
        """See :class:`Pool`."""
        return [worker.process.pid for worker in self._workers]

    def close(self) -> None:
        """End every worker; none outlives this call, which raises nothing."""
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.connection.close()  # a worker that reads on finds the end and leaves
        deadline = time.monotonic() + 2.0
        for worker in self._workers:
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        self._workers = []
        with contextlib.suppress(OSError):
            self._file.close()

    def _slots(self, w: int) -> slice:
        return slice(w, self._num_envs, self._num_workers)

    def _numbers(self, w: int) -> range:
        return range(self._num_envs)[self._slots(w)]

    def _spawn(self) -> _Worker:
        here, there = socket.socketpair()
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        keep = (there.fileno(), self._file.fileno())
        path = [p or os.getcwd() for p in sys.path]
        if str(Path.cwd()) not in path:
            path.append(str(Path.cwd()))
        process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, json.dumps([path, sys.argv]), *map(str, keep)],
            env=os.environ | single,
            stdin=subprocess.DEVNULL,
            pass_fds=keep,
            process_group=0,  # Ctrl-C reaches it too soon otherwise, before work() has begun
        )
        there.close()
        return _Worker(process, Connection(here.detach()))

    def _introduce(self, w: int, unfinished: list[Unfinished]) -> None:
        """Send a new process what it needs; its first answer says that it is ready."""
        mine = list(self._numbers(w))
        worker = self._workers[w]
        cores = usable_cores()
        if self._num_workers == len(cores) and hasattr(os, "sched_setaffinity"):
            # else two that are woken together may share one until the kernel moves one away
            with contextlib.suppress(OSError):
                os.sched_setaffinity(worker.process.pid, {cores[w]})
        worker.pending.appendleft(("start", None))
        start = w, mine, self._layout, self._registered, self._tasks_bytes, unfinished
        hello = pickle.dumps(start)
        self._tell(worker, hello)

    def _tell(self, worker: _Worker, message: bytes) -> None:
        with contextlib.suppress(OSError):  # it has died: who waits for its answer finds out
            worker.connection.send_bytes(message)

    def _answers(self, involved: set[int]) -> None:
        """Wait until these workers have answered everything."""
        now = time.monotonic()
        for w in involved:
            self._workers[w].moved = now
        for w in involved:
            while self._workers[w].pending:
                if self._workers[w].answers_within(min(self._timeout, 1.0)):
                    self._receive(w)
                else:
                    self._check_progress(w)

    def _check_progress(self, w: int) -> None:
        """Take worker ``w`` for hung if its environment has not returned for too long."""
        worker, now = self._workers[w], time.monotonic()
        calls = int(self.views["progress"][w, 0])
        if calls != worker.calls:
            worker.calls, worker.moved = calls, now
        starting = worker.pending[0][0] == "start"
        limit = self._timeout + (START_TIMEOUT if starting else 0.0)
        if now - worker.moved >= limit:
            worker.process.kill()
            self._lost(w, f"an environment did not return within {limit:g} s")

    def _receive(self, w: int) -> None:
        worker = self._workers[w]
        try:
            answer = worker.connection.recv_bytes()
        except (EOFError, OSError):
            code = worker.process.wait()
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited ({code})"
            self._lost(w, f"the worker process {how}")
            return
        if answer:
            slot, cause, trace = pickle.loads(answer)
            self.close()
            raise EnvError(w, _known(slot), self._task.get(slot), cause, trace)
        kind, _ = worker.pending.popleft()
        if kind == "step" and self._record:
            for slot in self._numbers(w):
                if self.views["live"][slot]:
                    self._actions[slot].append(self.views["action"][slot].copy())

    def _lost(self, w: int, cause: str) -> None:
        """Start worker ``w`` again, or give up."""
        slot = int(self.views["progress"][w, 1])
        if self._restarts_left <= 0:
            self.close()
            raise EnvError(w, _known(slot), self._task.get(slot), cause)
        self._restarts_left -= 1
        old = self._workers[w]
        old.process.wait()
        old.connection.close()
        pending = [command for command in old.pending if command[0] != "start"]
        restarting = {s.slot for kind, starts in pending if kind == "reset" for s in starts}
        unfinished = []
        for slot in self._numbers(w):
            if slot not in self._task:
                continue
            going = slot not in restarting and bool(self.views["live"][slot])
            actions = self._actions.get(slot, []) if going else []
            seed = self._seed[slot] if going else None
            unfinished.append(Unfinished(slot, self._task[slot], seed, np.array(actions)))
        self._workers[w] = self._spawn()
        self._introduce(w, unfinished)
        for command in pending:
            self._workers[w].pending.append(command)
            self._tell(self._workers[w], pickle.dumps(command))


def usable_cores() -> list[int]:
    """Return the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _known(slot: int) -> int | None:
    return None if slot < 0 else slot


def work(channel: int, file: int) -> None:
    """Be a worker: answer each message with nothing, or with the failure."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent's to handle; its end is ours
        signal.signal(number, signal.SIG_IGN)
    connection, poll = Connection(channel), select.poll()
    poll.register(channel, select.POLLIN)
    slots = None
    try:
        slots = _first_answer(connection, file)
        while slots is not None:
            _stay_awake(poll.poll)
            kind, argument = pickle.loads(connection.recv_bytes())
            try:
                if kind == "step":
                    slots.step()
                else:
                    slots.reset(argument)
            except SlotError as failure:
                connection.send_bytes(pickle.dumps(failure.args))
            else:
                connection.send_bytes(b"")
    except (EOFError, OSError):
        pass  # the parent has closed the channel, or is gone
    if slots is not None:
        warnings.formatwarning = lambda message, *rest: f"warning: {message}\n"
        slots.close()


class _Later:
    """A constructor that is unpickled when it is called.

    Reading it at once would import its module, and whatever that imports, into every worker.
    """

    def __init__(self, constructor: Any) -> None:
        self._data = cloudpickle.dumps(constructor)

    def __call__(self, **arguments: Any) -> Any:
        return pickle.loads(self._data)(**arguments)


def _registered() -> list[bytes]:
    """Return Gymnasium's registry as this process knows it, but for what cannot be sent.

    A package that registers its ids when it is imported is else unknown to a worker, which
    imports only what the tasks name.
    """
    specs = []
    for spec in gym.registry.values():
        with contextlib.suppress(Exception):
            sent = copy.copy(spec)
            for name in ("entry_point", "vector_entry_point"):
                if callable(getattr(spec, name)):
                    setattr(sent, name, _Later(getattr(spec, name)))
            specs.append(cloudpickle.dumps(sent))
    return specs


def _register(specs: list[bytes]) -> None:
    """Make Gymnasium's registry the parent's, but for what cannot be read here."""
    # a module that registers its ids when a worker imports it does so for the second time
    warnings.filterwarnings("ignore", message=".*Overriding environment .* already in registry")
    for data in specs:
        with contextlib.suppress(Exception, SystemExit):
            spec = pickle.loads(data)
            gym.registry[spec.id] = spec


def _stay_awake(readable: Callable[[float], object]) -> None:
    """Return once there is something to read, or after :data:`SPIN`."""
    end = time.perf_counter() + SPIN
    while not readable(0) and time.perf_counter() < end:
        os.sched_yield()


def _first_answer(connection: Connection, file: int) -> Slots | None:
    w, mine, layout, registered, tasks_bytes, unfinished = pickle.loads(connection.recv_bytes())
    views = arrays(layout, mmap.mmap(file, num_bytes(layout)))
    _watch(os.getppid())
    _register(registered)
    try:
        try:
            tasks = pickle.loads(tasks_bytes)
        except (Exception, SystemExit) as error:
            raise SlotError(-1, described(error)) from error
        slots = Slots(tasks, views, mine, w)
        slots.restore(unfinished)
    except SlotError as failure:
        connection.send_bytes(pickle.dumps(failure.args))
        return None
    connection.send_bytes(b"")
    return slots


def _watch(parent: int) -> None:
    """Leave when the parent has gone, even while an environment hangs."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()

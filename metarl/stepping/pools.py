"""Pools of slots: all in this process, or spread over worker processes.

:mod:`metarl.stepping.workers` describes the messages between a pool and its workers.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import select
import signal
import subprocess
import tempfile
import time
from collections import deque
from typing import Any, NoReturn, Protocol, runtime_checkable

import cloudpickle
import numpy as np
import numpy.typing as npt

from metarl.errors import EnvError, UserError, described
from metarl.stepping.slots import (
    CALLS,
    NO_SLOT,
    SLOT,
    MakesEnvs,
    SharedLayout,
    SlotError,
    Slots,
    Unfinished,
    index_of,
)
from metarl.stepping.workers import Setup, pickled_registry, start_process, usable_cores
from metarl.task import Task

START_TIMEOUT = 120.0
"""Seconds that making one environment may take, beyond the timeout of a call."""

Command = tuple[str, Any]
"""``("reset", [Start, …])`` or ``("step", None)``; a pool also queues ``("start", None)`` for the
answer that a worker owes to its :class:`Setup`."""


@runtime_checkable
class Pool(Protocol):
    """Slots that are reset and stepped together."""

    views: dict[str, npt.NDArray[Any]]
    """The arrays that the slots read and write, by name."""

    def pids(self) -> list[int]:
        """Return the process ids of the workers."""

    def send(self, command: Command) -> None:
        """Begin to carry out a command; :meth:`wait` must follow before the next one."""

    def wait(self) -> None:
        """Return once the command is carried out."""

    def close(self) -> None:
        """Close all environments."""


class LocalPool:
    """Slots in this process, one after another; a hung environment hangs the program."""

    def __init__(self, tasks: MakesEnvs, num_envs: int) -> None:
        layout = SharedLayout.of(tasks, num_envs, 0)
        self.views = layout.views(bytearray(layout.num_bytes))
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
        """Return no process ids: there are no workers."""
        return []

    def close(self) -> None:
        """See :class:`Pool`."""
        self.slots.close()

    def _error(self, failure: SlotError) -> EnvError:
        task = self._tasks.get(failure.slot)
        return EnvError(None, failure.slot, task, failure.cause, failure.trace)


class _Worker:
    """A worker process as its pool sees it."""

    def __init__(self, number: int, slots: range, file: int) -> None:
        self.number, self.slots = number, slots
        self.process, self.connection = start_process(file)
        self._poll = select.poll()
        self._poll.register(self.connection.fileno(), select.POLLIN)
        self.pending: deque[Command] = deque()
        """Commands that the worker has not answered; a new worker may owe two answers."""
        self.calls = 0
        """The worker's count of environment calls when the pool last looked."""
        self.last_progress = time.monotonic()
        """When the pool last saw the count change, or began to wait."""

    def answers_within(self, seconds: float) -> bool:
        """Wait for an answer or the process's end; return whether either came in time."""
        return bool(self._poll.poll(1000 * seconds))

    def write(self, message: bytes) -> None:
        """Send a message; if the process has died, waiting for its answer will find that out."""
        with contextlib.suppress(OSError):
            self.connection.send_bytes(message)


class WorkerPool:
    """Slots in ``num_workers`` processes: slot i is in worker i modulo their number.

    Args:
        tasks: makes the environments; it travels by cloudpickle. So do the ids registered with
            Gymnasium; ``sys.argv``, ``sys.path``, the environment variables and the current
            folder are this process's too. A worker imports other modules afresh, so it does not
            see changes that this process has made to their variables.
        num_envs: slots over all workers.
        num_workers: processes.
        timeout: seconds that one call of an environment may take.
        restarts: how many killed or hung workers may be replaced in all. The unfinished
            episodes of a lost worker are replayed from their seeds and recorded actions.
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
        folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        # The file has no name, so nothing is left behind even if this process is killed.
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed by close()
        self._distribution = tasks
        self._step_message = pickle.dumps(("step", None))
        try:
            self._pickled_tasks = cloudpickle.dumps(tasks)
        except (Exception, SystemExit) as error:
            raise UserError(
                f"{tasks.name}: cannot be sent to worker processes "
                f"({described(error)}); accepted: a distribution that pickles, "
                "or --num-workers 0"
            ) from error
        self._registered = pickled_registry()
        self._workers: list[_Worker] = []
        self.resize(num_envs, num_workers)

    def resize(self, num_envs: int, num_workers: int) -> None:
        """Close all environments and make others, with the worker processes that there are.

        Args:
            num_envs: slots over all workers.
            num_workers: processes; missing ones are started and surplus ones ended.
        """
        self._num_envs, self._num_workers = num_envs, num_workers
        self._layout = SharedLayout.of(self._distribution, num_envs, num_workers)
        size = self._layout.num_bytes
        if size > self._file.seek(0, os.SEEK_END):  # It never shrinks: workers may have it mapped.
            self._file.truncate(size)
        self.views = self._layout.views(mmap.mmap(self._file.fileno(), size))
        self._live = self.views["live"]
        for array in self.views.values():
            array[...] = 0  # Clear the numbers of an earlier size.
        self._task: dict[int, Task] = {}
        self._seed: dict[int, int] = {}
        self._actions: dict[int, list[npt.NDArray[Any]]] = {}
        """Actions of every slot's episode so far, recorded while a worker may be replaced."""
        try:
            self._end_workers(num_workers)
            for worker in self._workers:
                worker.slots, worker.calls = self._slots(worker.number), 0
            while len(self._workers) < num_workers:  # Start all before any is waited for.
                self._workers.append(self._new_worker(len(self._workers)))
            for worker in self._workers:
                self._set_up(worker, [])
            self._wait_for(self._workers)
        except BaseException:
            self.close()
            raise

    def send(self, command: Command) -> None:
        """See :class:`Pool`."""
        kind, argument = command
        if kind == "step":
            for worker in self._workers:
                if self._live[index_of(worker.slots)].any():
                    worker.pending.append(command)
                    worker.write(self._step_message)
            return
        for slot, seed, task in argument:
            if task is not None:
                self._task[slot] = task
            self._seed[slot] = seed
            self._actions[slot] = []
        for worker in self._workers:
            part = [start for start in argument if start.slot in worker.slots]
            if part:
                worker.pending.append((kind, part))
                worker.write(pickle.dumps((kind, part)))

    def wait(self) -> None:
        """See :class:`Pool`."""
        self._wait_for([worker for worker in self._workers if worker.pending])

    def pids(self) -> list[int]:
        """See :class:`Pool`."""
        return [worker.process.pid for worker in self._workers]

    def close(self) -> None:
        """End every worker; none outlives this call, which raises nothing."""
        self._end_workers(0)
        with contextlib.suppress(OSError):
            self._file.close()

    def _end_workers(self, first: int) -> None:
        """End all workers from the number ``first`` on."""
        ended, self._workers = self._workers[first:], self._workers[:first]
        for worker in ended:
            with contextlib.suppress(OSError):
                worker.connection.close()  # A worker ends when it reads from a closed socket.
        deadline = time.monotonic() + 2.0
        for worker in ended:
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()

    def _slots(self, number: int) -> range:
        """Return the slots of a worker."""
        return range(number, self._num_envs, self._num_workers)

    def _new_worker(self, number: int) -> _Worker:
        return _Worker(number, self._slots(number), self._file.fileno())

    def _set_up(self, worker: _Worker, unfinished: list[Unfinished]) -> None:
        """Send a new worker its :class:`Setup`; its first answer says that it is ready."""
        cores = usable_cores()
        if self._num_workers == len(cores) and hasattr(os, "sched_setaffinity"):
            # Pin one worker per core: workers woken together may otherwise start on the same core.
            with contextlib.suppress(OSError):
                os.sched_setaffinity(worker.process.pid, {cores[worker.number]})
        setup = Setup(
            worker.number,
            worker.slots,
            self._layout,
            self._registered,
            self._pickled_tasks,
            unfinished,
        )
        worker.pending.append(("start", None))
        worker.write(pickle.dumps(setup))

    def _wait_for(self, workers: list[_Worker]) -> None:
        """Wait until these workers, or those that replace them, have answered everything."""
        now = time.monotonic()
        for worker in workers:
            worker.last_progress = now
        for number in [worker.number for worker in workers]:
            while (worker := self._workers[number]).pending:
                if worker.answers_within(min(self._timeout, 1.0)):
                    self._receive(worker)
                else:
                    self._check_progress(worker)

    def _check_progress(self, worker: _Worker) -> None:
        """Treat a worker as hung if its environment has not returned for too long."""
        now = time.monotonic()
        calls = int(self.views["progress"][worker.number, CALLS])
        if calls != worker.calls:
            worker.calls, worker.last_progress = calls, now
        starting = worker.pending[0][0] == "start"
        limit = self._timeout + (START_TIMEOUT if starting else 0.0)
        if now - worker.last_progress >= limit:
            worker.process.kill()
            self._replace(worker, f"an environment did not return within {limit:g} s")

    def _receive(self, worker: _Worker) -> None:
        """Read an answer, or replace a worker that has ended instead."""
        try:
            answer = worker.connection.recv_bytes()
        except (EOFError, OSError):
            code = worker.process.wait()
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited ({code})"
            self._replace(worker, f"the worker process {how}")
            return
        if answer:
            self._fail(worker, *pickle.loads(answer))
        kind, _ = worker.pending.popleft()
        if kind == "step" and self._record:
            for slot in worker.slots:
                if self._live[slot]:
                    self._actions[slot].append(self.views["action"][slot].copy())

    def _replace(self, lost: _Worker, cause: str) -> None:
        """Start a worker in the place of a lost one, or fail if no restarts are left."""
        if self._restarts_left <= 0:
            self._fail(lost, int(self.views["progress"][lost.number, SLOT]), cause)
        self._restarts_left -= 1
        lost.process.wait()
        lost.connection.close()
        unanswered = [command for command in lost.pending if command[0] != "start"]
        worker = self._workers[lost.number] = self._new_worker(lost.number)
        self._set_up(worker, self._unfinished(lost, unanswered))
        for command in unanswered:
            worker.pending.append(command)
            worker.write(pickle.dumps(command))

    def _unfinished(self, lost: _Worker, unanswered: list[Command]) -> list[Unfinished]:
        """Return what a new worker must restore before it gets the unanswered commands again."""
        restarting = {s.slot for kind, starts in unanswered if kind == "reset" for s in starts}
        unfinished = []
        for slot in lost.slots:
            if slot not in self._task:
                continue
            going = slot not in restarting and bool(self._live[slot])
            actions = self._actions.get(slot, []) if going else []
            seed = self._seed[slot] if going else None
            unfinished.append(Unfinished(slot, self._task[slot], seed, np.array(actions)))
        return unfinished

    def _fail(self, worker: _Worker, slot: int, cause: str, trace: str = "") -> NoReturn:
        """Close the pool and raise the error of one of its environments."""
        self.close()
        known = None if slot == NO_SLOT else slot
        raise EnvError(worker.number, known, self._task.get(slot), cause, trace)

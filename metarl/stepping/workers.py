"""Worker processes that step environments: how one is started, and what it runs.

A worker is a plain Python process (``python -c``), not a fork: it is safe beside CUDA and threads,
does not import the caller's main module, and loads no torch. A pool (:mod:`metarl.stepping.pools`)
has a socket to each of its workers and shares a buffer with all of them: an unlinked file laid out
by :class:`metarl.stepping.slots.SharedLayout`, of which nothing is left however processes end.

1. The pool starts the process and sends a :class:`Setup`. The worker makes the environments of its
   slots, replays unfinished episodes if it replaces a lost worker, and answers.
   A later ``Setup`` gives the worker other slots: the pool was resized.
2. For ``("reset", [Start, …])`` and ``("step", None)`` the worker resets or steps its slots, writes
   what they report into the buffer, and answers: a step costs one message each way.
3. An answer is empty, or holds the arguments of a :class:`SlotError`; then the pool closes.
4. The worker counts environment calls in the buffer. If it owes an answer and its count has not
   changed for the timeout, the pool considers it hung and kills it.
5. The worker ends when the pool closes the socket, or within a second after its parent has ended.

To its pool a worker is *starting* (it owes the answer to its ``Setup``), *busy* (it owes another
answer) or *idle*. A worker that was killed or hung is replaced while restarts are
left: the new process gets a ``Setup`` with the unfinished episodes, and after it every command
that the old process had not answered.
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
import threading
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import gymnasium as gym

from metarl.errors import described
from metarl.stepping.slots import NO_SLOT, SharedLayout, SlotError, Slots, Unfinished

SPIN = 0.003
"""Seconds for which a worker polls for its next command before it sleeps. On virtual machines
waking up can take longer than a step; while polling, the worker yields its core to others."""

_BOOT = (
    "import json, sys; channel, file = map(int, sys.argv[2:]); "
    "sys.path[:], sys.argv[:] = json.loads(sys.argv[1]); "
    "from metarl.stepping.workers import work; work(channel, file)"
)


class Setup(NamedTuple):
    """All that a worker needs to make its environments: its first message."""

    worker: int
    slots: range
    layout: SharedLayout
    registered: list[bytes]
    """Gymnasium's registry as :func:`pickled_registry` returned it."""
    tasks: bytes
    """The task distribution, pickled by cloudpickle."""
    unfinished: list[Unfinished]
    """Slots to restore, if this worker replaces a lost one."""


def start_process(file: int) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start a worker process that shares the buffer ``file``, a file descriptor.

    The process has this one's ``sys.path``, ``sys.argv``, environment variables and current
    folder, and one thread for linear algebra.
    """
    here, there = socket.socketpair()
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    keep = (there.fileno(), file)
    path = [p or os.getcwd() for p in sys.path]
    if str(Path.cwd()) not in path:
        path.append(str(Path.cwd()))
    process = subprocess.Popen(
        [sys.executable, "-c", _BOOT, json.dumps([path, sys.argv]), *map(str, keep)],
        env=os.environ | single,
        stdin=subprocess.DEVNULL,
        pass_fds=keep,
        process_group=0,  # Otherwise Ctrl-C could end the process before work() ignores it.
    )
    there.close()
    return process, Connection(here.detach())


def work(channel: int, file: int) -> None:
    """Run a worker: answer each message with nothing, or with the failure.

    Args:
        channel: file descriptor of the worker's end of the socket.
        file: file descriptor of the shared buffer.
    """
    # The parent handles signals and ends workers.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    connection, poll = Connection(channel), select.poll()
    poll.register(channel, select.POLLIN)
    _end_with(os.getppid())
    slots: Slots | None = None
    try:
        while True:
            message = pickle.loads(connection.recv_bytes())
            try:
                slots = _carry_out(message, slots, file)
            except SlotError as failure:
                connection.send_bytes(pickle.dumps(failure.args))
            else:
                connection.send_bytes(b"")
            _spin_until(poll.poll)
    except (EOFError, OSError):
        pass  # The parent has closed the socket or is gone.
    if slots is not None:
        _close(slots)


def _carry_out(message: Any, slots: Slots | None, file: int) -> Slots:
    """Do what a message asks for, and return the slots that the worker has then."""
    if isinstance(message, Setup):
        if slots is not None:
            _close(slots)
        return _made(message, file)
    kind, argument = message
    if slots is None:
        raise SlotError(NO_SLOT, f"{kind} before the environments were made")
    if kind == "step":
        slots.step()
    else:
        slots.reset(argument)
    return slots


def _close(slots: Slots) -> None:
    """Close the environments; each of their warnings is printed as one line."""
    warnings.formatwarning = lambda message, *rest: f"warning: {message}\n"
    slots.close()


def _made(setup: Setup, file: int) -> Slots:
    """Make the slots that a :class:`Setup` describes."""
    views = setup.layout.views(mmap.mmap(file, setup.layout.num_bytes))
    _register(setup.registered)
    try:
        tasks = pickle.loads(setup.tasks)
    except (Exception, SystemExit) as error:
        raise SlotError(NO_SLOT, described(error)) from error
    slots = Slots(tasks, views, setup.slots, setup.worker)
    slots.restore(setup.unfinished)
    return slots


def _spin_until(readable: Callable[[float], object]) -> None:
    """Return once there is something to read, or after :data:`SPIN` seconds."""
    end = time.perf_counter() + SPIN
    while not readable(0) and time.perf_counter() < end:
        os.sched_yield()


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, even while an environment hangs."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()


class _UnpickledWhenCalled:
    """A constructor that stays pickled until it is called.

    Unpickling it at once would import its module, and whatever that imports, into every worker.
    """

    def __init__(self, constructor: Any) -> None:
        self._data = cloudpickle.dumps(constructor)

    def __call__(self, **arguments: Any) -> Any:
        return pickle.loads(self._data)(**arguments)


def pickled_registry() -> list[bytes]:
    """Return Gymnasium's registry for workers, without the ids that cannot be pickled.

    A worker imports only what the tasks need, so it would not know the ids that a package
    registers when it is imported.
    """
    specs = []
    for spec in gym.registry.values():
        with contextlib.suppress(Exception):
            sent = copy.copy(spec)
            for name in ("entry_point", "vector_entry_point"):
                if callable(getattr(spec, name)):
                    setattr(sent, name, _UnpickledWhenCalled(getattr(spec, name)))
            specs.append(cloudpickle.dumps(sent))
    return specs


def _register(specs: list[bytes]) -> None:
    """Register the parent's ids; those that cannot be unpickled here are left out."""
    # Do not warn when a module that is imported later registers its ids again.
    warnings.filterwarnings("ignore", message=".*Overriding environment .* already in registry")
    for data in specs:
        with contextlib.suppress(Exception, SystemExit):
            spec = pickle.loads(data)
            gym.registry[spec.id] = spec


def usable_cores() -> list[int]:
    """Return the numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))

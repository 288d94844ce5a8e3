"""A Python that starts at once, since it is a fork of one that has imported everything.

Torch and this package take seconds of a core to import, and tests start many processes. ``start``
imports once, in a server, and writes a program that is used in place of ``sys.executable``: the
program hands its arguments, folder, environment and standard files to the server, which forks;
it passes signals on and ends as the fork ends, by the same signal or with the same exit code.
A killed program takes its fork with it. Processes that step environments, which must not load
torch, are started by the real Python.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
import types
from pathlib import Path

from matplotlib.figure import Figure

SHELL = """#!/bin/sh
exec "{python}" -IS "{program}" "$@"
"""

PROGRAM = """
import json, os, signal, socket, sys
words = sys.argv[1:]
if "metarl.stepping" in " ".join(words[:2]):
    os.execv({python!r}, [{python!r}, *words])
numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = json.dumps([words, os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
server.sendall(request)
pid = int.from_bytes(server.recv(4, socket.MSG_WAITALL), "big")
def pass_on(number, frame):
    try:
        os.kill(pid, number)
    except ProcessLookupError:  # it has ended
        pass
for number in numbers:
    signal.signal(number, pass_on)
signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
code = os.waitstatus_to_exitcode(int.from_bytes(server.recv(4, socket.MSG_WAITALL), "big"))
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if code != -signal.SIGKILL else None
    os.kill(os.getpid(), -code)
os._exit(code)
"""


SAVE = Figure.savefig
"""How a picture is saved in as many dots as were asked for."""


def save_coarsely(figure, *arguments, **options):
    """Save a picture in few dots, which takes less time."""
    return SAVE(figure, *arguments, **options | {"dpi": 40})


@contextlib.contextmanager
def start(folder):
    """Start a server, and yield the path of the program."""
    program, address = folder / "python", folder / "server"
    source = folder / "program.py"
    source.write_text(PROGRAM.format(python=sys.executable, address=str(address)))
    program.write_text(SHELL.format(python=sys.executable, program=source))
    program.chmod(0o755)
    server = subprocess.Popen(
        [sys.executable, __file__, str(address), str(program)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert server.stdout.readline() == b"ready\n"
        yield str(program)
    finally:
        server.stdin.close()  # tells it to end
        server.wait()


def serve(address):
    """Fork for every connection, until standard input ends; return in a fork what it is to do."""
    for name in ("auto", "commandline", "commands", "train"):
        importlib.import_module(f"metarl.running.{name}")
    for name in ("torch._dynamo", "metarl.agents.maml_ppo", "metarl.agents.rl2"):
        importlib.import_module(name)
    Figure.savefig = save_coarsely
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that keep a fork
    gc.freeze()  # a collection in a fork would copy every page of memory
    os.write(1, b"ready\n")
    while True:
        ready = select.select([listener, 0], [], [])[0]
        if 0 in ready:
            os._exit(0)
        connection = listener.accept()[0]
        if os.fork() == 0:
            listener.close()
            return keep(connection)
        connection.close()


def keep(connection):
    """Keep a fork: tell the program how it ends, and kill it where the program has been killed.

    Returns in the fork.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, files, _, _ = socket.recv_fds(connection, 8, 3)
    request = connection.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL)
    if len(files) < 3 or len(request) < int.from_bytes(length, "big"):  # killed at once
        os._exit(0)
    ended, alive = os.pipe()  # the fork has `alive` open until it ends
    pid = os.fork()
    if pid == 0:
        for number, file in enumerate(files):
            os.dup2(file, number)
        for file in (*files, ended, connection.detach()):
            os.close(file)
        return json.loads(request)
    for file in (*files, alive):
        os.close(file)
    with contextlib.suppress(OSError):  # a program that has been killed is seen below
        connection.sendall(pid.to_bytes(4, "big"))
    if connection in select.select([connection, ended], [], [])[0]:
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    with contextlib.suppress(OSError):
        connection.sendall(status.to_bytes(4, "big"))
    os._exit(0)


def run(words, folder, environment, program):
    """Do what ``python *words`` does."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdin, sys.stdout = (os.fdopen(i, mode, closefd=False) for i, mode in ((0, "r"), (1, "w")))
    sys.stderr = os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    first, *rest = words
    sys.executable, sys.argv = program, words
    places = [p for p in environment.get("PYTHONPATH", "").split(os.pathsep) if p]
    sys.path[0:1] = ["" if first == "-c" else str(Path(first).resolve().parent), *places]
    if first == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(sys.modules["__main__"]))
    else:
        runpy.run_path(first, run_name="__main__")


def end(code):
    """Leave as Python does, but without taking everything apart, which takes seconds."""
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for file in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            file.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    try:
        run(*serve(sys.argv[1]), sys.argv[2])
    except SystemExit as stop:
        end(stop.code)
    except BaseException:
        traceback.print_exc()
        end(1)
    end(0)

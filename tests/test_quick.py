"""The Python that starts at once: does it behave like the real Python?"""

import os
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are made on Linux alone")


def run(python, *words, **options):
    return subprocess.run([python, *words], capture_output=True, text=True, **options)


@pytest.mark.parametrize(
    "code",
    [
        "print('out'); import sys; print('err', file=sys.stderr); sys.exit(3)",
        "import sys; print(sys.stdin.read(), sys.argv)",
        "import os; print(os.getcwd(), os.environ['OWN'], flush=True); os.kill(os.getpid(), 9)",
        "import atexit; atexit.register(print, 'at exit'); print(__name__)",
        "raise SystemExit('said')",
    ],
)
def test_output_and_end_are_those_of_the_real_one(quick_python, code, tmp_path):
    options = {"cwd": tmp_path, "env": os.environ | {"OWN": "1"}, "input": "in"}
    quick, real = (
        run(python, "-c", code, "word", **options) for python in (quick_python, sys.executable)
    )
    assert (quick.returncode, quick.stdout, quick.stderr) == (
        real.returncode,
        real.stdout,
        real.stderr,
    )


def test_an_exception_is_a_traceback_and_exit_code_one(quick_python):
    done = run(quick_python, "-c", "1 / 0")
    assert done.returncode == 1 and done.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_modules_beside_a_script_and_on_the_path_are_found(quick_python, tmp_path):
    (tmp_path / "script.py").write_text("import beside, far\nprint(__name__, far.__file__)\n")
    (tmp_path / "beside.py").write_text("")
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "far.py").write_text("")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "far")}
    done = run(quick_python, str(tmp_path / "script.py"), env=environment)
    assert done.stdout == f"__main__ {tmp_path / 'far' / 'far.py'}\n", done.stderr


def started(python, code):
    process = subprocess.Popen([python, "-c", code], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    return process


def test_signals_are_passed_on_and_a_killed_one_takes_its_fork_along(quick_python):
    wait = "import os, signal; print(flush=True); signal.pause()"
    process = started(quick_python, wait)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM
    early = subprocess.Popen([quick_python, "-c", wait], stdout=subprocess.PIPE)
    early.kill()  # wherever it is
    early.stdout.read()
    process = started(quick_python, wait)
    process.kill()
    process.stdout.read()  # ends with the last process that has it open: the fork
    assert process.wait() == -signal.SIGKILL


def test_a_process_that_steps_environments_has_no_torch(quick_python):
    code = "import metarl.stepping.workers, sys; print('torch' in sys.modules)"
    assert run(quick_python, "-c", code).stdout == "False\n"

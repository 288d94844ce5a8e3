"""Run a command on a machine that is taken away again and again, until the command has finished.

    python examples/preempted.py 10 metarl train --env navigation --run-dir runs/a --resume auto

The command is stopped after a random time around so many seconds, in turn by SIGKILL (the machine
is gone), SIGUSR1 (Slurm, before a job's time is over) and SIGTERM (a machine that is shut down),
and started again as it was.
"""

import itertools
import random
import signal
import subprocess
import sys
import time

SIGNALS = (signal.SIGKILL, signal.SIGUSR1, signal.SIGTERM)


def run_until_finished(command, seconds, rng):
    """Start, stop and start a command again until it ends by itself; return its exit code."""
    for number in itertools.count():
        process, started = subprocess.Popen(command), time.monotonic()
        stop = SIGNALS[number % len(SIGNALS)]
        try:
            code = process.wait(rng.uniform(0.5, 1.5) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(stop)
            code = process.wait()
            how = f"stopped by {stop.name}, exit code {code}"
        else:
            how = f"ended by itself, exit code {code}"
        print(f"start {number + 1}: {how} after {time.monotonic() - started:.1f} s", flush=True)
        if how.startswith("ended"):
            return code


if __name__ == "__main__":
    sys.exit(run_until_finished(sys.argv[2:], float(sys.argv[1]), random.Random(0)))

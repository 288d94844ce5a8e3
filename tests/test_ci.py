"""CI: does it print how long each tier takes, and fail if all of them take too long?"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parent.parent / ".ci" / "run"
TOGETHER = "-j4 --output-sync lint types docs demo-short"  # Each of them uses one core.
TIERS = ["install", "test", TOGETHER, "learning", "metaworld", "docs-test"]


@pytest.fixture
def ci(tmp_path):
    """A copy of CI's script that has begun a second ago; its `make` notes what it is asked for."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(RUN, tmp_path / ".ci" / "run")
    make = tmp_path / "bin" / "make"
    make.parent.mkdir()
    make.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    make.chmod(0o755)

    def run(limit):
        path = f"{make.parent}:{os.environ['PATH']}"
        return subprocess.run(
            [tmp_path / ".ci" / "run"],
            env=os.environ | {"PATH": path, "CI_MINUTES": limit, "SECONDS": "1"},
            capture_output=True,
            text=True,
        )

    return run


def test_ci_prints_the_minutes_of_each_tier(ci, tmp_path):
    done = ci("20")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "asked").read_text().splitlines() == TIERS
    table = done.stdout.split("minutes of each tier:\n")[1].splitlines()
    assert [line.rsplit(maxsplit=2)[0] for line in table[:-1]] == TIERS
    assert table[-1].startswith("total 0.") and table[-1].endswith(" of 20")


def test_ci_fails_where_the_tiers_take_longer_than_the_limit(ci):
    done = ci("0")
    assert done.returncode == 1 and "took more than 0 minutes" in done.stderr

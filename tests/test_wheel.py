"""What ``pip install`` gives: the wheel, outside the source tree."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TINY = "--iterations 2 --tasks-per-update 8 --evaluation-tasks 4 --validation-tasks 4 --no-check"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds the package as the wheel installs it, without its dependencies."""
    source, wheels = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("metarl", "envs", "agents"):
        shutil.copytree(ROOT / name, source / name, symlinks=True)
    shutil.copytree(ROOT / "benchmarks" / "agents", source / "benchmarks" / "agents")
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels)]
    subprocess.run([*pip, "wheel", *options, str(source)], check=True)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    return target


def metarl_command(installed, folder, *arguments, start=("bin/metarl",)):
    words = [str(installed / start[0])] if start[0] == "bin/metarl" else list(start)
    command = [sys.executable, *words, *arguments]
    environment = os.environ | {"PYTHONPATH": str(installed)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_wheel_gives_a_command_that_trains(installed, tmp_path):
    assert (installed / "metarl" / "agents" / "rl2.py").is_file()
    result = metarl_command(installed, tmp_path, "train", *TINY.split(), "--run-dir", "run")
    assert result.returncode == 0, result.stderr
    assert "untrained" in result.stdout
    assert (tmp_path / "run" / "evaluation" / "test.json").is_file()
    found = "import metarl; print(metarl.__file__)"
    where = metarl_command(installed, tmp_path, start=("-c", found)).stdout
    assert Path(where.strip()).is_relative_to(installed)


def test_the_command_says_what_there_is(installed, tmp_path):
    result = metarl_command(installed, tmp_path, "--help", start=("-m", "metarl"))
    assert result.returncode == 0
    for name in ("train", "evaluate", "plot", "benchmark", "--version"):
        assert name in result.stdout
    trained = metarl_command(installed, tmp_path, "list", "trained").stdout
    assert "bandit-n10-k5/rl2" in trained
    assert metarl_command(installed, tmp_path, "--version").stdout.startswith("metarl 0.")
    wrong = metarl_command(installed, tmp_path, "trian")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: metarl: unknown command 'trian'; did you mean train?")
    apart = metarl_command(installed, tmp_path, "benchmark", "speed")
    assert apart.returncode == 2
    assert "got 'speed'; accepted: summarize" in apart.stderr

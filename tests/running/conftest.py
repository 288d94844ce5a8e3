"""What the tests of commands share."""

import sys

import pytest

from metarl.running.commands import run_evaluate
from metarl.running.exits import exits


@pytest.fixture
def call(capsys, monkeypatch):
    """Evaluate by the command: exit code, standard output, standard error."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["metarl", "evaluate", *words])
        code = 0
        try:
            exits(lambda: run_evaluate(words))()
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def quick_children(quick_python):
    """Let processes that train for this one start at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", quick_python)
        yield

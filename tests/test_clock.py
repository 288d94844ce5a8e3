"""No test waits for a fixed time or measures one: a slow machine changes nothing.

A test waits for an event instead: a loop around a short sleep, whose limit is pytest's own
timeout. Where the clock is the point, a test gives the code a clock of its own.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py") if path.parent.name != "thirdparty")
CLOCKS = {"perf_counter", "process_time", "monotonic", "thread_time"}


def name_of(call):
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def offences(tree):
    """Return what in a test's source waits for a time, or measures one, with the lines."""
    loops = [node for node in ast.walk(tree) if isinstance(node, ast.While)]
    polls = {id(inner) for loop in loops for inner in ast.walk(loop)}
    found = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = name_of(call)
        waits = name == "sleep" and id(call) not in polls
        limits = name in ("communicate", "wait") and any(k.arg == "timeout" for k in call.keywords)
        if waits or limits or name in CLOCKS:
            found.append(f"line {call.lineno}: {ast.unparse(call)}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_test_waits_for_events_and_measures_no_time(path):
    assert not offences(ast.parse(path.read_text()))


def test_waits_and_measurements_are_found():
    assert len(FILES) > 40
    for wrong in ("time.sleep(1)", "sleep(1)", "time.perf_counter()", "process.wait(timeout=3)"):
        assert offences(ast.parse(wrong))
    assert not offences(ast.parse("while not path.exists():\n    time.sleep(0.01)\n"))

"""Metrics and progress: is every number where it is looked for, once?"""

import errno
import json
import time
import types

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metarl.console import ticker
from metarl.errors import UserError
from metarl.evaluation.report import print_adaptation
from metarl.running.metrics import MetricsLog, read_metrics


def write(directory, iterations, value=1.0, first=0):
    with MetricsLog(directory, first) as log:
        for iteration in iterations:
            log.write(iteration, 100 * iteration, {"train/x": value * iteration})


def test_each_line_has_iteration_and_env_steps(tmp_path):
    write(tmp_path, [1, 2])
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"iteration": 1, "env_steps": 100, "train/x": 1.0},
        {"iteration": 2, "env_steps": 200, "train/x": 2.0},
    ]


def test_lines_are_on_disk_before_the_log_is_closed(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write(1, 100, {"train/x": 1.0})
        assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1


def test_a_resumed_log_is_cut_back_to_its_checkpoint(tmp_path):
    write(tmp_path, [1, 2, 3, 4])
    write(tmp_path, [3], value=10.0, first=2)
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert [(m["iteration"], m["train/x"]) for m in metrics] == [(1, 1), (2, 2), (3, 30)]


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path):
    write(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-9])
    assert [m["iteration"] for m in read_metrics(path)] == [1]
    write(tmp_path, [2, 3], first=1)
    assert [m["iteration"] for m in read_metrics(path)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("line", "said"),
    [(b"{", "cannot be read"), (b"\xff", "cannot be read"), (b"[1]", "has no iteration")],
)
def test_a_damaged_line_is_named_and_nothing_is_lost(tmp_path, line, said):
    write(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    first, second = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([first, line, second, b""]))
    before = path.read_bytes()
    with pytest.raises(UserError, match=f"line 2: {said}"):
        MetricsLog(tmp_path, 2)
    assert path.read_bytes() == before


def test_tensorboard_shows_a_resumed_run_once_by_environment_steps(tmp_path, monkeypatch):
    write(tmp_path, [1, 2, 3])
    # TensorBoard reads its files in the order of their names, which hold whole seconds.
    later = types.SimpleNamespace(time=lambda: time.time() + 2)
    monkeypatch.setattr("tensorboard.summary.writer.event_file_writer.time", later)
    write(tmp_path, [3], value=10.0, first=2)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/x")] == [(100, 1), (200, 2), (300, 30)]
    assert [(e.step, e.value) for e in events.Scalars("time/iteration")] == [
        (100, 1),
        (200, 2),
        (300, 3),
    ]


# a full disk


class FullFile:
    """A file that takes half of what is written, then refuses the rest."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = min(self.room, len(data))
        self.room -= count
        return self.file.write(data[:count])

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [0, 10, 70])
def test_lines_that_a_full_disk_refuses_are_written_later(tmp_path, room):
    with MetricsLog(tmp_path) as log:
        log.write(1, 100, {"train/x": 1.0})
        log._file = FullFile(log._file, room)
        for iteration in (2, 3):
            log.write(iteration, 100 * iteration, {"train/x": 1.0 * iteration})
        with pytest.raises(OSError, match="No space left"):
            log.flush()
        text = (tmp_path / "metrics.jsonl").read_text()
        assert text.endswith("\n") and len(read_metrics(tmp_path / "metrics.jsonl")) < 3
        log._file.room = 10**6
        log.write(4, 400, {"train/x": 4.0})
        log.flush()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4]
    assert scalars(tmp_path) == [(100, 1), (200, 2), (300, 3), (400, 4)]


def scalars(folder):
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(e.step, e.value) for e in events.Scalars("train/x")]


def test_events_that_tensorboard_lost_are_shown_again(tmp_path, monkeypatch):
    with MetricsLog(tmp_path) as log:
        log.write(1, 100, {"train/x": 1.0})
        log.flush()
        with monkeypatch.context() as patch:
            patch.setattr(log._events, "add_scalar", fail)
            log.write(2, 200, {"train/x": 2.0})
        log.write(3, 300, {"train/x": 3.0})
        log.flush()
    assert scalars(tmp_path) == [(100, 1), (200, 2), (300, 3)]


def fail(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


# progress


def test_without_a_terminal_progress_is_lines_with_rate_and_time_left(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr("metarl.console.time.monotonic", lambda: now[0])
    with ticker("training", 5, unit="iterations", done=1) as progress:
        for seconds in (5, 15, 5, 15):  # said after 20 s, and at the end
            now[0] += seconds
            progress.advance(note="return 0.5")
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "training 3/5 iterations, 0.1/s, 20 s left  return 0.5",
        "training 5/5 iterations, 0.1/s, 0 s left  return 0.5",
    ]


def summary(**changes):
    values = {"mean": [0.25, 0.75], "iqm": [0.2, 0.8], "low": [0.1, 0.7], "high": [0.3, 0.9]}
    return {
        "agent": "rl2",
        "env": "bandit/n2-k2",
        "num_tasks": 1000,
        "split": "test",
        "shared_split": False,
        "actions": "greedy",
        "checkpoint": "best",
        "iteration": 5,
        "episodes": [0, 20],
        "return": values,
        "success": None,
        "groups": None,
        "gain": {"mean": 0.5, "iqm": 0.55, "low": 0.4, "high": 0.6},
        "trial_return": {"mean": 1.0, "iqm": 1.0, "low": 0.9, "high": 1.1},
    } | changes


@pytest.mark.parametrize("split", ["test", "train"])
@pytest.mark.parametrize("shared", [False, True])
def test_table_says_which_tasks_and_shows_the_untrained_agent(capsys, split, shared):
    untrained = summary(**{"return": {"mean": [0.111, 0.222]}})
    print_adaptation(summary(split=split, shared_split=shared), untrained)
    text = capsys.readouterr().out
    joined = " ".join(text.split())
    assert {"test": "held-out", "train": "training"}[split] in joined
    assert ("the same tasks as in training" in joined) == shared
    (row,) = (line for line in text.splitlines() if " 20 " in line)
    for number in ("0.750", "0.700 to 0.900", "0.800", "0.222"):
        assert number in row
    assert "paired by task: 0.500 (0.400 to 0.600), untrained 0.500" in joined


@pytest.mark.parametrize(("number", "said"), [(1000, ""), (300, "the first 300")])
def test_table_says_how_many_tasks_the_untrained_agent_meets(capsys, number, said):
    print_adaptation(summary(), summary(num_tasks=number))
    title = capsys.readouterr().out.splitlines()[0]
    assert title.startswith("rl2 on 1,000 held-out tasks of bandit/n2-k2 (")
    assert title.partition("iteration 5)")[2] == (said and f"; the untrained agent on {said}")


def cells(line):
    return [cell.strip() for cell in line.strip("│ ").split("│")]


def test_success_and_other_reported_values_have_tables_without_interquartile_means(capsys):
    values = {"mean": [0.22, 0.96], "low": [0.1, 0.9], "high": [0.3, 1.0]}
    shown = summary(success=values, info={"speed": {**values, "mean": [3.25, 3.5]}})
    print_adaptation(shown, shown)
    lines = capsys.readouterr().out.splitlines()
    assert [name for name in ("return,", "success,", "speed,") if any(name in x for x in lines)]
    rows = [cells(line) for line in lines if " 20 " in line]
    assert rows == [
        ["20", "0.750", "0.700 to 0.900", "0.800", "0.750"],
        ["20", "0.960", "0.900 to 1.000", "0.960"],
        ["20", "3.500", "0.900 to 1.000", "3.500"],
    ]
    assert sum("IQM" in line for line in lines) == 1


def test_a_return_without_an_interquartile_mean_has_no_column_for_it(capsys):
    values = {"mean": [0.25, 0.75], "iqm": None, "low": [0.1, 0.7], "high": [0.3, 0.9]}
    print_adaptation(summary(**{"return": values}), summary())
    (row,) = (line for line in capsys.readouterr().out.splitlines() if " 20 " in line)
    assert cells(row)[-2:] == ["0.700 to 0.900", "0.750"]


def test_kinds_of_tasks_are_shown_for_themselves(capsys):
    def groups(factor):
        means = {"mean": [0.125 * factor, 0.875 * factor]}
        group = {"num_tasks": 50, "return": means, "success": None, "info": {"speed": means}}
        return {"push": group, "reach": group}

    speed = {"mean": [0.5, 0.5], "low": [0, 0], "high": [1, 1]}
    shown, other = (summary(groups=groups(x), info={"speed": speed}) for x in (1, 0.5))
    print_adaptation(shown, other)
    rows = [line for line in capsys.readouterr().out.splitlines() if "push" in line]
    assert [cells(row) for row in rows] == [["push", "50", "0.125", "0.875", "0.438"]] * 2

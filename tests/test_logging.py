"""Metrics and progress: is every number where it is looked for, once?"""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metarl import logging
from metarl.logging import MetricsLog, print_adaptation, read_metrics, ticker


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


def test_tensorboard_has_the_scalars_a_resumed_run_left_standing(tmp_path):
    write(tmp_path, [1, 2, 3])
    write(tmp_path, [3], value=10.0, first=2)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/x")] == [(1, 1), (2, 2), (3, 30)]


def test_without_a_terminal_progress_is_lines_with_rate_and_time_left(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(logging.time, "monotonic", lambda: now[0])
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


def test_kinds_of_tasks_are_shown_for_themselves(capsys):
    def groups(factor):
        means = {"mean": [0.125 * factor, 0.875 * factor]}
        group = {"num_tasks": 50, "return": means, "success": None}
        return {"push": group, "reach": group}

    print_adaptation(summary(groups=groups(1)), summary(groups=groups(0.5)))
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "push" in line)
    assert [cell.strip() for cell in row.strip("│ ").split("│")] == [
        "push",
        "50",
        "0.125",
        "0.875",
        "0.438",
    ]

"""Tables of several agents: the right numbers at the right points, on consoles of any width."""

import csv
import io

import numpy as np
import pytest

from metarl.evaluation import comparison as comparing
from metarl.evaluation.comparison import Comparison, Participant
from metarl.evaluation.curve import AdaptationCurve
from metarl.evaluation.summaries import summarize


def participant(label, returns, episodes, kind="agent", num_episodes=None, **changes):
    """Return an agent or a baseline with these returns, ``[point, task]``."""
    returns = np.asarray(returns, np.float32)
    values = {
        "env": "bandit/n4-k3",
        "agent": label,
        "seed": 0,
        "split": "test",
        "shared_split": False,
        "score": "adapting-episodes",
        "greedy": False,
        "episodes": tuple(episodes),
        "returns": returns,
        "trial_return": returns.sum(0),
        "env_steps": 1200 if kind == "agent" else 0,
    }
    curve = AdaptationCurve(**values | changes)
    return Participant(label, kind, curve, curve.summary(), num_episodes or max(episodes) + 1)


def two(returns, episodes=(0, 20, 40), **options):
    """Return an agent with points at 0, 20 and 40, and a baseline."""
    own = participant("ours", [[0, 1], [2, 3], [4, 9]], (0, 20, 40), num_episodes=60)
    return Comparison([own, participant("theirs", returns, episodes, "baseline", **options)])


def test_a_baseline_is_shown_at_the_agents_points():
    every = np.arange(120).reshape(60, 2) / 10
    row = two(every, range(60)).rows[1]
    assert row["episodes"] == [0, 20, 40]
    assert row["return"]["mean"] == pytest.approx([0.05, 4.05, 8.05])
    assert row["gain"]["mean"] == pytest.approx(8.0)  # up to 40, not up to 59
    assert row["difference"]["episodes"] == 40
    assert row["difference"]["mean"] == pytest.approx(8.05 - 6.5)
    assert row["trial_return"]["mean"] == pytest.approx(every.sum(0).mean())


def test_differences_are_paired_by_task():
    """Tasks differ widely, and the baseline is better by one on each: the interval is narrow."""
    own = participant("ours", [np.zeros(50), 100 * np.arange(50)], (0, 1))
    other = participant("theirs", [np.ones(50), 100 * np.arange(50) + 1], (0, 1), "baseline")
    row = Comparison([own, other]).rows[1]
    assert row["difference"] == {"to": "ours", "episodes": 1, "mean": 1, "low": 1, "high": 1}
    assert row["total_difference"] == {"to": "ours", "mean": 2, "low": 2, "high": 2}
    assert row["return"]["high"][1] - row["return"]["low"][1] > 100


def test_pairs_are_the_first_tasks_where_one_has_fewer():
    own = participant("ours", [[1, 2, 3, 50]], (0,))
    few = participant("untrained", [[0, 3, 3]], (0,), "untrained")
    made = Comparison([own, few])
    assert made.rows[1]["difference"]["mean"] == pytest.approx(0)
    assert "The first of the tasks only: untrained 3." in made.notes


def test_the_interval_of_a_difference_is_that_of_the_difference():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(2, 1, 30)).astype(np.float32)
    made = Comparison([participant("a", ours, (0,)), participant("b", theirs, (0,), "baseline")])
    expected = summarize(theirs.astype(float) - ours.astype(float))
    for key in ("mean", "low", "high"):
        assert made.rows[1]["difference"][key] == expected[key][0]


@pytest.mark.parametrize(
    ("returns", "after"),
    [
        ([1, 2, 3, 6, 7, 8], 60),  # 6.5 is what the agent has at its last point
        ([7, 7, 7, 7, 7, 7], 0),
        ([1, 9, 2, 3, 4, 5], None),  # once, by luck
        ([1, 2, 7, 6, 8, 7], 40),  # it stays there on average
        ([1, 2, 3, 4, 5, 6], None),
    ],
)
def test_a_crossover_is_where_a_baseline_equals_the_agent_for_good(returns, after):
    returns = np.array(returns) + (0.5 if after == 60 else 0)
    made = two(np.stack([returns - 1, returns + 1], 1), range(0, 120, 20), num_episodes=120)
    crossover = made.rows[1]["crossover"]
    assert crossover == {"to": "ours", "return": 6.5, "episodes": after, "within": 100}
    ours, theirs = csv.DictReader(io.StringIO(made.to_csv()))
    assert theirs["crossover_episodes"] == ("" if after is None else str(after))
    assert (theirs["crossover_within"], ours["crossover_within"]) == ("100", "")
    lines = made.to_markdown().splitlines()
    assert "equals ours after" in lines[2]
    assert lines[5].split(" | ")[-2] == ("not within 100" if after is None else str(after))
    assert "Equals: the episodes after which the return is that of ours after 40" in lines[-1]


def test_a_crossover_counts_kinds_equally_as_the_curve_does():
    kinds = np.array([0, 0, 0, 1])
    own = participant("ours", [[0] * 4, [4, 4, 4, 8]], (0, 1), strata=kinds)
    other = participant("theirs", [[7, 7, 7, 0], [0, 0, 0, 12]], (0, 1), "baseline", strata=kinds)
    crossover = Comparison([own, other]).rows[1]["crossover"]
    assert crossover == {"to": "ours", "return": 6, "episodes": 1, "within": 1}


def test_crossovers_have_no_column_unless_a_baseline_has_more_experience():
    text = two([[0, 1], [2, 3], [9, 9]]).to_markdown()
    assert "equals" not in text and "Equals" not in text


def test_totals_of_trials_of_other_lengths_are_not_compared():
    made = two([[1, 2], [3, 4]], (0, 20), num_episodes=40)
    assert made.rows[1]["trial_return"]["mean"] == 5
    assert made.rows[1]["total_difference"] is None
    assert made.rows[1]["difference"]["episodes"] == 20
    assert "after 20" in made.to_markdown().splitlines()[5]


def test_a_missing_total_is_left_out():
    first = participant("a", [[1, 2]], (0,), trial_return=None)
    made = Comparison([first, participant("b", [[2, 2]], (0,), "baseline", trial_return=None)])
    assert made.rows[1]["trial_return"] is None
    assert "total" not in made.to_markdown()


@pytest.mark.parametrize(
    ("lasts", "few"),
    [
        ([1], (0,)),
        ([3], (0, 1, 2)),
        ([10], (0, 2, 4, 7, 9)),
        ([101], (0, 25, 50, 75, 100)),
        ([10, 101], (0, 9, 50, 100)),
    ],
)
def test_few_points_are_first_last_and_some_between(lasts, few):
    agents = [participant(f"a{n}", np.zeros((n, 2)), range(n)) for n in lasts]
    shown = Comparison(agents).few_points
    assert set(few) <= set(shown) and len(shown) <= comparing.SHOWN_POINTS


def test_success_is_shown_where_it_is_reported():
    success = np.array([[0, 0], [0, 1], [1, 1]], np.float32)
    made = two([[0, 1], [2, 3], [4, 4]], success=success)
    assert made.rows[0]["success"] is None
    assert made.rows[1]["success"]["mean"] == [0, 0.5, 1]
    ours, theirs = csv.DictReader(io.StringIO(made.to_csv()))
    assert (ours["success_20"], theirs["success_20"]) == ("", "0.5")
    assert "| 1.000 (1.000 to 1.000) |" in made.to_markdown()
    assert "success" not in two([[0, 1], [2, 3], [4, 4]]).to_csv()


def test_csv_has_all_points_and_the_same_columns_in_every_line():
    made = two(np.zeros((101, 2)), range(101))
    long = Comparison([participant("a", np.zeros((101, 2)), range(101)), *made.participants])
    lines = list(csv.reader(io.StringIO(long.to_csv())))
    assert {len(line) for line in lines} == {len(lines[0])}
    assert [f"return_{i}" for i in range(101)] == [
        name for name in lines[0] if name.startswith("return_") and name[7:].isdigit()
    ]


def test_markdown_escapes_what_would_end_a_cell():
    text = Comparison([participant("a|b", [[1, 2]], (0,))]).to_markdown()
    assert "| a\\|b | 1.500 (1.000 to 2.000) |" in text
    assert len({line.replace("\\|", "").count("|") for line in text.splitlines()[2:5]}) == 1


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_table_fits_the_console(monkeypatch, capsys, width):
    monkeypatch.setattr(comparing.console, "_width", width)
    made = two([[1000, 2000], [3, 4], [5, 6]], told_task=True)
    made.print()
    lines = capsys.readouterr().out.splitlines()
    table = [line for line in lines if line[:1] in "┏┃┡│└"]
    assert max(map(len, table)) < max(width, 46)  # A name and one column are the least.
    parts = sum(line.startswith("┏") for line in table)
    assert (parts > 1) == (width < 200)
    said = " ".join(lines)
    for text in ("theirs (told the task)", "1500.0 ±500.0", "5.500 ±0.500", "1,200", "− ours"):
        assert text in said
    assert said.count("6.500 ±2.500") == 1  # The agent's last point is in one part alone.


@pytest.mark.parametrize(
    "change", [{"env": "other"}, {"seed": 1}, {"split": "train"}, {"greedy": True}], ids=str
)
def test_curves_of_other_tasks_are_refused(change):
    with pytest.raises(ValueError, match="tasks in common"):
        two([[0, 1], [2, 3], [4, 4]], **change)


def test_an_agent_comes_first_and_labels_differ():
    own, other = two([[0, 1], [2, 3], [4, 4]]).participants
    with pytest.raises(ValueError, match="first participant"):
        Comparison([other, own])
    with pytest.raises(ValueError, match="labels"):
        Comparison([own, own])

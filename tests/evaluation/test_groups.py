"""Groups of runs beside each other: are the numbers those of the statistics they name?"""

import csv

import numpy as np
import pytest

from metarl.evaluation.groups import Scores, compare_scores
from metarl.evaluation.groups_table import print_comparison, to_csv
from metarl.evaluation.scores import holm, seeds_for_half_width
from metarl.evaluation.statistics import crossed_mean, difference


def group(label, level, seeds=4, tasks=40, spread=0.1, episodes=1):
    rng = np.random.default_rng([seeds, tasks, int(100 * abs(level))])
    values = level + rng.normal(0, 1, (seeds, tasks)) + rng.normal(0, spread, (seeds, 1))
    return Scores(label, tuple(f"runs/{label}-{i}" for i in range(seeds)), values, episodes)


def result(groups, **options):
    return {
        **{"env": "x", "split": "test", "shared_split": False, "num_tasks": 40, "fixed": None},
        **{"actions": "sampled", "checkpoint": "final", "metric": "return"},
        "half_width": options.get("half_width"),
        "measures": {"after 3 episodes": compare_scores(groups, **options)},
    }


def test_a_group_and_a_pair_say_what_the_estimates_are():
    first, second = group("a", 3, seeds=5, episodes=10), group("b", 1)
    found = compare_scores([first, second], half_width=0.2)
    own = crossed_mean(first.values)
    row = found["groups"][0]
    assert row["mean"] == pytest.approx(own.mean)
    assert row["high"] == pytest.approx(own.mean + own.half_width())
    assert row["median"] == np.median(first.values)
    assert found["groups"][1]["median"] is None  # of single episodes
    assert row["seed_means"] == pytest.approx(first.values.mean(1))
    (pair,) = found["pairs"]
    between = difference(first.values, second.values)
    assert pair["mean"] == pytest.approx(between.mean)
    assert (pair["p"], pair["corrected_p"]) == (between.p_value(), between.p_value())
    assert pair["better"] == "a" and pair["over"] == "seeds and tasks"
    assert pair["seeds_for_half_width"] == seeds_for_half_width(between, 0.2)


def test_several_pairs_are_corrected_and_only_then_called_better():
    groups = [group("a", 0), group("b", 0.35), group("c", 3)]
    pairs = compare_scores(groups)["pairs"]
    assert [(p["first"], p["second"]) for p in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [p["corrected_p"] for p in pairs] == holm([p["p"] for p in pairs])
    assert [p["better"] for p in pairs][1:] == ["c", "c"]
    for pair in pairs:
        assert (pair["better"] is not None) == (pair["corrected_p"] < 0.05)


def test_two_seeds_decide_nothing(capsys):
    found = result([group("a", 9, seeds=2), group("b", 1)])
    (pair,) = found["measures"]["after 3 episodes"]["pairs"]
    assert pair["p"] is pair["better"] is None
    assert pair["over"] == "tasks, these runs only" and pair["low"] < pair["mean"] < pair["high"]
    print_comparison(found)
    said = capsys.readouterr().out
    assert "a and b: undecided, since fewer than 3 training seeds" in said
    assert "(over tasks," in said and "these runs only)" in said


def test_the_table_says_who_is_better_and_warns_of_optional_stopping(capsys):
    print_comparison(result([group("a", 3), group("b", 1), group("c", 1.01)]))
    said = " ".join(capsys.readouterr().out.split())
    assert "a is higher than b by" in said and "corrected for 3 pairs (Holm)" in said
    assert "b and c: neither is shown to be higher" in said
    assert "optional stopping" in said


def test_kinds_are_shown_each(capsys):
    kinds = np.array(["push", "reach"] * 20)
    values = np.where(kinds == "push", 0.25, 0.75) + np.zeros((3, 1))
    groups = [Scores(name, ("r",) * 3, values + shift) for name, shift in (("a", 0), ("b", 1))]
    found = result(groups, strata=kinds, kinds=kinds)
    print_comparison(found)
    assert "push" in capsys.readouterr().out
    rows = found["measures"]["after 3 episodes"]["groups"]
    assert [row["by_kind"] for row in rows] == [
        {"push": 0.25, "reach": 0.75},
        {"push": 1.25, "reach": 1.75},
    ]


def test_fixed_tasks_met_once_by_one_run_have_no_interval_at_all(capsys):
    one = [
        Scores(name, ("r",), np.arange(40.0)[None] + shift) for name, shift in (("a", 0), ("b", 1))
    ]
    found = result(one, strata=np.arange(40))
    row = found["measures"]["after 3 episodes"]["groups"][0]
    assert row["low"] is row["high"] is row["over"] is None
    print_comparison(found)
    assert "unknown" in capsys.readouterr().out


def test_csv_has_a_line_for_each_pair():
    found = result([group("a", 3), group("b", 1), group("c", 1)])
    lines = list(csv.DictReader(to_csv(found).splitlines()))
    assert [(line["first"], line["second"]) for line in lines] == [
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
    ]
    pair = found["measures"]["after 3 episodes"]["pairs"][0]
    assert float(lines[0]["difference_mean"]) == pair["mean"]
    assert lines[0]["better"] == "a" and lines[2]["better"] == ""


def test_profiles_fall_from_one_to_zero():
    found = compare_scores([group("a", 3), group("b", 1)])["profiles"]
    for label in ("a", "b"):
        assert np.all(np.diff(found[label]) <= 0) and found[label][-1] == 0
        assert len(found[label]) == len(found["thresholds"])

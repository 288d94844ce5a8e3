"""Ranges: which values, of which type, in which split, and what their text says."""

import json
from collections import Counter

import numpy as np
import pytest
from drift import Drift

from metarl.errors import UserError
from metarl.task import SPLITS, Task
from metarl.tasks.functions import FunctionTasks, ParametricTasks, wrapper_text
from metarl.tasks.ranges import (
    Choice,
    Integers,
    LogUniform,
    Uniform,
    read_range,
    text_of,
    value_text,
)


class Drawn(ParametricTasks):
    """Tasks that are only sampled."""

    name = "drawn"

    def make(self, task=None):
        raise AssertionError

    def num_entries(self, key):
        return 3


def values(kind, split, n=400):
    tasks = Drawn({"k": kind}).sample(np.random.default_rng(0), n, split)
    return [task["k"] for task in tasks]


# integers


def test_of_five_integers_one_is_for_validation_and_one_for_testing():
    drawn = [set(values(Integers(2, 11), split)) for split in SPLITS]
    assert drawn == [{2, 3, 5, 7, 8, 10}, {4, 9}, {6, 11}]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Integers(3, 5), [{3}, {4}, {5}]),
        (Integers(3, 6), [{3, 4}, {5}, {6}]),
        (Integers(0, 6), [{0, 1, 3, 5, 6}, {2}, {4}]),
        (Integers(3, 4), [{3, 4}, {3, 4}, {3, 4}]),
        (Integers(7, 7), [{7}, {7}, {7}]),
        (Integers(2, 6, test=(8, 9)), [{2, 3, 5, 6}, {4}, {8, 9}]),
        (Integers(2, 3, test=(8, 8)), [{2, 3}, {2, 3}, {8}]),
    ],
)
def test_integers_of_each_split(kind, expected):
    assert [set(values(kind, split)) for split in SPLITS] == expected
    listed = [Drawn({"k": kind}).tasks(split) for split in SPLITS]
    assert [{task["k"] for task in tasks} for tasks in listed] == expected
    tasks = Drawn({"k": kind})
    assert tasks.shared_split == (expected[0] == expected[2])
    assert tasks.shared_validation == (expected[0] == expected[1] and not tasks.shared_split)


def test_integers_are_ints_and_each_is_as_likely():
    drawn = values(Integers(1, 5), "train", 3000)
    assert {type(value) for value in drawn} == {int}
    counts = Counter(drawn)
    assert sorted(counts) == [1, 2, 4] and min(counts.values()) > 900


def test_layouts_that_are_numbered_are_never_seen_in_training():
    train, test = (set(values(Integers(0, 1000), split, 2000)) for split in ("train", "test"))
    assert len(train) > 500 and len(test) > 190 and not train & test


def test_a_huge_range_of_integers_is_never_listed():
    kind = Integers(0, 2**40)
    assert all(0 <= value <= 2**40 for value in values(kind, "test"))
    with pytest.raises(NotImplementedError, match=r"more than 10000 tasks: use sample\(\)"):
        Drawn({"k": kind}).tasks("train")


def test_another_kind_of_range_moves_no_other_parameter_s_draws():
    def others(kind):
        tasks = Drawn({"k": kind, "g": Uniform(0, 1)})
        return [task["g"] for task in tasks.sample(np.random.default_rng(0), 20, "train")]

    assert others(Integers(1, 9)) == others(Choice(1, 2)) == others(Uniform(1, 9))


def test_what_is_no_range_of_integers_is_refused():
    with pytest.raises(UserError, match=r"got '5\.\.2'; accepted: whole numbers low <= high"):
        Integers(5, 2)
    with pytest.raises(UserError, match=r"got '9\.\.8'; accepted: whole numbers low <= high"):
        Integers(1, 5, test=(9, 8))


def test_held_out_integers_among_the_others_are_refused():
    with pytest.raises(UserError, match=r"got '6\.\.9'; accepted: numbers outside 2\.\.6"):
        Integers(2, 6, test=(6, 9))


# choices


@pytest.mark.parametrize("options", [(5, 7, 9), (5.0, 7.5), ("4x4", "8x8"), (True, False)])
def test_a_choice_hands_out_its_options_as_they_are(options):
    kind = Choice(*options)
    drawn = set(values(kind, "train"))
    assert drawn == set(options) and {type(value) for value in drawn} == {type(options[0])}
    listed = [task["k"] for task in Drawn({"k": kind}).tasks("test")]
    assert listed == list(options) and [*map(type, listed)] == [*map(type, options)]


def test_numbers_of_one_choice_keep_their_own_kinds_through_json():
    tasks = Drawn({"k": Choice(5, 7.0, "a", True)}).tasks("train")
    again = [Task.from_json(json.loads(json.dumps(task.to_json()))) for task in tasks]
    assert again == tasks
    assert [type(task["k"]) for task in again] == [int, float, str, bool]


def test_numpy_scalars_become_python_s():
    assert [type(value) for value in Choice(np.int64(3), np.float32(0.5)).options] == [int, float]


def test_held_out_options_are_other_than_those_of_training():
    kind = Choice(1, 2, test=(3,))
    assert [set(values(kind, split)) for split in SPLITS] == [{1, 2}, {1, 2}, {3}]
    tasks = Drawn({"k": kind})
    assert tasks.shared_validation and not tasks.shared_split
    assert not Drawn({"k": kind, "g": Uniform(0, 1)}).shared_validation
    with pytest.raises(UserError, match="got 2; accepted: values that training does not draw"):
        Choice(1, 2, test=(2, 3))


def test_what_is_no_choice_is_refused():
    with pytest.raises(UserError, match="one value or more"):
        Choice()
    with pytest.raises(UserError, match="got nan; accepted: finite numbers"):
        Choice(1, float("nan"))
    with pytest.raises(UserError, match="choice of factors or entries: got 'a'"):
        Choice("a", factor=True)


# continuous ranges


def test_validation_never_looks_at_the_held_out_interval():
    kind = Uniform(2, 10, test=(10, 20))
    assert all(2 <= value < 10 for value in values(kind, "validation"))
    assert all(10 <= value < 20 for value in values(kind, "test"))


def test_numbers_of_one_interval_differ_between_all_splits():
    drawn = [set(values(Uniform(0, 1), split)) for split in SPLITS]
    assert not drawn[0] & drawn[1] and not drawn[0] & drawn[2] and not drawn[1] & drawn[2]


def test_a_range_of_whole_bounds_draws_floats():
    assert {type(value) for value in values(Uniform(2, 6), "train")} == {float}


# ends


def test_ends_differ_in_one_parameter_alone():
    params = {
        "g": Uniform(2, 6),
        "m": LogUniform(1, 100, each=True),
        "n": Integers(1, 8),
        "map": Choice("a", "b", "c"),
        "one": Choice(3),
    }
    ends = Drawn(params).ends()
    middle = {"g": 4.0, "m": (pytest.approx(10),) * 3, "n": 4, "map": "b", "one": 3}
    expected = {"g": (2, 6), "m": ((1,) * 3, (100,) * 3), "n": (1, 8), "map": ("a", "c")}
    assert list(ends) == list(expected)
    for key, pair in expected.items():
        for task, end in zip(ends[key], pair, strict=True):
            assert dict(task.params) == middle | {key: end}


# text


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Uniform(8, 12), "8..12"),
        (Uniform(0.5, 2, factor=True, test=(2, 3)), "0.5x..2x,test.k=2x..3x"),
        (LogUniform(0.5, 2, each=True), "each:log:0.5..2"),
        (Integers(2, 6), "int:2..6"),
        (Integers(-3, 6, test=(8, 9)), "int:-3..6,test.k=int:8..9"),
        (Choice(-10, 10), "-10/10"),
        (Choice(-10.0, 10), "-10.0/10"),
        (Choice(0.5, 2.0, factor=True), "0.5x/2.0x"),
        (Choice("4x4", "8x8", test=("9x9",)), "4x4/8x8,test.k=9x9"),
        (Choice(True, False), "true/false"),
        (Choice(1e22, 5), "1e+22/5"),
    ],
)
def test_the_text_of_a_range_is_read_as_that_range(kind, text):
    assert text_of("k", kind) == f"k={text}"
    main, _, held_out = text.partition(",test.k=")
    read = read_range(main)
    if held_out:
        test = read_range(held_out)
        if isinstance(kind, Choice):
            read = Choice(*read.options, factor=read.factor, test=test.options)
        else:
            read = type(read)(
                **{**vars(read), "test": (test.low, test.high)},
            )
    assert read == kind
    if isinstance(kind, Choice):
        assert [*map(type, read.options)] == [*map(type, kind.options)]


@pytest.mark.parametrize(
    "option", ["a,b", "a/b", "a=b", "5", "1e3", "true", "2x", "1..2", "", "a<"]
)
def test_a_string_that_would_be_read_as_something_else_has_no_text(option):
    assert text_of("k", Choice(option)) == "k=<Choice>"
    assert value_text(option) == "<str>"


def test_texts_of_fixed_values_keep_their_type():
    given = [True, 5, -5.0, np.float64(0.5), "8x8", None, np.zeros(2), float("inf")]
    texts = ["true", "5", "-5.0", "0.5", "8x8", "<NoneType>", "<ndarray>", "<float>"]
    assert [value_text(value) for value in given] == texts


def test_a_wrapper_that_cannot_be_imported_is_written_in_brackets():
    assert wrapper_text(Drift) == "drift:Drift"
    assert wrapper_text(lambda env: env) == "<lambda>"

    class Inner:
        pass

    assert wrapper_text(Inner) == "<Inner>"


@pytest.mark.parametrize(
    "text",
    [
        *["", "1..", "..2", "1x..2", "a//b", "int:2.5..6", "int:2x..6x", "each:int:2..6"],
        *["log:1/2", "each:a/b", "a=b", "int:2/6", "1.."],
    ],
)
def test_text_that_is_no_range_is_refused(text):
    with pytest.raises(UserError, match=r"accepted: low\.\.high, whole numbers int:low\.\.high"):
        read_range(text)


# functions


def typed(params):
    """Make an environment where every value has the type it was given with."""
    kinds = [type(params[key]) for key in ("size", "layout", "map", "wind", "speed")]
    assert kinds == [int, int, str, bool, float], kinds
    return Drift(params["speed"])


def test_values_keep_their_types_on_the_way_to_a_worker():
    tasks = FunctionTasks(
        typed,
        {
            "size": Choice(5, 6, 8),
            "layout": Integers(0, 1000),
            "map": Choice("4x4", "8x8"),
            "wind": Choice(True, False),
            "speed": Uniform(0, 1),
        },
        horizon=4,
    )
    envs = tasks.make_vec(2, num_workers=1)
    try:
        drawn = tasks.sample(np.random.default_rng(0), 2, "test")
        envs.reset(seed=np.arange(2, dtype=np.uint64), options={"tasks": drawn})
    finally:
        envs.close()

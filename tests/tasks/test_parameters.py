"""Tasks chosen by the values of their parameters."""

import numpy as np
import pytest

import metarl
from metarl.errors import UserError
from metarl.task import Task
from metarl.tasks.parameters import parameters_of, short_task, task_with


def chosen(name, *words, split="test"):
    tasks = metarl.make(name)
    base = tasks.sample(np.random.default_rng(0), 1, split)[0]
    return task_with(tasks, split, words, base), base


@pytest.mark.parametrize(
    ("name", "word", "value"),
    [
        ("half-cheetah/direction", "direction=-1", -1),
        ("half-cheetah/velocity", "velocity=2", 2.0),
        ("navigation", "goal=0.3,-0.2", (0.3, -0.2)),
        ("navigation", "goal=(0.3, -0.2)", (0.3, -0.2)),
        ("gridworld", "goal=2,3", (2, 3)),
        ("mdp/n10", "seed=1125899906842625", 1125899906842625),
        ("gym/CartPole-v1:force_mag=-10/10", "force_mag=10", 10),
    ],
)
def test_a_task_has_the_value_that_was_typed(name, word, value):
    task, _ = chosen(name, word)
    key = word.partition("=")[0]
    assert task[key] == value and type(task[key]) is type(value)


def test_other_parameters_stay_those_of_the_task_that_is_replaced():
    task, base = chosen("gym/CartPole-v1:length=0.3..1,force_mag=5..15", "length=0.5")
    assert task["length"] == 0.5 and task["force_mag"] == base["force_mag"]


def test_of_a_finite_set_the_first_task_that_fits_is_taken():
    name = "gym/CartPole-v1:length=0.3/0.5,force_mag=5/10/15"
    task, _ = chosen(name, "force_mag=10")
    assert task in metarl.make(name).tasks("test") and task["force_mag"] == 10


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("navigation", ["goal"], "--task: got 'goal'; accepted: name=value, with the name goal"),
        ("navigation", ["gaol=1,2"], "--task: navigation has no 'gaol'; did you mean goal"),
        ("navigation", ["goal=1"], "--task goal: got '1'; accepted: 2 numbers, -0.49"),
        ("navigation", ["goal=0.1,3"], "--task goal: got '0.1,3'; accepted: 2 numbers"),
        ("navigation", ["goal=a,b"], "--task goal: got 'a,b'; accepted: 2 numbers"),
        ("half-cheetah/velocity", ["velocity=nan"], "--task velocity: got 'nan'; accepted: 0.0"),
        ("half-cheetah/direction", ["direction=2"], "--task direction: got '2'; accepted: a valu"),
        ("gridworld", ["goal=0,1"], "--task goal: got '0,1'; accepted: a value of the 21 test"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(name, words, message):
    with pytest.raises(UserError) as raised:
        chosen(name, *words)
    said = str(raised.value)
    assert said.startswith(message) and "\n" not in said


def test_parameters_say_which_values_there_are():
    (goal,) = parameters_of(metarl.make("navigation"), "train")
    assert -0.5 <= goal.low < -0.49 and 0.49 < goal.high <= 0.5 and goal.sizes == (2,)
    (direction,) = parameters_of(metarl.make("half-cheetah/direction"), "train")
    assert str(direction) == "-1, 1"


def test_a_task_in_short_has_its_numbers_rounded_and_few_of_many():
    task = Task.of("x", p=tuple(np.arange(9) / 7), name="push-v3", on=True)
    assert short_task(task) == "p=(0, 0.143, 0.286, 0.429, …), name=push-v3, on=True"

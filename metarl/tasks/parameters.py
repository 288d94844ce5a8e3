"""The parameters of a distribution's tasks: which values they take, and tasks chosen by value."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metarl.errors import UserError, bad_option, near_matches
from metarl.task import Split, Task, Value
from metarl.tasks.distribution import TaskDistribution

SAMPLED = 1000
"""How many tasks are drawn to learn which values parameters take, if there are infinitely many."""

SLACK = 0.05
"""How far a value may lie outside those of sampled tasks, as a share of their width: a sample does
not reach the ends of what it is drawn from."""

FEW = 12
"""Parameters with at most so many values are described by listing them."""


@dataclass(frozen=True)
class Parameter:
    """What is known of one parameter of a distribution's tasks."""

    name: str
    """Its name."""
    options: tuple[Value, ...]
    """The values, in order, if there are few or they are no numbers; otherwise empty."""
    low: float = -math.inf
    """The lowest number, if there are no options."""
    high: float = math.inf
    """The highest number, if there are no options."""
    sizes: tuple[int, ...] = ()
    """How many numbers the parameter may consist of; empty if it is one number or text."""

    def __str__(self) -> str:
        """Return the values in words."""
        if self.options:
            shown = [short(value) for value in self.options[:FEW]]
            more = len(self.options) - FEW
            return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
        interval = f"{self.low:.4g} to {self.high:.4g}"
        sizes = " or ".join(map(str, self.sizes))
        return f"{sizes} numbers, {interval}" if sizes else interval


def finite_tasks(tasks: TaskDistribution, split: Split) -> list[Task] | None:
    """Return all tasks of a split, or None if there are infinitely many."""
    with contextlib.suppress(NotImplementedError):
        return tasks.tasks(split)
    return None


def parameters_of(tasks: TaskDistribution, split: Split) -> list[Parameter]:
    """Return what is known of each parameter: from all tasks of a split, or from sampled ones."""
    known = finite_tasks(tasks, split)
    drawn = known or tasks.sample(np.random.default_rng(0), SAMPLED, split)
    return [_parameter(name, [task[name] for task in drawn]) for name, _ in drawn[0].params]


def _parameter(name: str, values: Sequence[Any]) -> Parameter:
    different = dict.fromkeys(values)
    numbers = [np.asarray(value).reshape(-1) for value in values]
    plain = all(row.dtype.kind in "iuf" for row in numbers)
    if len(different) <= FEW or not plain:
        with contextlib.suppress(TypeError):  # Values of several types have no order.
            return Parameter(name, tuple(sorted(different)))
        return Parameter(name, tuple(different))
    every = np.concatenate(numbers)
    sizes = sorted({len(value) for value in values if isinstance(value, tuple)})
    return Parameter(name, (), float(every.min()), float(every.max()), tuple(sizes))


def short(value: Any) -> str:
    """Return a parameter's value in a few characters.

    >>> short(0.123456), short((1, -0.5)), short(tuple(range(30))), short("push-v3")
    ('0.123', '(1, -0.5)', '(0, 1, 2, 3, …)', 'push-v3')
    """
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, tuple):
        shown = [short(part) for part in value[: 4 if len(value) > 6 else 6]]
        return f"({', '.join([*shown, *(['…'] if len(value) > 6 else [])])})"
    return str(value)


def short_task(task: Task) -> str:
    """Return a task's parameters in a few words.

    >>> short_task(Task.of("navigation", goal=(0.25, -1 / 3)))
    'goal=(0.25, -0.333)'
    """
    return ", ".join(f"{name}={short(value)}" for name, value in task.params) or "no parameters"


def task_with(
    tasks: TaskDistribution, split: Split, words: Sequence[str], base: Task, option: str = "--task"
) -> Task:
    """Return the task of a split that has the given values.

    Args:
        tasks: the distribution.
        split: the split; in a finite set of tasks, the values must be those of one of its tasks.
        words: ``name=value`` for some parameters; several numbers are separated by commas.
        base: a task that has the values of the other parameters if the set is infinite; in a
            finite one, the first task that fits is returned.
        option: the option's name for messages.

    Raises:
        UserError: if there is no such parameter, or a value is not accepted.
    """
    names = [name for name, _ in base.params]
    given: dict[str, str] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not text:
            raise bad_option(option, word, f"name=value, with the name {' or '.join(names)}")
        if name not in names:
            raise UserError(f"{option}: {tasks.name} has no {name!r}; {near_matches(name, names)}")
        given[name] = text
    known = finite_tasks(tasks, split)
    if known is not None:
        return _among(known, tasks, split, given, option)
    parameters = {parameter.name: parameter for parameter in parameters_of(tasks, split)}
    values: dict[str, Any] = dict(base.params)
    for name, text in given.items():
        parameter = parameters[name]
        values[name] = _accepted(parameter, base[name], f"{option} {name}", text)
    return Task.of(tasks.name, **values)


def _among(
    known: Sequence[Task],
    tasks: TaskDistribution,
    split: Split,
    given: Mapping[str, str],
    option: str,
) -> Task:
    """Return the first of finitely many tasks that has the values."""
    left = list(known)
    for name, text in given.items():
        fitting = [task for task in left if _reads_as(text, task[name])]
        if not fitting:
            values = _parameter(name, [task[name] for task in left])
            listed = Parameter(name, values.options or tuple(dict.fromkeys(t[name] for t in left)))
            where = f"a value of the {len(left)} {split} tasks of {tasks.name}"
            raise bad_option(f"{option} {name}", text, f"{where}: {listed}")
        left = fitting
    return left[0]


def _accepted(parameter: Parameter, like: Any, label: str, text: str) -> Any:
    """Return the value that ``text`` says, if tasks may have it."""
    for choice in parameter.options:
        if _reads_as(text, choice):
            return choice
    if parameter.options:
        raise bad_option(label, text, str(parameter))
    value = _read(text, like)
    slack = SLACK * (parameter.high - parameter.low)
    if value is not None:
        numbers = np.asarray(value, np.float64)
        if (numbers >= parameter.low - slack).all() and (numbers <= parameter.high + slack).all():
            return value
    raise bad_option(label, text, f"{parameter}, as in {SAMPLED} sampled tasks")


def _reads_as(text: str, value: Any) -> bool:
    """Return whether ``text`` says ``value``, as exactly as it is printed in short or in full."""
    read = _read(text, value)
    if read is None:
        return False
    if isinstance(value, bool | str) or isinstance(read, str):
        return bool(read == value)
    a, b = (np.asarray(x, np.float64).reshape(-1) for x in (read, value))
    return np.allclose(a, b, rtol=1e-6, atol=1e-9) or text.replace(" ", "") in (
        short(value).replace(" ", ""),
        short(value).replace(" ", "").strip("()"),
    )


def _read(text: str, like: Any) -> Any:
    """Return ``text`` as a value of the type of ``like``, or None if it is none."""
    if isinstance(like, str):
        return text
    if isinstance(like, bool):
        return {"true": True, "false": False}.get(text.lower())
    if isinstance(like, tuple):
        parts = [part.strip() for part in text.strip("()[] ").split(",") if part.strip()]
        read = [_read(part, each) for part, each in zip(parts, like, strict=False)]
        if len(parts) != len(like) or any(part is None for part in read):
            return None
        return tuple(read)
    try:
        number = float(text)
    except ValueError:
        return None
    if not math.isfinite(number) or (isinstance(like, int) and number != int(number)):
        return None
    return (
        int(text) if isinstance(like, int) and text.lstrip("+-").isdigit() else type(like)(number)
    )

"""Tasks outside the range that an agent was trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metarl import registry
from metarl.errors import UserError, bad_option
from metarl.running.run import Run
from metarl.tasks.distribution import TaskDistribution


def shifted_tasks(runs: Sequence[Run], options: str, env: str | None = None) -> TaskDistribution:
    """Make the tasks of runs with other options of their family.

    The tasks have another name, which the files of an evaluation on them say.

    Args:
        runs: the runs, trained on the same tasks.
        options: the options that differ, as they are typed after a colon: ``low=3,high=4``.
        env: the value of ``--env``, which cannot be given beside it.

    Raises:
        UserError: if the family has no such options, if the tasks are the runs' own or have
            other parameters, or if the runs were trained on several.
    """
    run = runs[0]
    if env is not None:
        raise bad_option("--shift", options, "no --env beside it")
    trained = {str(each.content.get("tasks", each.env)): each for each in reversed(runs)}
    if len(trained) > 1:
        got = ", ".join(f"{name} ({each.directory})" for name, each in reversed(trained.items()))
        raise UserError(f"--shift: got runs of {got}; accepted: runs of one environment")
    if registry.is_import(run.env):
        raise UserError(
            f"--shift: got a run on {run.env}, a module of yours; accepted: --env with the other "
            "tasks, named as package.module:Name"
        )
    own = run.make_tasks()
    try:
        tasks = registry.make(with_items(run.env, options))
    except UserError as error:
        raise UserError(f"--shift {options}: {error}") from error
    if tasks.name == own.name:
        raise bad_option("--shift", options, f"options that change {own.name}")
    names = [
        [name for name, _ in each.sample(np.random.default_rng(0), 1, "test")[0].params]
        for each in (own, tasks)
    ]
    if names[0] != names[1]:
        got, accepted = (", ".join(n) for n in names[::-1])
        raise bad_option("--shift", options, f"tasks with parameters {accepted}, not {got}")
    return tasks


def with_items(name: str, options: str) -> str:
    """Return the name of a task distribution with other options, which replace those it has.

    >>> with_items("half-cheetah/velocity:low=0,horizon=100", "low=3,high=4")
    'half-cheetah/velocity:low=3,horizon=100,high=4'
    >>> with_items("gym/Pendulum-v1:g=8..12", "g=12..14")
    'gym/Pendulum-v1:g=12..14'
    """
    head, text = registry.split_name(name)
    items = dict(item.partition("=")[::2] for item in filter(None, text.split(",")))
    new = dict(item.partition("=")[::2] for item in filter(None, options.split(",")))
    wrong = [key for key, value in new.items() if not value]
    if wrong or not new:
        raise bad_option("--shift", options, "option=value, with a comma between several")
    return f"{head}:" + ",".join(f"{key}={value}" for key, value in (items | new).items())

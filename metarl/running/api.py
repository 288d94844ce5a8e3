"""Train and evaluate from Python: ``metarl.train`` and ``metarl.evaluate``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from metarl import registry
from metarl.errors import UserError, near_matches
from metarl.evaluation.curve import AdaptationCurve
from metarl.options import option_paths, with_options
from metarl.running import evaluate as evaluating
from metarl.running import train as training
from metarl.running.run import Run
from metarl.running.settings import TrainConfig
from metarl.running.training import Callback


def train(agent: str = "rl2", *, callback: Callback | None = None, **options: Any) -> Run:
    """Meta-train a new agent, evaluate it on held-out tasks, and return its run directory.

    It is the command ``metarl train`` as a function, with the same options and defaults.

    Args:
        agent: the agent's name, or ``package.module:Name``.
        callback: called after every iteration with its number, the trial and the metrics;
            training ends early when it returns False.
        options: fields of :class:`metarl.TrainConfig` and of the agent's config, such as
            ``env="navigation"``, ``iterations=100`` or ``learning_rate=1e-3``.

    Returns:
        The run. ``metarl.load(run.directory)`` loads its agent.

    Raises:
        UserError: for an unknown option or anything that cannot work, before any work is done.
    """
    kind = registry.agent_class(agent).Config
    own = {field.name for field in dataclasses.fields(TrainConfig)}
    theirs = option_paths(kind).keys()
    unknown = options.keys() - own - theirs
    if unknown:
        name = sorted(unknown)[0]
        raise UserError(f"metarl.train: no option {name!r}; {near_matches(name, own | theirs)}")
    config = TrainConfig(**{k: v for k, v in options.items() if k in own})
    agent_config = with_options(kind(), **{k: v for k, v in options.items() if k in theirs})
    return training.train(config, agent, agent_config, callback=callback)


def evaluate(
    run: Run | str | Path, *, agent: str | None = None, env: str | None = None, **options: Any
) -> AdaptationCurve:
    """Evaluate how the agent of a run adapts to held-out tasks, beside an untrained one.

    It is the command ``metarl evaluate`` as a function: it prints the table and writes the same
    files.

    Args:
        run: a run, or its directory.
        agent: the run's agent again, if it is a module of yours.
        env: other tasks of the same spaces, or the run's own again if they are a module of yours.
        options: keyword arguments of :func:`metarl.running.evaluate.evaluate`.

    Returns:
        The adaptation curve, with every task's values.

    Raises:
        UserError: for anything that cannot work, before any work is done.
    """
    opened = run if isinstance(run, Run) else Run.open(Path(run), agent)
    return evaluating.evaluate(opened, tasks=env, **options)

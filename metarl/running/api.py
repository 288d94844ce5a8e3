"""Train, evaluate and compare from Python: the commands as functions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from metarl import registry
from metarl.console import console
from metarl.errors import UserError, bad_option, near_matches
from metarl.evaluation.comparison import Comparison
from metarl.evaluation.control_table import Controls
from metarl.evaluation.curve import AdaptationCurve
from metarl.evaluation.probe import ProbeCurve
from metarl.evaluation.robustness import Robustness
from metarl.options import fitted, option_paths, with_options
from metarl.running import compare as comparing
from metarl.running import controls as controlling
from metarl.running import evaluate as evaluating
from metarl.running import probe as probing
from metarl.running import robustness as varying
from metarl.running import train as training
from metarl.running import tune as tuning
from metarl.running.defaults import Start, origin_of, starting_settings
from metarl.running.evaluate import EvaluateConfig
from metarl.running.run import Run
from metarl.running.settings import LENGTHS, Settings, TrainConfig, refuse_lengths
from metarl.running.training import Callback
from metarl.running.tune import TuneConfig, Tuning
from metarl.tasks.distribution import TaskDistribution


def train(
    agent: str | None = None,
    *,
    preset: str | None = None,
    callback: Callback | None = None,
    yes: bool = False,
    **options: Any,
) -> Run:
    """Meta-train a new agent, evaluate it on held-out tasks, and return its run directory.

    It is the command ``metarl train`` as a function, with the same options and defaults.

    Args:
        agent: the agent's name, or ``package.module:Name`` (default: that of the preset, or rl2).
        preset: the name of settings to start from, or ``none`` for the agent's bare defaults
            (default: the preset for the agent and the environment, if there is one).
        callback: called after every iteration with its number, the trial and the metrics;
            training ends early when it returns False.
        yes: train even if an iteration takes over ten minutes or more memory than is free.
        options: fields of :class:`metarl.TrainConfig` and of the agent's config, such as
            ``env="navigation"``, ``iterations=100`` or ``learning_rate=1e-3``.

    Returns:
        The run. ``metarl.load(run.directory)`` loads its agent.

    Raises:
        UserError: for an unknown option or anything that cannot work, before any work is done.

    >>> sizes = {"tasks_per_update": 20, "evaluation_tasks": 20, "validation_tasks": 10}
    >>> run = metarl.train("rl2", env="bandit/n10-k5", iterations=2, run_dir="runs/two", **sizes)
    >>> run.checkpoint().iteration
    2
    >>> sorted(path.name for path in run.directory.iterdir())
    ['checkpoints', 'config.json', 'evaluation', 'metrics.jsonl', 'tensorboard']
    """
    settings, origin = _settings("metarl.train", agent, preset, options)
    if origin:
        console.print(origin)
    return training.train(settings, callback=callback, yes=yes)


def tune(
    agent: str | None = None,
    *,
    preset: str | None = None,
    trials: int = 20,
    jobs: int = 1,
    search: Sequence[str] = (),
    prune: bool = True,
    **options: Any,
) -> Tuning:
    """Search the settings of an agent that do best on validation tasks.

    It is the command ``metarl tune`` as a function. The search's ``settings`` are those of the best
    trial; the same call with the same ``run_dir`` goes on with a search that was cut off.

    Args:
        agent: the agent's name, or ``package.module:Name`` (default: that of the preset, or rl2).
        preset: the name of settings to start from, as in :func:`train`.
        trials: the number of settings to try, those of earlier calls included.
        jobs: how many trials run at once.
        search: what is searched, as ``--search`` takes it (default: every option that has a range
            and is not among ``options``).
        prune: whether trials below the median of earlier ones end early.
        options: fields of :class:`metarl.TrainConfig` and of the agent's config, which are the same
            in all trials; ``minutes`` or ``iterations`` say how long each one is.

    Returns:
        The folder, all trials, and the settings of the best one.

    Raises:
        UserError: for an unknown option or anything that cannot work, before any work is done.
        TuningError: if no trial was completed.

    >>> sizes = {"tasks_per_update": 20, "validation_tasks": 10, "iterations": 1}
    >>> search = ["learning_rate=log:1e-4..1e-2"]
    >>> best = metarl.tune("rl2", env="bandit/n10-k5", trials=1, search=search, **sizes)
    >>> 1e-4 <= best.settings.agent_config.ppo.learning_rate <= 1e-2
    True
    """
    settings, _ = _settings("metarl.tune", agent, preset, options)
    return tuning.tune(settings, TuneConfig(trials, jobs, tuple(search), prune), options.keys())


def _settings(
    function: str, agent: str | None, preset: str | None, options: dict[str, Any]
) -> Start:
    """Return the settings that options describe beside those that are chosen by the tasks."""
    start, origin = starting_settings(agent, options.get("env"), preset)
    if agent not in (None, start.agent):
        raise bad_option("agent", agent, f"{start.agent}, the agent of the preset")
    own = option_paths(TrainConfig).keys()
    theirs = option_paths(type(start.agent_config)).keys()
    _refuse_unknown(function, options, own | theirs)
    train, lengths = start.train, [name for name in LENGTHS if options.get(name) is not None]
    refuse_lengths(lengths)
    if lengths:
        train = with_options(train, **dict.fromkeys(LENGTHS))
    given = {k: v for k, v in options.items() if k in theirs}
    config, changed = fitted(lambda x: with_options(x, **given), start.agent_config, given)
    train = with_options(train, **{k: v for k, v in options.items() if k in own})
    return Start(Settings(start.agent, config, train), origin_of(origin, changed))


def evaluate(
    run: Run | str | Path,
    *,
    agent: str | None = None,
    env: str | TaskDistribution | None = None,
    **options: Any,
) -> AdaptationCurve:
    """Evaluate how the agent of a run adapts to held-out tasks, beside an untrained one.

    It is the command ``metarl evaluate`` as a function: it prints the table and writes the same
    files.

    Args:
        run: a run, or its directory.
        agent: the run's agent again, if it is a module of yours.
        env: other tasks of the same spaces, or the run's own again if they are a module of yours.
        options: the options of the command, such as ``evaluation_tasks=200``, ``greedy=True`` or
            ``num_workers=0``.

    Returns:
        The adaptation curve, with every task's values.

    Raises:
        UserError: for an unknown option or anything that cannot work, before any work is done.

    >>> curve = metarl.evaluate("runs/first", evaluation_tasks=100)
    >>> curve.returns.shape  # [point, task]
    (10, 100)
    """
    _refuse_unknown("metarl.evaluate", options, option_paths(EvaluateConfig).keys())
    opened = run if isinstance(run, Run) else Run.open(Path(run), agent)
    tasks = registry.make(env) if isinstance(env, str) else env
    return evaluating.evaluate(opened, with_options(EvaluateConfig(), **options), tasks=tasks)


def compare(
    runs: Sequence[Run | str | Path],
    baselines: Sequence[str] = (),
    *,
    agents: Sequence[str] = (),
    env: str | TaskDistribution | None = None,
    **options: Any,
) -> Comparison:
    """Compare the agents of runs, and baselines, on the same tasks with the same random numbers.

    It is the command ``metarl evaluate RUN… --baselines …`` as a function: it prints the table and
    writes the same files, and what was evaluated before with the same settings is read from there.

    Args:
        runs: runs, or their directories; differences are to the first one.
        baselines: names of baselines, with options after a colon (``"ucb1:c=1.5"``), or
            ``package.module:Name``; ``metarl evaluate --list`` shows those there are.
        agents: names of the runs' agents again that are modules of yours.
        env: other tasks of the same spaces, or the runs' own again if they are a module of yours.
        options: the options of the command, such as ``evaluation_tasks=200``,
            ``output=Path("results")`` or ``num_workers=0``.

    Returns:
        The comparison: ``rows`` is the table, ``curves`` has every task's values by label.

    Raises:
        UserError: for an unknown option or anything that cannot work, before any work is done.

    >>> comparison = metarl.compare(["runs/first"], ["thompson"], evaluation_tasks=100)
    >>> {row["label"]: round(row["trial_return"]["mean"]) for row in comparison.rows}
    {'rl2': 7, 'untrained': 5, 'thompson': 6}
    """
    _refuse_unknown("metarl.compare", options, option_paths(EvaluateConfig).keys())
    opened = comparing.name_agents(_opened(runs), agents)
    tasks = registry.make(env) if isinstance(env, str) else env
    config = with_options(EvaluateConfig(), **options)
    return comparing.compare(opened, config, baselines=baselines, tasks=tasks)


def evaluate_controls(
    runs: Run | str | Path | Sequence[Run | str | Path],
    baselines: Sequence[str] = (),
    *,
    multitask: Run | str | Path | None = None,
    oracle: Run | str | Path | None = None,
    agents: Sequence[str] = (),
    env: str | TaskDistribution | None = None,
    **options: Any,
) -> Controls:
    """Evaluate what the contexts of agents and baselines are worth, which tells whether they adapt.

    It is the command ``metarl evaluate RUN… --controls`` as a function: it prints the table and
    writes the same files.

    Args:
        runs: a run or several, or their directories.
        baselines: names of baselines, as :func:`compare` takes them.
        multitask: a run of a policy for all tasks, such as ``ppo-multitask``.
        oracle: a run of a policy that is told its task (default: the baseline ``oracle``, if it
            applies).
        agents: names of the runs' agents again that are modules of yours.
        env: other tasks of the same spaces, or the runs' own again if they are a module of yours.
        options: the options of the command, such as ``evaluation_tasks=200`` or ``greedy=True``.

    Returns:
        The table: ``rows`` as data, ``verdicts`` in words, ``participants`` with every task's
        values.

    Raises:
        UserError: for an unknown option or anything that cannot work, before any work is done.

    >>> controls = metarl.evaluate_controls("runs/first", evaluation_tasks=100)
    >>> controls.verdicts[0].endswith("it adapts to its task.")
    True
    """
    _refuse_unknown("metarl.evaluate_controls", options, option_paths(EvaluateConfig).keys())
    given = [runs] if isinstance(runs, Run | str | Path) else runs
    opened = comparing.name_agents(_opened(given), agents)
    beside = [
        x if x is None or isinstance(x, Run) else Run.open(Path(x)) for x in (multitask, oracle)
    ]
    tasks = registry.make(env) if isinstance(env, str) else env
    return controlling.evaluate_controls(
        opened,
        with_options(EvaluateConfig(), **options),
        baselines=baselines,
        multitask=beside[0],
        oracle=beside[1],
        tasks=tasks,
    )


def evaluate_probe(
    run: Run | str | Path,
    *,
    agent: str | None = None,
    env: str | TaskDistribution | None = None,
    **options: Any,
) -> tuple[ProbeCurve, ProbeCurve]:
    """Ask what the context of a run's agent tells of its tasks, by a linear probe.

    It is the command ``metarl evaluate RUN --probe`` as a function: it prints the table and writes
    the same files. :func:`metarl.probe_context` probes any agent and writes nothing.

    Args:
        run: a run, or its directory.
        agent: the run's agent again, if it is a module of yours.
        env: other tasks of the same spaces, or the run's own again if they are a module of yours.
        options: the options of the command, such as ``evaluation_tasks=400``.

    Returns:
        The trained and the untrained agent's curve.

    Raises:
        UserError: for an unknown option or anything that cannot work, before any work is done.

    >>> trained, untrained = metarl.evaluate_probe("runs/first", evaluation_tasks=100)
    >>> bool(trained.mean[-1] > untrained.mean[-1])
    True
    """
    _refuse_unknown("metarl.evaluate_probe", options, option_paths(EvaluateConfig).keys())
    opened = run if isinstance(run, Run) else Run.open(Path(run), agent)
    tasks = registry.make(env) if isinstance(env, str) else env
    return probing.probe(opened, with_options(EvaluateConfig(), **options), tasks=tasks)


def evaluate_robustness(
    runs: Run | str | Path | Sequence[Run | str | Path],
    disturbance: str,
    levels: Sequence[float | int],
    baselines: Sequence[str] = (),
    *,
    agents: Sequence[str] = (),
    env: str | TaskDistribution | None = None,
    **options: Any,
) -> Robustness:
    """Evaluate how much of its return an agent keeps as a disturbance grows.

    It is the command ``metarl evaluate RUN… --robustness …`` as a function: it prints the table
    and writes the same files.

    Args:
        runs: a run or several, or their directories.
        disturbance: ``observation_noise``, ``reward_noise``, ``action_delay`` or
            ``drop_observations``.
        levels: the values at which all is evaluated; differences are to the first.
        baselines: names of baselines, as :func:`compare` takes them.
        agents: names of the runs' agents again that are modules of yours.
        env: other tasks of the same spaces, or the runs' own again if they are a module of yours.
        options: the options of the command, such as ``evaluation_tasks=200``.

    Returns:
        The table: ``rows`` as data, ``comparisons`` with every task's values at each level.

    Raises:
        UserError: for an unknown option or anything that cannot work, before any work is done.

    >>> table = metarl.evaluate_robustness(
    ...     "runs/first", "reward_noise", [0, 2], evaluation_tasks=100
    ... )
    >>> table.levels, table.rows[0]["label"], sorted(table.rows[0]["difference"])
    ((0.0, 2.0), 'rl2', ['high', 'low', 'mean'])
    """
    _refuse_unknown("metarl.evaluate_robustness", options, option_paths(EvaluateConfig).keys())
    given = [runs] if isinstance(runs, Run | str | Path) else runs
    opened = comparing.name_agents(_opened(given), agents)
    name, values = varying.parse_levels([disturbance, *map(str, levels)])
    tasks = registry.make(env) if isinstance(env, str) else env
    config = with_options(EvaluateConfig(), **options)
    return varying.evaluate_robustness(
        opened, name, values, config, baselines=baselines, tasks=tasks
    )


def _opened(runs: Sequence[Run | str | Path]) -> list[Run]:
    """Return runs; the directory of several seeds stands for all of its runs."""
    opened: list[Run] = []
    for run in runs:
        opened += [run] if isinstance(run, Run) else comparing.open_runs([Path(run)])
    return opened


def _refuse_unknown(function: str, options: dict[str, Any], known: Collection[str]) -> None:
    for name in options:
        if name not in known:
            raise UserError(f"{function}: no option {name!r}; {near_matches(name, known)}")

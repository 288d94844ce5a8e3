"""The command ``metarl compare``: groups of runs beside each other, from their evaluations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from tyro.conf import Positional

from metarl.console import console
from metarl.constraints import Above, AtLeast, validate
from metarl.errors import UserError, bad_option
from metarl.evaluation.curve import AdaptationCurve
from metarl.evaluation.group_plots import plot_groups
from metarl.evaluation.groups import Scores, compare_scores
from metarl.evaluation.groups_table import print_comparison, to_csv
from metarl.evaluation.plotting import PICTURES
from metarl.evaluation.scores import area_under_curve
from metarl.evaluation.statistics import Floats
from metarl.files import write_json, write_whole
from metarl.running.manifest import named_groups
from metarl.running.parsing import parse
from metarl.running.settings import read_settings

FORMAT = 1
"""The format of the JSON file."""

_SEPARATOR = "\x1f"
"""Stands for ``--`` between groups while the command line is parsed."""

_OF_ALL = (
    *("env", "split", "seed", "score", "actions", "checkpoint"),
    *("num_tasks", "conditions"),
)
"""What the evaluations of all runs must have in common."""

_OF_GROUP = ("agent", "iteration", "episodes")
"""What the evaluations of a group must have in common besides."""

_OF_TRAINING = ("change_task_after", "task_sampler", "schedule_iterations")
"""Options of the training that reach the parameters and that no evaluation says."""

_NUMBERS = (".json", ".csv")
"""How the names of files of numbers end."""

_HELP = """\
Compare groups of runs, one run per training seed, by the evaluations that they have saved.

usage: metarl compare RUN… -- RUN… [-- RUN…] [options]
       metarl compare SWEEP [options]

The folder of several seeds stands for all its runs, and that of a sweep for a group of each of its
settings. Differences are paired by task; intervals are
over training seeds and tasks. Runs that were evaluated differently from the first one, or trained
with other hyper-parameters than the first of their group, are left out and named."""


@dataclass(frozen=True)
class Compare:
    """Options of ``metarl compare``."""

    runs: Positional[tuple[str, ...]]
    """Run directories in groups, with -- between two groups."""
    labels: tuple[str, ...] = ()
    """Names of the groups (default: the agents, with the folder if two are the same)."""
    evaluation: str = "test"
    """Name of the saved evaluation, without .json: `test` for the evaluation after training, or
    the name of one that `metarl evaluate` wrote."""
    metric: str = "return"
    """Metric to compare: `return`, `success`, or another value that the evaluations have."""
    at: Annotated[int, AtLeast(0)] | None = None
    """Point of the adaptation curves to compare at, in episodes of experience (default: the first
    run's last point)."""
    half_width: Annotated[float, Above(0)] | None = None
    """Half-width of the interval of a difference for which the number of seeds is planned too
    (default: none)."""
    output: Path | None = None
    """File for all numbers, .json, or .csv for one line a pair; or for a picture of means and
    performance profiles, .png, .pdf or .svg (default: none is written)."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be used."""
        validate(self)
        if self.output is not None and self.output.suffix not in (*_NUMBERS, *PICTURES):
            accepted = f"a name that ends with {', '.join(_NUMBERS)}, {', '.join(PICTURES)}"
            raise bad_option("--output", str(self.output), accepted)


class _Run(NamedTuple):
    """One run's evaluation."""

    path: Path
    curve: AdaptationCurve
    training_seed: Any
    hyper_parameters: dict[str, Any]


def run_compare(arguments: Sequence[str]) -> None:
    """Compare groups of runs by their saved evaluations."""
    words = [_SEPARATOR if word == "--" else word for word in arguments]
    options: Compare = parse(Compare, _HELP, "compare", words)
    groups: list[list[Path]] = [[]]
    for word in options.runs:
        if word == _SEPARATOR:
            groups.append([])
        else:
            groups[-1].append(Path(word))
    named = named_groups(groups)
    if named is not None and not options.labels:
        options = replace(options, labels=tuple(name for name, _ in named))
    compare_groups(groups if named is None else [group for _, group in named], options)


def compare_groups(groups: Sequence[Sequence[Path]], options: Compare) -> dict[str, Any]:
    """Compare groups of runs; print the tables and write the file that is asked for.

    What cannot be used of a run or differs from the others is printed, one line each, and the
    rest is compared.

    Args:
        groups: at least two groups of run directories; that of several seeds stands for its runs.
        options: the options of the command; its ``runs`` are not used.

    Returns:
        ``measures``: what :func:`metarl.evaluation.groups.compare_scores` says of the point and of
        the area under the curve (if all curves have the same points), by title; ``left_out``:
        what could not be used; and what all evaluations have in common.

    Raises:
        UserError: if the groups cannot be compared, or no two have a run that can be used.
    """
    _refuse_impossible(groups, options)
    left_out: list[str] = []
    read = [[run for path in group for run in _read(path, options, left_out)] for group in groups]
    usable = _alike(read, options, left_out)
    for line in left_out:
        console.print(f"left out: {line}")
    named = [x for x in zip(_labels(groups, usable, options), usable, strict=True) if x[1]]
    result: dict[str, Any] = {"format": FORMAT, "left_out": left_out}
    if named:
        result |= _compared(named, options)
        print_comparison(result)
    if len(named) < 2:
        raise UserError(
            f"metarl compare: {len(named)} of {len(groups)} groups have runs that can be compared; "
            "accepted: two or more"
        )
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        kind = "picture" if options.output.suffix in PICTURES else "numbers"
        if kind == "picture":
            plot_groups(result, options.output)
        elif options.output.suffix == ".csv":
            write_whole(options.output, to_csv(result).encode())
        else:
            write_json(options.output, result)
        console.print(f"{kind}: {options.output}")
    return result


def _refuse_impossible(groups: Sequence[Sequence[Path]], options: Compare) -> None:
    """Refuse what is no comparison, from the names alone."""
    words = " -- ".join(" ".join(map(str, group)) for group in groups)
    if len(groups) < 2 or not all(groups):
        raise bad_option("RUNS", words, "RUN… -- RUN…, at least two groups with a run in each")
    seen: set[Path] = set()
    for path in (path for group in groups for path in group):
        if path.resolve() in seen:
            raise bad_option("RUNS", str(path), "each of them once")
        seen.add(path.resolve())
    if options.labels and len(set(options.labels)) != len(groups):
        raise bad_option("--labels", list(options.labels), f"{len(groups)} different names")


def _read(path: Path, options: Compare, left_out: list[str]) -> list[_Run]:
    """Read the evaluations of a run, or of all runs of several seeds; say what cannot be read."""
    try:
        content = read_settings(path / "config.json")
    except UserError as error:
        left_out.append(_one_line(str(error)))
        return []
    if "seeds" in content:
        return [x for seed in content["seeds"] for x in _read(path / str(seed), options, left_out)]
    if not (path / "evaluation" / f"{options.evaluation}.json").exists():
        name = repr(options.evaluation)
        left_out.append(f"{path}: has no evaluation {name}, which metarl evaluate makes")
        return []
    try:
        curve = AdaptationCurve.load(path / "evaluation", options.evaluation)
    except UserError as error:
        left_out.append(_one_line(str(error)))
        return []
    values = curve.metrics.get(options.metric)
    if values is None:
        has = ", ".join(curve.metrics)
        left_out.append(f"{path}: --metric: got {options.metric!r}; accepted: {has}")
        return []
    if not np.isfinite(values).all():
        left_out.append(f"{path}: {options.metric} is not finite on every task")
        return []
    return [_Run(path, curve, content["train_config"].get("seed"), _hyper_parameters(content))]


def _hyper_parameters(content: dict[str, Any]) -> dict[str, Any]:
    """Return what a run's ``config.json`` says of the training, by option, without the seed."""
    train = content["train_config"]
    found = {name: train[name] for name in _OF_TRAINING if name in train}
    # A name of tasks can be typed in several ways, so that it is compared with its like only.
    tasks = {"tasks": content["tasks"]} if "tasks" in content else {"env": train["env"]}
    return {**tasks, **found, **_flat(content["agent_config"])}


def _flat(config: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Return the values of a config and of the configs in it, by path: ``head.hidden_sizes``."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{before}{name}.") if nested else {f"{before}{name}": value}
    return flat


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _alike(
    groups: Sequence[Sequence[_Run]], options: Compare, left_out: list[str]
) -> list[list[_Run]]:
    """Return the runs that were evaluated as the first one was; say what the others differ in."""
    kept: list[list[_Run]] = []
    for group in groups:
        kept.append([])
        for run in group:
            before = [other for runs in kept for other in runs]
            reason = _reason(run, before, kept[-1], options)
            if reason is None:
                kept[-1].append(run)
            else:
                left_out.append(f"{run.path}: {reason}")
    return kept


def _reason(
    run: _Run, before: Sequence[_Run], group: Sequence[_Run], options: Compare
) -> str | None:
    """Return why a run cannot be compared with those before it, if it cannot."""
    for others, keys in ((before[:1], _OF_ALL), (group[:1], _OF_GROUP)):
        for other in others:
            for key in keys:
                own, accepted = _protocol(run)[key], _protocol(other)[key]
                if own != accepted:
                    return f"{key}: got {own!r}; accepted: {accepted!r}, as of {other.path}"
    for other in group[:1]:
        for key, accepted in other.hyper_parameters.items():
            own = run.hyper_parameters.get(key, accepted)  # Older runs lack later options.
            if own != accepted:
                return f"trained with {key} {own!r}; accepted: {accepted!r}, as {other.path}"
    for other in before:
        if run.path.resolve() == other.path.resolve():
            return "is named twice"
    for other in group:
        if run.training_seed == other.training_seed:
            return f"has training seed {run.training_seed}, as {other.path} of the same group"
    at = _point(before[0] if before else run, options)
    if at in run.curve.episodes:
        return None
    return f"--at: got {at}; accepted: {', '.join(map(str, run.curve.episodes))}"


def _protocol(run: _Run) -> dict[str, Any]:
    """Return the properties of an evaluation that :data:`_OF_ALL` and :data:`_OF_GROUP` name."""
    curve = run.curve
    greedy = curve.greedy or curve.score == "greedy-copy"
    actions, num_tasks = "greedy" if greedy else "sampled", curve.returns.shape[1]
    return {**vars(curve), "fixed": curve.fixed, "actions": actions, "num_tasks": num_tasks}


def _point(first: _Run, options: Compare) -> int:
    """Return the number of episodes of experience at the point that is compared."""
    return first.curve.episodes[-1] if options.at is None else options.at


def _labels(
    groups: Sequence[Sequence[Path]], read: Sequence[Sequence[_Run]], options: Compare
) -> list[str]:
    """Return the names of groups: given ones, or agents, with folders if two are the same."""
    if options.labels:
        return list(options.labels)
    agents = [runs[0].curve.agent if runs else "" for runs in read]
    if len(set(agents)) == len(agents):
        return agents
    named = [f"{agent} ({group[0]})" for agent, group in zip(agents, groups, strict=True)]
    return [name.replace("()", "") for name in named]


def _compared(named: Sequence[tuple[str, Sequence[_Run]]], options: Compare) -> dict[str, Any]:
    """Return what is known of the groups at the point, and of the areas under their curves."""
    runs = [run for _, group in named for run in group]
    first = runs[0].curve
    strata = next((run.curve.strata for run in runs if run.curve.strata is not None), None)
    at = _point(runs[0], options)
    measures: dict[str, tuple[Callable[[AdaptationCurve], Floats], int]] = {
        f"after {at} episodes": (lambda c: _values(c, options)[c.episodes.index(at)], 1)
    }
    if len(first.episodes) > 1 and {run.curve.episodes for run in runs} == {first.episodes}:
        measures["area under the curve"] = (
            lambda c: area_under_curve(_values(c, options), c.episodes),
            len(first.episodes),
        )
    compared = {}
    for title, (score, points) in measures.items():
        compared[title] = compare_scores(
            [
                Scores(
                    label,
                    tuple(str(run.path) for run in group),
                    _stacked(group, score),
                    points * _episodes_per_value(group[0].curve, options),
                )
                for label, group in named
            ],
            strata,
            kinds=first.groups,
            half_width=options.half_width,
        )
    return {
        **{key: _protocol(runs[0])[key] for key in (*_OF_ALL, "shared_split", "fixed")},
        "metric": options.metric,
        "half_width": options.half_width,
        "measures": compared,
    }


def _values(curve: AdaptationCurve, options: Compare) -> Floats:
    return curve.metrics[options.metric]


def _episodes_per_value(curve: AdaptationCurve, options: Compare) -> int:
    """Return how many episodes a point's value is a mean over; 0 for what has no median."""
    return curve.episodes_per_point if options.metric == "return" else 0


def _stacked(group: Sequence[_Run], score: Callable[[AdaptationCurve], Floats]) -> Floats:
    return np.stack([np.asarray(score(run.curve), np.float64) for run in group])

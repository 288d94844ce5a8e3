"""What pictures of runs show: the adaptation and learning curves of runs and groups of seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metarl.console import console
from metarl.errors import bad_option
from metarl.evaluation.curve import read_summary
from metarl.evaluation.plotting import AXES, Axis, Learning, Line
from metarl.evaluation.report import metric_names, metric_of
from metarl.running.labels import Source, labels_of, source_of_file, source_of_run
from metarl.running.manifest import is_sweep, settings_of
from metarl.running.metrics import read_metrics
from metarl.running.run import Run
from metarl.running.seeds import summarize_files
from metarl.running.settings import members
from metarl.task import Split


def adaptation_lines(
    paths: Sequence[Path], metric: str, axis: Axis, split: Split, agent: str | None
) -> list[Line]:
    """Read the evaluations to draw, each with the evaluation of the untrained agent.

    Raises:
        UserError: if one is missing or damaged, lacks the metric, or differs from those of the
            same group of seeds.
    """
    sources: list[Source] = []
    files: list[list[Path]] = []
    steps: list[int] = []
    named: dict[int, str] = {}
    for path, name, directories in _parts(paths):
        if path.suffix == ".json" and path.is_file():
            if axis != "episodes":
                raise bad_option("--axis", axis, f"episodes for a file, {path}")
            files.append([path])
            sources.append(source_of_file(path, agent))
            steps.append(1)
            continue
        runs = [Run.open(directory, agent) for directory in directories]
        if name is not None:
            runs = [run for run in runs if _file(run, split).is_file()]
            if not runs:
                console.print(f"left out: {path}, {name}: no run has been evaluated")
                continue
            named[len(files)] = name
        files.append([_file(run, split) for run in runs])
        sources.append(_source_of(runs, path))
        steps.append(runs[0].spec.horizon if axis == "env-steps" else 1)
    lines = []
    labels = labels_of(sources)
    for place, (group, number) in enumerate(zip(files, steps, strict=True)):
        label = named.get(place, labels[place])
        summary = _together(group)
        if metric not in metric_names(summary):
            accepted = f"{', '.join(metric_names(summary))} (what {group[0]} has)"
            raise bad_option("--metric", metric, accepted)
        if place in named:  # One line for a setting: a picture with two of each would be full.
            lines.append(Line(label, summary, steps_per_episode=number))
            continue
        untrained = _together([file.with_name(f"{file.stem}-untrained.json") for file in group])
        lines += [
            Line(label, summary, steps_per_episode=number),
            Line("untrained", untrained, reference=True, steps_per_episode=number),
        ]
    return lines


def _parts(paths: Sequence[Path]) -> Iterator[tuple[Path, str | None, Sequence[Path]]]:
    """Yield every path that makes a curve, a name if it is a setting of a sweep, and its runs."""
    for path in paths:
        if is_sweep(path):
            for name, directories in settings_of(path).items():
                yield path, name, directories
        else:
            yield path, None, [path] if path.is_file() else members(path)


def _file(run: Run, split: Split) -> Path:
    return run.directory / "evaluation" / f"{split}.json"


def _source_of(runs: Sequence[Run], path: Path) -> Source:
    """Return what can name a run, or a group of seeds in the folder ``path``."""
    source = source_of_run(runs[0])
    if len(runs) == 1:
        return source
    seeds = ", ".join(str(run.train_config.seed) for run in runs)
    return source._replace(seed=f"seeds {seeds}", name=path.name, path=path)


def _together(files: Sequence[Path]) -> dict[str, Any]:
    """Return the summary of an evaluation, or of those of several seeds together."""
    return read_summary(files[0]) if len(files) == 1 else summarize_files(files)


def adaptation_rows(lines: Sequence[Line], metric: str, axis: Axis) -> list[dict[str, Any]]:
    """Return the numbers of adaptation curves: one row for each curve and point."""
    rows = []
    for number, line in enumerate(lines):
        label = f"{lines[number - 1].label}, untrained" if line.reference else line.label
        values = metric_of(line.summary, metric)
        seeds = line.summary.get("seed_means", {}).get(metric, [])
        for point, x in enumerate(line.x):
            low, high = (values.get(k) for k in ("low", "high"))
            rows.append(
                {
                    "curve": label,
                    AXES[axis]: x,
                    "metric": metric,
                    "mean": values["mean"][point],
                    "low": low and low[point],
                    "high": high and high[point],
                    "seeds": " ".join(str(seed[point]) for seed in seeds),
                }
            )
    return rows


def learning_curves(
    paths: Sequence[Path], metric: str, axis: Axis, agent: str | None
) -> tuple[list[list[Learning]], str]:
    """Read the learning curves to draw: of each run or group, and the environments' names.

    Args:
        paths: run directories, or folders of several seeds.
        metric: ``return``, ``success`` or another value that has a curve before and after
            adaptation, or the whole name of a metric.
        axis: what the x axis counts.
        agent: the agent's ``package.module:Name``, if it is a module of the user's.

    Raises:
        UserError: if a path is no run, or has not logged the metric.
    """
    parts = [
        (path, name, [Run.open(each, agent) for each in directories])
        for path, name, directories in _parts(paths)
    ]
    labels = labels_of([_source_of(runs, path) for path, _, runs in parts])
    found = []
    for (_, name_of_setting, runs), plain in zip(parts, labels, strict=True):
        label = name_of_setting or plain
        logged = [read_metrics(run.directory / "metrics.jsonl") for run in runs]
        scale = _episodes_per_update(runs[0]) if axis == "episodes" else None
        named = {metric: label}
        if "/" not in metric:
            named = {
                f"train/{metric}_before": f"{label}, before adaptation",
                f"train/{metric}_after": f"{label}, after adaptation",
            }
        curves = [
            Learning(text, [_points(m, name, scale) for m in logged], name.endswith("_before"))
            for name, text in named.items()
        ]
        if logged[0] and not any(curve.seeds[0] for curve in curves):
            raise bad_option("--metric", metric, _accepted(logged[0]))
        found.append(curves)
    envs = ", ".join(sorted({run.env for _, _, runs in parts for run in runs}))
    return found, envs


def _points(
    metrics: Sequence[Mapping[str, Any]], name: str, episodes_per_update: int | None
) -> list[tuple[int, float]]:
    """Return a metric's values against environment steps, or against episodes."""
    logged = [line for line in metrics if name in line]
    if episodes_per_update is None:
        return [(line["env_steps"], float(line[name])) for line in logged]
    return [(line["iteration"] * episodes_per_update, float(line[name])) for line in logged]


def _episodes_per_update(run: Run) -> int:
    agent = run.make_agent()
    return agent.tasks_per_update * agent.shape.num_episodes


def _accepted(metrics: Sequence[Mapping[str, Any]]) -> str:
    names = dict.fromkeys(name for line in metrics for name in line if "/" in name)
    pairs = [n.removeprefix("train/").removesuffix("_after") for n in names if n.endswith("_after")]
    short = [name for name in pairs if "/" not in name]
    return ", ".join([*short, *names])


def learning_rows(
    curves: Sequence[Sequence[Learning]], metric: str, axis: Axis
) -> list[dict[str, Any]]:
    """Return the numbers of learning curves: one row for each curve, seed and point."""
    return [
        {"curve": curve.label, "run": number, AXES[axis]: x, "metric": metric, "value": value}
        for group in curves
        for curve in group
        for number, points in enumerate(curve.seeds)
        for x, value in points
    ]

"""Draw the evaluations, the training or the paths of runs into one picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from metarl import registry, seeding
from metarl.console import console
from metarl.errors import bad_option
from metarl.evaluation.evaluate import evaluation_shape
from metarl.evaluation.plotting import (
    PICTURES,
    Axis,
    Paths,
    plot_adaptation,
    plot_learning,
    plot_paths,
)
from metarl.experience.agent import require_spaces
from metarl.experience.lanes import TrialKeys
from metarl.experience.rollout import run_trial
from metarl.files import write_whole
from metarl.running.folders import claim_file
from metarl.running.lines import (
    adaptation_lines,
    adaptation_rows,
    learning_curves,
    learning_rows,
)
from metarl.running.run import Run
from metarl.running.settings import members
from metarl.seeding import Phase
from metarl.task import SPLIT_NAMES, Split
from metarl.tasks.distribution import TaskDistribution


def plot(
    paths: Sequence[Path],
    kind: Literal["adaptation", "learning", "paths"],
    output: Path | None = None,
    *,
    metric: str = "return",
    axis: Axis | None = None,
    split: Split = "test",
    env: str | None = None,
    agent: str | None = None,
) -> Path:
    """Draw the evaluations or the training of several runs, or one run's paths.

    The folder of several seeds is one curve: the mean over seeds, with its interval and a dot or
    a thin line for every seed.

    Args:
        paths: run directories; for adaptation curves also evaluations' files ``<name>.json``,
            with ``<name>-untrained.json`` in the same folder.
        kind: ``adaptation`` draws a metric against experience with the task; ``learning`` draws
            it against that of training; ``paths`` lets one run's agent adapt to a few tasks with
            a goal in the plane, and draws its paths.
        output: the picture's file (default: ``comparison.png``, or the next free name like it),
            or a ``.csv`` file for the numbers that would be drawn.
        metric: the metric: ``return``, ``success`` or another value that evaluations have; for
            learning curves also the whole name of any metric that was logged.
        axis: what the x axis counts (default: episodes for adaptation curves, environment steps
            for learning curves).
        split: the split whose evaluation is drawn, or whose tasks the paths are on.
        env: the tasks, needed for paths if the run's tasks are a module of the user's.
        agent: the agent, needed if the run's agent is a module of the user's.

    Returns:
        The file.

    Raises:
        UserError: if a path is no run, or what is to be drawn is missing there.
    """
    if not paths:
        raise bad_option("RUNS", [], "at least one run directory")
    suffixes = (*PICTURES, *((".csv",) if kind != "paths" else ()))
    if output is not None and output.suffix not in suffixes:
        accepted = f"a name that ends with {', '.join(suffixes[:-1])} or {suffixes[-1]}"
        raise bad_option("--output", str(output), accepted)
    if kind == "paths" and metric != "return":
        raise bad_option("--metric", metric, "return for --kind paths")
    if kind == "paths" and axis is not None:
        raise bad_option("--axis", axis, "no axis for --kind paths")
    files = [path for path in paths if path.suffix == ".json" and path.is_file()]
    if files and kind != "adaptation":
        raise bad_option("RUNS", str(files[0]), f"run directories for --kind {kind}")
    if kind == "adaptation":
        lines = adaptation_lines(paths, metric, axis or "episodes", split, agent)
        if output is not None and output.suffix == ".csv":
            return _write(output, adaptation_rows(lines, metric, axis or "episodes"))
        return _draw(output, lambda to: plot_adaptation(lines, to, metric, axis or "episodes"))
    if kind == "learning":
        curves, envs = learning_curves(paths, metric, axis or "env-steps", agent)
        if output is not None and output.suffix == ".csv":
            rows = learning_rows(curves, metric, axis or "env-steps")
            if not rows:
                raise bad_option("RUNS", [str(path) for path in paths], "runs with logged metrics")
            return _write(output, rows)
        return _draw(
            output, lambda to: plot_learning(curves, to, envs, metric, axis or "env-steps")
        )
    runs = [Run.open(each, agent) for path in paths for each in members(path)]
    if len(runs) > 1:
        raise bad_option("RUNS", [str(path) for path in paths], "one run for --kind paths")
    tasks = registry.make(env) if env else runs[0].make_tasks()
    return _draw(output, lambda target: _plot_paths(runs[0], tasks, target, split))


def _draw(output: Path | None, draw: Callable[[Path], None]) -> Path:
    """Draw into ``output``, or into a new file that no other process writes."""
    claimed = None
    if output is None:
        output = claimed = claim_file(Path("comparison.png"))
    try:
        draw(output)
    except BaseException:
        if claimed is not None:
            claimed.unlink(missing_ok=True)
        raise
    console.print(f"picture: {output}")
    return output


def _write(output: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write numbers as lines of comma-separated values."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(output, text.getvalue().encode())
    console.print(f"numbers: {output}")
    return output


def _plot_paths(
    run: Run, tasks: TaskDistribution, output: Path, split: Split, num_tasks: int = 4
) -> None:
    """Draw the paths on a few tasks before adaptation and after each stage of it."""
    batch = tasks.sample(seeding.numpy_generator(0, Phase.USE), num_tasks, split)
    if tasks.observation_space.shape != (2,) or "goal" not in dict(batch[0].params):
        raise bad_option("--kind", "paths", f"tasks with a goal in the plane, not {tasks.name}")
    agent, checkpoint = run.load_agent()
    spaces = tasks.observation_space, tasks.action_space
    require_spaces(agent, *spaces, f"--env: {tasks.name}")
    shape = evaluation_shape(agent, tasks)
    lanes = 1 if shape.sequential else shape.episodes_per_round
    envs = tasks.make_vec(num_tasks * lanes, num_workers=0)
    keys = TrialKeys(0, Phase.USE, 0, num_tasks)
    trial = run_trial(agent, envs, batch, shape=shape, keys=keys)
    envs.close()
    if shape.learns_while_acting:  # A stage is one episode.
        shown = sorted({0, 1, 2, shape.num_episodes - 1})
        stages = {k: [(trial.rounds[0], k)] for k in shown}
    else:  # A stage is a round; up to five of its episodes are drawn.
        stages = {
            k * shape.stride: [(episodes, e) for e in range(min(5, shape.stride))]
            for k, episodes in enumerate(trial.rounds)
        }
    rows = []
    for i, task in enumerate(batch):
        panels = []
        for drawn in stages.values():
            paths = []
            for episodes, e in drawn:
                moves = episodes.observation[i, e][episodes.valid[i, e]]
                last = episodes.final_observation[i, e][None]
                paths.append(torch.cat([moves, last]).numpy())
            panels.append(Paths(task["goal"], paths))
        rows.append(panels)
    kind = SPLIT_NAMES[split]
    plot_paths(
        rows,
        [f"after {count} episodes" if count else "before adaptation" for count in stages],
        output,
        f"{run.agent_name} on {kind} tasks of {tasks.name}, iteration {checkpoint.iteration}",
    )

"""Evaluate the agent of a run: table, picture, files, videos, Meta-World's protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from metarl import registry
from metarl.console import console, ticker
from metarl.errors import bad_option
from metarl.evaluation.curve import AdaptationCurve, Measure
from metarl.evaluation.evaluate import (
    default_tasks,
    evaluate_adaptation,
    evaluation_shape,
    evaluation_tasks,
)
from metarl.evaluation.metaworld import (
    OfficialResult,
    can_be_official,
    evaluate_officially,
    official_steps,
)
from metarl.evaluation.plotting import Line, plot_adaptation
from metarl.evaluation.report import print_adaptation
from metarl.evaluation.video import check_can_record, record_adaptation
from metarl.experience.agent import Agent, require_spaces
from metarl.experience.rollout import torch_threads
from metarl.files import write_json
from metarl.running.checkpoints import Which
from metarl.running.folders import (
    evaluation_name,
)
from metarl.running.machine import check_device
from metarl.running.run import Run
from metarl.task import Split
from metarl.tasks.distribution import TaskDistribution


@torch_threads(1)
def evaluate(
    run: Run,
    *,
    tasks: TaskDistribution | str | None = None,
    split: Split = "test",
    num_tasks: int | None = None,
    num_episodes: int | None = None,
    seed: int = 0,
    greedy: bool = False,
    measure: Measure = "experience",
    checkpoint: Which = "final",
    num_slots: int | None = None,
    num_workers: int | None = None,
    env_timeout: float = 60.0,
    env_restarts: int = 0,
    device: str = "cpu",
    official: bool = False,
    video: int = 0,
    output: Path | None = None,
) -> AdaptationCurve:
    """Evaluate a run's agent beside an untrained one; write table, picture, JSON and arrays.

    The files of the run's own evaluation (its tasks, their number, and the other arguments'
    defaults) are ``<split>.json``, ``.npz`` and ``.png``; any other one has a name that says what
    differs (:func:`evaluation_name`), so that it replaces nothing else. The untrained agent is the
    same one before its first update, on the first of the same tasks (1000 at most); its files
    end with ``-untrained``. ``tasks``, or their name, are the run's own where they are not given.
    With ``official`` Meta-World's own evaluation follows (``…-official.json``), with ``video`` mp4
    files of so many tasks. ``output`` is the folder for all files, by default the run's
    ``evaluation``.

    Raises:
        UserError: for anything that cannot work, before any work is done.
        OSError: where the files cannot be written; the table is printed all the same.
    """
    check_device(device)
    if isinstance(tasks, str):
        tasks = registry.make(tasks)
    tasks = tasks or run.make_tasks()
    if official and not can_be_official(tasks):
        raise bad_option("--official", tasks.name, "tasks of Meta-World")
    if video:
        check_can_record()
    spaces = tasks.observation_space, tasks.action_space
    require_spaces(SimpleNamespace(spec=run.spec), *spaces, f"--env: {tasks.name}")
    own_tasks = run.train_config.evaluation_tasks or default_tasks(tasks, split)
    num_tasks = own_tasks if num_tasks is None else num_tasks
    agent, saved = run.load_agent(checkpoint, device)
    own_episodes, episodes = (
        evaluation_shape(agent, tasks, number).num_episodes for number in (None, num_episodes)
    )
    label = evaluation_name(
        split,
        env=None if tasks.name == run.config.get("tasks", run.env) else tasks.name,
        tasks=None if num_tasks == own_tasks else num_tasks,
        episodes=None if episodes == own_episodes else episodes,
        seed=seed,
        greedy=greedy,
        probe=measure == "probe",
        best=checkpoint == "best",
    )
    folder = output or run.directory / "evaluation"
    writing = _Writing(folder)
    curves = []
    for name, subject, at, count in (
        (label, agent, saved.iteration, num_tasks),
        (f"{label}-untrained", run.make_agent(device), 0, min(num_tasks, 1000)),
    ):
        title = "evaluating" if subject is agent else "untrained agent"
        with ticker(title, count, unit="tasks") as progress:
            curve = evaluate_adaptation(
                subject,
                tasks,
                split=split,
                num_tasks=count,
                num_episodes=num_episodes,
                seed=seed,
                greedy=greedy,
                measure=measure,
                num_slots=num_slots,
                vec_options={
                    "num_workers": num_workers,
                    "timeout": env_timeout,
                    "restarts": env_restarts,
                },
                advance=progress.advance,
            )
        curve = dataclasses.replace(
            curve,
            agent=run.agent_name,
            iteration=at,
            env_steps=saved.env_steps if at else 0,
            checkpoint=checkpoint,
        )
        with writing:
            curve.save(folder, name)
        curves.append(curve)
    trained, untrained = (curve.summary() for curve in curves)
    print_adaptation(trained, untrained)
    picture = folder / f"{label}.png"
    lines = [Line(run.agent_name, trained), Line("untrained", untrained, reference=True)]
    with writing:
        plot_adaptation(lines, picture)
        console.print(f"picture: {picture}")
    if video:
        episodes = curves[0].episodes[-1]
        shown = evaluation_tasks(tasks, split=split, num_tasks=video, seed=seed)
        with writing:
            for path in record_adaptation(
                agent, tasks, shown, folder, name=f"{label}-video", episodes=episodes, seed=seed
            ):
                console.print(f"video: {path}")
    if official:
        result = _evaluate_officially(agent, tasks, split, seed, trained)
        with writing:
            write_json(folder / f"{label}-official.json", result.summary())
    writing.check()
    return curves[0]


class _Writing:
    """Lets an evaluation go on to its table where its files cannot be written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._error: OSError | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> bool:
        if not isinstance(error, OSError):
            return False
        self._error = self._error or error
        return True

    def check(self) -> None:
        """Raise an OSError, which says what to do, where anything could not be written."""
        if self._error is not None:
            raise OSError(
                f"{self._folder}: the evaluation cannot be written there ({self._error}); "
                "--output FOLDER takes another place"
            ) from self._error


def _evaluate_officially(
    agent: Agent,
    tasks: TaskDistribution,
    split: Split,
    seed: int,
    summary: Mapping[str, Any],
) -> OfficialResult:
    """Run Meta-World's own evaluation, and say how its figures differ from the ones above."""
    steps = official_steps(tasks, split)
    console.print(f"official evaluation: up to {steps:,} steps of the official environments")
    with ticker("official evaluation", steps, unit="steps") as progress:
        result = evaluate_officially(agent, tasks, split=split, seed=seed, advance=progress.advance)
    success = summary["success"]["mean"]
    console.print(
        f"per-goal: success {success[0]:.3f} before and {success[-1]:.3f} after "
        f"{summary['episodes'][-1]} episodes: every goal counts alike, success at any step\n"
        f"official: success {result.success:.3f}: metaworld.evaluation stops episodes at success "
        "and counts those that end first among the slots of a class, so that quick successes "
        "count more than once\nofficial, by class: "
        + ", ".join(f"{name} {rate:.3f}" for name, rate in result.by_class.items())
    )
    return result

"""Show how an agent adapts: a film of one trial, episode by episode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import Positional

from metarl import registry
from metarl.console import console
from metarl.constraints import AtLeast, validate
from metarl.errors import require_seed
from metarl.evaluation.cameras import prepare_rendering
from metarl.evaluation.drawn_tasks import draw_tasks
from metarl.evaluation.evaluate import evaluation_shape
from metarl.evaluation.films import FRAMES_PER_SECOND, open_films
from metarl.evaluation.playing import Played, film_trial, one_trial
from metarl.experience.agent import Adapter
from metarl.experience.lanes import TrialKeys
from metarl.running.checkpoints import Which
from metarl.running.folders import claim_file
from metarl.running.parsing import parse
from metarl.running.run import Run
from metarl.seeding import Phase
from metarl.task import SPLIT_NAMES, Split, Task
from metarl.tasks.distribution import TaskDistribution
from metarl.tasks.parameters import short_task, task_with

GIF_FRAMES_PER_SECOND = 12.5
"""The largest rate of a film that is written as a gif too; at more, such files become large."""


@dataclass(frozen=True)
class Play:
    """Options of ``metarl play``."""

    run: Positional[Path]
    """Run directory whose agent is shown."""
    output: tuple[Path, ...] = ()
    """Files or folders to write: an .mp4 or .gif file, or a folder for a PNG file of every picture
    (default: a new gif in the folder `play` of the run)."""
    task: tuple[str, ...] = ()
    """Values of the task's parameters, such as `direction=-1` or `goal=0.3,-0.2` (default: those of
    the task that `--number` names)."""
    split: Split = "test"
    """Split that the task comes from: held-out `test` tasks, `validation` tasks, or `train`."""
    number: Annotated[int, AtLeast(0)] = 0
    """Number of the task among those of the run's evaluation, from 0, whose trial is shown."""
    episodes_per_trial: Annotated[int, AtLeast(1)] | None = None
    """Number of episodes that the agent has with the task (default: as many as in training for
    agents that learn while they act, four rounds for others)."""
    baseline: str | None = None
    """Baseline to show in place of the run's agent, such as `thompson` (`metarl evaluate --list`
    shows all names; default: none)."""
    env: str | None = None
    """Other tasks with the same spaces (default: the run's own). Tasks from a module of yours must
    be named again, since files cannot make the program import code."""
    agent: str | None = None
    """Name of the run's agent, needed only if it is in a module of yours."""
    checkpoint: Which = "final"
    """State of the agent: the `final` checkpoint, or the `best` one on validation tasks."""
    greedy: bool = False
    """Take the most likely actions instead of sampling them."""
    seed: int = 0
    """Number from which tasks, episodes and actions are derived, as in `metarl evaluate`."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be used."""
        validate(self)
        require_seed("--seed", self.seed)


_HELP = """\
Show how a run's agent adapts to a task: a film of its trial, with a line of text in each picture.

usage: metarl play RUN [--task NAME=VALUE…] [--output FILE.gif|FILE.mp4|FOLDER…] [options]

The trial is that of the run's evaluation with the same task and seed. Agents that adapt in rounds
are shown in the first episode of each."""


def run_play(arguments: Sequence[str]) -> None:
    """Film an agent's adaptation to one task."""
    options = parse(Play, _HELP, "play", arguments)
    prepare_rendering("metarl play")
    play(options)


def play(options: Play) -> list[Path]:
    """Film how the agent of a run, or a baseline, adapts to one task.

    Args:
        options: what to show, and where to write it.

    Returns:
        The files and folders that have been written.

    Raises:
        UserError: for anything that cannot work: unknown names, tasks without pictures, or a
            missing package or graphics library.
    """
    run = Run.open(options.run, options.agent)
    tasks = run.make_tasks() if options.env is None else registry.make(options.env)
    run.require_spaces(tasks)
    task = _task(tasks, options)
    agent, label = _adapter(run, tasks, options)
    shape = evaluation_shape(agent, tasks, options.episodes_per_trial)
    if run.train_config.change_task_after:
        console.print("note: in this run's training the task changes; the film stays with one task")
    keys = TrialKeys(options.seed, Phase.EVALUATE, 0, np.array([options.number]))
    with _outputs(run, options) as paths, open_films(paths, "--output") as film:
        console.print(
            f"{label} on {tasks.name}, {SPLIT_NAMES[options.split]} task: {short_task(task)}"
        )
        trial = one_trial(agent, tasks, task, shape=shape, keys=keys, greedy=options.greedy)
        gif = any(path.suffix == ".gif" for path in paths)
        played = film_trial(
            trial,
            tasks,
            film,
            shape=shape,
            keys=keys,
            option="metarl play",
            rate=GIF_FRAMES_PER_SECOND if gif else FRAMES_PER_SECOND,
        )
        for episode in played:
            _tell(episode)
    for path in paths:
        console.print(f"{'film' if path.suffix else 'pictures'}: {path}")
    return paths


def _task(tasks: TaskDistribution, options: Play) -> Task:
    """Return the task to show."""
    numbers = np.array([options.number])
    (task,) = draw_tasks(tasks, options.split, numbers, options.seed, Phase.EVALUATE, 0)
    return task_with(tasks, options.split, options.task, task) if options.task else task


def _adapter(run: Run, tasks: TaskDistribution, options: Play) -> tuple[Adapter, str]:
    """Return who is shown, and the name of it."""
    agent, checkpoint = run.load_agent(options.checkpoint)
    if options.baseline is None:
        return agent, f"{run.agent_name}, iteration {checkpoint.iteration},"
    shape = evaluation_shape(agent, tasks, options.episodes_per_trial)
    made = registry.make_baseline(options.baseline, tasks, shape, seed=options.seed)
    return made, options.baseline


@contextmanager
def _outputs(run: Run, options: Play) -> Iterator[list[Path]]:
    """Yield the paths to write; a default one is claimed, and freed again after an error."""
    if options.output:
        yield list(options.output)
        return
    folder = run.directory / "play"
    folder.mkdir(exist_ok=True)
    claimed = claim_file(folder / f"{options.split}-{options.number}.gif")
    try:
        yield [claimed]
    except BaseException:
        claimed.unlink(missing_ok=True)
        raise


def _tell(episode: Played) -> None:
    steps = f"{episode.steps} step{'s' * (episode.steps != 1)}"
    console.print(
        f"episode {episode.number + 1}, {episode.adaptation}: return {episode.total:.2f} in {steps}"
    )
    if not episode.same:
        console.print(
            "warning: the environment did something else when it took the same seed and actions "
            "again, so that the film shows another episode than the agent met"
        )

"""Evaluate the agent of a run: table, picture, files, videos, Meta-World's protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from metarl.console import console, ticker
from metarl.constraints import AtLeast, validate
from metarl.errors import bad_option, require_seed
from metarl.evaluation.curve import AdaptationCurve, Score
from metarl.evaluation.drawn_tasks import default_tasks, evaluation_tasks
from metarl.evaluation.evaluate import (
    conditions_of,
    evaluate_adaptation,
    evaluation_shape,
    evaluation_slots,
)
from metarl.evaluation.metaworld import (
    OfficialResult,
    can_be_official,
    evaluate_officially,
    official_steps,
)
from metarl.evaluation.plotting import Line, plot_adaptation
from metarl.evaluation.points import Unfinished
from metarl.evaluation.report import print_adaptation
from metarl.evaluation.tables import conditions_text
from metarl.evaluation.video import check_can_record, record_adaptation
from metarl.experience.agent import Adapter, Agent
from metarl.experience.rollout import torch_threads
from metarl.files import write_json
from metarl.running.checkpoints import Checkpoint, Which
from metarl.running.folders import evaluation_name
from metarl.running.machine import check_device
from metarl.running.reading import validation_over_training
from metarl.running.run import Run
from metarl.stepping.disturbances import Disturbances
from metarl.stepping.options import SharedEnvs, Workers
from metarl.task import Split
from metarl.tasks.distribution import TaskDistribution

UNTRAINED_TASKS = 1000
"""The largest number of tasks that the untrained agent is evaluated on."""


@dataclass(frozen=True)
class EvaluateConfig:
    """What to evaluate, and how."""

    split: Split = "test"
    """Tasks to evaluate on: held-out `test` tasks, `validation` tasks, or those of `train`."""
    evaluation_tasks: Annotated[int, AtLeast(1)] | None = None
    """Number of tasks (default: as many as the first run's own evaluation has)."""
    episodes_per_trial: Annotated[int, AtLeast(1)] | None = None
    """Number of episodes that the agent has with each task (default: as many as in training for
    agents that learn while they act, four rounds for others)."""
    seed: int = 0
    """Number from which tasks, episodes and actions are derived."""
    greedy: bool = False
    """Take the most likely actions instead of sampling them."""
    score: Score = "adapting-episodes"
    """Episodes whose returns are measured: `adapting-episodes` takes those that the agent also
    adapts with; `greedy-copy` takes a greedy episode of a copy of the agent at every point."""
    change_task_after: Annotated[int, AtLeast(0)] | None = None
    """Number of episodes of a trial after which its task becomes another one, without a notice to
    the agent; 0 for never (default: as in training)."""
    disturbances: Disturbances = field(default_factory=Disturbances)
    """What comes between the environments and the agent."""
    checkpoint: Which = "final"
    """State of the agent: the `final` checkpoint, or the `best` one on validation tasks."""
    official: bool = False
    """Run Meta-World's own evaluation too, which takes 1.3 million of its steps on ml10."""
    video: Annotated[int, AtLeast(0)] = 0
    """Number of tasks to film, in mp4 files before and after adaptation."""
    device: str = "cpu"
    """Device of the agent's tensors: `cpu`, `cuda`, or `cuda:1` for the second GPU."""
    output: Path | None = None
    """Folder for the files (default: the folder `evaluation` of the run; `comparison`, `controls`
    or `robustness` of the first run for tables of these)."""
    workers: Workers = field(default_factory=Workers)
    """How environments are stepped."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be used."""
        validate(self)
        require_seed("--seed", self.seed)

    def conditions(self) -> dict[str, Any]:
        """Return what distinguishes the evaluation from a plain one."""
        return conditions_of(self.disturbances, self.change_task_after or 0)


class Subject(NamedTuple):
    """An agent, and two of its states."""

    agent: Agent
    """The agent, in the state that is evaluated."""
    saved: Checkpoint
    """The state that is evaluated."""
    initial: Checkpoint
    """The state before the first update."""


@torch_threads(1)
def evaluate(
    run: Run, config: EvaluateConfig | None = None, *, tasks: TaskDistribution | None = None
) -> AdaptationCurve:
    """Evaluate a run's agent beside an untrained one; write table, picture, JSON and arrays.

    The run's own evaluation writes ``<split>.json``, ``.npz`` and ``.png``. Any other one writes
    files whose name says what differs (:func:`evaluation_name`), so that none replaces another.
    The untrained agent is the same one before its first update. It meets the first of the same
    tasks, at most 1000, and its files end with ``-untrained``. ``official`` adds
    ``…-official.json``, and ``video`` adds mp4 files.

    Args:
        run: the run whose agent is evaluated.
        config: the options.
        tasks: other tasks of the same spaces, by default the run's own.

    Returns:
        The trained agent's adaptation curve.

    Raises:
        UserError: if the options cannot work; this is checked before any evaluation.
        OSError: if the files cannot be written; the table is printed nevertheless.
    """
    config = as_trained(config or EvaluateConfig(), [run])
    check_device(config.device)
    tasks = tasks or run.make_tasks()
    _refuse_impossible(run, tasks, config)
    saved = run.checkpoint(config.checkpoint)
    agent = run.make_agent(config.device)
    initial = Checkpoint.of(agent, 0, 0)
    run.restore(agent, saved)
    with closing(SharedEnvs(config.workers, tasks)) as envs:
        return evaluate_subject(run, Subject(agent, saved, initial), tasks, config, envs)


def as_trained(config: EvaluateConfig, runs: Sequence[Run]) -> EvaluateConfig:
    """Return options in which the task changes as in the training of ``runs``, unless they say so.

    Raises:
        UserError: if it is left open and differs between the runs.
    """
    if config.change_task_after is not None:
        return config
    trained = {run.train_config.change_task_after for run in runs}
    if len(trained) > 1:
        accepted = f"a number, since the runs were trained with {sorted(trained)}"
        raise bad_option("--change-task-after", None, accepted)
    return dataclasses.replace(config, change_task_after=trained.pop())


def _refuse_impossible(run: Run, tasks: TaskDistribution, config: EvaluateConfig) -> None:
    config.disturbances.require_effect(tasks, tasks.horizon)
    for name, given in (("--official", config.official), ("--video", config.video)):
        if given and config.conditions():
            said = conditions_text(config.conditions())
            raise bad_option(name, given, f"an evaluation without {said}")
    if config.official and not can_be_official(tasks):
        raise bad_option("--official", tasks.name, "tasks of Meta-World")
    if config.video:
        check_can_record(tasks)
    run.require_spaces(tasks)


def evaluate_subject(
    run: Run,
    subject: Subject,
    tasks: TaskDistribution,
    config: EvaluateConfig,
    envs: SharedEnvs,
) -> AdaptationCurve:
    """Evaluate an agent that exists already, as :func:`evaluate` does.

    Args:
        run: the run of the agent.
        subject: the agent, which is in its saved state before and after.
        tasks: the tasks.
        config: the options.
        envs: environments of ``tasks``.

    Returns:
        The trained agent's adaptation curve.
    """
    agent, saved, initial = subject
    config = as_trained(config, [run])
    split, seed = config.split, config.seed
    label, num_tasks = name_evaluation(run, agent, tasks, config)
    folder = config.output or run.results / "evaluation"
    writing = Writing(folder)

    def measured(name: str, title: str, state: Checkpoint, count: int) -> AdaptationCurve:
        curve = measure(
            agent,
            tasks,
            config,
            envs,
            title=title,
            num_tasks=count,
            num_episodes=config.episodes_per_trial,
        )
        curve = with_state(curve, run, state, config)
        with writing:
            curve.save(folder, name)
        return curve

    curve = measured(label, "evaluating", saved, num_tasks)
    initial.load_into(agent)
    few = min(num_tasks, UNTRAINED_TASKS)
    reference = measured(f"{label}-untrained", "untrained agent", initial, few)
    envs.close()  # Videos and Meta-World's evaluation make their own.
    saved.load_into(agent)
    trained, untrained = curve.summary(), reference.summary()
    print_adaptation(trained, untrained)
    for line in validation_over_training(run):
        console.print(line)
    picture = folder / f"{label}.png"
    lines = [Line(run.agent_name, trained), Line("untrained", untrained, reference=True)]
    with writing:
        plot_adaptation(lines, picture)
        console.print(f"picture: {picture}")
    if config.video:
        shown = evaluation_tasks(tasks, split=split, num_tasks=config.video, seed=seed)
        last = curve.episodes[-1]
        with writing:
            for path in record_adaptation(
                agent, tasks, shown, folder, name=f"{label}-video", episodes=last, seed=seed
            ):
                console.print(f"video: {path}")
    if config.official:
        result = _evaluate_officially(agent, tasks, split, seed, trained)
        with writing:
            write_json(folder / f"{label}-official.json", result.summary())
    writing.check()
    return curve


def name_evaluation(
    run: Run, agent: Agent, tasks: TaskDistribution, config: EvaluateConfig
) -> tuple[str, int]:
    """Return the name of the files of a run's evaluation, without suffix, and its number of tasks.

    The name consists of what differs from the run's own evaluation (:func:`evaluation_name`).
    """
    own_tasks = run.train_config.evaluation.evaluation_tasks or default_tasks(tasks, config.split)
    num_tasks = config.evaluation_tasks or own_tasks
    own_episodes, episodes = (
        evaluation_shape(agent, tasks, number).num_episodes
        for number in (None, config.episodes_per_trial)
    )
    name = evaluation_name(
        config.split,
        env=None if tasks.name == run.content.get("tasks", run.env) else tasks.name,
        tasks=None if num_tasks == own_tasks else num_tasks,
        episodes=None if episodes == own_episodes else episodes,
        seed=config.seed,
        greedy=config.greedy,
        greedy_copy=config.score == "greedy-copy",
        best=config.checkpoint == "best",
        conditions=_named_conditions(run, config),
    )
    return name, num_tasks


def _named_conditions(run: Run, config: EvaluateConfig) -> dict[str, Any]:
    """Return the conditions that differ from those of the run's own evaluation."""
    own, change = run.train_config.change_task_after, config.change_task_after
    said = {} if change in (None, own) else {"change_task_after": change}
    return {**said, **config.disturbances.conditions()}


def measure(
    adapter: Adapter,
    tasks: TaskDistribution,
    config: EvaluateConfig,
    envs: SharedEnvs,
    *,
    title: str,
    num_tasks: int,
    num_episodes: int | None,
    unfinished: Unfinished | None = None,
) -> AdaptationCurve:
    """Measure the adaptation curve of an agent in its present state, and show the progress.

    Args:
        adapter: the agent, or anything else that adapts.
        tasks: the tasks.
        config: the options; the numbers of tasks and episodes there are not used.
        envs: environments of ``tasks``.
        title: the words before the progress.
        num_tasks: the number of tasks.
        num_episodes: the number of episodes of a trial (default: see :func:`evaluation_shape`).
        unfinished: where the points of finished tasks are kept; they are not measured again.
    """
    slots = evaluation_slots(adapter, tasks, num_tasks, config.workers, num_episodes=num_episodes)
    done = 0 if unfinished is None else sum(map(len, unfinished.read()))
    with ticker(title, num_tasks, unit="tasks", done=done) as progress:
        return evaluate_adaptation(
            adapter,
            tasks,
            split=config.split,
            num_tasks=num_tasks,
            num_episodes=num_episodes,
            seed=config.seed,
            greedy=config.greedy,
            score=config.score,
            workers=config.workers,
            envs=envs.sized(slots),
            disturbances=config.disturbances,
            change_task_after=config.change_task_after or 0,
            advance=progress.advance,
            unfinished=unfinished,
        )


def with_state(
    curve: AdaptationCurve, run: Run, state: Checkpoint, config: EvaluateConfig
) -> AdaptationCurve:
    """Return a curve that says which agent it is of, and in which state."""
    return dataclasses.replace(
        curve,
        agent=run.agent_name,
        iteration=state.iteration,
        env_steps=state.env_steps,
        checkpoint=config.checkpoint,
    )


class Writing:
    """Postpones errors of writing files, so that an evaluation still prints its table."""

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
        """Raise an OSError that says what to do, if a file could not be written."""
        if self._error is not None:
            raise OSError(
                f"{self._folder}: the evaluation cannot be written there ({self._error}); "
                "--output FOLDER chooses another place"
            ) from self._error


def _evaluate_officially(
    agent: Agent,
    tasks: TaskDistribution,
    split: Split,
    seed: int,
    summary: Mapping[str, Any],
) -> OfficialResult:
    """Run Meta-World's own evaluation, and print how its numbers differ from the table's."""
    steps = official_steps(tasks, split)
    console.print(f"official evaluation: up to {steps:,} steps of the official environments")
    with ticker("official evaluation", steps, unit="steps") as progress:
        result = evaluate_officially(agent, tasks, split=split, seed=seed, advance=progress.advance)
    success = summary["success"]["mean"]
    console.print(
        f"per-goal: success {success[0]:.3f} before and {success[-1]:.3f} after "
        f"{summary['episodes'][-1]} episodes: every goal counts equally, and success at any step\n"
        f"official: success {result.success:.3f}: metaworld.evaluation stops episodes at success "
        "and counts those that end first among the slots of a class, so that quick successes "
        "count more than once\nofficial, by class: "
        + ", ".join(f"{name} {rate:.3f}" for name, rate in result.by_class.items())
    )
    return result

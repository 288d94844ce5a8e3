"""The run directory: what was asked for, on what, and where its results lie."""

from __future__ import annotations

import dataclasses
import platform
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, cast

import torch

from metarl import registry, seeding
from metarl.checkpoints import (
    Checkpoint,
    CheckpointStore,
    Which,
    create_json,
    remove_leftovers,
    space_from_json,
    space_to_json,
    write_json,
)
from metarl.effects import warn_of_tasks
from metarl.errors import DivergenceError, EnvError, UserError, bad_option
from metarl.evaluation import (
    AdaptationCurve,
    Measure,
    default_tasks,
    evaluate_adaptation,
    evaluation_tasks,
    read_summary,
    trial_episodes,
)
from metarl.logging import console, import_wandb, print_adaptation, read_metrics, ticker
from metarl.official import (
    OfficialResult,
    can_be_official,
    evaluate_officially,
    official_steps,
)
from metarl.plotting import Line, Paths, plot_adaptation, plot_learning, plot_paths
from metarl.rollout import Agent, Keys, one_thread, require_spaces, run_trial, trial_rounds
from metarl.seeding import Phase
from metarl.settings import (
    NewFolder,
    claim_file,
    dataclass_of,
    default_directory,
    evaluation_name,
    members,
    read_settings,
    refuse_used,
    settings,
    used,
)
from metarl.spaces import reported_space
from metarl.tasks import SPLIT_NAMES, Split, TaskDistribution
from metarl.training import TrainConfig, meta_train
from metarl.video import check_can_record, record_adaptation
from metarl.workers import usable_cores

CHECK_SECONDS = 3.0
"""Time that a new run spends on stepping environments to see whether its tasks differ."""

_PACKAGES = ("torch", "numpy", "gymnasium", "mujoco", "metarl-toolkit")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory and the content of its ``config.json``."""

    directory: Path
    config: dict[str, Any]
    named_agent: str | None = None
    """An agent's ``package.module:Name`` that the user has given, not a file."""
    folder: NewFolder | None = None
    """What this process has made for it, where it began it."""

    @staticmethod
    def create(
        config: TrainConfig,
        agent: str,
        agent_config: Any,
        tasks: TaskDistribution,
        derived: Sequence[str] = (),
    ) -> Run:
        """Make the directory; one that exists and is not empty is never written into."""
        return Run.draft(config, agent, agent_config, tasks, derived).begin()

    @staticmethod
    def draft(
        config: TrainConfig,
        agent: str,
        agent_config: Any,
        tasks: TaskDistribution,
        derived: Sequence[str] = (),
    ) -> Run:
        """Describe a run, of which nothing is on the disk before :meth:`begin`."""
        directory = config.run_dir or default_directory(config, agent, str(config.seed))
        content = {
            **settings(config, agent, agent_config, derived),
            "id": secrets.token_hex(4),
            "tasks": tasks.name,
            "spaces": {
                "observation": space_to_json(reported_space(tasks.observation_space)),
                "action": space_to_json(tasks.action_space),
            },
            "horizon": tasks.horizon,
            "command": " ".join(sys.argv),
            "commit": commit(),
            "python": platform.python_version(),
            "packages": {name: metadata.version(name) for name in _PACKAGES},
            "device": device_name(config.device),
        }
        if config.run_dir is not None:
            content["train_config"]["run_dir"] = str(directory)
        return Run(directory, content, agent)

    def begin(self) -> Run:
        """Make the directory of a draft and write ``config.json``, each as the only process.

        Raises:
            UserError: where the directory that was named holds something, or another process
                has begun a run there at the same time.
        """
        given = self.config["train_config"]["run_dir"]
        folder = NewFolder.claim(None if given is None else self.directory, self.directory)
        train_config = {**self.config["train_config"], "run_dir": str(folder.path)}
        content = {**self.config, "train_config": train_config}
        try:
            create_json(folder.path / "config.json", content)
        except FileExistsError:
            raise used(folder.path) from None
        except OSError as error:
            folder.abandon()
            raise bad_option(
                "--run-dir", str(folder.path), f"a writable place ({error})"
            ) from error
        remove_leftovers(folder.path)
        return Run(folder.path, content, self.named_agent, folder)

    def remove_unless_begun(self) -> bool:
        """Remove all of a run that this process made and that has trained and saved nothing.

        Returns:
            Whether there is nothing to go on with.
        """
        metrics = self.directory / "metrics.jsonl"
        if self.checkpoints.iterations() or (metrics.exists() and metrics.stat().st_size):
            return False
        if self.folder is not None:
            self.folder.remove()
        return True

    @staticmethod
    def open(directory: Path, agent: str | None = None) -> Run:
        """Read a run directory.

        Args:
            directory: it.
            agent: its agent's ``package.module:Name``, where it is one.

        Raises:
            UserError: where ``directory`` is none.
        """
        path = directory / "config.json"
        if not path.is_file():
            raise UserError(f"{directory}: not a run directory (it has no config.json)")
        content = read_settings(path)
        if "seeds" in content:
            members = ", ".join(str(directory / str(seed)) for seed in content["seeds"])
            raise UserError(f"{directory}: holds the runs of several seeds; name one: {members}")
        if not {"spaces", "command"} <= content.keys():
            raise UserError(f"{path}: settings, of no run (train.py --config takes them)")
        run = Run(directory, content, agent)
        if agent is not None and agent != run.agent_name:
            raise bad_option("agent", agent, f"{run.agent_name}, which {directory} is of")
        return run

    def record(self, config: TrainConfig) -> None:
        """Write what a resumed run was asked for into ``config.json``."""
        values = {**dataclasses.asdict(config), "run_dir": str(self.directory)}
        if values != self.config["train_config"]:
            self.config["train_config"] = values
            write_json(self.directory / "config.json", self.config)

    @property
    def agent_name(self) -> str:
        """The agent's name in the registry."""
        return str(self.config["agent"])

    @property
    def env(self) -> str:
        """The task distribution's name."""
        return str(self.config["train_config"]["env"])

    @property
    def train_config(self) -> TrainConfig:
        """What was asked of the training."""
        values = {**self.config["train_config"], "run_dir": None}
        config: TrainConfig = dataclass_of(TrainConfig, values, self._settings_path)
        return dataclasses.replace(config, run_dir=self.directory)

    @property
    def agent_class(self) -> Any:
        """The agent's class; a user's own module is imported only where the user names it."""
        if registry.is_import(self.agent_name) and self.named_agent != self.agent_name:
            raise UserError(
                f"{self.directory}: its agent is {self.agent_name}, which is not imported because "
                f"a file says so: name it again ({self.agent_name} after train.py, --agent "
                f"elsewhere, agent= in Python)"
            )
        return registry.agent_class(self.agent_name)

    @property
    def agent_config(self) -> Any:
        """The agent's config, as its dataclass."""
        values = self.config["agent_config"]
        return dataclass_of(self.agent_class.Config, values, self._settings_path)

    @property
    def _settings_path(self) -> Path:
        """The file of the settings, which may be of no run."""
        return self.directory if self.directory.is_file() else self.directory / "config.json"

    def for_another_run(self) -> tuple[TrainConfig, Any]:
        """Return the settings for a run of its own, derived fields open again."""
        given = self.config["agent_config"]
        values = {k: v for k, v in given.items() if k not in self.config.get("derived", ())}
        agent_config = dataclass_of(self.agent_class.Config, values, self._settings_path)
        return dataclasses.replace(self.train_config, run_dir=None), agent_config

    @property
    def checkpoints(self) -> CheckpointStore:
        """Where the agent's states are saved."""
        return CheckpointStore(self.directory / "checkpoints", self.train_config.keep_checkpoints)

    def make_agent(self, device: str | None = None) -> Agent:
        """Make the agent as it was before training, from the saved spaces alone."""
        spaces = self.config["spaces"]
        agent: Agent = self.agent_class(
            self.agent_config,
            space_from_json(spaces["observation"]),
            space_from_json(spaces["action"]),
            seed=self.train_config.seed,
            device=device or "cpu",
        )
        return agent

    def load_agent(
        self, which: Which = "final", device: str | None = None
    ) -> tuple[Agent, Checkpoint]:
        """Make the agent as it was saved; its ``horizon`` is that of its training."""
        checkpoint = self.checkpoints.load(which)
        agent = self.make_agent(device)
        if "horizon" in self.config:  # runs of earlier versions have none
            cast(Any, agent).horizon = self.config["horizon"]
        try:
            checkpoint.load_into(agent)
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise UserError(
                f"{self.directory}: checkpoint {checkpoint.iteration} does not fit "
                f"{self.agent_name}: {error}"
            ) from error
        return agent, checkpoint

    def evaluated(self, iteration: int) -> bool:
        """Whether the evaluation at the end, of ``iteration``, has been written whole.

        Another number of tasks than is asked for now makes it another evaluation.
        """
        folder = self.directory / "evaluation"
        try:
            read_summary(folder / "test-untrained.json")  # the later of the two
            written = read_summary(folder / "test.json")
        except UserError:
            return False
        asked = self.train_config.evaluation_tasks
        as_asked = asked is None or written.get("num_tasks") == asked
        return bool(written.get("iteration") == iteration and as_asked)

    def resume_command(self) -> str:
        """Return the command that goes on with this run; a user's own modules are named in it."""
        words = ["train.py", "--resume", str(self.directory)]
        if registry.is_import(self.agent_name):
            words.insert(1, self.agent_name)
        if registry.is_import(self.env):
            words += ["--env", self.env]
        return "python scripts/" + shlex.join(words)

    def make_tasks(self) -> TaskDistribution:
        """Make the task distribution by its name; a user's own module is never imported so."""
        if registry.is_import(self.env):
            raise UserError(
                f"{self.directory}: was trained on {self.env}, which is not imported because a "
                f"file says so: name it again with --env {self.env}"
            )
        return registry.make(self.env)


def load(
    directory: str | Path, which: Which = "final", device: str = "cpu", agent: str | None = None
) -> Agent:
    """Load the agent of a run directory, as it was at the end or at its best.

    Loading reads tensors and JSON; it never runs code from them.

    Args:
        directory: the run's.
        which: the last checkpoint, or the best on validation tasks.
        device: where the agent is to run.
        agent: the agent's ``package.module:Name``, where it is one of yours.
    """
    return Run.open(Path(directory), agent).load_agent(which, device)[0]


def check_device(device: str) -> None:
    """Refuse a device that torch does not have."""
    accepted = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.cuda.is_available():
        accepted.append("cuda")
    if device not in accepted:
        raise bad_option("--device", device, f"{', '.join(accepted)} (what this machine has)")


def device_name(device: str) -> str:
    """Return what ``device`` is, for records; threads are a setting of the run."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {len(usable_cores())} cores)"


def commit() -> str | None:
    """Return the commit of this source tree, with a mark where it has been changed."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        if "metarl/runs.py" not in git("ls-files", "--full-name", "runs.py"):
            return None
        return git("rev-parse", "HEAD") + ("-changed" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run as it is about to begin: nothing is left to be decided."""

    config: TrainConfig
    agent: str
    agent_config: Any
    derived: tuple[str, ...]
    """Fields of the agent's config that follow from the run's length."""
    tasks: TaskDistribution

    @staticmethod
    def of(config: TrainConfig, agent: str, agent_config: Any) -> Plan:
        """Decide what is left open.

        Raises:
            UserError: for anything that cannot work.
        """
        check_device(config.device)
        if config.wandb is not None:
            import_wandb()
        tasks = registry.make(config.env)
        space = reported_space(tasks.observation_space)
        probe = registry.agent_class(agent)(
            agent_config, space, tasks.action_space, seed=config.seed
        )
        config = config.resolve(probe, tasks)
        asked = agent_config
        if hasattr(agent_config, "for_iterations"):
            agent_config = agent_config.for_iterations(config.iterations)
        names = [f.name for f in dataclasses.fields(asked)]
        derived = tuple(n for n in names if getattr(asked, n) != getattr(agent_config, n))
        return Plan(config, agent, agent_config, derived, tasks)

    def check(self) -> None:
        """Warn of tasks that make training pointless, unless the run is not to be checked."""
        if self.config.check:
            workers = self.config.num_workers
            one = {"num_workers": 1 if workers is None else min(1, workers)}
            options = self.config.vec_options() | one
            warn_of_tasks(self.tasks, seconds=CHECK_SECONDS, vec_options=options)

    def settings(self) -> dict[str, Any]:
        """Return what ``train.py --config`` takes."""
        return settings(self.config, self.agent, self.agent_config, self.derived)


@one_thread()  # the meta-update alone may use more
def train(
    config: TrainConfig, agent_name: str, agent_config: Any, resume: Run | None = None
) -> Run:
    """Meta-train into a new run directory, or go on with one, and evaluate at the end.

    Raises:
        UserError: for anything that cannot work, before any work is done.
    """
    plan = Plan.of(config, agent_name, agent_config)
    config, tasks = plan.config, plan.tasks
    if resume is None:
        if config.run_dir is not None:
            refuse_used(config.run_dir)  # before anything that takes time
        draft = Run.draft(config, agent_name, plan.agent_config, tasks, plan.derived)
        agent = draft.make_agent(config.device)  # what cannot be made leaves no directory
        plan.check()
        run = draft.begin()
        iteration = env_steps = 0
        console.print(f"{agent_name} on {tasks.name}, seed {config.seed}: {run.directory}")
    else:
        run = resume
        iteration = env_steps = 0
        if run.checkpoints.iterations():
            agent, checkpoint = run.load_agent("final", config.device)
            iteration, env_steps = checkpoint.iteration, checkpoint.env_steps
        else:  # it was stopped before its first checkpoint
            agent = run.make_agent(config.device)
        if iteration > (config.iterations or 0):
            accepted = (
                f"at least {iteration}, which are behind this run (their sum, not more of them)"
            )
            raise bad_option("--iterations", config.iterations, accepted)
        metrics = run.directory / "metrics.jsonl"
        if metrics.exists():
            read_metrics(metrics)  # refuses damage before anything is written
        console.print(f"{run.directory}: goes on after iteration {iteration}")
        run.record(config)
        remove_leftovers(run.directory)
        if iteration == config.iterations:
            console.print("this run is finished: nothing is left to train")
            if run.evaluated(iteration):
                return run
    started = time.perf_counter()
    try:
        if iteration < (config.iterations or 0):
            meta_train(
                agent, tasks, config, run.directory, iteration=iteration, env_steps=env_steps
            )
            console.print(f"trained in {time.perf_counter() - started:.0f} s")
        _evaluate_at_the_end(run, tasks, config)
    except BaseException as error:
        failed_at_once = isinstance(error, UserError | EnvError) and run.remove_unless_begun()
        if not failed_at_once:
            _say_how_to_go_on(run, error)
        raise
    return run


def _evaluate_at_the_end(run: Run, tasks: TaskDistribution, config: TrainConfig) -> None:
    evaluate(
        run,
        tasks=tasks,
        num_tasks=config.evaluation_tasks,
        device=config.device,
        num_workers=config.num_workers,
        env_timeout=config.env_timeout,
        env_restarts=config.env_restarts,
    )


def _say_how_to_go_on(run: Run, error: BaseException) -> None:
    """Say what is saved of a run that ``error`` ends, and the command that goes on with it."""
    saved = run.checkpoints.iterations()
    last = saved[-1] if saved else 0
    lines = [f"iteration {last + 1} was not finished"]
    if last >= (run.train_config.iterations or 0):
        lines = [
            f"training was finished, evaluation not; {last} is saved: {run.checkpoints.directory}"
        ]
    elif saved:
        lines[0] += f"; {last} is saved: {run.checkpoints.directory / f'{last:07d}'}"
    if isinstance(error, DivergenceError):
        lines.append("the same seed diverges there again; another setting may not:")
        lines.append(f"python scripts/train.py --config {run.directory / 'config.json'} …")
    else:
        lines.append(f"go on with: {run.resume_command()}")
    print("\n".join(lines), file=sys.stderr, flush=True)


@one_thread()
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
    own = {f"{k}_space": space_from_json(space) for k, space in run.config["spaces"].items()}
    spaces = tasks.observation_space, tasks.action_space
    require_spaces(SimpleNamespace(**own), *spaces, f"--env: {tasks.name}")
    own_tasks = run.train_config.evaluation_tasks or default_tasks(tasks, split)
    num_tasks = own_tasks if num_tasks is None else num_tasks
    agent, saved = run.load_agent(checkpoint, device)
    own_episodes, episodes = (
        trial_episodes(agent, tasks, number) for number in (None, num_episodes)
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


def plot(
    paths: Sequence[Path],
    kind: Literal["adaptation", "learning", "paths"],
    output: Path | None = None,
    *,
    metric: str = "return",
    split: Split = "test",
    env: str | None = None,
    agent: str | None = None,
) -> Path:
    """Draw the evaluations or the training of several runs into one picture.

    Args:
        paths: run directories and, for adaptation curves, files of evaluations: an ``.json``
            whose untrained agent's lies beside it.
        kind: what is drawn.
        output: the picture, by default ``comparison.png`` or the next free name like it.
        metric: of adaptation curves.
        split: whose evaluation of a run is drawn.
        env: the run's tasks, where they are a module of yours (paths are walked anew).
        agent: the run's agent, where it is a module of yours.

    Returns:
        Where the picture is.

    Raises:
        UserError: where a path is no run, or has not what is to be drawn.
    """
    if not paths:
        raise bad_option("RUNS", [], "one run directory or more")
    if output is not None and output.suffix not in (".png", ".pdf", ".svg"):
        raise bad_option("--output", str(output), "a name that ends with .png, .pdf or .svg")
    if metric != "return" and kind != "adaptation":
        raise bad_option("--metric", metric, "return for --kind learning and paths")
    files = [path for path in paths if path.suffix == ".json" and path.is_file()]
    if files and kind != "adaptation":
        raise bad_option("RUNS", str(files[0]), f"run directories for --kind {kind}")
    if kind == "adaptation":
        lines = _adaptation_lines(paths, metric, split, agent)
        return _draw(output, lambda target: plot_adaptation(lines, target, metric))
    runs = [Run.open(each, agent) for path in paths for each in members(path)]
    if kind == "learning":
        curves = [read_metrics(run.directory / "metrics.jsonl") for run in runs]
        named = list(zip(_labels([_source(run) for run in runs]), curves, strict=True))
        envs = ", ".join(sorted({run.env for run in runs}))
        return _draw(output, lambda target: plot_learning(named, target, envs))
    if len(runs) > 1:
        raise bad_option("RUNS", [str(path) for path in paths], "one run for --kind paths")
    tasks = registry.make(env) if env else runs[0].make_tasks()
    return _draw(output, lambda target: _plot_paths(runs[0], tasks, target, split))


def _draw(output: Path | None, draw: Callable[[Path], None]) -> Path:
    """Draw into ``output``, or into a file that no other process draws into."""
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


def _adaptation_lines(
    paths: Sequence[Path], metric: str, split: Split, agent: str | None
) -> list[Line]:
    """Read the evaluations that are to be drawn, each with its untrained agent's."""
    sources, files = [], []
    for path in paths:
        if path.suffix == ".json" and path.is_file():
            files.append(path)
            sources.append(_source_of_file(path, agent))
            continue
        for directory in members(path):
            files.append(directory / "evaluation" / f"{split}.json")
            sources.append(_source(Run.open(directory, agent)))
    lines = []
    for file, label in zip(files, _labels(sources), strict=True):
        summary = read_summary(file)
        if summary.get(metric) is None:
            raise bad_option("--metric", metric, f"return (no success in {file})")
        untrained = read_summary(file.with_name(f"{file.stem}-untrained.json"))
        lines += [Line(label, summary), Line("untrained", untrained, reference=True)]
    return lines


def _plot_paths(
    run: Run, tasks: TaskDistribution, output: Path, split: Split, num_tasks: int = 4
) -> None:
    """Draw a few tasks' paths before adaptation and after each stage of it."""
    batch = tasks.sample(seeding.numpy_generator(0, Phase.USE), num_tasks, split)
    if tasks.observation_space.shape != (2,) or "goal" not in dict(batch[0].params):
        raise bad_option("--kind", "paths", f"tasks with a goal in the plane, not {tasks.name}")
    agent, checkpoint = run.load_agent()
    spaces = tasks.observation_space, tasks.action_space
    require_spaces(agent, *spaces, f"--env: {tasks.name}")
    each = agent.episodes_per_adaptation
    adaptations, per_round = trial_rounds(agent, tasks.episodes_per_trial)
    envs = tasks.make_vec(num_tasks * (1 if agent.sequential else per_round), num_workers=0)
    trial = run_trial(
        agent,
        envs,
        batch,
        num_adaptations=0 if each is None else max(3, adaptations),
        episodes_per_round=per_round,
        keys=Keys.of(0, Phase.USE, 0, num_tasks),
    )
    envs.close()
    if each is None:  # a stage is an episode
        stages = {k: [(trial.rounds[0], k)] for k in sorted({0, 1, 2, per_round - 1})}
    else:  # a stage is a round, of which five episodes are drawn
        stages = {
            k * each: [(episodes, e) for e in range(min(5, each))]
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


class _Source(NamedTuple):
    """What can tell one line of a picture from another."""

    agent: str
    env: str
    seed: str
    name: str
    path: Path


def _source(run: Run) -> _Source:
    seed = f"seed {run.train_config.seed}"
    return _Source(run.agent_name, run.env, seed, run.directory.name, run.directory)


def _source_of_file(file: Path, agent: str | None) -> _Source:
    """Return the source of an evaluation's file, which may lie in its run's directory or not."""
    directory = file.parent.parent
    if file.parent.name == "evaluation" and (directory / "config.json").is_file():
        run = _source(Run.open(directory, agent))
        return run._replace(name=f"{run.name}/{file.stem}", path=file)
    summary = read_summary(file)
    return _Source(summary["agent"], summary["env"], "", file.stem, file)


def _labels(sources: Sequence[_Source]) -> list[str]:
    """Name each source by what tells it apart: agent, then environment, seed, name, path."""
    used = [i for i in range(3) if i == 0 or len({source[i] for source in sources}) > 1]
    labels = [", ".join(str(source[i]) for i in used if source[i]) for source in sources]
    if len(set(labels)) < len(labels):
        labels = [f"{label}, {x.name}" for label, x in zip(labels, sources, strict=True)]
    if len(set(labels)) < len(labels):
        labels = [f"{label} ({x.path})" for label, x in zip(labels, sources, strict=True)]
    return labels

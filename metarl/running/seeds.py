"""The same training with several seeds: a process each, side by side, and one evaluation of all."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from metarl import registry
from metarl.console import console
from metarl.errors import SeedsError, UserError
from metarl.evaluation.curve import (
    Summary,
    first_row,
    read_summary,
    summarize_metrics,
    summarize_returns,
)
from metarl.evaluation.plotting import Line, plot_adaptation
from metarl.evaluation.report import print_adaptation
from metarl.files import create_json, write_json
from metarl.running.folders import NewFolder, default_directory, refuse_used, used
from metarl.running.run import Run
from metarl.running.settings import Settings, read_settings, train_config_of
from metarl.running.train import CHECK_SECONDS, prepare
from metarl.stepping.workers import usable_cores
from metarl.tasks.effects import warn_of_tasks

_CHILD = "from metarl.running.commandline import child; child()"

RESAMPLES = 2000

_COMMON = (
    *("env", "split", "seed", "score", "actions", "checkpoint"),
    *("num_tasks", "episodes", "iteration"),
)
"""What evaluations must share to be one."""


def train_seeds(settings: Settings, seeds: Sequence[int]) -> dict[str, Any]:
    """Train once with each seed, as many side by side as there are cores, and evaluate all.

    Each run has a directory of its own, named by its seed, in the directory of the settings; the
    evaluation of all of them is beside these.

    Args:
        settings: what all runs share.
        seeds: the seed of each run.

    Returns:
        The summary of all evaluations on held-out tasks.

    Raises:
        UserError: for anything that cannot work, before any work is done.
        SeedsError: if a run failed.
    """
    given = settings.train.run.directory
    settings, tasks, _ = prepare(settings)
    label = "seeds-" + "-".join(map(str, seeds))
    if given is not None:
        refuse_used(given)  # before anything that takes time
    if settings.train.check:
        workers = settings.train.workers
        one = dataclasses.replace(workers, num_workers=1 if workers.num_workers != 0 else 0)
        with closing(one.make_vec(tasks, 2)) as envs:
            warn_of_tasks(tasks, seconds=CHECK_SECONDS, envs=envs)
    folder = NewFolder.claim(given, default_directory(settings.train, settings.agent, label))
    runs: list[Run] = []
    try:
        for seed in seeds:
            own = settings.with_train(seed=seed, run_dir=folder.path / str(seed))
            runs.append(Run.create(own, tasks))
        content = {**settings.to_json(), "seeds": list(seeds)}
        create_json(folder.path / "config.json", content)
    except BaseException as error:
        for run in runs:
            run.remove_unless_begun()
        folder.abandon()
        if isinstance(error, FileExistsError):  # another process was faster
            raise used(folder.path) from None
        raise
    return resume_seeds(folder.path, new=folder)


def resume_seeds(
    folder: Path, options: Sequence[str] = (), new: NewFolder | None = None
) -> dict[str, Any]:
    """Go on with every run in ``folder`` that is not finished, and evaluate all.

    Args:
        folder: of several seeds.
        options: of every run's command line.
        new: the folder where this process has made it: it is removed where every run fails
            before its first checkpoint, and not by a signal.
    """
    path = folder / "config.json"
    content = read_settings(path)
    seeds, config = content["seeds"], train_config_of(content, path)
    cores = len(usable_cores())
    at_once = max(1, min(len(seeds), cores // config.torch_threads))
    given = list(options)
    if config.workers.num_workers is None and "--num-workers" not in options:
        share = cores // at_once
        given += ["--num-workers", str(share if share > 1 else 0)]
    named = [content["agent"]] if registry.is_import(content["agent"]) else []
    given += ["--env", config.env] if registry.is_import(config.env) else []
    given += config.own_modules()
    listed, name = ", ".join(map(str, seeds)), content["agent"]
    console.print(f"{name} on {config.env}, seeds {listed}, {at_once} at once: {folder}")
    children: list[_Child] = []
    waiting = list(seeds)
    try:
        while waiting or any(child.running for child in children):
            if waiting and sum(child.running for child in children) < at_once:
                children.append(_Child(folder, waiting.pop(0), [*named, *given]))
            else:
                time.sleep(0.05)
    except BaseException:
        for child in children:
            child.stop()
        for child in children:
            child.wait()
        _say_how_to_go_on(folder, named, given)
        raise
    failed = [child.seed for child in children if child.process.returncode != 0]
    if failed:
        wrong = all(child.process.returncode in (1, 2) for child in children)
        if new and wrong and not any(folder.glob("*/checkpoints/*")):
            new.remove()
        else:
            _say_how_to_go_on(folder, named, given)
        raise SeedsError(f"seeds {', '.join(map(str, failed))} did not come to an end: see above")
    summary, untrained = (summarize_seeds(folder, seeds, x) for x in ("", "-untrained"))
    lines = [Line(name, summary), Line("untrained", untrained, reference=True)]
    picture = folder / "evaluation" / "test.png"
    plot_adaptation(lines, picture)
    console.print(f"seeds {listed} together; intervals are over seeds and tasks")
    print_adaptation(summary, untrained)
    console.print(f"picture: {picture}")
    return summary


def _say_how_to_go_on(folder: Path, named: Sequence[str], options: Sequence[str]) -> None:
    words = ["train.py", *named, "--resume", str(folder), *options]
    command = f"python scripts/{shlex.join(words)}"
    print(f"go on with all of them: {command}", file=sys.stderr, flush=True)


def summarize_seeds(folder: Path, seeds: Sequence[int], suffix: str = "") -> dict[str, Any]:
    """Write ``evaluation/test.json`` of several runs in ``folder``, and return it.

    Every run has met the same tasks. Means and interquartile means are over seeds and tasks;
    intervals are 95% of a bootstrap that draws seeds and, independently, tasks.
    """
    files = [folder / str(seed) / "evaluation" / f"test{suffix}" for seed in seeds]
    summaries = [read_summary(file.with_suffix(".json")) for file in files]
    values: dict[str, list[npt.NDArray[np.float64]]] = {}
    for file, summary in zip(files, summaries, strict=True):
        for key in _COMMON:
            if summary.get(key) != summaries[0].get(key):
                raise UserError(
                    f"{file}.json: {key} is {summary.get(key)!r}, in {files[0]}.json it is "
                    f"{summaries[0].get(key)!r}: evaluate both alike (evaluate.py)"
                )
        try:
            with np.load(file.with_suffix(".npz"), allow_pickle=False) as arrays:
                for name in arrays:
                    if name != "group":
                        values.setdefault(name, []).append(np.atleast_2d(arrays[name]))
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(f"{file}.npz: cannot be read: {error}") from error
    total = values.pop("trial_return", None)
    stacked = {k.removeprefix("info."): np.stack(parts, 1) for k, parts in values.items()}
    result = {
        **summaries[0],
        "seed": list(seeds),
        "seconds": sum(s["seconds"] for s in summaries),
        **summarize_metrics(stacked, summarize_over_seeds),
        "trial_return": None
        if total is None
        else first_row(summarize_returns(np.stack(total, 1), summarize_over_seeds)),
        "groups": None,
        "by_seed": {str(k): s["return"]["mean"] for k, s in zip(seeds, summaries, strict=True)},
    }
    (folder / "evaluation").mkdir(exist_ok=True)
    write_json(folder / "evaluation" / f"test{suffix}.json", result)
    return result


def summarize_over_seeds(values: npt.NDArray[np.floating[Any]]) -> Summary:
    """Return the mean and its 95% interval over seeds and tasks, per point.

    Args:
        values: ``[point, seed, task]``, the same tasks with every seed.
    """
    values = np.asarray(values, np.float64)
    points, seeds, tasks = values.shape
    rng = np.random.default_rng(0)
    by_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
    means = np.empty((points, RESAMPLES))
    for start in range(0, RESAMPLES, 100):  # a resample's weights are as many as tasks
        part = slice(start, start + 100)
        by_task = rng.multinomial(tasks, np.full(tasks, 1 / tasks), 100) / tasks
        means[:, part] = np.einsum("pst,bs,bt->pb", values, by_seed[part], by_task, optimize=True)
    low, high = np.quantile(means, (0.025, 0.975), axis=1)
    return {
        "mean": values.reshape(points, -1).mean(1).tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
    }


class _Child:
    """A process that trains with one seed; what it prints is passed on, a line at a time."""

    def __init__(self, folder: Path, seed: int, options: Sequence[str]) -> None:
        self.seed = seed
        arguments = ["--resume", str(folder / str(seed)), *options]
        if options and not options[0].startswith("-"):  # an agent's name comes first
            arguments = [options[0], *arguments[:2], *options[1:]]
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, *arguments],
            stdin=subprocess.PIPE,  # its end tells the child that this process has gone
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,  # signals reach it from here, once
        )
        self._reader = threading.Thread(target=self._pass_on, daemon=True)
        self._reader.start()

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None or self._reader.is_alive()

    def stop(self) -> None:
        """Let it save what it has; while it still starts, SIGTERM ends it without a word."""
        if self.process.poll() is None:
            self.process.terminate()

    def wait(self) -> None:
        """Return once it has ended, and all that it said has been passed on."""
        self.process.wait()
        self._reader.join()

    def _pass_on(self) -> None:
        for line in self.process.stdout or ():
            console.print(f"[seed {self.seed}] {line.rstrip()}")

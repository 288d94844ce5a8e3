"""Say what a task distribution is: spaces, splits, parameters, and who can be trained on it."""

from __future__ import annotations

import copy
import re
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
from PIL import Image
from tyro.conf import Positional

from metarl import registry, seeding
from metarl.console import console
from metarl.constraints import AtLeast, validate
from metarl.errors import UserError, bad_option, require_seed
from metarl.evaluation.cameras import prepare_rendering
from metarl.evaluation.sheets import contact_sheet
from metarl.experience.agent import TaskSpec, TrialShape
from metarl.files import replacing
from metarl.running.folders import claim_file
from metarl.running.parsing import command_line, parse
from metarl.running.presets import presets
from metarl.seeding import Phase
from metarl.stepping.actions import ActionRows
from metarl.stepping.slots import close_quietly
from metarl.task import SPLIT_NAMES, SPLITS, Task
from metarl.tasks.distribution import TaskDistribution
from metarl.tasks.effects import warn_of_tasks
from metarl.tasks.functions import ParametricTasks, measured
from metarl.tasks.parameters import (
    SAMPLED,
    Parameter,
    finite_tasks,
    parameters_of,
    short_task,
)
from metarl.tasks.ranges import text_of
from metarl.tasks.varying import bare

EXAMPLES = 3
"""How many tasks of each split are shown."""

_LONG = re.compile(r"\d+\.\d{5,}")
"""Numbers with more digits than a reader needs."""

SPEED_SECONDS = 0.5
"""How long the speed of stepping is measured."""

CHECK_SECONDS = 3.0
"""How long parameters are tried for an effect."""

_WIDTH = len("validation task")
"""The width of the first column."""

STEPS = 8
"""Random steps before a picture, unless another number is asked for."""

FRAMES = 9
"""How many tasks are in a contact sheet."""


@dataclass(frozen=True)
class Describe:
    """Options of ``metarl describe``."""

    env: Positional[str]
    """Name of the tasks: one of `metarl train --list`, `gym/Id:name=low..high`, or
    `package.module:Name` for one of yours."""
    frames: bool = False
    """Also write a picture of nine training tasks, with their parameters."""
    output: Path | None = None
    """File of the picture, .png (default: tasks.png in the current folder, or the next free name);
    only with `--frames`."""
    steps: Annotated[int, AtLeast(0)] | None = None
    """Number of random steps that are taken in each task before its picture (default: 8); only
    with `--frames`."""
    seed: int = 0
    """Number from which the tasks that are shown are drawn."""
    measure: bool = True
    """Also step the tasks for a few seconds: how fast they are, how much memory an environment
    takes, and whether they keep their contract."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be used."""
        validate(self)
        require_seed("--seed", self.seed)
        for name, given in (("--output", self.output), ("--steps", self.steps)):
            if given is not None and not self.frames:
                raise bad_option(name, str(given), "--frames beside it")
        if self.output is not None and self.output.suffix != ".png":
            raise bad_option("--output", str(self.output), "a name that ends with .png")


_HELP = """\
Say what tasks there are: spaces, episodes, splits, parameters, and who can be trained on them.

usage: metarl describe ENV [--frames] [--output FILE.png] [--no-measure] [options]
       metarl describe gym/Id      what can vary in a Gymnasium environment"""


def run_describe(arguments: Sequence[str]) -> None:
    """Describe a task distribution, and draw some of its tasks."""
    options = parse(Describe, _HELP, "describe", arguments)
    if options.frames:
        prepare_rendering("--frames")
    base, text = registry.split_name(options.env)
    if base.startswith("gym/") and not text:
        if options.frames:
            raise bad_option("--frames", True, f"tasks, {options.env}:name=low..high")
        console.print("\n".join(bare_description(options.env)))
        return
    tasks = registry.make(options.env)
    console.print("\n".join(description(tasks, options.seed)))
    if options.measure:
        console.print("\n".join(measurements(tasks)))
    if options.frames:
        steps = STEPS if options.steps is None else options.steps
        console.print(f"picture: {draw(tasks, options.output, steps, options.seed)}")


def description(tasks: TaskDistribution, seed: int = 0) -> list[str]:
    """Return lines that say what a task distribution is.

    Args:
        tasks: the distribution.
        seed: the seed of the tasks that are shown as examples.
    """
    rows: list[tuple[str, str]] = []
    own = type(tasks).__doc__
    rows += [("what", own.strip().splitlines()[0].replace("``", ""))] if own else []
    rows += [
        ("observations", space_text(tasks.observation_space)),
        ("actions", space_text(tasks.action_space)),
        ("episode", f"at most {tasks.horizon} step{'s' * (tasks.horizon != 1)}"),
        ("trial", _episodes(tasks)),
        ("reported", ", ".join(tasks.reported_keys) or "nothing but rewards"),
        ("tasks", _counts(tasks)),
        *(("parameter", line) for line in _parameters(tasks)),
    ]
    for number, split in enumerate(SPLITS):
        rng = seeding.numpy_generator(seed, Phase.USE, number)
        drawn = tasks.sample(rng, EXAMPLES, split)
        rows += [(f"{SPLIT_NAMES[split]} task", short_task(task)) for task in drawn]
    names = {
        "agents": _working(registry.agents(), lambda name: _make_agent(name, tasks)),
        "baselines": _working(registry.baselines(), lambda name: _make_baseline(name, tasks)),
        "presets": _presets(tasks),
    }
    rows += [(kind, ", ".join(found) or "none") for kind, found in names.items()]
    preset = names["presets"][:1]
    words = ["--preset", *preset] if preset else [*names["agents"][:1], "--env", tasks.name]
    rows += [("to train", command_line("train", *words))]
    return _lines(tasks.name, rows)


def bare_description(name: str) -> list[str]:
    """Return lines that say what can vary in a Gymnasium environment.

    Args:
        name: ``gym/Id`` or ``gym/module:Id``.
    """
    found = bare(name.removeprefix("gym/"))
    rows = [
        ("observations", space_text(found.env.observation_space)),
        ("actions", space_text(found.env.action_space)),
        ("episode", "no limit of its own" if found.horizon is None else f"{found.horizon} steps"),
        *(("can vary", str(each)) for each in found.varying),
    ]
    examples = [each.example for each in found.varying if each.example]
    numbers = [example for example in examples if ".." in example]
    if examples:
        horizon = "" if found.horizon else ",horizon=100"
        words = "describe", f"{name}:{[*numbers, *examples][0]}{horizon}"
        rows += [("for example", command_line(*words))]
    return _lines(name, rows)


def measurements(tasks: TaskDistribution) -> list[str]:
    """Return lines that say how fast tasks are, what they take, and what is wrong with them.

    Args:
        tasks: the distribution; its environments are stepped for a few seconds.
    """
    rows = [("speed", f"{_speed(tasks):,.0f} steps/s in one process, random actions")]
    if not tasks.array_functions:
        env, size = measured(tasks.name, lambda: tasks.make(_one_task(tasks)))
        close_quietly(env)
        words = f"{size / 2**20:.1f}" if size >= 0.1 * 2**20 else "below 0.1"
        rows += [("memory", f"{words} MiB for the first environment")]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_tasks(tasks, seconds=CHECK_SECONDS)
    found = [str(each.message).removeprefix(f"{tasks.name}: ") for each in caught]
    rows += [("check", line) for line in found or ["every parameter changes something"]]
    return _lines(None, rows)


def _speed(tasks: TaskDistribution) -> float:
    """Return how many steps a second a process makes, of as many slots as are cheap to make."""
    slots = 64 if tasks.array_functions else 1
    space = copy.deepcopy(tasks.action_space)
    space.seed(0)
    rows = ActionRows(space)
    actions = [np.stack([rows.row(space.sample()) for _ in range(slots)]) for _ in range(10)]
    with closing(tasks.make_vec(slots, num_workers=0)) as envs:
        batch = tasks.sample(np.random.default_rng(0), slots, "train")
        envs.reset(seed=0, options={"tasks": batch})
        count, started = 0, time.perf_counter()
        while (taken := time.perf_counter() - started) < SPEED_SECONDS:
            _, _, terminated, truncated, _ = envs.step(actions[count % 10])
            count += 1
            if (ended := terminated | truncated).any():
                envs.reset(options={"reset_mask": ended})
    return count * slots / taken


def _one_task(tasks: TaskDistribution) -> Task:
    return tasks.sample(np.random.default_rng(0), 1, "train")[0]


def _lines(title: str | None, rows: Sequence[tuple[str, str]]) -> list[str]:
    """Return rows below a title; without one they go on below others."""
    lines = [f"  {name:{_WIDTH}}  {text}" for name, text in rows]
    return lines if title is None else [title, *lines]


def space_text(space: gym.Space[Any]) -> str:
    """Return a space in a few words, also if it has many bounds.

    >>> space_text(gym.spaces.Box(-1.0, 1.0, (2,), np.float32))
    'Box of 2 numbers, -1 to 1, float32'
    """
    if isinstance(space, gym.spaces.Box):
        shape = " x ".join(map(str, space.shape)) or "1"
        plural = "s" * (space.shape != (1,))
        low, high = float(space.low.min()), float(space.high.max())
        return f"Box of {shape} number{plural}, {low:.4g} to {high:.4g}, {space.dtype}"
    return " ".join(str(space).split())


def draw(tasks: TaskDistribution, output: Path | None, steps: int, seed: int) -> Path:
    """Write a contact sheet of nine training tasks.

    Args:
        tasks: the distribution.
        output: the file (default: ``tasks.png`` or the next free name).
        steps: the number of random steps before each picture.
        seed: the seed of the tasks, of their environments and of the actions.

    Returns:
        The file.

    Raises:
        UserError: if the tasks cannot be drawn here; the message says what is missing.
    """
    chosen = tasks.sample(seeding.numpy_generator(seed, Phase.USE, 0), FRAMES, "train")
    sheet = contact_sheet(tasks, chosen, steps=steps, seed=seed, option="--frames")
    path = claim_file(Path("tasks.png")) if output is None else output
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        Image.fromarray(sheet).save(temporary, "PNG", optimize=True)
    return path


def _episodes(tasks: TaskDistribution) -> str:
    count = tasks.episodes_per_trial
    return "as many episodes as the agent is given" if count is None else f"{count} episodes"


def _counts(tasks: TaskDistribution) -> str:
    """Return how many tasks each split has."""
    known = {split: finite_tasks(tasks, split) for split in SPLITS}
    if tasks.shared_split and (every := known["train"]) is not None:
        return f"{len(every)}, which all splits share"
    counts = [
        f"{SPLIT_NAMES[split]} {'unlimited' if found is None else len(found)}"
        for split, found in known.items()
    ]
    shared = " (all splits share them)" if tasks.shared_split else ""
    if not shared and tasks.shared_validation:
        shared = " (validation tasks are training tasks)"
    return ", ".join(counts) + shared


def _parameters(tasks: TaskDistribution) -> list[str]:
    """Return a line for each parameter: its name and its values."""
    if isinstance(tasks, ParametricTasks):
        texts = [text_of(name, kind) for name, kind in tasks.params.items()]
        return [_LONG.sub(lambda x: f"{float(x[0]):.4g}", t.replace("=", ": ", 1)) for t in texts]
    train, test = (parameters_of(tasks, split) for split in ("train", "test"))
    sampled = finite_tasks(tasks, "train") is None
    lines = []
    for known, held_out in zip(train, test, strict=True):
        line = f"{known.name}: {known}"
        if sampled and not known.options:
            line += f" (in {SAMPLED} sampled tasks)"
        if _differ(known, held_out):
            line += f"; held-out: {held_out}"
        lines.append(line)
    return lines


def _differ(known: Parameter, other: Parameter) -> bool:
    """Return whether held-out tasks have other values, as far as samples can tell."""
    if known.options or other.options:
        return known.options != other.options
    slack = 0.1 * (known.high - known.low)
    return bool(np.abs(np.subtract((known.low, known.high), (other.low, other.high))).max() > slack)


def _working(names: Iterable[str], make: Callable[[str], object]) -> list[str]:
    """Return the names of what can be made."""
    found = []
    for name in sorted(names):
        try:
            make(name)
        except UserError:
            continue
        found.append(name)
    return found


def _make_agent(name: str, tasks: TaskDistribution) -> object:
    """Make an agent for tasks, with a number of episodes if the tasks prescribe none."""
    kind, spec = registry.agent_class(name), TaskSpec.of(tasks)
    spec = replace(spec, episodes_per_trial=spec.episodes_per_trial or 2)
    return kind(kind.Config(), spec, seed=0, device="cpu")


def _make_baseline(name: str, tasks: TaskDistribution) -> object:
    return registry.make_baseline(name, tasks, TrialShape(tasks.episodes_per_trial or 2))


def _presets(tasks: TaskDistribution) -> list[str]:
    """Return the presets for these tasks, whatever their options are."""
    base = registry.split_name(tasks.name)[0]
    return sorted(
        name
        for name, preset in presets().items()
        if registry.split_name(preset.settings.train.env)[0] == base
    )

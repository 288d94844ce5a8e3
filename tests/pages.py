"""Pages whose commands and Python blocks are run: how they are read, and cut short.

Blocks marked ``bash`` hold commands that begin with ``metarl``, blocks marked ``python`` share the
names of their page, and one that begins with ``# name.py`` is written to that file instead. All are
run in order in one folder. Other blocks (``console``, ``text``) are not run.
"""

import contextlib
import dataclasses
import json
import os
import re
import shlex
import shutil
import sys
import types
from pathlib import Path

import pytest

from metarl import registry
from metarl.__main__ import run
from metarl.running import presets

ROOT = Path(__file__).parents[1]
FULL = bool(os.environ.get("METARL_FULL"))
"""Whether everything is run as it stands (``make release``), which takes hours."""

FENCE = re.compile(r"^ *```\{?(\w[\w-]*)\}?[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
MODULE = re.compile(r"# ([\w/]+\.py)\b")
GIVEN = ("runs/first", "runs/goals", "runs/three")
"""Run directories that a page may use without making them."""


@dataclasses.dataclass
class Block:
    """A block of code on a page."""

    kind: str
    text: str

    @property
    def module(self):
        """The file that the block is written to, if it is a module."""
        found = MODULE.match(self.text)
        return found[1] if found and self.kind == "python" else None


def blocks(text):
    """Return the blocks of code of a page, in order."""
    return [Block(kind, body) for kind, body in FENCE.findall(text)]


def commands(block):
    """Return the commands of a block, as lists of words; continued lines are one."""
    lines = block.text.replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines]
    return [words for words in found if words]


FEW = {"iterations": 2, "evaluation-tasks": 2, "validation-tasks": 2, "num-workers": 0}
SMALL = {
    "rl2": {"tasks-per-update": 2, "num-minibatches": 1, "hidden-size": 8},
    "maml-ppo": {"tasks-per-update": 2, "episodes-per-adaptation": 2},
    "ppo-multitask": {"tasks-per-update": 2, "episodes-per-task": 2, "batch-size": 20},
    "sac-multitask": {"tasks-per-update": 1, "buffer-size": 1000, "gradient-steps": 0.05},
}
SHORT_EPISODES = {"navigation": "navigation:horizon=10"}


def cut(words):
    """Return a command with two iterations, few tasks and small networks."""
    if FULL:
        return words
    name, *rest = words
    if name == "sweep":
        rest = _cut_grid(rest)
    if name in ("train", "sweep", "tune"):
        return [name, *_cut_training(name, rest)]
    if name == "evaluate" and "--list" not in rest:
        few = 20 if "--probe" in rest else 2
        return [name, *_with(rest, {"evaluation-tasks": few, "num-workers": 0})]
    return words


def _cut_training(name, words):
    if {"--list", "--help", "--print-config", "--index", "--print-commands"} & set(words):
        return words
    words = _without(words, "minutes", "env-steps")
    if "--resume" in words and words[words.index("--resume") + 1] != "auto":
        before = Path(words[words.index("--resume") + 1])
        return _with(words, {"iterations": _iterations(before) + 1})
    wanted = FEW | SMALL.get(_agent_of(words), {})
    wanted |= {"trials": 2} if name == "tune" else {}
    seeds = [i for i, word in enumerate(words) if word == "--seeds"]
    for i in seeds:  # two of them show as much as three
        end = next((k for k in range(i + 1, len(words)) if words[k][:2] == "--"), len(words))
        words = words[: min(i + 3, end)] + words[end:]
    words = [SHORT_EPISODES.get(word, word) for word in words]
    given = {word.split("=")[0] for word in words}
    wanted = {key: value for key, value in wanted.items() if key not in given}  # those of --grid
    quick = [] if {"--check", "--no-check"} & set(words) else ["--no-check"]
    return [*_with(words, wanted), *quick]


def _cut_grid(words):
    """Return a sweep of one seed, over two values of the first option and one of the others."""
    if "--grid" not in words:
        return words
    words, first = list(words), words.index("--grid") + 1
    for i in range(first, len(words)):
        if words[i].startswith("--"):
            break
        name, _, values = words[i].partition("=")
        words[i] = f"{name}={','.join(values.split(',')[: 2 if i == first else 1])}"
    if "--seeds" in words:
        i = words.index("--seeds") + 2
        while i < len(words) and not words[i].startswith("--"):
            del words[i]
    return words


def _agent_of(words):
    """Return the agent that a command trains."""
    for flag in ("--config", "--preset"):
        if flag in words:
            value = words[words.index(flag) + 1]
            if flag == "--preset" and value != "none":
                return presets.preset(value).settings.agent
            if flag == "--config":
                path = Path(value)
                path = path / "config.json" if path.is_dir() else path
                return json.loads(path.read_text())["agent"]
    first = words[0] if words and not words[0].startswith("--") else "rl2"
    return first if first in registry.agents() else None


def _iterations(folder):
    inner = sorted(folder.glob("[0-9]*")) or [folder]
    return json.loads((inner[0] / "config.json").read_text())["train_config"]["iterations"]


def _without(words, *names):
    """Return words without some options and their values."""
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in [f"--{name}" for name in names]:
            skip = True
        elif word.split("=")[0] not in [f"--{name}" for name in names]:
            kept.append(word)
    return kept


def _with(words, values):
    """Return words with other values of options."""
    given = [word for pair in values.items() for word in (f"--{pair[0]}", str(pair[1]))]
    return [*_without(words, *values), *given]


NUMBERS = re.compile(r"\b(iterations|num_tasks|evaluation_tasks|validation_tasks)=[\d_]+")


def cut_python(text):
    """Return Python with two iterations and tasks where it asks for more."""
    if FULL:
        return text
    text = re.sub(r"\bminutes=[\d.]+", "iterations=2", text)
    for name, short in SHORT_EPISODES.items():
        text = text.replace(f'env="{name}"', f'env="{short}"')
    text = NUMBERS.sub(lambda match: f"{match[1]}=2", text).replace("1_000_000", "400")
    # Nor is measured how long it takes.
    return re.sub(r"(metarl\.train\([^)]*?iterations=2)", r"\1, check=False", text)


class ChildHere:
    """A training that a process of its own would run, in this one: it imports nothing again."""

    running = False

    def __init__(self, name, arguments, log=None):
        self.name, self.log = name, log
        self.process = types.SimpleNamespace(returncode=0)
        try:
            run(["train", *arguments])
        except SystemExit as stop:
            self.process.returncode = stop.code

    def wait(self):
        """Do nothing: the training has ended."""

    stop = wait


@contextlib.contextmanager
def trained_here():
    """Train the runs of groups and sweeps in this process, unless everything is run as it is."""
    with pytest.MonkeyPatch.context() as patch:
        if not FULL:
            patch.setattr("metarl.running.seeds.Child", ChildHere)
            patch.setattr("metarl.running.sweep.Child", ChildHere)
        yield


def make_runs(folder):
    """Train what pages may use without making it."""
    for name, words in {
        "first": ["train", "rl2", "--env", "bandit/n10-k5"],
        "goals": ["train", "maml-ppo", "--env", "navigation"],
        "three": ["train", "maml-ppo", "--env", "navigation", "--seeds", "0", "1", "2"],
    }.items():
        with trained_here():
            run([*cut(words), "--run-dir", str(folder / "runs" / name)])


def run_page(path, folder):
    """Run the blocks of a page in a folder, which is the current one.

    Returns:
        How many commands, and how many blocks of Python, were run.
    """
    shutil.copytree(ROOT / "benchmarks/agents", folder / "benchmarks/agents")
    shutil.copytree(ROOT / "examples", folder / "examples", dirs_exist_ok=True)
    names, ran = {"__name__": "__page__"}, [0, 0]
    before = set(sys.modules)
    try:
        for block in blocks(path.read_text()):
            if block.module:
                (folder / block.module).parent.mkdir(parents=True, exist_ok=True)
                (folder / block.module).write_text(block.text)
            elif block.kind == "python":
                exec(compile(cut_python(block.text), str(path), "exec"), names)
                ran[1] += 1
            elif block.kind == "bash":
                for words in commands(block):
                    if words[0] == "make":  # CI itself does what it says
                        continue
                    assert words[0] == "metarl", (
                        f"{path.name}: {' '.join(words)} is no command of ours"
                    )
                    try:
                        with trained_here():
                            run(cut(words[1:]))
                    except SystemExit as stop:
                        assert not stop.code, f"{path.name}: {' '.join(words)}: exit {stop.code}"
                    ran[0] += 1
    finally:
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None) or ""
            if file.startswith(str(folder)):
                del sys.modules[name]
    return tuple(ran)

"""The help of options: can every line be understood by itself?"""

import ast
import contextlib
import dataclasses
import importlib
import inspect
import io
import itertools
import re
from pathlib import Path

import pytest

import metarl
from metarl import registry
from metarl.options import field_types
from metarl.running.commandline import run_train
from metarl.running.commands import Evaluate, Plot, run_evaluate, run_plot
from metarl.running.describe import Describe, run_describe
from metarl.running.listing import Runs, run_runs
from metarl.running.parsing import field_docs
from metarl.running.play import Play, run_play
from metarl.running.record import Summarize
from metarl.running.sweep import Sweep, run_sweep
from metarl.running.tune import TuneConfig, run_tune

ROOT = Path(__file__).parents[1]
OPENERS = r"(Of|Its|As|Where|Reached|That)\b"
"""Words that begin a phrase about something that a reader of one line does not see."""
MEASURING = sorted(p.stem for p in (ROOT / "benchmarks").glob("*.py"))


def with_nested(kind):
    """Return a config's class and those nested in it."""
    nested = [t for t in field_types(kind).values() if dataclasses.is_dataclass(t)]
    return [kind, *(each for one in nested for each in with_nested(one))]


def dataclasses_of(module):
    """Return the dataclasses that a module defines."""
    kinds = filter(inspect.isclass, vars(importlib.import_module(module)).values())
    return [k for k in kinds if k.__module__ == module and dataclasses.is_dataclass(k)]


PROGRAMS = (metarl.TrainConfig, TuneConfig, Evaluate, Plot, Summarize, Play, Describe, Sweep, Runs)
KINDS = [
    *(each for one in PROGRAMS for each in with_nested(one)),
    *(k for module in MEASURING for k in dataclasses_of(module)),
    *(k for name in registry.AGENTS for k in with_nested(registry.agent_class(name).Config)),
]


def documented_fields(kind):
    """Return the text below every field of a class."""
    body = next(
        node.body
        for node in ast.walk(ast.parse(Path(inspect.getfile(kind)).read_text()))
        if isinstance(node, ast.ClassDef) and node.name == kind.__name__
    )
    return {
        field.target.id: " ".join(doc.value.value.split())
        for field, doc in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(doc, ast.Expr)
        and isinstance(doc.value, ast.Constant)
    }


def test_the_options_of_every_program_are_read():
    names = {kind.__name__ for kind in KINDS}
    assert {"TrainConfig", "Evaluate", "Plot", "Summarize", "Speed", "Stepping", "Classes"} <= names
    assert {"ValidationConfig", "RunConfig", "Workers", "EvaluateConfig"} <= names
    assert {"RL2Config", "CoreConfig", "HeadConfig", "PPOConfig", "MAMLPPOConfig"} <= names
    assert len([kind for kind in KINDS if kind.__name__ == "Options"]) == 4


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_option_has_a_help_that_stands_alone(kind):
    docs = documented_fields(kind)
    missing = {field.name for field in dataclasses.fields(kind)} - set(docs)
    unclear = {
        field: doc
        for field, doc in docs.items()
        if re.match(OPENERS, doc) or len(doc.split()) < 4 or not doc.endswith(".")
    }
    assert (missing, unclear) == (set(), {})


def help_of(run, *words):
    """Return what a command prints for ``--help``."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit):
        run([*words, "--help"])
    return out.getvalue()


@pytest.mark.parametrize(
    ("run", "words", "headings"),
    [
        (run_train, ["rl2"], "training evaluation run workers agent encoder core head ppo"),
        (run_train, ["maml-ppo"], "training evaluation run workers agent encoder"),
        (run_tune, ["maml-ppo"], ""),
        (run_evaluate, ["runs/x"], "evaluation disturbances workers"),
        (run_plot, ["runs/x"], ""),
        (run_play, ["runs/x"], ""),
        (run_describe, ["navigation"], ""),
        (run_sweep, ["rl2"], ""),
        (run_runs, [], ""),
    ],
)
def test_help_has_a_heading_for_each_group_and_short_types(run, words, headings):
    text = help_of(run, *words)
    assert re.findall(r"^\W*(\w+) options\W*$", text, re.M) == headings.split()
    assert "{None}" not in text and "default: None" not in text and "(set to )" not in text
    for option in ("--iterations", "--num-workers"):
        assert option not in text or f"{option} INT" in text or run is run_tune  # It names some.


def test_help_says_what_a_preset_or_a_run_has_set():
    preset = ("--preset", "metaworld-rl2-ml1-push")
    said = " ".join(help_of(run_train, *preset).replace("│", " ").split())
    assert "(default: the whole trial). (set to 250)" in said
    assert "(default: the whole trial). --" not in said


def test_help_names_the_agents_of_other_packages_too(monkeypatch):
    other = {"dreamer": registry.Entry("dreams:Dreamer"), **registry.AGENTS}
    monkeypatch.setattr(registry, "agents", lambda: other)
    said = " ".join(help_of(run_train).split())
    assert f"where AGENT is {', '.join(sorted(other))}, or package.module:Name" in said


def test_help_has_the_lines_of_the_terminal_not_those_of_the_source():
    said = " ".join(help_of(run_train).replace("│", " ").split())
    assert field_docs(metarl.TrainConfig)["task_sampler"] in said


def test_help_of_tuning_says_what_is_searched():
    said = " ".join(help_of(run_tune, "maml-ppo").replace("│", " ").split())
    assert "maml-ppo is searched in these options: inner-learning-rate (0.025 0.0125" in said
    assert "; learning-rate log:0.0001..0.01" in said and "entropy" not in said

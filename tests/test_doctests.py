"""Examples in docstrings and in the README: does each give what is printed below it?"""

import ast
import doctest
import importlib
import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import metarl
from metarl.console import console

ROOT = Path(__file__).parents[1]
FILES = [
    path
    for folder in ("metarl", "envs", "agents")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if ">>> " in path.read_text()
]
TEXTS = [path for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")] if path.is_file()]
API = sorted((ROOT / "docs" / "api").glob("*.md"))
PUBLIC = {
    f"{package.__name__}.{name}": f"{package.__name__}.{package._HOME[name]}"
    for package in (metarl, metarl.sb3)
    for name in package.__all__
}
"""The module of every public name."""
KNOWN = {"metarl": metarl, "np": np}
"""What examples in docstrings take for imported."""
RUNS = {"first": "bandit-n10-k5-rl2", "goals": "navigation-maml-ppo"}
"""Run directories that examples read, in `runs`, and what they are copies of."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Go to a folder with trained agents, where nothing is printed but results."""
    for name, agent in RUNS.items():
        shutil.copytree(ROOT / "benchmarks" / "agents" / agent, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "quiet", True)


def run(test):
    """Run the examples of a docstring or a text; return how many there are."""
    result = doctest.DocTestRunner().run(test)
    assert result.failed == 0, f"{test.name}: the printed output says what is wrong"
    return result.attempted


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    own = parts if parts[0] == "metarl" else ("metarl", *parts)
    return importlib.import_module(".".join(own).removesuffix(".__init__"))


def below_names(path):
    """Return the docstrings below a module's own names, which are no attributes, by name."""
    body = ast.parse(path.read_text()).body
    found = {}
    for one, following in itertools.pairwise(body):
        target = getattr(one, "target", None) or getattr(one, "targets", [None])[0]
        text = following.value if isinstance(following, ast.Expr) else None
        if isinstance(target, ast.Name) and isinstance(text, ast.Constant):
            found[target.id] = text.value
    return found


def own_docstring(name):
    """Return the docstring of a public name, which stands below an alias of a type."""
    module, word = importlib.import_module(PUBLIC[name]), name.rpartition(".")[2]
    below = below_names(Path(module.__file__))
    return below[word] if word in below else getattr(module, word).__doc__


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_examples_of_a_module_give_what_they_say(path, folder):
    module = module_of(path)
    tests = doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs=KNOWN)
    known = {**vars(module), **KNOWN}
    for name, text in below_names(path).items():
        tests.append(doctest.DocTestParser().get_doctest(text, known, name, str(path), 0))
    ran = sum(run(test) for test in tests)
    assert ran == path.read_text().count(">>> "), "an example is not in a docstring"


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_examples_of_a_text_give_what_they_say(path):
    text = path.read_text()
    test = doctest.DocTestParser().get_doctest(text, {}, name_of(path), str(path), 0)
    assert run(test) == text.count(">>> ")


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_has_an_example(name):
    assert ">>> " in own_docstring(name)


def test_every_public_name_is_on_one_page_of_the_reference():
    shown = []
    for page in API:
        shown += re.findall(r"^\.\. auto\w+:: (\S+)$", page.read_text(), re.MULTILINE)
    assert len(shown) == len(set(shown))
    for name, home in PUBLIC.items():
        # An alias of a type has its docstring in its own module alone.
        assert shown.count(name) + shown.count(f"{home}.{name.rpartition('.')[2]}") == 1, name


def test_a_wrong_example_is_found():
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    with pytest.raises(AssertionError, match="wrong"):
        run(test)


def test_modules_with_examples_are_found():
    assert len(FILES) > 5 and ROOT / "README.md" in TEXTS and len(API) > 5

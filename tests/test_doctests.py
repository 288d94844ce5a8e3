"""Examples in docstrings and in the README: does each give what is printed below it?"""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [
    path
    for folder in ("metarl", "envs", "agents")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if ">>> " in path.read_text()
]
TEXTS = [path for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")] if path.is_file()]


def run(test):
    """Run the examples of a docstring or a text; return how many there are."""
    result = doctest.DocTestRunner().run(test)
    assert result.failed == 0, f"{test.name}: the printed output says what is wrong"
    return result.attempted


def name_of(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_examples_of_a_module_give_what_they_say(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    own = parts if parts[0] == "metarl" else ("metarl", *parts)
    module = importlib.import_module(".".join(own).removesuffix(".__init__"))
    tests = doctest.DocTestFinder(exclude_empty=True).find(module)
    ran = sum(run(test) for test in tests)
    assert ran == path.read_text().count(">>> "), "an example is not in a docstring"


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_examples_of_a_text_give_what_they_say(path):
    text = path.read_text()
    test = doctest.DocTestParser().get_doctest(text, {}, name_of(path), str(path), 0)
    assert run(test) == text.count(">>> ")


def test_a_wrong_example_is_found():
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    with pytest.raises(AssertionError, match="wrong"):
        run(test)


def test_modules_with_examples_are_found():
    assert len(FILES) > 5 and ROOT / "README.md" in TEXTS

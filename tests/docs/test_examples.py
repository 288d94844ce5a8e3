"""Examples and the notebook: does each run, cut short, and in a release as it stands?"""

import importlib
import inspect
import os
import sys

import nbclient
import nbformat
import pages
import pytest

pytestmark = [pytest.mark.docs, pytest.mark.timeout(0 if pages.FULL else 300)]

FOLDER = pages.ROOT / "examples"
PROGRAMS = sorted(
    path.stem for path in FOLDER.glob("*.py") if "\ndef main(iterations=" in path.read_text()
)


def lines_of(path):
    return [line for line in path.read_text().splitlines() if line.strip()]


def test_programs_are_found():
    assert {"bandits", "deploy", "own_environment", "several_seeds", "thompson"} <= set(PROGRAMS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_short_and_says_what_it_shows(name):
    path = FOLDER / f"{name}.py"
    assert len(lines_of(path)) < 60
    assert f"{name}.py" in path.read_text().split('"""')[1]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name])
    if not pages.FULL:  # Nor is measured how long two iterations take.
        monkeypatch.setattr("metarl.running.train.is_measured", lambda config: False)
    main = importlib.import_module(name).main
    default = inspect.signature(main).parameters["iterations"].default
    assert default > 2 or name == "deploy"
    main() if pages.FULL else main(iterations=min(2, default))


def test_the_notebook_runs(tmp_path):
    text = (FOLDER / "adaptation_curve.ipynb").read_text()
    book = nbformat.reads(text, as_version=4)
    nbformat.validate(book)
    assert not any(cell.get("outputs") for cell in book.cells)
    if not pages.FULL:
        cut = [cell.source for cell in book.cells if "iterations = 100" in cell.source]
        assert len(cut) == 1
        for cell in book.cells:
            cell.source = cell.source.replace("iterations = 100", "iterations = 2")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    client = nbclient.NotebookClient(book, timeout=None, resources={"metadata": {"path": tmp_path}})
    client.execute()
    shown = [out for cell in book.cells for out in cell.get("outputs", ())]
    assert any("image/png" in out.get("data", {}) for out in shown)

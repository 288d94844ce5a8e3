"""README and the pages of docs: does every command and every block of Python do what it says?"""

import os
import shutil
import sys

import pages
import pytest
from filelock import FileLock

pytestmark = [pytest.mark.docs, pytest.mark.timeout(0 if pages.FULL else 300)]

PAGES = [
    pages.ROOT / "README.md",
    *sorted(path for path in (pages.ROOT / "docs").rglob("*.md") if "_build" not in path.parts),
]
RUN = [
    path for path in PAGES if {b.kind for b in pages.blocks(path.read_text())} & {"bash", "python"}
]


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """The runs that pages may use without making them, made once for all test processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            pages.make_runs(folder)
    return folder


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.relative_to(pages.ROOT).as_posix())
def test_a_page_runs_from_top_to_bottom(path, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "argv", ["metarl"])
    if path.name != "README.md":  # It makes its own.
        shutil.copytree(made / "runs", tmp_path / "runs")
    commands, python = pages.run_page(path, tmp_path)
    assert commands + python > 0


def test_pages_are_found():
    assert len(RUN) > 10

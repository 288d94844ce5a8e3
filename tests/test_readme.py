"""README and the pages: are they short, do tables agree with results, do links lead somewhere?"""

import re
import urllib.parse

import pages
import pytest
import table

README = pages.ROOT / "README.md"
TEXTS = [
    *sorted(pages.ROOT.glob("*.md")),
    *sorted(pages.ROOT.glob("benchmarks/*.md")),
    *sorted(path for path in pages.ROOT.glob("docs/**/*.md") if "_build" not in path.parts),
]
LINK = re.compile(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")


def anchors(text):
    """Return the anchors of the headings of a page."""
    found = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    words = [re.sub(r"[^\w\s-]", "", heading.lower().replace("`", "")) for heading in found]
    return {word.strip().replace(" ", "-") for word in words}


def test_readme_is_short():
    assert len(README.read_text().splitlines()) <= 150


def test_readme_s_table_is_that_of_the_results():
    text = README.read_text()
    assert table.rewritten(text) == text, "run python benchmarks/table.py"
    assert 5 <= table.readme_table().count("\n") - 1 <= 10


def test_a_table_follows_its_results(monkeypatch):
    text = README.read_text()
    monkeypatch.setattr(table.Row, "values", lambda self, which="test": [1.0, 2.0, 3.0])
    assert table.rewritten(text) != text
    assert table.estimate([1.0, 2.0, 3.0], 2) == "2.00 ± 2.48 (3 seeds)"
    assert table.estimate([-1.0, 2.0], 1) == "−1.0, 2.0 (2 seeds)"


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(pages.ROOT).as_posix())
def test_links_lead_somewhere(path):
    text = path.read_text()
    for found in LINK.finditer(text):
        target = found[1] or found[2]
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = urllib.parse.unquote(target).partition("#")
        to = path if not file else (path.parent / file)
        assert to.exists(), f"{path.name}: {target} leads nowhere"
        if anchor:
            assert anchor in anchors(to.read_text()), f"{path.name}: {target} has no such heading"

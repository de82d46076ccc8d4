"""Links of the documentation lead to what they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")] + sorted((ROOT / "docs").rglob("*.md"))
SOURCES = [*(ROOT / "nnbp").rglob("*.py"), *(ROOT / "backends").rglob("*.py")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Files exist; a heading that is linked to is a heading of the page."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", prose):
        linked = (page.parent / target).resolve() if target else page
        assert linked.exists(), target
        if linked.suffix == ".md" and anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_lines_of_the_notes_have_the_formula() -> None:
    """A link to a line of code shows a part of that line, which is the only such line of its file."""
    page = ROOT / "docs" / "notes.md"
    links = re.findall(r"\[`([^`]+)`\]\((\S+?)#L(\d+)\)", page.read_text())
    assert len(links) > 30
    for code, target, number in links:
        lines = (page.parent / target).resolve().read_text().splitlines()
        found = [i for i, line in enumerate(lines, 1) if code in line]
        assert found == [int(number)], f"`{code}` is in line {found} of {target}; docs/notes.md says {number}"


def test_formulas_of_the_textbook_are_in_the_notes() -> None:
    """The notes link to every function of the textbook."""
    numbers = [int(n) for n in re.findall(r"textbook\.py#L(\d+)", (ROOT / "docs" / "notes.md").read_text())]
    source = (ROOT / "nnbp" / "textbook.py").read_text()
    starts = [source[: m.start()].count("\n") + 1 for m in re.finditer(r"^def ", source, re.MULTILINE)]
    for start, end in zip(starts, [*starts[1:], source.count("\n") + 1], strict=True):
        assert any(start < n < end for n in numbers), source.splitlines()[start - 1]


def test_citations_of_the_notes_lead_to_a_section() -> None:
    headings = re.findall(r"^#+ ([\d.]+) ", (ROOT / "docs" / "notes.md").read_text(), re.MULTILINE)
    cited = [section for path in SOURCES for section in re.findall(r"docs/notes\.md, ([\d.]*\d)", path.read_text())]
    assert cited
    assert set(cited) <= set(headings)

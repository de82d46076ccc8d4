"""Links of the documentation lead to what they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import nnbp

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


REFERENCE = "".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))


def test_the_reference_has_every_public_name() -> None:
    """Classes, functions and errors by themselves; modules with all that they define."""
    listed = {name: kind for kind, name in re.findall(r"^.. auto(\w+):: (\S+)$", REFERENCE, re.MULTILINE)}
    for name in nnbp.__all__:
        item = getattr(nnbp, name)
        if name != "__version__":
            assert getattr(item, "__name__", "") in listed or f"nnbp.{name}" in listed, name
    for module in ("nnbp.sklearn", "nnbp.onnx", "nnbp.torch", "nnbp.testing", "nnbp.textbook"):
        assert listed.get(module) == "module", module


def test_every_page_is_in_a_table_of_contents() -> None:
    docs = ROOT / "docs"
    listed = set()
    for page in docs.rglob("*.md"):
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            for line in block.splitlines():
                if line and not line.startswith(":"):
                    name = re.sub(r".*<(.*)>", r"\1", line)
                    listed.add((page.parent / f"{name}.md").resolve())
    assert set(docs.rglob("*.md")) - listed == {docs / "index.md"}


def test_the_benchmark_page_shows_the_latest_results() -> None:
    latest = max(path.parent.name for path in (ROOT / "bench" / "results").glob("cpu-*/table.md"))
    assert f"bench/results/{latest}/table.md" in (ROOT / "docs" / "benchmark.md").read_text()

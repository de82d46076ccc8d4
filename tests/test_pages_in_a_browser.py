"""Reports and the site in Chromium: no finding by axe, nothing wider than the screen, no request to any network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from browser import WIDTHS, findings

from nnbp.cli.main import main

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ROOT = Path(__file__).parents[1]
SCREENS = [(width, theme) for width in WIDTHS for theme in ("light", "dark")]


def check(chromium: Any, pages: list[Path], width: str, theme: str) -> None:
    asked: list[str] = []
    across, down = WIDTHS[width]
    # The report's policy forbids scripts, those of axe too.
    context = chromium.new_context(viewport={"width": across, "height": down}, color_scheme=theme, bypass_csp=True)
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    for path in pages:
        page.goto(path.as_uri())
        assert not findings(page), path.name
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path.name
    context.close()
    assert not [url for url in asked if not url.startswith("file:")]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    pytest.importorskip("sklearn")
    pytest.importorskip("tomli_w")
    folder = tmp_path_factory.mktemp("runs")
    table = folder / "forty.csv"
    table.write_text("x,kind\n" + "".join(f"{k % 40 + k % 7 / 7},kind {k % 40}\n" for k in range(800)))
    for source in ("digits", "breast_cancer", "diabetes", str(table)):
        words = ["train", source, "--epochs", "5", "--device", "cpu", "--quiet", "--out"]
        words += [str(folder / Path(source).stem)]
        assert main(words + ["--target", "kind"] * (source == str(table))) == 0
    return sorted(folder.glob("*/report.html"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("width", "theme"), SCREENS)
def test_reports(width: str, theme: str, chromium: Any, reports: list[Path]) -> None:
    assert len(reports) == 4
    check(chromium, reports, width, theme)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sphinx")
    folder = tmp_path_factory.mktemp("site")
    subprocess.run([sys.executable, "-m", "sphinx", "-q", "-b", "html", str(ROOT / "docs"), str(folder)], check=True)
    return folder


@pytest.mark.parametrize(("width", "theme"), SCREENS)
def test_the_site(width: str, theme: str, chromium: Any, site: Path) -> None:
    ours = {page.relative_to(ROOT / "docs").with_suffix(".html") for page in (ROOT / "docs").rglob("*.md")}
    pages = [site / page for page in sorted(ours)] + sorted(site.glob("source/**/*.html"))
    assert len(pages) > 30
    check(chromium, pages, width, theme)

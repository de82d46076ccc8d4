"""Chromium for tests of pages, driven by Playwright.

Tests that use it are skipped without it; NNBP_REQUIRE_BROWSER=1 turns the skip into a failure.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

WIDTHS = {"desktop": (1440, 900), "phone": (390, 844)}
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip


def _missing(reason: str) -> None:
    if os.environ.get("NNBP_REQUIRE_BROWSER") == "1":
        pytest.fail(f"NNBP_REQUIRE_BROWSER is set, and {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        _missing("no Chromium is installed")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("Playwright is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


def findings(page: Any) -> list[tuple[str, str, str]]:
    """What axe finds on a page: its rule, the element, and the summary."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page.evaluate(axe.Axe().axe_script)
    found = page.evaluate("() => axe.run()")["violations"]
    return [(rule["id"], rule["nodes"][0]["html"], rule["nodes"][0]["failureSummary"]) for rule in found]

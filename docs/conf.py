"""Sphinx's configuration of the site: `sphinx-build -W docs site`. Nothing is fetched from a network."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename

from nnbp.cli.main import COMMANDS
from nnbp.version import __version__

DOCS = Path(__file__).parent
ROOT = DOCS.parent

project, author, version, release = "nnbp", "the nnbp developers", __version__, __version__
project_copyright = author
extensions = [
    "myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "sphinx_design",
]  # fmt: skip
exclude_patterns = ["site"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # CHANGELOG.md begins its entries with headings of the third level
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_mock_imports = ["torch"]
# scikit-learn's own methods, whose docstrings point to its glossary.
_ROUTING = "set_fit_request, set_partial_fit_request, set_score_request"
autodoc_default_options = {"members": True, "exclude-members": _ROUTING}
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_use_unqualified_type_names = True
add_module_names = False
html_theme = "pydata_sphinx_theme"
html_title = "nnbp"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "show_prev_next": False,
    "navbar_end": ["theme-switcher"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "logo": {"text": "nnbp"},
}
html_sidebars = {"tutorial": [], "index": []}

# A link to a file outside docs/, as `[code](../nnbp/textbook.py#L67)`, leads to a page with that file.
_LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+)([\w./-]+)(?:#L(\d+))?\)")


def _linked(page: Path, match: re.Match[str]) -> Path | None:
    """The file outside docs/ that a link leads to."""
    path = (page.parent / match[2] / match[3]).resolve()
    return path if path.is_file() and DOCS not in path.parents else None


def _rewrite(app: Any, docname: str, source: list[str]) -> None:
    page = DOCS / f"{docname}.md"

    def link(match: re.Match[str]) -> str:
        path = _linked(page, match)
        if path is None:
            return match[0] if (page.parent / match[2] / match[3]).resolve().is_file() else match[1]
        text = re.sub(r"`(.*)`", lambda code: f"<code>{escape(code[1])}</code>", match[1])
        line = f"#L-{match[4]}" if match[4] else ""
        return f'<a href="{"../" * docname.count("/")}{_name(path)}.html{line}">{text}</a>'

    source[0] = _LINK.sub(link, source[0])
    if docname == "reference/cli":
        source[0] = source[0].replace("COMMANDS", "\n".join(map(_help, COMMANDS)))


def _name(path: Path) -> str:
    return f"source/{path.relative_to(ROOT).as_posix()}"


def _help(command: str) -> str:
    """The help page of a command, as it prints it."""
    run = [sys.executable, "-m", "nnbp", command, "--help"]
    text = subprocess.run(run, env={"COLUMNS": "88"}, capture_output=True, text=True, check=True).stdout
    return f"## nnbp {command}\n\n```text\n{text}```\n"


def _source_pages(app: Any) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for each file that a link leads to, with an anchor for each line."""
    pages = DOCS.rglob("*.md")
    found = {path for page in pages for match in _LINK.finditer(page.read_text()) if (path := _linked(page, match))}
    formatter = HtmlFormatter(linenos="inline", lineanchors="L", wrapcode=True)
    for path in sorted(found):
        body = highlight(path.read_text(encoding="utf-8"), get_lexer_for_filename(path.name), formatter)
        title = path.relative_to(ROOT).as_posix()
        yield _name(path), {"title": title, "body": f"<h1>{title}</h1>{body}"}, "page.html"


def _literal(app: Any, what: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    """Bars are magnitudes in docstrings, and not substitutions of reStructuredText."""
    lines[:] = [line if line.lstrip().startswith((">>>", "...")) else line.replace("|", r"\|") for line in lines]


def setup(app: Any) -> None:
    app.connect("source-read", _rewrite)
    app.connect("html-collect-pages", _source_pages)
    app.connect("autodoc-process-docstring", _literal, priority=100)

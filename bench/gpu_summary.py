"""Makes summary.md of a folder that gpu_check.sh has filled: python gpu_summary.py DIR.

It imports the standard library alone, and takes no file for granted: nnbp may not have been importable, a step may have
failed, a file may end half way.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

__all__ = ["main", "summary"]

STEPS = ("environment", "doctor", "tests", "parity", "small", "bench")
RUNS = ("float64", "float32", "tf32", "bf16")
"""Of nnbp parity."""

_STOPPED = (124, 137)
"""Exit codes of `timeout`."""

_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, ElementTree.ParseError)
"""What a file that is missing, cut off or of another kind raises."""

_FAILURES, _NAMES, _LAST_LINES, _LETTERS = 40, 8, 8, 200
"""Messages of tests, names of tests with each, last lines of a command, letters of a line: so many are shown."""


class Step(NamedTuple):
    """How a step ended."""

    code: int
    seconds: int

    def __str__(self) -> str:
        if self.code == 0:
            return "passed"
        return "stopped, its time was over" if self.code in _STOPPED else f"failed, exit code {self.code}"


class Worst(NamedTuple):
    """The number that came nearest to its bound, or passed it by most."""

    ratio: float
    error: float
    bound: float
    case: str

    def cells(self) -> tuple[str, str, str]:
        """Error, bound, case."""
        return f"{self.error:.1e}", f"{self.bound:.1e}", self.case


def summary(folder: Path) -> str:
    """The page, in Markdown.

    Args:
        folder: with steps.tsv and what the steps left; any of it may be missing.
    """
    ended = _steps(folder)
    sections: list[tuple[str, Callable[[], Iterable[str]]]] = [
        ("Steps", lambda: _step_table(ended)),
        ("Machine", lambda: _machine(folder)),
        ("Tests", lambda: _tests(folder, ended.get("tests"))),
        ("Parity", lambda: _parity(folder)),
        ("Small networks", lambda: _text(folder / "small.md").splitlines()),
        ("Benchmark", lambda: _benchmark(folder)),
        ("Last words of what failed", lambda: _last_words(folder, ended)),
    ]
    lines = ["# nnbp on a GPU", "", _verdict(ended)]
    for title, make in sections:
        if body := list(make()):
            lines += ["", f"## {title}", "", *body]
    return "\n".join(lines) + "\n"


def _steps(folder: Path) -> dict[str, Step]:
    """The steps that ended, in their order; a line that is cut off is left out."""
    found = {}
    for line in _text(folder / "steps.tsv").splitlines():
        if match := re.fullmatch(r"(\w+)\t(\d+)\t(\d+)", line):
            found[match[1]] = Step(int(match[2]), int(match[3]))
    return found


def _verdict(ended: Mapping[str, Step]) -> str:
    groups = {
        "passed": [name for name, step in ended.items() if step.code == 0],
        "failed": [name for name, step in ended.items() if step.code != 0],
        "did not run": [name for name in STEPS if name not in ended],
    }
    word = "FAILED" if groups["failed"] else "INCOMPLETE" if groups["did not run"] else "PASSED"
    return f"**{word}.** " + "; ".join(f"{what}: {', '.join(names)}" for what, names in groups.items() if names) + "."


def _step_table(ended: Mapping[str, Step]) -> list[str]:
    rows = [(name, str(step), str(step.seconds)) for name, step in ended.items()]
    rows += [(name, "did not run", "") for name in STEPS if name not in ended]
    return _table(("step", "result", "seconds"), rows)


def _machine(folder: Path) -> list[str]:
    """The lines `Name: value` with which environment.txt begins."""
    head = re.split(r"^== ", _text(folder / "environment.txt"), maxsplit=1, flags=re.MULTILINE)[0]
    found = re.findall(r"^([A-Z]\w+): (.*)$", head, re.MULTILINE)
    return [f"- {name}: {value}" for name, value in found] or ["environment.txt is missing or says nothing."]


def _tests(folder: Path, ended: Step | None) -> list[str]:
    """Counts, and each test that failed with the first line of why."""
    try:
        suites = list(ElementTree.parse(folder / "tests.xml").getroot().iter("testsuite"))
        total, failures, errors, skipped = (
            sum(int(suite.get(key, 0)) for suite in suites) for key in ("tests", "failures", "errors", "skipped")
        )
    except _UNREADABLE:
        return ["tests.xml is missing or cut off; tests.txt has what the tests printed."]
    counts = (str(total - failures - errors - skipped), str(failures), str(errors), str(skipped))
    lines = _table(("passed", "failed", "errors", "skipped"), [counts])
    if ended is not None and ended.code in _STOPPED:
        lines += ["", "The time was over before all of them had run."]
    bad = [(case, child) for suite in suites for case in suite.iter("testcase") for child in case]
    return [*lines, *_failures((case, child) for case, child in bad if child.tag in ("failure", "error"))]


def _failures(found: Iterable[tuple[ElementTree.Element, ElementTree.Element]]) -> list[str]:
    """A line for each message, with the tests that say so."""
    tests: dict[str, dict[str, None]] = {}
    for case, why in found:
        name = ".".join(part for part in (case.get("classname"), case.get("name")) if part)
        # A module that is collected twice, for its docs, fails twice.
        tests.setdefault(_message(why), {})[f"`{name}`"] = None
    lines = []
    for message, names in list(tests.items())[:_FAILURES]:
        more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
        lines.append(f"- {', '.join(list(names)[:_NAMES])}{more}: {message}")
    if len(tests) > _FAILURES:
        lines.append(f"- and {len(tests) - _FAILURES} more messages, in tests.xml")
    return ["", *lines] if lines else []


def _message(why: ElementTree.Element) -> str:
    """One line."""
    message = why.get("message", "")
    # Of a module that cannot be imported the message says only that; its text ends with the error.
    lines = (why.text or "").splitlines()[::-1] if message == "collection failure" else message.splitlines()
    return _cell(next((line for line in lines if line.strip()), "it said nothing"))


def _parity(folder: Path) -> list[str]:
    head = (
        "run", "comparisons", "failed", "worst of a pass", "bound", "where", "worst after training", "bound", "where"
    )  # fmt: skip
    rows = [(run, *_parity_cells(folder / f"parity-{run}.json")) for run in RUNS]
    return [
        *_table(head, rows),
        "",
        "Relative errors, max |p − q| / max |p|, of the array that comes nearest to its bound.",
    ]


def _parity_cells(path: Path) -> tuple[str, ...]:
    """Of a run: comparisons, how many failed, and the worst of both stages."""
    try:
        reports = json.loads(path.read_text(encoding="utf-8"))["reports"]
        failed = sum(not report["passed"] for report in reports)
        stages = [_worst(reports, stage).cells() for stage in ("pass", "training")]
    except _UNREADABLE:
        return ("no result", *[""] * 7)
    return (str(len(reports)), str(failed), *stages[0], *stages[1])


def _worst(reports: Sequence[Mapping[str, Any]], stage: str) -> Worst:
    """Of all rows of a stage.

    Raises:
        ValueError: there is none.
    """
    return max(_measured(report["case"], row) for report in reports for row in report["rows"] if row["stage"] == stage)


def _measured(case: Mapping[str, str], row: Mapping[str, Any]) -> Worst:
    # Numbers that are not finite are strings, "nan" or "inf".
    error, bound = float(row["max_relative_error"]), float(row["bound"])
    ratio = 0.0 if error == 0 else error / bound if bound > 0 else math.inf
    name = f"{row['name']} of {case['activation']}, {case['loss']}, {case['optimizer']}"
    return Worst(math.inf if math.isnan(ratio) else ratio, error, bound, name)


def _benchmark(folder: Path) -> list[str]:
    """The benchmark's own page, its headings below ours and its links into its folder; and links to its pictures."""
    page = _text(folder / "bench" / "table.md").strip()
    if not page:
        return ["bench/table.md is missing: the benchmark has measured nothing."]
    page = re.sub(r"^#", "###", page, flags=re.MULTILINE)
    page = re.sub(r"\]\((?![a-z]+:|#|/)", "](bench/", page)
    pictures = sorted(path for path in (folder / "bench").iterdir() if path.suffix in (".svg", ".png"))
    links = ", ".join(f"[{path.name}](bench/{path.name})" for path in pictures)
    return [page, "", f"Pictures: {links or 'none'}."]


def _last_words(folder: Path, ended: Mapping[str, Step]) -> list[str]:
    """Each command that failed, with the last lines that it printed."""
    lines = []
    for name in [name for name, step in ended.items() if step.code != 0]:
        text = _text(folder / f"{name}.txt")
        commands = re.split(r"^(?=\$ )", text, flags=re.MULTILINE)
        told = [_last_lines(command) for command in commands if re.search(r"^-- ", command, re.MULTILINE)]
        lines += [f"{name}:", "", "```text", *(told or [_last_lines(text) or "(nothing)"]), "```", ""]
    return lines[:-1]


def _last_lines(text: str) -> str:
    """The first line, which is the command, and the last ones."""
    said = [line[:_LETTERS] for line in text.splitlines() if line.strip()]
    # What follows the exit code is of what came after the command.
    ends = next((k for k, line in enumerate(said, 1) if line.startswith("-- ")), len(said))
    return "\n".join([*said[:1], *said[max(1, ends - _LAST_LINES) : ends]])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines]


def _cell(text: str) -> str:
    """Text of one line that breaks no table."""
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= _LETTERS else text[: _LETTERS - 1] + "…"


def _text(path: Path) -> str:
    """What the file has, and nothing where it is missing."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def main(arguments: Sequence[str]) -> int:
    """Writes summary.md into the folder, and prints it; 2 where there is no such folder."""
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python gpu_summary.py DIR, a folder that gpu_check.sh has made", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    page = summary(folder)
    (folder / "summary.md").write_text(page, encoding="utf-8")
    print(page, end="")
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    sys.exit(main(sys.argv[1:]))

"""Makes summary.md from the evidence of gpu_check.sh: python gpu_summary.py DIR.

It imports only the standard library and relies on no file: nnbp may not be importable, a step may have failed, and a
file may be cut off.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

TESTS = ("backend", "tests", "peers")
PARITY = ("parity-float64", "parity-float32", "parity-tf32", "parity-bf16")
BENCHMARKS = ("small", "large")
"""The steps that run pytest, leave a file NAME.json, or leave a file NAME/table.md."""

_CUT_OFF = {124: "stopped at its time limit", 137: "stopped at its time limit", 130: "interrupted"}
"""Exit codes of a command that `timeout` or a signal has ended before it had finished."""

_ENDS = {0: "passed", **_CUT_OFF}

_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError)
"""The exceptions that a missing, incomplete or wrong file raises."""

_FAILURES, _LAST_LINES, _LETTERS = 40, 8, 200
"""Limits of the page: failed tests, last lines of a step, letters per line."""

Steps = Mapping[str, tuple[int, int]]
"""Exit code and seconds of each step that ended, in order."""


def summary(folder: Path) -> str:
    """The page, in Markdown.

    Args:
        folder: the evidence: plan.txt, steps.tsv and the files of the steps. Any of them may be missing.
    """
    ended = _steps(folder)
    missing = [name for name in _planned(folder) if name not in ended]
    sections: dict[str, Iterable[str]] = {
        "Steps": _step_table(ended, missing),
        "Machine": _machine(folder),
        "Tests": _tests(folder, ended),
        "Parity": _parity(folder),
        **{f"Benchmark: {name}": _benchmark(folder, name) for name in BENCHMARKS},
        "Persistent kernel and graph": _text(folder / "persistent.md").splitlines(),
        "Last lines of failed steps": _last_lines(folder, ended),
    }
    lines = ["# nnbp on a GPU", "", _verdict(ended, missing)]
    for title, made in sections.items():
        if body := list(made):
            lines += ["", f"## {title}", "", *body]
    return "\n".join(lines) + "\n"


def _planned(folder: Path) -> list[str]:
    """The names of all steps, in order."""
    return re.findall(r"^([\w-]+) +\d+ s ", _text(folder / "plan.txt"), re.MULTILINE)


def _steps(folder: Path) -> Steps:
    """The steps that ended. An incomplete line is left out."""
    lines = re.findall(r"^([\w-]+)\t(\d+)\t(\d+)$", _text(folder / "steps.tsv"), re.MULTILINE)
    return {name: (int(code), int(seconds)) for name, code, seconds in lines}


def _verdict(ended: Steps, missing: Sequence[str]) -> str:
    groups = {
        "passed": [name for name, (code, _) in ended.items() if code == 0],
        "failed": [name for name, (code, _) in ended.items() if code != 0],
        "did not run": missing,
    }
    word = "FAILED" if groups["failed"] else "INCOMPLETE" if missing or not ended else "PASSED"
    parts = [f"{group}: {', '.join(names)}" for group, names in groups.items() if names]
    return f"**{word}.** {'; '.join(parts) or 'No step has ended'}."


def _step_table(ended: Steps, missing: Iterable[str]) -> list[str]:
    rows = [(name, _ENDS.get(code, f"failed, exit code {code}"), str(time)) for name, (code, time) in ended.items()]
    return _table(("step", "result", "seconds"), [*rows, *((name, "did not run", "") for name in missing)])


def _machine(folder: Path) -> list[str]:
    """The lines `Title: value` at the beginning of environment.txt."""
    head = re.split(r"^== ", _text(folder / "environment.txt"), maxsplit=1, flags=re.MULTILINE)[0]
    found = re.findall(r"^([A-Z][^:\n]*): (.*)$", head, re.MULTILINE)
    return [f"- {title}: {value}" for title, value in found] or ["environment.txt is missing or empty."]


def _tests(folder: Path, ended: Steps) -> list[str]:
    """The last line of pytest, which counts the tests by result, and a line for each failure."""
    rows, failures = [], []
    for name in TESTS:
        text = _text(folder / f"{name}.txt")
        counts = re.findall(r"^=+ (.* in [\d.]+s.*) =+$", text, re.MULTILINE)
        complete = "no: cut off" if not counts or ended.get(name, (0, 0))[0] in _CUT_OFF else "yes"
        rows.append((name, counts[-1] if counts else f"no result; see {name}.txt", complete))
        failures += [f"- {_cell(line)}" for line in re.findall(r"^(?:FAILED|ERROR) .*", text, re.MULTILINE)]
    more = [f"- and {len(failures) - _FAILURES} more"] if len(failures) > _FAILURES else []
    return [*_table(("step", "result", "complete"), rows), "", *failures[:_FAILURES], *more]


def _parity(folder: Path) -> list[str]:
    head = (
        "step", "comparisons", "failed", "worst of a pass", "bound", "case", "worst after training", "bound", "case"
    )  # fmt: skip
    return [
        *_table(head, [(name, *_parity_cells(folder / f"{name}.json")) for name in PARITY]),
        "",
        "Errors are relative, max |p − q| / max |p|. The worst is the one that is largest in proportion to its bound.",
    ]


def _parity_cells(path: Path) -> list[str]:
    """The number of comparisons, the number of failures, and the worst error of both stages with its bound and case."""
    try:
        reports = json.loads(path.read_text(encoding="utf-8"))["reports"]
        cells = [str(len(reports)), str(sum(not report["passed"] for report in reports))]
        for stage in ("pass", "training"):
            rows = [_measured(each["case"], row) for each in reports for row in each["rows"] if row["stage"] == stage]
            cells += max(rows)[1:]
    except _UNREADABLE:
        return ["no result", *[""] * 7]
    return cells


def _measured(case: Mapping[str, str], row: Mapping[str, Any]) -> tuple[float, str, str, str]:
    """The error in proportion to its bound; error, bound and case as text."""
    # Numbers that are not finite are null; up to version 0.1 they were the strings "nan" and "inf".
    error, bound = (math.nan if row[key] is None else float(row[key]) for key in ("max_relative_error", "bound"))
    ratio = 0.0 if error == 0 else error / bound if bound > 0 else math.inf
    name = f"{row['name']} of {case['activation']}, {case['loss']}, {case['optimizer']}"
    return math.inf if math.isnan(ratio) else ratio, f"{error:.1e}", f"{bound:.1e}", name


def _benchmark(folder: Path, name: str) -> list[str]:
    """The benchmark's own page with lower headings and links into its folder, and links to its pictures."""
    page = _text(folder / name / "table.md").strip()
    if not page:
        return [f"{name}/table.md is missing: the benchmark has measured nothing."]
    page = re.sub(r"^#", "###", page, flags=re.MULTILINE)
    page = re.sub(r"\]\((?![a-z]+:|#|/)", f"]({name}/", page)
    pictures = sorted(path.name for path in (folder / name).iterdir() if path.suffix in (".svg", ".png"))
    return [page, "", f"Pictures: {', '.join(f'[{file}]({name}/{file})' for file in pictures) or 'none'}."]


def _last_lines(folder: Path, ended: Steps) -> Iterator[str]:
    """The last lines that each failed step wrote to standard output and standard error."""
    for name in [name for name, (code, _) in ended.items() if code != 0]:
        yield from (f"{name}:", "", "```text")
        for suffix in ("txt", "md", "log"):
            lines = [line for line in _text(folder / f"{name}.{suffix}").splitlines() if line.strip()]
            yield from (line[:_LETTERS] for line in lines[-_LAST_LINES:])
        yield from ("```", "")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines]


def _cell(text: str) -> str:
    """Text as one short line that does not break a table."""
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= _LETTERS else text[: _LETTERS - 1] + "…"


def _text(path: Path) -> str:
    """The content of a file, or nothing if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def main(arguments: Sequence[str]) -> int:
    """Writes summary.md to the folder and prints it. Returns the exit code, 2 if there is no such folder."""
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python gpu_summary.py DIR, the unpacked archive of gpu_check.sh", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    page = summary(folder)
    (folder / "summary.md").write_text(page, encoding="utf-8")
    print(page, end="")
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    sys.exit(main(sys.argv[1:]))

"""From results.json to Markdown: the whole report, and the short table of the README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .steps import fastest, means
from .team import REFERENCE

__all__ = [
    "BEGIN",
    "END",
    "agreement",
    "around_markers",
    "into_readme",
    "markers",
    "missing",
    "report",
    "setting",
    "speed_table",
    "table",
    "time_text",
    "times",
]

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"

_NONE = "–"

Row = Sequence[str]


def table(head: Row, rows: Sequence[Row], left: int = 1) -> str:
    """A Markdown table whose columns line up as plain text; all but the first `left` columns are numbers."""
    widths = [max(3, *(len(row[k]) for row in (head, *rows))) for k in range(len(head))]

    def line(row: Row) -> str:
        cells = [f"{c:<{w}}" if k < left else f"{c:>{w}}" for k, (c, w) in enumerate(zip(row, widths, strict=True))]
        return f"| {' | '.join(cells)} |"

    rule = [("-" * w if k < left else "-" * (w - 1) + ":") for k, w in enumerate(widths)]
    return "\n".join([line(head), f"| {' | '.join(rule)} |", *map(line, rows)])


def time_text(microseconds: float) -> str:
    return f"{microseconds:,.1f}" if microseconds < 100 else f"{microseconds:,.0f}"


def _ratio(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2f}"


def _others(results: Mapping[str, Any]) -> list[str]:
    return [n for n, facts in results["peers"].items() if n != REFERENCE and facts["missing"] is None]


def _label(results: Mapping[str, Any], name: str) -> str:
    label: str = results["peers"][name]["label"]
    return label


def _case_name(case: Mapping[str, Any]) -> str:
    case = case["case"]
    words = [f"{'-'.join(map(str, case['sizes']))} @ {case['batch']}", case["activation"], case["optimizer"]]
    return ", ".join(words if case["precision"] == "fp32" else [*words, case["precision"]])


def speed_table(results: Mapping[str, Any]) -> str:
    """Of every case: µs of nnbp's step, each peer's ratio, nnbp's share of the limit; then geometric means."""
    others, cases = _others(results), results["cases"]
    head = ["network @ batch", "nnbp, µs", *(_label(results, n) for n in others), "products ÷ nnbp"]
    rows = []
    for case in cases:
        own = case["peers"].get(REFERENCE, {}).get("microseconds")
        cells = [_ratio(case["peers"].get(name, {}).get("ratio")) for name in others]
        share = case["limit"].get("share")
        rows.append(
            [
                _case_name(case),
                _NONE if own is None else time_text(own),
                *cells,
                _NONE if share is None else f"{share:.0%}",
            ]
        )
    mean = means(cases, others)
    rows.append(["geometric mean", "", *(_ratio(mean.get(name)) for name in others), ""])
    return table(head, rows)


def setting(results: Mapping[str, Any]) -> str:
    """The machine, versions, date and rounds, in one line."""
    facts, options = results["environment"], results["options"]
    versions: dict[str, str] = {}
    for peer in results["peers"].values():
        versions |= {name: number for name, number in peer["versions"].items() if name not in versions}
    numbers = ", ".join(f"{name} {number}" for name, number in sorted(versions.items()))
    blas = f"{facts['blas']['name']} {facts['blas']['version']}"
    threads = options["threads"]
    gpu = f"{facts['gpu']}; " if "gpu" in facts else ""
    return (
        f"{gpu}{facts['cpu']}, {threads} thread{'s' if threads > 1 else ''} of {facts['cores']} cores; "
        f"{facts['platform']}; "
        f"Python {facts['python']}; {numbers}; NumPy's BLAS {blas}. {results['started'][:10]}, "
        f"median of {options['rounds']} rounds."
    )


def missing(results: Mapping[str, Any]) -> str:
    """The peers that did not run, or failed, a line each."""
    lines = [
        f"- not measured: {peer['label']}: {peer['missing']}"
        for peer in results["peers"].values()
        if peer["missing"] is not None
    ]
    lines += [
        f"- failed: {_label(results, name)} in {case['title']}: {' '.join(values['error'].split())}"
        for case in results["cases"]
        for name, values in case["peers"].items()
        if "error" in values
    ]
    return "\n".join(lines)


def times(results: Mapping[str, Any]) -> str:
    """µs a step of everyone, the products alone, and the fastest other."""
    others = _others(results)
    names = [REFERENCE, *others]
    rows = []
    for case in results["cases"]:
        cells = [time_text(v) if (v := case["peers"].get(n, {}).get("microseconds")) else _NONE for n in names]
        limit, best = case["limit"], fastest(case)
        fast = _NONE if best is None else f"{_label(results, best[0])} {best[1]:.2f}"
        alone = f"{time_text(limit['microseconds'])} ({limit['way']})" if "way" in limit else _NONE
        rows.append([_case_name(case), *cells, alone, fast])
    head = ["network @ batch", *(_label(results, n) for n in names), "products alone", "fastest other"]
    return table(head, rows)


def agreement(results: Mapping[str, Any]) -> str:
    """Relative differences of the losses."""
    others = _others(results)
    rows = []
    for case in results["cases"]:
        cells = []
        for name in others:
            values = case["peers"].get(name, {})
            if "error" in values:
                cells.append("failed")
            elif "difference" not in values:
                cells.append("own order")
            else:
                cells.append(f"{values['difference']:.1e}{'' if values['agrees'] else ' DIFFERS'}")
        tolerances = {v["tolerance"] for v in case["peers"].values() if "tolerance" in v}
        rows.append([_case_name(case), *cells, *(f"{t:g}" for t in tolerances)] + ([_NONE] if not tolerances else []))
    return table(["network @ batch", *(_label(results, n) for n in others), "allowed"], rows)


def _inference(results: Mapping[str, Any]) -> str:
    others = _others(results)
    rows = []
    for row in results["inference"]:
        own = row["peers"].get(REFERENCE, {}).get("microseconds")
        cells = []
        for name in others:
            values = row["peers"].get(name, {})
            times = f" ({values['ratio']:.2f})" if "ratio" in values else ""
            cells.append(f"{time_text(values['microseconds'])}{times}" if "microseconds" in values else _NONE)
        title = f"{'-'.join(map(str, row['sizes']))}, {row['batch']:,} rows"
        rows.append([title, _NONE if own is None else time_text(own), *cells])
    return table(["network", "nnbp", *(_label(results, n) for n in others)], rows)


def _memory(results: Mapping[str, Any]) -> str:
    rows = []
    for fit in results["memory"]:
        for name, values in fit["peers"].items():
            what = f"{fit['title']}, {fit['data']}, {fit['epochs']} epochs"
            if "error" in values:
                rows.append([what, _label(results, name), "failed", _NONE, _NONE])
                continue
            peak = "unknown" if values["bytes"] is None else f"{values['bytes'] / 1e6:,.1f}"
            rows.append(
                [what, _label(results, name), f"{values['seconds']:.2f}", peak, f"{values['bound'] / 1e6:,.1f}"]
            )
    return table(["fit", "library", "seconds", "peak, MB", "bound, MB"], rows, 2)


def _imports(results: Mapping[str, Any]) -> str:
    found = results["imports"]
    if "error" in found:
        return f"Not measured: {found['error']}"
    rows = [[module, f"{values['seconds'] * 1e3:.0f}"] for module, values in found.items()]
    return table(["module", "ms"], rows)


def _profiles(results: Mapping[str, Any]) -> str:
    good = [profile for profile in results["profiles"] if "error" not in profile]
    failed = [f"Not measured: {p['title']}: {p['error']}" for p in results["profiles"] if "error" in p]
    if not good:
        return "\n".join(failed)
    busy = [sum(profile["kinds"].values()) for profile in good]
    rows = [
        [kind, *(f"{p['kinds'][kind] / total:.1%}" for p, total in zip(good, busy, strict=True))]
        for kind in good[0]["kinds"]
    ]
    rows.append(["µs of all threads", *(time_text(total * 1e6) for total in busy)])
    rows.append(["µs of the step", *(time_text(p["step"] * 1e6) for p in good)])
    return "\n\n".join([table(["operation", *(p["title"] for p in good)], rows), *failed])


def report(results: Mapping[str, Any], picture: bool) -> str:
    """The whole report.

    Args:
        results: of `bench.runner.run`.
        picture: whether speed.svg stands beside it.
    """
    environment = results["environment"]
    parts = [
        "# Speed of nnbp beside other libraries",
        setting(results) + f" Load average before {environment['load_before']}, after {environment['load_after']}.",
        missing(results),
        "![Ratios by network](speed.svg)" if picture else "",
        "## Training steps",
        "How many times as long as nnbp's step each library's takes: above 1, nnbp is faster. (T(long fit) − T(short "
        "fit)) / steps between, median of the rounds' ratios. The last column is the time of the step's matrix "
        "products alone, through the same BLAS, as a share of nnbp's step.",
        speed_table(results),
        "Microseconds a step:",
        times(results),
        "## Agreement",
        f"Relative difference from nnbp's loss on the data after {results['options']['check_epochs']} epochs from the "
        "same weights, in the same order of batches.",
        agreement(results),
        "## Predictions",
        "Class indices from NumPy to NumPy, tanh; microseconds a call, and how many times nnbp's.",
        _inference(results),
        "## A whole fit",
        "In a process of its own, network, compilation and all; the peak of resident memory above what imports and "
        "data took. The bound: data + parameters × (1 + optimizer slots + gradient) + activations + 60 MB.",
        _memory(results),
        "## Imports",
        _imports(results),
        "## Where nnbp's step spends its time",
        _profiles(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def into_readme(path: Path, results: Mapping[str, Any]) -> None:
    """Replaces what stands between the markers by the speed table.

    Raises:
        ValueError: the file has no such markers.
    """
    device = results["options"].get("device", "cpu")
    (before, after), (begin, end) = around_markers(path, device), markers(device)
    words = f"{speed_table(results)}\n\n{setting(results)}"
    path.write_text(f"{before}{begin}\n{words}\n{end}{after}", encoding="utf-8")


def markers(device: str) -> tuple[str, str]:
    """The lines between which the table of a device has its place."""
    if device == "cpu":
        return BEGIN, END
    return BEGIN.replace("bench", "bench-cuda"), END.replace("bench", "bench-cuda")


def around_markers(path: Path, device: str = "cpu") -> tuple[str, str]:
    """What stands before and after the place of the table of a device.

    Raises:
        ValueError: there is no such place.
    """
    first, last = markers(device)
    before, begin, rest = path.read_text(encoding="utf-8").partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(
            f"The table goes between two lines, {first} and {last}; {path} does not have both, in this order. Add them."
        )
    return before, after

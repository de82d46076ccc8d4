"""From the results of a run on a GPU to Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .cases import PRECISIONS
from .crossover import batches, thresholds
from .device_cases import KINDS
from .report import agreement, missing, setting, speed_table, table, time_text, times
from .steps import fastest
from .team import REFERENCE
from .timing import geometric_mean

__all__ = ["WIDE", "arranged", "goals", "report"]

WIDE, SHARE = 4096, 0.85
"""In networks of this width the products alone shall be such a share of nnbp's step."""

_NONE = "–"


def arranged(results: Mapping[str, Any]) -> dict[str, Any]:
    """The results with the cases in the order of a table: by precision, kind of training and size."""

    def key(case: Mapping[str, Any]) -> tuple[Any, ...]:
        of = case["case"]
        work = of["batch"] * sum(a * b for a, b in zip(of["sizes"], of["sizes"][1:], strict=False))
        return PRECISIONS.index(of["precision"]), KINDS.index((of["activation"], of["optimizer"])), work

    return {**results, "cases": sorted(results["cases"], key=key)}


def _with_precision(results: Mapping[str, Any], precision: str) -> dict[str, Any]:
    return {**results, "cases": [case for case in results["cases"] if case["case"]["precision"] == precision]}


def goals(results: Mapping[str, Any]) -> str:
    """Of every precision: in how many cases nnbp is the fastest, how many times as long the best other takes, and the
    share of the products where networks are widest."""
    rows = []
    for precision in PRECISIONS:
        cases = _with_precision(results, precision)["cases"]
        best = [found[1] for case in cases if (found := fastest(case)) is not None]
        shares = [
            case["limit"]["share"] for case in cases if max(case["case"]["sizes"]) >= WIDE and "share" in case["limit"]
        ]
        if best or shares:
            rows.append([
                precision,
                f"{sum(value >= 1 for value in best)} of {len(best)}",
                f"{min(best):.2f}" if best else _NONE,
                f"{geometric_mean(best):.2f}" if best else _NONE,
                ", ".join(f"{share:.0%}{'' if share >= SHARE else ' (missed)'}" for share in shares) or _NONE,
            ])  # fmt: skip
    head = ["precision", "nnbp fastest", "best other, least", "geometric mean", f"products at {WIDE}"]
    return table(head, rows)


def _crossover(cells: Sequence[dict[str, Any]]) -> str:
    widths = sorted({each["width"] for each in cells})
    by_place = {(each["width"], each["batch"]): each for each in cells}
    rows = []
    for batch in sorted({each["batch"] for each in cells}):
        row = [f"batch {batch:,}"]
        for width in widths:
            each = by_place.get((width, batch), {})
            row.append(
                f"{time_text(each['cpu'])} / {time_text(each['gpu'])} = {each['speedup']:.2f}"
                if "speedup" in each
                else "failed" if "error" in each else _NONE
            )  # fmt: skip
        rows.append(row)
    wins = ", ".join(
        f"batch {batch:,}: {'at no width measured' if width is None else f'{width} and wider'}"
        for batch, width in thresholds(cells).items()
    )
    failed = [f"Failed: {c['width']}, batch {c['batch']}: {c['error']}" for c in cells if "error" in c]
    return "\n\n".join([table(["", *map(str, widths)], rows), f"The GPU wins at {wins}.", *failed])


def _kernels(details: Sequence[dict[str, Any]], results: Mapping[str, Any]) -> str:
    steps = {case["title"]: case["peers"] for case in results["cases"]}
    rows, notes = [], []
    for each in details:
        for peer, found in each["kernels"].items():
            label = results["peers"][peer]["label"]
            if "error" in found:
                notes.append(f"Not profiled: {label} in {each['title']}: {' '.join(found['error'].split())}")
                continue
            if not found["names"]:
                notes.append(f"Not profiled: {label} in {each['title']}: the profiler saw no kernel.")
                continue
            step = steps.get(each["title"], {}).get(peer, {}).get("microseconds")
            busy = _NONE if step is None else f"{found['microseconds'] / step:.0%}"
            rows.append([
                each["title"], label, f"{found['count']:.1f}", time_text(found["microseconds"]),
                _NONE if step is None else time_text(step), busy,
            ])  # fmt: skip
            if peer == REFERENCE:
                words = [f"{name[:60]} {count:.1f} × {spent / count:.1f} µs" for name, count, spent in found["names"]]
                notes.append(f"nnbp in {each['title']}: {'; '.join(words)}.")
    head = ["step", "library", "kernels", "µs of kernels", "µs of a step", "busy"]
    return "\n\n".join([table(head, rows, 2), *notes]) if rows else "\n\n".join(notes)


def _recorded(details: Sequence[dict[str, Any]], results: Mapping[str, Any]) -> str:
    steps = {case["title"]: case["peers"].get(REFERENCE, {}) for case in results["cases"]}
    rows = []
    for each in details:
        own = steps.get(each["title"], {}).get("microseconds")
        shuffled = each.get("shuffled")
        rows.append([
            each["title"],
            str(each.get("recorded", {}).get("operations", _NONE)),
            _NONE if own is None else time_text(own),
            _NONE if shuffled is None else time_text(shuffled),
        ])  # fmt: skip
    return table(["nnbp's step", "operations", "µs", "µs with shuffles"], rows)


def report(results: Mapping[str, Any], speed: bool, crossover: bool) -> str:
    """The whole report, of what there is so far.

    Args:
        results: of `bench.device_run.run`.
        speed, crossover: whether these pictures stand beside it.
    """
    results = arranged(results)
    parts = ["# Speed of nnbp beside other libraries, on a GPU", setting(results), missing(results)]
    if results["finished"] is None:
        parts.append("The run has not come to its end: this is what it had measured.")
    troubles = dict.fromkeys(case["limit"]["error"] for case in results["cases"] if "error" in case["limit"])
    parts += [f"The products alone were not measured: {' '.join(trouble.split())}" for trouble in troubles]
    if results["skipped"]:
        parts.append(f"No time was left for {', '.join(results['skipped'])}.")
    parts += [
        "Data, parameters and optimizer are on the device before the clock starts, and the device has finished before "
        "it stops. Batches are gathered on the device, in an order that stays: drawing one on the host may take "
        "longer than many of these steps; what it adds to nnbp's stands below. fp32 is IEEE single precision in every "
        "library; tf32 rounds what is multiplied to 11 bits; bf16 multiplies in bfloat16, and parameters and optimizer "
        "stay in float32.",
        "![Ratios by network](speed.svg)" if speed else "",
    ]
    if results["cases"]:
        parts += [
            "## In short",
            "In how many networks nnbp is the fastest; how many times as long as nnbp's the step of the best other "
            "takes, least and in the mean; the products alone as a share of nnbp's step in networks "
            f"{WIDE} wide, {SHARE:.0%} and more being the aim.",
            goals(results),
            "## Training steps",
            "How many times as long as nnbp's step each library's takes: above 1, nnbp is faster. (T(long fit) − "
            "T(short fit)) / steps between, median of the rounds' ratios. The last column is the time of the step's "
            "matrix products alone, in the same layout, as a share of nnbp's step.",
        ]
        for precision in PRECISIONS:
            part = _with_precision(results, precision)
            if part["cases"]:
                parts += [f"### {precision}", speed_table(part)]
        parts += [
            "Microseconds a step:",
            times(results),
            "## Agreement",
            "Relative difference from nnbp's loss on the data after an epoch from the same weights, in the same order "
            "of batches.",
            agreement(results),
        ]
    if results["crossover"]:
        parts += [
            "## CPU or GPU",
            "nnbp on the CPU, µs a step, / nnbp on the GPU, µs a step = how many times as fast the GPU is; networks "
            f"w-w-w-10 with ReLU and Adam, by width w; threads of the CPU: {results['options']['threads']}.",
            "![Crossover](crossover.svg)" if crossover and batches(results["crossover"]) else "",
            _crossover(results["crossover"]),
        ]
    if results["details"]:
        parts += [
            "## What a step consists of",
            "Kernels as PyTorch's profiler sees them; busy is their time as a share of the step's.",
            _kernels(results["details"], results),
            "Operations that nnbp has recorded for a step, and its time where every epoch has a new order of the "
            "samples, drawn on the host:",
            _recorded(results["details"], results),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"

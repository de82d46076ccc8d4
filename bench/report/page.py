"""The page of a run, in Markdown; and the short table of the README."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from nnbp.formatting import json_text

from ..cases import PRECISIONS
from ..measure.contests import check_epochs
from ..peer import REFERENCE
from .facts import Results, Row, best_limit, groups, peer_labels, ratios, speedups, thresholds, values_of

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"

_NONE = "–"

Cells = Sequence[str]


def table(head: Cells, rows: Sequence[Cells], left: int = 1) -> str:
    """A Markdown table whose columns line up as plain text; all but the first `left` columns are numbers."""
    widths = [max(3, *(len(row[k]) for row in (head, *rows))) for k in range(len(head))]

    def line(row: Cells) -> str:
        cells = [f"{c:<{w}}" if k < left else f"{c:>{w}}" for k, (c, w) in enumerate(zip(row, widths, strict=True))]
        return f"| {' | '.join(cells)} |"

    rule = [("-" * w if k < left else "-" * (w - 1) + ":") for k, w in enumerate(widths)]
    return "\n".join([line(head), f"| {' | '.join(rule)} |", *map(line, rows)])


def _time(microseconds: float | None) -> str:
    return _number(microseconds, ",.1f" if microseconds is not None and microseconds < 100 else ",.0f")


def _number(value: float | None, form: str = ".2f") -> str:
    return _NONE if value is None else f"{value:{form}}"


def _mean(values: Sequence[float]) -> str:
    return _number(geometric_mean(values) if values else None)


def speed_table(results: Results) -> str:
    """Of every case: µs of nnbp's step, each peer's ratio, the smallest, nnbp's share of the limit; geometric means."""
    others = peer_labels(results, but=REFERENCE)
    rows: list[Cells] = []
    for (device, precision), cases in groups(results).items():
        for row in cases:
            found, limit = ratios(row), best_limit(row)
            rows.append([
                row["title"], device, _time(values_of(row).get("microseconds")),
                *(_number(found.get(name)) for name in others), _number(min(found.values(), default=None)),
                _number(limit and limit[1].get("ratio"), ".0%"),
            ])  # fmt: skip
        every = [found for row in cases if (found := ratios(row))]
        title = "geometric mean" if precision == PRECISIONS[0] else f"geometric mean {precision}"
        means = (_mean([found[name] for found in every if name in found]) for name in others)
        rows.append([title, device, "", *means, _mean([min(found.values()) for found in every]), ""])
    head = ["network @ batch", "device", "nnbp, µs", *others.values(), "best other", "products ÷ nnbp"]
    return table(head, rows, 2)


def _by_peer(
    labels: Mapping[str, str],
    rows: Sequence[Row],
    cell: Callable[[Mapping[str, Any]], str],
    *more: tuple[str, Callable[[Row], str]],
) -> str:
    """A table with a row per case and a cell per peer; `more` are the titles and cells of columns behind them."""
    body = [
        [
            row["title"],
            row["case"]["device"],
            *(cell(values_of(row, name)) for name in labels),
            *(last(row) for _, last in more),
        ]
        for row in rows
    ]
    return table(["network @ batch", "device", *labels.values(), *(title for title, _ in more)], body, 2)


def _arranged(results: Results) -> list[Row]:
    return [row for rows in groups(results).values() for row in rows]


def _times(results: Results) -> str:
    def alone(row: Row) -> str:
        limit = best_limit(row)
        return _NONE if limit is None else f"{_time(limit[1]['microseconds'])} ({limit[0]})"

    def cell(found: Mapping[str, Any]) -> str:
        return _time(found.get("microseconds"))

    return _by_peer(peer_labels(results), _arranged(results), cell, ("products alone", alone))


def _agreement(results: Results) -> str:
    def difference(found: Mapping[str, Any]) -> str:
        if "error" in found:
            return "failed"
        if "difference" not in found:
            return "own order" if found else _NONE
        return f"{found['difference']:.1e}{'' if found['agrees'] else ' DIFFERS'}"

    def allowed(row: Row) -> str:
        return ", ".join({f"{found['tolerance']:g}" for found in row["peers"].values() if "tolerance" in found})

    return _by_peer(peer_labels(results, but=REFERENCE), _arranged(results), difference, ("allowed", allowed))


def _predictions(results: Results) -> str:
    def cell(found: Mapping[str, Any]) -> str:
        return f"{_time(found.get('microseconds'))} ({_number(found.get('ratio'))})"

    return _by_peer(peer_labels(results), results["predictions"], cell)


def _fits(results: Results) -> str:
    def megabytes(size: int | None) -> str:
        return _NONE if size is None else f"{size / 1e6:,.1f}"

    rows = []
    for fit in results["fits"]:
        for name, found in fit["peers"].items():
            sizes = (megabytes(found.get(key)) for key in ("bytes", "bound"))
            rows.append([fit["title"], peer_labels(results)[name], _number(found.get("seconds")), *sizes])
    return table(["fit", "library", "seconds", "peak, MB", "bound, MB"], rows, 2)


def _imports(results: Results) -> str:
    times = {module: found.get("microseconds") for module, found in results["imports"].items()}
    return table(["module", "ms"], [[module, _number(time and time / 1e3, ".0f")] for module, time in times.items()])


def _parts(results: Results) -> str:
    rows = [
        [row["title"], kind, _time(seconds * 1e6), f"{seconds / sum(row['kinds'].values()):.1%}"]
        for row in results["parts"]
        for kind, seconds in row.get("kinds", {}).items()
    ]
    return table(["step", "operations", "µs", "share"], rows, 2)


def _grid(results: Results) -> str:
    found = speedups(results)
    rows = [
        [f"{width}@{batch}", _time(cpu), _time(gpu), f"{cpu / gpu:.2f}"]
        for batch, row in found.items()
        for width, (cpu, gpu) in row.items()
    ]
    wins = ", ".join(
        f"batch {batch:,}: {'at no width measured' if width is None else f'{width} and wider'}"
        for batch, width in thresholds(found).items()
    )
    return f"{table(['width @ batch', 'CPU, µs', 'GPU, µs', 'CPU ÷ GPU'], rows)}\n\nThe GPU wins at {wins}."


def _step(results: Results, case: Mapping[str, Any], name: str = REFERENCE) -> float | None:
    """µs of a step of a case."""
    return next((values_of(row, name).get("microseconds") for row in results["cases"] if row["case"] == case), None)


def _shuffled(results: Results) -> str:
    rows = []
    for row in results["shuffled"]:
        without = _step(results, row["case"] | {"shuffle": False})
        rows.append([row["title"], _time(without), _time(values_of(row).get("microseconds"))])
    return table(["nnbp's step", "µs", "µs with shuffles"], rows)


def _kernels(results: Results) -> str:
    rows, notes = [], []
    for row in results["kernels"]:
        for name, found in row["peers"].items():
            if not found.get("names"):
                continue
            step = _step(results, row["case"], name)
            busy = _NONE if step is None else f"{found['microseconds'] / step:.0%}"
            cells = [f"{found['count']:.1f}", _time(found["microseconds"]), _time(step), busy]
            rows.append([row["title"], peer_labels(results)[name], *cells])
            if name == REFERENCE:
                words = [f"{each[:60]} {count:.1f} × {spent / count:.1f} µs" for each, count, spent in found["names"]]
                notes.append(f"nnbp in {row['title']}: {'; '.join(words)}.")
    head = ["step", "library", "kernels", "µs of kernels", "µs of a step", "busy"]
    return "\n\n".join([table(head, rows, 2), *notes])


def setting(results: Results) -> str:
    """The machine, versions, date and rounds, in one line."""
    facts = results["environment"]
    versions = {
        name: number
        for peers in results["peers"].values()
        for peer in peers.values()
        if peer["missing"] is None
        for name, number in peer["versions"].items()
    }
    options = [
        f"{device}: {each['threads']} threads, median of {each['rounds']} rounds"
        for device, each in results["options"].items()
    ]
    parts = [
        *facts["gpus"].values(),
        f"{facts['cpu']}, {facts['cores']} cores",
        facts["platform"],
        ", ".join([f"Python {facts['python']}", *(f"{name} {number}" for name, number in sorted(versions.items()))]),
        f"NumPy's BLAS {facts['blas']['name']} {facts['blas']['version']}",
        results["started"][:10],
    ]
    return f"{'; '.join(parts)}. {'; '.join(options)}."


def _troubles(results: Results) -> Iterator[str]:
    """What is not there, or failed, a line each."""
    for device, peers in results["peers"].items():
        for peer in peers.values():
            if peer["missing"] is not None:
                yield f"not measured: {peer['label']} on {device}: {peer['missing']}"
    for title, device in results["skipped"]:
        yield f"no time was left for {title} on {device}"
    for section in ("cases", "predictions", "fits", "parts", "grid", "shuffled", "kernels"):
        for row in results[section]:
            found = {peer_labels(results).get(name, name): values for name, values in row.get("peers", {}).items()}
            ways = {f"the products alone, {way}": values for way, values in row.get("limit", {}).items()}
            for name, values in {**found, **ways, "nnbp": row}.items():
                if "error" in values:
                    yield f"failed: {name} in {row['title']} on {row['case']['device']}, {section}: {values['error']}"
    yield from (f"failed: {found['error']}" for found in results["imports"].values() if "error" in found)


_SECTIONS: tuple[tuple[str, str, str, Callable[[Results], str]], ...] = (
    (
        "cases", "Training steps",
        "How many times as long as nnbp's step each library's takes: above 1, nnbp is faster. (T(long fit) − T(short "
        "fit)) / steps between, median of the rounds' ratios. The last columns are the least of the others, and the "
        "time of the step's matrix products alone, in the same layout, as a share of nnbp's step.",
        speed_table,
    ),
    ("cases", "Microseconds per step", "", _times),
    (
        "cases", "Agreement",
        f"Relative difference from nnbp's loss on the data after {check_epochs('cpu')} epochs on a CPU or "
        f"{check_epochs('cuda:0')} on a GPU, from the same weights, in the same order of batches.",
        _agreement,
    ),
    (
        "predictions", "Predictions",
        "Class indices from NumPy to NumPy; microseconds per call, and how many times nnbp's.",
        _predictions,
    ),
    (
        "fits", "A whole fit",
        "In a process of its own, network, compilation and all; the peak of resident memory above what imports and "
        "data took. The bound: data + parameters × (1 + optimizer slots + gradient) + activations + 60 MB.",
        _fits,
    ),
    ("imports", "Imports", "", _imports),
    (
        "parts", "Where nnbp's step spends its time",
        "The operations of a step by kind, each kind compiled and run on its own.",
        _parts,
    ),
    (
        "grid", "CPU or GPU",
        "nnbp's step in networks w-w-w-10 with ReLU and Adam, by width w and batch; the CPU has as many threads as the "
        "host of the GPU.",
        _grid,
    ),
    (
        "kernels", "What a step on a GPU consists of",
        "Kernels as PyTorch's profiler sees them; busy is their time as a share of the step's.",
        _kernels,
    ),
    (
        "shuffled", "Shuffles",
        "nnbp's step if every epoch has a new order of the samples, which the host draws.",
        _shuffled,
    ),
)  # fmt: skip
"""The key of the results that a section is about, its title, an introduction, and the function of its tables."""

_ON_A_GPU = (
    "On a GPU, data, parameters and optimizer are on the device before the clock starts, and the device has finished "
    "before it stops. Batches are gathered on the device, in an order that stays: drawing one on the host may take "
    "longer than many of these steps; what it adds to nnbp's is shown below. fp32 is IEEE single precision in every "
    "library; tf32 rounds what is multiplied to 11 bits; bf16 multiplies in bfloat16, and parameters and optimizer "
    "stay in float32."
)


def page(results: Results, drawn: Sequence[str] = ()) -> str:
    """The whole page, of what there is so far.

    Args:
        results: of `bench.measure.run.run`.
        drawn: names of the pictures beside it.
    """
    facts = results["environment"]
    parts = [
        "# Speed of nnbp beside other libraries",
        setting(results) + f" Load average before {facts['load_before']}, after {facts.get('load_after')}.",
        "" if results["finished"] else "The run has not come to its end: this is what it had measured.",
        "\n".join(f"- {' '.join(trouble.split())}" for trouble in dict.fromkeys(_troubles(results))),
        _ON_A_GPU if set(results["options"]) - {"cpu"} else "",
        *(f"![{name.partition('.')[0].capitalize()}]({name})" for name in sorted(drawn, reverse=True)),
    ]
    for key, title, words, tables in _SECTIONS:
        if results[key]:
            parts += [f"## {title}", words, tables(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def write(folder: Path, results: Results) -> str:
    """Writes results.json and table.md in place of those that are there, and returns the latter's text.

    A run that is killed leaves what it had written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = page(results, [path.name for path in folder.glob("*.svg")])
    for name, content in (("results.json", json_text(results) + "\n"), ("table.md", text)):
        part = folder / f".{name}.part"
        part.write_text(content, encoding="utf-8")
        os.replace(part, folder / name)
    return text


def into_readme(path: Path, results: Results) -> None:
    """Replaces what stands between the markers by the speed table.

    Raises:
        ValueError: the file has no such markers.
    """
    before, after = around_markers(path)
    words = f"{speed_table(results)}\n\n{setting(results)}"
    path.write_text(f"{before}{BEGIN}\n{words}\n{END}{after}", encoding="utf-8")


def around_markers(path: Path) -> tuple[str, str]:
    """What stands before and after the place of the table.

    Raises:
        ValueError: there is no such place.
    """
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(
            f"The table goes between two lines, {BEGIN} and {END}; {path} does not have both, in this order. Add them."
        )
    return before, after

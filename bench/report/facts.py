"""What the results of a run say: the fastest, the share of the products alone, where a GPU is faster than the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..cases import KINDS, PRECISIONS, Case
from ..peer import REFERENCE

Results = Mapping[str, Any]
Row = Mapping[str, Any]
"""What was measured of a case."""


def peer_labels(results: Results, but: str = "") -> dict[str, str]:
    """The label of each peer that ran on some device, except for one."""
    facts = [pair for peers in results["peers"].values() for pair in peers.items()]
    return {name: each["label"] for name, each in facts if each["missing"] is None and name != but}


def values_of(row: Row, name: str = REFERENCE) -> Mapping[str, Any]:
    """What was found of a peer, nothing if it did not take part."""
    found: Mapping[str, Any] = row["peers"].get(name, {})
    return found


def groups(results: Results) -> dict[tuple[str, str], list[Row]]:
    """The rows of the cases by device and precision, each group by kind of training and size."""

    def key(row: Row) -> tuple[int, ...]:
        case = Case.load(row["case"])
        kind = KINDS.index((case.activation, case.optimizer))
        return list(results["peers"]).index(case.device), PRECISIONS.index(case.precision), kind, case.work

    found: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(results["cases"], key=key):
        found.setdefault((row["case"]["device"], row["case"]["precision"]), []).append(row)
    return found


def ratios(row: Row) -> dict[str, float]:
    """How many times as long as nnbp's step that of each other peer takes."""
    return {name: found["ratio"] for name, found in row["peers"].items() if name != REFERENCE and "ratio" in found}


def best_limit(row: Row) -> tuple[str, Mapping[str, Any]] | None:
    """The fastest way of the products alone, and its times."""
    good = {way: values for way, values in row["limit"].items() if "error" not in values}
    return min(good.items(), key=lambda item: item[1]["microseconds"]) if good else None


def speedups(results: Results) -> dict[int, dict[int, tuple[float, float]]]:
    """Of every batch and width of the grid µs of nnbp's step on the CPU and on the GPU, in order."""
    times: dict[int, dict[int, list[float]]] = {}
    for row in sorted(results["grid"], key=lambda row: (row["case"]["batch"], row["case"]["sizes"][0])):
        if "microseconds" in values_of(row):
            place = times.setdefault(row["case"]["batch"], {}).setdefault(row["case"]["sizes"][0], [])
            place.append(values_of(row)["microseconds"])
    return {
        batch: {width: (both[0], both[1]) for width, both in widths.items() if len(both) == 2}
        for batch, widths in times.items()
    }


def thresholds(speedups: Mapping[int, Mapping[int, tuple[float, float]]]) -> dict[int, int | None]:
    """Of every batch the smallest measured width from which on the GPU wins at all that were measured; None: never."""
    found: dict[int, int | None] = {}
    for batch, row in speedups.items():
        found[batch] = None
        for width, (cpu, gpu) in sorted(row.items(), reverse=True):
            if cpu < gpu:
                break
            found[batch] = width
    return found

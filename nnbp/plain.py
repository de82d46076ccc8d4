"""Plain text and plain values: what reports and summaries look like when printed, and what JSON can hold of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

__all__ = ["json_value", "table"]


def table(rows: Sequence[Sequence[str]], *, left: Collection[int], ruled: bool = False) -> list[str]:
    """The lines of a table, its columns as wide as their widest cell and two spaces apart.

    Args:
        rows: cells, the head first.
        left: columns that stand at the left; the others stand at the right.
        ruled: whether a line goes below the head.

    >>> print(*table([("layer", "units"), ("dense", "8")], left=[0]), sep="\\n")
    layer  units
    dense      8
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if k in left else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    if ruled:
        lines.insert(1, "─" * max(map(len, lines)))
    return lines


def json_value(value: Any) -> Any:
    """The value; a number that is not finite, which JSON does not have, as text: "nan", "inf"."""
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value

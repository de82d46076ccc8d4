"""HTML of results for notebooks: tables, bars and a diagram, in the colours of the surrounding page."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from html import escape
from itertools import pairwise

_PLUS, _MINUS = "#3b82c4", "#e07b28"
_DRAWN, _FIRST, _LAST = 9, 4, 3
"""Places for units in a layer of a diagram, and the numbers of first and last layers shown if there are more than 8."""


def table(
    rows: Sequence[Sequence[str]], *, left: Collection[int], bars: Sequence[tuple[float, bool]] = (),
    lines: Sequence[str] = (),
) -> str:  # fmt: skip
    """A table, and paragraphs below it.

    Args:
        rows: the cells, the header row first.
        left: the indices of left-aligned columns; the others are right-aligned.
        bars: for each row after the header, the length of its bar, from 0 to 1, and whether the row passed.
        lines: the paragraphs.

    >>> print(table([("layer", "units"), ("dense", "8 < 9")], left=[0], lines=["72 parameters"]))
    <table><tr><th style="text-align: left; ...">layer</th><th style="text-align: right; ...">units</th></tr>
    <tr><td style="text-align: left; ...">dense</td><td style="text-align: right; ...">8 &lt; 9</td></tr></table>
    <p>72 parameters</p>
    """
    found = []
    for number, row in enumerate(rows):
        kind = "td" if number else "th"
        cells = []
        for k, cell in enumerate(row):
            style = f"text-align: {'left' if k in left else 'right'}; white-space: nowrap; padding: 0.2em 0.6em"
            cells.append(f'<{kind} style="{style}">{escape(cell)}</{kind}>')
        if bars:
            cells.append(f"<{kind}>{_bar(*bars[number - 1]) if number else ''}</{kind}>")
        found.append(f"<tr>{''.join(cells)}</tr>")
    below = "".join(f"\n<p>{escape(line)}</p>" for line in lines)
    return "<table>" + "\n".join(found) + f"</table>{below}"


def _bar(length: float, good: bool) -> str:
    width, colour = round(100 * length), _PLUS if good else _MINUS
    return f'<div style="width: 100px"><div style="width: {width}px; height: 0.7em; background: {colour}"></div></div>'


def length(ratio: float) -> float:
    """The length of the bar of an error divided by its bound: 1 from the bound on, 0 up to a millionth of it.

    >>> length(2.0), length(1e-3), length(0.0), length(math.nan)
    (1.0, 0.5, 0.0, 1.0)
    """
    if ratio <= 0:
        return 0.0
    return max(0.0, 1 + math.log10(ratio) / 6) if ratio < 1 else 1.0


def diagram(sizes: Sequence[int], names: Sequence[str]) -> str:
    """Layers of units from left to right, as SVG. A layer of more than nine units shows eight and "⋮".

    If there are more than eight layers, the first four and the last three are drawn.

    Args:
        sizes: the number of units of each layer.
        names: the text below each layer.
    """
    label = "Layers of " + ", ".join(map(str, sizes)) + " units"
    if left := max(0, len(sizes) - _FIRST - _LAST - 1):
        # A layer without units represents those that are left out.
        sizes = [*sizes[:_FIRST], 0, *sizes[-_LAST:]]
        names = [*names[:_FIRST], f"{left + 1} layers", *names[-_LAST:]]
    step, room = 110, 22
    width, height = step * len(sizes), room * min(_DRAWN, max(sizes)) + 50
    places = []
    for l, size in enumerate(sizes):
        drawn = min(size, _DRAWN)
        top = (height - 50 - room * drawn) / 2
        places.append([(step * (l + 0.5), 10 + top + room * (i + 0.5)) for i in range(drawn)])
    lines = [
        f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"/>'
        for before, after in pairwise(places)
        for x1, y1 in before
        for x2, y2 in after
    ]
    units, texts = [], []
    for l, (layer, size, name) in enumerate(zip(places, sizes, names, strict=True)):
        middle = step * (l + 0.5)
        for i, (x, y) in enumerate(layer):
            if size > _DRAWN and i == _DRAWN // 2:
                units.append(f'<text x="{x:g}" y="{y + 4:g}">⋮</text>')
            else:
                units.append(f'<circle cx="{x:g}" cy="{y:g}" r="7"/>')
        texts.append(f'<text x="{middle:g}" y="{height - 24}">{size or "⋯"}</text>')
        texts.append(f'<text x="{middle:g}" y="{height - 8}">{escape(name)}</text>')
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {width} {height}" width="{width}" '
        'style="max-width: 100%" font-size="12" text-anchor="middle" fill="currentColor">'
        f'<g stroke="currentColor" stroke-opacity="0.2">{"".join(lines)}</g>'
        f'<g stroke="none" fill="{_PLUS}">{"".join(units)}</g>{"".join(texts)}</svg>'
    )

"""Values as people and machines read them: numbers, metrics and tables as text, and JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from reprlib import Repr
from typing import Any

import numpy as np

_METRICS = {  # the others are called by their own names
    "f1_macro": "F1, mean of the classes",
    "roc_auc": "area under ROC curve",
    "r2": "R²",
    "rmse": "root mean squared error",
    "mae": "mean absolute error",
}

_LONGEST = 200
"""Characters of a value in a message."""

_repr = Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = _LONGEST
_repr.maxlist = _repr.maxtuple = _repr.maxdict = _repr.maxset = _LONGEST // 2


def number(value: float) -> str:
    """Four digits that count; "not defined" for nan.

    >>> number(0.98611), number(53.4712)
    ('0.9861', '53.47')
    """
    return "not defined" if math.isnan(value) else f"{value:.4g}"


def counted(count: int, word: str, plural: str | None = None) -> str:
    """A count and its word.

    >>> counted(1, "class", "classes"), counted(1797, "row")
    ('1 class', '1797 rows')
    """
    return f"{count} {word if count == 1 else plural or word + 's'}"


def metric_rows(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """Name and value of each metric."""
    return [(_METRICS.get(name, name.replace("_", " ")), number(value)) for name, value in metrics.items()]


def describe_rows(result: Mapping[str, Any]) -> str:
    """digits: 1294 rows to train on, 144 to validate, 359 held out."""
    rows = result["rows"]
    texts = [f"{counted(rows['train'], 'row')} to train on"]
    texts += [f"{rows['validation']} to validate"] if rows["validation"] else []
    texts += [f"{rows['held_out']} held out"] if rows["held_out"] else []
    return f"{result['source']}: {', '.join(texts)}"


def describe_training(result: Mapping[str, Any]) -> str:
    """121 epochs in 2.3 s; the weights are those of epoch 118, where the validation loss was lowest."""
    text = f"{counted(result['epochs'], 'epoch')} in {duration(result['seconds'])}"
    if result["best_epoch"] is not None:
        text += f"; the weights are those of epoch {result['best_epoch']}, where the validation loss was lowest"
    return text


def duration(seconds: float) -> str:
    """A time as one says it.

    >>> duration(0.04), duration(2.34), duration(75.0), duration(7300.0)
    ('0.04 s', '2.3 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


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
    """The value in JSON's types, arrays as lists; a number that is not finite, which JSON does not have, is null."""
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [json_value(item) for item in value]
    if isinstance(value, np.generic):
        # A float32 has no more digits than its own: 0.1, not 0.10000000149011612.
        value = float(str(value)) if isinstance(value, np.floating) else value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_text(value: Any) -> str:
    """A value as JSON for people and machines, of `json_value`, indented, and with the escapes that terminals need."""
    import json  # not above: `import nnbp` does without it

    text = json.dumps(json_value(value), indent=2, ensure_ascii=False, allow_nan=False)
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def printable(text: str) -> str:
    """The text with escapes in place of what moves a cursor, colours a terminal or hides: as `repr` has it, unquoted.

    >>> print(printable("caf\xe9 \x1b[31m"))
    café \\x1b[31m
    """
    if text.isprintable():
        return text
    # A space at which no line is broken is a space.
    return "".join(c if c.isprintable() or c == "\xa0" else c.encode("unicode_escape").decode() for c in text)


def brief(text: object) -> str:
    """What another library says, as a message quotes it: printable, and cut if it is long."""
    return _cut(printable(str(text)))


def shown(value: object) -> str:
    """A received value as a message shows it, cut if it is long; the rest of a long one is not looked at."""
    try:
        return _cut(_repr.repr(value))
    except Exception:  # a whole number of more digits than Python prints, or a __repr__ that fails
        return f"a value of type {type(value).__name__}"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def described(item: object) -> str:
    """An object in words that are the same in every process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(item))

"""Numbers and metrics in words, the same on a page and in a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["counted", "duration", "metric_rows", "number", "parts_of_data", "training"]

_METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1_macro": "F1, mean of the classes",
    "log_loss": "log loss",
    "roc_auc": "area under ROC curve",
    "r2": "R²",
    "rmse": "root mean squared error",
    "mae": "mean absolute error",
}


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
    return [(_METRICS.get(name, name), number(value)) for name, value in metrics.items()]


def parts_of_data(result: Mapping[str, Any]) -> str:
    """digits: 1294 rows to train on, 144 to validate, 359 held out."""
    rows = result["rows"]
    parts = [f"{counted(rows['train'], 'row')} to train on"]
    parts += [f"{rows['validation']} to validate"] if rows["validation"] else []
    parts += [f"{rows['held_out']} held out"] if rows["held_out"] else []
    return f"{result['source']}: {', '.join(parts)}"


def training(result: Mapping[str, Any]) -> str:
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

"""The figures of a run, drawn by matplotlib without a display.

As inline SVG they take the colour of the surrounding text, so they are legible on light and dark pages.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp.cli.report.insight import BINS, Calibration, roc
from nnbp.explorer.explanation import spread
from nnbp.training.curve import INK, STYLE, TRAINING, matplotlib_parts

_POINTS = 2000
_CURVES = 8


def scatter(truth: NDArray[Any], predicted: NDArray[Any], name: str) -> Any:
    """Predictions against true values, residuals against predictions, and a histogram of the residuals.

    Args:
        truth, predicted: (m,), on the scale of the target; the points show at most 2000 rows, evenly spread.
        name: the name of the target.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    matplotlib = matplotlib_parts()
    chosen = spread(len(truth), _POINTS)
    x, y = np.asarray(truth, np.float64)[chosen], np.asarray(predicted, np.float64)[chosen]
    name = _short(name, 30)
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    dashed = {"color": INK, "linewidth": 0.8, "linestyle": (0, (4, 3)), "alpha": 0.6}
    points = {"color": TRAINING, "alpha": 0.6, "markersize": 4, "markeredgewidth": 0}
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure(figsize=(12.6, 4.0), layout="constrained")
        against, residuals, counts = figure.subplots(1, 3)
        against.plot([low, high], [low, high], **dashed, label="exact")
        against.plot(x, y, "o", **points, label="row")
        against.set(xlabel=f"true {name}", ylabel=f"predicted {name}")
        against.set_aspect("equal", adjustable="datalim")
        against.legend()
        residuals.axhline(0.0, **dashed)
        residuals.plot(y, x - y, "o", **points)
        residuals.set(xlabel=f"predicted {name}", ylabel="true − predicted")
        counts.hist(np.asarray(truth, np.float64) - predicted, bins=30, color=TRAINING, alpha=0.8)
        counts.set(xlabel="true − predicted", ylabel="rows")
    return figure


def _short(name: str, longest: int = 20) -> str:
    """A name, shortened if it is long; dollar signs are escaped, because matplotlib reads mathematics between them."""
    return (name if len(name) <= longest else f"{name[: longest - 1]}…").replace("$", r"\$")


def confidence(found: Calibration, truth: NDArray[Any], probabilities: NDArray[Any], labels: Any) -> Any:
    """Calibration of probabilities, and ROC curves of class 1 if there are two, else of each class against the others.

    If there are more than eight classes, those with the smallest areas are drawn.

    Args:
        found: the calibration.
        truth: class indices (m,).
        probabilities: (m, k).
        labels: the names of the k classes.
    """
    matplotlib = matplotlib_parts()
    classes = [1] if len(labels) == 2 else range(len(labels))
    curves = [
        (*roc(truth == k, probabilities[:, k]), _short(str(labels[k])))
        for k in classes
        if 0 < np.count_nonzero(truth == k) < len(truth)
    ]
    curves = sorted(curves, key=lambda curve: curve[2])[:_CURVES]
    dashed = {"color": INK, "linewidth": 0.8, "linestyle": (0, (4, 3)), "alpha": 0.6}
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure(figsize=(9.6, 4.0), layout="constrained")
        reliability, characteristic = figure.subplots(1, 2)
        reliability.plot([0, 1], [0, 1], **dashed, label="perfect calibration")
        reliability.plot(found.predicted, found.observed, color=TRAINING)
        sizes = 14 + 160 * found.rows / found.rows.max()
        reliability.scatter(
            found.predicted, found.observed, sizes, color=TRAINING, label="bin (larger: more rows)", zorder=3
        )
        for p, count in zip(found.predicted, found.rows, strict=True):
            middle = (np.floor(np.minimum(p, 1 - 1e-9) * BINS) + 0.5) / BINS
            reliability.text(middle, 1.1, str(count), size=8, alpha=0.8, ha="center", va="center")
        reliability.set(
            xlabel="predicted probability", ylabel="observed frequency", xlim=(-0.03, 1.03), ylim=(-0.03, 1.15)
        )
        reliability.set_title(f"Calibration, ECE {found.error:.3f}")
        reliability.legend()
        characteristic.plot([0, 1], [0, 1], **dashed)
        for k, (false, true, area, label) in enumerate(curves):
            characteristic.plot(false, true, color=f"C{k}", label=f"{label}: {area:.3f}")
        characteristic.set(xlabel="false positive rate", ylabel="true positive rate")
        few = f" of the {_CURVES} classes with the smallest AUC" if len(labels) > _CURVES else " and AUC"
        characteristic.set_title(f"ROC{few}")
        if curves:
            characteristic.legend(loc="lower right", fontsize=9)
    return figure

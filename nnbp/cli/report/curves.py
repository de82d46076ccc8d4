"""The pictures of a run: its training curve, and predictions against the truth, by matplotlib without a screen.

As inline SVG they take the colour of the text around them, so they can be read on light and dark pages alike.
"""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp.training.curve import INK, STYLE, TRAINING, matplotlib_parts

_POINTS = 2000


def scatter(truth: NDArray[Any], predicted: NDArray[Any], name: str) -> Any:
    """Predictions against the truth as a matplotlib figure, with the line on which both are equal.

    Args:
        truth, predicted: (m,), in the unit of the target; of more than 2000 rows an even choice is drawn.
        name: of the target.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    matplotlib = matplotlib_parts()
    chosen = np.unique(np.linspace(0, len(truth) - 1, min(len(truth), _POINTS)).round().astype(np.int64))
    x, y = np.asarray(truth, np.float64)[chosen], np.asarray(predicted, np.float64)[chosen]
    # Between dollar signs matplotlib reads mathematics.
    name = name.replace("$", r"\$")
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure(figsize=(4.6, 4.2), layout="constrained")
        axes = figure.subplots()
        axes.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.6, label="exact")
        axes.plot(x, y, "o", color=TRAINING, alpha=0.6, markersize=4.5, markeredgewidth=0, label="held-out row")
        axes.set_xlabel(f"true {name}")
        axes.set_ylabel(f"predicted {name}")
        axes.set_aspect("equal", adjustable="datalim")
        axes.legend()
    return figure


def inline_svg(figure: Any, label: str, prefix: str) -> str:
    """A figure as an SVG element for a page: in the colour of the text, ids of its own, no fonts from elsewhere.

    Args:
        figure: of matplotlib.
        label: what it shows, for those who cannot see it; plain text without markup.
        prefix: of its ids, different for each figure of a page.
    """
    matplotlib = matplotlib_parts()
    file = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\1{prefix}-", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)

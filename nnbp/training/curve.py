"""The training curve as a picture, by matplotlib, which is imported when it is drawn."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnbp.requirements import optional

TRAINING, VALIDATION = "#3b82c4", "#e07b28"
INK = "#010203"  # stands for the colour of the text around an inline picture
_TITLES = {"r2": "R²", "effective_parameters": "effective parameters"}

STYLE = {
    "font.size": 10,
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), INK),
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "grid.color": "#888888",
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    # The same run draws the same bytes.
    "svg.hashsalt": "nnbp",
}


def matplotlib_parts() -> Any:
    for part in ("figure", "ticker"):
        optional(f"matplotlib.{part}", "drawing")
    return optional("matplotlib", "drawing")


def curve(history: Mapping[str, Sequence[float]], best_epoch: int | None = None, figure: Any = None) -> Any:
    """The training curve as a matplotlib figure: the loss of every epoch, and beside it a panel for each metric.

    Args:
        history: "loss", metrics, and their "val_" if there are; one value per epoch, 1 or more.
        best_epoch: the epoch whose weights were kept, counted from 1; it is marked.
        figure: to draw on; None makes one that is not shown by itself.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    matplotlib = matplotlib_parts()
    panels = [name for name in history if not name.startswith("val_")]
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure() if figure is None else figure
        figure.set(figwidth=4.6 * len(panels), figheight=3.2, layout_engine="constrained")
        for axes, name in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _panel(matplotlib, axes, history, name, best_epoch)
    return figure


def _panel(matplotlib: Any, axes: Any, history: Mapping[str, Sequence[float]], name: str, best: int | None) -> None:
    drawn = [(name, "training", TRAINING), (f"val_{name}", "validation", VALIDATION)]
    drawn = [line for line in drawn if line[0] in history]
    values = {key: np.asarray(history[key], dtype=np.float64) for key, *_ in drawn}
    shown = np.concatenate([line[np.isfinite(line)] for line in values.values()])
    for key, label, colour in drawn:
        line = np.where(np.isfinite(values[key]), values[key], np.nan)
        # One epoch is a point, and a line of one point is not seen.
        axes.plot(np.arange(1, len(line) + 1), line, color=colour, label=label, marker="o" if len(line) == 1 else None)
    if name == "loss" and shown.size and 0 < 10 * shown.min() < shown.max():
        axes.set_yscale("log")
        # 0.1, 0.2, 0.5, and not 2 × 10⁻¹; over many decades only their ends.
        steps = (1.0, 2.0, 5.0) if shown.max() < 1000 * shown.min() else (1.0,)
        axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=steps))
        axes.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
        axes.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    if name == "r2":
        # The first epochs may be far below 0, where nothing is to be seen.
        axes.set_ylim(bottom=max(min(shown, default=0.0), -0.5), top=1.02)
    if best is not None:
        key, _, colour = drawn[-1]
        axes.axvline(best, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.6)
        axes.plot([best], [history[key][best - 1]], "o", color=colour, markersize=6, label=f"best epoch: {best}")
    axes.set_title(_TITLES.get(name, name))
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6, integer=True))
    axes.margins(x=0.02)
    axes.legend()


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

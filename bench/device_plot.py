"""The picture of the crossover: how many times as fast as on the CPU nnbp's step is on the GPU, by width and batch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .crossover import batches
from .plot import COLOURS, MARKERS

__all__ = ["draw"]

_TICKS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)


def draw(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes crossover.svg and crossover.png.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = batches(results["crossover"])
    widths = sorted({width for row in rows.values() for width, _ in row})
    every = [1.0, *(speedup for row in rows.values() for _, speedup in row)]
    low, high = 0.7 * min(every), 1.4 * max(every)
    with mpl.rc_context({"font.size": 10, "svg.fonttype": "none", "axes.spines.top": False}):
        figure = Figure(figsize=(7.2, 5.2), layout="constrained")
        ax = figure.subplots()
        ax.axhline(1.0, color="black", linewidth=1.5)
        for k, (batch, row) in enumerate(rows.items()):
            ax.plot(
                *zip(*row, strict=True), color=COLOURS[k % len(COLOURS)], marker=MARKERS[k % len(MARKERS)],
                markersize=5, linewidth=1.4, label=f"batch {batch:,}",
            )  # fmt: skip
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.set_xticks(widths, [str(width) for width in widths])
        ax.set_ylim(low, high)
        ticks = [tick for tick in _TICKS if low <= tick <= high]
        ax.set_yticks(ticks, [f"{tick:g}×" for tick in ticks])
        ax.minorticks_off()
        ax.grid(axis="y", color="0.9", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.spines["right"].set_visible(False)
        ax.set_xlabel("width w of a network w-w-w-10")
        ax.set_ylabel("step on the CPU ÷ step on the GPU")
        card, processor = results["environment"].get("gpu", "GPU").partition(",")[0], results["environment"]["cpu"]
        ax.set_title(f"nnbp on {card} and on {processor}: above 1×, the GPU is faster", loc="left", fontsize=10)
        handles, labels = ax.get_legend_handles_labels()
        ax.legend(handles[::-1], labels[::-1], frameon=False)
        paths = [folder / "crossover.svg", folder / "crossover.png"]
        for path in paths:
            figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths

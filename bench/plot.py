"""The picture: how many times nnbp's step each peer needs, for every network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .cases import PRECISIONS
from .steps import ratios
from .team import REFERENCE

__all__ = ["COLOURS", "MARKERS", "draw", "spread"]

# Okabe and Ito's colours, which people with any kind of colour vision can tell apart; black is nnbp's line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
_NAMES = {"sgd": "SGD", "adam": "Adam", "tanh": "tanh", "relu": "ReLU"}
_TICKS = (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100)


def draw(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes speed.svg and speed.png.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    kinds: dict[tuple[str, str], None] = {}
    panels: dict[tuple[str, tuple[str, str]], list[dict[str, Any]]] = {}
    for case in results["cases"]:
        kind = case["case"]["activation"], case["case"]["optimizer"]
        kinds[kind] = None
        panels.setdefault((case["case"]["precision"], kind), []).append(case)
    precisions = [name for name in PRECISIONS if any(precision == name for precision, _ in panels)]
    peers = [name for name in results["peers"] if name != REFERENCE and ratios(results["cases"], name)]
    every = [1.0, *(ratio for name in peers for ratio in ratios(results["cases"], name))]
    limits = (0.75 * min(every), 1.2 * max(every))
    with mpl.rc_context({"font.size": 10, "svg.fonttype": "none", "axes.spines.top": False}):
        figure = Figure(figsize=(6.2 * len(kinds), 5.2 * len(precisions)), layout="constrained")
        grid = figure.subplots(len(precisions), len(kinds), sharey=True, squeeze=False)
        for axes, precision in zip(grid, precisions, strict=True):
            for ax, kind in zip(axes, kinds, strict=True):
                cases = panels.get((precision, kind), [])
                ax.set_visible(bool(cases))
                if cases:
                    _panel(ax, cases, peers, results["peers"], limits)
                    words = [_NAMES[word] for word in kind] + ([precision] if len(precisions) > 1 else [])
                    ax.set_title(", ".join(words), loc="left", fontweight="bold")
            axes[0].set_ylabel("time of a training step, nnbp = 1")
        figure.suptitle(
            f"How many times as long as nnbp a training step takes: {_where(results)}",
            x=0.01, ha="left", fontsize=11,
        )  # fmt: skip
        paths = [folder / "speed.svg", folder / "speed.png"]
        for path in paths:
            figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def _where(results: Mapping[str, Any]) -> str:
    """The processor, or the GPU where the run took place on one."""
    environment, threads = results["environment"], results["options"]["threads"]
    if "gpu" in environment:
        card: str = environment["gpu"].partition(",")[0]
        return card
    return f"{environment['cpu']}, {threads} thread{'s' if threads > 1 else ''}"


def _panel(
    ax: Any,
    cases: Sequence[dict[str, Any]],
    peers: Sequence[str],
    facts: Mapping[str, Any],
    limits: tuple[float, float],
) -> None:
    labels: list[tuple[float, float, str, str]] = []
    ax.plot([-0.3, len(cases) - 0.8], [1.0, 1.0], color="black", linewidth=1.5)
    ax.set_yscale("log")
    for k, peer in enumerate(peers):
        values = [case["peers"].get(peer, {}).get("ratio", np.nan) for case in cases]
        colour = COLOURS[k % len(COLOURS)]
        marker = MARKERS[k % len(MARKERS)]
        ax.plot(range(len(cases)), values, color=colour, marker=marker, markersize=5, linewidth=1.4)
        measured = [(x, y) for x, y in enumerate(values) if np.isfinite(y)]
        if measured:
            labels.append((*measured[-1], facts[peer]["label"], colour))
    labels.append((len(cases) - 1, 1.0, "nnbp", "black"))
    names = [f"{'-'.join(map(str, case['case']['sizes']))}\nbatch {case['case']['batch']}" for case in cases]
    ax.set_xticks(range(len(cases)), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=9)
    low, high = limits
    ax.set_ylim(low, high)
    ticks = [t for t in _TICKS if low <= t <= high]
    ax.set_yticks(ticks, [f"{t:g}×" for t in ticks])
    ax.minorticks_off()
    ax.grid(axis="y", color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines["right"].set_visible(False)
    ax.set_xlim(-0.3, len(cases) - 1 + 0.35 * len(cases) * 0.75)
    gap = (np.log(high) - np.log(low)) / 22
    heights = np.exp(spread([float(np.log(y)) for _, y, *_ in labels], float(gap)))
    for (x, y, text, colour), height in zip(labels, heights, strict=True):
        end = len(cases) - 1 + 0.3
        ax.plot([x + 0.08, end], [y, height], color=colour, linewidth=0.6)
        ax.text(end + 0.06, height, text, color=colour, va="center", fontsize=9, fontweight="bold", zorder=3,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})  # fmt: skip


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Heights near the given ones, in the same order, at least `gap` apart."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    blocks: list[tuple[list[int], float]] = []
    for index in order:
        blocks.append(([index], heights[index]))
        while len(blocks) > 1 and _ends(blocks[-2], gap)[1] + gap > _ends(blocks[-1], gap)[0]:
            (left, a), (right, b) = blocks[-2:]
            blocks[-2:] = [([*left, *right], (a * len(left) + b * len(right)) / (len(left) + len(right)))]
    placed = [0.0] * len(heights)
    for members, centre in blocks:
        for k, index in enumerate(members):
            placed[index] = centre + (k - (len(members) - 1) / 2) * gap
    return placed


def _ends(block: tuple[list[int], float], gap: float) -> tuple[float, float]:
    half = (len(block[0]) - 1) / 2 * gap
    return block[1] - half, block[1] + half

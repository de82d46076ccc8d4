"""The picture of a run: how many times nnbp's step each peer needs, for every network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from ..peer import REFERENCE
from .facts import Results, Row, groups, peer_labels, ratios

# Okabe and Ito's colours and a grey, which people with any kind of colour vision can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_NAMES = {"sgd": "SGD", "adam": "Adam", "tanh": "tanh", "relu": "ReLU"}
_TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 20, 30, 50, 100, 200, 500, 1000)


def draw(folder: Path, results: Results) -> None:
    """Writes speed.svg and speed.png, if any case was measured.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl

    if results["cases"]:
        with mpl.rc_context({"font.size": 10, "svg.fonttype": "none", "axes.spines.top": False}):
            figure = _speed(results)
            figure.savefig(folder / "speed.svg", metadata={"Date": None})
            figure.savefig(folder / "speed.png", dpi=160)


def _speed(results: Results) -> Any:
    """A panel per device, precision and kind of training, with a line per peer over the networks."""
    from matplotlib.figure import Figure

    peers = peer_labels(results, but=REFERENCE)
    panels: dict[tuple[str, str], dict[tuple[str, str], list[Row]]] = {}
    for group, rows in groups(results).items():
        for row in rows:
            kind = row["case"]["activation"], row["case"]["optimizer"]
            panels.setdefault(group, {}).setdefault(kind, []).append(row)
    kinds = list(dict.fromkeys(kind for by_kind in panels.values() for kind in by_kind))
    figure = Figure(figsize=(6.2 * len(kinds), 0.8 + 4.6 * len(panels)), layout="constrained")
    grid = figure.subplots(len(panels), len(kinds), sharey=True, squeeze=False)
    every = [1.0, *(ratio for row in results["cases"] for ratio in ratios(row).values())]
    low, high = 0.75 * min(every), 1.3 * max(every)
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    for axes, (group, by_kind) in zip(grid, panels.items(), strict=True):
        for ax, kind in zip(axes, kinds, strict=True):
            ax.set_visible(kind in by_kind)
            ax.set_title(", ".join([*group, *(_NAMES[word] for word in kind)]), loc="left", fontweight="bold")
            ax.set_yscale("log")
            ax.set_ylim(low, high)
            ax.set_yticks(ticks, [f"{tick:g}×" for tick in ticks])
            ax.minorticks_off()
            ax.grid(axis="y", color="0.9", linewidth=0.8)
            ax.spines["right"].set_visible(False)
            _lines(ax, by_kind.get(kind, []), peers)
        axes[0].set_ylabel("time of a training step, nnbp = 1")
    figure.suptitle(f"How many times as long as nnbp a training step takes: {_where(results)}", x=0.01, ha="left")
    handles, names = next(ax for ax in grid.flat if ax.get_visible()).get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", frameon=False)
    return figure


def _lines(ax: Any, rows: Sequence[Row], peers: Mapping[str, str]) -> None:
    """A line per peer, and nnbp's."""
    ax.axhline(1.0, color="black", linewidth=1.5, label="nnbp")
    for (name, label), colour, marker in zip(peers.items(), cycle(_COLOURS), cycle(_MARKERS), strict=False):
        values = [ratios(row).get(name, float("nan")) for row in rows]
        ax.plot(range(len(rows)), values, label=label, color=colour, marker=marker, markersize=5, linewidth=1.4)
    networks = [row["title"].split()[0].replace("@", "\nbatch ") for row in rows]
    ax.set_xticks(range(len(rows)), networks, rotation=40, ha="right", rotation_mode="anchor", fontsize=9)


def _where(results: Mapping[str, Any]) -> str:
    """The GPUs by name, and the processor."""
    environment = results["environment"]
    return ", ".join([*(card.partition(",")[0] for card in environment["gpus"].values()), environment["cpu"]])

"""What is measured of the peers of a device: training steps, predictions, whole fits, imports, and a step's parts."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from functools import partial
from typing import Any

from ..cases import DIGITS, INFERENCE, INFERENCE_BATCHES, Case
from ..peer import REFERENCE, load
from ..workers.limits import ways
from .process import WorkerError
from .team import Team
from .turns import attempt, in_turn

TOLERANCES = {"sgd": 1e-3, "adam": 2e-2}
"""Relative difference of a peer's loss from nnbp's. Adam divides by the size of gradients: where that is near 0,
rounding decides the direction of a step."""

LOW_TOLERANCES = {"fp32": 0.0, "tf32": 2e-2, "bf16": 1e-1}
"""The same for products of factors with 11 or 8 bits: libraries round in different places, and differ as those do."""

_DIGITS_EPOCHS, _LARGE_EPOCHS = 30, 3
_IMPORT = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"

Found = dict[str, dict[str, Any]]
"""Of each peer what was found, or its ``error``."""


def check_epochs(device: str) -> int:
    """Epochs after which losses are compared; those of a GPU are long."""
    return 3 if device == "cpu" else 1


def steps(team: Team, case: Case, rounds: int, seconds: float, *, alone: bool = False) -> dict[str, Any]:
    """Training steps of a case.

    Args:
        team: who trains.
        case: the case.
        rounds: measurements of each.
        seconds: of one measurement, about.
        alone: whether only nnbp is measured.

    Returns:
        ``case`` and ``title``; ``peers``, of each the times of a step as `in_turn` returns them, its ``loss`` and how
        it agrees with nnbp's; ``limit``, the times of the products alone in each way.
    """
    peers, epochs = ([REFERENCE], 1) if alone else (team.present, check_epochs(case.device))
    found = _prepared(team, case, peers, epochs)
    clocks = {peer: partial(team.ask, peer, "step", seconds=seconds) for peer in _sound(found)}
    several = () if alone else ways(case, team.threads)
    for way in several:
        clocks[way] = partial(team.ask, "", "limit", case=case.dump(), way=way, seconds=seconds / 2 / len(several))
    times = in_turn(clocks, rounds)
    limit = {way: times.pop(way) for way in several}
    for peer, values in times.items():
        found[peer] |= values
    compare_losses(case, found, [peer for peer in found if not team.facts[peer]["own_order"]])
    return {"case": case.dump(), "title": case.title, "peers": found, "limit": limit}


def _prepared(team: Team, case: Case, peers: Sequence[str], epochs: int) -> Found:
    """The peers at a case, and the ``loss`` of each after so many epochs."""

    def ready(peer: str) -> dict[str, Any]:
        return {"loss": team.ask(peer, "prepare", case=case.dump(), epochs=epochs)}

    return team.each(peers, partial(attempt, ready))


def _sound(found: Found) -> list[str]:
    return [peer for peer, values in found.items() if "error" not in values]


def compare_losses(case: Case, found: Found, peers: Sequence[str]) -> None:
    """Adds the relative difference from nnbp's loss, the tolerance, and whether they agree."""
    reference = found.get(REFERENCE, {}).get("loss")
    tolerance = max(TOLERANCES[case.optimizer], LOW_TOLERANCES[case.precision])
    for peer in peers:
        if reference is not None and "error" not in found[peer]:
            difference = abs(found[peer]["loss"] - reference) / abs(reference)
            # A loss that is NaN agrees with none.
            found[peer] |= {"difference": difference, "tolerance": tolerance, "agrees": difference <= tolerance}


def predictions(team: Team, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Predictions of class indices from NumPy to NumPy: of every network and number of rows the times of each peer."""
    rows = []
    for case in INFERENCE:
        found = _prepared(team, case, team.present, 1)
        for batch in INFERENCE_BATCHES:
            clocks = {peer: partial(team.ask, peer, "infer", batch=batch, seconds=seconds) for peer in _sound(found)}
            title = f"{case.network.partition('@')[0]}, {batch:,} rows"
            rows.append({"case": case.dump(), "title": title, "peers": {**found, **in_turn(clocks, rounds)}})
    return rows


def fits(team: Team, largest: Case) -> list[dict[str, Any]]:
    """Memory and time of whole fits: as long as one on scikit-learn's digits by every peer, and a large one by nnbp."""
    own = [peer for peer in team.present if peer == REFERENCE]
    rows = []
    for case, epochs, peers in [(DIGITS, _DIGITS_EPOCHS, team.present), (largest, _LARGE_EPOCHS, own)]:
        found = {peer: attempt(_fit, team, peer, case, epochs) for peer in peers}
        rows.append({"case": case.dump(), "title": f"{case.title}, {epochs} epochs", "peers": found})
    return rows


def _fit(team: Team, peer: str, case: Case, epochs: int) -> dict[str, Any]:
    with team.alone(peer) as worker:
        spent: dict[str, Any] = worker.ask("memory", case=case.dump(), epochs=epochs)
    return spent


def imports(team: Team, runs: int) -> Found:
    """Imports of NumPy and of the modules of each peer, in fresh interpreters."""
    pythons = {"numpy": team.python(REFERENCE)}
    for peer in team.present:
        # A peer from a file of one's own may import anything.
        if not peer.endswith(".py"):
            pythons |= {module: team.python(peer) for module in load(peer).modules if module not in pythons}
    with tempfile.TemporaryDirectory() as folder:
        # All have bytecode, as for people who import them, even if the environment forbids it beside the sources.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = folder
        clocks = {module: partial(_import, module, python, environment) for module, python in pythons.items()}
        # The first run leaves bytecode and the file cache behind.
        in_turn(clocks, 1)
        return in_turn(clocks, runs)


def _import(module: str, python: str, environment: dict[str, str]) -> float:
    done = subprocess.run(
        [python, "-c", _IMPORT.format(module)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise WorkerError(f"import {module} failed in {python}: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout)

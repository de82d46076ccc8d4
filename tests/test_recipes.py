"""The code of the recipes, and of other pages, runs as it stands and prints what the page shows; promises hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnbp

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [*sorted((DOCS / "recipes").glob("*.md")), DOCS / "sklearn.md", DOCS / "cross-device.md"]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_recipe_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = page.read_text(encoding="utf-8")
    for library in re.findall(r"^(?:import|from) (optuna|scipy|sklearn)\b", text, re.MULTILINE):
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    blocks = re.findall(r"^```(python|text)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert blocks
    for language, block in blocks:
        if language == "python":
            exec(compile(block, page.name, "exec"), names)
        else:
            assert capsys.readouterr().out == block


def test_processes_of_joblib_have_the_threads_that_joblib_gives_them() -> None:
    """So that a search over networks does not use more threads than there are cores."""
    joblib = pytest.importorskip("joblib")

    def threads() -> int:
        from nnbp.backends.cpu.threads import blas

        nnbp.Network([2, 1], device="cpu", seed=0).partial_fit([[0.0, 1.0]], [1.0])
        return blas().threads

    with joblib.parallel_config("loky", n_jobs=2, inner_max_num_threads=1):
        found = joblib.Parallel()(joblib.delayed(threads)() for _ in range(2))
    assert found == [1, 1]


def test_a_network_can_be_used_after_a_callback_has_pruned_its_training() -> None:
    optuna = pytest.importorskip("optuna")

    def prune(state: nnbp.TrainingState) -> None:
        if state.epoch == 3:
            raise optuna.TrialPruned

    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    y = X[:, 0] * X[:, 1]
    options = {"validation_data": (X[40:], y[40:]), "progress": False}
    net, same = (nnbp.Network([2, 8, 1], device="cpu", seed=0) for _ in range(2))
    with pytest.raises(optuna.TrialPruned):
        net.fit(X[:40], y[:40], epochs=9, callbacks=[prune], **options)
    history = same.fit(X[:40], y[:40], epochs=3, **options)
    assert net.history is not None
    assert net.history["val_loss"] == history["val_loss"]
    assert np.array_equal(net.parameters, same.parameters)
    assert net.fit(X, y, epochs=2, progress=False).epochs == 2

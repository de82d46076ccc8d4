"""The code of README and of every page runs as it stands and prints what the page shows; promises hold.

A page may say of its next block, in an HTML comment, what a reader does not see: `needs torch` or `needs a GPU` (else
the block is skipped), `without warnings`, `on 2 ranks` (mpiexec runs it), or `setup` with code that runs before it.
"""

from __future__ import annotations

import re
import shlex
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi import MPIEXEC, ended, start

import nnbp
from nnbp.cli.main import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PARTS = re.compile(
    r"^<!-- (needs|without warnings|setup|on)(.*?)-->$|^```(python|text|console)\n(.*?)^```$", re.M | re.S
)
WITH_CODE = [page for page in PAGES if any(part[3] for part in PARTS.findall(page.read_text(encoding="utf-8")))]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.stem)
def test_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = page.read_text(encoding="utf-8")
    for library in re.findall(r"^(?:import|from) (optuna|scipy|sklearn|onnxruntime|pandas)\b", text, re.M):
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    missing = quiet = False
    ranks = 0
    for comment, what, language, block in PARTS.findall(text):
        if comment == "needs":
            gpu = any(device.works for device in nnbp.devices()[1:])
            missing = not gpu if "GPU" in what else find_spec(what.strip()) is None
        elif comment == "on":
            ranks, missing = int(what.split()[0]), MPIEXEC is None or find_spec("mpi4py") is None
        elif comment == "without warnings":
            quiet = True
        elif comment == "setup":
            exec(compile(what, f"{page.name}, setup", "exec"), names)
        elif language == "python":
            code = compile(block, page.name, "exec")
            if not missing and ranks:
                Path("script.py").write_text(block, encoding="utf-8")
                failed, out, err = ended(start(ranks, "-m", "mpi4py", "script.py"))
                assert not failed, err
                print(out, end="")
            elif not missing:
                with warnings.catch_warnings():
                    if quiet:
                        warnings.simplefilter("ignore")
                    exec(code, names)
            quiet, ranks = False, 0
        elif language == "console":
            for line in block.splitlines():
                if line.startswith("nnbp "):
                    assert main([*shlex.split(line, comments=True)[1:]]) == 0, line
            capsys.readouterr()
        elif not missing:
            assert capsys.readouterr().out == block
        if language == "text" or comment == "setup":
            missing = False


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

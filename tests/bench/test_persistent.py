"""The comparison of two ways to run small steps, on the emulation: its times mean nothing, what it runs does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from emulated_cupy import emulated_backend_class
from kernel_samples import needs_compiler

from bench import persistent
from bench.cases import Case
from nnbp.errors import DeviceUnavailableError


@needs_compiler
def test_both_ways_of_a_step_are_measured(monkeypatch):
    monkeypatch.setattr("nnbp.backends.cuda.codegen_fused.THREADS", 32)
    monkeypatch.setattr(persistent, "_ROUNDS", 2)
    case = Case((4, 3, 2), 2, "relu", "adam", 8, device="cuda:0", shuffle=False)
    backends: list[Any] = []

    def opened(least: int | None) -> Any:
        backends.append(emulated_backend_class()(persistent=least))
        return backends[-1]

    title, graph, one_kernel, ratio = persistent.measured(case, opened, 1e-2).strip("| ").split(" | ")
    assert title == case.title
    assert float(ratio) == pytest.approx(float(graph) / float(one_kernel), rel=0.1)
    assert ["steps" in {name for name, _ in backend._kernels} for backend in backends] == [False, True]


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(
        persistent, "open_backend", lambda name, fallback: (_ for _ in ()).throw(DeviceUnavailableError(name))
    )
    with pytest.raises(SystemExit, match="error: cuda"):
        persistent.main()


@pytest.mark.gpu
def test_on_a_gpu(capsys, monkeypatch):
    found = list(persistent.cases("cuda:0"))
    assert len({case.title for case in found}) == len(found) == 12
    monkeypatch.setattr(persistent, "cases", lambda device: [replace(found[0], device=device)])
    persistent.main()
    assert found[0].title in capsys.readouterr().out

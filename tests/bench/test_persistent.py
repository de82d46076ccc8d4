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
from nnbp.graph.backend import backend_class


def test_the_cases_lie_on_either_side():
    found = list(persistent.cases("cuda:0"))
    assert len({case.title for case in found}) == len(found) == 12
    assert all(case.device == "cuda:0" and case.batches >= 32 for case in found)


@needs_compiler
def test_both_ways_of_a_step_are_measured(monkeypatch):
    monkeypatch.setattr("nnbp.backends.cuda.codegen_fused.THREADS", 32)
    monkeypatch.setattr(persistent, "_ROUNDS", 2)
    case = Case((4, 3, 2), 2, "relu", "adam", 8, device="cuda:0", shuffle=False)
    backends: list[Any] = []

    def opened(least: int | None) -> Any:
        backends.append(emulated_backend_class()(persistent=least))
        return backends[-1]

    row = persistent.measured(case, opened, 1e-2)
    assert row.title == case.title
    assert min(row.graph, row.one_kernel) > 0
    assert ["steps" in {name for name, _ in backend._kernels} for backend in backends] == [False, True]


def test_the_table():
    *_, last = persistent.report([persistent.Row("a", 30.0, 10.0)])
    assert last.split() == ["|", "a", "|", "30.0", "|", "10.0", "|", "3.00", "|"]


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(
        persistent, "open_backend", lambda name, fallback: (_ for _ in ()).throw(DeviceUnavailableError(name))
    )
    with pytest.raises(SystemExit, match="error: cuda"):
        persistent.main()


@pytest.mark.gpu
def test_on_a_gpu(capsys, monkeypatch):
    small = next(persistent.cases("cuda:0"))
    monkeypatch.setattr(persistent, "cases", lambda device: [replace(small, device=device)])
    persistent.main()
    assert small.title in capsys.readouterr().out
    assert backend_class("cupy")(persistent=None)._persistent is None  # type: ignore[call-arg,attr-defined]

"""A machine whose environment names no device, and the ways in which a GPU on it can fail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_cupy import CASES, FakeCupy

from nnbp.device import probe as probe_module
from nnbp.device.probe import Reason, refresh


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("NNBP_REQUIRE_GPU", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    # The texts for Windows and macOS have a test of their own.
    monkeypatch.setattr(probe_module.sys, "platform", "linux")
    yield
    refresh()


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Reason, str, str]:
    """One way in which a GPU fails, made to happen: its reason, a part of the message, a part of the fix."""
    reason, behaviour, message, fix = CASES[request.param]
    FakeCupy(**behaviour).install(monkeypatch)
    return reason, message, fix

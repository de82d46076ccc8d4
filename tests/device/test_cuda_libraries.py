"""The CUDA libraries: versions, and whether each loads; the version of the driver."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pytest
from fake_cupy import FakeCupy

from nnbp.device.cuda_libraries import Library, driver_version, libraries


def test_each_library_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCupy().install(monkeypatch)
    versions = {library.name: library.version for library in libraries()}
    assert versions == {"CuPy": "14.2.0", "NVRTC": "13.0", "cuBLAS": "13.1.0", "nvmath-python": "1.0.0"}
    assert all(library.loads for library in libraries())


def test_what_is_not_installed_or_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCupy(installed=False, nvmath=None).install(monkeypatch)
    assert libraries() == [Library(name, False) for name in ("CuPy", "NVRTC", "cuBLAS", "nvmath-python")]
    FakeCupy(import_error=ImportError("bad ABI")).install(monkeypatch)
    cupy, nvrtc, *_ = libraries()
    assert (cupy.installed, cupy.loads, cupy.message) == (True, False, "ImportError: bad ABI")
    assert not nvrtc.loads


class Nvml:
    """NVIDIA's management library."""

    def __init__(self, status: int = 0) -> None:
        self.status, self.open = status, False

    def nvmlInit_v2(self) -> int:
        self.open = self.status == 0
        return self.status

    def nvmlSystemGetDriverVersion(self, text: Any, size: ctypes.c_uint) -> int:
        assert self.open
        assert size.value == len(text)
        text.value = b"580.65.06"
        return 0

    def nvmlShutdown(self) -> int:
        self.open = False
        return 0


def _missing(name: str) -> Any:
    raise OSError(f"{name}: cannot open shared object file")


@pytest.mark.parametrize(
    ("load", "version"),
    [
        (lambda name: Nvml(), "580.65.06"),
        (lambda name: Nvml(status=9), None),
        (lambda name: object(), None),
        (_missing, None),
    ],
)
def test_the_version_of_the_driver(
    load: Callable[[str], Any], version: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", load)
    assert driver_version() == version


@pytest.mark.parametrize(("platform", "file"), [("linux", "libnvidia-ml.so.1"), ("win32", "nvml.dll")])
def test_the_management_library_has_its_system_s_name(
    platform: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: asked.append(name) or Nvml())
    monkeypatch.setattr("nnbp.device.cuda_libraries.sys.platform", platform)
    driver_version()
    assert asked == [file]

"""The CUDA libraries that a GPU computes with: their versions, and whether each loads."""

from __future__ import annotations

import ctypes
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from nnbp.device.probe import said
from nnbp.requirements import importable


@dataclass(frozen=True)
class Library:
    """A library, and whether it loads.

    Attributes:
        name: as its makers write it.
        installed: whether the package that brings it is there.
        version: None if it does not load, or does not tell.
        message: why it does not load; empty if it does.
    """

    name: str
    installed: bool
    version: str | None = None
    message: str = ""

    @property
    def loads(self) -> bool:
        return self.installed and not self.message


def libraries() -> list[Library]:
    """CuPy, NVRTC, cuBLAS and nvmath-python; never raises. What is installed of them is imported."""
    return [
        _tried("CuPy", "cupy", lambda: import_module("cupy").__version__),
        _tried("NVRTC", "cupy", lambda: _dotted(import_module("cupy").cuda.nvrtc.getVersion())),
        # cublasGetProperty: major, minor and patch; it needs no handle, and so no memory of a card.
        _tried("cuBLAS", "nvmath", lambda: _dotted(map(_cublas().get_property, range(3)))),
        _tried("nvmath-python", "nvmath", lambda: _cublas() and import_module("nvmath").__version__),
    ]


def _tried(name: str, package: str, version: Callable[[], object]) -> Library:
    if not importable(package):
        return Library(name, False)
    try:
        with warnings.catch_warnings(action="ignore"):
            return Library(name, True, str(version()))
    except Exception as error:
        return Library(name, True, None, said(error))


def _cublas() -> Any:
    return import_module("nvmath.bindings.cublas")


def _dotted(numbers: Iterable[int]) -> str:
    return ".".join(map(str, numbers))


def driver_version() -> str | None:
    """The version of the NVIDIA driver, "580.65.06", as its management library tells it; None if there is none."""
    text = ctypes.create_string_buffer(80)
    try:
        library = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
        if library.nvmlInit_v2() != 0:
            return None
        library.nvmlSystemGetDriverVersion(text, ctypes.c_uint(len(text)))
        library.nvmlShutdown()
    except (OSError, AttributeError):
        return None
    return text.value.decode(errors="replace") or None

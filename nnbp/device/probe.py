"""Does a GPU work here, and if not, why not? Each way to fail has its own reason and the command that mends it.

"Works" is proved: CuPy imports, the card is counted, an elementwise kernel compiles and runs, a small GEMM comes
back right, and the CuPy backend opens. A count proves little: the plain CuPy wheel counts cards and cannot compute.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from importlib import import_module
from textwrap import shorten
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp.graph.backend import Backend, backend_class
from nnbp.graph.ops import Gemm
from nnbp.requirements import CUDA, importable, pip_install
from nnbp.version import installed

_KNOWN_CUPY = (
    *("cupy", "cupy-cuda12x", "cupy-cuda13x", "cupy-cuda11x", "cupy-cuda102", "cupy-cuda110", "cupy-cuda111"),
    *("cupy-rocm-4-3", "cupy-rocm-5-0", "cupy-rocm-7-0", "cupy-rocm-7-1", "cupy-rocm-7-14", "amd-cupy"),
)
"""Distributions that install a package `cupy` on Python 3.11 or later; after CuPy's own list of what cannot coexist."""

_WHEELS = {f"cupy-cuda{major}x": major for major in CUDA}
"""CuPy's wheels for the versions of CUDA that nnbp supports."""

# Texts of the dynamic loaders, of CuPy's softlink and compiler modules, and of cuda-pathfinder.
_NOT_LOADED = re.compile(
    r"cannot open shared object|Failure finding|failed to load|DLL load failed|Could not find module"
)
_LIBRARY = re.compile(
    r"lib(?:cu|nv)\w+\.so[.\d]*|\b(?:cu|nv)\w+\.dll|(?<=importing )(?:cu|nv)\w+|CUDA headers", re.IGNORECASE
)

_CUDA_FIXES = {
    "OutOfMemory|cudaErrorMemoryAllocation": "free memory on the card: `nvidia-smi` lists the processes that hold it",
    "cudaErrorDevicesUnavailable": "free the card: `nvidia-smi` shows who holds it, and its compute mode",
    "cudaErrorInitializationError": (
        'start processes afresh instead of forking them, `multiprocessing.set_start_method("spawn")`: '
        "CUDA does not survive a fork"
    ),
    "cudaErrorSystemDriverMismatch": "restart, `sudo reboot`: the driver was updated under a running kernel module",
    "cudaErrorOperatingSystem": "give this user access to the files `ls -l /dev/nvidia*`",
    "": "look whether `nvidia-smi` shows the card in good health",
}
"""The fix of a device error, by a pattern of its text: the first that matches counts, and the last matches always."""


class Reason(StrEnum):
    """Why a GPU does not work."""

    CUPY_NOT_INSTALLED = "cupy-not-installed"
    TWO_CUPY_WHEELS = "two-cupy-wheels"
    CUPY_IMPORT_FAILED = "cupy-import-failed"
    NO_DRIVER = "no-driver"
    DRIVER_TOO_OLD = "driver-too-old"
    NO_DEVICE = "no-device"
    NO_SUCH_INDEX = "no-such-index"
    LIBRARY_MISSING = "cuda-library-missing"
    CARD_UNSUPPORTED = "card-unsupported"
    DEVICE_ERROR = "device-error"
    WRONG_RESULT = "wrong-result"
    BACKEND_FAILED = "backend-failed"


@dataclass(frozen=True)
class Verdict:
    """What the probe of one GPU found.

    Attributes:
        reason: why it does not work; None if it does.
        message: the reason in words, without a full stop.
        fix: what would mend it; commands stand in backticks.
        count: how many GPUs CuPy sees; 0 if that could not be asked.
    """

    reason: Reason | None = None
    message: str = ""
    fix: str = ""
    count: int = 0

    @property
    def works(self) -> bool:
        return self.reason is None


def probe(index: int = 0) -> Verdict:
    """Whether the GPU of this index works, else why not; found out at the first call, never raises.

    Args:
        index: as CuPy counts, in what CUDA_VISIBLE_DEVICES leaves.
    """
    # A forked child inherits the verdict and not the CUDA context that it was about.
    return _probe(index, os.getpid())


def refresh() -> None:
    """Forgets all verdicts: the next probe looks again."""
    _probe.cache_clear()


@cache
def _probe(index: int, process: int) -> Verdict:
    # CuPy's warnings are not about anything that the user has done; the verdict says what matters.
    with warnings.catch_warnings(action="ignore"):
        return _tried(index)


def _tried(index: int) -> Verdict:
    if not importable("cupy"):
        return _not_installed(cuda_of_driver())
    wheels = cupy_distributions()
    if len(wheels) > 1:
        return _two_wheels(wheels, cuda_of_driver())
    # A CuPy without metadata, such as one on PYTHONPATH, goes by the name of its package.
    wheel = next(iter(wheels), "cupy")
    try:
        cupy = import_module("cupy")
        runtime = cupy.cuda.runtime
    except Exception as error:
        message = f"CuPy is installed but cannot be imported: {said(error)}"
        return _missing_library(error, wheel) or Verdict(Reason.CUPY_IMPORT_FAILED, message, _reinstall(wheel))
    count = 0
    try:
        count = int(runtime.getDeviceCount())
        if count == 0:
            return _no_device()
        if index >= count:
            return _no_such_index(index, count)
        with cupy.cuda.Device(index):
            wrong = _wrong_result(cupy)
    except Exception as error:
        return replace(_diagnose(error, runtime, wheel), count=count)
    try:
        wrong = wrong or _wrong_product(backend_class("cupy")(index))
    except Exception as error:
        message = f"CuPy works on GPU {index}, but nnbp's backend does not: {said(error)}"
        command = cuda_command(wheel)
        fix = command if isinstance(error, ImportError) else f"what the error names, or {command}"
        return Verdict(Reason.BACKEND_FAILED, message, fix, count)
    if not wrong:
        return Verdict(count=count)
    fix = (
        f"{_reinstall(wheel)}; where the result stays wrong, the card or its driver is at fault, and `nvidia-smi -q "
        "-d ECC,ROW_REMAPPER` shows the errors of its memory"
    )
    return Verdict(Reason.WRONG_RESULT, f"GPU {index} computes wrongly: {wrong}", fix, count)


def _wrong_result(cupy: Any) -> str:
    """Runs a kernel and a GEMM on the current GPU; returns what came back wrong, or nothing.

    The values are small whole numbers: exact in float32, and also where the user has switched TF32 on.
    """
    # A kernel in CuPy's cache on disk runs without its compiler, which then is missing at the first new one.
    cupy.cuda.nvrtc.getVersion()
    x = np.arange(-300, 300, dtype=np.float32)
    kernel = cupy.ElementwiseKernel("float32 x", "float32 y", "y = 2 * x - 1", "nnbp_probe")
    if not np.array_equal(cupy.asnumpy(kernel(cupy.asarray(x))), 2 * x - 1):
        return "the elementwise kernel y = 2x - 1 came back with other values"
    a, b = _factors()
    if not np.array_equal(cupy.asnumpy(cupy.matmul(cupy.asarray(a), cupy.asarray(b))), a @ b):
        return "the product of a (48, 32) and a (32, 16) matrix came back with other values"
    return ""


def _wrong_product(backend: Backend) -> str:
    """The same product as the engine has it: from cuBLAS by other bindings, launched, and from a graph."""
    a, b = _factors()
    with backend.active():
        x, y, out = backend.upload(a, a.dtype), backend.upload(b, b.dtype), backend.empty((48, 16), a.dtype)
        run = backend.compile([Gemm(x, y, out)])
        # A backend may record what it sees again, and run the record from then on.
        for _ in range(4):
            out[...] = 0
            run()
            if not np.array_equal(backend.download(out), a @ b):
                return "the product of a (48, 32) and a (32, 16) matrix came back from a step with other values"
    return ""


def _factors() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    a = (np.arange(48 * 32, dtype=np.float32) % 7 - 3).reshape(48, 32)
    return a, (np.arange(32 * 16, dtype=np.float32) % 5 - 2).reshape(32, 16)


def cupy_distributions() -> dict[str, str]:
    """Installed distributions that bring a package `cupy`, with their versions; more than one break each other."""
    return {name: found for name in _KNOWN_CUPY if (found := installed(name))}


def cuda_of_driver() -> int | None:
    """Newest CUDA version that the NVIDIA driver knows, as 1000 major + 10 minor; None if there is no driver."""
    number = ctypes.c_int(0)
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        library.cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return None
    return number.value or None


def cuda_name(number: int) -> str:
    """A CUDA version as people write it: 12080 is "12.8"."""
    return f"{number // 1000}.{number % 1000 // 10}"


def said(error: BaseException) -> str:
    """The line of an error that says something: CuPy frames an import error with advice and rulers."""
    lines = [line.strip() for line in str(error).partition("Original error:")[2].splitlines()]
    lines += [line.strip() for line in str(error).splitlines()]
    line = next((line for line in lines if line.strip("=")), "")
    if not line.startswith(type(error).__name__):
        line = f"{type(error).__name__}: {line}"
    return shorten(line.rstrip(": ."), 160, placeholder=" …")


def _driver_fix() -> str:
    if sys.platform == "darwin":
        return 'ask for device="cpu": macOS has no driver for NVIDIA cards'
    if sys.platform == "win32":
        return "install NVIDIA's driver from https://www.nvidia.com/drivers and restart"
    return (
        "install NVIDIA's driver (`sudo ubuntu-drivers install` on Ubuntu, https://www.nvidia.com/drivers elsewhere) "
        "and restart; in a container, start it with `docker run --gpus all`"
    )


def _install(cuda: int, replaced: Collection[str] = ()) -> str:
    """The command that installs CuPy for this major version of CUDA.

    Args:
        cuda: 12 or 13.
        replaced: distributions to remove; as they share files, all of them must go before the new one comes.
    """
    uninstall = f"python -m pip uninstall -y {' '.join(replaced)} && " if replaced else ""
    return f"`{uninstall}{pip_install(*CUDA[cuda])}`"


def _install_either(replaced: Collection[str] = ()) -> str:
    """Both commands, for a driver that is not known."""
    return f"{_install(13, replaced)} (driver 580 or later) or {_install(12, replaced)} (driver 525 or later)"


def _newest_cuda(driver: int | None) -> int:
    """The newest major version of CUDA that a driver of at least 12.0 runs; 13 without a driver."""
    return 12 if driver is not None and driver < 13000 else 13


def cuda_command(wheel: str) -> str:
    """The command that adds CUDA's libraries and the bindings to them to the CuPy that is installed."""
    if wheel in _WHEELS:
        return _install(_WHEELS[wheel])
    return _install(_newest_cuda(cuda_of_driver()), [wheel])


def _reinstall(wheel: str) -> str:
    if wheel in _WHEELS:
        return f'`python -m pip install --upgrade --force-reinstall "{wheel}[ctk]"`'
    return cuda_command(wheel)


def _not_installed(driver: int | None) -> Verdict:
    message = "CuPy is not installed"
    if driver is None:
        message += ", and no NVIDIA driver was found either"
        fix = _driver_fix() if sys.platform == "darwin" else f"{_driver_fix()}; then {_install_either()}"
    elif driver < 12000:
        message += f", and the NVIDIA driver is too old: it knows CUDA {cuda_name(driver)}, CuPy needs 12"
        fix = f"update the driver to 525 or later (https://www.nvidia.com/drivers), then {_install_either()}"
    else:
        fix = _install(_newest_cuda(driver))
    return Verdict(Reason.CUPY_NOT_INSTALLED, message, fix)


def _two_wheels(wheels: Mapping[str, str], driver: int | None) -> Verdict:
    listed = " and ".join(f"{name} {number}" for name, number in wheels.items())
    message = f"{len(wheels)} CuPy packages are installed, and they overwrite each other's files: {listed}"
    fix = _install_either(wheels) if driver is None else _install(_newest_cuda(driver), wheels)
    return Verdict(Reason.TWO_CUPY_WHEELS, message, fix)


def _no_driver() -> Verdict:
    return Verdict(Reason.NO_DRIVER, "no NVIDIA driver is installed", _driver_fix())


def _driver_too_old(driver: int, runtime: int, wheel: str) -> Verdict:
    message = f"the NVIDIA driver is too old: it knows CUDA {cuda_name(driver)}, and this CuPy needs {runtime // 1000}"
    update = f"update the driver to {580 if runtime >= 13000 else 525} or later (https://www.nvidia.com/drivers)"
    if driver >= 12000 and runtime >= 13000:
        update = f"{_install(12, [wheel])}, or {update}"
    return Verdict(Reason.DRIVER_TOO_OLD, message, update)


def _no_device() -> Verdict:
    message = "the NVIDIA driver is there but finds no GPU"
    fix = "look whether `nvidia-smi -L` lists a card; in a container, start it with `docker run --gpus all`"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        message += f" that the environment lets it see: CUDA_VISIBLE_DEVICES is {hidden!r}"
        fix = "`set CUDA_VISIBLE_DEVICES=`" if sys.platform == "win32" else "`unset CUDA_VISIBLE_DEVICES`"
    return Verdict(Reason.NO_DEVICE, message, fix)


def _no_such_index(index: int, count: int) -> Verdict:
    there = "1 GPU, cuda:0" if count == 1 else f"{count} GPUs, cuda:0 to cuda:{count - 1}"
    fix = 'ask for device="cuda:0"' if count == 1 else f'ask for one of device="cuda:0" to "cuda:{count - 1}"'
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        fix += f", or let CUDA see more of them: CUDA_VISIBLE_DEVICES is {visible!r}"
    return Verdict(Reason.NO_SUCH_INDEX, f"there is no cuda:{index}: CuPy sees {there}", fix, count)


def _missing_library(error: Exception, wheel: str) -> Verdict | None:
    """The verdict if the error is about a library that could not be loaded, or about CUDA's headers; else None."""
    text = str(error)
    library = _LIBRARY.search(text)
    if library is None or not (_NOT_LOADED.search(text) or library[0] == "CUDA headers"):
        return None
    if library[0].startswith("libcuda.so") or library[0] == "nvcuda.dll":
        return _no_driver()
    message = f"{library[0]} is missing: without its extra [ctk], {wheel} carries no CUDA libraries"
    if "No such file" not in text:
        message += f" ({said(error)})"
    return Verdict(Reason.LIBRARY_MISSING, message, cuda_command(wheel))


def _diagnose(error: Exception, runtime: Any, wheel: str) -> Verdict:
    """The verdict on what CuPy raised when it was asked for the cards, or to compute on one."""
    text = f"{type(error).__name__}: {error}"
    if "cudaErrorInsufficientDriver" in text or "cudaErrorStubLibrary" in text:
        # The same error means an old driver and none at all: CUDA's runtime calls a missing driver version 0.
        driver = runtime.driverGetVersion()
        return _driver_too_old(driver, runtime.runtimeGetVersion(), wheel) if driver else _no_driver()
    if "cudaErrorNoDevice" in text:
        return _no_device()
    if "cudaErrorNoKernelImageForDevice" in text or "gpu-architecture" in text:
        message = f"this CuPy has no code for so old a card, or so new a one ({said(error)})"
        return Verdict(Reason.CARD_UNSUPPORTED, message, _install(12 if wheel == "cupy-cuda13x" else 13, [wheel]))
    fix = next(fix for pattern, fix in _CUDA_FIXES.items() if re.search(pattern, text))
    message = f"the GPU answered with an error: {said(error)}"
    return _missing_library(error, wheel) or Verdict(Reason.DEVICE_ERROR, message, fix)

"""A CuPy that fails where a test wants it to: the part of CuPy that nnbp's probe touches, on NumPy arrays."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from nnbp.device import probe, select
from nnbp.device.probe import Reason
from nnbp.graph.backend import backend_class
from nnbp.requirements import CUDA, pip_install

_version_of = importlib.metadata.version

_NUMPY = backend_class("numpy")()

ONE_WHEEL = {"cupy-cuda13x": "14.2.0"}


class CUDARuntimeError(RuntimeError):
    """CuPy's own error, which says "cudaErrorName: what it means"."""


@dataclass
class FakeCupy:
    """How the fake behaves. An error is raised by the stage that it is named after.

    Attributes:
        installed: whether Python finds a package `cupy`.
        wheels: installed distributions with their versions.
        count: how many GPUs there are.
        driver: CUDA version of the driver, as CuPy and libcuda tell it; 0 is none.
        runtime: CUDA version that CuPy was built for.
        nvmath: the version of nvmath-python; None is not installed.
        cublas_error: what it raises when it loads cuBLAS.
        driver_name: the driver's own version.
        wrong: GPUs on which the matrix product comes back as zeros.
        wrong_step: the run of a step, counted from 1, whose product comes back as zeros.
        entered: the GPUs that were made current, in order.
    """

    installed: bool = True
    wheels: Mapping[str, str] = field(default_factory=lambda: dict(ONE_WHEEL))
    count: int = 1
    driver: int = 13000
    runtime: int = 13000
    import_error: Exception | None = None
    count_error: Exception | None = None
    compiler_error: Exception | None = None
    kernel_error: Exception | None = None
    gemm_error: BaseException | None = None
    nvmath: str | None = "1.0.0"
    cublas_error: Exception | None = None
    driver_name: str | None = "580.65.06"
    backend_error: Exception | None = None
    kernel_is_wrong: bool = False
    wrong: tuple[int, ...] = ()
    wrong_step: int = 0
    entered: list[int] = field(default_factory=list)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeCupy:
        """Puts the fake where the probe will look, until the test ends."""
        for name in [name for name in sys.modules if name.partition(".")[0] == "cupy"]:
            monkeypatch.delitem(sys.modules, name)
        if not self.installed:
            monkeypatch.setitem(sys.modules, "cupy", None)
        elif self.import_error is not None:
            monkeypatch.setattr(sys, "meta_path", [_Raises(self.import_error), *sys.meta_path])
        else:
            for module in self._modules():
                monkeypatch.setitem(sys.modules, module.__name__, module)
        for name in ("nvmath", "nvmath.bindings", "nvmath.bindings.cublas"):
            monkeypatch.setitem(sys.modules, name, None)
        if self.nvmath is not None:
            for module in self._nvmath_modules():
                monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(select, "driver_version", lambda: self.driver_name)
        monkeypatch.setattr(importlib.metadata, "version", self._version)
        monkeypatch.setattr(probe, "cuda_of_driver", lambda: self.driver or None)
        for module in (probe, select):
            monkeypatch.setattr(module, "backend_class", self._backend_class)
        probe.refresh()
        return self

    def _version(self, name: str) -> str:
        if "cupy" not in name:
            return _version_of(name)
        if name not in self.wheels:
            raise importlib.metadata.PackageNotFoundError(name)
        return self.wheels[name]

    def _backend_class(self, name: str) -> Callable[..., FakeBackend]:
        def cupy(index: int) -> FakeBackend:
            _raise(self.backend_error)
            return FakeBackend("cupy", f"cuda:{index}", self.wrong_step)

        return {"numpy": lambda: FakeBackend("numpy", "cpu"), "cupy": cupy}[name]

    def _modules(self) -> list[ModuleType]:
        cupy, cuda, runtime, nvrtc = map(_module, ("cupy", "cupy.cuda", "cupy.cuda.runtime", "cupy.cuda.nvrtc"))
        members: dict[ModuleType, dict[str, Any]] = {
            cupy: {
                "__version__": "14.2.0",
                "cuda": cuda,
                "asarray": np.array,
                "asnumpy": np.array,
                "matmul": self._matmul,
                "ElementwiseKernel": self._kernel,
            },
            cuda: {"runtime": runtime, "nvrtc": nvrtc, "Device": lambda index: _Device(self, index)},
            runtime: {
                "getDeviceCount": self._get_count,
                "driverGetVersion": lambda: self.driver,
                "runtimeGetVersion": lambda: self.runtime,
                "getDeviceProperties": lambda index: {"name": f"Fake GPU {index}".encode()},
            },
            nvrtc: {"getVersion": lambda: _raise(self.compiler_error) or (13, 0)},
        }
        for module, named in members.items():
            vars(module).update(named)
        return list(members)

    def _nvmath_modules(self) -> list[ModuleType]:
        modules = [_module(name) for name in ("nvmath", "nvmath.bindings", "nvmath.bindings.cublas")]
        vars(modules[0])["__version__"] = self.nvmath
        vars(modules[2])["get_property"] = lambda part: _raise(self.cublas_error) or (13, 1, 0)[part]
        return modules

    def _get_count(self) -> int:
        _raise(self.count_error)
        return self.count

    def _kernel(self, inputs: str, outputs: str, code: str, name: str) -> Callable[[Any], Any]:
        assert (inputs, outputs, code) == ("float32 x", "float32 y", "y = 2 * x - 1")
        _raise(self.kernel_error)
        return lambda x: 2 * x - 1 + self.kernel_is_wrong

    def _matmul(self, a: Any, b: Any) -> Any:
        _raise(self.gemm_error)
        return a @ b * (self.entered[-1] not in self.wrong)


@dataclass
class FakeBackend:
    """As much of a backend as `open_backend` hands on and the probe tries."""

    name: str
    device: str
    wrong_step: int = 0
    runs: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(_NUMPY, name)

    def compile(self, operations: Any) -> Callable[[], None]:
        def run() -> None:
            self.runs += 1
            if self.runs != self.wrong_step:
                _NUMPY.compile(operations)()

        return run


@dataclass
class _Device:
    fake: FakeCupy
    index: int
    compute_capability: str = "90"
    mem_info: tuple[int, int] = (3 * 2**30, 4 * 2**30)

    def __enter__(self) -> None:
        self.fake.entered.append(self.index)

    def __exit__(self, *_: object) -> None:
        pass


@dataclass
class _Raises:
    """Finds `cupy`, whose import then fails."""

    error: Exception

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name == "cupy" else None

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        raise self.error


def _module(name: str) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    return module


def _raise(error: BaseException | None) -> None:
    if error is not None:
        raise error


INSUFFICIENT = "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
NO_DEVICE = "cudaErrorNoDevice: no CUDA-capable device is detected"
NO_IMAGE = "cudaErrorNoKernelImageForDevice: no kernel image is available for execution on the device"
RULER = "=" * 64
TWO_WHEELS = {"cupy-cuda12x": "13.6.0", "cupy-cuda13x": "14.2.0"}
CUDA12_WHEEL = {"cupy-cuda12x": "14.2.0"}

PIP12 = f"`{pip_install(*CUDA[12])}`"
PIP13 = f"`{pip_install(*CUDA[13])}`"
REMOVE13 = "`python -m pip uninstall -y cupy-cuda13x && "
TO_12 = f"{REMOVE13}{PIP12[1:]}"

CASES: dict[str, tuple[Reason, dict[str, Any], str, str]] = {
    "not installed, new driver": (
        Reason.CUPY_NOT_INSTALLED, {"installed": False, "wheels": {}}, "CuPy is not installed", PIP13,
    ),
    "not installed, older driver": (
        Reason.CUPY_NOT_INSTALLED, {"installed": False, "wheels": {}, "driver": 12040}, "CuPy is not installed", PIP12,
    ),
    "not installed, ancient driver": (
        Reason.CUPY_NOT_INSTALLED, {"installed": False, "wheels": {}, "driver": 11080}, "it knows CUDA 11.8",
        "update the driver to 525",
    ),
    "not installed, no driver": (
        Reason.CUPY_NOT_INSTALLED, {"installed": False, "wheels": {}, "driver": 0}, "and no NVIDIA driver was found",
        f"{PIP13} (driver 580 or later) or {PIP12}",
    ),
    "two wheels": (
        Reason.TWO_CUPY_WHEELS, {"wheels": TWO_WHEELS}, "cupy-cuda12x 13.6.0 and cupy-cuda13x 14.2.0",
        f"`python -m pip uninstall -y cupy-cuda12x cupy-cuda13x && {PIP13[1:]}",
    ),
    "two wheels, older driver": (
        Reason.TWO_CUPY_WHEELS, {"wheels": TWO_WHEELS, "driver": 12080}, "2 CuPy packages are installed", PIP12[1:],
    ),
    "two wheels, no driver": (
        Reason.TWO_CUPY_WHEELS, {"wheels": TWO_WHEELS, "driver": 0}, "2 CuPy packages are installed",
        f"cupy-cuda13x && {PIP12[1:]} (driver 525 or later)",
    ),
    "import fails": (
        Reason.CUPY_IMPORT_FAILED,
        {"import_error": ImportError(f"\n{RULER}\nFailed.\n\nOriginal error:\n  ImportError: bad ABI\n{RULER}\n")},
        "cannot be imported: ImportError: bad ABI", '--force-reinstall "cupy-cuda13x[ctk]"`',
    ),
    "import fails, unknown build": (
        Reason.CUPY_IMPORT_FAILED, {"import_error": ValueError("dtype size changed"), "wheels": {"cupy": "14.2.0"}},
        "ValueError: dtype size changed", f"uninstall -y cupy && {PIP13[1:]}",
    ),
    "import without libcuda": (
        Reason.NO_DRIVER, {"import_error": ImportError("libcuda.so.1: cannot open shared object file")},
        "no NVIDIA driver", "https://www.nvidia.com/drivers",
    ),
    "no driver": (
        Reason.NO_DRIVER, {"count_error": CUDARuntimeError(INSUFFICIENT), "driver": 0},
        "no NVIDIA driver is installed", "https://www.nvidia.com/drivers",
    ),
    "driver too old for CUDA 13": (
        Reason.DRIVER_TOO_OLD, {"count_error": CUDARuntimeError(INSUFFICIENT), "driver": 12040},
        "knows CUDA 12.4, and this CuPy needs 13", f"{TO_12}, or update the driver to 580",
    ),
    "driver too old for CUDA 12": (
        Reason.DRIVER_TOO_OLD,
        {"count_error": CUDARuntimeError(INSUFFICIENT), "driver": 11080, "runtime": 12090, "wheels": CUDA12_WHEEL},
        "knows CUDA 11.8, and this CuPy needs 12", "update the driver to 525 or later",
    ),
    "no device": (
        Reason.NO_DEVICE, {"count_error": CUDARuntimeError(NO_DEVICE)}, "finds no GPU", "`nvidia-smi -L`",
    ),
    "no device, without an error": (Reason.NO_DEVICE, {"count": 0}, "finds no GPU", "`docker run --gpus all`"),
    "driver and kernel module differ": (
        Reason.DEVICE_ERROR, {"count_error": CUDARuntimeError("cudaErrorSystemDriverMismatch: unsupported")},
        "cudaErrorSystemDriverMismatch", "`sudo reboot`",
    ),
    "NVRTC missing, by cuda-pathfinder": (
        Reason.LIBRARY_MISSING,
        {"compiler_error": RuntimeError('Failure finding "libnvrtc.so.13 or libnvrtc.so.12": No such file: …\n')},
        "libnvrtc.so.13 is missing: without its extra [ctk], cupy-cuda13x", PIP13,
    ),
    "NVRTC missing, by softlink": (
        Reason.LIBRARY_MISSING,
        {"compiler_error": RuntimeError("CuPy failed to load nvrtc64_120_0.dll: bad image"), "wheels": CUDA12_WHEEL},
        "nvrtc64_120_0.dll is missing: without its extra [ctk], cupy-cuda12x", PIP12,
    ),
    "headers missing": (
        Reason.LIBRARY_MISSING, {"kernel_error": RuntimeError("Failed to find CUDA headers. Please install …")},
        "CUDA headers", PIP13,
    ),
    "cuBLAS missing": (
        Reason.LIBRARY_MISSING,
        {"gemm_error": ImportError("libcublas.so.13: cannot open shared object file: No such file or directory")},
        "libcublas.so.13 is missing", PIP13,
    ),
    "cuBLAS missing on Windows": (
        Reason.LIBRARY_MISSING, {"gemm_error": ImportError("DLL load failed while importing cublas: not found.")},
        "cublas is missing", PIP13,
    ),
    "cuBLAS missing, CuPy 13 for CUDA 11": (
        Reason.LIBRARY_MISSING,
        {"gemm_error": OSError("libcublas.so.11: cannot open shared object"), "wheels": {"cupy-cuda11x": "13.6.0"}},
        "libcublas.so.11 is missing", f"uninstall -y cupy-cuda11x && {PIP13[1:]}",
    ),
    "card too old for CUDA 13": (
        Reason.CARD_UNSUPPORTED, {"kernel_error": RuntimeError("invalid value for --gpu-architecture (-arch)")},
        "no code for so old a card", TO_12,
    ),
    "card too new for CUDA 12": (
        Reason.CARD_UNSUPPORTED, {"kernel_error": CUDARuntimeError(NO_IMAGE), "wheels": CUDA12_WHEEL},
        "cudaErrorNoKernelImageForDevice", f"uninstall -y cupy-cuda12x && {PIP13[1:]}",
    ),
    "out of memory": (
        Reason.DEVICE_ERROR, {"kernel_error": CUDARuntimeError("cudaErrorMemoryAllocation: out of memory")},
        "out of memory", "`nvidia-smi` lists",
    ),
    "after a fork": (
        Reason.DEVICE_ERROR, {"kernel_error": CUDARuntimeError("cudaErrorInitializationError: initialization error")},
        "cudaErrorInitializationError", 'set_start_method("spawn")`',
    ),
    "another error": (
        Reason.DEVICE_ERROR, {"gemm_error": CUDARuntimeError("cudaErrorUnknown: unknown error")},
        "cudaErrorUnknown", "`nvidia-smi`",
    ),
    "kernel wrong": (
        Reason.WRONG_RESULT, {"kernel_is_wrong": True}, "the elementwise kernel y = 2x - 1", '"cupy-cuda13x[ctk]"`',
    ),
    "GEMM wrong": (
        Reason.WRONG_RESULT, {"wrong": (0,)}, "GPU 0 computes wrongly: the product", "`nvidia-smi -q -d ECC",
    ),
    "nvmath-python missing": (
        Reason.BACKEND_FAILED, {"backend_error": ImportError("no nvmath")}, "does not: ImportError: no nvmath", PIP13,
    ),
    "backend does not open": (
        Reason.BACKEND_FAILED, {"backend_error": OSError("no workspace")}, "does not: OSError: no workspace", PIP13,
    ),
    **{
        f"run {step} of a step wrong": (
            Reason.WRONG_RESULT, {"wrong_step": step}, "came back from a step with other values", "`nvidia-smi -q",
        )
        for step in (1, 4)
    },
}  # fmt: skip
"""Each way to fail: its reason, the fake that shows it, a part of the message, a part of the fix."""

"""The CuPy backend without CuPy: the part of CuPy that it touches, with kernels compiled by g++ and cuBLAS in NumPy.

What it proves is the backend's own work: kernels, arguments, launches, layouts. CuPy's and CUDA's it cannot prove.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import nnbp.backends
import numpy as np
from kernel_samples import blas, function_of


class EmulatedArray(np.ndarray):
    """An array as CuPy has it: with an address, a device and ways to and from the host."""

    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(ptr=self.__array_interface__["data"][0])

    @property
    def device(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(id=0)

    def get(self) -> np.ndarray:
        return np.array(self)

    def set(self, values: np.ndarray) -> None:
        assert type(values) is np.ndarray
        assert (values.dtype, values.shape) == (self.dtype, self.shape)
        self[...] = values


class OutOfMemoryError(MemoryError):
    """CuPy's own error."""


class Device:
    """A context that makes the device the current one."""

    depth = 0
    attributes = {"MultiProcessorCount": 2}  # noqa: RUF012

    def __init__(self, index: int) -> None:
        if index != 0:
            raise RuntimeError("cudaErrorInvalidDevice: invalid device ordinal")

    def __enter__(self) -> Device:
        Device.depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        Device.depth -= 1

    def synchronize(self) -> None: ...


class RawKernel:
    """A kernel of which the compiled function is asked for."""

    compiled: list[str] = []  # noqa: RUF012

    def __init__(self, code: str, name: str) -> None:
        RawKernel.compiled.append(code)
        self.kernel: Callable[..., None] = _on_device(function_of(code, name))


def _on_device(function: Callable[..., None]) -> Callable[..., None]:
    def launch(*arguments: Any) -> None:
        assert Device.depth, "launched where the device is not the current one"
        function(*arguments)

    return launch


def _gemm(kind: type[ctypes.c_float] | type[ctypes.c_double]) -> Callable[..., None]:
    def run(handle, transb, transa, m, n, k, alpha, b, ldb, a, lda, beta, c, ldc):
        assert handle == 1
        assert (kind.from_address(alpha).value, kind.from_address(beta).value) == (1, 0)
        blas(np.dtype(kind), transb, transa, m, n, k, b, ldb, a, lda, c, ldc)

    return _on_device(run)


class Memory:
    """Room on the device, and what CuPy keeps of it."""

    limit = 2**24
    """Bytes that one array can have."""

    kept = 0
    """Bytes of the limit that are taken until `free_all_blocks` is called."""

    @staticmethod
    def free_all_blocks() -> None:
        Memory.kept = 0


def _empty(shape: int | tuple[int, ...], dtype: Any) -> EmulatedArray:
    assert Device.depth, "allocated where the device is not the current one"
    if np.prod(shape) * np.dtype(dtype).itemsize > Memory.limit - Memory.kept:
        raise OutOfMemoryError
    array = np.empty(shape, dtype)
    array.fill(np.nan if array.dtype.kind == "f" else 77)
    return array.view(EmulatedArray)


def _modules() -> dict[str, ModuleType]:
    names = ("cupy", "cupy.cuda", "cupy.cuda.device", "cupy_backends", "cupy_backends.cuda", "cupy_backends.cuda.libs")
    modules = {name: ModuleType(name) for name in names}
    cupy, cuda, device = (modules[name] for name in names[:3])

    def of_numpy(name: str) -> Any:
        function = getattr(np, name)

        def call(*arguments: Any, **options: Any) -> Any:
            result = function(*arguments, **options)
            # What is a scalar in NumPy is an array on the device in CuPy.
            return np.asarray(result).view(EmulatedArray) if isinstance(result, np.ndarray | np.generic) else result

        return call

    cupy.__getattr__ = of_numpy  # type: ignore[method-assign]
    cupy.__dict__.update(
        cuda=cuda, ndarray=EmulatedArray, empty=_empty, RawKernel=RawKernel, get_default_memory_pool=lambda: Memory
    )
    cuda.__dict__.update(
        device=device,
        Device=Device,
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        runtime=SimpleNamespace(memGetInfo=lambda: (Memory.limit - Memory.kept, Memory.limit)),
        get_current_stream=lambda: SimpleNamespace(synchronize=lambda: None),
    )
    device.__dict__.update(get_cublas_handle=lambda: 1)
    libs = modules["cupy_backends.cuda.libs"]
    libs.__dict__.update(cublas=SimpleNamespace(sgemm=_gemm(ctypes.c_float), dgemm=_gemm(ctypes.c_double)))
    return modules


@cache
def emulated_backend_class() -> Callable[..., Any]:
    """The class CupyBackend, loaded once more, on the emulation; the true module stays as it is."""
    (folder,) = nnbp.backends.__path__
    spec = spec_from_file_location("nnbp.backends.emulated_cupy_backend", f"{folder}/cupy_backend.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    modules = _modules()
    with mock.patch.dict(sys.modules, modules):
        spec.loader.exec_module(module)
    gemm = module.CupyBackend.gemm

    def emulated_gemm(*arguments: Any) -> Any:
        """Binding a product imports cuBLAS; here it finds the emulation."""
        with mock.patch.dict(sys.modules, modules):
            return gemm(*arguments)

    module.CupyBackend.gemm = emulated_gemm
    found: Callable[..., Any] = module.CupyBackend
    return found

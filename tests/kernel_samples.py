"""Formulas to make kernels of, and a machine to run kernels without a GPU: g++ compiles them, a loop is the grid."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnbp.backends.kernel_source import Launch
from numpy.lib.stride_tricks import as_strided

from nnbp import activations, losses, optimizers
from nnbp.expression import OPERATIONS, Formula, trace

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ to compile kernels as C++")

# The words of CUDA that the kernels use, in C++. `stand` says which thread is running.
_SHIM = """
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define __global__
#define __device__
struct Dimension { int x; };
static Dimension gridDim, blockDim, blockIdx, threadIdx;
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
extern "C" void stand(int blocks, int threads, int block, int thread)
{
    gridDim.x = blocks; blockDim.x = threads; blockIdx.x = block; threadIdx.x = thread;
}
"""


# <math.h> has all of these, and takes g++ longer than the kernels do.
_SHIM += "".join(
    f'extern "C" {{ double {name}({double}); float {name}f({single}); }}\n'
    f"static inline float {name}({single}) {{ return {name}f({call}); }}\n"
    for names, double, single, call in (
        ("exp expm1 log log1p tanh sqrt sin cos atan fabs", "double x", "float x", "x"),
        ("pow", "double x, double y", "float x, float y", "x, y"),
    )
    for name in names.split()
)


def bundle(launches: Sequence[Launch]) -> tuple[str, list[str]]:
    """One source with the kernels of all, each under a name of its own, and these names."""
    names: dict[str, str] = {}
    parts = []
    for launch in launches:
        if launch.source not in names:
            name = names[launch.source] = f"kernel_{len(names)}"
            parts += [
                f"#define {launch.name} {name}",
                f"namespace in_{name} {{",
                launch.source,
                "}",
                f"#undef {launch.name}\n",
            ]
    return "\n".join(parts), [names[launch.source] for launch in launches]


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="nnbp-kernels-")


@cache
def _library(source: str) -> ctypes.CDLL:
    stem = Path(_folder().name) / hashlib.sha256(source.encode()).hexdigest()[:16]
    stem.with_suffix(".cpp").write_text(_SHIM + source, encoding="utf-8")
    # Without contraction a product and a sum round twice, as NumPy's do.
    command = ["g++", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-w", f"{stem}.cpp", "-o", f"{stem}.so"]
    subprocess.run(command, check=True)
    return ctypes.CDLL(f"{stem}.so")


def _c_argument(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.__array_interface__["data"][0])
    kind: Any = {"int32": ctypes.c_int32, "int64": ctypes.c_int64, "uint64": ctypes.c_uint64}[value.dtype.name]
    return kind(int(value))


def function_of(source: str, name: str) -> Callable[[tuple[int], tuple[int], tuple[Any, ...]], None]:
    """A kernel that is called as CuPy's are: with grid, block and arguments, here NumPy arrays and integers."""
    library = _library(source)

    def run(grid: tuple[int], block: tuple[int], arguments: tuple[Any, ...]) -> None:
        values = [_c_argument(argument) for argument in arguments]
        for b in range(grid[0]):
            for t in range(block[0]):
                library.stand(grid[0], block[0], b, t)
                library[name](*values)

    return run


def run_all(launches: Sequence[Launch]) -> None:
    """Runs the kernels, on a small grid, one after the other."""
    source, names = bundle(launches)
    for launch, name in zip(launches, names, strict=True):
        function_of(source, name)((2,), (3,), launch.arguments)


def _column_major(address: int, dtype: Any, rows: int, columns: int, leading: int) -> np.ndarray:
    """The matrix that BLAS sees at an address."""
    assert leading >= max(1, rows), "BLAS demands it"
    size = leading * (columns - 1) + rows
    numbers = np.frombuffer((ctypes.c_char * (size * dtype.itemsize)).from_address(address), dtype)
    return as_strided(numbers, (rows, columns), (dtype.itemsize, leading * dtype.itemsize))


def blas(
    dtype: Any, transa: int, transb: int, m: int, n: int, k: int, a: int, lda: int, b: int, ldb: int, c: int, ldc: int
) -> None:
    """What cuBLAS's gemm does with these: c = a b, all stored column by column, a and b perhaps transposed."""
    first = _column_major(a, dtype, k, m, lda).T if transa else _column_major(a, dtype, m, k, lda)
    second = _column_major(b, dtype, n, k, ldb).T if transb else _column_major(b, dtype, k, n, ldb)
    _column_major(c, dtype, m, n, ldc)[...] = first @ second


def operation_formulas() -> dict[str, Formula]:
    """One formula for each operation, on inputs a, b and c as many as it takes."""
    formulas = {}
    for name, operation in OPERATIONS.items():
        inputs = "abc"[: operation.ufunc.nin if operation.ufunc else 3]
        apply: Callable[..., Any] = operation.ufunc or (lambda a, b, c: np.where(a > b, b, c))
        formulas[name] = trace(apply, *inputs)
    return formulas


def library_formulas() -> dict[str, tuple[Callable[..., Any], tuple[str, ...]]]:
    """What nnbp itself traces: every activation, loss and optimizer, with the names of the arguments."""
    found: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
        "dropout": (lambda x, u: x * 2.0 * (u >= 0.5), ("x", "u"))
    }
    for name, activation in activations.Activation.registry.items():
        if name != "softmax" and activation.__module__.startswith("nnbp."):
            f = activation()
            found |= {f"{name}.f": (f.f, ("z",)), f"{name}.df": (f.df, ("z", "a"))}
    for name, loss in losses.Loss.registry.items():
        if not loss.__module__.startswith("nnbp."):
            continue
        for member in ("cost", "dcost", "cost_z"):
            if getattr(loss, member) is not getattr(losses.Loss, member):
                found[f"{name}.{member}"] = (getattr(loss(), member), ("h", "y"))
    for name, optimizer in optimizers.Optimizer.registry.items():
        if optimizer.__module__.startswith("nnbp.") and optimizer.update is not optimizers.Optimizer.update:
            o = optimizer()
            rates = o.rates(np.ones(1), np.ones(1))
            found[f"{name}.update"] = (o.update, ("theta", "g", *o.slots, *rates))
    return found

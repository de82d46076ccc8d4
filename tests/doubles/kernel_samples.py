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
from nnbp.backends.cuda.codegen import Launch
from numpy.lib.stride_tricks import as_strided

from nnbp.graph.formula import PRIMITIVES, Formula, trace
from nnbp.nn import activations, losses
from nnbp.optim import optimizers

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ to compile kernels as C++")

# The words of CUDA that the kernels use, in C++. The threads of a block take turns: each has a stack of its own, and
# runs until it waits for the others. Where blocks wait for each other, too, they go on one after the other.
_SHIM = """
#include <ucontext.h>
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define __global__
#define __device__
#define __noinline__ __attribute__((noinline))
#define __shared__ static
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(threads)
#define __cluster_dims__(x, y, z)
struct Dimension { int x; };
static Dimension gridDim, blockDim, blockIdx, threadIdx;
static inline unsigned int __float_as_uint(float x) { unsigned int bits; __builtin_memcpy(&bits, &x, 4); return bits; }
enum State { RUNS, ENDED, WAITS };
static ucontext_t scheduler, threads[2048];
static char stacks[2048][16384];
static State states[2048];
static int turn;
static void __syncthreads() { swapcontext(&threads[turn], &scheduler); }
static void __cluster_barrier_arrive() {}
static void __cluster_barrier_wait()
{
    states[turn] = WAITS;
    swapcontext(&threads[turn], &scheduler);
}
template <int... K> struct Indices {};
template <int N, int... K> struct Count : Count<N - 1, N - 1, K...> {};
template <int... K> struct Count<0, K...> { typedef Indices<K...> type; };
template <class... A, int... K> static void call(void (*kernel)(A...), void** arguments, Indices<K...>)
{
    kernel(*(A*)arguments[K]...);
}
static void* given;
static void** values;
template <class... A> static void thread()
{
    call((void (*)(A...))given, values, typename Count<sizeof...(A)>::type());
    states[turn] = ENDED;
}
// Runs a block until all of its threads have ended or wait for other blocks. In every second round and launch the last
// thread goes first: so one that does not wait for what another one writes is found out, whichever of them that is.
static int launched;
static void go_on(int block, int first, int size)
{
    blockIdx.x = block;
    bool runs = true;
    for (int round = launched; runs; ++round) {
        runs = false;
        for (int k = 0; k < size; ++k) {
            const int t = round % 2 ? size - 1 - k : k;
            turn = first + t, threadIdx.x = t;
            if (states[turn] != RUNS) continue;
            swapcontext(&scheduler, &threads[turn]);
            runs = true;
        }
    }
}
template <class... A>
static void launch(void (*kernel)(A...), void** arguments, int blocks, int size, bool wait, bool together)
{
    gridDim.x = blocks, blockDim.x = size, ++launched;
    given = (void*)kernel, values = arguments;
    for (int block = 0; !wait && block < blocks; ++block)
        for (blockIdx.x = block, threadIdx.x = 0; threadIdx.x < size; ++threadIdx.x)
            call(kernel, arguments, typename Count<sizeof...(A)>::type());
    const int abreast = together ? blocks : 1;
    for (int first = 0; wait && first < blocks; first += abreast) {
        for (int t = 0; t < abreast * size; ++t) {
            getcontext(&threads[t]);
            threads[t].uc_stack.ss_sp = stacks[t], threads[t].uc_stack.ss_size = sizeof stacks[t];
            threads[t].uc_link = &scheduler;
            makecontext(&threads[t], thread<A...>, 0);
            states[t] = RUNS;
        }
        for (bool left = true; left;) {
            for (int k = 0; k < abreast; ++k) go_on(first + k, k * size, size);
            left = false;
            for (int t = 0; t < abreast * size; ++t)
                if (states[t] == WAITS) states[t] = RUNS, left = true;
        }
    }
}
// Denormals are 0 while it exists, if the processor can do that.
struct Denormals {
#ifdef __SSE__
    unsigned before;
    Denormals(bool flush) : before(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(before | (flush ? 0x8040 : 0)); }
    ~Denormals() { __builtin_ia32_ldmxcsr(before); }
#else
    Denormals(bool) {}
#endif
};
// The functions of <math.h> go by the bits of their arguments.
static inline float flushed(float x) { return x > -0x1p-126f && x < 0x1p-126f ? 0 * x : x; }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
"""


# <math.h> has all of these, and takes g++ longer than the kernels do.
_SHIM += "".join(
    f'extern "C" {{ double {name}({double}); float {name}f({single}); }}\n'
    f"static inline float {name}({single}) {{ return flushed({name}f({call})); }}\n"
    for names, double, single, call in (
        ("exp expm1 log log1p tanh sqrt sin cos atan fabs", "double x", "float x", "flushed(x)"),
        ("pow", "double x, double y", "float x, float y", "flushed(x), flushed(y)"),
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
                f"using in_{name}::{name};",
                f"#undef {launch.name}\n",
            ]
    return "\n".join(parts), [names[launch.source] for launch in launches]


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="nnbp-kernels-")


@cache
def _library(source: str, names: tuple[str, ...]) -> ctypes.CDLL:
    # The threads of a kernel that never wait for each other need no stacks of their own.
    together = str("__cluster_barrier_wait" in source).lower()
    wait = "true" if "__syncthreads" in source else together
    # CuPy compiles with -ftz=true, which concerns float32 alone.
    flush = str("typedef double T;" not in source).lower()
    source += "".join(
        f'extern "C" void launch_{name}(void** arguments, int blocks, int size)\n'
        f"{{ Denormals as_on_a_gpu({flush}); launch({name}, arguments, blocks, size, {wait}, {together}); }}\n"
        for name in names
    )
    stem = Path(_folder().name) / hashlib.sha256(source.encode()).hexdigest()[:16]
    stem.with_suffix(".cpp").write_text(_SHIM + source, encoding="utf-8")
    # Without contraction a product and a sum round twice, as NumPy's do. Names are the library's own: glibc has an
    # `advance`, too.
    options = ["-O1", "-ffp-contract=off", "-shared", "-fPIC", "-w", "-Wl,-Bsymbolic"]
    command = ["g++", *options, f"{stem}.cpp", "-o", f"{stem}.so"]
    subprocess.run(command, check=True)
    return ctypes.CDLL(f"{stem}.so")


def _c_argument(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.__array_interface__["data"][0])
    kind: Any = {"int32": ctypes.c_int32, "int64": ctypes.c_int64, "uint64": ctypes.c_uint64}[value.dtype.name]
    return kind(int(value))


def function_of(
    source: str, name: str, names: tuple[str, ...] = ()
) -> Callable[[tuple[int], tuple[int, ...], tuple[Any, ...]], None]:
    """A kernel that is called as CuPy's are: with grid, block and arguments, here NumPy arrays and integers."""
    library = _library(source, names or (name,))

    def run(grid: tuple[int], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        values = [_c_argument(argument) for argument in arguments]
        addresses = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        assert block[0] * (grid[0] if "__cluster_barrier_wait" in source else 1) <= 2048, "as many stacks as there are"
        library[f"launch_{name}"](addresses, grid[0], block[0])

    return run


def run_all(launches: Sequence[Launch]) -> None:
    """Runs the kernels, on a small grid, one after the other."""
    source, names = bundle(launches)
    for launch, name in zip(launches, names, strict=True):
        # A thread a turn: then any number of threads does.
        block = 3 if launch.block == launch.turns == 128 else launch.block
        function_of(source, name, tuple(dict.fromkeys(names)))((2,), (block,), launch.arguments)


def _column_major(address: int, dtype: Any, rows: int, columns: int, leading: int) -> np.ndarray:
    """The matrix that BLAS sees at an address."""
    assert leading >= max(1, rows), "BLAS demands it"
    size = leading * (columns - 1) + rows
    numbers = np.frombuffer((ctypes.c_char * (size * dtype.itemsize)).from_address(address), dtype)
    return as_strided(numbers, (rows, columns), (dtype.itemsize, leading * dtype.itemsize))


def blas(
    dtype: Any, transa: int, transb: int, m: int, n: int, k: int, a: int, lda: int, b: int, ldb: int, c: int, ldc: int,
    *, factors: Any = None, read: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> None:  # fmt: skip
    """What cuBLAS's gemm does with these: c = a b, all stored column by column, a and b perhaps transposed.

    `factors` is the dtype of a and b where it is another one, `read` what is done to their elements.
    """
    kind = dtype if factors is None else factors
    first = _column_major(a, kind, k, m, lda).T if transa else _column_major(a, kind, m, k, lda)
    second = _column_major(b, kind, n, k, ldb).T if transb else _column_major(b, kind, k, n, ldb)
    _column_major(c, dtype, m, n, ldc)[...] = read(first) @ read(second)


def operation_formulas() -> dict[str, Formula]:
    """One formula for each operation, on inputs a, b and c as many as it takes."""
    formulas = {}
    for name, operation in PRIMITIVES.items():
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

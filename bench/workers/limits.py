"""The limit: the matrix products of a training step and nothing else, in every way that a device offers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np

from ..cases import SEED, Case
from .timing import seconds_per_call

Product = tuple[Any, Any, Any]
"""a, b and the array in which a b goes."""

_WARM_UP = 3


def ways(case: Case, threads: int) -> tuple[str, ...]:
    """The ways to multiply.

    On a CPU through NumPy: ``blas``, with BLAS's own threads; ``one``, with one thread; ``columns``, with the columns
    of each product on threads of ours, and BLAS on one thread each. On a GPU: ``torch``, torch.matmul replayed as one
    CUDA graph; ``cupy``, cupy.matmul launched one by one, which has no bf16.
    """
    if case.on_gpu:
        return ("torch",) if case.precision == "bf16" else ("torch", "cupy")
    return ("blas", "one", "columns") if threads > 1 else ("one",)


def limit(case: Case, way: str, threads: int, seconds: float) -> float:
    """Seconds of a step's products, one of the `ways`.

    Raises:
        ModuleNotFoundError: its library is not installed.
    """
    if case.on_gpu:
        run, wait = {"torch": torch_products, "cupy": _cupy_products}[way](case)
        return seconds_per_call(run, seconds, wait)
    from threadpoolctl import threadpool_limits

    phases = numpy_products(case)
    with threadpool_limits(threads if way == "blas" else 1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        parts = threads if way == "columns" else 1
        cut = [[columns(phase, k, parts) for k in range(parts)] for phase in phases]
        return seconds_per_call(lambda: _side_by_side(pool, cut), seconds)


def products(
    case: Case, matrix: Callable[[int, int], Any], like: Callable[[Any], Any]
) -> tuple[list[Product], list[Product]]:
    """The products of a step in nnbp's layout: those that can be cut along the samples, z and dX; and dW.

    Matrices are (features, samples) and contiguous, but for the input, whose batch is gathered row by row. The first
    layer's dX is not part of a step.

    Args:
        case: the network.
        matrix: makes a matrix of so many rows and columns.
        like: makes one of the shape of another.
    """
    m = case.batch
    a = [matrix(m, case.sizes[0]).T, *(matrix(n, m) for n in case.sizes[1:])]
    delta = [matrix(n, m) for n in case.sizes[1:]]
    W = [matrix(n_out, n_in) for n_in, n_out in pairwise(case.sizes)]
    samples = [(W[k], a[k], like(delta[k])) for k in range(len(W))]
    samples += [(W[k].T, delta[k], like(a[k])) for k in range(len(W) - 1, 0, -1)]
    sums = [(delta[k], a[k].T, like(W[k])) for k in range(len(W) - 1, -1, -1)]
    return samples, sums


def numpy_products(case: Case) -> tuple[list[Product], list[Product]]:
    """`products` in NumPy."""
    rng = np.random.default_rng(SEED)
    return products(case, lambda *shape: rng.standard_normal(shape, np.float32), np.empty_like)


def columns(phase: Sequence[Product], k: int, parts: int) -> list[Product]:
    """The k-th part of the columns of every product; parts end on a line of the cache."""
    cut = []
    for a, b, out in phase:
        ends = [round(b.shape[1] * j / parts / 16) * 16 for j in range(parts)] + [b.shape[1]]
        part = slice(ends[k], ends[k + 1])
        cut.append((a, b[:, part], out[:, part]))
    return [product for product in cut if product[2].size]


def multiply(phase: Sequence[Product]) -> None:
    """Computes products in NumPy."""
    for a, b, out in phase:
        # `dot` begins faster than `matmul`, but knows no views.
        whole = out.flags.c_contiguous and a.flags.forc and b.flags.forc
        (np.dot if whole else np.matmul)(a, b, out)


def _side_by_side(pool: ThreadPoolExecutor, phases: Sequence[Sequence[Sequence[Product]]]) -> None:
    for first, *others in phases:
        running = [pool.submit(multiply, part) for part in others]
        multiply(first)
        for each in running:
            each.result()


def torch_products(case: Case) -> tuple[Callable[[], None], Callable[[], None]]:
    """A function that computes the products with PyTorch, and one that waits for them."""
    import torch

    torch.set_float32_matmul_precision("high" if case.precision == "tf32" else "highest")
    options = {"device": case.device, "dtype": torch.bfloat16 if case.precision == "bf16" else torch.float32}
    samples, sums = products(
        case, lambda *shape: torch.randn(shape, **options), lambda x: torch.empty(x.shape, **options)
    )

    def run() -> None:
        for a, b, out in [*samples, *sums]:
            torch.matmul(a, b, out=out)

    if not case.on_gpu:
        return run, lambda: None
    cuda = torch.cuda
    stream = cuda.Stream(case.device)
    stream.wait_stream(cuda.current_stream(case.device))
    with cuda.stream(stream):
        for _ in range(_WARM_UP):
            run()
    graph = cuda.CUDAGraph()
    with cuda.graph(graph, stream=stream):
        run()
    return graph.replay, lambda: cuda.synchronize(case.device)


def _cupy_products(case: Case) -> tuple[Callable[[], None], Callable[[], None]]:
    """A function that computes the products with CuPy, and one that waits for them."""
    import cupy
    from cupy._core import _routines_linalg as linalg

    device = cupy.cuda.Device(case.gpu)
    with device:
        samples, sums = products(
            case,
            lambda *shape: cupy.random.standard_normal(shape, cupy.float32),
            lambda x: cupy.empty(x.shape, x.dtype),
        )
    kind = linalg.COMPUTE_TYPE_TF32 if case.precision == "tf32" else linalg.COMPUTE_TYPE_FP32

    def run() -> None:
        # CuPy keeps its compute type per thread; another case may have set it.
        linalg.set_compute_type(cupy.float32, kind)
        with device:
            for a, b, out in [*samples, *sums]:
                cupy.matmul(a, b, out=out)

    return run, device.synchronize

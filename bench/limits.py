"""The limit: the products of a training step, and nothing else, through the BLAS of NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cases import Case
from .timing import seconds_per_call

__all__ = ["WAYS", "arranged", "limit", "phases"]

WAYS = ("blas", "columns", "one")
"""BLAS's own threads; columns of each product on threads of ours, BLAS with one thread each; one thread."""

Product = tuple[Any, Any, Any]


def phases(case: Case) -> tuple[list[Product], list[Product]]:
    """The products (a, b, out) of a step, as `arranged` has them, in NumPy."""
    rng = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> NDArray[Any]:
        return rng.standard_normal((rows, columns), np.float32).astype(case.dtype, copy=False)

    return arranged(case, matrix, np.empty_like)


def arranged(
    case: Case, matrix: Callable[[int, int], Any], like: Callable[[Any], Any]
) -> tuple[list[Product], list[Product]]:
    """The products (a, b, out) of a step in nnbp's layout: those cut along the samples, z and dX; and dW.

    Matrices are (features, samples) and contiguous but for the input, whose batch is gathered row by row. The first
    layer's dX is no part of a step.

    Args:
        case: the network.
        matrix: makes a matrix of so many rows and columns.
        like: makes one of the shape of another, in which a product goes.
    """
    m = case.batch
    a = [matrix(m, case.sizes[0]).T, *(matrix(n, m) for n in case.sizes[1:])]
    delta = [matrix(n, m) for n in case.sizes[1:]]
    W = [matrix(n_out, n_in) for n_in, n_out in pairwise(case.sizes)]
    samples = [(W[k], a[k], like(delta[k])) for k in range(len(W))]
    samples += [(W[k].T, delta[k], like(a[k])) for k in range(len(W) - 1, 0, -1)]
    sums = [(delta[k], a[k].T, like(W[k])) for k in range(len(W) - 1, -1, -1)]
    return samples, sums


def limit(case: Case, threads: int, seconds: float) -> dict[str, float]:
    """Seconds of a step's products, each way; "columns" only where there are threads to give columns to."""
    from threadpoolctl import threadpool_limits

    both = phases(case)
    products = [product for phase in both for product in phase]
    found = {"blas": seconds_per_call(lambda: _multiply(products), seconds / 3)}
    with threadpool_limits(1, user_api="blas"):
        found["one"] = seconds_per_call(lambda: _multiply(products), seconds / 3)
        if threads > 1:
            with ThreadPoolExecutor(threads - 1) as pool:
                cut = [[_columns(phase, k, threads) for k in range(threads)] for phase in both]
                found["columns"] = seconds_per_call(lambda: _side_by_side(pool, cut), seconds / 3)
    return found


def _multiply(products: Sequence[Product]) -> None:
    for a, b, out in products:
        # `dot` begins faster than `matmul`, but knows no views.
        dot: Callable[..., Any] = np.dot if out.flags.c_contiguous and _whole(a) and _whole(b) else np.matmul
        dot(a, b, out)


def _whole(x: NDArray[Any]) -> bool:
    return x.flags.c_contiguous or x.flags.f_contiguous


def _columns(products: Sequence[Product], k: int, threads: int) -> list[Product]:
    """The k-th share of the columns of every product; they end on a line of the cache."""
    cut = []
    for a, b, out in products:
        ends = [round(b.shape[1] * j / threads / 16) * 16 for j in range(threads)] + [b.shape[1]]
        part = slice(ends[k], ends[k + 1])
        cut.append((a, b[:, part], out[:, part]))
    return [product for product in cut if product[2].size]


def _side_by_side(pool: ThreadPoolExecutor, phases: Sequence[Sequence[Sequence[Product]]]) -> None:
    for parts in phases:
        others = [pool.submit(_multiply, part) for part in parts[1:]]
        _multiply(parts[0])
        for other in others:
            other.result()

"""Products on every backend, held to the error that their arithmetic allows.

Whatever the order of its K terms, a sum of products errs by at most γ_K Σ|a||b|, where γ_K = K u / (1 − K u), and u is
the unit roundoff, 2⁻²⁴ or 2⁻⁵³ (Higham, "Accuracy and stability of numerical algorithms", 2002, section 3.1). For long
sums that is much; so products of float32 are compared with NumPy's as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from itertools import product as combinations
from typing import Any

import numpy as np
import pytest
from emulated_cupy import emulated_backend_class
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_samples import needs_compiler
from strict_backend import StrictBackend

from nnbp.graph.backend import backend_class
from nnbp.graph.ops import PRECISIONS, Foreign, Gemm

UNIT = {np.float32: Fraction(1, 2**24), np.float64: Fraction(1, 2**53)}
ROUNDING = {"tf32": Fraction(1, 2**10), "bf16": Fraction(1, 2**8)}
"""The largest relative error of a factor. Units for TF32 may cut off the bits after the tenth; bfloat16 is rounded."""

OPEN: dict[str, Callable[[], Any]] = {
    "numpy": lambda: backend_class("numpy")(),
    "strict": StrictBackend,
    "emulated": lambda: emulated_backend_class()(),
    "cupy": lambda: backend_class("cupy")(),
}
CUDA = [pytest.param("emulated", marks=needs_compiler), pytest.param("cupy", marks=pytest.mark.gpu)]

SIZES = [(1, 1), (5, 1), (1, 6), (3, 4)]
LAYOUTS = list(combinations((False, True), repeat=2))


@pytest.fixture(scope="module", params=["numpy", "strict", *CUDA])
def backend(request):
    return OPEN[request.param]()


@pytest.fixture(scope="module", params=CUDA)
def rounding_backend(request):
    """One that rounds the factors of a product when it may."""
    return OPEN[request.param]()


def drawn(n: int, k: int, m: int, dtype: Any = np.float32, *, positive: bool = False) -> tuple[Any, Any]:
    """Factors (n, k) and (k, m); positive ones lose most, as their sum is as long as its terms."""
    rng = np.random.default_rng((n, k, m))
    a, b = (rng.normal(size=shape).astype(dtype) for shape in ((n, k), (k, m)))
    return (abs(a), abs(b)) if positive else (a, b)


def multiplied(
    backend: Any, a: Any, b: Any, precision: Any = None, turned: tuple[bool, bool] = (False, False), before: int = 3
) -> Any:
    """a @ b on a backend, where a and the result lie in longer vectors, as W and dW do; turned ones are transposes.

    `before` numbers stand before a in its vector: with 3, it is aligned to 4 bytes and no more.
    """
    n, m = len(a), b.shape[1]
    stored = [np.ascontiguousarray(x.T if other else x) for x, other in zip((a, b), turned, strict=True)]
    with backend.active():
        theta = backend.upload(np.concatenate([np.zeros(before), stored[0].ravel()]), a.dtype)
        x = theta[before:].reshape(*stored[0].shape), backend.upload(stored[1], a.dtype)
        gradient = backend.upload(np.full(before + n * m + 3, np.nan), a.dtype)
        factors = (one.T if other else one for one, other in zip(x, turned, strict=True))
        backend.compile([Gemm(*factors, gradient[before:-3].reshape(n, m), precision)])()
        found = np.array(backend.download(gradient))
    assert np.isnan([*found[:before], *found[-3:]]).all(), "written beside the product"
    return found[before:-3].reshape(n, m)


def allowed(k: int, dtype: Any, precision: str | None = None) -> Fraction:
    """The error that the arithmetic of a product allows, relative to Σ|a||b|: γ_K, more where factors are rounded."""
    if precision is None:
        return k * UNIT[dtype] / (1 - k * UNIT[dtype])
    # The units of a GPU for such factors do not round what they add, but cut it off, which errs twice as much.
    return (1 + ROUNDING[precision]) ** 2 * (1 + allowed(2 * k, dtype)) - 1


def relative_error(a: Any, b: Any, found: Any) -> float:
    """The largest error of a product of float32, relative to Σ|a||b|, against one in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.max(np.abs(found - a @ b) / (np.abs(a) @ np.abs(b))))


def is_within(a: Any, b: Any, found: Any, precision: str | None = None) -> bool:
    """Whether a product of float32 keeps its bound."""
    return relative_error(a, b, found) <= allowed(len(b), np.float32, precision) + allowed(len(b), np.float64)


def is_as_good_as_numpys(a: Any, b: Any, found: Any) -> bool:
    """Up to a factor of 4, and of errors that are nearly 0."""
    return relative_error(a, b, found) <= 4 * max(relative_error(a, b, a @ b), np.finfo(np.float32).eps)


def is_within_exactly(a: Any, b: Any, products: Iterable[Any]) -> bool:
    """Whether all of these products keep the bound of their dtype; what is compared with them is exact."""
    x, y = (np.vectorize(Fraction, otypes=[object])(factor) for factor in (a, b))
    exact, bound = x @ y, allowed(len(b), a.dtype.type) * (np.abs(x) @ np.abs(y))
    return all(
        abs(Fraction(float(value)) - exact[place]) <= bound[place]
        for found in products
        for place, value in np.ndenumerate(found)
    )


@pytest.mark.parametrize("turned", LAYOUTS)
@pytest.mark.parametrize("k", [1, 7, 64, 1000, 4096])
def test_float32_errs_by_its_roundings(backend, k, turned):
    for n, m in SIZES:
        a, b = drawn(n, k, m)
        found = multiplied(backend, a, b, turned=turned)
        assert is_within(a, b, found), (n, m)
        assert is_as_good_as_numpys(a, b, found), (n, m)
        a, b = drawn(n, k, m, positive=True)
        assert is_within(a, b, multiplied(backend, a, b, turned=turned)), (n, m)


@pytest.mark.parametrize("k", [1, 7, 64, 500])
def test_float64_errs_by_its_roundings(backend, k):
    for n, m in SIZES:
        a, b = drawn(n, k, m, np.float64)
        assert is_within_exactly(a, b, [multiplied(backend, a, b, turned=turned) for turned in LAYOUTS]), (n, m)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("k", [1, 7, 64, 1000, 4096])
def test_less_precision_rounds_the_factors_and_no_more(backend, k, precision):
    for n, m in SIZES:
        a, b = drawn(n, k, m)
        for turned in LAYOUTS:
            assert is_within(a, b, multiplied(backend, a, b, precision, turned), precision), (n, m, turned)


@pytest.mark.parametrize("k", [64, 1024, 4096])
def test_less_precision_is_made_use_of(rounding_backend, k):
    """By matrices that are aligned to 16 bytes: for others a GPU may have no units of less precision."""
    a, b = drawn(64, k, 64)
    full, tf32, bf16 = (
        relative_error(a, b, multiplied(rounding_backend, a, b, given, before=4)) for given in (None, "tf32", "bf16")
    )
    assert 16 * full < tf32
    assert 2 * tf32 < bf16


@st.composite
def factors(draw: st.DrawFn) -> tuple[Any, Any]:
    """Factors whose elements are of very different sizes; none of their products overflows or underflows."""
    dtype, digits, low, high = draw(st.sampled_from([(np.float32, 24, -58, 30), (np.float64, 53, -450, 400)]))
    numbers = st.builds(
        lambda digits, exponent: np.ldexp(dtype(digits), exponent),
        st.integers(-(2**digits), 2**digits),
        st.integers(low, high - digits),
    )
    n, k, m = draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 3))
    a, b = (draw(st.lists(numbers, min_size=size, max_size=size)) for size in (n * k, k * m))
    return np.array(a, dtype).reshape(n, k), np.array(b, dtype).reshape(k, m)


@settings(max_examples=60, deadline=None)
@given(drawn=factors(), turned=st.sampled_from(LAYOUTS))
def test_numbers_of_all_sizes_err_by_their_roundings(backend, drawn, turned):
    assert is_within_exactly(*drawn, [multiplied(backend, *drawn, turned=turned)])


def rounded(x: np.ndarray, bits: int) -> np.ndarray:
    """The numbers with so many bits after the point."""
    digits, exponent = np.frexp(x)
    return np.ldexp(np.rint(np.ldexp(digits, bits + 1)), exponent - bits - 1)


def cut_off(x: np.ndarray, bits: int) -> np.ndarray:
    """The numbers without the bits that come after so many after the point."""
    digits, exponent = np.frexp(x)
    return np.ldexp(np.trunc(np.ldexp(digits, bits + 1)), exponent - bits - 1)


class WrongBackend(StrictBackend):
    """A device that does something to the factors of its products."""

    def __init__(self, change: Callable[[Any, Any], tuple[Any, Any]]) -> None:
        super().__init__()
        self.change = change

    def lowered(self, operation: Any) -> Any:
        def multiply(x: Any, y: Any, into: Any) -> None:
            x, y = self.change(x, y)
            into[...] = x @ y

        (on_host,) = super().lowered(operation)
        return [Foreign(multiply, (on_host.a, on_host.b, on_host.out))]


@pytest.mark.parametrize(
    ("k", "wrong"),
    [
        (1, lambda a, b: (rounded(a, 7), rounded(b, 7))),
        (64, lambda a, b: (rounded(a, 7), rounded(b, 7))),
        (64, lambda a, b: (rounded(a, 10), rounded(b, 10))),
        (1000, lambda a, b: (a[:, 1:], b[1:])),
    ],
    ids=["bfloat16, one term", "bfloat16", "TF32", "a term less"],
)
def test_a_wrong_product_of_float32_is_found(k, wrong):
    a, b = drawn(3, k, 4)
    right, found = (multiplied(WrongBackend(change), a, b) for change in (lambda a, b: (a, b), wrong))
    assert is_within(a, b, right)
    assert not is_within(a, b, found)
    assert not is_within_exactly(a, b, [found])


def test_less_precision_in_a_long_product_is_found_by_the_comparison_with_numpy_alone():
    a, b = drawn(3, 4096, 4)
    found = multiplied(WrongBackend(lambda a, b: (rounded(a, 10), rounded(b, 10))), a, b)
    assert is_within(a, b, found)
    assert not is_as_good_as_numpys(a, b, found)


def test_float32_is_no_product_of_float64():
    a, b = drawn(3, 64, 4, np.float64)
    found = multiplied(WrongBackend(lambda a, b: (a.astype(np.float32), b.astype(np.float32))), a, b)
    assert not is_within_exactly(a, b, [found])


@pytest.mark.parametrize(
    ("k", "way", "bits", "kept"),
    [
        *[(k, way, 10, ["tf32", "bf16"]) for k in (1, 7, 64) for way in (rounded, cut_off)],
        # Errors of rounding to the nearest cancel in longer sums.
        (1, rounded, 7, ["bf16"]),
        *[(k, cut_off, 8, ["bf16"]) for k in (1, 7, 64)],
        *[(k, cut_off, 6, []) for k in (1, 7, 64)],
    ],
)
def test_the_bounds_of_less_precision_are_apart(k, way, bits, kept):
    a, b = drawn(3, k, 4, positive=True)
    found = multiplied(WrongBackend(lambda a, b: (way(a, bits), way(b, bits))), a, b)
    assert [precision for precision in PRECISIONS if is_within(a, b, found, precision)] == kept

"""What users hand over becomes arrays of the right shape and dtype, or an error that says what to do."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnbp.backends.cpu.backend import NumpyBackend
from strict_backend import StrictBackend

import nnbp
from nnbp import DataError, DTypeError, ShapeError, validation
from nnbp.validation import (
    class_weights,
    finite,
    host,
    like,
    matrix,
    not_negative,
    number,
    on_device,
    sample_weights,
    whole_number,
)

BACKEND = NumpyBackend()
F32, F64 = np.dtype(np.float32), np.dtype(np.float64)


# X.


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([*"?bhiqBHefd"]), st.sampled_from([F32, F64]))
@settings(max_examples=40, deadline=None)
def test_features_of_any_real_dtype(m: int, n: int, kind: str, dtype: Any) -> None:
    X = np.random.default_rng(m * n).integers(0, 2, (m, n)).astype(kind)
    kept = X.copy()
    made = matrix(BACKEND, X, dtype, X.shape[1])
    assert made.dtype == dtype
    assert made.flags.c_contiguous
    np.testing.assert_array_equal(made, X.astype(dtype))
    np.testing.assert_array_equal(X, kept)


def test_features_that_fit_are_not_copied() -> None:
    X = np.ones((3, 2), np.float32)
    assert matrix(BACKEND, X, F32, 2) is X


@pytest.mark.parametrize(
    "view",
    [lambda X: X[::2], lambda X: X[:, ::2], lambda X: X.T, lambda X: X[::-1], lambda X: np.asfortranarray(X)],
)
def test_features_of_any_layout(view: Callable[[Any], Any]) -> None:
    X = view(np.arange(24.0).reshape(4, 6))
    made = matrix(BACKEND, X, F64, None)
    assert made.flags.c_contiguous
    np.testing.assert_array_equal(made, X)


def test_features_of_sequences_and_frames() -> None:
    pandas = pytest.importorskip("pandas")
    expected = np.array([[1, 2], [3, 4]], np.float32)
    for X in ([[1, 2], [3, 4]], ((1.0, 2), (3, 4)), pandas.DataFrame({"a": [1, 3], "b": [2.0, 4.0]})):
        np.testing.assert_array_equal(matrix(BACKEND, X, F32, 2), expected)


@pytest.mark.parametrize(
    ("X", "said"),
    [
        (np.ones(3), r"received shape \(3,\)\. For one sample, pass X\.reshape\(1, -1\)"),
        (np.ones((2, 2)), r"here \(m, 3\); received shape \(2, 2\)"),
        (np.ones((1, 2, 3)), r"received shape \(1, 2, 3\)"),
        (np.ones((0, 3)), r"at least one sample.*received shape \(0, 3\)"),
        (3.0, r"received shape \(\)"),
        ([[1, 2, 3], [4]], "all rows have the same length"),
    ],
)
def test_shape_of_features(X: Any, said: str) -> None:
    with pytest.raises(ShapeError, match=said):
        matrix(BACKEND, X, F32, 3)


def test_no_features() -> None:
    with pytest.raises(ShapeError, match="at least one sample and one feature"):
        matrix(BACKEND, np.ones((3, 0)), F32, None)


NOT_NUMBERS = [
    np.array([["a", "b"]]),
    np.array([[1, "2.5"]], dtype=object),
    np.array([[1, 2j]], dtype=object),
    np.array([[1, np.datetime64("2020-01-01")]], dtype=object),
    np.array([[b"x", b"y"]]),
]


@pytest.mark.parametrize("X", [*NOT_NUMBERS, [["a", "b"]]], ids=repr)
def test_features_that_are_no_numbers(X: Any) -> None:
    """The same answer for an array that the backend owns and for a list, which it does not."""
    with pytest.raises(DTypeError, match=r"X holds real numbers; received dtype .*numbers first"):
        matrix(BACKEND, X, F32, 2)


@pytest.mark.parametrize(
    ("X", "fix"),
    [
        (np.array([[1j, 2]]), "the real and the imaginary part as columns"),
        ([[1j, 2]], "the real and the imaginary part as columns"),
        (np.array([["2020-01-01", "2020-01-02"]], dtype="datetime64[D]"), r"times into numbers: \(X - X\.min\(\)\) /"),
        (np.array([[1, 2]], dtype="timedelta64[s]"), r"times into numbers: X / np\.timedelta64"),
        (np.zeros((1, 2), dtype=[("a", float), ("b", float)]), r"structured_to_unstructured\(X\)"),
    ],
    ids=repr,
)
def test_the_fix_for_other_kinds_of_arrays(X: Any, fix: str) -> None:
    with pytest.raises(DTypeError, match=f"X holds real numbers; received dtype .*{fix}"):
        matrix(BACKEND, X, F32, 2)


def test_objects_that_are_numbers_or_missing() -> None:
    """As frames give them whose columns differ in dtype."""
    pandas = pytest.importorskip("pandas")
    objects = [True, np.False_, 2, np.int8(-3), 0.5, np.float32(0.25), Decimal("1.5"), Fraction(1, 4), 10**400]
    array = np.array([[*objects, None, pandas.NA, math.nan]], dtype=object)
    kept = array.copy()
    expected = [1, 0, 2, -3, 0.5, 0.25, 1.5, 0.25, np.inf, np.nan, np.nan, np.nan]
    for X in (array, array.tolist()):
        made = matrix(BACKEND, X, F64, 12)
        assert made.dtype == np.float64
        np.testing.assert_array_equal(made, [expected])
    assert all(now is before for now, before in zip(array[0], kept[0], strict=True))


def test_masked_arrays_and_sparse_matrices() -> None:
    masked = np.ma.masked_array([[1.0, 2.0]], mask=[[True, False]])
    with pytest.raises(DTypeError, match=r"received a MaskedArray with masked values\. Pass X\.filled\(value\)"):
        matrix(BACKEND, masked, F32, 2)
    masked.mask = False
    np.testing.assert_array_equal(matrix(BACKEND, masked, F32, 2), [[1, 2]])
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(DTypeError, match=r"received the sparse csr_\w+\. Pass y\.toarray\(\)"):
        host(sparse.csr_matrix(np.eye(2)), "y")
    kept = matrix(BACKEND, sparse.coo_array(np.eye(3)), F32, 3)
    assert (kept.shape, len(kept), kept.dtype, kept.size) == ((3, 3), 3, np.float64, 9)
    np.testing.assert_array_equal(kept[1:], np.eye(3)[1:])
    with pytest.raises(ShapeError, match=r"received shape \(3, 3\)"):
        matrix(BACKEND, sparse.coo_array(np.eye(3)), F32, 2)


def test_frame_with_text() -> None:
    pandas = pytest.importorskip("pandas")
    with pytest.raises(DTypeError, match="received dtype object with 'x' in it"):
        matrix(BACKEND, pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]}, dtype=object), F32, 2)


@pytest.mark.parametrize("elements", [4, 6, 100])
def test_a_large_array_is_checked_in_blocks(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    monkeypatch.setattr(validation, "_BLOCK_ON_DEVICE", elements)
    with BACKEND.active():
        X = BACKEND.upload(np.ones((5, 3)), F32)
        finite(BACKEND, X, "X", F32)
        for row in range(5):
            bad = BACKEND.upload(np.where(np.arange(5)[:, None] == row, np.inf, np.ones((5, 3))), F32)
            with pytest.raises(DataError, match=f"received inf in row {7 + row}, column 0"):
                finite(BACKEND, bad, "X", F32, first=7)


def test_finite_names_the_first_bad_value() -> None:
    X = np.ones((4, 3), np.float32)
    finite(BACKEND, X, "X", F32)
    X[2, 1] = np.nan
    with pytest.raises(DataError, match=r"X holds finite numbers.*float32; received nan in row 2, column 1"):
        finite(BACKEND, X, "X", F32)
    with BACKEND.active():
        large = matrix(BACKEND, np.full((1, 1), 1e300), F32, 1)
    with pytest.raises(DataError, match=r"float32; received inf in row 0.*scale large ones"):
        finite(BACKEND, large, "X", F32)


def test_results_come_back_as_what_came_in() -> None:
    array = np.ones(3)
    assert like(np.ones((1, 1)), BACKEND)(array) is array
    assert like([[1.0]], BACKEND)(array) is array


# y.


def test_host() -> None:
    assert host([1, 2], "y").dtype.kind == "i"
    assert host(np.array([True]), "y").dtype.kind == "b"
    with pytest.raises(DTypeError, match=r"y holds real numbers; received dtype <U1\. .*np\.unique"):
        host(["a", "b"], "y", classes=True)
    with pytest.raises(DTypeError, match=r"y holds real numbers; received dtype <U1\. Turn text columns into numbers"):
        host(["a", "b"], "y")
    with pytest.raises(DTypeError, match=r"y holds real numbers; received None\."):
        host(None, "y")


def test_host_reports_what_does_not_convert() -> None:
    class Closed:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            raise RuntimeError("it is closed.")

    with pytest.raises(DTypeError, match=r"y is an array.*; received a Closed, which does not: it is closed\."):
        host(Closed(), "y")


def test_host_downloads_gpu_arrays() -> None:
    class Device:
        __cuda_array_interface__ = None

        def get(self) -> Any:
            return np.arange(3)

    np.testing.assert_array_equal(host(Device(), "y"), [0, 1, 2])


class Tensor:
    """An array of a library that NumPy does not know, in some memory: DLPack's 1 is the host's, 2 CUDA's."""

    def __init__(self, values: Any, memory: int) -> None:
        self.values, self.memory = np.asarray(values), memory

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.memory, 0

    def __dlpack__(self, *, dl_device: Any = None, **options: Any) -> Any:
        if self.memory != 1 and (dl_device is None or dl_device[0] != 1):
            raise BufferError("it lies on another device.")
        return self.values.__dlpack__(dl_device=dl_device, **options)


@pytest.mark.parametrize("memory", [1, 2])
def test_host_takes_arrays_of_any_library(memory: int) -> None:
    np.testing.assert_array_equal(host(Tensor([1.5, 2.5], memory), "y"), [1.5, 2.5])


def test_host_says_why_an_array_cannot_be_read() -> None:
    class Closed(Tensor):
        def __dlpack__(self, **options: Any) -> Any:
            raise BufferError("it needs a gradient.")

    with pytest.raises(DTypeError, match=r"X is an array.*; received a Closed, which does not: it needs a gradient\."):
        host(Closed([1.0], 1), "X")


def test_an_array_of_another_library_on_the_device_stays_there() -> None:
    """Through DLPack or the CUDA array interface, without a trip through the host; results are of the backend."""

    class Viewed:
        __cuda_array_interface__: ClassVar[Any] = {}

    backend, cpu = StrictBackend(), NumpyBackend()
    net = nnbp.Network([2, 3, 1], device=backend, seed=0)
    with backend.active():
        X = backend.upload(np.ones((4, 2)), np.float32)
    tensor, viewed = Tensor(np.zeros((4, 2)), 2), Viewed()
    backend.xp.from_dlpack = {tensor: X}.get
    backend.xp.asarray = {viewed: X}.get
    for values in (tensor, viewed, X):
        assert on_device(backend, values) is X
        assert backend.owns(net.predict(values))
        assert backend.owns(net.gradients(values, np.ones(4)).dX)
    assert on_device(cpu, tensor) is tensor, "to be copied to the host"
    assert on_device(backend, cpu_tensor := Tensor(np.ones((4, 2)), 1)) is cpu_tensor
    assert isinstance(net.predict(cpu_tensor), np.ndarray)
    np.testing.assert_array_equal(nnbp.Network([2, 1], device="cpu").predict(tensor), np.zeros(4))


def test_tensors_of_torch_are_data() -> None:
    torch = pytest.importorskip("torch")
    net = nnbp.Network([2, 3, 1], device="cpu", seed=0)
    X, y = torch.ones(4, 2), torch.ones(4, requires_grad=True)
    assert isinstance(net.predict(X), np.ndarray)
    with pytest.raises(DTypeError, match=r"y is an array.*; received a Tensor, which does not: .*detach\(\)"):
        net.fit(X, y, epochs=1, progress=False)
    net.fit(X, y.detach(), epochs=1, progress=False)


# Weights.


@pytest.mark.parametrize("weights", [[1, 2, 0], np.array([1, 2, 0]), np.array([[1.0], [2.0], [0.0]])])
def test_sample_weights(weights: Any) -> None:
    made = sample_weights(weights, 3)
    assert made is not None
    assert made.dtype == np.float64
    np.testing.assert_array_equal(made, [0.5, 1, 0])


@pytest.mark.parametrize("scale", [5e-324, 1e-46, 1.0, 3.0, 1e39, 1e307])
def test_sample_weights_of_any_scale_are_numbers_of_float32(scale: float) -> None:
    """A power of two comes off, so no weight is rounded."""
    made = sample_weights(np.array([1.0, 2.0, 0.0]) * scale, 3)
    assert made is not None
    assert 1 <= made.max() < 2
    np.testing.assert_array_equal(made[0] * 2, made[1])
    assert made.astype(np.float32)[:2].all()


def test_no_sample_weights() -> None:
    assert sample_weights(None, 3) is None


@pytest.mark.parametrize(
    ("weights", "error", "said"),
    [
        ([1, 2], ShapeError, r"one number per sample, \(3,\); received shape \(2,\)"),
        (np.ones((1, 3)), ShapeError, r"received shape \(1, 3\)"),
        (1.0, ShapeError, r"received shape \(\)"),
        ([1, -1, 1], DataError, "at least 0.*from -1.0 to 1.0"),
        ([0, 0, 0], DataError, "not all 0"),
        ([1, np.nan, 1], DataError, "finite"),
        ([1, np.inf, 1], DataError, "finite"),
        (["a", "b", "c"], DTypeError, "sample_weight holds real numbers"),
    ],
)
def test_sample_weights_out_of_range(weights: Any, error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        sample_weights(weights, 3)


def test_class_weights() -> None:
    labels = np.array([0, 1, 1, 2])
    assert class_weights(None, labels, labels, 3) is None
    np.testing.assert_array_equal(class_weights({1: 3.0, 2: 0.5}, labels, labels, 3), [1, 3, 3, 0.5])
    np.testing.assert_array_equal(class_weights({1.0: 3, np.int64(2): 0}, labels, labels, 3), [1, 3, 3, 0])
    for weights in ([2, 3, 0.5], (2, 3, 0.5), np.array([2, 3, 0.5], np.float16), np.array([2, 3, 0.5], object)):
        np.testing.assert_array_equal(class_weights(weights, labels, labels, 3), [2, 3, 3, 0.5])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30))
@settings(max_examples=30, deadline=None)
def test_balanced_class_weights_give_every_class_the_same_sum(labels: list[int]) -> None:
    y = np.array(labels)
    w = class_weights("balanced", y, y, 5)
    assert w is not None
    sums = [w[y == label].sum() for label in np.unique(y)]
    np.testing.assert_allclose(sums, len(y) / len(sums))


def test_balanced_equals_scikit_learn() -> None:
    utils = pytest.importorskip("sklearn.utils.class_weight")
    y = np.array([0, 0, 0, 1, 2, 2])
    expected = utils.compute_sample_weight("balanced", y)
    np.testing.assert_allclose(class_weights("balanced", y, y, 3), expected)
    by_class = utils.compute_class_weight("balanced", classes=np.unique(y), y=y)
    np.testing.assert_allclose(class_weights(by_class, y, y, 3), expected)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("auto", "'balanced' or None; received 'auto'"),
        (3, r"one weight per class, 'balanced' or None; received 3\."),
        ([1, 2, 3], r"one weight for each class, \(2,\) here; received shape \(3,\)"),
        (np.ones((2, 1)), r"one weight for each class, \(2,\) here; received shape \(2, 1\)"),
        (np.array([1.0, np.nan]), "weight of class 1 .*received nan"),
        ([1, -2.0], r"weight of class 1 .*at least 0; received -2\.0"),
        ({"a": 1.0}, "class indices.*received 'a'"),
        ({1: -1.0}, r"weight of class 1 .*at least 0; received -1\.0"),
        ({1: float("nan")}, "received nan"),
        ({1: "x"}, "received 'x'"),
    ],
)
def test_class_weights_out_of_range(weights: Any, said: str) -> None:
    y = np.array([0, 1])
    with pytest.raises(ValueError, match=said):
        class_weights(weights, y, y, 2)


def test_class_weights_of_several_labels_a_sample() -> None:
    y = np.eye(2)
    with pytest.raises(ShapeError, match=r"shape \(2, 2\).*Use sample_weight"):
        class_weights("balanced", y, y, 2)


# Numbers.


def test_whole_number() -> None:
    assert whole_number("epochs", 3, 1) == 3
    made = whole_number("epochs", np.int32(3), 1)
    assert type(made) is int


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", None, np.float64(2)])
def test_no_whole_number(value: Any) -> None:
    with pytest.raises(ValueError, match="epochs is a whole number, at least 1; received"):
        whole_number("epochs", value, 1)


def test_not_negative() -> None:
    for value in (0, 0.5, np.float32(0.5), np.int64(3)):
        made = not_negative("rate", value)
        assert type(made) is float
        assert made == value


@pytest.mark.parametrize("value", [-1, -1e-300, np.nan, np.inf, "1", None, True, 1j, [1.0]])
def test_negative(value: Any) -> None:
    with pytest.raises(ValueError, match="rate is a number, finite and at least 0; received"):
        not_negative("rate", value)


@pytest.mark.parametrize(
    ("interval", "inner", "outer", "rule"),
    [
        ("[0, 1)", [0, 0.5, np.float32(0.25)], [-0.1, 1, np.nan], "at least 0 and below 1"),
        ("(0, 1]", [1, 0.5], [0, 1.1, np.inf], "above 0 and at most 1"),
        ("(0, inf)", [1e-300, np.int64(3)], [0, np.inf, -1], "finite and above 0"),
        ("(0, inf]", [1, np.inf], [0, -np.inf], "above 0"),
    ],
)
def test_number_in_an_interval(interval: str, inner: list[Any], outer: list[Any], rule: str) -> None:
    for value in inner:
        made = number("rate", value, interval)
        assert type(made) is float
        assert made == value
    for value in (*outer, "0.5", None, True, 1j, [0.5]):
        with pytest.raises(ValueError, match=f"^rate is a number, {rule}; received {re.escape(repr(value))}[.]$"):
            number("rate", value, interval)

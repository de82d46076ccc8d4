"""The strict backend itself: it refuses what a GPU would refuse, or do silently."""

from __future__ import annotations

import numpy as np
import pytest
from strict_backend import StrictBackend

from nnbp.graph.backend import Backend
from nnbp.graph.formula import trace
from nnbp.graph.ops import Foreign, Gemm, Map, Reduce


@pytest.fixture
def strict():
    backend = StrictBackend()
    with backend.active():
        yield backend


def captured(backend, function, *arguments):
    backend.compile([Foreign(function, arguments)])()


def test_it_is_a_backend():
    assert isinstance(StrictBackend(), Backend)


@pytest.mark.parametrize(
    "use",
    [
        np.asarray, np.array, np.exp, np.sum, np.isfinite, float, int, bool, list, iter, len,
        lambda a: a + np.ones(3), lambda a: np.ones(3) + a, lambda a: a * np.float64(2), lambda a: np.float64(2) * a,
        lambda a: np.add(a, a), lambda a: np.concatenate([a, a]), lambda a: a[np.array([0, 1])], lambda a: 1.0 in a,
        lambda a: a.__setitem__(..., np.ones(3)), lambda a: a.mean(), lambda a: memoryview(a), hash,
    ],
)  # fmt: skip
def test_arrays_do_not_become_host_arrays(strict, use):
    array = strict.upload(np.ones(3), np.float64)
    if use is len:
        assert len(array) == 3
        return
    with pytest.raises((TypeError, AttributeError)):
        use(array)


def test_arithmetic_stays_on_the_device(strict):
    a, b = (strict.upload(np.array(values), np.float32) for values in ([1.0, 2.0], [3.0, 5.0]))
    result = (2 * a + b / 2.0 - 1) ** 2
    assert strict.owns(result)
    assert result.dtype == np.float32
    assert strict.download(result).tolist() == [6.25, 30.25]
    assert strict.download(a[0]).shape == ()
    assert strict.download(-a).tolist() == [-1.0, -2.0]
    assert bool(strict.download((a < b).all()))
    a += b
    assert strict.download(a).tolist() == [4.0, 7.0]


def test_arrays_of_two_devices_do_not_mix(strict):
    other = StrictBackend()
    with other.active():
        b = other.upload(np.ones(2), np.float64)
    with pytest.raises(ValueError, match="another device"):
        _ = strict.upload(np.ones(2), np.float64) + b
    assert not strict.owns(b)


def test_uploads_and_downloads_copy(strict):
    host = np.ones(3)
    array = strict.upload(host, np.float64)
    host[0] = 7.0
    strict.download(array)[1] = 7.0
    assert strict.download(array).tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(TypeError):
        strict.upload(array, np.float64)
    with pytest.raises(TypeError):
        strict.download(host)


def test_views_are_views_and_keep_their_strides(strict):
    array = strict.upload(np.arange(12.0).reshape(3, 4), np.float64)
    array.T[1] = 0.0
    array[:, 2:].reshape(3, 2, 1)[...] = -1.0
    assert strict.download(array).tolist() == [[0, 0, -1, -1], [4, 0, -1, -1], [8, 0, -1, -1]]
    assert array.T.strides == (8, 32)
    with pytest.raises(ValueError, match="copies"):
        array.T.reshape(-1)


def test_new_memory_is_no_number(strict):
    assert np.isnan(strict.download(strict.empty((2, 2), np.float32))).all()


@pytest.mark.parametrize(
    "act",
    [
        lambda b, a: b.empty(3, np.float32), lambda b, a: b.upload(np.ones(3), np.float32), lambda b, a: b.download(a),
        lambda b, a: a + 1.0, lambda b, a: a.astype(np.float64), lambda b, a: b.xp.add(a, a), lambda b, a: a.all(),
        lambda b, a: b.xp.concatenate([a, a]), lambda b, a: a[b_index(b, a)], lambda b, a: b.synchronize(),
    ],
)  # fmt: skip
def test_a_captured_step_neither_allocates_nor_waits(strict, act):
    array = strict.upload(np.ones(3), np.float32)
    b_index.value = strict.upload(np.zeros(1), np.int64)
    act(strict, array)
    with pytest.raises(RuntimeError, match="a captured step"):
        captured(strict, act, strict, array)
    act(strict, array)


def b_index(backend, array):
    return b_index.value


def test_a_captured_step_may_write_into_what_is_there(strict):
    a = strict.upload(np.ones(3), np.float32)
    captured(strict, strict.xp.add, a, a, a)
    captured(strict, a.__setitem__, slice(1), 5.0)
    assert strict.download(a).tolist() == [5.0, 2.0, 2.0]
    assert strict.captured_runs == 2


def test_the_device_is_used_within_its_context():
    backend = StrictBackend()
    for act in (lambda: backend.empty(3, np.float32), lambda: backend.upload(np.ones(3), np.float32)):
        with pytest.raises(RuntimeError, match="outside of backend"):
            act()


def test_operations_hold_to_the_protocol(strict):
    a = strict.upload(np.ones((4, 4)), np.float64)
    formula = trace(lambda x: x * 2.0, "x")
    for operation, words in (
        (Gemm(a, a.T, a), "its own operand"),
        (Gemm(a[:, :2], a[:2], strict.empty((4, 4), np.float64)), "contiguous"),
        (Gemm(a, a, strict.empty((4, 4), np.float32)), "one dtype"),
        (Map(formula, [a[:3]], [a[1:]]), "overlaps"),
        (Reduce("sum", a, 0, a[:1]), "its own operand"),
    ):
        with pytest.raises(ValueError, match=words):
            strict.compile([operation])

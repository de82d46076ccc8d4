"""The CuPy backend against NumPy's, member by member, emulated and on a GPU; its kernels through NVIDIA's compiler."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from compiled_kernels import ARCHITECTURES, kernels, nvrtc_compile
from emulated_cupy import Device, Memory, RawKernel, emulated_backend_class
from kernel_samples import bundle, needs_compiler

from nnbp import BatchNorm, Dense, Dropout, LayerNorm, Network, Standardize
from nnbp.errors import DeviceMemoryError, NnbpError
from nnbp.graph.backend import Backend, backend_class
from nnbp.graph.formula import trace
from nnbp.graph.ops import Gather, Gemm, Map, Reduce, Uniform
from nnbp.testing.parity import compare_devices

DTYPES = [np.float32, np.float64]


@pytest.fixture(params=[pytest.param("emulated", marks=needs_compiler), pytest.param("cupy", marks=pytest.mark.gpu)])
def backend(request):
    opened = emulated_backend_class()() if request.param == "emulated" else backend_class("cupy")()
    with opened.active():
        yield opened


@pytest.fixture
def numpy_backend():
    return backend_class("numpy")()


def tolerance(dtype: Any) -> dict[str, float]:
    return {"rtol": 2e-5, "atol": 2e-5} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-12}


def both(
    backend: Backend, numpy_backend: Backend, operation: Callable[..., Any], *arrays: np.ndarray, runs: int = 1
) -> list[list[np.ndarray]]:
    """The arrays after the operation was bound to them and run, on either backend."""
    results = []
    for one in (backend, numpy_backend):
        on_device = [one.upload(array.copy(), array.dtype) for array in arrays]
        run = one.compile(operation(one, *on_device))
        for _ in range(runs):
            run()
        results.append([one.download(array) for array in on_device])
    return results


def test_it_is_a_backend(backend):
    assert isinstance(backend, Backend)
    assert (backend.name, backend.device) == ("cupy", "cuda:0")
    free, total = backend.memory()
    assert 0 < free <= total
    backend.synchronize()


def test_arrays_go_up_and_come_down(backend):
    host = np.arange(6.0).reshape(2, 3)
    for values, dtype in ((host, np.float64), (host.T, np.float32), (host[:, ::2], np.float64), (host[:0], np.int64)):
        array = backend.upload(values, dtype)
        assert array.flags.c_contiguous
        assert array.dtype == dtype
        back = backend.download(array)
        assert type(back) is np.ndarray
        np.testing.assert_array_equal(back, values.astype(dtype))
        np.testing.assert_array_equal(backend.download(array.T), values.astype(dtype).T)
    array = backend.upload(host, np.float64)
    host[...] = 0.0
    assert backend.download(array)[1, 2] == 5.0, "what was uploaded does not change with the host array"
    assert backend.empty(3, np.float32).shape == (3,)
    assert backend.empty((2, 3), np.float64).flags.c_contiguous


def test_it_owns_its_own_arrays(backend):
    assert backend.owns(backend.empty(3, np.float32))
    assert backend.owns(backend.empty((2, 3), np.float32).T)
    assert not backend.owns(np.zeros(3))
    assert not backend.owns([1.0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "k", "m"), [(5, 4, 3), (1, 4, 3), (5, 4, 1), (1, 7, 1), (4, 1, 3), (3, 200, 2)])
def test_gemm(backend, numpy_backend, dtype, n, k, m):
    rng = np.random.default_rng(0)
    a, b, out = (rng.normal(size=shape).astype(dtype) for shape in ((n, k), (k, m), (n, m)))
    close = tolerance(dtype)
    for transpose_a in (False, True):
        for transpose_b in (False, True):
            arrays = a.T if transpose_a else a, b.T if transpose_b else b, np.full_like(out, np.nan)

            def product(one, x, y, z, ta=transpose_a, tb=transpose_b):
                return [Gemm(x.T if ta else x, y.T if tb else y, z)]

            got, expected = both(backend, numpy_backend, product, *map(np.ascontiguousarray, arrays))
            np.testing.assert_allclose(got[2], expected[2], **close)


@pytest.mark.parametrize(("precision", "bits"), [(None, 23), ("tf32", 9), ("bf16", 7)])
def test_a_product_is_as_precise_as_was_asked_for(backend, precision, bits):
    """Its error is that of factors rounded to so many bits after the point, summed in float32; and not smaller.

    cuBLAS may use TF32, and need not: the sizes are those of its units. These may cut off the bits after the tenth
    instead of rounding, which is as bad as rounding to nine.
    """
    rng = np.random.default_rng(9)
    a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((64, 256), (256, 128)))
    on_device = [backend.upload(x, np.float32) for x in (a, b)]
    out = backend.empty((64, 128), np.float32)
    backend.compile([Gemm(*on_device, out, precision)])()
    exact, size = (
        x.astype(np.float64) @ y for x, y in ((a, b.astype(np.float64)), (abs(a), abs(b.astype(np.float64))))
    )
    error = np.max(np.abs(backend.download(out) - exact) / size)
    # Each factor errs by half a unit of its last place at most, and the sum by far less than K roundings.
    assert error <= 2.0**-bits + 256 * 2.0**-24
    if precision is not None:
        assert error >= 2.0 ** -(bits + 8), "rounded to fewer bits than was asked for, or not at all"
    for array, host in zip(on_device, (a, b), strict=True):
        np.testing.assert_array_equal(backend.download(array), host)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_network_of_less_precision_trains_nearly_as_well(backend, precision):
    rng = np.random.default_rng(10)
    X, y = rng.normal(size=(90, 6)).astype(np.float32), np.arange(90) % 3
    losses = []
    for given in (None, precision):
        net = Network([6, 16, 3], loss="cross_entropy", seed=0, device=backend, precision=given)
        losses.append(net.fit(X, y, epochs=5, batch_size=30, learning_rate=0.01, progress=False)["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)
    # For products as small as these cuBLAS may use float32 where it is allowed TF32.
    assert precision == "tf32" or losses[1] != losses[0]


def test_an_empty_product_and_a_product_over_nothing(backend, numpy_backend):
    for n, k, m in ((0, 3, 2), (2, 3, 0), (2, 0, 3)):
        arrays = np.ones((n, k)), np.ones((k, m)), np.full((n, m), 7.0)
        got, _ = both(backend, numpy_backend, lambda one, *x: [Gemm(*x)], *arrays)
        np.testing.assert_array_equal(got[2], np.zeros((n, m)))


def test_operations_without_elements_do_nothing(backend, numpy_backend):
    def operations(one, empty, row, counter, out):
        double = trace(lambda x: 2.0 * x, "x")
        stream = one.random_stream((1, 2))
        return [
            Map(double, [empty], [empty]),
            Reduce("sum", empty.T, 0, row),
            Gather(out.astype(np.float64), counter, counter, 1, empty),
            Uniform(stream, one.empty((0, 3), np.float32)),
            Map(double, [out], [out]),
        ]

    arrays = np.ones((0, 4)), np.ones((1, 0)), np.zeros(1, np.int64), np.ones((3, 4), np.float32)
    got, _ = both(backend, numpy_backend, operations, *arrays)
    np.testing.assert_array_equal(got[3], np.full((3, 4), 2.0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_elementwise_broadcasts_and_works_in_place(backend, numpy_backend, dtype):
    rng = np.random.default_rng(1)
    z, row, column, one = (rng.normal(size=shape).astype(dtype) for shape in ((5, 300), (1, 300), (5, 1), (1, 1)))
    uniform = rng.random((5, 300), np.float32)

    def operation(backend, z, row, column, one, uniform, out):
        formula = trace(
            lambda z, b, s, c, u: (np.tanh(z + b) * s, np.where(u >= 0.25, z * c, 0.0)), "z", "b", "s", "c", "u"
        )
        return [Map(formula, [z, column, row, one, uniform], [z, out])]

    arrays = z, row, column, one, uniform, np.full_like(z, np.nan)
    got, expected = both(backend, numpy_backend, operation, *arrays, runs=2)
    for x, y in zip(got, expected, strict=True):
        np.testing.assert_allclose(x, y, **tolerance(dtype))


def test_elementwise_takes_views(backend, numpy_backend):
    rng = np.random.default_rng(2)
    x, flat = rng.normal(size=(6, 4)), rng.normal(size=30)

    def operation(backend, x, flat, out, part):
        difference = trace(lambda x, y: x - y, "x", "y")
        return [
            Map(difference, [x.T, flat[:24].reshape(4, 6)], [out]),
            Map(difference, [out[:2], flat[3:4].reshape(1, 1)], [out[:2]]),
            Map(difference, [flat[:10], part[5:15]], [part[5:15]]),
        ]

    got, expected = both(backend, numpy_backend, operation, x, flat, np.zeros((4, 6)), np.ones(20))
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_kernels_are_compiled_once(backend):
    arrays = [backend.upload(np.ones(shape), np.float32) for shape in ((3, 4), (20, 2))]

    def kernel(number, array):
        recording = backend.compile([Map(trace(lambda x: x * number, "x"), [array], [array])])
        return recording.calls[0][0]

    first = kernel(3.5, arrays[0])
    assert kernel(3.5, arrays[1]) is first
    assert kernel(3.25, arrays[0]) is not first


def test_binding_runs_nothing(backend):
    array = backend.upload(np.ones((2, 2)), np.float64)
    run = backend.compile([Map(trace(lambda x: x + 1.0, "x"), [array], [array])])
    assert backend.download(array)[0, 0] == 1.0
    run()
    run()
    np.testing.assert_array_equal(backend.download(array), np.full((2, 2), 3.0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_denormals_are_0_in_float32_and_kept_in_float64(backend, numpy_backend, dtype):
    """CuPy compiles with -ftz=true. What that means stands in `nnbp.backends.cuda.codegen`; parity allows for it."""
    tiny = np.finfo(dtype).tiny
    values = np.array([[tiny, tiny / 4, -tiny / 4, 1.0]], dtype)
    got, expected = both(
        backend, numpy_backend,
        lambda one, x, half, log, sign: [Map(
            trace(lambda x: (x * 0.5, np.log(np.abs(x)), np.sign(x * x)), "x"), [x], [half, log, sign]
        )],
        values, *(np.full_like(values, np.nan) for _ in range(3)),
    )  # fmt: skip
    if dtype == np.float64:
        for x, y in zip(got, expected, strict=True):
            np.testing.assert_allclose(x, y, **tolerance(dtype))
        return
    np.testing.assert_array_equal(got[1], [[0, 0, 0, 0.5]])
    np.testing.assert_allclose(got[2], [[np.log(tiny), -np.inf, -np.inf, 0.0]], rtol=1e-6)
    np.testing.assert_array_equal(got[3], [[0, 0, 0, 1]])


def test_denormals_that_a_gpu_takes_for_0_are_within_the_bounds_of_parity(backend):
    rng = np.random.default_rng(11)
    net = Network([3, 4, 2], activation="tanh", seed=0, device="cpu")
    net.set_parameters([1e-9 * W for W in net.weights], net.biases)
    X, y = (1e-30 * rng.normal(size=(9, columns)).astype(np.float32) for columns in (3, 2))
    report = compare_devices(net, X, 1e-9 * y, devices=("cpu", backend), optimizer="sgd")
    assert report.passed, str(report)
    lost = [row.name for row in report.rows if row.max_relative_error > row.bound]
    assert "a1" in lost, "this network has denormals"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 5), (10, 1), (10, 700)])
def test_maximum_rows(backend, numpy_backend, dtype, shape):
    a = np.random.default_rng(3).normal(size=shape).astype(dtype)
    a[0, 0] = np.nan
    out = np.zeros((1, shape[1]), dtype)
    got, expected = both(backend, numpy_backend, lambda one, a, out: [Reduce("maximum", a, 0, out)], a, out)
    np.testing.assert_array_equal(got[1], expected[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_gather(backend, numpy_backend, dtype):
    rng = np.random.default_rng(4)
    source, order = rng.normal(size=(50, 7)).astype(dtype), rng.permutation(50)
    counter, out = np.array([2]), np.zeros((16, 7), dtype)

    def operation(one, source, order, counter, out):
        return [Gather(source, order, counter, 16, out)]

    got, expected = both(backend, numpy_backend, operation, source, order, counter, out)
    np.testing.assert_array_equal(got[3], expected[3])
    np.testing.assert_array_equal(got[3], source[order[32:48]])


def test_random_streams_are_the_same_bits_as_on_the_cpu(backend, numpy_backend):
    key = (12345, 2**64 - 1)
    streams = [one.random_stream(key) for one in (backend, numpy_backend)]
    runs, outputs = [], []
    for one, stream in zip((backend, numpy_backend), streams, strict=True):
        out = [one.empty(shape, np.float32) for shape in ((3, 5), (1, 1), (4, 64))]
        outputs.append(out)
        runs.append(one.compile([call for array in out for call in [Uniform(stream, array)]]))

    def compare():
        for run in runs:
            run()
        for x, y in zip(*outputs, strict=True):
            np.testing.assert_array_equal(backend.download(x), numpy_backend.download(y))
        assert streams[0].position == streams[1].position

    compare()
    compare()
    assert streams[0].position == 2 * (15 + 1 + 256)
    for stream in streams:
        stream.position = 13
    compare()


@pytest.mark.parametrize(("first", "total"), [(0, 5), (3, 8), (0, 200), (61, 70), (195, 200)])
def test_columns_of_random_numbers_are_the_same_bits_as_on_the_cpu(backend, numpy_backend, first, total):
    streams = [one.random_stream((7, 9)) for one in (backend, numpy_backend)]
    outputs = [one.empty((4, 5), np.float32) for one in (backend, numpy_backend)]
    for one, stream, out in zip((backend, numpy_backend), streams, outputs, strict=True):
        stream.position = 13
        one.compile([Uniform(stream, out, first, total)], 2)()
    np.testing.assert_array_equal(backend.download(outputs[0]), outputs[1])
    assert [stream.position for stream in streams] == 2 * [13 + 8 * total]


@pytest.mark.parametrize("first", [[], [Standardize()], [BatchNorm()], [LayerNorm("tanh")]])
def test_a_network_trains_as_on_the_cpu(backend, numpy_backend, first):
    X = np.random.default_rng(5).normal(size=(50, 6))
    y = (X[:, :2] > 0).sum(axis=1)
    trained = []
    for one in (backend, numpy_backend):
        net = Network(
            [6, *first, Dense(5, "tanh"), Dropout(0.25), Dense(4, "gelu"), Dense(3)],
            loss="cross_entropy", weight_decay=1e-3, dtype="float64", seed=0, device=one,
        )  # fmt: skip
        history = net.fit(X, y, epochs=3, batch_size=16, progress=False, clip_norm=1.0)
        trained.append((history["loss"], one.download(net.model.parameters.values), net.forward(X)))
    assert trained[0][0][-1] < trained[0][0][0]
    for got, expected in zip(*trained, strict=True):
        np.testing.assert_allclose(got, expected, 1e-9, 1e-11)


def test_a_float32_network_standardises_in_float64_as_on_the_cpu(backend, numpy_backend):
    rng = np.random.default_rng(5)
    X, y = 1e8 + rng.normal(size=(50, 6)), rng.integers(0, 3, 50)
    found = []
    for one in (backend, numpy_backend):
        net = Network([6, Standardize(), Dense(5, "tanh"), Dense(3)], loss="cross_entropy", seed=0, device=one)
        net.fit(X, y, epochs=3, batch_size=16, progress=False)
        (statistics, *_), gradients = net.model.host_statistics(), net.gradients(X, y)
        found.append((*statistics.values(), net.trace(X).z[1], gradients.dX, one.download(net.parameters)))
    for got, expected in zip(*found, strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_allclose(got, expected, 1e-4, 1e-5)


@needs_compiler
def test_memory_is_freed_once_and_then_the_error_says_how_much():
    backend = emulated_backend_class()()
    Memory.kept = 2**23
    assert backend.empty(3 * 2**20, np.float32).nbytes > 2**23, "what CuPy kept was freed"
    with pytest.raises(DeviceMemoryError, match=r"cuda:0; received one of shape \(4096, 2048\) .* 32\.0 MiB"):
        backend.upload(np.zeros((4096, 2048), np.float32), np.float32)
    with pytest.raises(MemoryError, match=r"16\.0 of 16\.0 MiB are free"):
        backend.empty(2**30, np.float32)
    assert issubclass(DeviceMemoryError, NnbpError)


@pytest.mark.gpu
def test_memory_of_a_gpu_runs_out_with_an_error_that_says_how_much():
    backend = backend_class("cupy")()
    with pytest.raises(DeviceMemoryError, match=r"one of shape \(4194304, 4194304\) .* 67,108,864\.0 MiB"):
        backend.empty((2**22, 2**22), np.float32)


@needs_compiler
def test_the_device_is_current_within_active_and_not_after():
    backend = emulated_backend_class()()
    assert Device.depth == 0
    with backend.active(), backend.active(), np.errstate():
        assert Device.depth == 2
        assert np.geterr()["divide"] == "ignore"
    array = backend.upload(np.ones((2, 2)), np.float32)
    backend.compile([Gemm(array, array, backend.empty((2, 2), np.float32))])()
    with pytest.raises(ZeroDivisionError), backend.active():
        _ = 1 / 0
    assert Device.depth == 0
    assert np.geterr()["divide"] == "warn"


@needs_compiler
def test_another_shape_needs_no_other_kernel():
    backend = emulated_backend_class()()
    formula = trace(lambda x, y: x * y - 17.0, "x", "y")
    before = len(RawKernel.compiled)
    for rows, columns in ((2, 3), (7, 5), (100, 2)):
        x, y = backend.empty((rows, columns), np.float32), backend.empty((rows, 1), np.float32)
        backend.compile([Map(formula, [x, y], [x])])
    assert len(RawKernel.compiled) == before + 1


@pytest.mark.cupy
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_compiles_for_every_architecture(architecture, dtype):
    source, names = bundle(kernels(dtype))
    compiled = nvrtc_compile(source, f"-arch=sm_{architecture}")
    assert len(set(names)) > 50
    for name in names:
        assert name.encode() in compiled


@pytest.mark.cupy
def test_float32_kernels_hold_no_double_arithmetic():
    # sin and cos reduce large arguments in double precision.
    launches = [x for x in kernels(np.float32) if " sin(" not in x.source and " cos(" not in x.source]
    ptx = nvrtc_compile(bundle(launches)[0], "-arch=compute_80", ptx=True)
    assert b".f64" not in ptx
    assert b".f32" in ptx
    # The search finds what it is for.
    assert b".f64" in nvrtc_compile(bundle(kernels(np.float64)[:1])[0], "-arch=compute_80", ptx=True)


@pytest.mark.cupy
def test_importing_the_backend_needs_no_driver():
    command = "import nnbp.backends.cuda.backend as module; print(module.CupyBackend.name)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "cupy"

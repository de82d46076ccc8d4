"""Arguments of a network, its parameters as views, and sizes that are taken from data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from strict_backend import StrictBackend

from nnbp import DataError, Dense, Dropout, DTypeError, Network, NnbpError, ShapeError, TrainingState
from nnbp.graph.ops import Gemm


def network(*sizes: int, **options: Any) -> Network:
    return Network(list(sizes or (3, 4, 2)), **{"device": "cpu", "seed": 0, **options})


def data(m: int = 20, n_out: int = 2) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(m, 3)), rng.normal(size=(m, n_out))


# Arguments.


def test_defaults() -> None:
    net = Network([3, 4, 2], device="cpu")
    assert net.dtype == np.float32
    assert net.weight_decay == 0.0
    assert net.loss_function.name == "squared_error"
    assert [layer.f.name for layer in net.layers] == ["relu", "identity"]  # type: ignore[attr-defined]
    assert net.device == "cpu"


@pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype("f4"), "float64", float, np.float64])
def test_dtype(dtype: Any) -> None:
    net = network(dtype=dtype)
    assert net.dtype == np.dtype(dtype)
    assert {a.dtype for a in (net.parameters, net.forward([[1, 2, 3]]), net.weights[0])} == {np.dtype(dtype)}


@pytest.mark.parametrize("dtype", ["float16", "float33", int, None, "", 5, complex, "float128"])
def test_other_dtypes_are_refused(dtype: Any) -> None:
    with pytest.raises(DTypeError, match="dtype is float32 or float64; received"):
        network(dtype=dtype)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"weight_decay": -1e-4}, r"weight_decay.*at least 0; received -0\.0001"),
        ({"weight_decay": np.nan}, "weight_decay.*received nan"),
        ({"weight_decay": np.inf}, "weight_decay.*received inf"),
        ({"weight_decay": "1e-4"}, "weight_decay.*received '1e-4'"),
        ({"weight_decay": None}, "weight_decay.*received None"),
        ({"seed": -1}, "seed is a whole number, at least 0; received -1"),
        ({"seed": 1.5}, r"seed.*received 1\.5"),
        ({"seed": "0"}, "seed.*received '0'"),
        ({"device": "gpu"}, "received 'gpu'"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        network(**arguments)


@pytest.mark.parametrize(("name", "value"), [("dtype", np.dtype("float64")), ("seed", 3)])
def test_arguments_that_are_built_in_stay_as_they_are(name: str, value: Any) -> None:
    net = network()
    before = getattr(net, name)
    with pytest.raises(AttributeError, match=f"{name}.* no setter"):
        setattr(net, name, value)
    assert getattr(net, name) == before


def test_without_a_seed_networks_differ() -> None:
    one, other = (Network([3, 4, 2], device="cpu") for _ in range(2))
    assert not np.array_equal(one.parameters, other.parameters)
    again = Network([3, 4, 2], device="cpu", seed=one.seed)
    np.testing.assert_array_equal(again.parameters, one.parameters)


# Parameters.


def test_parameters_are_one_vector_of_which_weights_and_biases_are_views() -> None:
    net = network()
    assert [W.shape for W in net.weights] == [(4, 3), (2, 4)]
    assert [b.shape for b in net.biases] == [(4,), (2,)]
    parts = [*net.weights, *net.biases]
    np.testing.assert_array_equal(net.parameters, np.concatenate([part.ravel() for part in parts]))
    before = net.forward([[1, 2, 3]])
    for part in parts:
        assert np.shares_memory(part, net.parameters)
        part += 1
    assert not np.array_equal(net.forward([[1, 2, 3]]), before)
    np.testing.assert_array_equal(net.parameters, np.concatenate([part.ravel() for part in parts]))


def test_biases_begin_at_0_but_for_rectifiers() -> None:
    assert not np.any([np.any(b) for b in network(activation="tanh").biases])
    assert [bool(np.any(b)) for b in network(activation="relu").biases] == [True, False]


def test_set_parameters_from_lists() -> None:
    net = network()
    net.set_parameters([np.full((4, 3), 2), [[1, 2, 3, 4], [5, 6, 7, 8]]], [[1, 1, 1, 1], np.array([0.5, -0.5])])
    np.testing.assert_array_equal(net.weights[1], [[1, 2, 3, 4], [5, 6, 7, 8]])
    np.testing.assert_array_equal(net.biases[1], [0.5, -0.5])
    hidden = np.array([[13.0, 13, 13, 13]])
    np.testing.assert_array_equal(net.forward([[1, 2, 3]]), hidden @ net.weights[1].T + net.biases[1])


def test_set_parameters_copies() -> None:
    net = network()
    W = [np.ones((4, 3), np.float32), np.ones((2, 4), np.float32)]
    net.set_parameters(W, [np.zeros(4), np.zeros(2)])
    W[0][...] = 9
    assert net.weights[0].max() == 1


@pytest.mark.parametrize(
    ("weights", "biases", "error", "said"),
    [
        ([np.ones((4, 3))], [np.ones(4), np.ones(2)], ShapeError, "one W for each of 2 dense layers; received 1"),
        ([np.ones((4, 3)), np.ones((2, 4))], [np.ones(4)], ShapeError, "one b for each of 2 dense layers"),
        ([np.ones((3, 4)), np.ones((2, 4))], [np.ones(4), np.ones(2)], ShapeError, r"W\[0\].*\(4, 3\).*n_out, n_in"),
        ([np.ones((4, 3)), np.ones((2, 4))], [np.ones(4), np.ones((2, 1))], ShapeError, r"b\[1\] has shape \(2,\)"),
        ([np.ones((4, 3)), [["a"] * 4] * 2], [np.ones(4), np.ones(2)], DTypeError, r"W\[1\] holds real numbers"),
    ],
)
def test_set_parameters_that_do_not_fit(weights: Any, biases: Any, error: Any, said: str) -> None:
    net = network()
    before = net.parameters.copy()
    with pytest.raises(error, match=said):
        net.set_parameters(weights, biases)
    np.testing.assert_array_equal(net.parameters, before)


# Sizes from the data.


@pytest.mark.parametrize("use", ["forward", "predict", "summary", "parameters", "weights", "layers", "trace"])
def test_network_without_sizes_says_so(use: str) -> None:
    net = Network(device="cpu")
    with pytest.raises(NnbpError, match=r"taken from the data.*fit\(X, y\) first, or give the sizes"):
        getattr(net, use)(data()[0]) if use in ("forward", "predict", "trace") else (
            net.summary() if use == "summary" else getattr(net, use)
        )


@pytest.mark.parametrize(
    ("loss", "y", "sizes"),
    [
        ("squared_error", np.zeros(6), [3, 100, 1]),
        ("squared_error", np.zeros((6, 4)), [3, 100, 4]),
        ("cross_entropy", np.array([0, 1, 2, 3, 0, 1]), [3, 100, 4]),
        ("cross_entropy", np.eye(6), [3, 100, 6]),
        ("binary_cross_entropy", np.array([0, 1] * 3), [3, 100, 1]),
    ],
)
def test_sizes_are_taken_at_the_first_fit(loss: str, y: Any, sizes: list[int]) -> None:
    net = Network(device="cpu", seed=0, loss=loss)
    net.fit(data(6)[0], y, epochs=1, progress=False)
    assert net.model.sizes == sizes
    assert "-".join(map(str, sizes)) in repr(net)


def test_network_of_layers_takes_its_inputs_at_first_use() -> None:
    net = Network([Dense(4, "tanh"), Dropout(0.5), Dense(2)], device="cpu", seed=0)
    assert net.forward(data()[0]).shape == (20, 2)
    assert net.model.sizes == [3, 4, 4, 2]
    with pytest.raises(ShapeError, match=r"here \(m, 3\); received shape \(2, 5\)"):
        net.forward(np.ones((2, 5)))


@pytest.mark.parametrize("layers", [None, [Dense(4, "tanh"), Dense(2)]])
@pytest.mark.parametrize(
    ("y", "error"),
    [
        (np.full(20, np.nan), DataError),
        (np.full(20, -1), DataError),
        (np.full(20, 0.5), DataError),
        (np.full(20, 1e15), DataError),
        (np.zeros(7), ShapeError),
        (["a"] * 20, DTypeError),
        (None, DTypeError),
    ],
)
def test_bad_targets_leave_the_sizes_open(layers: Any, y: Any, error: Any) -> None:
    """A first fit that was refused has changed nothing: the next may have other sizes."""
    net = Network(layers, loss="cross_entropy", device="cpu", seed=0)
    with pytest.raises(error):
        net.fit(data()[0], y, epochs=1, progress=False)
    net.fit(np.ones((4, 5)), [0, 1, 1, 0], epochs=1, progress=False)
    assert net.model.n_in == 5


@pytest.mark.parametrize("layers", [None, [Dense(3), Dense(1)]])
@pytest.mark.parametrize("use", ["fit", "partial_fit", "predict", "predict_proba", "forward", "evaluate"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e39])
def test_inputs_that_are_no_numbers_leave_the_sizes_open(layers: Any, use: str, bad: float) -> None:
    net = Network(layers, loss="binary_cross_entropy", device="cpu", seed=0)
    A = np.full((4, 7), bad)
    with pytest.raises(NnbpError):
        getattr(net, use)(*(A, np.zeros(4)) if use in ("fit", "partial_fit", "evaluate") else (A,))
    assert net._passes is None
    net.fit(np.ones((4, 5)), [0, 1, 1, 0], epochs=1, progress=False)
    assert net.model.n_in == 5


@pytest.mark.parametrize("layers", [None, [Dense(3), Dense(2)]])
@pytest.mark.parametrize(
    "arguments",
    [
        {"class_weight": "heavy"},
        {"class_weight": {"a": 1}},
        {"sample_weight": -np.ones(20)},
        {"validation_data": (np.ones((3, 4)), np.zeros(3))},
        {"validation_data": (np.full((3, 3), np.nan), np.zeros(3))},
        {"validation_data": (np.ones((3, 3)), np.full(3, 2))},
        {"validation_data": 5},
        {"validation_split": 2},
        {"metrics": ["f1"]},
        {"callbacks": [5]},
    ],
    ids=repr,
)
def test_arguments_that_are_refused_leave_the_sizes_open(layers: Any, arguments: Any) -> None:
    net = Network(layers, loss="cross_entropy", device="cpu", seed=0)
    with pytest.raises((ValueError, TypeError)):
        net.fit(data()[0], np.arange(20) % 2, epochs=1, progress=False, **arguments)
    assert net._passes is None


@pytest.mark.parametrize("use", ["loss", "gradients", "per_sample_gradients", "evaluate"])
def test_sizes_are_not_taken_from_what_does_not_train(use: str) -> None:
    """A network of which nothing is known; one of layers needs but the inputs, and takes them from good data."""
    with pytest.raises(NnbpError, match=r"taken from the data.*fit\(X, y\) first"):
        getattr(Network(device="cpu"), use)(*data())
    net = Network([Dense(4), Dense(2)], device="cpu")
    with pytest.raises(DataError):
        getattr(net, use)(np.full((20, 5), np.nan), data()[1])
    assert net._passes is None
    getattr(net, use)(*data())
    assert net.model.n_in == 3


def test_validation_samples_have_the_classes_of_the_training_samples() -> None:
    net = Network(loss="cross_entropy", device="cpu", seed=0)
    net.fit(data()[0], np.arange(20) % 4, epochs=1, progress=False, validation_data=(np.ones((2, 3)), [0, 1]))
    assert net.model.n_out == 4
    split = Network(loss="cross_entropy", device="cpu", seed=0)
    split.fit(data()[0], np.r_[np.zeros(10, int), np.arange(10)], epochs=1, progress=False, validation_split=0.5)
    assert split.model.n_out == 10


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_precision_reaches_the_products_of_the_layers_and_nothing_else(precision):
    asked = []

    class Noting(StrictBackend):
        def lowered(self, operation):
            if isinstance(operation, Gemm):
                asked.append((operation.precision, operation.a.shape, operation.b.shape))
            return super().lowered(operation)

    X, y = np.random.default_rng(0).normal(size=(20, 4)), np.arange(20) % 3
    net = Network([4, 5, 3], loss="cross_entropy", device=Noting(), seed=0, precision=precision)
    net.fit(X, y, epochs=1, batch_size=20, clip_norm=1.0, progress=False)
    reduced = [shapes for given, *shapes in asked if given == precision]
    assert len(reduced) >= 5, "two products forward, three back"
    assert all(1 not in (a[0], b[1]) for a, b in reduced)
    assert {given for given, *_ in asked} == {precision, None}
    assert f"precision={precision!r}" in repr(net)
    assert f"of float32 (products in {precision}) on" in net.summary()
    assert net.precision == net.copy().precision == net.to("cpu").precision == precision
    assert net.copy(device="cpu", dtype=np.float64).precision is None


def test_a_precision_that_is_none_is_refused():
    for precision, dtype in (("fp16", "float32"), ("tf32", "float64"), (32, "float32")):
        with pytest.raises(ValueError, match=f"'tf32' or 'bf16'.*received {precision!r} with dtype {dtype}"):
            Network([2, 1], device="cpu", dtype=dtype, precision=precision)


def test_a_precision_belongs_to_the_run_and_not_to_the_file(tmp_path):
    Network([2, 1], device="cpu", precision="bf16").save(tmp_path / "net")
    assert Network.load(tmp_path / "net", device="cpu").precision is None
    assert Network.load(tmp_path / "net", device="cpu", precision="tf32").precision == "tf32"


def test_weights_and_biases_are_tuples_of_writable_views() -> None:
    net = network()
    assert type(net.weights) is type(net.biases) is tuple
    with pytest.raises(TypeError):
        net.weights[0] = np.zeros((4, 3))  # type: ignore[index]
    net.weights[0][...] = 7.0
    assert (net.parameters[:12] == 7.0).all()


def test_prepare_takes_the_sizes_from_good_data_and_from_no_others() -> None:
    net = Network(loss="cross_entropy", device="cpu", seed=0)
    X, y = data()[0], np.arange(20) % 4
    for bad in ((np.full((20, 3), np.nan), y), (X, y[:5]), (X, np.full(20, np.nan))):
        with pytest.raises(NnbpError):
            net.prepare(*bad)
        with pytest.raises(NnbpError, match="taken from the data"):
            _ = net.model
    found = net.prepare(X, y, np.arange(20.0))
    assert (net.model.n_in, net.model.n_out, len(found)) == (3, 4, 20)
    assert found.X.dtype == found.y.dtype == net.dtype
    np.testing.assert_array_equal(found.targets, y)


def test_J_is_what_training_calls_the_validation_loss() -> None:
    """J has one implementation: the same bits wherever it is asked for."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(50, 3)).astype(np.float32), rng.normal(size=(50, 2))
    w = rng.uniform(0.5, 2, 50)
    net = network(weight_decay=0.1)
    history = net.fit(X[:30], y[:30], epochs=1, validation_data=(X[30:], y[30:], w[30:]), progress=False)
    assert history["val_loss"] == [net.loss(X[30:], y[30:], w[30:])]
    assert net.evaluate(X[30:], y[30:], sample_weight=w[30:])["loss"] == net.loss(X[30:], y[30:], w[30:])
    assert net.gradients(X[30:], y[30:], w[30:]).loss == net.loss(X[30:], y[30:], w[30:])


def test_a_call_of_the_same_size_prepares_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = StrictBackend()
    net = Network([3, 4, 2], device=backend, seed=0)
    (X, y), calls = data(), ("loss", "gradients", "evaluate", "per_sample_gradients", "trace", "predict", "forward")
    compiled: list[Any] = []
    keep = backend.compile

    def compile(operations: Any, *counts: int) -> Any:
        compiled.append(operations)
        return keep(operations, *counts)

    monkeypatch.setattr(backend, "compile", compile)
    for use in calls:
        arguments = (X,) if use in ("trace", "predict", "forward") else (X, y)
        getattr(net, use)(*arguments)
        compiled.clear()
        getattr(net, use)(*arguments)
        assert not compiled, use


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_parameters_that_are_not_finite_are_refused_and_nothing_is_changed(bad: float) -> None:
    net = network()
    before = net.parameters.copy()
    weights, biases = [np.array(W, float) for W in net.weights], [np.array(b, float) for b in net.biases]
    biases[1][1] = bad
    with pytest.raises(DataError, match=rf"finite numbers.*float32; received {bad} in b\[1\]".replace("+", r"\+")):
        net.set_parameters(weights, biases)
    np.testing.assert_array_equal(net.parameters, before)


def test_gradients_are_right_after_an_interrupted_call(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    X, y = data()
    expected = net.gradients(X, y)
    (executor,) = [e for e in net._passes._executors.values() if e.dx is not None]  # type: ignore[union-attr]
    run, calls = executor.run_backward, []

    def interrupted() -> None:
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        run()

    with monkeypatch.context() as patch:
        patch.setitem(vars(executor), "run_backward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            net.gradients(X, y)
    np.testing.assert_array_equal(net.gradients(X, y).flat, expected.flat)


def test_weight_decay_can_be_set_between_trainings() -> None:
    """J, gradients and steps follow, and `partial_fit` goes on with the state of its optimizer."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 3)), rng.normal(size=20)
    net = Network([3, 4, 1], weight_decay=0.5, dtype="float64", device="cpu", seed=0)
    net.partial_fit(X, y, batch_size=None)
    plain, decayed = net.copy(), net.copy()
    # Everything that contains the former λ has been used before it changes.
    before = plain.loss(X, y), plain.gradients(X, y), plain.predict(X)
    plain.weight_decay = 0.0
    squares = sum(np.square(W).sum() for W in net.weights)
    assert before[0] - plain.loss(X, y) == pytest.approx(0.25 * squares, rel=1e-12)
    for with_decay, without, W in zip(before[1].dW, plain.gradients(X, y).dW, net.weights, strict=True):
        np.testing.assert_allclose(with_decay - without, 0.5 * W, atol=1e-12)
    # A second step of Adam: m and v of the first one, whose gradients had the decay of 0.5, are still there.
    m, v, theta = np.zeros_like(net.parameters), np.zeros_like(net.parameters), None
    fresh = Network([3, 4, 1], weight_decay=0.5, dtype="float64", device="cpu", seed=0)
    for t, weight_decay in ((1, 0.5), (2, 0.0)):
        fresh.weight_decay = weight_decay
        g = fresh.gradients(X, y).flat
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        theta = fresh.parameters - 1e-3 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        fresh.parameters[...] = theta
    np.testing.assert_allclose(plain.partial_fit(X, y, batch_size=None).parameters, theta, rtol=1e-12)
    assert not np.allclose(decayed.partial_fit(X, y, batch_size=None).parameters, theta, rtol=1e-9)
    with pytest.raises(ValueError, match="at least 0"):
        net.weight_decay = -1.0


def test_weight_decay_stays_while_a_network_is_being_trained() -> None:
    def change(state: TrainingState) -> None:
        state.network.weight_decay = 1.0

    net = Network([1, 1], device="cpu")
    with pytest.raises(NnbpError, match="while a network is being trained"):
        net.fit([[0.0], [1.0]], [0.0, 1.0], epochs=1, callbacks=[change], progress=False)
    assert net.weight_decay == 0.0

"""Network: the public contract, item by item."""

from __future__ import annotations

import gc
import json
import re
import weakref
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import nnbp
from nnbp import DataError, Dense, Dropout, Network


def network(*sizes: int, **options: Any) -> Network:
    return Network(list(sizes or (3, 4, 2)), **{"device": "cpu", "seed": 0, "activation": "tanh", **options})


def classifier(**options: Any) -> Network:
    return network(loss="cross_entropy", **options)


X = np.random.default_rng(0).normal(size=(20, 3))
Y = np.random.default_rng(1).normal(size=(20, 2))
LABELS = np.random.default_rng(2).integers(0, 2, 20)
QUIET: dict[str, Any] = {"progress": False, "epochs": 2}


# forward, trace, loss, gradients.


@pytest.mark.parametrize("m", [1, 2, 20])
def test_shapes(m: int) -> None:
    net = network()
    A, y = X[:m], Y[:m]
    assert net.forward(A).shape == (m, 2)
    trace = net.trace(A)
    assert trace.z[0] is None
    assert [z.shape for z in trace.z[1:]] == [(m, 4), (m, 2)]
    assert [a.shape for a in trace.a] == [(m, 3), (m, 4), (m, 2)]
    found = net.gradients(A, y)
    assert [g.shape for g in found.dW] == [(4, 3), (2, 4)]
    assert [g.shape for g in found.db] == [(4,), (2,)]
    assert [d.shape for d in found.delta] == [(m, 4), (m, 2)]
    assert found.dX.shape == (m, 3)
    assert found.flat.shape == net.parameters.shape
    assert type(found.loss) is type(net.loss(A, y)) is float
    assert net.per_sample_gradients(A, y).shape == (m, net.parameters.size)


def test_trace_follows_the_layers() -> None:
    net = network(dtype="float64")
    trace = net.trace(X)
    for k in (1, 2):
        z = trace.a[k - 1] @ net.weights[k - 1].T + net.biases[k - 1]
        np.testing.assert_allclose(trace.z[k], z, rtol=1e-13)
    np.testing.assert_array_equal(trace.a[1], np.tanh(trace.z[1]))
    np.testing.assert_array_equal(trace.a[2], trace.z[2])


def test_loss_is_J_with_weights_and_decay() -> None:
    net = network(dtype="float64", weight_decay=0.3)
    w = np.random.default_rng(3).uniform(size=20)
    costs = 0.5 * ((net.forward(X) - Y) ** 2).sum(axis=1)
    decay = 0.15 * sum((W**2).sum() for W in net.weights)
    assert net.loss(X, Y) == pytest.approx(costs.mean() + decay, rel=1e-13)
    assert net.loss(X, Y, sample_weight=w) == pytest.approx((w * costs).sum() / w.sum() + decay, rel=1e-13)
    assert net.gradients(X, Y, sample_weight=w).loss == pytest.approx(net.loss(X, Y, sample_weight=w), rel=1e-13)


def test_gradients_are_views_of_flat_and_belong_to_the_caller() -> None:
    net = network()
    first = net.gradients(X, Y)
    kept = first.flat.copy()
    assert all(np.shares_memory(part, first.flat) for part in (*first.dW, *first.db))
    net.gradients(2 * X, Y)
    np.testing.assert_array_equal(first.flat, kept)


def test_gradients_against_pytorch() -> None:
    torch = pytest.importorskip("torch")
    net = network(3, 5, 4, 2, dtype="float64", loss="cross_entropy", weight_decay=0.2)
    w = np.random.default_rng(3).uniform(size=20)
    tensors = [torch.tensor(p, requires_grad=True) for p in (*net.weights, *net.biases)]
    A = torch.tensor(X, requires_grad=True)
    a = A
    for k in range(3):
        z = a @ tensors[k].T + tensors[k + 3]
        a = torch.tanh(z) if k < 2 else z
    costs = torch.nn.functional.cross_entropy(a, torch.tensor(LABELS), reduction="none")
    weight = torch.tensor(w)
    J = (weight * costs).sum() / weight.sum() + 0.1 * sum((W**2).sum() for W in tensors[:3])
    J.backward()
    found = net.gradients(X, LABELS, sample_weight=w)
    assert found.loss == pytest.approx(float(J.detach()), rel=1e-13)
    for ours, peer in zip([*found.dW, *found.db], tensors, strict=True):
        np.testing.assert_allclose(ours, peer.grad.numpy(), rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(found.dX * (w / w.sum())[:, None], A.grad.numpy(), rtol=1e-10, atol=1e-15)


# Inputs: any kind, never modified.


VIEWS: dict[str, Any] = {
    "list": lambda A: A.tolist(),
    "float32": lambda A: A.astype(np.float32),
    "strided": lambda A: np.repeat(A, 2, axis=0)[::2],
    "columns": lambda A: np.repeat(A, 2, axis=1)[:, ::2],
    "fortran": np.asfortranarray,
    "reversed": lambda A: A[::-1][::-1],
    "big endian": lambda A: A.astype(">f8"),
}


@pytest.mark.parametrize("kind", VIEWS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_layout_gives_the_same(kind: str, dtype: str) -> None:
    net = network(dtype=dtype)
    A, y = VIEWS[kind](X), VIEWS[kind](Y)
    tolerance = 1e-6 if kind == "float32" or dtype == "float32" else 1e-14
    np.testing.assert_allclose(net.forward(A), net.forward(X), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(net.gradients(A, y).flat, net.gradients(X, Y).flat, rtol=1e-5, atol=tolerance)


def test_integer_and_boolean_inputs() -> None:
    net = classifier(dtype="float64")
    A = np.array([[1, 0, 1], [0, 1, 1]])
    for kind in (np.int64, np.uint8, bool):
        np.testing.assert_array_equal(net.forward(A.astype(kind)), net.forward(A.astype(float)))
    for labels in ([0, 1], np.array([0, 1], np.uint8), np.array([False, True]), np.array([0.0, 1.0])):
        assert net.loss(A, labels) == net.loss(A, np.array([0, 1]))


def test_frames_and_series() -> None:
    pandas = pytest.importorskip("pandas")
    net = classifier()
    frame, series = pandas.DataFrame(X, columns=list("abc")), pandas.Series(LABELS)
    history = net.fit(frame, series, validation_data=(frame, series), **QUIET)
    assert history.epochs == 2
    assert isinstance(net.predict(frame), np.ndarray)
    np.testing.assert_array_equal(net.predict(frame), net.predict(X))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layers", [[4], [Dropout(0.5), Dense(4), Dropout(0.5)]])
def test_inputs_are_never_modified(dtype: str, layers: Any) -> None:
    """Read-only arrays of the network's own dtype, which it takes without a copy, go through everything."""
    A, y, w = X.astype(dtype), Y.astype(dtype), np.ones(20, dtype)
    kept = [a.copy() for a in (A, y, w)]
    for array in (A, y, w):
        array.flags.writeable = False
    net = Network([3, *layers, 2], dtype=dtype, device="cpu", seed=0, weight_decay=0.1)
    for batch in (None, 8):
        net.fit(
            A, y, sample_weight=w, batch_size=batch, validation_data=(A, y, w), metrics=["mae"], clip_norm=1.0, **QUIET
        )
    net.fit(A, y, validation_split=0.3, optimizer="lbfgs", **QUIET)
    net.partial_fit(A, y, sample_weight=w)
    net.loss(A, y, w), net.gradients(A, y, w), net.per_sample_gradients(A, y)
    net.trace(A), net.forward(A), net.predict(A), net.evaluate(A, y, sample_weight=w)
    for array, before in zip((A, y, w), kept, strict=True):
        np.testing.assert_array_equal(array, before)


def test_results_share_no_memory_with_inputs() -> None:
    net = Network([3, Dense(3, "identity")], device="cpu", seed=0)
    net.set_parameters([np.eye(3)], [np.zeros(3)])
    A = X.astype(np.float32)
    for result in (net.forward(A), net.predict(A), *net.trace(A).a, net.gradients(A, A).dX):
        assert not np.shares_memory(result, A)
    first = net.forward(A)
    kept = first.copy()
    net.forward(2 * A)
    np.testing.assert_array_equal(first, kept)


# predict, predict_proba, evaluate.


def test_predict_of_values() -> None:
    one, two = network(3, 1), network()
    assert one.predict(X).shape == (20,)
    np.testing.assert_array_equal(one.predict(X), one.forward(X)[:, 0])
    np.testing.assert_array_equal(two.predict(X), two.forward(X))


def test_predict_of_classes() -> None:
    net, binary = classifier(), network(3, 1, loss="binary_cross_entropy")
    labels = net.predict(X)
    assert labels.shape == (20,)
    assert labels.dtype.kind == "i"
    np.testing.assert_array_equal(labels, net.forward(X).argmax(axis=1))
    np.testing.assert_array_equal(binary.predict(X), binary.forward(X)[:, 0] >= 0.5)
    assert binary.predict(X).dtype.kind == "i"


def test_predict_proba() -> None:
    net, binary = classifier(), network(3, 1, loss="binary_cross_entropy")
    np.testing.assert_array_equal(net.predict_proba(X), net.forward(X))
    p = binary.predict_proba(X)
    assert p.shape == (20, 2)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(p[:, 1], binary.forward(X)[:, 0])
    several = network(loss="binary_cross_entropy")
    np.testing.assert_array_equal(several.predict_proba(X), several.forward(X))
    with pytest.raises(TypeError, match=r"squared_error is for values\. Use predict"):
        network().predict_proba(X)


@pytest.mark.parametrize("use", ["predict", "predict_proba"])
@pytest.mark.parametrize(("loss", "n_out"), [("cross_entropy", 2), ("binary_cross_entropy", 1)])
def test_no_class_is_decided_on_what_is_no_number(use: str, loss: str, n_out: int) -> None:
    """Finite inputs, of which z is not."""
    net = Network([3, n_out], loss=loss, device="cpu", seed=0)
    net.weights[0][...], net.biases[0][...] = 100.0, -np.inf
    with pytest.raises(DataError, match=r"h holds finite numbers.*float32; received nan in row 0.*dtype='float64'"):
        getattr(net, use)(np.full((4, 3), 3e38))
    assert np.isnan(net.forward(np.full((4, 3), 3e38))).all()


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_the_sample_that_is_not_finite_is_named_wherever_it_is(loss: str) -> None:
    """In the last of several pieces, too; squares that are infinite are no fault of finite numbers."""
    net = Network([4, 4], loss=loss, device="cpu", seed=0)
    inputs = np.zeros((600_000, 4), np.float32)
    inputs[0] = 1e30
    inputs[599_990, 2] = np.inf
    with pytest.raises(DataError, match=r"X holds finite numbers.*received inf in row 599990, column 2"):
        net.predict(inputs)
    inputs[599_990, 2] = 0.0
    net.weights[0][...], net.biases[0][...] = 1e-30 * np.eye(4), [0, 1, 2, 3]
    assert (net.predict(inputs)[1:] == (3 if loss == "cross_entropy" else [0, 1, 2, 3])).all()


def test_a_network_is_gone_with_its_last_reference() -> None:
    """Its memory is free at once: nothing in it waits for the collector of cycles."""
    gc.collect()
    gc.disable()
    try:
        net = classifier(weight_decay=0.1)
        net.fit(X, LABELS, **QUIET)
        net.partial_fit(X, LABELS)
        net.predict(X)
        alive = weakref.ref(net.model)
        del net
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("scale", [1e-46, 1e-30, 1e30, 1e300])
def test_the_scale_of_weights_changes_nothing(scale: float) -> None:
    net, same = classifier(), classifier()
    w = 2.0 ** np.random.default_rng(3).integers(-3, 3, 20)
    found, expected = net.gradients(X, LABELS, scale * w), net.gradients(X, LABELS, w)
    np.testing.assert_allclose(found.flat, expected.flat, rtol=1e-5)
    assert net.evaluate(X, LABELS, sample_weight=scale * w) == pytest.approx(net.evaluate(X, LABELS, sample_weight=w))
    losses = [n.fit(X, LABELS, sample_weight=v, **QUIET)["loss"] for n, v in ((net, scale * w), (same, w))]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_evaluate() -> None:
    net = classifier(dtype="float64")
    found = net.evaluate(X, LABELS)
    assert list(found) == ["loss", "accuracy"]
    assert found["loss"] == net.loss(X, LABELS)
    assert found["accuracy"] == np.mean(net.predict(X) == LABELS)
    assert all(type(value) is float for value in found.values())
    assert list(net.evaluate(X, LABELS, metrics=["f1_macro", "log_loss"])) == ["loss", "f1_macro", "log_loss"]
    assert list(net.evaluate(X, LABELS, metrics="accuracy")) == ["loss", "accuracy"]
    assert list(net.evaluate(X, LABELS, metrics=[])) == ["loss"]
    assert net.evaluate(X, np.eye(2)[LABELS]) == found


def test_evaluate_values() -> None:
    net = network(3, 1, dtype="float64")
    y = Y[:, 0]
    found = net.evaluate(X, y)
    assert set(found) == {"loss", "r2", "rmse"}
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean((net.predict(X) - y) ** 2)))
    assert found["loss"] == pytest.approx(found["rmse"] ** 2 / 2)
    w = np.arange(20.0)
    weighted = net.evaluate(X, y, sample_weight=w)
    assert weighted["rmse"] == pytest.approx(np.sqrt(np.average((net.predict(X) - y) ** 2, weights=w)))
    assert weighted["loss"] == pytest.approx(weighted["rmse"] ** 2 / 2)


def test_own_metric() -> None:
    def bias(y_true: NDArray[Any], y_pred: NDArray[Any]) -> float:
        return float(np.mean(y_pred) - np.mean(y_true))

    net = network(3, 1)
    found = net.evaluate(X, Y[:, 0], metrics=[bias])
    assert found["bias"] == pytest.approx(net.predict(X).mean() - Y[:, 0].mean(), rel=1e-5)
    history = net.fit(X, Y[:, 0], metrics=[bias], validation_split=0.25, **QUIET)
    assert {"bias", "val_bias"} <= set(history)


# save, load, summary.


def test_save_and_load(tmp_path: Any) -> None:
    net = Network(
        [3, Dense(5, nnbp.LeakyReLU(0.2)), Dropout(0.25), Dense(4, "gelu"), 2], loss=nnbp.Huber(0.7), weight_decay=0.01,
        dtype="float64", device="cpu", seed=9,
    )  # fmt: skip
    net.fit(X, Y, **QUIET)
    net.save(tmp_path / "net.safetensors")
    back = Network.load(tmp_path / "net.safetensors", device="cpu")
    np.testing.assert_array_equal(back.parameters, net.parameters)
    np.testing.assert_array_equal(back.forward(X), net.forward(X))
    assert back.loss(X, Y) == net.loss(X, Y)
    assert back.loss_function == net.loss_function
    assert (back.weight_decay, back.dtype, back.seed) == (net.weight_decay, net.dtype, net.seed)
    assert [repr(layer) for layer in back.layers] == [repr(layer) for layer in net.layers]
    assert back.summary() == net.summary()


def test_summary() -> None:
    net = Network(
        [3, Dense(1000, "tanh"), Dropout(0.5), Dense(2)], loss="cross_entropy", weight_decay=1e-4, device="cpu", seed=0
    )
    lines = net.summary().splitlines()
    rows = [line.split() for line in lines[:-1]]
    assert rows == [
        ["layer", "units", "activation", "parameters"],
        ["input", "3"],
        ["dense", "1000", "tanh", "4,000"],
        ["dropout", "1000"],
        ["dense", "2", "softmax", "2,002"],
    ]
    assert re.fullmatch(
        r"6,002 parameters, 0\.024 MB of float32 on cpu; loss cross_entropy, weight decay 0\.0001", lines[-1]
    )


def test_repr() -> None:
    assert repr(network()) == "Network(3-4-2, loss='squared_error', dtype='float32', device='cpu')"
    assert "sizes from the data" in repr(Network(device="cpu"))


# The scripts of the contract.


def test_script_with_sizes() -> None:
    rng = np.random.default_rng(0)
    A, y = rng.normal(size=(100, 64)), rng.integers(0, 10, 100)
    net = nnbp.Network(
        [64, 32, 10], activation="tanh", loss="cross_entropy", weight_decay=1e-4, device="cpu", dtype="float32", seed=0
    )
    history = net.fit(A, y, epochs=60, learning_rate=0.02, progress=False)
    assert history["loss"][-1] < 0.2 * history["loss"][0]
    assert json.dumps(net.evaluate(A, y))
    assert net.evaluate(A, y)["accuracy"] > 0.95


def test_script_with_layers_and_without_anything() -> None:
    net = nnbp.Network([nnbp.Dense(32, "tanh"), nnbp.Dropout(0.1), nnbp.Dense(2)], loss="cross_entropy", device="cpu")
    net.fit(X, LABELS, **QUIET)
    assert set(net.predict(X)) <= {0, 1}
    bare = nnbp.Network(device="cpu")
    bare.fit(X, Y, **QUIET)
    assert bare.model.sizes == [3, 100, 2]


def test_xor() -> None:
    net = network(2, 8, 1, loss="binary_cross_entropy")
    inputs, targets = [[0, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 1, 0]
    net.fit(inputs, targets, epochs=300, batch_size=None, learning_rate=0.05, progress=False)
    assert net.predict(inputs).tolist() == targets

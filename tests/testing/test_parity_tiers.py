"""The parity suite.

Tier A: gradients against differences; against PyTorch in test_parity_torch.py. Tier B: NumPy and the strict backend,
bit for bit. Tier C: NumPy and a GPU, or on any machine a device that rounds otherwise.

Activations, losses and optimizers are taken from the registries: a new class is tested without being told.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from parity_cases import HIDDEN, LOSSES, OPTIMIZERS, OUTPUT, WEIGHTS, outputs_of
from strict_backend import OtherRoundingBackend, StrictBackend
from training_cases import decay_for, loss_for

import nnbp
from nnbp.optim.optimizers import Optimizer
from nnbp.testing import assert_devices_agree, assert_gradients, example_problem

# Tier A: every gradient against central differences, in float64.


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", HIDDEN)
def test_gradients_against_differences(activation, loss):
    for outputs in outputs_of(loss):
        for decay in (0.0, 0.1):
            for weights in (None, WEIGHTS):
                net, X, y = example_problem(
                    [2, 2, outputs], activation=activation, loss=loss, weight_decay=decay, samples=6, seed=outputs,
                    dtype="float64", device="cpu",
                )  # fmt: skip
                report = assert_gradients(net, X, y, weights, tolerance=1e-6)
                assert sum(row.at_kink for row in report.rows) == 0


@pytest.mark.parametrize(("output", "loss"), OUTPUT)
def test_gradients_of_output_activations(output, loss):
    for outputs in outputs_of(loss, output):
        net, X, y = example_problem(
            [3, 3, outputs], activation="tanh", output_activation=output, loss=loss, weight_decay=0.1, samples=6,
            dtype="float64", device="cpu",
        )  # fmt: skip
        report = assert_gradients(net, X, y, WEIGHTS, tolerance=1e-6)
        assert sum(row.checked for row in report.rows) > 30


def test_gradients_of_deep_networks_with_dropout_layers():
    layers = [
        4,
        nnbp.Dense(6, "silu"),
        nnbp.Dropout(0.3),
        nnbp.Dense(5, "elu"),
        nnbp.Dense(5, "sigmoid"),
        nnbp.Dense(3),
    ]
    net = nnbp.Network(layers, loss="cross_entropy", weight_decay=0.01, device="cpu", seed=0)
    assert_gradients(net, np.random.default_rng(0).normal(size=(6, 4)), [0, 1, 2, 2, 1, 0], WEIGHTS)


def test_this_suite_fails_when_a_derivative_is_wrong(monkeypatch):
    """Each mistake here was once made by somebody: the suite must not pass with any of them."""
    df = {
        nnbp.Sigmoid: lambda self, z, a: a * (1 + a),
        nnbp.Tanh: lambda self, z, a: 1 - a,
        nnbp.ReLU: lambda self, z, a: a >= 0.0,
        nnbp.LeakyReLU: lambda self, z, a: (z > 0.0) * 1.0,
        nnbp.ELU: lambda self, z, a: np.minimum(a, 0.0) + 1.0 + (a > 0.0),
        nnbp.Softplus: lambda self, z, a: np.expm1(-a),
        nnbp.SiLU: lambda self, z, a: a * (1.0 - a),
        nnbp.GELU: lambda self, z, a: a / z,
        nnbp.Exponential: lambda self, z, a: z,
    }
    for cls, wrong in df.items():
        with monkeypatch.context() as patch:
            patch.setattr(cls, "df", wrong)
            with pytest.raises(AssertionError, match="FAILED"):
                test_gradients_against_differences(cls.name, "squared_error")
    dcost = {
        nnbp.SquaredError: lambda self, h, y: 2.0 * (h - y),
        nnbp.AbsoluteError: lambda self, h, y: np.sign(y - h),
        nnbp.Huber: lambda self, h, y: np.minimum(h - y, self.threshold),
        nnbp.Quantile: lambda self, h, y: self.q * (h > y) - (1 - self.q) * (h < y) + 0.1,
        nnbp.Poisson: lambda self, h, y: 1.0 - h / y,
    }
    for cls, wrong in dcost.items():
        with monkeypatch.context() as patch:
            patch.setattr(cls, "dcost", wrong)
            with pytest.raises(AssertionError, match="FAILED"):
                test_gradients_of_output_activations("softplus", cls.name)


# Tier B: the whole engine on the strict backend, bit for bit.


def same(one: Any, other: Any) -> None:
    """Equal bit for bit, and of the same dtype and shape."""
    one, other = np.asarray(one), np.asarray(other)
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    assert one.tobytes() == other.tobytes()


def on_both(layers: Any, **options: Any) -> tuple[nnbp.Network, nnbp.Network]:
    return tuple(nnbp.Network(layers, device=device, seed=7, **options) for device in ("cpu", StrictBackend()))  # type: ignore[return-value]


def same_parameters(plain: nnbp.Network, strict: nnbp.Network) -> None:
    same(plain.parameters, strict.model.backend.download(strict.parameters))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", HIDDEN)
def test_passes_are_equal_bit_for_bit(activation, loss):
    for dtype in ("float32", "float64"):
        plain, X, y = example_problem(
            [4, 6, 5, 3], activation=activation, loss=loss, weight_decay=0.1, samples=6, dtype=dtype, device="cpu"
        )
        strict = plain.copy(device=StrictBackend(), dtype=dtype)
        same_parameters(plain, strict)
        same(plain.forward(X), strict.forward(X))
        one, other = plain.trace(X), strict.trace(X)
        for p, q in zip([*one.z[1:], *one.a], [*other.z[1:], *other.a], strict=True):
            same(p, q)
        g, h = plain.gradients(X, y, WEIGHTS), strict.gradients(X, y, WEIGHTS)
        for p, q in zip(
            [g.loss, *g.dW, *g.db, *g.delta, g.dX, g.flat], [h.loss, *h.dW, *h.db, *h.delta, h.dX, h.flat], strict=True
        ):
            same(p, q)
        same(plain.per_sample_gradients(X, y), strict.per_sample_gradients(X, y))
        same(plain.predict(X), strict.predict(X))
        assert plain.loss(X, y, WEIGHTS) == strict.loss(X, y, WEIGHTS)
        if plain.loss_function.classification:
            same(plain.predict_proba(X), strict.predict_proba(X))
        values = [net.evaluate(X, y, sample_weight=WEIGHTS) for net in (plain, strict)]
        assert values[0] == values[1]


@pytest.mark.parametrize(("output", "loss"), OUTPUT)
def test_output_activations_are_equal_bit_for_bit(output, loss):
    plain, X, y = example_problem([4, 5, 3], output_activation=output, loss=loss, samples=6, device="cpu")
    strict = plain.copy(device=StrictBackend(), dtype=plain.dtype)
    same(plain.forward(X), strict.forward(X))
    same(plain.gradients(X, y).flat, strict.gradients(X, y).flat)


CLASSES = np.random.default_rng(1).integers(0, 3, 53)
POINTS = np.random.default_rng(0).normal(size=(53, 4)) + CLASSES[:, None]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_is_equal_bit_for_bit(optimizer, dtype):
    """Remainder batches, dropout, clipping, weights of samples and classes, validation, metrics, early stopping."""
    rule = Optimizer.registry[optimizer]
    dropout = [] if rule.squares_only else [nnbp.Dropout(0.25)]
    layers = [4, nnbp.Dense(8, "relu"), *dropout, nnbp.Dense(6, "tanh"), nnbp.Dense(3)]
    nets = on_both(layers, loss=loss_for(optimizer), weight_decay=decay_for(optimizer, 1e-3), dtype=dtype)
    changed: dict[str, Any] = {"clip_norm": 0.5} if rule.clippable else {}
    if rule.scheduled:
        changed["schedule"] = "cosine"
    targets = np.eye(3)[CLASSES] if rule.squares_only else CLASSES
    if not rule.squares_only:
        changed |= {"class_weight": "balanced", "metrics": ["accuracy"]}
    histories = [
        net.fit(
            POINTS, targets, epochs=5, batch_size=16, optimizer=optimizer, sample_weight=np.linspace(0.0, 2.0, 53),
            validation_split=0.2, progress=False, early_stopping=nnbp.EarlyStopping(2, monitor="loss"), **changed,
        )
        for net in nets
    ]  # fmt: skip
    same_parameters(*nets)
    assert dict(histories[0]) == dict(histories[1])
    assert histories[0].best_epoch == histories[1].best_epoch
    assert nets[1].model.backend.captured_runs > 5


OPTIONS = [
    nnbp.SGD(0.1, momentum=0.9),
    nnbp.SGD(0.1, momentum=0.9, nesterov=True),
    nnbp.RMSprop(centered=True, momentum=0.5),
    nnbp.LBFGS(line_search="strong_wolfe", max_iter=5),
]


@pytest.mark.parametrize("optimizer", OPTIONS, ids=repr)
def test_training_with_options_is_equal_bit_for_bit(optimizer):
    nets = on_both([4, 8, 1])
    for net in nets:
        net.fit(POINTS, CLASSES, epochs=3, batch_size=None, optimizer=optimizer, progress=False)
    same_parameters(*nets)


@pytest.mark.parametrize("loss", LOSSES)
def test_training_with_every_loss_is_equal_bit_for_bit(loss):
    nets = on_both([4, 8, 3], loss=loss)
    _, _, y = example_problem([4, 3], loss=loss, samples=53, device="cpu")
    for net in nets:
        net.fit(POINTS, y, epochs=2, batch_size=20, validation_data=(POINTS[:9], y[:9], np.arange(9.0)), progress=False)
    same_parameters(*nets)


def test_partial_fit_goes_on_with_its_state_bit_for_bit():
    nets = on_both([4, nnbp.Dense(8, "relu"), nnbp.Dropout(0.5), nnbp.Dense(3)], loss="cross_entropy")
    for net in nets:
        for rows in (slice(0, 20), slice(20, 53), slice(5, 6)):
            net.partial_fit(POINTS[rows], CLASSES[rows], batch_size=8, sample_weight=np.arange(1.0, 54.0)[rows])
    same_parameters(*nets)
    states = [net._ongoing for net in nets]
    assert states[0][1].steps == states[1][1].steps == 3 + 5 + 1
    for name, slot in states[0][1].slots.items():
        same(slot, nets[1].model.backend.download(states[1][1].slots[name]))


def test_large_inputs_go_through_in_pieces_bit_for_bit():
    nets = on_both([4, 5, 2])
    for net in nets:
        net._passes.piece = 64
    X = np.random.default_rng(0).normal(size=(2 * 64 + 3, 4)).astype(np.float32)
    same(*(net.forward(X) for net in nets))
    y = X[:, :2]
    assert len({net.evaluate(X, y)["loss"] for net in nets}) == 1


def test_device_arrays_in_and_device_arrays_out():
    plain, strict = on_both([4, 5, 3], loss="cross_entropy")
    backend = strict.model.backend
    with backend.active():
        X, y = backend.upload(POINTS, np.float64), backend.upload(CLASSES, np.int64)
    given = backend.download(X)
    for mine, other in (
        (strict.forward(X), plain.forward(POINTS)),
        (strict.predict(X), plain.predict(POINTS)),
        (strict.trace(X).z[1], plain.trace(POINTS).z[1]),
        (strict.gradients(X, y).flat, plain.gradients(POINTS, CLASSES).flat),
    ):
        assert backend.owns(mine)
        same(backend.download(mine), other)
    for net, data in ((plain, (POINTS, CLASSES)), (strict, (X, y))):
        net.fit(*data, epochs=2, progress=False)
    same_parameters(plain, strict)
    same(backend.download(X), given)


# Tier C: NumPy against another device.


@pytest.fixture(params=["other", pytest.param("cuda", marks=pytest.mark.gpu)])
def other(request: pytest.FixtureRequest) -> Any:
    """A GPU; and on every machine a device that only rounds otherwise, so that this tier itself is tested."""
    return OtherRoundingBackend() if request.param == "other" else "cuda"


DTYPES = pytest.mark.parametrize("dtype", ["float64", "float32"])


@DTYPES
@pytest.mark.parametrize("activation", HIDDEN)
def test_activations_agree_across_devices(other, activation, dtype):
    net, X, y = example_problem(
        [16, 24, 3], activation=activation, weight_decay=0.01, samples=40, dtype=dtype, device="cpu"
    )
    assert_devices_agree(net, X, y, np.linspace(0.0, 2.0, 40), devices=("cpu", other), learning_rate=1e-4)


@DTYPES
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_agree_across_devices(other, loss, dtype):
    for outputs in outputs_of(loss):
        net, X, y = example_problem(
            [16, 24, outputs], activation="tanh", loss=loss, samples=40, dtype=dtype, device="cpu"
        )
        assert_devices_agree(net, X, y, devices=("cpu", other))


@DTYPES
@pytest.mark.parametrize(("output", "loss"), OUTPUT)
def test_output_activations_agree_across_devices(other, output, loss, dtype):
    net, X, y = example_problem(
        [8, 12, 3], activation="tanh", output_activation=output, loss=loss, samples=20, dtype=dtype, device="cpu"
    )
    assert_devices_agree(net, X, y, devices=("cpu", other), steps=2, learning_rate=1e-4)


@DTYPES
@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, *OPTIONS], ids=str)
def test_optimizers_agree_across_devices(other, optimizer, dtype):
    loss = loss_for(optimizer)
    # Gauss and Newton's matrix has a row and a column for each parameter.
    sizes = [16, 32, 10] if loss == "cross_entropy" else [16, 8, 3]
    net, X, y = example_problem(
        sizes, activation="tanh", loss=loss, weight_decay=decay_for(optimizer, 0.01), samples=100, dtype=dtype,
        device="cpu",
    )  # fmt: skip
    report = assert_devices_agree(net, X, y, devices=("cpu", other), steps=20, optimizer=optimizer)
    assert report.updates == 20
    trained = next(row for row in report.rows if row.name == "W1 trained")
    assert trained.bound < 1e-2, "a bound that bounds nothing"


@DTYPES
def test_remainder_batches_agree_across_devices(other, dtype):
    net, X, y = example_problem([16, 32, 3], activation="relu", samples=53, dtype=dtype, device="cpu")
    assert assert_devices_agree(net, X, y, devices=("cpu", other), steps=20, batch_size=16).updates == 20


@DTYPES
def test_masks_and_shuffles_are_the_same_on_every_device(other, dtype):
    """Dropout, clipping, weights and validation; another mask or order would be far outside of the tolerance."""
    layers = [4, nnbp.Dense(32, "tanh"), nnbp.Dropout(0.25), nnbp.Dense(16, "tanh"), nnbp.Dropout(0.5), nnbp.Dense(3)]
    nets = [
        nnbp.Network(layers, loss="cross_entropy", dtype=dtype, seed=3, device=device, fallback=False)
        for device in ("cpu", other)
    ]
    histories = [
        net.fit(
            POINTS, CLASSES, epochs=5, batch_size=16, clip_norm=0.5, class_weight="balanced", validation_split=0.2,
            metrics=["accuracy"], progress=False,
        )
        for net in nets
    ]  # fmt: skip
    tolerance = 1e-10 if dtype == "float64" else 1e-4
    p, q = (np.array(net.model.backend.download(net.parameters)) for net in nets)
    assert np.abs(p - q).max() <= tolerance * np.abs(p).max()
    for name in ("loss", "val_loss"):
        assert np.allclose(histories[0][name], histories[1][name], rtol=tolerance, atol=0)
    streams = [[s.position for s in net.model.streams if s is not None] for net in nets]
    assert streams[0] == streams[1] != [0, 0]


@DTYPES
def test_a_large_network_agrees_across_devices(other, dtype):
    """Sums that are split over many blocks of a GPU, and tiles of the CPU."""
    net, X, y = example_problem(
        [300, 257, 33], activation="silu", loss="cross_entropy", samples=300, dtype=dtype, device="cpu"
    )
    assert_devices_agree(net, X, y, devices=("cpu", other), steps=2)

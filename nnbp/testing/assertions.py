"""For test suites: assertions on gradients and devices that show the whole table on failure, and example problems.

>>> net, X, y = example_problem([3, 4, 2], activation="gelu", loss="huber", device="cpu")
>>> assert_gradients(net, X, y).passed
True
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp.graph.backend import Backend
from nnbp.network import Network
from nnbp.nn import losses
from nnbp.nn.layers import Dense
from nnbp.nn.losses import Loss
from nnbp.testing.gradients import GradientReport, check_gradients
from nnbp.testing.parity import ParityReport, compare_devices
from nnbp.validation import LARGEST_SIZE, items, whole_number


def assert_gradients(net: Network, X: Any, y: Any, sample_weight: Any = None, **options: Any) -> GradientReport:
    """Fails unless backpropagation agrees with central differences.

    Args:
        net, X, y, sample_weight: as for `check_gradients`.
        options: its keyword arguments: step, tolerance, entries, chance.

    Raises:
        AssertionError: they disagree; the message is the report's table.
    """
    report = check_gradients(net, X, y, sample_weight, **options)
    if not report.passed:
        raise AssertionError(f"backpropagation and central differences disagree on {net!r}\n{report}")
    return report


def assert_devices_agree(
    net: Network,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    *,
    devices: Sequence[str | Backend] = ("cpu", "cuda"),
    **options: Any,
) -> ParityReport:
    """Fails unless computation and training agree on all devices, within the bounds of `nnbp.testing.tolerances`.

    Args:
        net, X, y, sample_weight, devices: as for `compare_devices`.
        options: its keyword arguments: steps, optimizer, learning_rate, batch_size, isolate.

    Raises:
        AssertionError: they disagree; the message is the report's table.
        DeviceUnavailableError: a device does not work on this machine.
    """
    report = compare_devices(net, X, y, sample_weight, devices=devices, **options)
    if not report.passed:
        raise AssertionError(f"the devices disagree on {net!r}\n{report}")
    return report


def example_targets(loss: str | Loss, samples: int, outputs: int, seed: int = 0) -> NDArray[Any]:
    """Random targets that a loss accepts.

    Returns:
        (samples,) class indices for cross_entropy, including every class if there are enough samples; (samples,
        outputs) zeros and ones for other classification losses; else (samples, outputs) numbers, at least 0.
    """
    samples = whole_number("samples", samples, 1, LARGEST_SIZE)
    outputs = whole_number("outputs", outputs, 1, LARGEST_SIZE)
    rng, rule = np.random.default_rng((whole_number("seed", seed, 0), 1)), losses.get(loss)
    if rule.requires == "softmax":
        return rng.permutation(np.arange(samples) % outputs)
    if rule.classification:
        return rng.integers(0, 2, (samples, outputs))
    return np.abs(rng.normal(0.8, 1.0, (samples, outputs)))


def example_problem(
    sizes: Sequence[int], *, loss: str | Loss = "squared_error", samples: int = 8, seed: int = 0, **options: Any
) -> tuple[Network, NDArray[np.float64], NDArray[Any]]:
    """A network with random parameters, including biases, and data that its loss accepts.

    Args:
        sizes: of all layers, input first.
        loss: of the network.
        samples: m.
        seed: of all random numbers.
        options: further arguments of `Network`.

    Returns:
        net, X (m, n_in) and y; if the loss takes the logarithm of h, the last biases are chosen so that h > 0.
    """
    sizes = items("sizes", sizes, "a list of the sizes of all layers, input first")
    samples = whole_number("samples", samples, 1, LARGEST_SIZE)
    rng = np.random.default_rng((whole_number("seed", seed, 0), 0))
    net = Network(sizes, loss=loss, seed=seed, **options)
    weights = [rng.normal(0, 1 / np.sqrt(n), (k, n)) for n, k in pairwise(sizes)]
    biases = [rng.normal(0, 0.3, k) for k in sizes[1:]]
    X = rng.normal(size=(samples, sizes[0]))
    rule, last = net.loss_function, net.layers[-1]
    if isinstance(last, Dense) and not rule.is_canonical(last.f) and _needs_positive(rule):
        weights[-1] *= 0.3
        biases[-1] += 2.5
    net.set_parameters(weights, biases)
    return net, X, example_targets(rule, samples, sizes[-1], seed)


def _needs_positive(loss: Loss) -> bool:
    """Whether the loss needs positive outputs, because it takes their logarithm, for example."""
    with np.errstate(all="ignore"):
        return not np.isfinite(loss.cost(np.float64(-1.0), np.float64(1.0)))

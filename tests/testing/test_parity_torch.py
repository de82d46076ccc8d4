"""Tier A of the parity suite, second part: every gradient against PyTorch's automatic differentiation, in float64.

The network is written once more, in PyTorch; nothing but the parameters and the data is shared.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from parity_cases import HIDDEN, LOSSES, OUTPUT, WEIGHTS, outputs_of

from nnbp.nn.losses import Loss
from nnbp.testing import example_problem


def torch_activation(torch: Any, name: str) -> Any:
    functional = torch.nn.functional
    return {
        "identity": lambda z: z,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "relu": torch.relu,
        "leaky_relu": lambda z: functional.leaky_relu(z, 0.01),
        "elu": functional.elu,
        "softplus": functional.softplus,
        "silu": functional.silu,
        "gelu": functional.gelu,
        "exponential": torch.exp,
        "softmax": lambda z: torch.softmax(z, dim=1),
    }.get(name)


def torch_loss(torch: Any, name: str) -> Any:
    """C of every sample from z, h and y."""
    functional = torch.nn.functional
    return {
        "squared_error": lambda z, h, y: 0.5 * functional.mse_loss(h, y, reduction="none").sum(1),
        "absolute_error": lambda z, h, y: functional.l1_loss(h, y, reduction="none").sum(1),
        "huber": lambda z, h, y: functional.huber_loss(h, y, reduction="none").sum(1),
        "quantile": lambda z, h, y: torch.maximum(0.5 * (y - h), -0.5 * (y - h)).sum(1),
        "poisson": lambda z, h, y: functional.poisson_nll_loss(h, y, log_input=False, eps=0.0, reduction="none").sum(1),
        "binary_cross_entropy": lambda z, h, y: functional.binary_cross_entropy_with_logits(z, y, reduction="none").sum(
            1
        ),
        "cross_entropy": lambda z, h, y: functional.cross_entropy(z, y.long(), reduction="none"),
    }.get(name)


def compare_with_torch(torch: Any, hidden: str, loss: str, output: str | None, outputs: int) -> float:
    """Largest error of J, dW, db, delta and ∂C/∂x, relative to the largest of each array."""
    net, X, y = example_problem(
        [4, 6, 5, outputs], activation=hidden, output_activation=output, loss=loss, weight_decay=0.1, samples=6, seed=1,
        dtype="float64", device="cpu",
    )  # fmt: skip
    names = [hidden, hidden, output or Loss.registry[loss].output_activation]
    functions, cost = [torch_activation(torch, name) for name in names], torch_loss(torch, loss)
    if cost is None or None in functions:
        pytest.skip("PyTorch has no counterpart of this class in this test")
    W, b = ([torch.tensor(np.array(item), requires_grad=True) for item in items] for items in (net.weights, net.biases))
    x = torch.tensor(X, requires_grad=True)
    a, z = x, []
    for Wk, bk, f in zip(W, b, functions, strict=True):
        z.append(a @ Wk.T + bk)
        a = f(z[-1])
    C = cost(z[-1], a, torch.tensor(y if y.ndim == 1 else y.astype(np.float64)))
    w = torch.tensor(WEIGHTS)
    J = (w * C).sum() / w.sum() + 0.05 * sum((Wk * Wk).sum() for Wk in W)
    parameters = torch.autograd.grad(J, [*W, *b], retain_graph=True)
    by_sample = torch.autograd.grad(C.sum(), [*z, x])
    found = net.gradients(X, y, WEIGHTS)
    ours = [np.array([found.loss]), *found.dW, *found.db, *found.delta, found.dX]
    theirs = [J.detach().reshape(1), *parameters, *by_sample]
    return max(
        float(np.abs(mine - other.numpy()).max() / np.abs(other.numpy()).max())
        for mine, other in zip(ours, theirs, strict=True)
    )


@pytest.fixture(scope="module")
def torch():
    module = pytest.importorskip("torch")
    threads = module.get_num_threads()
    module.set_num_threads(1)
    yield module
    module.set_num_threads(threads)


@pytest.mark.parametrize("hidden", HIDDEN)
def test_hidden_activations_against_torch(torch, hidden):
    for loss in LOSSES:
        for outputs in outputs_of(loss):
            assert compare_with_torch(torch, hidden, loss, None, outputs) <= 1e-10


@pytest.mark.parametrize(("output", "loss"), OUTPUT)
def test_output_activations_against_torch(torch, output, loss):
    assert compare_with_torch(torch, "tanh", loss, output, 3) <= 1e-10


def test_per_sample_gradients_against_torch(torch):
    net, X, y = example_problem([4, 6, 3], activation="gelu", loss="cross_entropy", dtype="float64", device="cpu")
    W, b = ([torch.tensor(np.array(item), requires_grad=True) for item in items] for items in (net.weights, net.biases))
    h = torch.nn.functional.gelu(torch.tensor(X) @ W[0].T + b[0]) @ W[1].T + b[1]
    C = torch.nn.functional.cross_entropy(h, torch.tensor(y), reduction="none")
    rows = [torch.cat([g.ravel() for g in torch.autograd.grad(c, [*W, *b], retain_graph=True)]).numpy() for c in C]
    assert np.allclose(net.per_sample_gradients(X, y), rows, rtol=1e-10, atol=1e-12)

"""The notes, walked through in order: each test is one of their statements, on numbers.

Sections are those of the notes ("Neural networks and the backpropagation algorithm"): 1 the neuron, 2.1 the model,
2.2 the example, 2.3 the matrix form, 3.1 the cost, 3.2 backpropagation.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import nnbp
from nnbp.nn import activations

Floats = NDArray[np.float64]


def sigmoid(z: Any) -> Any:
    return 1.0 / (1.0 + np.exp(-np.asarray(z, np.float64)))


def dsigmoid(z: Any) -> Any:
    return sigmoid(z) * (1.0 - sigmoid(z))


def network(*sizes: int, activation: str = "sigmoid", **options: Any) -> nnbp.Network:
    """A float64 network on the CPU with sigmoid everywhere, as in the notes, and with biases that are not 0."""
    options = {"output_activation": activation, **options}
    net = nnbp.Network(list(sizes), activation=activation, device="cpu", dtype="float64", seed=7, **options)
    rng = np.random.default_rng(11)
    net.set_parameters([rng.normal(size=W.shape) for W in net.weights], [rng.normal(size=b.shape) for b in net.biases])
    return net


def data(m: int, n_in: int, n_out: int, seed: int = 3) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(m, n_in)), rng.uniform(0.1, 0.9, size=(m, n_out))


def numeric(f: Any, theta: Floats, step: float = 1e-6) -> Floats:
    """Central differences of f with respect to each element of theta, which is changed in place and put back."""
    found = np.empty_like(theta)
    for index in np.ndindex(theta.shape):
        before = theta[index]
        theta[index] = before + step
        above = f()
        theta[index] = before - step
        below = f()
        theta[index] = before
        found[index] = (above - below) / (2 * step)
    return found


# Section 1: the neuron.


def test_neuron_is_f_of_the_weighted_sum_and_the_bias() -> None:
    """Section 1: a = σ(wᵀa + b) = σ(w₁a₁ + … + w_K a_K + b)."""
    net = network(4, 1)
    w, b = net.weights[0][0], net.biases[0][0]
    x = np.array([0.3, -1.2, 2.0, 0.7])
    z = w[0] * x[0] + w[1] * x[1] + w[2] * x[2] + w[3] * x[3] + b
    assert net.forward(x[None])[0, 0] == pytest.approx(1 / (1 + math.exp(-z)), rel=1e-14)


@pytest.mark.parametrize("C", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("optimizer", [nnbp.LBFGS(tolerance_change=0), nnbp.Rprop()], ids=["lbfgs", "rprop"])
def test_single_neuron_is_logistic_regression(C: float, optimizer: nnbp.Optimizer) -> None:
    """Section 1: one sigmoid neuron is logistic regression, here with weight decay λ = 1 / (C m)."""
    datasets = pytest.importorskip("sklearn.datasets")
    from sklearn.linear_model import LogisticRegression

    X, y = datasets.load_breast_cancer(return_X_y=True)
    X = X[:, [0, 1, 4, 5, 8, 9]]
    X = (X - X.mean(0)) / X.std(0)
    # scikit-learn minimises ½ wᵀw + C Σ Cⁿ; over C m that is J. Its intercept does not decay either.
    peer = LogisticRegression(C=C, tol=1e-10, max_iter=10_000).fit(X, y)
    net = nnbp.Network(
        [6, 1], loss="binary_cross_entropy", weight_decay=1 / (C * len(y)), dtype="float64", device="cpu", seed=0
    )
    net.fit(X, y, epochs=600, batch_size=None, optimizer=optimizer, progress=False)
    assert np.linalg.norm(net.gradients(X, y).flat) < 1e-6
    np.testing.assert_allclose(net.weights[0], peer.coef_, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(net.biases[0], peer.intercept_, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(net.predict_proba(X), peer.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "f", "df"),
    [
        ("sigmoid", lambda z: 1 / (1 + math.exp(-z)), lambda f: f * (1 - f)),
        (
            "tanh",
            lambda z: (math.exp(z) - math.exp(-z)) / (math.exp(z) + math.exp(-z)),
            lambda f: 1 - f**2,
        ),
    ],
)
def test_activation_and_its_derivative(name: str, f: Any, df: Any) -> None:
    """Section 1: f'(z) = f(z)(1 − f(z)) for the sigmoid, 1 − f(z)² for tanh."""
    activation = activations.get(name)
    for z in np.linspace(-6, 6, 41):
        a = activation.f(z)
        assert a == pytest.approx(f(z), rel=1e-14, abs=1e-15)
        assert activation.df(z, a) == pytest.approx(df(f(z)), rel=1e-9)
        h = 1e-5
        assert activation.df(z, a) == pytest.approx((f(z + h) - f(z - h)) / (2 * h), abs=1e-9)


def test_tanh_is_a_stretched_sigmoid() -> None:
    """Section 1: tanh is a variant of the sigmoid, tanh z = 2 σ(2z) − 1, with values in [−1, 1] for [0, 1]."""
    z = np.linspace(-20, 20, 201)
    tanh, sig = nnbp.Tanh().f(z), nnbp.Sigmoid().f(2 * z)
    np.testing.assert_allclose(tanh, 2 * sig - 1, atol=1e-15)
    assert (np.abs(tanh) <= 1).all()
    assert (sig >= 0).all()
    assert (sig <= 1).all()


# Section 2: the model, the example, the matrix form.


def test_sizes_and_the_index_order_of_W() -> None:
    """Section 2.1: W_ij of layer l joins unit j of layer l to unit i of layer l + 1: the target comes first."""
    net = network(3, 3, 1)
    assert [W.shape for W in net.weights] == [(3, 3), (1, 3)]
    assert [b.shape for b in net.biases] == [(3,), (1,)]
    x = np.array([[0.5, -0.25, 1.5]])
    before = net.trace(x)
    i, j = 2, 0
    net.weights[0][i, j] += 0.1
    after = net.trace(x)
    change = after.z[1][0] - before.z[1][0]
    # Only unit i of the next layer hears of it, by 0.1 times the output of unit j.
    np.testing.assert_allclose(change, [0, 0, 0.1 * x[0, j]], atol=1e-15)


def test_inputs_are_the_first_activations() -> None:
    """Section 2.1: for l = 1, a_i = x_i; and h(x) is the activation of the last layer."""
    net = network(3, 3, 1)
    x = np.array([[0.5, -0.25, 1.5]])
    trace = net.trace(x)
    assert np.array_equal(trace.a[0], x)
    assert np.array_equal(trace.a[2], net.forward(x))
    W, b = net.weights[0], net.biases[0]
    for i in range(3):
        z = sum(W[i, j] * x[0, j] for j in range(3)) + b[i]
        assert trace.a[1][0, i] == pytest.approx(sigmoid(z), rel=1e-14)


def test_bias_units_have_no_input() -> None:
    """Section 2.1: the bias unit always puts out +1: with x = 0, z of the first layer is b."""
    net = network(3, 4, 2)
    np.testing.assert_array_equal(net.trace(np.zeros((1, 3))).z[1][0], net.biases[0])


@pytest.fixture
def example() -> tuple[nnbp.Network, dict[tuple[int, Any], float], list[float]]:
    """Section 2.2: nodes 1 to 3 in, 4 to 7 hidden, 8 and 9 out; w[i, j] from node j to node i, "b" the bias."""
    rng = np.random.default_rng(5)
    hidden, out = [4, 5, 6, 7], [8, 9]
    w: dict[tuple[int, Any], float] = {}
    for targets, sources in ((hidden, [1, 2, 3, "b"]), (out, [4, 5, 6, 7, "b"])):
        for i in targets:
            for j in sources:
                w[i, j] = float(rng.normal())
    net = network(3, 4, 2)
    net.set_parameters(
        [[[w[i, j] for j in (1, 2, 3)] for i in hidden], [[w[i, j] for j in hidden] for i in out]],
        [[w[i, "b"] for i in hidden], [w[i, "b"] for i in out]],
    )
    return net, w, [0.9, -0.4, 0.1]


def node_outputs(w: dict[tuple[int, Any], float], x: list[float]) -> dict[int, float]:
    a = {1: x[0], 2: x[1], 3: x[2]}
    for node in (4, 5, 6, 7):
        a[node] = float(sigmoid(w[node, 1] * a[1] + w[node, 2] * a[2] + w[node, 3] * a[3] + w[node, "b"]))
    for node in (8, 9):
        z = w[node, 4] * a[4] + w[node, 5] * a[5] + w[node, 6] * a[6] + w[node, 7] * a[7] + w[node, "b"]
        a[node] = float(sigmoid(z))
    return a


def test_nodes_one_by_one(example: Any) -> None:
    """Section 2.2: a₄ = f(w₄₁x₁ + w₄₂x₂ + w₄₃x₃ + w₄b), … , y₁ = a₈, y₂ = a₉."""
    net, w, x = example
    a = node_outputs(w, x)
    trace = net.trace([x])
    np.testing.assert_array_equal(trace.a[0][0], [a[1], a[2], a[3]])
    np.testing.assert_allclose(trace.a[1][0], [a[4], a[5], a[6], a[7]], rtol=1e-14)
    np.testing.assert_allclose(trace.a[2][0], [a[8], a[9]], rtol=1e-14)
    assert net.forward([x]).shape == (1, 2)


def test_nodes_by_matrix_with_the_bias_as_a_column_of_W(example: Any) -> None:
    """Section 2.3: a = f(W x), the rows of W are w₄ … w₇ with the bias last, and x ends in 1."""
    net, w, x = example
    rows = np.array([[w[i, 1], w[i, 2], w[i, 3], w[i, "b"]] for i in (4, 5, 6, 7)])
    a = sigmoid(rows @ np.array([*x, 1.0]))
    np.testing.assert_allclose(a, [node_outputs(w, x)[i] for i in (4, 5, 6, 7)], rtol=1e-14)
    matrices = [np.column_stack([W, b]) for W, b in zip(net.weights, net.biases, strict=True)]
    np.testing.assert_array_equal(matrices[0], rows)
    y = np.array(x)
    for W in matrices:
        y = sigmoid(W @ np.append(y, 1.0))
    np.testing.assert_allclose(net.forward([x])[0], y, rtol=1e-14)


def test_f_of_a_vector_is_f_of_each_element() -> None:
    """Section 2.3: f([x₁, x₂, …]) = [f(x₁), f(x₂), …]."""
    z = np.array([-2.0, 0.0, 0.5, 3.0])
    f = nnbp.Sigmoid()
    np.testing.assert_array_equal(f.f(z), [float(f.f(np.float64(v))) for v in z])


def test_chain_of_three_hidden_layers() -> None:
    """Section 2.3: a₁ = f(W₁x), a₂ = f(W₂a₁), a₃ = f(W₃a₂), y = f(W₄a₃)."""
    net = network(5, 4, 3, 4, 2)
    net.set_parameters(net.weights, [np.zeros_like(b) for b in net.biases])
    W1, W2, W3, W4 = net.weights
    x = np.array([0.2, -0.7, 1.1, 0.0, 0.4])
    a1 = sigmoid(W1 @ x)
    a2 = sigmoid(W2 @ a1)
    a3 = sigmoid(W3 @ a2)
    y = sigmoid(W4 @ a3)
    trace = net.trace(x[None])
    for ours, theirs in zip(trace.a, [x, a1, a2, a3, y], strict=True):
        np.testing.assert_allclose(ours[0], theirs, rtol=1e-13)


# Section 3.1: the cost.


def test_cost_of_one_sample() -> None:
    """Section 3.1: J(W, b; x, y) = ½ ‖h(x) − y‖²."""
    net = network(3, 4, 2)
    x, y = np.array([[0.1, 0.2, -0.3]]), np.array([[0.0, 1.0]])
    h = net.forward(x)
    assert net.loss(x, y) == pytest.approx(0.5 * ((h[0, 0] - 0) ** 2 + (h[0, 1] - 1) ** 2), rel=1e-14)


def test_cost_of_all_samples_and_weight_decay() -> None:
    """Section 3.1: J = 1/m Σ ½‖h − y‖² + λ/2 Σ W²; the sum goes over weights, not over biases."""
    decay = 0.37
    net, bare = network(3, 4, 2, weight_decay=decay), network(3, 4, 2)
    X, y = data(6, 3, 2)
    mean = sum(bare.loss(X[n : n + 1], y[n : n + 1]) for n in range(6)) / 6
    squares = sum(w**2 for W in net.weights for w in W.ravel())
    assert net.loss(X, y) == pytest.approx(mean + decay / 2 * squares, rel=1e-14)
    assert bare.loss(X, y) == pytest.approx(mean, rel=1e-14)


def test_biases_do_not_decay() -> None:
    """Section 3.1: the regularisation term has no b, so ∂J/∂W gains λW and ∂J/∂b gains nothing."""
    decay = 0.37
    net, bare = network(3, 4, 2, weight_decay=decay), network(3, 4, 2)
    X, y = data(6, 3, 2)
    with_decay, without = net.gradients(X, y), bare.gradients(X, y)
    for k, W in enumerate(net.weights):
        np.testing.assert_allclose(with_decay.dW[k], without.dW[k] + decay * W, rtol=1e-14)
        np.testing.assert_array_equal(with_decay.db[k], without.db[k])


# Section 3.2: backpropagation.


def test_chain_rule_case_1() -> None:
    """Section 3.2, case 1: z = h(y), y = g(x): dz/dx = dz/dy · dy/dx. Here y = w x + b, z = σ(y)."""
    net = network(1, 1)
    w, b = float(net.weights[0][0, 0]), float(net.biases[0][0])
    x, step = 0.8, 1e-6
    by_rule = float(dsigmoid(w * x + b)) * w
    up, down = net.forward([[x + step], [x - step]])[:, 0]
    assert (up - down) / (2 * step) == pytest.approx(by_rule, rel=1e-8)
    # With the cost ½(h − y)² and y one less than h, ∂C/∂h is 1, and ∂C/∂x is the same derivative.
    assert net.gradients([[x]], [[net.forward([[x]])[0, 0] - 1]]).dX[0, 0] == pytest.approx(by_rule, rel=1e-13)


def test_chain_rule_case_2() -> None:
    """Section 3.2, case 2: z = k(x, y), x = g(s), y = h(s): dz/ds sums over both ways. Two hidden units are x and y."""
    net = network(1, 2, 1)
    (W1, W2), (b1, _) = net.weights, net.biases
    s, step = -0.4, 1e-6
    dx, dy = dsigmoid(W1[:, 0] * s + b1) * W1[:, 0]
    dz = dsigmoid(net.trace([[s]]).z[2][0, 0])
    by_rule = dz * W2[0, 0] * dx + dz * W2[0, 1] * dy
    up, down = net.forward([[s + step], [s - step]])[:, 0]
    assert (up - down) / (2 * step) == pytest.approx(by_rule, rel=1e-8)
    target = net.forward([[s]]) - 1
    assert net.gradients([[s]], target).dX[0, 0] == pytest.approx(by_rule, rel=1e-13)


def test_dz_dw_is_the_input_of_the_weight() -> None:
    """Section 3.2: ∂z/∂w₁ = x₁, ∂z/∂w₂ = x₂; so ∂C/∂w = x ∂C/∂z, layer for layer."""
    net = network(2, 3, 2)
    X, y = data(1, 2, 2)
    found, trace = net.gradients(X, y), net.trace(X)
    for k in range(2):
        np.testing.assert_allclose(found.dW[k], np.outer(found.delta[k][0], trace.a[k][0]), rtol=1e-14)
        np.testing.assert_allclose(found.db[k], found.delta[k][0], rtol=1e-14)


def test_delta_of_the_output_layer_by_hand() -> None:
    """Section 3.2, first case: at the output ∂C/∂z = σ'(z) ∂C/∂a, with ∂C/∂a = a − y."""
    net = network(2, 2, 2)
    X, y = data(3, 2, 2)
    trace, found = net.trace(X), net.gradients(X, y)
    for n in range(3):
        for i in range(2):
            by_hand = dsigmoid(trace.z[2][n, i]) * (trace.a[2][n, i] - y[n, i])
            assert found.delta[1][n, i] == pytest.approx(by_hand, rel=1e-13)


def test_delta_of_hidden_layers_by_hand() -> None:
    """Section 3.2, second case: ∂C/∂z = σ'(z) [w₃ ∂C/∂z' + w₄ ∂C/∂z''], from layer to layer down from the output."""
    net = network(2, 2, 2, 2)
    X, y = data(3, 2, 2)
    trace, found = net.trace(X), net.gradients(X, y)
    for n in range(3):
        delta = [dsigmoid(trace.z[3][n, i]) * (trace.a[3][n, i] - y[n, i]) for i in range(2)]
        for layer in (1, 0):
            W = net.weights[layer + 1]
            delta = [dsigmoid(trace.z[layer + 1][n, j]) * (W[0, j] * delta[0] + W[1, j] * delta[1]) for j in range(2)]
            np.testing.assert_allclose(found.delta[layer][n], delta, rtol=1e-12)
        dX = [sum(net.weights[0][i, j] * delta[i] for i in range(2)) for j in range(2)]
        np.testing.assert_allclose(found.dX[n], dX, rtol=1e-12)


def test_delta_is_the_derivative_of_the_cost_with_respect_to_z() -> None:
    """Section 3.2: ∂C/∂z, numerically: a change of b is the same change of z."""
    net = network(3, 4, 2)
    X, y = data(1, 3, 2)
    delta = net.gradients(X, y).delta
    for k, b in enumerate(net.biases):
        np.testing.assert_allclose(delta[k][0], numeric(lambda: net.loss(X, y), b), atol=1e-9)


def test_nabla_L_lists_every_parameter() -> None:
    """Section 3.2: ∇L = [∂L/∂w₁, ∂L/∂w₂, …, ∂L/∂b₁, …], each as central differences find it."""
    net = network(3, 4, 2, weight_decay=0.2)
    X, y = data(5, 3, 2)
    found = net.gradients(X, y)
    assert found.flat.shape == net.parameters.shape == (3 * 4 + 4 * 2 + 4 + 2,)
    np.testing.assert_allclose(found.flat, numeric(lambda: net.loss(X, y), net.parameters), atol=1e-8)
    parts = [*(g.ravel() for g in found.dW), *found.db]
    np.testing.assert_array_equal(found.flat, np.concatenate(parts))


def test_total_gradient_is_the_sum_over_samples() -> None:
    """Section 3.2: ∂L/∂w = Σ ∂Cⁿ/∂w; J of section 3.1 divides the sum by m."""
    net = network(3, 4, 2)
    X, y = data(7, 3, 2)
    rows = net.per_sample_gradients(X, y)
    assert rows.shape == (7, net.parameters.size)
    np.testing.assert_allclose(net.gradients(X, y).flat, rows.sum(axis=0) / 7, rtol=1e-12, atol=1e-16)
    for n in range(7):
        alone = net.gradients(X[n : n + 1], y[n : n + 1]).flat
        np.testing.assert_allclose(rows[n], alone, rtol=1e-12, atol=1e-16)


def test_gradient_descent_step() -> None:
    """Section 3.2: θ¹ = θ⁰ − η ∇L(θ⁰), then θ² = θ¹ − η ∇L(θ¹)."""
    net, eta = network(3, 4, 2, weight_decay=0.05), 0.3
    X, y = data(9, 3, 2)
    for _ in range(2):
        theta, gradient = net.parameters.copy(), net.gradients(X, y).flat
        net.fit(X, y, epochs=1, batch_size=None, optimizer="sgd", learning_rate=eta, progress=False)
        np.testing.assert_allclose(net.parameters, theta - eta * gradient, rtol=1e-14, atol=1e-16)
    both = network(3, 4, 2, weight_decay=0.05)
    both.fit(X, y, epochs=2, batch_size=None, optimizer="sgd", learning_rate=eta, progress=False)
    np.testing.assert_allclose(both.parameters, net.parameters, rtol=1e-13)


def test_batch_gradient_descent_lowers_the_cost() -> None:
    """Section 3.1: batch gradient descent solves the network: with a small η, J falls in every epoch."""
    net = network(3, 4, 2, weight_decay=1e-3)
    X, y = data(20, 3, 2)
    before = net.loss(X, y)
    history = net.fit(X, y, epochs=50, batch_size=None, optimizer="sgd", learning_rate=0.1, progress=False)
    assert history["loss"][0] == pytest.approx(before, rel=1e-13)
    assert (np.diff([*history["loss"], net.loss(X, y)]) < 0).all()

"""The architecture: what users say of layers, activations and loss, made definite or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnbp import DataError, Dense, Dropout, LeakyReLU, Network, Sigmoid, Tanh
from nnbp.nn.architecture import HIDDEN_UNITS, Architecture
from nnbp.nn.layers import Layer


def make(layers: Any = None, activation: Any = "relu", output: Any = None, loss: Any = "squared_error") -> Architecture:
    return Architecture(layers, activation, output, loss)


def activations(layers: list[Layer]) -> list[str]:
    return [layer.f.name for layer in layers if isinstance(layer, Dense)]


def test_sizes_are_those_of_all_layers_input_first() -> None:
    made = make([64, 32, 10])
    assert (made.n_in, made.n_out) == (64, 10)
    layers = made.layers(0)
    assert [layer.units for layer in layers if isinstance(layer, Dense)] == [32, 10]
    assert activations(layers) == ["relu", "identity"]


@pytest.mark.parametrize("sizes", [(64, 32, 10), np.array([64, 32, 10]), [np.int64(64), np.int32(32), 10]])
def test_sizes_of_any_kind(sizes: Any) -> None:
    made = make(sizes)
    assert (made.n_in, made.n_out) == (64, 10)


def test_layers_without_a_number_of_inputs() -> None:
    made = make([Dense(32, "tanh"), Dropout(0.1), Dense(10)], loss="cross_entropy")
    assert (made.n_in, made.n_out) == (None, 10)
    assert activations(made.layers(0)) == ["tanh", "softmax"]


def test_numbers_and_layers_mixed() -> None:
    made = make([4, Dropout(0.1), 8, Dense(6, "gelu"), Dropout(0.5), 3], activation="tanh")
    layers = made.layers(0)
    assert made.n_in == 4
    assert [type(layer).__name__ for layer in layers] == ["Dropout", "Dense", "Dense", "Dropout", "Dense"]
    assert activations(layers) == ["tanh", "gelu", "identity"]


def test_nothing_given_is_one_hidden_layer() -> None:
    made = make()
    assert (made.n_in, made.n_out) == (None, None)
    layers = made.layers(7)
    assert [layer.units for layer in layers if isinstance(layer, Dense)] == [HIDDEN_UNITS, 7]
    assert HIDDEN_UNITS == 100


@pytest.mark.parametrize(
    ("loss", "output"),
    [
        ("squared_error", "identity"),
        ("absolute_error", "identity"),
        ("huber", "identity"),
        ("quantile", "identity"),
        ("binary_cross_entropy", "sigmoid"),
        ("cross_entropy", "softmax"),
    ],
)
def test_output_activation_follows_from_the_loss(loss: str, output: str) -> None:
    assert activations(make([3, 4, 2], loss=loss).layers(0))[-1] == output


def test_output_activation_given() -> None:
    assert activations(make([3, 4, 2], output="tanh").layers(0)) == ["relu", "tanh"]
    assert activations(make([Dense(4), Dense(2, "sigmoid")]).layers(0)) == ["relu", "sigmoid"]


@pytest.mark.parametrize("activation", ["tanh", Tanh(), Tanh])
def test_activation_by_name_object_or_class(activation: Any) -> None:
    assert activations(make([3, 4, 5, 2], activation).layers(0)) == ["tanh", "tanh", "identity"]
    assert activations(make([3, 4, 2], output=activation).layers(0)) == ["relu", "tanh"]


def test_one_activation_for_each_hidden_layer() -> None:
    layers = make([3, 4, 5, 2], ["tanh", LeakyReLU(0.3)]).layers(0)
    assert [layer.f for layer in layers if isinstance(layer, Dense)][:2] == [Tanh(), LeakyReLU(0.3)]
    assert activations(make([3, 2], []).layers(0)) == ["identity"]
    # Every hidden layer has its place in the list, also one that says for itself.
    assert activations(make([3, Dense(4, "gelu"), Dense(5), 2], ["relu", "tanh"]).layers(0))[0] == "gelu"


def test_one_activation_for_each_hidden_layer_goes_to_its_layer() -> None:
    made = make([3, Dense(4, "gelu"), Dense(5), 2], ["relu", "tanh"])
    assert activations(made.layers(0)) == ["gelu", "tanh", "identity"]


def test_size_of_the_output_from_targets() -> None:
    made, classes, binary = make(), make(loss="cross_entropy"), make(loss="binary_cross_entropy")
    assert made.outputs_of(np.zeros(5)) == 1
    assert made.outputs_of(np.zeros((5, 1))) == 1
    assert made.outputs_of(np.zeros((5, 3))) == 3
    assert classes.outputs_of(np.array([0, 4, 1])) == 5
    assert classes.outputs_of(np.array([0.0, 0.0])) == 2
    assert classes.outputs_of(np.eye(4)) == 4
    assert binary.outputs_of(np.array([0, 1])) == 1
    assert binary.outputs_of(np.zeros((5, 3))) == 3


def test_labels_that_are_no_numbering() -> None:
    classes = make(loss="cross_entropy")
    assert classes.outputs_of(np.array([0, 999])) == 1000
    with pytest.raises(DataError, match=r"received 2024 among 2 targets.*np\.unique"):
        classes.outputs_of(np.array([2019, 2024]))
    assert classes.outputs_of(np.arange(3000)) == 3000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"layers": []}, r"ends in a Dense layer, or a size.*received \[\]"),
        ({"layers": [3]}, r"received \[3\]\. Add the output layer"),
        ({"layers": [3, 4, Dropout(0.5)]}, "ends in a Dense layer"),
        ({"layers": 64}, r"list of sizes or layers.*received 64\."),
        ({"layers": "digits"}, "list of sizes or layers.*received 'digits'"),
        ({"layers": Dense(3)}, "list of sizes or layers.*received Dense"),
        ({"layers": [0, 4, 2]}, "number of inputs is a whole number, at least 1; received 0"),
        ({"layers": [3.0, 4, 2]}, r"number of inputs.*received 3\.0"),
        ({"layers": [3, 4.0, 2]}, r"units of a Dense layer.*received 4\.0"),
        ({"layers": [3, 4, True]}, "received True"),
        ({"layers": [3, "relu", 2]}, "received 'relu'"),
        ({"layers": [3, 4, 2], "activation": "tahn"}, "did you mean 'tanh'"),
        ({"layers": [3, 4, 2], "activation": None}, "Unknown activation.*received None"),
        ({"layers": [3, 4, 2], "activation": np.tanh}, "Unknown activation.*received <ufunc 'tanh'>"),
        ({"layers": [3, 4, 2], "activation": ["tanh"] * 2}, "there are 1 hidden layers, received 2 activations"),
        ({"layers": [3, 4, 2], "activation": "softmax"}, "softmax is for the output layer"),
        ({"layers": [3, Dense(4, "softmax"), 2]}, "softmax is for the output layer"),
        ({"layers": [3, 4, 2], "loss": "hinge"}, "Unknown loss.*received 'hinge'"),
        ({"layers": [3, 4, 1], "loss": "cross_entropy"}, "at least 2 classes.*loss='binary_cross_entropy'"),
        ({"layers": [3, 4, 2], "loss": "cross_entropy", "output": "tanh"}, "output activation softmax; received tanh"),
        ({"layers": [3, 1], "loss": "binary_cross_entropy", "output": "relu"}, "sigmoid; received relu"),
        ({"layers": [3, Dense(1, "relu")], "loss": "binary_cross_entropy"}, "sigmoid; received relu"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make(**arguments)


def test_the_list_given_is_not_changed() -> None:
    sizes = [3, 4, 2]
    make(sizes)
    assert sizes == [3, 4, 2]


def test_layers_may_be_used_in_two_networks() -> None:
    hidden = Dense(4)
    one = Network([3, hidden, 2], activation="tanh", device="cpu", seed=0)
    other = Network([3, hidden, 2], activation=Sigmoid(), device="cpu", seed=0)
    assert [one.layers[0].f.name, other.layers[0].f.name] == ["tanh", "sigmoid"]  # type: ignore[attr-defined]
    assert hidden.activation is None

"""Networks from PyTorch's modules and modules from networks: outputs and gradients are the same, the rest is named."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnbp
from nnbp import Activation, BatchNorm, Dense, Dropout, LayerNorm, Loss, Network, NnbpError, Standardize
from nnbp.nn.layers import Layer, OneHot

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from nnbp.torch import from_module, to_module  # noqa: E402

RNG = np.random.default_rng(0)
X = RNG.normal(0.2, 0.7, size=(40, 4))
CLASSES = np.arange(40) % 3
DTYPES = {"float32": 1e-6, "float64": 1e-12}

Chain = nn.Sequential


def fitted(layers: list[Any], **options: Any) -> Network:
    """A network after two epochs, with running statistics of its own."""
    net = Network(layers, **{"loss": "cross_entropy", "device": "cpu", "seed": 0, **options})
    net.fit(X, CLASSES if net.model.n_out == 3 else X[:, : net.model.n_out], epochs=2, progress=False)
    return net


def trained(module: Any) -> Any:
    """The module in evaluation mode, with running statistics of its own."""
    with torch.no_grad():
        for _ in range(3):
            module(torch.tensor(X, dtype=next(module.parameters()).dtype))
    return module.eval()


def assert_close(found: Any, expected: Any, dtype: Any) -> None:
    bound = DTYPES[np.dtype(dtype).name]
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected.detach()), rtol=bound, atol=bound)


def assert_same_gradients(net: Network, module: Any, loss: Any) -> None:
    """Of J, for every parameter of the module, in the order of the layers; the module gives z."""
    data = torch.tensor(X, dtype=next(module.parameters()).dtype)
    cost = loss(module(data), torch.tensor(CLASSES))
    cost.backward()
    own = net.gradients(X, CLASSES)
    assert_close(own.loss, cost, net.dtype)
    views = net.model.parameters.views(own.flat)
    ours = [array for layer in views for array in layer.values()]
    theirs = [parameter.grad for parameter in module.parameters()]
    assert len(ours) == len(theirs)
    for mine, its in zip(ours, theirs, strict=True):
        assert_close(mine, its, net.dtype)


# ---- both ways


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in Activation.built_in() if name != "softmax"])
def test_every_activation_has_the_same_outputs_and_gradients(name: str, dtype: str) -> None:
    net = fitted([4, Dense(6, name), Dense(3)], dtype=dtype)
    module = to_module(net)
    assert_close(net.forward(X), module(torch.tensor(X, dtype=getattr(torch, dtype))), dtype)
    assert_same_gradients(net, module[:-1], functional.cross_entropy)
    again = from_module(module, loss="cross_entropy", device="cpu")
    assert repr(again.layers[:-1]) == repr(net.layers[:-1])
    assert np.asarray(again.parameters).tobytes() == np.asarray(net.parameters).tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [BatchNorm, LayerNorm])
def test_normalization_has_the_same_outputs_and_gradients(kind: Any, dtype: str) -> None:
    net = fitted(
        [4, kind("tanh", epsilon=1e-3), Dense(6, "identity"), kind("relu"), Dropout(0.3), Dense(3)], dtype=dtype
    )
    module = to_module(net)
    assert_close(net.forward(X), module(torch.tensor(X, dtype=getattr(torch, dtype))), dtype)
    assert_same_gradients(net, module[:-1], functional.cross_entropy)
    again = from_module(module, loss="cross_entropy", device="cpu")
    assert [layer.config() for layer in again.layers] == [layer.config() for layer in net.layers]
    assert np.asarray(again.model.parameters.values).tobytes() == np.asarray(net.model.parameters.values).tobytes()


@pytest.mark.parametrize("loss", Loss.built_in())
def test_every_loss_has_its_output_activation(loss: str) -> None:
    net = Network([4, 6, 3], loss=loss, dtype="float64", device="cpu", seed=0)
    module = to_module(net)
    assert_close(net.forward(X), module(torch.tensor(X)), "float64")
    last = len(module) - (loss not in ("squared_error", "absolute_error", "huber", "quantile"))
    for part in (module, module[:last]):
        assert_close(from_module(part, loss=loss, device="cpu").forward(X), module(torch.tensor(X)), "float64")


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_chain_of_layers_is_carried_over(data: Any) -> None:
    names = st.sampled_from([name for name in Activation.built_in() if name not in ("softmax", "exponential")])
    sizes = st.integers(1, 9)
    hidden: st.SearchStrategy[Layer] = st.one_of(
        st.builds(Dense, sizes, names),
        st.builds(LayerNorm, names),
        st.builds(BatchNorm, names, momentum=st.floats(0.01, 1)),
        st.builds(Dropout, st.floats(0, 0.9)),
    )
    layers = data.draw(st.lists(hidden, max_size=6))
    n_in, n_out = data.draw(sizes), data.draw(sizes)
    net = Network([n_in, *layers, Dense(n_out)], dtype="float64", device="cpu", seed=data.draw(st.integers(0, 99)))
    module = to_module(net)
    inputs = RNG.normal(size=(5, n_in))
    assert_close(net.forward(inputs), module(torch.tensor(inputs)), "float64")
    again = from_module(module, loss="squared_error", device="cpu")
    assert [layer.config() for layer in again.layers] == [
        layer.config() | ({"activation": {"name": "identity"}} if layer is net.layers[-1] else {})
        for layer in net.layers
    ]
    assert_close(again.forward(inputs), module(torch.tensor(inputs)), "float64")


@pytest.mark.parametrize("dtype", DTYPES)
def test_standardized_inputs(dtype: str) -> None:
    constant = X * [1, 1, 0, 1] + [1e6, 0, 5, 0]
    net = Network([Standardize(), Dense(5, "tanh"), Dense(2)], dtype=dtype, device="cpu", seed=0)
    net.fit(constant, X[:, :2], epochs=2, progress=False)
    module = to_module(net)
    assert_close(net.forward(constant), module(torch.tensor(constant)), dtype)
    again = from_module(module, loss="squared_error", device="cpu")
    assert again.forward(constant).tobytes() == net.forward(constant).tobytes()
    assert list(module.state_dict())[:2] == ["0.mean", "0.deviation"]


# ---- from modules


class Functions(nn.Module):  # type: ignore[misc]
    """A network as many people write it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Chain(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU())
        self.hidden, self.out = nn.Linear(6, 5), nn.Linear(5, 3)
        self.act = nn.Tanh()

    def forward(self, x: Any) -> Any:
        x = functional.dropout(self.body(torch.flatten(x, 1)), 0.2, training=self.training)
        x = self.act(self.hidden(x))
        return functional.log_softmax(self.out(x), dim=1)


def test_a_module_with_functions_in_its_forward() -> None:
    module = trained(Functions().double())
    net = from_module(module, loss="cross_entropy", device="cpu", weight_decay=0.1, seed=3)
    assert_close(net.forward(X), module(torch.tensor(X)).exp(), "float64")
    assert [layer.kind for layer in net.layers] == ["dense", "batch_norm", "dropout", "dense", "dense"]
    assert (net.weight_decay, net.seed, net.dtype) == (0.1, 3, np.float64)
    net = from_module(module, loss="cross_entropy", device="cpu")
    assert_same_gradients(net, module, functional.nll_loss)


@pytest.mark.parametrize(
    ("call", "module"),
    [
        (functional.leaky_relu, nn.LeakyReLU()), (lambda z: functional.leaky_relu(z, 0.3), nn.LeakyReLU(0.3)),
        (functional.elu, nn.ELU()), (functional.softplus, nn.Softplus()), (functional.silu, nn.SiLU()),
        (functional.gelu, nn.GELU()), (torch.relu, nn.ReLU()), (lambda z: z.relu(), nn.ReLU()),
        (functional.tanh, nn.Tanh()), (lambda z: z.tanh(), nn.Tanh()), (torch.sigmoid, nn.Sigmoid()),
        (lambda z: torch.softmax(z, 1), nn.Softmax(1)), (lambda z: functional.softmax(z, dim=-1), nn.Softmax(1)),
        (lambda z: z.flatten(1), nn.Flatten()), (lambda z: functional.relu(z, inplace=True), nn.ReLU()),
    ],
)  # fmt: skip
def test_functions_are_their_modules(call: Any, module: Any) -> None:
    class Called(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: Any) -> Any:
            return call(self.linear(x))

    called = Called().double()
    own = from_module(called, loss="squared_error", device="cpu").forward(X)
    assert_close(own, called(torch.tensor(X)), "float64")
    chain = from_module(Chain(called.linear, module), loss="squared_error", device="cpu")
    assert chain.forward(X).tobytes() == own.tobytes()


def test_one_linear_is_a_network_and_the_module_stays_as_it_is() -> None:
    module = nn.Linear(4, 2)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    net = from_module(module, loss="mse", device="cpu")
    assert_close(net.forward(X), module(torch.tensor(X, dtype=torch.float32)), "float32")
    net.fit(X, X[:, :2], epochs=1, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_parameters_that_the_module_does_not_learn_are_named_once() -> None:
    module = Chain(nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5, affine=False), nn.ReLU(), nn.Linear(5, 3)).double()
    module[3].weight.requires_grad_(False)
    with pytest.warns(UserWarning, match="training will change") as caught:
        net = from_module(trained(module), loss="squared_error", device="cpu")
    for name in ("0.bias, which is missing", "1.weight, which", "1.bias, which", "3.weight, which is frozen"):
        assert name in str(caught[0].message)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert_close(net.forward(X), module(torch.tensor(X)), "float64")


class Broken(nn.Module):  # type: ignore[misc]
    def __init__(self, forward: Any) -> None:
        super().__init__()
        self.linear, self.square, self.scale = nn.Linear(4, 3), nn.Linear(4, 4), nn.Parameter(torch.ones(4))
        self.compute = forward

    def forward(self, x: Any) -> Any:
        return self.compute(self, x)


@pytest.mark.parametrize(
    ("module", "named"),
    [
        (Chain(nn.Linear(4, 4), nn.Conv1d(1, 1, 1)), r"Conv1d\(.*'1'"),
        (Chain(nn.Linear(4, 3), nn.PReLU()), "PReLU"),
        (Chain(nn.Linear(4, 3), nn.GELU(approximate="tanh")), r"approximate='none'.*GELU\(approximate='tanh'\)"),
        (Chain(nn.Linear(4, 3), nn.Softplus(beta=2.0)), r"beta=1.0.*Softplus\(beta=2.0"),
        (Chain(nn.Linear(4, 3), nn.Softmax(dim=0)), r"dim=1; .*Softmax\(dim=0\)"),
        (Chain(nn.Linear(4, 3), nn.LogSoftmax(dim=1)), "LogSoftmax"),
        (Chain(nn.BatchNorm1d(4, momentum=None), nn.Linear(4, 3)), "momentum"),
        (Chain(nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3)), "track_running_stats=True"),
        (Chain(nn.ReLU(), nn.Linear(4, 3)), r"ReLU\(\), the part '0'"),
        (Chain(nn.Linear(4, 4), nn.ReLU(), nn.Tanh(), nn.Linear(4, 3)), r"Tanh\(\), the part '2'"),
        (Chain(nn.Linear(4, 4), nn.Dropout()), r"ends in a Linear.*Dropout"),
        (Chain(), "no layer"),
        (Chain(nn.Linear(4, 4), nn.LayerNorm((2, 2)), nn.Linear(4, 3)), r"1\.weight.*\(2, 2\)"),
        (Chain(nn.Linear(4, 3), nn.Linear(3, 3).double()), "float32, float64"),
        (nn.Linear(4, 3).half(), "float16"),
        (Broken(lambda self, x: self.linear(x.view(x.size(0), -1))), r"no counterpart of size\(0\)\. Flatten by"),
        (Broken(lambda self, x: {"z": self.linear(x)}), "not the one tensor"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), "parametrizations"),
        (Broken(lambda self, x: self.square(x) + x), "'add' that takes square, x"),
        (Broken(lambda self, x: self.square(x) * self.scale), "scale, which `forward` uses by itself"),
        (Broken(lambda self, x: self.linear(self.square(self.square(x)))), r"square\.weight, which two"),
        (Broken(lambda self, x: (self.linear(x), x)), "a result of Broken that is not the one tensor"),
        (Broken(lambda self, x: self.linear(x * 2)), "mul"),
        (Broken(lambda self, x: self.linear(x if x.sum() > 0 else -x)), "cannot follow `forward` of Broken"),
        (Broken(lambda self, x: functional.softmax(self.linear(x), dim=1, dtype=torch.float64)), "softmax"),
        (Broken(lambda self, x: self.linear(torch.flatten(x))), "start_dim=1"),
    ],
)  # fmt: skip
def test_a_part_without_counterpart_is_named(module: Any, named: str) -> None:
    with pytest.raises((ValueError, NnbpError), match=re.compile(named, re.DOTALL)):
        from_module(module, loss="squared_error", device="cpu")


def test_a_subclass_may_compute_something_else() -> None:
    class Shifted(nn.Linear):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return super().forward(x) + 1

    with pytest.raises(ValueError, match=r"0\.weight, which `forward` uses by itself"):
        from_module(Chain(Shifted(4, 3)), loss="squared_error", device="cpu")


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match=r"module is a torch\.nn\.Module; received \[4, 3\]"):
        from_module([4, 3], loss="squared_error", device="cpu")
    module = nn.Linear(4, 3)
    module.weight.data[0, 0] = torch.nan
    with pytest.raises(nnbp.DataError, match=r"0\.weight"):
        from_module(module, loss="squared_error", device="cpu")


def patched(module: Any) -> Any:
    module.forward = lambda x: nn.Linear.forward(module, x) * 2
    return module


def with_hook(module: Any, part: Any, register: str) -> Any:
    getattr(part, register)(lambda *given: 2 * given[-1] if len(given) == 3 else (2 * given[-1][0],))
    return module


CHAIN = Chain(nn.Linear(4, 4), nn.LogSoftmax(dim=1))


@pytest.mark.parametrize(
    ("module", "loss"),
    [
        (with_hook(part := nn.Linear(4, 3), part, "register_forward_hook"), "mse"),
        (with_hook(chain := Chain(nn.Linear(4, 3)), chain, "register_forward_pre_hook"), "mse"),
        (with_hook(CHAIN, CHAIN[1], "register_forward_hook"), "cross_entropy"),
        (Chain(patched(nn.Linear(4, 3))), "mse"),
        (Broken(lambda self, x: self.linear(functional.dropout(self.square(x), 0.5))), "mse"),
        (Broken(lambda self, x: self.linear(x) if self.training else functional.softmax(self.linear(x), 1)), "mse"),
    ],
)
def test_what_acts_beside_the_parts_is_found_by_the_outputs(module: Any, loss: str) -> None:
    state = torch.random.get_rng_state()
    with pytest.raises(ValueError, match="Something outside the parts changes them"):
        from_module(module, loss=loss, device="cpu")
    assert torch.equal(state, torch.random.get_rng_state())
    assert module.training


def test_a_hook_that_changes_nothing_is_allowed() -> None:
    seen: list[Any] = []
    module = nn.Linear(4, 3)
    module.register_forward_hook(lambda *_: seen.append(1))
    from_module(module, loss="mse", device="cpu")
    assert seen


def test_inputs_by_name_and_arguments_that_are_not_used() -> None:
    class Named(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.out = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x: Any, mask: Any = None) -> Any:
            hidden = functional.dropout(self.linear(input=x), 0.5, training=False)
            return self.out(functional.relu(input=hidden))

    module = Named().double()
    net = from_module(module.eval(), loss="squared_error", device="cpu")
    assert [layer.kind for layer in net.layers] == ["dense", "dense"]
    assert_close(net.forward(X), module(torch.tensor(X)), "float64")
    assert not module.linear.training


def test_arrays_that_a_network_cannot_have_are_named() -> None:
    with pytest.raises(nnbp.DataError, match=r"0\.weight of layout .* on the device meta.*Load its values"):
        from_module(nn.Linear(4, 3, device="meta"), loss="squared_error", device="cpu")
    module = Chain(nn.BatchNorm1d(4), nn.Linear(4, 3))
    module[0].running_var[1] = -1
    with pytest.raises(nnbp.DataError, match="running variance of BatchNorm is at least 0; received -1"):
        from_module(module, loss="squared_error", device="cpu")
    net = Network([4, Standardize(), Dense(3)], device="cpu", seed=0)
    net.fit(X, X[:, :3], epochs=1, progress=False)
    module = to_module(net)
    module[0].mean[0] = torch.nan
    with pytest.raises(nnbp.DataError, match=r"0\.mean with NaN"):
        from_module(module, loss="squared_error", device="cpu")


# ---- to modules


def test_a_layer_without_counterpart_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Activation, "registry", dict(Activation.registry))

    class Cube(Activation):
        name = "cube of torch"

        def f(self, z: Any) -> Any:
            return z * z * z

    with pytest.raises(ValueError, match="Cube"):
        to_module(Network([4, Dense(3, Cube()), 1], device="cpu", seed=0))
    net = Network([OneHot([3, 0]), Dense(1)], device="cpu", seed=0)
    net.fit([[0, 1.0], [2, 0.5]], [1.0, 2.0], epochs=1, progress=False)
    with pytest.raises(ValueError, match="OneHot"):
        to_module(net)


def test_a_network_without_sizes_or_statistics_is_refused() -> None:
    for layers in (None, [3, Standardize(), Dense(1)]):
        with pytest.raises(NnbpError, match="fit"):
            to_module(Network(layers, device="cpu", seed=0))


def test_a_module_is_ready_for_predictions_and_trains_further() -> None:
    net = fitted([4, Dense(6, "identity"), BatchNorm("relu"), Dropout(0.5), Dense(3)])
    module = to_module(net)
    assert not module.training
    assert next(module.parameters()).dtype == torch.float32
    before = net.forward(X)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    functional.cross_entropy(
        module.train()[:-1](torch.tensor(X, dtype=torch.float32)), torch.tensor(CLASSES)
    ).backward()
    optimizer.step()
    assert net.forward(X).tobytes() == before.tobytes(), "the module has parameters of its own"


def test_the_statistics_of_inputs_stay_float64_in_a_module_that_is_cast() -> None:
    far = X + 1e6
    net = Network([4, Standardize(), Dense(5, "tanh"), Dense(3)], dtype="float64", device="cpu", seed=0)
    net.fit(far, X[:, :3], epochs=1, progress=False)
    expected = net.forward(far)
    for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-12), (torch.float16, 1e-2)):
        module = to_module(net).to(dtype)
        assert module[0].mean.dtype == torch.float64
        found = module(torch.tensor(far))
        assert found.dtype == dtype
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=bound, atol=bound)


def test_making_a_module_leaves_the_state_of_pytorch() -> None:
    net = fitted([4, 5, 3])
    state = torch.random.get_rng_state()
    with torch.device("meta"):
        assert next(to_module(net).parameters()).device.type == "cpu"
    assert torch.equal(state, torch.random.get_rng_state())


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(TypeError, match=r"network is a Network; received Linear"):
        to_module(nn.Linear(4, 3))


def test_nothing_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_module(to_module(fitted([4, 5, 3])), loss="cross_entropy", device="cpu")


# ---- tensors as data


@pytest.mark.gpu
def test_tensors_on_a_gpu_are_read_where_they_are() -> None:
    """This runs on a GPU for which PyTorch and CuPy work."""
    if not torch.cuda.is_available():
        pytest.skip("PyTorch finds no GPU")
    net = Network([4, 6, 3], loss="cross_entropy", device="cuda", seed=0)
    data, classes = torch.tensor(X, dtype=torch.float32, device="cuda"), torch.tensor(CLASSES, device="cuda")
    net.fit(data, classes, epochs=2, progress=False)
    expected = net.forward(X)
    found = net.forward(data)
    assert net.model.backend.owns(found)
    np.testing.assert_allclose(torch.from_dlpack(found).cpu().numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(net.copy(device="cpu").forward(data), expected, rtol=1e-5, atol=1e-6)
    module = to_module(net).cuda()
    np.testing.assert_allclose(module(data).detach().cpu().numpy(), expected, rtol=1e-5, atol=1e-6)
    again = from_module(module, loss="cross_entropy", device="cuda")
    np.testing.assert_allclose(again.forward(X), expected, rtol=1e-5, atol=1e-6)

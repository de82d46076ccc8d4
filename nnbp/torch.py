"""Conversion of PyTorch modules to networks and of networks to modules, with the same outputs and gradients.

>>> import torch
>>> from nnbp.torch import from_module, to_module
>>> module = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
>>> net = from_module(module, loss="cross_entropy", device="cpu")
>>> X = torch.randn(5, 4)
>>> torch.allclose(to_module(net)(X), module(X).softmax(dim=1), atol=1e-6)
True
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnbp.errors import DataError, MissingDependencyError, ShapeError
from nnbp.formatting import brief, number, shown
from nnbp.graph.backend import Backend
from nnbp.network import Network
from nnbp.nn import activations, layers, losses
from nnbp.nn.activations import Activation
from nnbp.nn.layers import Layer
from nnbp.nn.losses import Loss
from nnbp.nn.normalization import BatchNorm, LayerNorm
from nnbp.requirements import pip_install
from nnbp.validation import instance

try:
    import torch
    from torch import fx, nn
    from torch.nn import functional
except ImportError as error:
    raise MissingDependencyError(
        f"nnbp.torch needs PyTorch, which cannot be imported ({error}). Install it: {pip_install('torch>=2.6')}"
    ) from error

__all__ = ["Exponential", "Standardize", "from_module", "to_module"]


class Exponential(nn.Module):  # type: ignore[misc]
    """f(z) = eᶻ."""

    def forward(self, z: Any) -> Any:
        return torch.exp(z)


class Standardize(nn.Module):  # type: ignore[misc]
    """a = (x − mean) / deviation for each feature, in float64 and then rounded; 0 if the deviation is 0.

    A cast of the module changes the dtype of a; the buffers mean and deviation (n,) stay float64.

    Args:
        num_features: n.
        dtype: of a.
    """

    def __init__(self, num_features: int, dtype: Any = None) -> None:
        super().__init__()
        self.mean: Any
        self.deviation: Any
        self.num_features = num_features
        self.register_buffer("mean", torch.zeros(num_features, dtype=torch.float64))
        self.register_buffer("deviation", torch.ones(num_features, dtype=torch.float64))
        self.register_buffer("_like", torch.empty(0, dtype=dtype), persistent=False)

    def forward(self, x: Any) -> Any:
        inverse = torch.where(self.deviation > 0, 1 / self.deviation, 0)
        return ((x - self.mean) * inverse).to(self._like.dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        kept: tuple[Any, Any] = (self.mean, self.deviation)
        super()._apply(fn, recurse)
        self.mean, self.deviation = (array.to(self._like.device) for array in kept)
        return self

    def extra_repr(self) -> str:
        return str(self.num_features)


_KINDS: dict[Any, tuple[type[Layer] | type[Activation], dict[str, str]]] = {
    nn.Linear: (layers.Dense, {"out_features": "units"}),
    nn.BatchNorm1d: (BatchNorm, {"momentum": "momentum", "eps": "epsilon"}),
    nn.LayerNorm: (LayerNorm, {"eps": "epsilon"}),
    nn.Dropout: (layers.Dropout, {"p": "rate"}),
    Standardize: (layers.Standardize, {}),
    nn.Flatten: (activations.Identity, {}),  # as X is a matrix
    nn.Identity: (activations.Identity, {}),
    nn.Sigmoid: (activations.Sigmoid, {}),
    nn.Tanh: (activations.Tanh, {}),
    nn.ReLU: (activations.ReLU, {}),
    nn.LeakyReLU: (activations.LeakyReLU, {"negative_slope": "slope"}),
    nn.ELU: (activations.ELU, {"alpha": "alpha"}),
    nn.Softplus: (activations.Softplus, {}),
    nn.SiLU: (activations.SiLU, {}),
    nn.GELU: (activations.GELU, {}),
    Exponential: (activations.Exponential, {}),
    nn.Softmax: (activations.Softmax, {}),
}
"""The layer or activation that equals a module, and the names of its arguments in PyTorch and in nnbp."""

_MODULES = {kind: (module, names) for module, (kind, names) in _KINDS.items()}

_FUNCTIONS: dict[Any, Any] = {
    **dict.fromkeys((functional.relu, torch.relu, "relu"), nn.ReLU),
    **dict.fromkeys((functional.tanh, torch.tanh, "tanh"), nn.Tanh),
    **dict.fromkeys((functional.sigmoid, torch.sigmoid, "sigmoid"), nn.Sigmoid),
    **dict.fromkeys((functional.softmax, torch.softmax, "softmax"), nn.Softmax),
    **dict.fromkeys((functional.log_softmax, torch.log_softmax, "log_softmax"), nn.LogSoftmax),
    **dict.fromkeys((torch.exp, "exp"), Exponential),
    **dict.fromkeys((torch.flatten, "flatten"), lambda start_dim=0, end_dim=-1: nn.Flatten(start_dim, end_dim)),
    functional.leaky_relu: nn.LeakyReLU,
    functional.elu: nn.ELU,
    functional.softplus: nn.Softplus,
    functional.silu: nn.SiLU,
    functional.gelu: nn.GELU,
    # With a constant training=True, it also drops units in predictions; the comparison of outputs finds this.
    functional.dropout: lambda p=0.5, training=True: nn.Dropout(p) if training else nn.Identity(),
}
"""The module that equals a function or a tensor method."""

_ARRAYS = {
    "W": "weight", "b": "bias", "gamma": "weight", "beta": "bias", "mean": "running_mean", "variance": "running_var"
}  # fmt: skip
"""PyTorch's names for parameters and running statistics."""

_IN_ARRAYS = {
    *("in_features", "num_features", "normalized_shape", "bias", "affine", "elementwise_affine", "device", "dtype"),
}
"""Module arguments that follow from the arrays."""

_WITHOUT_EFFECT = {"inplace", "_stacklevel"}
"""Arguments of modules and functions that do not change the result."""

_CLOSE = {"float32": 1e-4, "float64": 1e-9}
"""How much the outputs of a module and its network may differ, relative to the largest output."""

_SAMPLES = 16
"""Number of samples for which outputs are compared."""

_REMEDY = (
    f"nnbp has counterparts of {', '.join(kind.__name__ for kind in _KINDS)}, and of the functions with these names. "
    "Replace or remove the part."
)


@dataclass
class _Part:
    """A module that becomes a layer: the class of the layer, and its arguments."""

    name: str
    module: Any
    kind: type[Layer]
    arguments: dict[str, Any]

    @property
    def takes_activation(self) -> bool:
        return "activation" in inspect.signature(self.kind).parameters


def from_module(
    module: Any,
    *,
    loss: str | Loss,
    weight_decay: float = 0.0,
    device: str | Backend = "auto",
    seed: int | None = None,
) -> Network:
    """A network with the layers and parameters of a PyTorch module, which does not change.

    The module is a chain of Linear, BatchNorm1d, LayerNorm, Dropout and activations: a Sequential, or your own module
    whose `forward` applies these modules, or functions, one after the other. If it ends in Linear, its outputs are z of
    the last layer, as PyTorch's losses expect. The network adds the output activation of its loss: for
    loss="cross_entropy", `forward` gives probabilities. The outputs of both are compared in evaluation mode.

    Args:
        module: the module; its parameters have one dtype, float32 or float64.
        loss: C, by name or as an object. The cross-entropies are the same as PyTorch's. squared_error, ½ Σ (h − y)² of
            a sample, is n_out / 2 times `torch.nn.MSELoss`, which also takes the mean over the outputs.
        weight_decay: λ.
        device, seed: of the network.

    Raises:
        ValueError: a part of the module has no counterpart in nnbp, and the message names it; or the outputs of the
            network and the module differ.
        ShapeError, DTypeError, DataError: a parameter has a shape, dtype or value that nnbp does not take.

    Warns:
        UserWarning: training would change a parameter that the module lacks, as with bias=False, or has frozen.
    """
    loss = losses.get(loss)
    instance("module", module, nn.Module, "a torch.nn.Module")
    parts: list[_Part] = []
    logarithm = False
    with _mode(module, training=True):
        chain = list(_chain(module))
    for name, part in chain:
        if isinstance(part, nn.LogSoftmax) and loss.requires == "softmax":
            part, logarithm = nn.Softmax(part.dim), True  # the loss takes the logarithm
        kind, arguments = _counterpart(name, part)
        if issubclass(kind, Layer):
            parts.append(_Part(name, part, kind, arguments))
        elif kind is not activations.Identity:
            if not parts or not parts[-1].takes_activation or "activation" in parts[-1].arguments:
                raise ValueError(
                    "In nnbp an activation comes directly after a Linear, BatchNorm1d or LayerNorm; received "
                    f"{_described(name, part)}. Move it there."
                )
            parts[-1].arguments["activation"] = kind(**arguments)
    if not parts or parts[-1].kind is not layers.Dense:
        received = _described(parts[-1].name, parts[-1].module) if parts else "no layer"
        raise ValueError(f"A network ends in a Linear, with or without an activation; received {received} at the end.")
    decided = "activation" in parts[-1].arguments
    for part in parts:
        if part.takes_activation:
            default = loss.output_activation if part is parts[-1] else "identity"
            part.arguments.setdefault("activation", default)
    network = Network(
        [_inputs(parts), *(part.kind(**part.arguments) for part in parts)], loss=loss, weight_decay=weight_decay,
        dtype=_dtype(parts), device=device, seed=seed,
    )  # fmt: skip
    unlike = _load(network, parts)
    with _mode(module, training=False):
        _compare(network, module, parts[0].module, decided=decided, logarithm=logarithm)
    if unlike:
        warnings.warn(
            f"nnbp learns every parameter, so training will change {', '.join(unlike)}. Predictions are not affected.",
            stacklevel=2,
        )
    return network


def to_module(network: Network) -> Any:
    """A `torch.nn.Sequential` with the layers and parameters of a network: ``module(X)`` is ``network.forward(X)``.

    It is on the CPU, in the network's dtype, and in evaluation mode. The activation of the output layer is its last
    part: ``module[:-1]`` gives z, which `torch.nn.CrossEntropyLoss` takes.

    Raises:
        TypeError: the argument is not a Network.
        ValueError: a layer or an activation has no counterpart in PyTorch; the message names it.
        NnbpError: the sizes of the network, or the statistics of its inputs, are not known yet.
    """
    model = instance("network", network, Network, "a Network").model
    dtype = getattr(torch, model.dtype.name)
    arrays = model.parameters.views(np.array(model.backend.download(model.parameters.values)))
    parts = []
    # PyTorch draws initial parameters, on its default device.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        for layer, n_in, own, more in zip(model.layers, model.sizes, arrays, model.host_statistics(), strict=False):
            part = _module(layer, *([n_in] if own or more else [])).to(dtype)
            for name, values in (own | more).items():
                _array(part, name).data.copy_(torch.from_numpy(values))
            parts.append(part)
            if not isinstance(layer.activation, activations.Identity | None):
                parts.append(_module(layer.activation))
    return nn.Sequential(*parts).eval()


def _array(module: Any, name: str) -> Any:
    """The parameter or buffer with this name in nnbp."""
    return getattr(module, name if isinstance(module, Standardize) else _ARRAYS[name])


# ---- from a module


@contextmanager
def _mode(module: Any, *, training: bool) -> Iterator[None]:
    """Sets training or evaluation mode of a module, and restores the former modes at the end."""
    before = [(part, part.training) for part in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for part, mode in before:
            part.training = mode


class _Tracer(fx.Tracer):  # type: ignore[misc]
    """Traces `forward`, but not inside the modules that have a counterpart."""

    def is_leaf_module(self, m: Any, module_qualified_name: str) -> bool:
        return type(m) in _KINDS or bool(super().is_leaf_module(m, module_qualified_name))


def _chain(module: Any) -> Iterator[tuple[str, Any]]:
    """The names and modules that `forward` applies, in order; for a function, the equivalent module."""
    root = nn.Sequential(module) if type(module) in _KINDS else module
    try:
        graph = _Tracer().trace(root)
    except Exception as error:
        raise ValueError(
            f"nnbp cannot follow `forward` of {type(module).__name__}: {brief(error)}. Give it the torch.nn.Sequential "
            "in the module, or the module that a wrapper holds, such as `.module` or `._orig_mod`."
        ) from error
    last: Any = None
    for node in graph.nodes:
        if node.op == "placeholder" and last is not None and not node.users:
            continue  # an unused argument
        name = node.target if node.op in ("call_module", "get_attr") else node.name
        if last is not None and (node.all_input_nodes != [last] or last not in (*node.args, *node.kwargs.values())):
            taken = ", ".join(map(str, node.all_input_nodes)) or "nothing"
            received = f"a part {name!r} that takes {taken}"
            if node.op == "output":
                received = f"a result of {type(module).__name__} that is not the one tensor of its last part"
            if node.op == "get_attr":
                received = f"{name}, which `forward` uses by itself"
            raise ValueError(
                "The parts of a network form a chain: each takes only the result of the part before it; "
                f"received {received}. Let `forward` apply one module after the other."
            )
        if node.op == "call_module":
            yield name, root.get_submodule(name)
        elif node.op in ("call_function", "call_method"):
            yield name, _as_module(node, last)
        last = node


def _as_module(node: Any, last: Any) -> Any:
    """The module that is equivalent to a call of a function or method."""
    args, kwargs = ([item for item in node.args if item is not last], dict(node.kwargs))
    given = {
        name: value
        for name, value in kwargs.items()
        if value is not last and name not in _WITHOUT_EFFECT and value is not None
    }
    try:
        return _FUNCTIONS[node.target](*args, **given)
    except (KeyError, TypeError):
        listed = ", ".join([*map(str, args), *(f"{name}={value}" for name, value in given.items())])
        called = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        hint = " Flatten by torch.flatten(x, 1)." if called in ("view", "reshape", "size") else ""
        raise ValueError(f"nnbp has no counterpart of {called}({listed}).{hint} {_REMEDY}") from None


def _described(name: str, module: Any) -> str:
    return f"{shown(module)}, the part {name!r} of the module"


def _counterpart(name: str, module: Any) -> tuple[Any, dict[str, Any]]:
    """The nnbp class that equals a module, and its arguments."""
    # A subclass may compute something else.
    if type(module) not in _KINDS:
        raise ValueError(f"nnbp has no counterpart of {_described(name, module)}. {_REMEDY}")
    kind, names = _KINDS[type(module)]
    arguments = {}
    for argument, parameter in inspect.signature(type(module)).parameters.items():
        value = getattr(module, argument, parameter.default)
        if argument in names:
            arguments[names[argument]] = value
        elif argument not in _IN_ARRAYS | _WITHOUT_EFFECT:
            # The features of a matrix are dimension 1.
            possible = (1, -1, None) if argument == "dim" else (parameter.default,)
            if value not in possible:
                raise ValueError(
                    f"nnbp has {type(module).__name__} only with {argument}={possible[0]!r}; received "
                    f"{_described(name, module)}."
                )
    return kind, arguments


def _inputs(parts: Sequence[_Part]) -> int:
    """The number of inputs, from the first part that has it."""
    for part in parts:
        for name in ("in_features", "num_features", "normalized_shape"):
            if hasattr(part.module, name):
                return int(np.prod(getattr(part.module, name)))
    raise AssertionError("the last part is Linear")


def _dtype(parts: Sequence[_Part]) -> str:
    """The dtype of all parameters."""
    found = sorted({str(tensor.dtype).removeprefix("torch.") for part in parts for tensor in part.module.parameters()})
    if len(found) > 1 or found[0] not in _CLOSE:
        raise ValueError(
            f"A network has one dtype, float32 or float64; received parameters of {', '.join(found)}. Cast the module: "
            "module.float()."
        )
    return found[0]


def _load(network: Network, parts: Sequence[_Part]) -> list[str]:
    """Loads the parameters and statistics of the modules into the network.

    Returns:
        descriptions of the parameters that the network learns and the module does not.
    """
    model, unlike, seen = network.model, [], set()
    flat = np.empty(len(model.parameters.values), model.dtype)
    statistics: list[dict[str, Any]] = []
    views = zip(parts, model.layers, model.parameters.specs, model.parameters.views(flat), strict=True)
    for (part, layer, specs, own), more in zip(views, model.statistics, strict=True):
        kept = {name: _values(part, name, array.shape) for name, array in more.items()}
        statistics.append(kept)
        for spec in specs:
            name, tensor = _named(part, spec.name), _array(part.module, spec.name)
            if tensor is None:
                own[spec.name][...] = spec.name == "gamma"
                unlike.append(f"{name}, which is missing")
                continue
            if id(tensor) in seen:
                raise ValueError(
                    f"Layers of nnbp do not share parameters; received {name}, which two layers share. Give each its "
                    "own."
                )
            seen.add(id(tensor))
            own[spec.name][...] = _values(part, spec.name, spec.shape)
            if not spec.learnt:
                kept[spec.name] = own[spec.name]
            elif not tensor.requires_grad:
                unlike.append(f"{name}, which is frozen")
        layer.check_statistics(kept)
    with model.backend.active():
        model.parameters.values[...] = model.backend.upload(flat, model.dtype)
        if not model.observed:
            model.set_statistics(statistics)
    return unlike


def _named(part: _Part, name: str) -> str:
    return f"{part.name}.{name if isinstance(part.module, Standardize) else _ARRAYS[name]}"


def _values(part: _Part, name: str, shape: tuple[int, ...]) -> Any:
    """The values of a module's parameter or buffer, by its name in nnbp."""
    tensor, label = _array(part.module, name).detach(), _named(part, name)
    if tensor.is_meta or tensor.layout is not torch.strided:
        raise DataError(
            f"Parameters are dense arrays with values; received {label} of layout {tensor.layout} on the device "
            f"{tensor.device}. Load its values first, or use to_dense()."
        )
    if tuple(tensor.shape) != shape:
        raise ShapeError(f"{label} must have shape {shape}; received {tuple(tensor.shape)}.")
    values = tensor.cpu().numpy()
    if not np.isfinite(values).all():
        raise DataError(f"Parameters are finite numbers; received {label} with NaN or infinite values.")
    return values


def _compare(network: Network, module: Any, first: Any, *, decided: bool, logarithm: bool) -> None:
    """Raises ValueError if the network and the module give different outputs.

    Args:
        first: the first part; if it is Standardize, the inputs have its mean and deviation.
        decided: whether the module ends in an activation, so that its output is a of the last layer and not z.
        logarithm: whether its output is ln a.
    """
    like = next(module.parameters())
    X = np.random.default_rng(0).normal(size=(_SAMPLES, network.model.n_in))
    if isinstance(first, Standardize):
        X = first.mean.cpu().numpy() + first.deviation.cpu().numpy() * X
    trace = network.trace(X)
    expected = np.asarray(trace.a[-1] if decided else trace.z[-1])
    # Dropout that is always active draws random numbers.
    with torch.no_grad(), torch.random.fork_rng(devices=[]), np.errstate(all="ignore"):
        given = torch.tensor(
            X, dtype=torch.float64 if isinstance(first, Standardize) else like.dtype, device=like.device
        )
        found = module(given).double().cpu().numpy()
        expected = np.log(expected.astype(np.float64)) if logarithm else expected.astype(np.float64)
        errors = np.where(found == expected, 0.0, np.abs(found - expected))
        sound = np.isfinite(expected)
        error = float(np.max(errors[sound], initial=0.0)) / max(
            1.0, float(np.max(np.abs(expected[sound]), initial=0.0))
        )
    if not error <= _CLOSE[network.dtype.name]:
        raise ValueError(
            f"The network and the module in evaluation mode must give the same outputs; received outputs that differ "
            f"by {number(error)} of the largest. Something outside the parts changes them: a hook, a `forward` that "
            "was set on an object, or dropout that is always active. Remove it."
        )


# ---- to a module


def _module(item: Any, *sizes: int) -> Any:
    """The module that equals a layer or an activation."""
    if type(item) not in _MODULES:
        raise ValueError(
            f"PyTorch has no counterpart of {item!r} that nnbp knows; it knows those of "
            f"{', '.join(kind.__name__ for kind in _MODULES)}."
        )
    module, names = _MODULES[type(item)]
    arguments = {theirs: getattr(item, own) for theirs, own in names.items()}
    return module(*sizes, **arguments, **({"dim": 1} if module is nn.Softmax else {}))

"""Networks from PyTorch's modules, and modules from networks, with the same outputs and gradients.

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
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnbp.errors import DataError, MissingDependencyError, ShapeError
from nnbp.formatting import brief, shown
from nnbp.graph.backend import Backend
from nnbp.network import Network
from nnbp.nn import activations, layers, losses
from nnbp.nn.activations import Activation
from nnbp.nn.layers import Layer
from nnbp.nn.losses import Loss
from nnbp.nn.normalization import BatchNorm, LayerNorm, Normalization
from nnbp.requirements import pip_install

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
    """a = (x − mean) / deviation, feature by feature, in float64 and then rounded; 0 for a feature of deviation 0.

    Args:
        mean, deviation: (n,) float64.
        dtype: of a.
    """

    def __init__(self, mean: Any, deviation: Any, dtype: Any) -> None:
        super().__init__()
        self.dtype = dtype
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float64))
        self.register_buffer("deviation", torch.as_tensor(deviation, dtype=torch.float64))

    def forward(self, x: Any) -> Any:
        inverse = torch.where(self.deviation > 0, 1 / self.deviation, 0)
        return ((x - self.mean) * inverse).to(self.dtype)


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
"""The layer or activation that is the same as a module, and the names in PyTorch and in nnbp of its arguments."""

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
    functional.dropout: nn.Dropout,
}
"""The module that is the same as a function, or as a method of tensors."""

_ARRAYS = {
    "W": "weight", "b": "bias", "gamma": "weight", "beta": "bias", "mean": "running_mean", "variance": "running_var"
}  # fmt: skip
"""PyTorch's names of parameters and running statistics."""

_IN_ARRAYS = {
    *("in_features", "num_features", "normalized_shape", "bias", "affine", "elementwise_affine", "device", "dtype"),
    *("mean", "deviation"),
}
"""Arguments of modules that follow from the arrays."""

_WITHOUT_EFFECT = {"inplace", "training", "_stacklevel"}
"""Arguments of modules and functions that change no result of the network."""


@dataclass
class _Part:
    """A module that becomes a layer: the class of the layer, and the arguments for it."""

    name: str
    module: Any
    kind: type[Layer]
    arguments: dict[str, Any]

    @property
    def takes_activation(self) -> bool:
        return self.kind is layers.Dense or issubclass(self.kind, Normalization)


def from_module(
    module: Any,
    *,
    loss: str | Loss,
    weight_decay: float = 0.0,
    device: str | Backend = "auto",
    seed: int | None = None,
) -> Network:
    """A network with the layers and parameters of a PyTorch module, which stays as it is.

    The module is a chain of Linear, BatchNorm1d, LayerNorm, Dropout and activations: a Sequential, or a module of your
    own whose `forward` applies such modules, or functions, one after the other. If it ends in Linear, its outputs are z
    of the last layer, as PyTorch's losses want them. The network has the output activation of its loss behind it: for
    loss="cross_entropy", `forward` gives probabilities.

    Args:
        module: the module; its parameters have one dtype, float32 or float64.
        loss: C, by name or as an object. The cross-entropies are those of PyTorch. squared_error, ½ Σ (h − y)² of a
            sample, is n_out / 2 times `torch.nn.MSELoss`, which is the mean over the outputs, too.
        weight_decay: λ.
        device, seed: of the network.

    Raises:
        ValueError: a part of the module has no counterpart in nnbp; the message names it.

    Warns:
        UserWarning: training would change a parameter that the module lacks, as with bias=False, or has frozen.
    """
    loss = losses.get(loss)
    parts: list[_Part] = []
    for name, part in _chain(module):
        if isinstance(part, nn.LogSoftmax) and loss.requires == "softmax":
            part = nn.Softmax(part.dim)  # the loss takes the logarithm
        kind, arguments = _counterpart(name, part)
        if issubclass(kind, Layer):
            parts.append(_Part(name, part, kind, arguments))
        elif kind is not activations.Identity:
            if not parts or not parts[-1].takes_activation or "activation" in parts[-1].arguments:
                raise ValueError(
                    "In nnbp an activation comes right behind a Linear, BatchNorm1d or LayerNorm; received "
                    f"{_described(name, part)}. Move it there."
                )
            parts[-1].arguments["activation"] = kind(**arguments)
    if not parts or parts[-1].kind is not layers.Dense:
        received = _described(parts[-1].name, parts[-1].module) if parts else "no layer"
        raise ValueError(f"A network ends in a Linear, with or without an activation; received {received} at the end.")
    for part in parts:
        if part.takes_activation:
            default = loss.output_activation if part is parts[-1] else "identity"
            part.arguments.setdefault("activation", default)
    network = Network(
        [_inputs(parts), *(part.kind(**part.arguments) for part in parts)], loss=loss, weight_decay=weight_decay,
        dtype=_dtype(parts), device=device, seed=seed,
    )  # fmt: skip
    unlike = _load(network, parts)
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
        ValueError: a layer or an activation has no counterpart in PyTorch; the message names it.
        NnbpError: the sizes of the network, or the statistics of its inputs, are not known yet.
    """
    model = network.copy(device="cpu").model
    dtype = getattr(torch, model.dtype.name)
    arrays = model.parameters.views(model.parameters.values)
    parts = []
    for layer, n_in, own, statistics in zip(model.layers, model.sizes, arrays, model.host_statistics(), strict=False):
        if isinstance(layer, layers.Standardize):
            parts.append(Standardize(**statistics, dtype=dtype))
            continue
        part = _module(layer, *([n_in] if own else [])).to(dtype)
        for name, values in own.items():
            getattr(part, _ARRAYS[name]).data.copy_(torch.from_numpy(values))
        parts.append(part)
        if not isinstance(layer.activation, activations.Identity | None):
            parts.append(_module(layer.activation))
    return nn.Sequential(*parts).eval()


# ---- from a module


class _Tracer(fx.Tracer):  # type: ignore[misc]
    """Follows `forward`, but not into the modules that have a counterpart."""

    def is_leaf_module(self, m: Any, module_qualified_name: str) -> bool:
        return type(m) in _KINDS or bool(super().is_leaf_module(m, module_qualified_name))


def _chain(module: Any) -> Iterator[tuple[str, Any]]:
    """The names and modules that `forward` applies one after the other; for functions, the modules that do the same."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"from_module takes a torch.nn.Module; received {shown(module)}.")
    root = nn.Sequential(module) if type(module) in _KINDS else module
    try:
        graph = _Tracer().trace(root)
    except Exception as error:
        raise ValueError(
            f"nnbp cannot follow `forward` of {type(module).__name__}: {brief(error)}. Give it a torch.nn.Sequential."
        ) from error
    last: Any = None
    for node in graph.nodes:
        name = node.target if node.op in ("call_module", "get_attr") else node.name
        if last is not None and (node.all_input_nodes != [last] or node.args[0] is not last):
            raise ValueError(
                "The parts of a network form a chain: each takes the result of the one before it and nothing else; "
                f"received {name}, which takes {', '.join(map(str, node.all_input_nodes)) or 'nothing'}."
            )
        if node.op == "call_module":
            yield name, root.get_submodule(name)
        elif node.op in ("call_function", "call_method"):
            yield name, _as_module(node)
        last = node


def _as_module(node: Any) -> Any:
    """The module that does what a call of a function or method does."""
    given = {name: value for name, value in node.kwargs.items() if name not in _WITHOUT_EFFECT and value is not None}
    try:
        return _FUNCTIONS[node.target](*node.args[1:], **given)
    except (KeyError, TypeError):
        raise ValueError(f"nnbp has no counterpart of the call {node.format_node()}. {_REMEDY}") from None


_REMEDY = (
    f"It has one of {', '.join(kind.__name__ for kind in _KINDS)}, and of the functions of these names. Replace or "
    "remove it."
)


def _described(name: str, module: Any) -> str:
    return f"{shown(module)}, the part {name!r} of the module"


def _counterpart(name: str, module: Any) -> tuple[Any, dict[str, Any]]:
    """The class of nnbp that is the same as a module, and its arguments."""
    # A subclass may compute something else.
    if type(module) not in _KINDS:
        raise ValueError(f"nnbp has no counterpart of {_described(name, module)}. {_REMEDY}")
    if module._forward_hooks or module._forward_pre_hooks:
        raise ValueError(f"nnbp has no hooks; received one on {_described(name, module)}. Remove it.")
    kind, names = _KINDS[type(module)]
    arguments = {}
    for argument, parameter in inspect.signature(type(module)).parameters.items():
        value = getattr(module, argument, parameter.default)
        if argument in names:
            arguments[names[argument]] = value
        elif argument not in _IN_ARRAYS | _WITHOUT_EFFECT:
            # Of a matrix, the features are dimension 1.
            possible = (1, -1, None) if argument == "dim" else (parameter.default,)
            if value not in possible:
                raise ValueError(
                    f"nnbp has {type(module).__name__} with {argument}={possible[0]!r} alone; received "
                    f"{_described(name, module)}."
                )
    return kind, arguments


def _inputs(parts: Sequence[_Part]) -> int:
    """The number of inputs of the first part that tells it."""
    for part in parts:
        match part.module:
            case nn.Linear(in_features=n) | nn.BatchNorm1d(num_features=n) | nn.LayerNorm(normalized_shape=(n,)):
                return int(n)
            case Standardize(mean=mean):
                return len(mean)
    raise AssertionError("the last part is Linear")


def _dtype(parts: Sequence[_Part]) -> str:
    """The dtype of all parameters."""
    found = sorted({str(tensor.dtype).removeprefix("torch.") for part in parts for tensor in part.module.parameters()})
    if len(found) > 1:
        raise ValueError(f"A network has one dtype; received parameters of {', '.join(found)}. Use module.to(dtype).")
    return found[0]


def _load(network: Network, parts: Sequence[_Part]) -> list[str]:
    """Gives the network the parameters and statistics of the modules.

    Returns:
        those that the network learns and the module does not.
    """
    model, unlike, seen = network.model, [], set()
    flat = np.empty(len(model.parameters.values), model.dtype)
    for part, specs, views in zip(parts, model.parameters.specs, model.parameters.views(flat), strict=True):
        for spec in specs:
            name = f"{part.name}.{_ARRAYS[spec.name]}"
            tensor = getattr(part.module, _ARRAYS[spec.name])
            if tensor is None:
                views[spec.name][...] = spec.name == "gamma"
                unlike.append(f"{name}, which is missing")
                continue
            if tuple(tensor.shape) != spec.shape:
                raise ShapeError(f"{name} has shape {spec.shape} here; received {tuple(tensor.shape)}.")
            if id(tensor) in seen:
                raise ValueError(f"Layers of nnbp share no parameters; received {name}, which two of them have.")
            seen.add(id(tensor))
            values = tensor.detach().cpu().numpy()
            if not np.isfinite(values).all():
                raise DataError(f"Parameters are finite numbers; received {name} with NaN or infinity in it.")
            views[spec.name][...] = values
            if spec.learnt and not tensor.requires_grad:
                unlike.append(f"{name}, which is frozen")
    with model.backend.active():
        model.parameters.values[...] = model.backend.upload(flat, model.dtype)
        for part in parts:
            if part.kind is layers.Standardize:
                own = {name: getattr(part.module, name).cpu().numpy() for name in ("mean", "deviation")}
                model.set_statistics([own])
    return unlike


# ---- to a module


def _module(item: Any, *sizes: int) -> Any:
    """The module that is the same as a layer or an activation."""
    if type(item) not in _MODULES:
        raise ValueError(
            f"PyTorch has no counterpart of {item!r} that nnbp knows; it knows those of "
            f"{', '.join(kind.__name__ for kind in _MODULES)}."
        )
    module, names = _MODULES[type(item)]
    arguments = {theirs: getattr(item, own) for theirs, own in names.items()}
    return module(*sizes, **arguments, **({"dim": 1} if module is nn.Softmax else {}))

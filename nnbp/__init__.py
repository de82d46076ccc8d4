"""nnbp: feed-forward networks and backpropagation, written once, on NumPy or CuPy."""

from importlib import import_module
from typing import TYPE_CHECKING

from nnbp.errors import (
    ConvergenceWarning,
    DataError,
    DeviceFallbackWarning,
    DeviceMemoryError,
    DeviceUnavailableError,
    DivergenceError,
    DTypeError,
    GradientError,
    MissingDependencyError,
    ModelFileError,
    NnbpError,
    ShapeError,
)
from nnbp.network import Network
from nnbp.nn.activations import (
    ELU,
    GELU,
    Activation,
    Exponential,
    Identity,
    LeakyReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from nnbp.nn.layers import Dense, Dropout, Layer, Standardize
from nnbp.nn.losses import AbsoluteError, BinaryCrossEntropy, CrossEntropy, Huber, Loss, Poisson, Quantile, SquaredError
from nnbp.version import __version__

_LAZY = {
    "nnbp.device.select": ["devices"],
    "nnbp.engine.results": ["Gradients", "Trace"],
    "nnbp.explorer.page": ["explain"],
    "nnbp.metrics": ["Metric", "metrics"],
    "nnbp.nn.normalization": ["BatchNorm", "LayerNorm"],
    "nnbp.onnx": ["onnx"],
    "nnbp.optim.bayesian_regularization": ["BayesianRegularization"],
    "nnbp.optim.lbfgs": ["LBFGS"],
    "nnbp.optim.levenberg_marquardt": ["LevenbergMarquardt"],
    "nnbp.optim.optimizers": ["Adam", "AdamW", "Optimizer", "RMSprop", "Rprop", "SGD"],
    "nnbp.optim.schedules": ["schedules"],
    "nnbp.sklearn": ["sklearn"],
    "nnbp.testing": ["testing"],
    "nnbp.testing.gradients": ["check_gradients"],
    "nnbp.testing.parity": ["compare_devices"],
    "nnbp.textbook": ["textbook"],
    "nnbp.torch": ["torch"],
    "nnbp.training.callbacks": ["Callback", "EarlyStopping", "History", "TrainingState"],
    "nnbp.tabular.model": ["TableModel"],
    "nnbp.training.checkpoint": ["Checkpoint"],
    "nnbp.training.parallel": ["fit_many"],
}
"""Modules that few programs use, imported when one of these names is first used: `import nnbp` is to cost little more
than `import numpy`. Above are the network, the parts that describe it, and the errors."""

_MODULES = {name: module for module, names in _LAZY.items() for name in names}

if TYPE_CHECKING:
    # Those that have the name of a library are not in __all__: a star import must not hide it.
    from nnbp import onnx as onnx
    from nnbp import sklearn as sklearn
    from nnbp import testing, textbook
    from nnbp import torch as torch
    from nnbp.device.select import devices
    from nnbp.engine.results import Gradients, Trace
    from nnbp.explorer.page import explain
    from nnbp.metrics import Metric
    from nnbp.nn.normalization import BatchNorm, LayerNorm
    from nnbp.optim import schedules
    from nnbp.optim.bayesian_regularization import BayesianRegularization
    from nnbp.optim.lbfgs import LBFGS
    from nnbp.optim.levenberg_marquardt import LevenbergMarquardt
    from nnbp.optim.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop, Rprop
    from nnbp.tabular.model import TableModel
    from nnbp.testing.gradients import check_gradients
    from nnbp.testing.parity import compare_devices
    from nnbp.training.callbacks import Callback, EarlyStopping, History, TrainingState
    from nnbp.training.checkpoint import Checkpoint
    from nnbp.training.parallel import fit_many
else:
    # Hidden from type checkers, which would take any name at all for one of this module.
    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = import_module(_MODULES[name])
        value = module if module.__name__.endswith(f".{name}") else getattr(module, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})


__all__ = [  # noqa: RUF022 (grouped by what the names are for)
    "Network", "Gradients", "History", "Trace", "TrainingState", "__version__",
    # Layers, activations, losses.
    "Layer", "BatchNorm", "Dense", "Dropout", "LayerNorm", "Standardize",
    "Activation", "ELU", "Exponential", "GELU", "Identity", "LeakyReLU", "ReLU", "Sigmoid", "SiLU", "Softmax",
    "Softplus", "Tanh",
    "Loss", "AbsoluteError", "BinaryCrossEntropy", "CrossEntropy", "Huber", "Poisson", "Quantile", "SquaredError",
    # Training.
    "Optimizer", "Adam", "AdamW", "BayesianRegularization", "LBFGS", "LevenbergMarquardt", "RMSprop", "Rprop", "SGD",
    "schedules",
    "Callback", "Checkpoint", "EarlyStopping", "Metric", "fit_many", "TableModel",
    # Devices and checks.
    "check_gradients", "compare_devices", "devices", "explain", "testing", "textbook",
    # Errors.
    "NnbpError", "ConvergenceWarning", "DataError", "DeviceFallbackWarning", "DeviceMemoryError",
    "DeviceUnavailableError", "DivergenceError", "DTypeError", "GradientError", "MissingDependencyError",
    "ModelFileError", "ShapeError",
]  # fmt: skip

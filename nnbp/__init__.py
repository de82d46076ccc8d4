"""nnbp: feed-forward networks and backpropagation, written once, on NumPy or CuPy."""

from importlib import import_module
from typing import TYPE_CHECKING

from nnbp.errors import (
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
from nnbp.nn.layers import Dense, Dropout, Layer
from nnbp.nn.losses import AbsoluteError, BinaryCrossEntropy, CrossEntropy, Huber, Loss, Poisson, Quantile, SquaredError
from nnbp.version import __version__

_LAZY = {
    "Adam": "nnbp.optim.optimizers",
    "AdamW": "nnbp.optim.optimizers",
    "Callback": "nnbp.training.callbacks",
    "EarlyStopping": "nnbp.training.callbacks",
    "Gradients": "nnbp.engine.results",
    "History": "nnbp.training.callbacks",
    "LBFGS": "nnbp.optim.lbfgs",
    "Metric": "nnbp.metrics",
    "Optimizer": "nnbp.optim.optimizers",
    "RMSprop": "nnbp.optim.optimizers",
    "Rprop": "nnbp.optim.optimizers",
    "SGD": "nnbp.optim.optimizers",
    "Trace": "nnbp.engine.results",
    "TrainingState": "nnbp.training.callbacks",
    "check_gradients": "nnbp.testing.gradients",
    "compare_devices": "nnbp.testing.parity",
    "devices": "nnbp.device.select",
    "metrics": "nnbp.metrics",
    "schedules": "nnbp.optim.schedules",
    "testing": "nnbp.testing",
    "textbook": "nnbp.textbook",
}
"""Names that few programs use, and their modules, which are imported at the first use: `import nnbp` is to cost little
more than `import numpy`. Above are the network, the parts that describe it, and the errors."""

if TYPE_CHECKING:
    from nnbp import testing, textbook
    from nnbp.device.select import devices
    from nnbp.engine.results import Gradients, Trace
    from nnbp.metrics import Metric
    from nnbp.optim import schedules
    from nnbp.optim.lbfgs import LBFGS
    from nnbp.optim.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop, Rprop
    from nnbp.testing.gradients import check_gradients
    from nnbp.testing.parity import compare_devices
    from nnbp.training.callbacks import Callback, EarlyStopping, History, TrainingState
else:
    # Hidden from type checkers, which would take any name at all for one of this module.
    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = import_module(_LAZY[name])
        value = module if _LAZY[name].endswith(f".{name}") else getattr(module, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


__all__ = [
    "ELU",
    "GELU",
    "LBFGS",
    "SGD",
    "AbsoluteError",
    "Activation",
    "Adam",
    "AdamW",
    "BinaryCrossEntropy",
    "Callback",
    "CrossEntropy",
    "DTypeError",
    "DataError",
    "Dense",
    "DeviceFallbackWarning",
    "DeviceMemoryError",
    "DeviceUnavailableError",
    "DivergenceError",
    "Dropout",
    "EarlyStopping",
    "Exponential",
    "GradientError",
    "Gradients",
    "History",
    "Huber",
    "Identity",
    "Layer",
    "LeakyReLU",
    "Loss",
    "Metric",
    "MissingDependencyError",
    "ModelFileError",
    "Network",
    "NnbpError",
    "Optimizer",
    "Poisson",
    "Quantile",
    "RMSprop",
    "ReLU",
    "Rprop",
    "ShapeError",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "SquaredError",
    "Tanh",
    "Trace",
    "TrainingState",
    "__version__",
    "check_gradients",
    "compare_devices",
    "devices",
    "schedules",
    "testing",
    "textbook",
]

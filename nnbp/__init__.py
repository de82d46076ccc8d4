"""nnbp: feed-forward networks and backpropagation, written once, on NumPy or CuPy."""

from nnbp import testing
from nnbp.device.select import devices
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
from nnbp.metrics import Metric
from nnbp.network import Gradients, Network, Trace
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
from nnbp.optim import schedules
from nnbp.optim.lbfgs import LBFGS
from nnbp.optim.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop, Rprop
from nnbp.testing.gradients import check_gradients
from nnbp.testing.parity import compare_devices
from nnbp.training.callbacks import Callback, EarlyStopping, History, TrainingState
from nnbp.version import __version__

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
]

"""nnbp: feed-forward networks and backpropagation, written once, on NumPy or CuPy."""

from nnbp.activations import (
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
from nnbp.callbacks import Callback, EarlyStopping, History, TrainingState
from nnbp.device import devices
from nnbp.errors import (
    DataError,
    DeviceFallbackWarning,
    DeviceUnavailableError,
    DivergenceError,
    DTypeError,
    GradientError,
    MissingDependencyError,
    ModelFileError,
    NnbpError,
    ShapeError,
)
from nnbp.layers import Dense, Dropout, Layer
from nnbp.lbfgs import LBFGS
from nnbp.losses import (
    AbsoluteError,
    BinaryCrossEntropy,
    CrossEntropy,
    Huber,
    Loss,
    Poisson,
    Quantile,
    SquaredError,
)
from nnbp.metrics import Metric
from nnbp.network import Gradients, Network, Trace
from nnbp.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop, Rprop

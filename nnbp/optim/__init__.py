"""Optimizers and learning-rate schedules."""

# With any module of this package all optimizers are known by name.
from nnbp.optim import lbfgs, levenberg_marquardt, optimizers

__all__ = ["lbfgs", "levenberg_marquardt", "optimizers"]

"""Optimizers and learning-rate schedules."""

# With any module of this package all optimizers are known by name.
from nnbp.optim import bayesian_regularization, lbfgs, levenberg_marquardt, optimizers

__all__ = ["bayesian_regularization", "lbfgs", "levenberg_marquardt", "optimizers"]

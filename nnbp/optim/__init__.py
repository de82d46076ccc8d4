"""Optimizers and learning-rate schedules."""

# With any module of this package all optimizers are known by name.
from nnbp.optim import lbfgs, optimizers

__all__ = ["lbfgs", "optimizers"]

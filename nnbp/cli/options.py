"""Arguments of the command line: their types, and those that several commands have."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from nnbp.nn.activations import Activation
from nnbp.nn.losses import Loss
from nnbp.optim.optimizers import Optimizer
from nnbp.optim.schedules import Schedule
from nnbp.training.checkpoint import Checkpoint
from nnbp.validation import not_negative, number, whole_number

T = TypeVar("T")


def _argument(read: Callable[[str], Any], check: Callable[[str, Any], T]) -> Callable[[str], T]:
    """A type of arguments of the command line: `read` makes a value of the text, `check` checks it by a name."""

    def argument(text: str) -> T:
        try:
            value = read(text)
        except ValueError:
            value = text
        try:
            return check("the value", value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return argument


count = _argument(int, partial(whole_number, low=1))
whole = _argument(int, partial(whole_number, low=0))
positive = _argument(float, partial(number, interval="(0, inf)"))
fraction = _argument(float, partial(number, interval="[0, 1)"))
decay = _argument(float, not_negative)
interval = _argument(int, lambda _, every: Checkpoint(".", every).every)


def name_of(base: type[Activation | Loss | Optimizer | Schedule]) -> Callable[[str], str]:
    """A type of arguments that name a class of this kind, in any spelling; the value is the class's own name."""
    return _argument(str, lambda _, text: base.find(text).name)


def separated(read: Callable[[str], T], right: Callable[[list[T]], bool], expected: str) -> Callable[[str], list[T]]:
    """A type of arguments with commas between their items.

    Args:
        read: makes an item of its text, or raises ValueError.
        right: whether the items will do; there is at least one.
        expected: what the error says of the right ones.
    """

    def argument(text: str) -> list[T]:
        try:
            items = [read(item.strip()) for item in text.split(",")]
        except ValueError:
            items = []
        if not items or not right(items):
            raise argparse.ArgumentTypeError(f"expected {expected}; received {text!r}.")
        return items

    return argument


layer_sizes = separated(
    int, lambda sizes: len(sizes) >= 2 and min(sizes) >= 1, "sizes of at least two layers, such as 4,8,3"
)
devices = separated(str, lambda names: len(names) >= 2 and all(names), "at least two devices, such as cpu,cuda")
dtypes = separated(str, {"float32", "float64"}.issuperset, "float32, float64 or both, with a comma")
_units = separated(int, lambda units: min(units) >= 1, "sizes of hidden layers, such as 64,32, or none")


def hidden_sizes(text: str) -> list[int]:
    """The argument 64,32 or none."""
    return [] if text.lower() == "none" else _units(text)


_SHARED: dict[str, dict[str, Any]] = {
    "model": {"metavar": "MODEL", "help": "a run folder or a model file"},
    "source": {"metavar": "SOURCE", "help": "the name of a set, or a CSV, TSV, Parquet, NPY or NPZ file"},
    "--device": {"default": "auto", "metavar": "D", "help": "auto, cpu, cuda or cuda:N (default auto)"},
    "--json": {"action": "store_true", "help": "print one JSON object"},
    "--activation": {"type": name_of(Activation), "metavar": "NAME", "help": "of hidden layers (default: every one)"},
    "--loss": {"type": name_of(Loss), "metavar": "NAME", "help": "the loss (default: every one)"},
    "--seed": {"type": whole, "default": 0, "metavar": "N", "help": "of parameters and data (default 0)"},
}


def add_shared(parser: argparse.ArgumentParser, *names: str) -> None:
    """Adds arguments that several commands have."""
    for name in names:
        parser.add_argument(name, **_SHARED[name])

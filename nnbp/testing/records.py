"""Records: files with the results of one device, by which another device or machine is judged without the first.

A record is a model file of the network. Its `State` has the data, every array of a forward and a backward pass, the
parameters after some updates, and the differences between two such runs. Bounds are not recorded: the machine that
judges computes them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Self

import numpy as np

from nnbp.device.select import open_backend
from nnbp.errors import ModelFileError
from nnbp.formatting import printable, shown
from nnbp.graph.backend import Backend
from nnbp.graph.ops import Precision
from nnbp.network import Network
from nnbp.nn.layers import named
from nnbp.optim.optimizers import Optimizer
from nnbp.serialization import model_file
from nnbp.serialization.model_file import ModelFile, State
from nnbp.testing.parity import Judge, ParityReport, Run
from nnbp.testing.runs import Problem
from nnbp.training.checkpoint import environment
from nnbp.validation import flag, instance, items, not_negative, reduced, whole_number

_VERSION = 1

_GROUPS = "computed", "trained"

_MOST_UPDATES = 1_000_000
"""The most updates that a record may request: it may come from a stranger."""


def record(
    net: Network,
    X: Any,
    y: Any,
    path: str | PathLike[str],
    sample_weight: Any = None,
    *,
    steps: int = 10,
    optimizer: str | Optimizer = "adam",
    learning_rate: float | None = None,
    batch_size: int | None = None,
) -> None:
    """Writes the results of a network on its device to a file, for `compare_with`.

    The pass and the updates run twice, and the file says which arrays differ between the two runs.

    Args:
        net: the network, on the device to record; it does not change.
        X, y, sample_weight, steps, optimizer, learning_rate, batch_size: as for `nnbp.compare_devices`.
        path: the file; an existing file is replaced. `Network.load` opens it, too.

    Raises:
        DivergenceError: training diverges.
        ModelFileError: the file cannot be written.
        ShapeError, DTypeError, DataError, ValueError: an argument does not fit.
    """
    twin = instance("net", net, Network, "a Network").copy()
    problem = Problem.of(
        twin, X, y, sample_weight, steps=steps, optimizer=optimizer, learning_rate=learning_rate, batch_size=batch_size
    )  # fmt: skip
    twin.prepare(problem.X, problem.y)
    model = twin.model
    found, other = (Run.of(twin, problem, model.backend, net.device) for _ in range(2))
    arrays = {"X": problem.X, "y": problem.y} | ({} if problem.w is None else {"w": problem.w})
    for group in _GROUPS:
        arrays |= {f"{group}.{name}": array for name, array in getattr(found, group).items()}
    unsteady = found.beside(other).unsteady
    values = {
        "record": _VERSION,
        "sequences": model.sequences(),
        "device": net.device,
        "precision": twin.precision,
        "environment": dict(environment(model)),
        "optimizer": named(problem.rule),
        "learning_rate": problem.learning_rate,
        "epochs": problem.epochs,
        "batch_size": problem.batch_size,
        "shapes": {name: list(array.shape) for name, array in arrays.items()},
        "classes": problem.y.dtype.kind != "f",
        "unsteady": {name: value if math.isfinite(value) else None for name, value in unsteady.items()},
    }
    vectors = {
        name: (array if array.dtype.kind == "f" else array.astype(np.float64)).reshape(-1)
        for name, array in arrays.items()
    }
    model_file.write(path, twin.to_file(model.parameters.values, State(values, vectors)))


def compare_with(
    path: str | PathLike[str],
    *,
    device: str | Backend = "auto",
    isolate: bool = False,
    custom: Sequence[type] = (),
) -> ParityReport:
    """Judges a device by the results of another device, maybe on another machine, for the same network and data.

    Args:
        path: the file that `record` wrote.
        device: the device, by name or as an opened backend; "auto" is a working GPU, else the CPU.
        isolate: as for `nnbp.compare_devices`: every layer of the recorded device and of this one is judged by itself,
            so the report names the faulty layer and its device.
        custom: your own activation, loss and optimizer classes that the network uses.

    Returns:
        a report in which p is the record.

    Raises:
        ModelFileError: the file is not a record, or is damaged.
        DeviceUnavailableError: the device does not work on this machine.
    """
    isolate, own = flag("isolate", isolate), items("custom", custom, "a list of classes of your own")
    automatic = isinstance(device, str) and device == "auto"
    backend = device if isinstance(device, Backend) else open_backend(device, fallback=automatic)
    found = Record.read(path, own)
    recorded, problem = found.run, found.problem
    net = Network.from_file(found.file, _without_rules(own), device=backend, precision=found.precision)
    run = Run.of(net, problem, backend, backend.device, train=not isolate, may_diverge=True)
    _check_arrays(recorded, run, path)
    judge = Judge(net, problem)
    report = judge([recorded, run], isolate=isolate)
    if report.passed:
        return report
    other = Run.of(net, problem, backend, run.label, train=not isolate, may_diverge=True)
    return judge([recorded, run.beside(other)], isolate=isolate)


@dataclass(frozen=True, eq=False)
class Record:
    """The contents of a file that `record` wrote.

    Attributes:
        file: the network, as a model file.
        precision: of its products, if it is lower than that of its dtype.
        problem: the data and updates.
        run: the recorded results.
    """

    file: ModelFile
    precision: Precision | None
    problem: Problem
    run: Run

    @classmethod
    def read(cls, path: str | PathLike[str], custom: Sequence[type] = ()) -> Self:
        """Reads a record; `custom` as for `compare_with`.

        Raises:
            ModelFileError: the file is not a record, or is damaged.
        """
        others = _without_rules(custom)
        file = model_file.read(path, others)
        if file.state is None or "record" not in file.state.values:
            raise ModelFileError(
                f"{shown(str(path))} is a model file but not a record. nnbp.testing.record and nnbp parity --record "
                "write records."
            )
        version = file.state.values["record"]
        if not isinstance(version, int) or version > _VERSION:
            raise ModelFileError(
                f"The record {shown(str(path))} has version {shown(version)}, but this nnbp reads versions up to "
                f"{_VERSION}. Use the nnbp that wrote it, or a later one."
            )
        try:
            run, problem = _parsed(file.state, [item for item in custom if item not in others])
            return cls(file, file.state.values["precision"], problem, run)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelFileError(
                f"The record {shown(str(path))} has parts that nnbp.testing.record does not write: {error!r}. Record "
                "it again with this nnbp."
            ) from error


def _without_rules(custom: Sequence[object]) -> list[Any]:
    """The classes that a model file may name: all but optimizers."""
    return [item for item in custom if not (isinstance(item, type) and issubclass(item, Optimizer))]


def _parsed(state: State, rules: Sequence[type[Optimizer]]) -> tuple[Run, Problem]:
    """The recorded run, and its problem."""
    values = state.values
    arrays = {name: state.arrays[name].reshape(shape) for name, shape in values["shapes"].items()}
    groups: dict[str, dict[str, Any]] = {group: {} for group in _GROUPS}
    for name, array in arrays.items():
        group, dot, rest = name.partition(".")
        if dot:
            groups[group][rest] = array
    unsteady = {name: math.inf if value is None else float(value) for name, value in values["unsteady"].items()}
    run = Run(f"{printable(str(values['device']))[:40]} (recorded)", groups["computed"], groups["trained"], unsteady)
    arguments = dict(values["optimizer"])
    name = arguments.pop("name")
    rule = {**Optimizer.built_in(), **{item.name: item for item in rules}}[name](**arguments)
    y = arrays["y"].astype(np.int64) if values["classes"] else arrays["y"]
    rate = values["learning_rate"]
    problem = Problem(
        arrays["X"], y, arrays.get("w"), rule, None if rate is None else not_negative("learning_rate", rate),
        whole_number("epochs", values["epochs"], 1, _MOST_UPDATES), whole_number("batch_size", values["batch_size"], 1),
    )  # fmt: skip
    whole_number("the number of updates", problem.updates, 1, _MOST_UPDATES)
    if values["precision"] is not None:
        reduced(values["precision"], arrays["X"].dtype)
    return run, problem


def _check_arrays(recorded: Run, run: Run, path: str | PathLike[str]) -> None:
    """Raises ModelFileError unless a record has exactly the arrays that its network computes, in their shapes."""
    # If layers are isolated, nothing is trained, and the recorded training is not used.
    arrays = recorded.computed | (recorded.trained if run.trained else {}), run.computed | run.trained
    given, expected = ({name: array.shape for name, array in each.items()} for each in arrays)
    wrong = [name for name in sorted({*given, *expected}) if given.get(name) != expected.get(name)]
    if wrong:
        raise ModelFileError(
            f"The record {shown(str(path))} must have exactly the arrays that its network computes, in their shapes; "
            f"received arrays that differ or are missing: {', '.join(map(shown, wrong[:5]))}. Record it again with "
            "this nnbp."
        )

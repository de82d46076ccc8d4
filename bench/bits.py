"""Bits: digests of what nnbp computes, to show that a change of the code leaves every bit as it was.

    python bench/bits.py record FOLDER      # before the change
    python bench/bits.py compare FOLDER     # after it

The script trains a fixed list of networks and evaluates them in every way, through public names of nnbp alone. Each
resulting array or number becomes a SHA-256 digest of its dtype, shape and bytes. A process with one BLAS thread and a
process with two run the whole list.

`record` writes FOLDER/bits.json and a model file for each network. `compare` computes everything again, loads the
recorded model files as well, and prints the name of each digest that differs. It exits with 1 if any differs, and with
2 if the environment is another one: other versions of NumPy or BLAS, or another CPU, may round differently.

A new activation, loss, optimizer, layer or schedule must be added to `cases`; `record` lists those that are not there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import threadpoolctl

import nnbp
from nnbp import LBFGS, SGD, Adam, AdamW, Dense, Dropout, RMSprop, Rprop, Standardize, schedules

THREADS = (1, 2)
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
HIDDEN = ("identity", "sigmoid", "tanh", "relu", "leaky_relu", "elu", "softplus", "silu", "gelu", "exponential")
INITIALIZERS = (
    "glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "lecun_normal", "rectifier_uniform", "zeros",
)  # fmt: skip
SCHEDULES: dict[str, Any] = {
    **{name: name for name in ("constant", "step", "exponential", "cosine", "warm_up", "inverse_scaling")},
    "plateau": schedules.ReduceOnPlateau(factor=0.3, patience=0, threshold=0.9, cooldown=1, min_rate=1e-4),
    "warm-up, then cosine": schedules.WarmUp(2.5, then=schedules.Cosine(5, minimum=0.1), start=0.05),
    "function": lambda epoch: 1.0 / (1.0 + epoch),
}
OPTIMIZERS = {
    "sgd": SGD(0.05), "momentum": SGD(0.02, momentum=0.9), "nesterov": SGD(0.02, momentum=0.8, nesterov=True),
    "rmsprop": RMSprop(), "centered rmsprop": RMSprop(centered=True), "rmsprop momentum": RMSprop(momentum=0.7),
    "rmsprop, all arguments": RMSprop(0.003, alpha=0.9, epsilon=1e-6, momentum=0.5, centered=True),
    "adam": Adam(), "adam, all arguments": Adam(0.01, beta1=0.8, beta2=0.95, epsilon=1e-6),
    "adamw": AdamW(), "adamw, all arguments": AdamW(0.01, beta1=0.8, beta2=0.95, epsilon=1e-6, weight_decay=0.1),
    "rprop": Rprop(), "rprop, all arguments": Rprop(0.02, shrink=0.4, grow=1.3, smallest=1e-4, largest=0.5),
    "lbfgs": LBFGS(line_search=None), "lbfgs, long steps": LBFGS(30.0, line_search="strong_wolfe"),
    "lbfgs, all arguments": LBFGS(0.5, max_iter=7, max_eval=9, tolerance_grad=1e-6, tolerance_change=1e-8,
                                  history_size=3, line_search="strong_wolfe"),
}  # fmt: skip
# Each loss with a kind of targets, see `Data`.
LOSSES = {
    "squared_error": "values", "absolute_error": "values", "huber": "values", "quantile": "values",
    "poisson": "counts", "binary_cross_entropy": "labels", "cross_entropy": "classes",
}  # fmt: skip
# The metrics of a kind of targets.
METRICS = {
    "values": ["r2", "rmse", "mse", "mae", "max_error"],
    "classes": ["accuracy", "balanced_accuracy", "f1_macro", "log_loss"],
    "one label": ["accuracy", "log_loss", "roc_auc"],
}
ERROR = "error"
"""The last part of the name under which an exception is noted in place of digests."""


class HalfSoftsign(nnbp.Activation):
    """An activation as users write it."""

    name = "half_softsign"

    def f(self, z: Any) -> Any:
        return np.where(z > 0.0, z, z / (1.0 + np.abs(z)))

    def df(self, z: Any, a: Any) -> Any:
        return np.where(a > 0.0, 1.0, (1.0 + a) ** 2)


class LogCosh(nnbp.Loss):
    """A loss as users write it."""

    name = "log_cosh"

    def cost(self, h: Any, y: Any) -> Any:
        return np.abs(h - y) + np.log1p(np.exp(-2.0 * np.abs(h - y))) - np.log(2.0)

    def dcost(self, h: Any, y: Any) -> Any:
        return np.tanh(h - y)


class Data:
    """Samples (m, n_in) with targets of a kind: values, counts, labels (0 or 1), one-hot rows, or classes (m,)."""

    def __init__(self, samples: int, n_in: int, n_out: int, kind: str, dtype: str) -> None:
        rng = np.random.default_rng(samples)
        self.X = rng.standard_normal((samples, n_in)).astype(dtype)
        signal = self.X @ rng.standard_normal((n_in, n_out)) / np.sqrt(n_in)
        noisy = signal + 0.3 * rng.standard_normal(signal.shape)
        targets = {
            "values": noisy.astype(dtype), "counts": np.floor(np.exp(np.clip(noisy, -3, 3))),
            "labels": noisy > 0, "one label": noisy[:, 0] > 0,
            "classes": noisy.argmax(axis=1), "one-hot": np.eye(n_out)[noisy.argmax(axis=1)],
        }  # fmt: skip
        self.y: Any = targets[kind]
        self.weights = rng.uniform(0.1, 3.0, samples)


@dataclass(frozen=True)
class Case:
    """A network and its training.

    Attributes:
        name: unique.
        options: keyword arguments of Network.
        fit: keyword arguments of fit; True for validation_data or sample_weight is replaced by arrays.
        sizes: of all layers, input first; the data have as many inputs and outputs as the first and the last.
        kind: of the targets, see `Data`.
        samples: m.
        layers: replaces the sizes, if not empty; None lets the network take its sizes from the data.
        train: replaces the one call of fit.
        given: converts X before nnbp receives it.
        dtype: of the network and the data.
        saved: whether the network goes through a model file; a class of a user's does not.
        ready: whether the network computes before it is trained.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)
    sizes: Sequence[int] = (7, 12, 9, 3)
    kind: str = "values"
    samples: int = 53
    layers: Sequence[Any] | None = ()
    train: Callable[[nnbp.Network, Any, Any], object] | None = None
    given: Callable[[Any], Any] = np.asarray
    dtype: str = "float32"
    saved: bool = True
    ready: bool = True


def partly(optimizer: Any) -> Callable[[nnbp.Network, Any, Any], None]:
    """Training by partial_fit on four parts of the data. A copy takes the last, with the state of the optimizer."""

    def train(net: nnbp.Network, X: Any, y: Any) -> None:
        for k, size in enumerate((8, 32, None, 5)):
            learner = net if k < 3 else net.copy()
            learner.partial_fit(X[k::4], y[k::4], optimizer=optimizer, batch_size=size)
        net.set_parameters(learner.weights, learner.biases)

    return train


def twice(net: nnbp.Network, X: Any, y: Any) -> None:
    """Two fits; the second continues the shuffles and dropout masks of the first."""
    for _ in range(2):
        net.fit(X, y, epochs=2, batch_size=10, progress=False)
        net.to("cpu")


def rule_cases() -> Iterator[Case]:
    """A small network for each activation, loss, optimizer, schedule and initializer."""
    for name in HIDDEN:
        yield Case(f"activation {name}", {"activation": name, "weight_decay": 1e-3}, {"learning_rate": 0.003})
    yield Case("activation of a user", {"activation": HalfSoftsign()}, saved=False)
    yield Case("activations with arguments", {"activation": [nnbp.LeakyReLU(0.2), nnbp.ELU(0.7)]})
    for name, kind in LOSSES.items():
        yield Case(f"loss {name}", {"loss": name, "activation": "tanh"}, kind=kind)
    yield Case("huber with argument", {"loss": nnbp.Huber(0.3)})
    yield Case("quantile with argument", {"loss": nnbp.Quantile(0.9)})
    yield Case("loss of a user", {"loss": LogCosh()}, saved=False)
    for loss, f, kind in [
        ("squared_error", "tanh", "values"), ("squared_error", "softmax", "one-hot"),
        ("absolute_error", "softplus", "values"), ("poisson", "softplus", "counts"),
    ]:  # fmt: skip
        yield Case(f"output {f} under {loss}", {"loss": loss, "output_activation": f}, kind=kind)
    for name, rule in OPTIMIZERS.items():
        yield Case(f"optimizer {name}", {"activation": "tanh", "weight_decay": 0.01}, {"optimizer": rule})
    for name, schedule in SCHEDULES.items():
        fit = {"schedule": schedule, "epochs": 9, "batch_size": 20, "learning_rate": 0.02}
        yield Case(f"schedule {name}", {}, fit)
    yield Case("schedule cosine, sgd", {}, {"schedule": "cosine", "optimizer": SGD(0.05, momentum=0.5)})
    for name in INITIALIZERS:
        layers = [Dense(12, "silu", initializer=name), Dense(3, initializer=name)]
        yield Case(f"initializer {name}", layers=[7, *layers])


def use_cases() -> Iterator[Case]:
    """A small network for each way of training, each kind of data, and each shape that is an edge case."""
    classes: dict[str, Any] = {"options": {"loss": "cross_entropy"}, "kind": "classes"}
    validated = {"validation_data": True, "epochs": 12, "learning_rate": 0.05}
    several = {"validation_split": 0.2, "class_weight": "balanced", "sample_weight": True, "clip_norm": 0.3}
    dropout = [7, Dropout(0.1), Dense(20, "gelu"), Dropout(0.5), Dense(3)]
    yield from [
        Case("dropout", {}, {"batch_size": 16}, layers=dropout),
        Case("dropout, fit twice", train=twice, layers=dropout),
        Case("fit twice", train=twice),
        Case("standardize", {}, {"batch_size": 16}, layers=[Standardize(), 20, 3], ready=False),
        Case("sample weights", {}, {"sample_weight": True, "batch_size": 9}),
        Case("class weights", fit={"class_weight": {0: 3.0, 2: 0.5}}, **classes),
        Case("balanced classes", fit={"class_weight": "balanced", "sample_weight": True}, **classes),
        Case("clipping", {}, {"clip_norm": 0.5}),
        Case("clipping, sgd", {"weight_decay": 0.1}, {"clip_norm": 0.1, "optimizer": SGD(0.5, momentum=0.9)}),
        Case("validation split", {}, {"validation_split": 0.3, "epochs": 6}),
        Case("validation data", {}, {**validated, "sample_weight": True}),
        Case("early stopping", {}, {**validated, "early_stopping": 1}),
        Case("early stopping by training loss", fit={"early_stopping": nnbp.EarlyStopping(1, min_delta=1.0)}),
        Case("metrics", fit={"metrics": METRICS["classes"], "validation_split": 0.25}, **classes),
        Case("everything", fit=several, **classes),
        Case("batch gradient descent", {}, {"batch_size": None, "optimizer": "sgd"}),
        Case("batch of all samples", {}, {"batch_size": 53}),
        Case("batch of more than all", {}, {"batch_size": 64}),
        Case("batch of one", {}, {"batch_size": 1, "epochs": 2}),
        Case("no remainder", {}, {"batch_size": 13}, samples=52),
        Case("no shuffle", {}, {"shuffle": False, "batch_size": 8}),
        Case("one sample", samples=1),
        Case("partial_fit adam", train=partly("adam")),
        Case("partial_fit nesterov", train=partly(SGD(0.02, momentum=0.8, nesterov=True))),
        Case("partial_fit centered rmsprop", train=partly(RMSprop(centered=True, momentum=0.5)), layers=dropout),
        Case("sizes from data", layers=None, **classes),
        Case("one-hot targets", {"loss": "cross_entropy"}, kind="one-hot"),
        Case("binary", {"loss": "binary_cross_entropy"}, sizes=(7, 12, 1), kind="one label"),
        Case("one output", {"activation": "tanh"}, sizes=(7, 12, 1)),
        Case("no hidden layer", {"weight_decay": 0.05}, sizes=(7, 3)),
        Case("least squares", {"weight_decay": 0.05}, {"optimizer": OPTIMIZERS["lbfgs, long steps"]}, sizes=(7, 3)),
        Case("narrow and deep", {"activation": "elu"}, sizes=(7, *[6] * 9, 3)),
        Case("activation by layer", {"activation": ["tanh", "silu", "relu"]}, sizes=(7, 9, 8, 5, 3)),
        Case("X in Fortran order", given=np.asfortranarray),
        Case("X as lists", given=lambda X: X.tolist()),
        Case("X of whole numbers", given=lambda X: np.round(3 * X).astype(np.int16)),
        Case("X of the other precision", given=lambda X: X.astype("float64" if X.dtype == "float32" else "float32")),
    ]  # fmt: skip


def large_cases() -> Iterator[Case]:
    """Networks whose arrays are large enough for several threads and tiles."""
    for name in HIDDEN:
        yield Case(f"wide {name}", {"activation": name}, {"epochs": 1, "batch_size": 600, "learning_rate": 1e-4},
                   sizes=(64, 200, 150, 8), samples=1500)  # fmt: skip
    for loss, kind in LOSSES.items():
        yield Case(f"tall {loss}", {"loss": loss, "weight_decay": 1e-4}, {"epochs": 2, "batch_size": 4000},
                   sizes=(20, 30, 6), samples=9001, kind=kind)  # fmt: skip
    sums = {"loss": "cross_entropy", "weight_decay": 1e-4}
    epochs = {"epochs": 2, "batch_size": 512}
    for dtype in ("float32", "float64"):
        yield Case(f"256-512-512-10 {dtype}", sums, epochs, (256, 512, 512, 10), "classes", 1100, dtype=dtype)
        yield Case(f"784-128-10 {dtype}", sums, {**epochs, "batch_size": 128}, (784, 128, 10), "classes", 1000,
                   dtype=dtype)  # fmt: skip
    dropout = [128, Dropout(0.2), Dense(300, "tanh"), Dropout(0.5), Dense(300, "tanh"), Dense(4)]
    for name in ("momentum", "rmsprop, all arguments", "adamw", "rprop", "lbfgs, all arguments"):
        yield Case(f"wide dropout {name}", {"weight_decay": 1e-4}, {**epochs, "optimizer": OPTIMIZERS[name]},
                   (128, 4), samples=1300, layers=dropout)  # fmt: skip
    yield Case("wide, clipped and weighted", {}, {**epochs, "clip_norm": 0.1, "sample_weight": True},
               (64, 400, 400, 3), samples=2000)  # fmt: skip
    yield Case("large products", {"activation": "relu"}, {"epochs": 1, "batch_size": None}, (900, 1100, 12),
               samples=2200)  # fmt: skip


def cases() -> list[Case]:
    """All networks; those that are too small for several threads in both dtypes."""
    small = [
        replace(case, name=f"{case.name} {dtype}", dtype=dtype)
        for dtype in ("float32", "float64")
        for case in chain(rule_cases(), use_cases())
    ]
    return [*small, *large_cases()]


def passes(net: nnbp.Network, X: Any, y: Any, weights: Any) -> dict[str, Any]:
    """Forward and backward pass, which leave the network unchanged."""
    gradients, trace = net.gradients(X, y, weights), net.trace(X)
    names = ("loss", "dW", "db", "delta", "dX", "flat")
    return {
        "forward": net.forward(X), "z": trace.z, "a": trace.a, "loss": net.loss(X, y, weights),
        "gradients": {name: getattr(gradients, name) for name in names},
        "per sample": net.per_sample_gradients(X[:5], y[:5]),
    }  # fmt: skip


def results(case: Case, written: Path, recorded: Path) -> Iterator[tuple[str, Any]]:
    """All values that a case produces, by name; its model file is saved as `written`, and `recorded` is loaded."""
    layers = case.sizes if case.layers == () else case.layers
    net = nnbp.Network(layers, device="cpu", dtype=case.dtype, seed=11, **case.options)
    m, n_in, n_out = case.samples, case.sizes[0], case.sizes[-1]
    data = Data(m, n_in, n_out, case.kind, case.dtype)
    X, y = case.given(data.X), data.y
    options = {"epochs": 4, "progress": False, **case.fit}
    weights = data.weights if options.get("sample_weight") else None
    if case.layers is not None and case.ready:
        yield "initial", {"parameters": net.parameters, **passes(net, X, y, weights)}
    if case.train is not None:
        case.train(net, X, y)
    else:
        if weights is not None:
            options["sample_weight"] = weights
        if options.get("validation_data"):
            other = Data(m + 1, n_in, n_out, case.kind, case.dtype)
            options["validation_data"] = (other.X, other.y, other.weights)
        rates: list[float] = []
        history = net.fit(X, y, callbacks=[lambda state: rates.append(state.learning_rate)], **options)
        yield "fit", {"rates": np.array(rates), **{name: np.array(values) for name, values in history.items()}}
    yield "trained", {"W": net.weights, "b": net.biases, "parameters": net.parameters, **passes(net, X, y, weights)}
    yield "predict", net.predict(X)
    if case.kind in ("labels", "one label", "classes"):
        yield "predict_proba", net.predict_proba(X)
    yield "evaluate", net.evaluate(X, y, sample_weight=weights)
    if case.kind in METRICS and m > 1:
        yield "metrics", net.evaluate(X, y, metrics=METRICS[case.kind])
    if net.parameters.size < 500:
        report = nnbp.check_gradients(net, X[:6], y[:6])
        yield "check_gradients", {"passed": report.passed, "error": report.max_relative_error}
    if case.saved:
        net.save(written)
        yield "recorded file", nnbp.Network.load(recorded, device="cpu").forward(X)
        yield "file", safetensors.numpy.load_file(written)
        with safetensors.safe_open(written, "numpy") as file:
            architecture = json.loads(file.metadata()["nnbp"])["architecture"]
        yield "architecture", {key: json.dumps(value, sort_keys=True) for key, value in architecture.items()}


def digests(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """The digest of every array, number and text in a value, by name."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from digests(f"{name}.{key}", item)
    elif isinstance(value, list | tuple):
        for k, item in enumerate(value):
            yield from digests(f"{name}[{k}]", item)
    elif value is not None:
        array = np.asarray(value)
        yield name, digest(f"{array.dtype.str}{array.shape}".encode() + array.tobytes())


def digest(content: bytes) -> str:
    """SHA-256, as text."""
    return hashlib.sha256(content).hexdigest()


def compute(threads: int, written: Path, recorded: Path) -> dict[str, str]:
    """The digests of all cases, computed in this process; an exception ends its case and is noted as an error.

    Args:
        threads: of BLAS in this process; part of the names.
        written: the folder for new model files.
        recorded: the folder of the model files to load.
    """
    warnings.simplefilter("ignore")
    found: dict[str, str] = {}
    for case in cases():
        prefix, file = f"threads={threads}: {case.name}", f"{case.name.replace(' ', '_')}-{threads}.safetensors"
        try:
            for name, value in results(case, written / file, recorded / file):
                found |= digests(f"{prefix}: {name}", value)
        except Exception as error:
            found[f"{prefix}: {ERROR}"] = f"{type(error).__name__}: {error}"
    return found


def environment() -> dict[str, Any]:
    """The versions and the hardware that rounding depends on."""
    blas = [library for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()} {' '.join(platform.libc_ver())}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "numpy": np.__version__,
        "simd": np.show_config(mode="dicts")["SIMD Extensions"]["found"],
        "blas": [[library.get(key) for key in ("internal_api", "version", "architecture")] for library in blas],
    }


def in_processes(written: Path, recorded: Path) -> dict[str, str]:
    """`compute` for each number of threads, in a process of its own: BLAS reads the number once, at its import."""
    found: dict[str, str] = {}
    for threads in THREADS:
        # Without -P, modules of this script's folder would hide Python's own of the same names.
        command = [sys.executable, "-P", __file__, "compute", str(threads), str(written), str(recorded)]
        variables = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
        done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, check=True)
        found |= json.loads(done.stdout)
    return found


def errors(found: Mapping[str, str]) -> int:
    """Prints the errors among the digests; returns how many there are."""
    raised = {name: text for name, text in found.items() if name.endswith(f": {ERROR}")}
    for name, text in raised.items():
        print(f"{name}: {text}")
    return len(raised)


def record(folder: Path) -> int:
    """Writes bits.json and the model files; returns the exit code."""
    models = folder / "models"
    models.mkdir(parents=True, exist_ok=True)
    (folder / "bits.json").unlink(missing_ok=True)
    found = in_processes(models, models)
    if errors(found):
        return 1
    content = {"environment": environment(), "script": digest(Path(__file__).read_bytes()), "digests": found}
    (folder / "bits.json").write_text(json.dumps(content, indent=1))
    print(f"{len(found)} digests of {len(cases())} networks are recorded")
    for name in unlisted():
        print(f"not covered: {name}; add it to {Path(__file__).name}")
    return 0


def compare(folder: Path) -> int:
    """Prints the differences from the record; returns the exit code."""
    content = json.loads((folder / "bits.json").read_text())
    then, now = content["environment"], environment()
    other = [f"{key}: {then.get(key)} then, {now[key]} now" for key in now if now[key] != then.get(key)]
    if other:
        print("The record was made in another environment, which may round differently. Record again here.", *other,
              sep="\n", file=sys.stderr)  # fmt: skip
        return 2
    if content["script"] != digest(Path(__file__).read_bytes()):
        print("Another version of this script made the record: a difference may be one of the list of networks.")
    with tempfile.TemporaryDirectory() as written:
        found = in_processes(Path(written), folder / "models")
    errors(found)
    expected: dict[str, str] = content["digests"]
    different = [name for name in expected if found.get(name) != expected[name]]
    for name in different:
        print(f"{name}: {'differs' if name in found else 'missing'}")
    new = len(found.keys() - expected.keys())
    print(f"{len(expected) - len(different)} digests are equal, {len(different)} differ, {new} are new")
    return int(bool(different))


def unlisted() -> list[str]:
    """Names in nnbp's registries that no case uses."""
    known = {*HIDDEN, "softmax", *LOSSES, *SCHEDULES, "reduce_on_plateau", "dense", "dropout"}
    known |= {HalfSoftsign.name, LogCosh.name, *(rule.name for rule in OPTIMIZERS.values())}
    bases = (nnbp.Activation, nnbp.Loss, nnbp.Optimizer, nnbp.Layer, schedules.Schedule)
    return sorted({name for base in bases for name in getattr(base, "registry", ())} - known)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command of the arguments; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("record", "compare"):
        commands.add_parser(name).add_argument("folder", type=Path)
    child = commands.add_parser("compute", help="used by the other two")
    child.add_argument("threads", type=int)
    child.add_argument("written", type=Path)
    child.add_argument("recorded", type=Path)
    given = parser.parse_args(arguments)
    if given.command == "compute":
        print(json.dumps(compute(given.threads, given.written, given.recorded)))
        return 0
    print(f"nnbp of {Path(nnbp.__file__).parent}")
    return record(given.folder) if given.command == "record" else compare(given.folder)


if __name__ == "__main__":
    sys.exit(main())

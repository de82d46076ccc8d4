"""`nnbp train SOURCE`: trains a network on a table and leaves a run folder; whatever ends it, nothing is lost."""

from __future__ import annotations

import argparse
from typing import Any

from nnbp.cli.common import (
    Exit,
    Terminated,
    UsageError,
    add_options,
    arguments_checked,
    count,
    decay,
    fraction,
    noted_fallback,
    positive,
    say,
    undisturbed,
    whole,
)
from nnbp.cli.defaults import PreparedData, TrainingSettings, choose_settings, describe_layers, hidden_sizes, prepare
from nnbp.cli.output import print_rows, training_rows
from nnbp.cli.report.page import render
from nnbp.cli.run_folder import METRICS, MODEL, REPORT, MetricsFile, RunFolder, environment
from nnbp.device.probe import probe
from nnbp.errors import DivergenceError
from nnbp.formatting import json_text
from nnbp.network import Network
from nnbp.tabular.model import TableModel
from nnbp.tabular.readers import BUILTIN
from nnbp.training.callbacks import Callback, History, TrainingState


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds the command `train` to the command line."""
    parser = subparsers.add_parser(
        "train",
        usage="nnbp train SOURCE [--target COLUMN] [options]",
        help="train a network on a table, and leave a run folder",
        description=(
            "Trains a network on a table: numbers are standardised, texts one-hot encoded, missing cells imputed. Some "
            "rows are held out to tell how good it is. All it leaves is in one new run folder: config.toml, "
            "environment.json, metrics.csv, model.safetensors, report.html. Ctrl-C ends it early and keeps the best "
            "weights so far."
        ),
    )
    add = parser.add_argument
    add("source", metavar="SOURCE", help=f"{', '.join(BUILTIN)}, or a CSV, TSV, Parquet, NPY or NPZ file")
    add("--target", metavar="COLUMN", help="what to predict: a column's name; of NPY its index; of NPZ the key of y")
    add("--task", choices=("classification", "regression"), help="default: follows from the target")
    add = parser.add_argument_group("network").add_argument
    add("--hidden", type=hidden_sizes, metavar="N,N,…", help="units of hidden layers, or none (default: 32 to 512)")
    add("--activation", default="relu", metavar="NAME", help="of the hidden layers (default relu)")
    add("--loss", metavar="NAME", help="default: cross entropy for classes, squared_error for quantities")
    add("--dropout", type=fraction, metavar="RATE", help="after each hidden layer (default 0.2; 0.5 for pixels)")
    add("--input-dropout", type=fraction, metavar="RATE", help="of the features (default 0; 0.2 for pixels)")
    add("--weight-decay", type=decay, metavar="λ", help="λ of J (default: 1 / number of training rows)")
    add("--dtype", choices=("float32", "float64"), default="float32", help="default float32")
    add_options(parser, "--device")
    add = parser.add_argument_group("training").add_argument
    add("--epochs", type=count, metavar="N", help="at most (default: 100 to 1000, about 2500 updates)")
    add("--batch-size", type=count, metavar="M", help="default: 64; more for more than 20 000 rows")
    add("--optimizer", default="adam", metavar="NAME", help="default adam")
    add("--learning-rate", type=positive, metavar="η", help="default: 0.002 for adam, else the optimizer's own")
    add("--schedule", metavar="NAME", help="of the learning rate (default constant)")
    add("--clip-norm", type=positive, metavar="G", help="bound on the norm of the gradient (default none)")
    add(
        "--patience",
        type=whole,
        metavar="N",
        help="epochs without a lower validation loss; 0: no end (default 15 or more)",
    )
    add(
        "--validation-fraction",
        type=fraction,
        default=0.1,
        metavar="F",
        help="of the rows, for validation (default 0.1)",
    )
    add("--test-fraction", type=fraction, default=0.2, metavar="F", help="of the rows, held out (default 0.2)")
    add("--seed", type=whole, default=0, metavar="N", help="of splits, weights, shuffles and masks (default 0)")
    add = parser.add_argument_group("output").add_argument
    add("--out", metavar="FOLDER", help="the run folder, new or empty (default runs/SOURCE-1, -2, …)")
    add("--quiet", action="store_true", help="no progress on standard error")
    add_options(parser, "--json")
    parser.set_defaults(run=run)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Trains, saves, prints the result; 0, 5 if it diverged, 130 and 143 if Ctrl-C and SIGTERM ended it."""
    data = prepare(arguments)
    settings = choose_settings(arguments, data)
    network, fallback = noted_fallback(settings.build)
    try:
        folder = RunFolder.create(arguments.out, arguments.source)
    except FileExistsError as error:
        raise UsageError(str(error)) from error
    facts = environment(network.device, arguments.words, **({"fallback": fallback} if fallback else {}))
    folder.write_config(settings.config)
    folder.write_environment(facts)
    code, status, reason, history = _train(arguments, data, settings, network, folder)
    model = TableModel(network, data.preprocessor, data.target, {"source": data.source.name})
    if history.epochs:
        with undisturbed():
            model.save(folder / MODEL)
    result: dict[str, Any] = {
        "status": status,
        "source": data.source.name,
        "path": arguments.source,
        "target": data.source.target_name,
        "task": data.target.task,
        "labels": list(data.target.labels),
        "rows": data.rows(),
        "columns": len(data.preprocessor.columns),
        "features": len(data.preprocessor.feature_names),
        "network": describe_layers(network),
        "parameters": int(network.parameters.size),
        "dtype": network.dtype.name,
        "device": network.device,
        "device_fallback": fallback,
        "epochs": history.epochs,
        "best_epoch": history.best_epoch,
        "stopped": reason,
        "seconds": history.seconds,
        "metrics": {},
        "run": str(folder.path),
        "model": str(folder / MODEL) if history.epochs else None,
        "report": str(folder / REPORT),
    }
    evaluation = model.evaluate(data.test) if history.epochs and data.test is not None else None
    if evaluation is not None:
        result["metrics"] = evaluation.metrics
        if data.target.labels:
            result["baseline_accuracy"] = model.baseline(evaluation.truth)
    folder.write_report(render(result, history, settings.config, facts, evaluation))
    if code:
        _explain(result)
    if arguments.json:
        print(json_text(result))
    else:
        print_rows(training_rows(result, _device_with_reason(arguments.device, result)))
    return code


class _Keeper(Callback):
    """Holds on to the history: `fit` returns none if it is interrupted."""

    def __init__(self) -> None:
        self.history = History()

    def on_train_begin(self, state: TrainingState) -> None:
        self.history = state.history


def _train(
    arguments: argparse.Namespace, data: PreparedData, settings: TrainingSettings, network: Network, folder: RunFolder
) -> tuple[Exit, str, str | None, History]:
    """Trains; the exit code, the status in one word, the reason to end before the last epoch, and the history."""
    keeper = _Keeper()
    metrics = ["accuracy"] if data.target.labels else ["r2"]
    rows = MetricsFile(folder / METRICS)
    try:
        with arguments_checked():
            network.fit(
                *data.train, **settings.training, validation_data=data.validation, metrics=metrics,
                callbacks=[keeper, rows], progress=False if arguments.quiet else "auto",
            )  # fmt: skip
    except Terminated:
        return Exit.TERMINATED, "terminated", "ended by SIGTERM", keeper.history
    except KeyboardInterrupt:
        return Exit.INTERRUPTED, "interrupted", "ended by Ctrl-C", keeper.history
    except DivergenceError as error:
        return Exit.DIVERGED, "diverged", str(error), keeper.history
    return Exit.DONE, "done", keeper.history.stopped, keeper.history


def _explain(result: dict[str, Any]) -> None:
    """Says on standard error what ended the training, and what is left of it."""
    if result["model"] is None:
        kept = "No epoch had ended, so there is no model"
    elif result["best_epoch"] is None:
        kept = f"The weights of epoch {result['epochs']} are saved"
    else:
        kept = f"The best weights so far, those of epoch {result['best_epoch']} of {result['epochs']}, are saved"
    say("nnbp train", f"{result['stopped'].rstrip('.')}. {kept}; the run folder is {result['run']}.")


def _device_with_reason(asked: str, result: dict[str, Any]) -> str:
    """The device, and the reason if it is the CPU in place of a GPU."""
    if result["device_fallback"]:
        return f"{result['device']}. {result['device_fallback']}"
    if asked == "auto" and result["device"] == "cpu":
        return f"cpu (no GPU works here: {probe(0).message}; nnbp doctor tells more)"
    return str(result["device"])

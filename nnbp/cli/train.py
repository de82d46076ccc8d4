"""`nnbp train SOURCE`: trains a network on a table and leaves a run folder; whatever ends it, nothing is lost."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from nnbp.cli.common import (
    Exit,
    Terminated,
    UsageError,
    arguments_checked,
    count,
    fraction,
    noted_fallback,
    positive,
    say,
    undisturbed,
    whole,
)
from nnbp.cli.defaults import Prepared, Recipe, layers_in_words, prepare, recipe, sizes
from nnbp.cli.output import of_training, print_rows
from nnbp.cli.report.page import RunReport, render
from nnbp.cli.run_folder import METRICS, MODEL, REPORT, MetricsFile, RunFolder, environment
from nnbp.device.probe import probe
from nnbp.errors import DivergenceError
from nnbp.formatting import json_text
from nnbp.network import Network
from nnbp.tabular.model import Evaluation, TableModel
from nnbp.tabular.readers import BUILTIN
from nnbp.training.callbacks import Callback, History, TrainingState

__all__ = ["add_parser", "run"]


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
    network = parser.add_argument_group("network")
    add = network.add_argument
    add(
        "--hidden",
        type=sizes,
        metavar="N,N,…",
        help="units of hidden layers; none for none (default: 32 to 512, as there are features)",
    )
    add("--activation", default="relu", metavar="NAME", help="of the hidden layers (default relu)")
    add("--loss", metavar="NAME", help="default: cross entropy for classes, squared_error for quantities")
    add(
        "--dropout",
        type=fraction,
        metavar="RATE",
        help="after each hidden layer (default 0.2; 0.5 for pixels and the like)",
    )
    add(
        "--input-dropout",
        type=fraction,
        metavar="RATE",
        help="of the features (default 0; 0.2 for pixels and the like)",
    )
    add("--weight-decay", type=_decay, metavar="λ", help="λ of J (default: 1 / number of training rows)")
    add("--dtype", choices=("float32", "float64"), default="float32", help="default float32")
    add(
        "--device",
        default="auto",
        metavar="D",
        help="auto, cpu, cuda or cuda:N (default auto: a GPU that works, else the CPU)",
    )
    training = parser.add_argument_group("training")
    add = training.add_argument
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
        help="epochs without a lower validation loss; 0 trains to the end (default 15 or more)",
    )
    add(
        "--validation-fraction",
        type=fraction,
        default=0.1,
        metavar="F",
        help="of the rows, to choose the best epoch by (default 0.1)",
    )
    add(
        "--test-fraction",
        type=fraction,
        default=0.2,
        metavar="F",
        help="of the rows, held out for the result (default 0.2)",
    )
    add("--seed", type=whole, default=0, metavar="N", help="of the parts, weights, shuffles and masks (default 0)")
    output = parser.add_argument_group("output")
    add = output.add_argument
    add("--out", metavar="FOLDER", help="the run folder, new or empty (default runs/SOURCE-1, -2, …)")
    add("--json", action="store_true", help="print the result as one JSON object")
    add("--quiet", action="store_true", help="no progress on standard error")
    parser.set_defaults(run=run)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Trains, saves, prints the result; 0, 5 where it diverged, 130 and 143 where Ctrl-C and SIGTERM ended it."""
    data = prepare(arguments)
    plan = recipe(arguments, data)
    network, fallback = noted_fallback(plan.build)
    try:
        folder = RunFolder.create(arguments.out, arguments.source)
    except FileExistsError as error:
        raise UsageError(str(error)) from error
    facts = environment(network.device, arguments.words, **({"fallback": fallback} if fallback else {}))
    folder.write_config(plan.config)
    folder.write_environment(facts)
    ending = _train(arguments, data, plan, network, folder)
    model = TableModel(network, data.preprocessor, data.target, {"source": data.source.name})
    saved = ending.keeper.history.epochs > 0
    if saved:
        with undisturbed():
            model.save(folder / MODEL)
    result, evaluation = _result(data, arguments.source, network, folder, ending, fallback), None
    if saved and data.test is not None:
        evaluation = model.evaluate(data.test)
        result["metrics"] = evaluation.metrics
        if data.target.labels:
            result["baseline_accuracy"] = model.baseline(evaluation.truth)
    folder.write_report(render(_report(plan, facts, result, ending, evaluation, data)))
    if ending.code:
        _explain(ending, folder, saved)
    if arguments.json:
        print(json_text(result))
    else:
        print_rows(of_training(result, _device_in_words(arguments.device, result)))
    return ending.code


class _Keeper(Callback):
    """Holds on to the history: `fit` returns none where it is interrupted."""

    def __init__(self) -> None:
        self.history = History()

    def on_train_begin(self, state: TrainingState) -> None:
        self.history = state.history


@dataclass(frozen=True)
class _Ending:
    """How a training ended.

    Attributes:
        code: the exit code.
        status: in a word.
        why: what ended it, where it was not its last epoch.
        keeper: has the history.
    """

    code: Exit
    status: str
    why: str | None
    keeper: _Keeper


def _train(arguments: argparse.Namespace, data: Prepared, plan: Recipe, network: Network, folder: RunFolder) -> _Ending:
    keeper = _Keeper()
    metrics = ["accuracy"] if data.target.labels else ["r2"]
    with MetricsFile(folder / METRICS) as rows:
        try:
            with arguments_checked():
                network.fit(
                    *data.train, **plan.training, validation_data=data.validation, metrics=metrics,
                    callbacks=[keeper, rows], progress=False if arguments.quiet else "auto",
                )  # fmt: skip
        except KeyboardInterrupt as error:
            if isinstance(error, Terminated):
                return _Ending(Exit.TERMINATED, "terminated", "ended by SIGTERM", keeper)
            return _Ending(Exit.INTERRUPTED, "interrupted", "ended by Ctrl-C", keeper)
        except DivergenceError as error:
            return _Ending(Exit.DIVERGED, "diverged", str(error), keeper)
    return _Ending(Exit.DONE, "done", keeper.history.stopped, keeper)


def _result(
    data: Prepared, path: str, network: Network, folder: RunFolder, ending: _Ending, fallback: str | None
) -> dict[str, Any]:
    """All that is told of a run, in plain types."""
    history = ending.keeper.history
    return {
        "status": ending.status,
        "source": data.source.name,
        "path": path,
        "target": data.source.target_name,
        "task": data.target.task,
        "labels": list(data.target.labels),
        "rows": data.rows(),
        "columns": len(data.preprocessor.columns),
        "features": len(data.preprocessor.feature_names),
        "network": layers_in_words(network),
        "parameters": int(network.parameters.size),
        "dtype": network.dtype.name,
        "device": network.device,
        "device_fallback": fallback,
        "epochs": history.epochs,
        "best_epoch": history.best_epoch,
        "stopped": ending.why,
        "seconds": history.seconds,
        "metrics": {},
        "run": str(folder.path),
        "model": str(folder / MODEL) if history.epochs else None,
        "report": str(folder / REPORT),
    }


def _report(
    plan: Recipe,
    facts: dict[str, Any],
    result: dict[str, Any],
    ending: _Ending,
    evaluation: Evaluation | None,
    data: Prepared,
) -> RunReport:
    return RunReport(
        result=result,
        history=dict(ending.keeper.history),
        config=plan.config,
        environment=facts,
        labels=[str(label) for label in data.target.labels],
        truth=None if evaluation is None else evaluation.truth,
        predicted=None if evaluation is None else evaluation.predicted,
    )


def _explain(ending: _Ending, folder: RunFolder, saved: bool) -> None:
    """Says on standard error what ended the training, and what is left of it."""
    epochs, best = ending.keeper.history.epochs, ending.keeper.history.best_epoch
    if not saved:
        kept = "No epoch had ended, so there is no model"
    elif best is None:
        kept = f"The weights of epoch {epochs} are saved"
    else:
        kept = f"The best weights so far, those of epoch {best} of {epochs}, are saved"
    why = ending.why if ending.code == Exit.DIVERGED else f"{ending.why}."
    say("nnbp train", f"{why} {kept}; the run folder is {folder.path}")


def _device_in_words(asked: str, result: dict[str, Any]) -> str:
    """The device, and why it is the CPU where a GPU would have been taken."""
    if result["device_fallback"]:
        return f"{result['device']}. {result['device_fallback']}"
    if asked == "auto" and result["device"] == "cpu":
        return f"cpu (no GPU works here: {probe(0).message}; nnbp doctor tells more)"
    return str(result["device"])


def _decay(text: str) -> float:
    """The argument of a number of at least 0."""
    return 0.0 if text.strip() in ("0", "0.0") else positive(text)

"""`nnbp train SOURCE`: trains a network on a table and leaves a run folder; whatever ends it, nothing is lost."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from nnbp.cli import run_folder
from nnbp.cli.common import (
    AskedToEnd,
    Exit,
    UsageError,
    arguments_checked,
    exit_code,
    noted,
    say,
    terminable,
    uninterrupted,
)
from nnbp.cli.options import add_shared, count, decay, fraction, hidden_sizes, interval, name_of, positive, whole
from nnbp.cli.output import describe_layers, note, training_rows, two_columns
from nnbp.cli.report.insight import inspect
from nnbp.cli.report.page import render
from nnbp.cli.run_folder import MetricsFile
from nnbp.engine.ranks import Ranks, launched
from nnbp.errors import ConvergenceWarning, DeviceFallbackWarning, DivergenceError, NnbpError
from nnbp.formatting import counted, json_text
from nnbp.network import Network
from nnbp.nn.activations import Activation
from nnbp.nn.losses import Loss
from nnbp.optim.optimizers import Optimizer
from nnbp.optim.schedules import Schedule
from nnbp.tabular.defaults import Options, PreparedData, build_network, choose_settings, prepare, train
from nnbp.tabular.model import TableModel
from nnbp.tabular.readers import BUILTIN, LARGE_TABLE, PARQUET, RowGroups, is_parquet, load_source
from nnbp.tabular.streaming import prepare_streamed
from nnbp.tabular.table import Reading
from nnbp.training.callbacks import History
from nnbp.training.checkpoint import Checkpoint

HELP = "train a network on a table"
DESCRIPTION = (
    "Trains a network on a table: numbers are standardised, texts one-hot encoded, missing cells imputed. Some rows "
    "are held out to tell how good it is. All it leaves is in one new run folder: config.toml, environment.json, "
    "metrics.csv, model.safetensors, report.html. Ctrl-C ends it early and keeps the best weights so far. --resume "
    "continues from there; after a kill, it repeats at most the time between two checkpoints and one epoch."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `nnbp train`."""
    parser.usage = "nnbp train SOURCE [--target COLUMN] [options]\n       nnbp train --resume RUN"
    add = parser.add_argument
    add("source", nargs="?", metavar="SOURCE", help=f"{', '.join(BUILTIN)}, or a CSV, TSV, Parquet, NPY or NPZ file")
    add("--target", metavar="COLUMN", help="what to predict: a column's name; of NPY its index; of NPZ the key of y")
    add("--task", choices=("classification", "regression"), help="default: follows from the target")
    add = parser.add_argument_group("table").add_argument
    add("--missing", action="append", metavar="MARK", help="a mark of a missing value, besides NA, null, ? and others")
    add("--decimal", choices=(".", ","), default=".", help="the decimal mark (default .)")
    add("--text", action="append", metavar="COLUMN", help="take this column as text, whatever its cells say")
    add("--drop", action="append", metavar="COLUMN", help="leave this column out")
    stream = "read a Parquet file block by block in every epoch (default: if its table takes more than 512 MiB)"
    add("--stream", action=argparse.BooleanOptionalAction, help=stream)
    add = parser.add_argument_group("network").add_argument
    add("--hidden", type=hidden_sizes, metavar="N,N,…", help="units of hidden layers, or none (default: 32 to 512)")
    add(
        "--activation", type=name_of(Activation), default="relu", metavar="NAME", help="of hidden layers (default relu)"
    )
    add("--loss", type=name_of(Loss), metavar="NAME", help="default: cross entropy for classes, else squared_error")
    add("--dropout", type=fraction, metavar="RATE", help="after each hidden layer (default 0.2; 0.5 for pixels)")
    add("--input-dropout", type=fraction, metavar="RATE", help="of the features (default 0; 0.2 for pixels)")
    add("--weight-decay", type=decay, metavar="λ", help="λ of J (default: 1 / number of training rows)")
    add("--dtype", choices=("float32", "float64"), default="float32", help="default float32")
    add_shared(parser, "--device")
    add = parser.add_argument_group("training").add_argument
    add("--epochs", type=count, metavar="N", help="at most (default: 100 to 1000, about 2500 updates)")
    add("--batch-size", type=count, metavar="M", help="default: 64; more for more than 20 000 rows")
    add("--optimizer", type=name_of(Optimizer), default="adam", metavar="NAME", help="default adam")
    add("--learning-rate", type=positive, metavar="η", help="default: 0.002 for adam, else the optimizer's own")
    add("--schedule", type=name_of(Schedule), metavar="NAME", help="of the learning rate (default constant)")
    add("--clip-norm", type=positive, metavar="G", help="bound on the norm of the gradient (default none)")
    patience = "epochs without a lower validation loss; 0: no end (default 15 or more)"
    add("--patience", type=whole, metavar="N", help=patience)
    validation = "of the rows, for validation (default 0.1)"
    add("--validation-fraction", type=fraction, default=0.1, metavar="F", help=validation)
    add("--test-fraction", type=fraction, default=0.2, metavar="F", help="of the rows, held out (default 0.2)")
    add("--seed", type=whole, default=0, metavar="N", help="of splits, weights, shuffles and masks (default 0)")
    add = parser.add_argument_group("output").add_argument
    add("--out", metavar="FOLDER", help="the run folder, new or empty (default runs/SOURCE-1, -2, …)")
    every = "how often to write what --resume needs: a number of epochs, or seconds (default 30s)"
    add("--checkpoint-every", type=interval, default="30s", metavar="N", help=every)
    add("--resume", metavar="RUN", help="resume an interrupted run, given its run folder")
    add("--quiet", action="store_true", help="no progress on standard error")
    add_shared(parser, "--json")


def run(arguments: argparse.Namespace) -> int:
    """Trains, saves, prints the result; 0, 5 if it diverged, 129, 130 or 143 if a signal ended it."""
    ranks = launched()
    try:
        return _run(arguments, ranks)
    except BaseException as error:
        if ranks.is_reported(error):
            return Exit.DONE  # by another rank
        ranks.abandon(error)
        raise


def _run(arguments: argparse.Namespace, ranks: Ranks) -> int:
    """Trains on this rank; rank 0 has the run folder and prints the result."""
    resumed, leads = arguments.resume is not None, ranks.rank == 0
    with ExitStack() as stack:
        with ranks.together():
            if resumed:
                again = arguments
                arguments = ranks.from_root(lambda: _repeated(again))
            elif arguments.source is None:
                raise UsageError(f"there is nothing to train on. Name a SOURCE: {', '.join(BUILTIN)}, or a file.")
            if leads and not resumed:
                run_folder.check(arguments.out)
            reading = Reading(
                tuple(arguments.missing or ()), arguments.decimal, tuple(arguments.text or ()),
                tuple(arguments.drop or ()),
            )  # fmt: skip
            options = Options(**{item.name: getattr(arguments, item.name) for item in fields(Options)})
            with arguments_checked():
                data = _prepared(arguments, options, reading, ranks)
                if leads:
                    note("nnbp train", data.preprocessor.notes(data.source))
                settings = choose_settings(options, data)
                settings["data"] = {"source": str(arguments.source), **settings["data"]}
                network, fallback = noted(DeviceFallbackWarning, lambda: build_network(data, **settings["network"]))
            source, out = arguments.source, arguments.out
            made = run_folder.reopen(out) if resumed else run_folder.create(out, source, settings)
            folder = ranks.from_root(lambda: stack.enter_context(made))
            facts = run_folder.environment(
                network.device, arguments.words, **({"fallback": fallback} if fallback else {})
            )
            if leads and not resumed:
                run_folder.write(folder / run_folder.ENVIRONMENT, json_text(facts) + "\n")
            callbacks = [MetricsFile(folder / run_folder.METRICS)] if leads else []
            # The batches of all ranks together have the size of the settings.
            training = {**settings["training"], "batch_size": -(-settings["training"]["batch_size"] // ranks.size)}
            room = ExitStack()
            if leads:
                # Whatever fills the disk meanwhile, there is room for the model and for the small files beside it.
                room.enter_context(run_folder.reserved(folder, network.parameters.nbytes + 2**20))
        with uninterrupted():
            with room:
                end = _train(
                    network, data, callbacks, ranks, progress=False if arguments.quiet else "auto", **training,
                    checkpoint=Checkpoint(folder / run_folder.CHECKPOINTS, arguments.checkpoint_every), resume=resumed,
                )  # fmt: skip
            if not leads:
                return end.code
            return _finish(arguments, data, network, folder, settings, facts, callbacks[0], end)


def _prepared(arguments: argparse.Namespace, options: Options, reading: Reading, ranks: Ranks) -> PreparedData:
    """The table, split and encoded: in memory, or block by block if it is a large Parquet file or if ranks share it."""
    path = Path(arguments.source)
    if is_parquet(path):
        table = RowGroups.of(path, arguments.target, reading)
        if arguments.stream or not ranks.alone or (arguments.stream is None and table.nbytes > LARGE_TABLE):
            tell = None if arguments.quiet or ranks.rank else partial(say, "nnbp train")
            if tell is not None:
                size = f"{len(table)} rows in {counted(len(table.groups), 'row group')}, {table.nbytes / 1e9:.2g} GB"
                how = "; to read it whole: --no-stream" if ranks.alone else f", by {ranks.size} ranks together"
                tell(f"{path.name} ({size}) is read block by block in every epoch{how}.")
            return prepare_streamed(table, options, reading, tell, ranks)
    elif arguments.stream and path.suffix.lower() not in PARQUET:
        raise UsageError(f"only Parquet files are read block by block; received {path}, and --stream. Convert it.")
    elif not ranks.alone:
        raise UsageError(
            f"several processes read a Parquet file, each its own row groups; received {path}. Convert it, or start "
            "one process."
        )
    return prepare(load_source(arguments.source, target=arguments.target, reading=reading), options, reading)


def _repeated(arguments: argparse.Namespace) -> argparse.Namespace:
    """The arguments of the run that is to be resumed, with the output that is asked for now."""

    folder, own = arguments.resume, ("json", "quiet")
    plain = _parsed(["--resume", folder])
    others = [name for name, value in vars(plain).items() if name not in own and getattr(arguments, name) != value]
    if others:
        raise UsageError(
            f"--resume takes the options of its run; received others: {', '.join(others)}. Leave them out."
        )
    again = begun(folder)
    again.out, again.debug = folder, arguments.debug
    for name in own:
        setattr(again, name, getattr(arguments, name))
    return again


def begun(folder: str) -> argparse.Namespace:
    """The arguments that a run began with, from its folder; the path of the source leads there from here.

    Raises:
        UsageError: this is no run folder.
    """
    words, begun_in = run_folder.command(folder)
    arguments = _parsed(words[2:])
    if arguments.source not in BUILTIN:
        arguments.source = os.path.join(begun_in, arguments.source)
    arguments.words = words[1:]
    return arguments


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    return parser.parse_args([word for word in words if word != "--debug"])


def _finish(
    arguments: argparse.Namespace, data: PreparedData, network: Network, folder: Path, settings: dict[str, Any],
    facts: dict[str, Any], rows: MetricsFile, end: _End,
) -> int:  # fmt: skip
    """Saves the model before anything else can fail, writes the report last, and prints the result."""
    model = TableModel(network, data.preprocessor, data.target, {"source": data.source.name})
    if end.history.epochs:
        model.save(folder / run_folder.MODEL)
    try:
        rows.complete()
        result = _reported(arguments, data, model, folder, settings, facts, end)
        if end.code in (Exit.DONE, Exit.DIVERGED):
            run_folder.forget_checkpoints(folder)
        text = json_text(result) if arguments.json else two_columns(training_rows(result, arguments.device))
        print(text, flush=True)
    except BaseException as error:
        if end.history.epochs:
            error.add_note(f"The model is saved: {folder / run_folder.MODEL}.")
        raise
    return end.code


def _reported(
    arguments: argparse.Namespace, data: PreparedData, model: TableModel, folder: Path, settings: dict[str, Any],
    facts: dict[str, Any], end: _End,
) -> dict[str, Any]:  # fmt: skip
    """What `nnbp train --json` prints; the report is written."""
    network, history = model.network, end.history
    result: dict[str, Any] = {
        "status": end.code.name.lower(),  # done, diverged, interrupted, terminated or hung_up
        "source": data.source.name,
        "path": arguments.source,
        "target": data.source.target_name,
        "task": data.target.task,
        "labels": data.target.labels,
        "rows": data.rows(),
        "columns": len(data.preprocessor.columns),
        "features": data.preprocessor.n_features,
        "network": describe_layers(network),
        "parameters": int(network.parameters.size),
        "dtype": network.dtype.name,
        "device": network.device,
        "device_fallback": facts.get("fallback"),
        "epochs": history.epochs,
        "best_epoch": history.best_epoch,
        "stopped": end.reason or history.stopped,
        "warning": end.warning,
        "seconds": history.seconds,
        "metrics": {},
        "run": str(folder),
        "model": str(folder / run_folder.MODEL) if history.epochs else None,
        "report": str(folder / run_folder.REPORT),
    }
    evaluation = model.compare(data.test) if history.epochs and data.test is not None else None
    if evaluation is not None:
        result["metrics"] = evaluation.metrics
        if data.target.labels:
            result["baseline_accuracy"] = model.baseline(evaluation.truth)
    insight = None
    if history.epochs:
        insight = inspect(model, data.source if data.test is None else data.test, held_out=data.test is not None)
    page = render(result, history, settings, facts, evaluation, insight)
    run_folder.write(folder / run_folder.REPORT, page)
    if end.warning:
        say("nnbp train", f"warning: {end.warning}")
    if end.code:
        _explain(result)
    return result


class _End(NamedTuple):
    """How training ended: the reason if something interrupted it, and what there is to doubt in its result."""

    history: History
    code: Exit = Exit.DONE
    reason: str | None = None
    warning: str | None = None


def _train(
    network: Network, data: PreparedData, callbacks: list[MetricsFile], ranks: Ranks, **settings: Any
) -> _End:  # fmt: skip
    """Trains, until the end or until a signal; several ranks end after the epoch in which it came."""
    asked = AskedToEnd()
    listening, attendants = (terminable(), callbacks) if ranks.alone else (asked.listening(), [*callbacks, asked])
    run_all = partial(train, network, data, callbacks=attendants, comm=ranks.comm, **settings)
    try:
        with listening, arguments_checked():
            history, warning = noted(ConvergenceWarning, run_all)
    except (KeyboardInterrupt, DivergenceError) as error:
        ending: BaseException = error
    except NnbpError as error:
        heard = next(filter(None, ranks.allgather(asked.error)), None) if ranks.is_agreed(error) else None
        if heard is None:
            raise
        ending = heard
    else:
        return _End(history, warning=warning)
    known = network.history
    return _End(History() if known is None else known, exit_code(ending), str(ending) or "ended by Ctrl-C")


def _explain(result: dict[str, Any]) -> None:
    """Says on standard error what ended the training, and what is left of it."""
    if result["model"] is None:
        kept = "No epoch had ended, so there is no model"
    elif result["status"] == "diverged":
        kept = "The parameters that it kept are saved"
    elif result["best_epoch"] is None:
        kept = f"The weights of epoch {result['epochs']} are saved"
    else:
        kept = f"The best weights so far, those of epoch {result['best_epoch']} of {result['epochs']}, are saved"
    text = f"{result['stopped'].rstrip('.')}. {kept}; the run folder is {result['run']}."
    if result["status"] != "diverged":
        text += f" To resume: nnbp train --resume {shlex.quote(result['run'])}"
    say("nnbp train", text)

"""The explorer as one self-contained page: an explanation, the program of its pass, and the scripts that show them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from os import PathLike
from string import Template
from typing import Any

import numpy as np

from nnbp.explorer.explanation import Explanation, explained, slope, stated
from nnbp.explorer.program import encoded, formula_json, program_of
from nnbp.graph.ops import address
from nnbp.network import Network
from nnbp.nn.health import SATURATED, largest_slope
from nnbp.nn.layers import Dropout
from nnbp.serialization.safetensors_file import explained as explained_errors
from nnbp.serialization.safetensors_file import replace
from nnbp.tabular.model import TableModel
from nnbp.validation import file_path, number, one_of

LANGUAGES = ("en", "zh")

SCRIPTS = ("pass.js", "network.js", "steps.js", "words.js", "cards.js", "diagram.js", "page.js")
"""The parts of the page's script, in the order in which they must stand."""


def explain(
    net: Network | TableModel,
    X: Any,
    y: Any = None,
    path: str | PathLike[str] = "explorer.html",
    *,
    names: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    rows: int = 20,
    learning_rate: float = 0.1,
    language: str = "en",
) -> str:
    """Writes the explorer: one page that shows how a network computes its outputs and gradients for some samples.

    The page shows z = Σ w a + b and a = f(z) of every unit, the cost, delta of every unit, ∂C/∂w = delta · a of every
    weight beside a central difference, the mean over the samples, and a step of gradient descent, θ − η ∇J. Its numbers
    are those of `Network.trace` and `Network.gradients` for a copy of the network in float64. After a change of an
    input, a target or a parameter, the page computes the same pass itself. Units are numbered from 1 through all
    layers, as in the notes (docs/notes.md, 2.2). The page is one file and works offline.

    Args:
        net: a network whose sizes are known, with at most 300,000 parameters; or a table model.
        X: (m, n_in); for a table model, a data frame with the target.
        y: targets, as for `Network.fit`; None for a table model.
        path: the file to write; an existing file is replaced.
        names, labels: the names of the input units and of the output units; a table model has its own.
        rows: the most samples to show; if there are more, they are evenly spread over all.
        learning_rate: η of the update on the page.
        language: the language in which the page opens, "en" or "zh".

    Returns:
        the path.

    Raises:
        DataError, ShapeError, DTypeError: X or y does not fit the network.
        NnbpError: the network is too large, or a layer uses an operation that a page cannot run.
        ModelFileError: the file cannot be written.

    >>> import nnbp, tempfile
    >>> net = nnbp.Network([3, 4, 2], activation="sigmoid", device="cpu", seed=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = nnbp.explain(net, [[0.1, 0.2, 0.3]], [[0.0, 1.0]], f"{folder}/explorer.html")
    """
    where = file_path(path)
    explanation = explained(net, X, y, names=names, labels=labels, rows=rows)
    text = render(explanation, learning_rate=learning_rate, language=language)
    with explained_errors(f"Cannot write {where}", "Nothing was written: correct this and try again."):
        replace(where, text.encode("utf-8"))
    return where


def render(explanation: Explanation, *, learning_rate: float = 0.1, language: str = "en") -> str:
    """The page of an explanation as HTML; see `explain`."""
    eta = number("learning_rate, η,", learning_rate, "(0, inf)")
    one_of("language", language, *LANGUAGES)
    static = files("nnbp.explorer").joinpath("static")

    def read(name: str) -> str:
        return static.joinpath(name).read_text(encoding="utf-8")

    data = {**page_data(explanation), "eta": eta, "language": language}
    return Template(read("explorer.html")).substitute(
        language=language,
        title=" – ".join(map(str, explanation.sizes)),
        style=read("explorer.css").strip(),
        texts=_script_json(json.loads(read("texts.json"))),
        data=_script_json(data),
        script="\n".join(map(read, SCRIPTS)),
    )


def page_data(explanation: Explanation) -> dict[str, Any]:
    """The data of the page as JSON values; arrays are base64-encoded float64."""
    network, found = explanation.network, explanation.gradients
    model, loss = network.model, network.loss_function
    return {
        "sizes": explanation.sizes,
        "rows": explanation.rows.tolist(),
        "samples": explanation.samples,
        "layers": _layers(explanation),
        "columns": [vars(column) for column in explanation.columns],
        "input_names": explanation.input_names,
        "output_names": explanation.output_names,
        "target": {
            "name": explanation.target.name,
            "labels": explanation.target.categories,
            "mean": explanation.target.mean,
            "scale": explanation.target.scale,
        },
        "loss": {
            "name": loss.name,
            "formula": stated(loss),
            "canonical": loss.is_canonical(explanation.activations[-1]),
        },
        "decay": network.weight_decay,
        "decayed": model.parameters.decayed,
        "X": encoded(explanation.X),
        "y": encoded(explanation.y),
        "theta": encoded(network.parameters),
        "trace": [
            {"z": encoded(z), "a": encoded(a), "delta": encoded(delta)}
            for z, a, delta in zip(explanation.trace.z[1:], explanation.trace.a[1:], found.delta, strict=True)
        ],
        "cost": encoded(explanation.cost),
        "dX": encoded(found.dX),
        "J": found.loss,
        "gradient": encoded(found.flat),
        "program": program_of(model),
    }


def _layers(explanation: Explanation) -> list[dict[str, Any]]:
    """The layers that have an activation; `parameters` gives each array's offset in theta and its number of columns."""
    model = explanation.network.model
    theta = model.parameters.theta
    views = model.parameters.views(theta)
    listed = []
    for k, layer, f in zip(model.activated, explanation.layers, explanation.activations, strict=True):
        formula = slope(f)
        learnt = [spec.name for spec in layer.parameters(model.sizes[k]) if spec.learnt]
        places = {
            name: [(address(views[k][name]) - address(theta)) // theta.itemsize, views[k][name].shape[-1]]
            for name in learnt
        }
        listed.append({
            "kind": layer.kind,
            "layer_formula": stated(layer),
            "activation": f.name,
            "formula": stated(f),
            "slope": None if formula is None else formula_json(formula),
            "least_slope": 0.0 if formula is None else SATURATED * largest_slope(f),
            "parameters": places,
            "dropout": k > 0 and isinstance(model.layers[k - 1], Dropout),
        })  # fmt: skip
    return listed


def _script_json(value: Any) -> str:
    """JSON that may stand in a script element: no text in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=np.ndarray.tolist)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")

"""The page is one file that needs nothing else, says nothing but the truth, and speaks two languages."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from program_reader import decoded

import nnbp
from nnbp.explorer.explanation import explained
from nnbp.explorer.page import LANGUAGES, SCRIPTS, explain, page_data, render
from nnbp.testing import example_problem

STATIC = files("nnbp.explorer").joinpath("static")
TEXTS: dict[str, dict[str, str]] = json.loads(STATIC.joinpath("texts.json").read_text(encoding="utf-8"))
SCRIPT = "".join(STATIC.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS)


def embedded(page: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_explain_writes_one_file_with_the_numbers(tmp_path: Path) -> None:
    net, X, y = example_problem([3, 4, 2], activation="sigmoid", weight_decay=0.1, dtype="float64", device="cpu")
    path = explain(net, X, y, tmp_path / "page.html")
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
    data = embedded(Path(path).read_text(encoding="utf-8"), "data")
    gradients, trace = net.gradients(X, y), net.trace(X)
    np.testing.assert_array_equal(decoded(data["theta"]), net.parameters)
    np.testing.assert_array_equal(decoded(data["gradient"]), gradients.flat)
    np.testing.assert_array_equal(decoded(data["X"]), X.ravel())
    for l, layer in enumerate(data["trace"]):
        np.testing.assert_array_equal(decoded(layer["a"]), trace.a[l + 1].ravel())
        np.testing.assert_array_equal(decoded(layer["delta"]), gradients.delta[l].ravel())
    assert data["J"] == gradients.loss


def test_parameters_are_found_in_theta() -> None:
    layers = [nnbp.Dense(3, "identity"), nnbp.BatchNorm("relu"), nnbp.Dense(2)]
    net = nnbp.Network([4, *layers], device="cpu", dtype="float64", seed=0)
    data = page_data(explained(net, np.ones((2, 4)), np.zeros((2, 2))))
    theta = decoded(data["theta"])
    first, norm, last = (layer["parameters"] for layer in data["layers"])
    assert set(norm) == {"gamma", "beta"}
    for places, W, b in ((first, *(v[0] for v in (net.weights, net.biases))), (last, net.weights[1], net.biases[1])):
        at, columns = places["W"]
        np.testing.assert_array_equal(theta[at : at + W.size].reshape(-1, columns), W)
        np.testing.assert_array_equal(theta[places["b"][0] :][: b.size], b)
    np.testing.assert_array_equal(theta[norm["gamma"][0] :][:3], np.ones(3))
    assert data["decayed"] == sum(W.size for W in net.weights)


def test_the_page_asks_for_nothing_from_elsewhere() -> None:
    page = render(explained(*example_problem([3, 4, 2], device="cpu")))
    assert "default-src 'none'" in page
    assert not re.search(r"""\b(src|href)=|url\(|@import|fetch\(|https?:|//cdn""", page)


def test_names_cannot_break_out_of_the_page() -> None:
    net, X, y = example_problem([2, 3, 2], loss="cross_entropy", device="cpu")
    evil = '</script><script>alert("x")</script>'
    page = render(explained(net, X, y, names=[evil, "a&b"], labels=["<b>", "\u2028"]))
    assert page.count("<script") == 3
    assert embedded(page, "data")["input_names"] == [evil, "a&b"]
    assert evil not in page


@pytest.mark.parametrize(("sizes", "limit"), [([3, 4, 2], 300_000), ([64, 64, 10], 2_000_000)])
def test_pages_are_small(sizes: list[int], limit: int) -> None:
    page = render(explained(*example_problem(sizes, activation="tanh", loss="cross_entropy", samples=20, device="cpu")))
    assert len(page.encode("utf-8")) < limit


def test_both_languages_have_the_same_texts() -> None:
    assert set(TEXTS) == set(LANGUAGES)
    for key, text in TEXTS["en"].items():
        other = TEXTS["zh"][key]
        assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", other)), key
    assert set(TEXTS["en"]) == set(TEXTS["zh"])
    same = {key for key, text in TEXTS["en"].items() if text == TEXTS["zh"][key]}
    assert same == {"error"}


def test_every_text_is_used_and_every_used_text_is_there() -> None:
    python = Path(nnbp.__file__).parent.joinpath("explorer", "text.py").read_text(encoding="utf-8")
    used = {"language", *re.findall(r"""["'`](\w+)["'`]""", SCRIPT + python)}
    families = ("phase_", "_unit", "_why")
    unused = {key for key in TEXTS["en"] if key not in used and not any(part in key for part in families)}
    assert not unused
    assert set(re.findall(r'\bt\("(\w+)"', SCRIPT)) <= set(TEXTS["en"])
    assert set(re.findall(r'\bsay\("(\w+)"', python.replace("'", '"'))) <= set(TEXTS["en"])


def test_arguments_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    net, X, y = example_problem([3, 4, 2], device="cpu")
    for wrong in ({"language": "fr"}, {"learning_rate": 0.0}, {"learning_rate": "fast"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            explain(net, X, y, tmp_path / "page.html", **wrong)  # type: ignore[arg-type]
    with pytest.raises(nnbp.ModelFileError, match="Cannot write"):
        explain(net, X, y, tmp_path / "missing" / "page.html")
    assert not list(tmp_path.iterdir())

"""What a notebook shows: networks, histories and reports as HTML, and a progress bar."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

import nnbp
from nnbp import check_gradients, compare_devices, html
from nnbp.testing import compare, example_problem


class Elements(HTMLParser):
    """The elements of a page, which must close in order, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        self.tags.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def test_a_network_is_a_diagram_and_its_summary() -> None:
    net = nnbp.Network([3, 20, nnbp.Dropout(0.1), nnbp.Dense(2)], loss="cross_entropy", device="cpu", seed=0)
    found = Elements(net._repr_html_())
    assert found.tags.count("circle") == 3 + 8 + 2  # of 20 units eight are drawn, and three dots
    assert found.tags.count("line") == 3 * 9 + 9 * 2
    assert found.tags.count("tr") == 5
    for cell in [cell for line in net.summary().splitlines() for cell in re.split(r"  +", line.strip())]:
        assert cell in found.text
    assert "<script" not in (net._repr_html_())


def test_a_network_without_sizes_is_a_table() -> None:
    found = Elements(nnbp.Network(device="cpu")._repr_html_())
    words = "layer units activation input from X dense 100 relu dense from y identity Network(sizes from the data"
    assert words in " ".join(found.text.split())
    layers = [nnbp.Standardize(), nnbp.Dense(32, "tanh"), nnbp.Dropout(0.1), nnbp.Dense(2)]
    found = Elements(nnbp.Network(layers, loss="cross_entropy", device="cpu")._repr_html_())
    words = "input from X standardize dense 32 tanh dropout dense 2 softmax"
    assert words in " ".join(found.text.split())


def test_a_diagram_of_many_layers_leaves_some_out() -> None:
    picture = html.diagram([4] * 20, ["relu"] * 20)
    found = Elements(picture)
    assert found.tags.count("circle") == 7 * 4
    assert found.tags.count("line") == 5 * 16  # none to or from the layers that are left out
    assert "⋯ 13 layers" in found.text
    assert Elements(html.diagram([4] * 8, ["relu"] * 8)).tags.count("circle") == 8 * 4


def test_names_are_text() -> None:
    class Odd(nnbp.Activation):
        name = "<b>&"

        def f(self, z: Any) -> Any:
            return z

    page = nnbp.Network([2, nnbp.Dense(3, Odd()), 1], device="cpu", seed=0)._repr_html_()
    assert "<b>" not in page
    assert page.count("&lt;b&gt;&amp;") == 2


def test_a_history_is_its_curve() -> None:
    pytest.importorskip("matplotlib")
    net, X, y = example_problem([3, 4, 1], device="cpu")
    history = net.fit(X, y, epochs=3, progress=False)
    page = history._repr_html_()
    assert page is not None
    found = Elements(page)
    assert found.tags[0] == "svg"
    assert "History(3 epochs" in found.text
    assert nnbp.History()._repr_html_() is None


def test_a_history_without_matplotlib_is_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    net, X, y = example_problem([3, 4, 1], device="cpu")
    history = net.fit(X, y, epochs=3, progress=False)
    found = Elements(history._repr_html_() or "")
    assert found.tags.count("tr") == 2
    assert f"loss {history['loss'][0]:.6g} {history['loss'][-1]:.6g}" in found.text


def test_reports_have_a_bar_for_each_row_and_the_lines_of_their_text() -> None:
    net, X, y = example_problem([3, 4, 2], activation="relu", device="cpu")
    reports: list[Any] = [
        check_gradients(net, X, y),
        compare_devices(net, X, y, devices=("cpu", "cpu")),
        compare_devices(net, X, y, devices=("cpu", "cpu"), isolate=True),
        compare(np.exp, lambda x: np.exp(x) * 1.001, np.ones(3)),
    ]
    for report in reports:
        page = report._repr_html_()
        found = Elements(page)
        assert found.tags.count("tr") == 1 + len(report.rows)
        assert len(re.findall(r"width: \d+px; height", page)) == len(report.rows)
        for line in str(report).splitlines()[2:]:
            assert re.split(r"  +", line.strip())[0] in found.text
    assert "#e07b28" in reports[-1]._repr_html_(), "a failure has another colour"
    assert "#e07b28" not in reports[0]._repr_html_()


def test_bars_are_logarithmic_and_end_at_the_bound() -> None:
    assert [html.length(ratio) for ratio in (0.0, 1e-9, 1e-3, 1.0, 50.0, np.inf, np.nan)] == [0, 0, 0.5, 1, 1, 1, 1]


@pytest.mark.slow
def test_a_real_notebook() -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    # Not imported here: progress bars take a process that has imported it for a notebook.
    if find_spec("ipykernel") is None:
        pytest.skip("ipykernel is not installed")
    cells = [
        "import nnbp, numpy as np\nX = np.eye(4); net = nnbp.Network([4, 8, 1], device='cpu', seed=0)\n"
        "history = net.fit(X, X[:, 0], epochs=200, learning_rate=0.05)",
        "net",
        "history",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    training, network, history = (cell.outputs for cell in notebook.cells)
    text = "".join(output.get("text", "") or output["data"]["text/plain"] for output in training)
    assert "training" in text
    assert "200" in text
    assert "Warning" not in text
    assert "<svg" in network[0]["data"]["text/html"]
    assert "<svg" in history[0]["data"]["text/html"]

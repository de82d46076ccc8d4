"""report.html: complete, well-formed, without a network, and safe whatever the labels are."""

import html
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from nnbp.cli.report.curves import scatter
from nnbp.cli.report.insight import Importance, Insight, LayerFacts, Permutations, WorstRow
from nnbp.cli.report.page import render
from nnbp.formatting import metric_rows, number
from nnbp.tabular.model import Evaluation
from nnbp.training.curve import curve, inline_svg

pytest.importorskip("matplotlib")

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Checks that elements close in order, and collects ids, addresses and words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.note(attrs)

    def handle_startendtag(self, tag, attrs):
        self.note(attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def note(self, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href"):
                self.addresses.append(value)


def result(**changes) -> dict:
    base = {
        "status": "done", "source": "toy.csv", "target": "kind", "task": "classification", "labels": ["a", "b"],
        "rows": {"train": 7, "validation": 2, "held_out": 4}, "columns": 3, "features": 3, "network": "3 → 2 softmax",
        "parameters": 8, "dtype": "float32", "device": "cpu", "device_fallback": None, "warning": None,
        "epochs": 3, "best_epoch": 2,
        "stopped": None, "seconds": 0.5, "metrics": {"accuracy": 0.75, "log_loss": 0.31}, "baseline_accuracy": 0.5,
        "run": "runs/toy-1", "model": "runs/toy-1/model.safetensors", "report": "runs/toy-1/report.html",
    }  # fmt: skip
    return {**base, **changes}


HISTORY = {
    "loss": [1.0, 0.5, 0.3], "val_loss": [1.1, 0.6, 0.7], "accuracy": [0.5, 0.7, 0.8], "val_accuracy": [0.5, 1.0, 0.5],
}  # fmt: skip


def insight(labels=("a", "b"), **changes) -> Insight:
    first, second = np.array([[0.0, 1.0, 2.0]]), np.array([[0.4, 0.6]])
    layers = [
        LayerFacts("layer 1: 3 relu", first, np.array([[0.0, 0.1, -0.2]]), np.arange(12.0), [4, 5], [6]),
        LayerFacts("layer 2: 2 softmax", second, np.array([[0.4, -0.4]]), np.arange(8.0), [], []),
    ]
    columns = [Importance("height", 0.25, 0.01), Importance("age", -0.01, 0.0)]
    base = {
        "rows": 4, "held_out": True, "truth": np.array([0, 0, 1, 1]), "predicted": np.array([0, 1, 1, 1]),
        "probabilities": np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.1, 0.9]]), "unit": "line",
        "importance": Permutations("accuracy", columns, 4, 5, 3),
        "worst": [WorstRow(17, labels[0], labels[1], 0.916, {"height": "1.8"})], "layers": layers,
    }  # fmt: skip
    return Insight(**{**base, **changes})


def report(labels=("a", "b"), **changes) -> str:
    return render(
        result(labels=list(labels), **changes),
        HISTORY,
        config={"network": {"hidden": [8], "dropout": 0.2, "schedule": None}},
        environment={"command": ["nnbp", "train"], "python": "3.13", "blas": {"name": "openblas", "environment": {}}},
        evaluation=Evaluation({}, np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), []),
        insight=insight(labels) if len(labels) == 2 else None,
    )


def test_the_page_is_well_formed_and_needs_nothing_else():
    text = report()
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert all(address.startswith("#") or address == "explorer.html" for address in page.addresses)
    assert "<script" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    outside = set(re.findall(r"https?://[^\s\"'<>]+", text))
    assert all("w3.org" in address for address in outside)  # the names of XML's vocabularies
    assert "$" not in text


def test_it_shows_numbers_curve_confusions_configuration_and_environment():
    text = report()
    words = " ".join(Page(text).words)
    assert "0.75" in words
    assert "Confusion matrix" in words
    assert "0.667" in words  # the precision of b: 2 of 3
    assert "dropout" in words
    assert "schedule" not in words
    assert "openblas" in words
    assert text.count("<svg") == 8  # the curve, calibration and ROC, and a, delta and gradient of two layers
    assert 'aria-label="Training curve: loss 0.3 after 3 epochs"' in text


def test_labels_and_names_are_text_and_never_markup():
    evil = "<script>alert('&')</script>"
    text = report(labels=(evil, "b"), source=f"{evil}.csv", target=evil)
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_a_quantity_has_predictions_against_the_truth():
    text = render(
        result(labels=[], task="regression", target="y", metrics={"r2": 0.4}),
        {"loss": [2.0, 1.0], "r2": [-40.0, 0.4]},
        config={},
        environment={},
        evaluation=Evaluation({}, np.array([1.0, 2.0, 3.0]), np.array([1.5, 2.0, 2.0]), []),
    )
    page = Page(text)
    assert text.count("<svg") == 2  # the curve; predictions and residuals
    assert len(page.ids) == len(set(page.ids))
    assert "Predicted against true" in " ".join(page.words)


def test_many_classes_have_a_narrow_table_and_a_list_of_confusions():
    labels = [f"class {k} <of many with long names>" for k in range(40)]
    text = report(labels=labels)
    page = Page(text)
    words = " ".join(page.words)
    assert "The most frequent confusions" in words
    assert "1 of 2" in words
    table = text[text.index('<div class="wide many"') : text.index("The most frequent")]
    assert table.count("<tr>") == 40 + 2  # the head and the precision
    assert table.count("<td></td>") == 40 * 40 - 3 + 1
    assert 'title="true class 0 &lt;of many with long names&gt;, predicted class 1 &lt;' in table
    assert "class 39 &lt;of many w…</th>" in table
    for stays in ("position: sticky; top: 0", "position: sticky; left: 0"):
        assert stays in text
    assert "&lt;of many with long names&gt;" not in re.sub(r'title="[^"]*"', "", table)


def test_hundreds_of_classes_have_a_list_alone():
    text = report(labels=[f"class {k}" for k in range(300)])
    assert '<div class="wide many"' not in text
    assert "The most frequent confusions" in text


def test_what_ended_the_run_and_a_fallback_are_said_on_top():
    text = report(status="interrupted", stopped="ended by Ctrl-C", device_fallback="no GPU works", warning="J grew")
    assert '<p class="warn">Ended by Ctrl-C</p>' in text
    assert '<p class="warn">No GPU works</p>' in text
    assert '<p class="warn">J grew</p>' in text


def test_a_run_without_an_epoch_or_held_out_rows_has_a_page_too():
    text = render(result(epochs=0, best_epoch=None, metrics={}, model=None, labels=["a"]), {}, {}, {})
    words = " ".join(Page(text).words)
    assert "No epoch was completed." in words
    assert "Confusion" not in words


def test_without_matplotlib_the_page_says_how_to_get_pictures(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = report()
    assert text.count("<svg") == 6  # histograms need no library
    assert 'pip install "matplotlib>=3.9"' in html.unescape(text)
    assert Page(text).open == []


def test_pictures_take_the_colour_of_the_page_and_are_the_same_every_time():
    svg = inline_svg(curve(HISTORY, 2), "a curve", "curve")
    assert svg == inline_svg(curve(HISTORY, 2), "a curve", "curve")
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert 'id="curve-' in svg


def test_the_curve_marks_the_best_epoch_and_has_a_panel_a_measure():
    left, right = curve(HISTORY, 2).axes
    assert left.get_title(loc="left") == "loss"
    assert right.get_title(loc="left") == "accuracy"
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["training", "validation", "best epoch: 2"]
    (mark,) = (line for line in left.lines if line.get_label() == "best epoch: 2")
    assert mark.get_xydata().tolist() == [[2, HISTORY["val_loss"][1]]]
    assert len(curve({"loss": [1.0]}).axes) == 1


def test_a_loss_over_orders_of_magnitude_is_drawn_on_a_logarithmic_scale():
    assert curve({"loss": [10.0, 0.1]}).axes[0].get_yscale() == "log"
    assert curve({"loss": [1.0, 0.5]}).axes[0].get_yscale() == "linear"
    assert curve({"loss": [10.0, -0.1]}).axes[0].get_yscale() == "linear"


def test_large_tables_are_drawn_by_an_even_choice_of_rows():
    values = np.arange(50_000.0)
    drawn = scatter(values, values, "y").axes[0].lines[1].get_xdata()
    assert len(drawn) == 2000
    assert (drawn[0], drawn[-1]) == (0, 49_999)


def test_numbers_have_four_digits_and_nan_has_a_word():
    assert number(0.987654) == "0.9877"
    assert metric_rows({"roc_auc": float("nan"), "r2": 1.0}) == [("area under ROC curve", "not defined"), ("R²", "1")]


def test_a_curve_with_values_that_are_not_finite_is_drawn():
    values = [1.0, float("inf"), float("nan")]
    assert "<svg" in inline_svg(curve({"loss": values, "val_loss": values, "r2": [-1e30, float("nan"), 0.5]}), "x", "x")
    assert "<svg" in inline_svg(curve({"loss": [1.0], "val_loss": [float("nan")]}), "x", "x")


def test_a_name_with_dollar_signs_is_drawn_as_it_is():
    figure = scatter(np.arange(3.0), np.arange(3.0), "price_$_in_$\\frac")
    assert "<svg" in inline_svg(figure, "x", "x")


def test_many_orders_of_magnitude_have_few_labels():
    axes = curve({"loss": [1e7, 1.0]}).axes[0]
    assert len(axes.yaxis.get_majorticklocs()) < 15


def test_it_says_what_the_model_looks_at_and_where_it_fails():
    text = report()
    words = " ".join(Page(text).words)
    assert "Calibration and ROC" in words
    assert "10 bins of the probability of b" in words
    assert re.search(r"height\s+0.2500 ± 0.0100", words)
    assert "permuted, 5 times, on 4 held-out rows." in words
    assert "Not measured, to save time: 3 columns" in words
    assert re.search(r"line\s+true\s+predicted\s+−ln p\(true\)\s+height\s+17\s+a\s+b\s+0.916\s+1.8", words)
    assert '<td class="wrong">b</td>' in text


def test_dead_and_saturated_units_are_named_and_the_words_defined():
    words = " ".join(Page(report()).words)
    assert "layer 1: 3 relu: 2 of 3 units are dead: 4, 5." in words
    assert "layer 1: 3 relu: 1 of 3 units is saturated: 6." in words
    assert "dead if f'(z) = 0 for every row" in words
    assert "saturated if |f'(z)| is below 5% of its maximum for |z| ≤ 2 for every row" in words
    sound = render(result(), HISTORY, {}, {}, None, insight(layers=insight().layers[1:]))
    assert "No hidden unit is dead or saturated." in sound
    assert "dead if f'(z) = 0 for every row" in sound


def test_configuration_and_environment_are_folded():
    folded = re.findall(r"<details>\n<summary><h2>(\w+)</h2>", report())
    assert folded == ["Configuration", "Environment"]


def test_it_says_how_to_see_the_network_step_by_step():
    assert "<code>nnbp explain &#x27;runs/my toy-1&#x27;</code>" in report(run="runs/my toy-1")


def test_rows_that_training_saw_are_called_so():
    evaluation = Evaluation({}, np.array([0]), np.array([0]), [])
    rows = {"train": 7, "validation": 2, "held_out": 0}
    text = render(result(rows=rows), HISTORY, {}, {}, evaluation, insight(held_out=False))
    assert "On 4 of the 9 rows, evenly spread, most of which were used in training." in text


def test_a_layer_without_parameters_has_no_gradient():
    first = insight().layers[0]._replace(gradient=np.zeros(0))
    assert "<td>–</td>" in render(result(), HISTORY, {}, {}, None, insight(layers=[first]))


def test_names_of_columns_and_cells_are_text():
    evil = "<b>x</b>"
    found = Permutations("accuracy", [Importance(evil, 0.1, 0.0)], 4, 5, 0)
    shown = insight(importance=found, worst=[WorstRow(1, evil, evil, 1.0, {evil: evil})])
    text = render(result(), HISTORY, {}, {}, None, shown)
    assert evil not in text
    assert text.count("&lt;b&gt;x&lt;/b&gt;") == 5

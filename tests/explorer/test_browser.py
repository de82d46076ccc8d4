"""The page in Chromium: what a learner sees, clicks and changes, in both languages, themes and widths."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import WIDTHS, findings

import nnbp
from nnbp import Activation, Loss, Network
from nnbp.explorer.explanation import explained
from nnbp.explorer.page import render
from nnbp.testing import example_problem

pytestmark = pytest.mark.browser

Opener = Callable[..., Any]


@pytest.fixture
def opened(chromium: Any, tmp_path: Path) -> Iterator[Opener]:
    """Opens a page; afterwards there must have been no error and no request to any network."""
    asked: list[str] = []
    errors: list[str] = []
    contexts = []

    def open_page(
        net: Any,
        X: Any,
        y: Any = None,
        *,
        width: str = "desktop",
        theme: str = "light",
        language: str = "en",
        **more: Any,
    ) -> Any:
        path = tmp_path / f"page{len(contexts)}.html"
        path.write_text(render(explained(net, X, y, **more), language=language), encoding="utf-8")
        across, down = WIDTHS[width]
        context = chromium.new_context(viewport={"width": across, "height": down}, color_scheme=theme)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not errors
    assert not [url for url in asked if not url.startswith("file:")]


def notes(**options: Any) -> tuple[Network, Any, Any]:
    """The network of the notes, 3-4-2, and five samples."""
    return example_problem(
        [3, 4, 2], activation="sigmoid", output_activation="sigmoid", weight_decay=0.1, dtype="float64", samples=5,
        device="cpu", **options,
    )  # fmt: skip


def value(page: Any, script: str) -> Any:
    """What JavaScript finds; typed arrays become lists."""
    return page.evaluate(f"() => {{ const v = {script}; return ArrayBuffer.isView(v) ? Array.from(v) : v; }}")


def panel(page: Any) -> str:
    text: str = page.inner_text("#panel")
    return text.replace("−", "-")


def shown_numbers(page: Any) -> list[float]:
    """The full numbers behind those in the panel."""
    return [float(node.get_attribute("title")) for node in page.query_selector_all("#panel .num")]


# ---- the page's own pass


def check_pass(page: Any, net: Network, X: Any, y: Any) -> None:
    """The pass in JavaScript finds nnbp's numbers, as they are and after every kind of change, to 1e-12."""
    assert value(page, "AGREEMENT") < 1e-12
    double = net.copy(dtype="float64", device="cpu")
    found = explained(net, X, y)
    theta = np.array(double.parameters)
    rng = np.random.default_rng(1)
    theta += rng.normal(0, 0.1, theta.shape)
    X = found.X + rng.normal(0, 0.1, found.X.shape)
    page.evaluate(
        "([theta, X]) => { state.edited.theta = Float64Array.from(theta);"
        " state.edited.X = X.map((row) => Float64Array.from(row)); state.edited.decay = 0.3;"
        " state.version++; render(); }",
        [theta.tolist(), X.tolist()],
    )
    double.parameters[...] = theta
    double.weight_decay = 0.3
    gradients, trace = double.gradients(X, found.y), double.trace(X)
    pairs = [(value(page, "batch().gradient"), gradients.flat), (value(page, "batch().J"), gradients.loss)]
    for k in range(len(X)):
        for l in range(len(found.layers)):
            pairs.append((value(page, f"results({k}).layers[{l}].a"), trace.a[l + 1][k]))
            pairs.append((value(page, f"results({k}).layers[{l}].delta"), gradients.delta[l][k]))
        pairs.append((value(page, f"results({k}).dx"), gradients.dX[k]))
    for p, q in pairs:
        np.testing.assert_allclose(p, q, rtol=0, atol=1e-12 * max(1.0, np.abs(q).max()))


def test_the_pages_pass_is_nnbps(opened: Opener) -> None:
    net, X, y = notes()
    check_pass(opened(net, X, y), net, X, y)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in Activation.built_in() if name != "softmax"])
def test_the_pages_pass_with_every_activation(name: str, opened: Opener) -> None:
    net, X, y = example_problem([3, 5, 4, 3], activation=name, loss="cross_entropy", samples=3, device="cpu")
    check_pass(opened(net, X, y), net, X, y)


@pytest.mark.slow
@pytest.mark.parametrize("name", Loss.built_in())
def test_the_pages_pass_with_every_loss(name: str, opened: Opener) -> None:
    net, X, y = example_problem([3, 5, 2], activation="tanh", loss=name, samples=3, device="cpu")
    page = opened(net, X, y)
    assert value(page, "AGREEMENT") < 1e-12


@pytest.mark.slow
def test_the_pages_pass_with_every_layer(opened: Opener) -> None:
    layers = [nnbp.Standardize(), nnbp.Dense(4, "identity"), nnbp.BatchNorm("relu"), nnbp.LayerNorm("tanh"),
              nnbp.Dropout(0.2), nnbp.Dense(3)]  # fmt: skip
    net = Network(layers, loss="cross_entropy", device="cpu", seed=0)
    rng = np.random.default_rng(0)
    X, y = rng.normal(4, 2, (30, 3)), rng.integers(0, 3, 30)
    net.fit(X, y, epochs=2, progress=False)
    page = opened(net, X, y)
    check_pass(page, net, X, y)
    for phase in ("forward", "backward", "gradient", "batch", "update"):
        page.click(f"#phase-{phase}")
        assert "NaN" not in panel(page)


# ---- steps


def test_every_step_says_its_numbers(opened: Opener) -> None:
    """From the inputs to the update: z and a of units 4 to 9, C, delta of 8 to 4, the gradient, J, the step."""
    net, X, y = notes()
    page = opened(net, X, y)
    trace, gradients = net.trace(X), net.gradients(X, y)
    titles = []
    for _ in range(17):
        titles.append(page.inner_text("#panel h2"))
        page.click("#next")
    assert titles[1:7] == [f"Forward: unit {u}" for u in range(4, 10)]
    assert titles[8:14] == [f"Backward: unit {u}" for u in (8, 9, 4, 5, 6, 7)]
    assert [titles[k] for k in (0, 7, 14, 15, 16)] == [
        "The sample: inputs x and targets y", "The cost C of this sample",
        "The gradient of C: one product per weight", "The batch: a sum over samples",
        "The update: one step of gradient descent",
    ]  # fmt: skip
    assert page.inner_text("#player span") == "Step 17 of 17"
    page.click("#first")
    page.click("#next")
    numbers = shown_numbers(page)
    assert numbers[-1] == pytest.approx(trace.z[1][0, 0], abs=1e-15)
    np.testing.assert_allclose(numbers[:3], [net.weights[0][0, 0], X[0, 0], net.weights[0][0, 0] * X[0, 0]])
    page.click("#phase-backward")
    for _ in range(2):
        page.click("#next")
    assert shown_numbers(page)[-1] == pytest.approx(gradients.delta[1][0] @ net.weights[1][:, 0], abs=1e-15)
    page.click("#back")
    assert page.inner_text("#panel h2") == "Backward: unit 9"


def test_play_and_pause(opened: Opener) -> None:
    page = opened(*notes())
    page.clock.install()
    page.click("#play")
    assert page.inner_text("#play") == "Pause"
    page.clock.run_for(5100)
    assert page.inner_text("#player span") == "Step 3 of 17"
    page.click("#play")
    page.clock.run_for(9000)
    assert page.inner_text("#player span") == "Step 3 of 17"


def test_the_keyboard_suffices(opened: Opener) -> None:
    page = opened(*notes())
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#player span") == "Step 3 of 17"
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#player span") == "Step 2 of 17"
    page.focus("#unit-5")
    page.keyboard.press("Enter")
    assert page.inner_text("#panel h2") == "Unit 5, hidden layer 1"
    page.focus("#panel button[data-parameter]")
    page.keyboard.press("Enter")
    assert page.inner_text("#panel h2").startswith("Weight w51")


# ---- a learner's five questions, each within three clicks


def test_what_is_delta_of_node_5_and_why(opened: Opener) -> None:
    net, X, y = notes()
    page = opened(net, X, y)
    page.click("#unit-5")
    delta = net.gradients(X, y).delta
    assert delta[0][0, 1] == pytest.approx(
        net.trace(X).a[1][0, 1] * (1 - net.trace(X).a[1][0, 1]) * (delta[1][0] @ net.weights[1][:, 1])
    )
    assert value(page, f"plain({delta[0][0, 1]})").replace("−", "-") in panel(page)
    assert "each unit that it feeds is one path to C" in panel(page)
    products = net.weights[1][:, 1] * delta[1][0]
    assert set(np.round(products, 12)) <= set(np.round(shown_numbers(page), 12))


def test_which_weight_changes_most(opened: Opener) -> None:
    net, X, y = notes()
    page = opened(net, X, y)
    page.click("#phase-update")
    flat = net.gradients(X, y).flat
    row = page.query_selector_all("#panel tbody tr")[0]
    assert float(row.query_selector_all(".num")[1].get_attribute("title")) == pytest.approx(flat[np.abs(flat).argmax()])


def test_what_if_an_input_is_0(opened: Opener) -> None:
    net, X, y = notes()
    page = opened(net, X, y)
    page.click("[data-zero='input,1']")
    X[0, 1] = 0.0
    assert page.is_visible("#reset")
    page.click("#phase-cost")
    assert value(page, "results().cost") == pytest.approx(
        net.loss(X[:1], y[:1]) - 0.05 * sum((W**2).sum() for W in net.weights)
    )
    page.click("#reset")
    assert not page.is_visible("#reset")


def test_where_the_sum_over_samples_is(opened: Opener) -> None:
    net, X, y = notes()
    page = opened(net, X, y)
    page.click("#phase-batch")
    page.select_option("#shown", label="w52")
    gradients, trace = net.gradients(X, y), net.trace(X)
    own = gradients.delta[0][:, 1] * X[:, 1]
    rows = [
        float(row.query_selector_all(".num")[-1].get_attribute("title"))
        for row in page.query_selector_all("#panel table >> nth=0 >> tbody tr")
    ]
    np.testing.assert_allclose(rows[:5], own, atol=1e-15)
    assert rows[5] == pytest.approx(own.mean())
    assert trace.a[0] is not X


def test_what_weight_decay_adds(opened: Opener) -> None:
    net, X, y = notes()
    page = opened(net, X, y)
    page.click(".weight >> nth=0")
    rows = [float(node.get_attribute("title")) for node in page.query_selector_all("#panel table .num")]
    assert rows[-2] == pytest.approx(0.1 * net.weights[0][0, 0])
    assert rows[-1] == pytest.approx(net.gradients(X, y).dW[0][0, 0])
    assert "weight decay λw" in panel(page)


# ---- what can be changed


def test_a_weight_has_its_gradient_beside_a_central_difference(opened: Opener) -> None:
    net, X, y = notes()
    page = opened(net, X, y)
    page.click(".weight >> nth=3")
    own = net.per_sample_gradients(X, y)
    numbers = shown_numbers(page)
    assert numbers[0] == pytest.approx(own[0, value(page, "placeOf(state.selected.parameter)")], abs=1e-9)
    page.fill("input[data-edit^='parameter']", "0.5")
    page.keyboard.press("Enter")
    k = value(page, "placeOf(state.selected.parameter)")
    net.parameters[k] = 0.5
    assert value(page, "batch().J") == pytest.approx(net.loss(X, y), abs=1e-14)
    assert "this page computes these numbers itself" in page.inner_text("#samples")


def test_a_target_a_sample_and_the_learning_rate(opened: Opener) -> None:
    net, X, y = notes()
    page = opened(net, X, y)
    page.click("#following")
    assert page.inner_text("#samples span >> nth=0") == "Sample 2 of 5"
    page.fill("#edit-target-1", "0.25")
    page.keyboard.press("Enter")
    y[1, 1] = 0.25
    page.click("#phase-update")
    page.fill("#edit-eta-0", "0.5")
    page.keyboard.press("Enter")
    assert value(page, "batch().J") == pytest.approx(net.loss(X, y), abs=1e-14)
    page.click("[data-do='descend']")
    net.parameters[...] -= 0.5 * net.gradients(X, y).flat
    assert value(page, "batch().J") == pytest.approx(net.loss(X, y), abs=1e-14)
    page.click("#previous")
    assert page.inner_text("#samples span >> nth=0") == "Sample 1 of 5"


def test_nonsense_in_a_field_changes_nothing(opened: Opener) -> None:
    page = opened(*notes())
    page.fill("#edit-input-0", "")
    page.keyboard.press("Enter")
    assert not page.is_visible("#reset")


def test_a_columns_own_unit_and_category(opened: Opener) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    rng = np.random.default_rng(0)
    table = pandas.DataFrame({"area": rng.normal(80, 20, 40), "town": rng.choice(["Rome", "Oslo"], 40)})
    table["price"] = 3.0 * table["area"] + 40.0 * (table["town"] == "Oslo")
    model = nnbp.TableModel.fit(table, "price", hidden=[4], epochs=2, progress=False, device="cpu")
    page = opened(model, table)
    assert {"area", "town=Oslo", "town=Rome"} <= set(page.inner_text("#diagram").split("\n"))
    page.fill("#edit-input-0", "100")
    page.keyboard.press("Enter")
    page.select_option("#edit-input-1", label="Oslo")
    found = explained(model, table).columns[0]
    np.testing.assert_allclose(value(page, "results().inputs"), [(100 - found.mean) / found.scale, 1.0, 0.0])
    page.click("#phase-cost")
    assert "price on its original scale" in panel(page)


# ---- questions


def test_questions_hide_the_answer_until_it_is_given(opened: Opener) -> None:
    net, X, y = notes()
    page = opened(net, X, y)
    page.check("#ask")
    page.click("#next")
    assert "Is z4 positive, negative or zero?" in panel(page)
    assert not page.query_selector_all("#panel .num")
    assert not page.query_selector("#unit-4 .value")
    right = "positive" if net.trace(X).z[1][0, 0] > 0 else "negative"
    wrong = "negative" if right == "positive" else "positive"
    page.click(f"[data-answer='{wrong}']")
    assert f"No: {right}." in panel(page)
    assert page.query_selector("#unit-4 .value")
    page.click("#next")
    page.click("text=Show me")
    assert "Forward: unit 5" in panel(page)
    for phase in ("cost", "backward", "gradient", "batch", "update"):
        page.click(f"#phase-{phase}")
        assert page.query_selector("#panel .ask"), phase
        answer = value(page, "question(current()).answer")
        page.click(f"[data-answer='{answer}']")
        assert "Right." in panel(page), phase


def test_answers_at_zero(opened: Opener) -> None:
    """z can be 0, a gradient too, and weight decay adds nothing to the gradient of a bias."""
    net = Network([2, 1, 1], activation="relu", weight_decay=0.1, device="cpu", seed=0)
    net.set_parameters([[[1.0, 1.0]], [[1.0]]], [[0.0], [0.5]])
    page = opened(net, [[1.0, -1.0]], [[0.5]])
    page.check("#ask")
    page.click("#next")
    page.click("[data-answer='zero']")
    assert "Right." in panel(page)
    page.evaluate("() => { state.shown = PARAMETERS.find((p) => p.kind === 'b' && p.l === 2); render(); }")
    for phase, answer in (("batch", "zero"), ("update", "unchanged")):
        page.click(f"#phase-{phase}")
        page.click(f"[data-answer='{answer}']")
        assert "Right." in panel(page), phase


def test_play_waits_for_an_answer(opened: Opener) -> None:
    page = opened(*notes())
    page.clock.install()
    page.check("#ask")
    page.click("#play")
    page.clock.run_for(20_000)
    assert page.inner_text("#player span") == "Step 2 of 17"


# ---- marks, large layers, languages, themes, widths


def test_dead_and_saturated_units_are_marked(opened: Opener) -> None:
    net, X, y = example_problem([3, 4, 2], activation="relu", dtype="float64", device="cpu")
    net.biases[0][1] = -50.0
    page = opened(net, X, y)
    assert "dead" in page.text_content("#unit-5")
    page.click("#unit-5")
    assert "its weights do not learn" in panel(page)
    net, X, y = notes()
    net.biases[0][2] = 30.0
    page = opened(net, X, y)
    assert "saturated" in page.text_content("#unit-6")
    assert "saturated" not in page.text_content("#unit-5")


@pytest.mark.parametrize("width", WIDTHS)
def test_large_layers_are_heat_maps_with_a_chosen_unit(width: str, opened: Opener) -> None:
    net, X, y = example_problem([64, 64, 10], activation="relu", loss="cross_entropy", samples=3, device="cpu")
    page = opened(net, X, y, width=width, labels=[str(k) for k in range(10)])
    assert len(page.query_selector_all("#map-0 .cell")) == len(page.query_selector_all("#map-1 .cell")) == 64
    page.click("#map-1 .cell >> nth=9")
    assert page.inner_text("#panel h2") == "Unit 74, hidden layer 1"
    assert "56 more terms" in panel(page)
    page.select_option("#choose", label="100 ")
    assert page.inner_text("#panel h2") == "Unit 100, hidden layer 1"
    page.click("text=All 64 terms")
    assert shown_numbers(page)
    page.click("#phase-forward")
    assert page.inner_text("#panel h2") == "Forward: layer 1, unit 100 as an example"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing(width: str, language: str, theme: str, opened: Opener) -> None:
    net, X, y = notes()
    net.biases[0][2] = 30.0
    page = opened(net, X, y, width=width, theme=theme, language=language)
    spots = [f"#phase-{phase}" for phase in ("input", "forward", "cost", "backward", "gradient", "batch", "update")]
    for spot in [*spots, "#unit-6 .unit", "#unit-8 .unit", "#panel button[data-parameter]"]:
        page.click(spot)
        assert not findings(page), spot
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{spot}: wider than the screen"


def test_the_language_can_be_changed(opened: Opener) -> None:
    page = opened(*notes())
    page.click("#language-zh")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    for phase in ("input", "forward", "cost", "backward", "gradient", "batch", "update"):
        page.click(f"#phase-{phase}")
        words = set(re.findall(r"[A-Za-z]{4,}", page.inner_text("body")))
        assert words <= {"English", "nnbp", "delta", "sigmoid", "squared", "error", "float", "squared_error"}, words
    page.click("#language-en")
    assert not re.search(r"[\u4e00-\u9fff]", page.inner_text("body").replace("中文", ""))


def test_the_theme_can_be_changed(opened: Opener) -> None:
    page = opened(*notes(), theme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.click("#theme")
    assert page.evaluate(ground) != dark
    page.click("#theme")
    assert page.evaluate(ground) == dark

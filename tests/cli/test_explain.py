"""`nnbp explain`: a page or a text for a run, a model file with a table, or an example network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nnbp.cli.main import main

pytest.importorskip("sklearn")
pytest.importorskip("tomli_w")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    rows = "".join(f"{k},{('Bern', 'Wien')[k % 2]},{2 * k + 5 * (k % 2)}\n" for k in range(40))
    (folder / "houses.csv").write_text("area,town,price\n" + rows)
    words = ["train", str(folder / "houses.csv"), "--target", "price", "--epochs", "2", "--device", "cpu", "--quiet"]
    assert main([*words, "--hidden", "4", "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(autouse=True)
def _elsewhere(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()


def test_the_example_is_that_of_the_notes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == 0
    assert "3 – 4 – 2" in capsys.readouterr().out
    assert "<title>3 – 4 – 2" in Path("explorer.html").read_text(encoding="utf-8")


def test_the_example_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--sizes", "2", "3", "1", "--activation", "relu", "--loss", "binary_cross_entropy", "--seed", "3"]
    assert main(["explain", *words, "--text", "--language", "zh"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("2 – 3 – 1. 样本 1")
    assert "relu: f(z) = max(z, 0)" in out
    assert not list(Path().iterdir())


def test_a_run_is_explained_with_its_own_table(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(run), "--rows", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"page": str(run / "explorer.html"), "sizes": [3, 4, 1], "rows": [0, 20, 39]}
    page = (run / "explorer.html").read_text(encoding="utf-8")
    assert "town=Wien" in page
    assert '"name":"price"' in page


def test_a_model_file_is_explained_with_a_table(run: Path) -> None:
    model, table = str(run / "model.safetensors"), str(run.parent / "houses.csv")
    assert main(["explain", model, table, "--output", "page.html"]) == 0
    assert Path("page.html").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["MODEL"], "does not contain the rows"),
        (["RUN", "--seed", "1"], "only the example network has --seed"),
        (["--text", "--json"], "Leave out --output and --json"),
        (["--sizes", "3"], "ends in a Dense layer"),
        (["--loss", "cross_entrpy"], "cross_entropy"),
    ],
)
def test_words_that_do_not_go_together(
    run: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"MODEL": str(run / "model.safetensors"), "RUN": str(run)}
    assert main(["explain", *(names.get(word, word) for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_a_table_that_is_gone_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(run), "elsewhere.csv"]) == 3
    assert "elsewhere.csv: there is no such file" in capsys.readouterr().err

"""Plain text and values: columns that line up, and numbers that JSON does not have."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from nnbp.formatting import brief, json_text, json_value, printable, shown, table


def test_columns_stand_at_the_left_or_at_the_right() -> None:
    rows = [("name", "size"), ("a", "100"), ("longer", "7")]
    assert table(rows, left=[0]) == ["name    size", "a        100", "longer     7"]
    assert table(rows, left=[0, 1]) == ["name    size", "a       100", "longer  7"]


def test_a_rule_below_the_head_is_as_wide_as_the_table() -> None:
    lines = table([("a", ""), ("b", "wide")], left=[0], ruled=True)
    assert lines == ["a", "───────", "b  wide"]


def test_numbers_that_are_not_finite_are_null_in_json() -> None:
    values = {"a": [1.5, 3, "x", None, True], "b": (math.nan, math.inf), "c": {1: -math.inf}}
    assert json_value(values) == {"a": [1.5, 3, "x", None, True], "b": [None, None], "c": {"1": None}}
    assert json.loads(json_text(values)) == json_value(values)


def test_arrays_are_lists_in_json_with_the_digits_of_their_dtype() -> None:
    assert json_value(np.float32([[0.1, np.nan], [2.0, np.inf]])) == [[0.1, None], [2.0, None]]
    assert json_value({"n": np.int64(3), "b": np.bool(True), "s": np.array(["é"])}) == {"n": 3, "b": True, "s": ["é"]}
    assert json_text(np.array(["é"])) == '[\n  "é"\n]'


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("größe, 年齢", "größe, 年齢"),
        ("a\x1b[31m\r\n\t\x07\x7f", r"a\x1b[31m\r\n\t\x07\x7f"),
        ("\x9b31m \u202egnp.exe", r"\x9b31m \u202egnp.exe"),
        ("\udcff.csv", r"\udcff.csv"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_control_characters_are_escaped(text: str, escaped: str) -> None:
    assert printable(text) == escaped
    assert brief(ValueError(text)) == escaped
    document = json_text({text: [text]})
    assert document.replace("\n", "").isprintable()
    assert json.loads(document) == {text: [text]}


def test_what_is_shown_of_a_value_is_short() -> None:
    assert shown([1, "a\x1b"]) == r"[1, 'a\x1b']"
    deep: list[object] = []
    for _ in range(10_000):
        deep = [deep]
    for value in ("x" * 10**6, [1] * 10**6, {"k" * 10**6: [1] * 10**6}, 10**4000, np.zeros(10**6), deep):
        assert len(shown(value)) <= 200
    assert len(brief("x" * 10**6)) == 200

"""Plain text and values: columns that line up, and numbers that JSON does not have."""

from __future__ import annotations

import json
import math

from nnbp.formatting import json_value, table


def test_columns_stand_at_the_left_or_at_the_right() -> None:
    rows = [("name", "size"), ("a", "100"), ("longer", "7")]
    assert table(rows, left=[0]) == ["name    size", "a        100", "longer     7"]
    assert table(rows, left=[0, 1]) == ["name    size", "a       100", "longer  7"]


def test_a_rule_below_the_head_is_as_wide_as_the_table() -> None:
    lines = table([("a", ""), ("b", "wide")], left=[0], ruled=True)
    assert lines == ["a", "───────", "b  wide"]


def test_numbers_that_are_not_finite_become_text() -> None:
    values = [1.5, 3, "x", None, math.nan, math.inf, -math.inf]
    assert [json_value(value) for value in values] == [1.5, 3, "x", None, "nan", "inf", "-inf"]
    assert json.dumps([json_value(value) for value in values], allow_nan=False)

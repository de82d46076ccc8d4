"""What all errors of nnbp have in common."""

from __future__ import annotations

import traceback

import pytest

from nnbp import errors

ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.NnbpError)]


@pytest.mark.parametrize("kind", ERRORS)
def test_control_characters_of_a_message_are_shown_escaped(kind: type[errors.NnbpError]) -> None:
    error = kind("évil\x1b[2J.csv: the label '\x9b31m'\n")
    assert str(error) == "évil\\x1b[2J.csv: the label '\\x9b31m'\\n"
    assert "\x1b" not in "".join(traceback.format_exception(error))


def test_an_error_without_a_message_has_none() -> None:
    assert str(errors.NnbpError()) == ""

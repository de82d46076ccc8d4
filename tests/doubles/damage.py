"""Files as a bad disk, a cut download or a prankster leaves them."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

_TOKENS = (
    b"\xff" * 8,
    b"\0" * 8,
    b"\xff\xff\xff\x7f",
    b"999999999999",
    b"(",
    b")",
    b"'",
    b"\\",
    b"[[[",
    b"{",
    b"-1",
    b"O",
)

Edit = Callable[[bytes], bytes]


def damaged(data: bytes) -> st.SearchStrategy[bytes]:
    """Copies of a file with parts cut out, put in, copied or overwritten.

    Mostly near its ends, where formats keep their headers.
    """
    size = len(data)
    places = st.one_of(st.integers(0, min(size, 200)), st.integers(max(0, size - 400), size), st.integers(0, size))
    parts = st.one_of(st.binary(min_size=1, max_size=20), st.sampled_from(_TOKENS))
    edits = st.one_of(
        st.builds(_replaced, places, st.integers(0, 20), parts),
        st.builds(_replaced, places, st.integers(1, 20), st.just(b"")),
        st.builds(_overwritten, places, parts),
        st.builds(_copied, places, places, st.integers(1, 20)),
        st.builds(_cut, places),
    )
    return st.lists(edits, min_size=1, max_size=3).map(lambda found: _edited(data, found))


def _replaced(at: int, length: int, part: bytes) -> Edit:
    return lambda data: data[:at] + part + data[at + length :]


def _overwritten(at: int, part: bytes) -> Edit:
    return _replaced(at, len(part), part)


def _copied(at: int, other: int, length: int) -> Edit:
    return lambda data: data[:at] + data[other : other + length] + data[at + length :]


def _cut(at: int) -> Edit:
    return lambda data: data[:at]


def _edited(data: bytes, edits: list[Edit]) -> bytes:
    for edit in edits:
        data = edit(data)
    return data

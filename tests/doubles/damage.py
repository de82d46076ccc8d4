"""Files as a bad disk, a cut download or a prankster leaves them."""

from __future__ import annotations

import random
from collections.abc import Iterator

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


def damaged(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Copies of a file with bits flipped, parts cut out, put in, copied or overwritten; mostly near its ends, where
    formats keep their headers."""
    rng = random.Random(seed)
    for _ in range(count):
        near_the_ends = rng.random() < 0.6
        size = len(data)
        places = (
            [rng.choice((rng.randrange(min(size, 200)), size - 1 - rng.randrange(min(size, 400)))) for _ in range(8)]
            if near_the_ends
            else [rng.randrange(size) for _ in range(8)]
        )
        at, other = places[:2]
        length = rng.randrange(1, 20)
        changed = bytearray(data)
        match rng.randrange(7):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                for place in places:
                    changed[place] = rng.randrange(256)
            case 2:
                del changed[at:]
            case 3:
                del changed[at : at + length]
            case 4:
                changed[at:at] = rng.randbytes(length)
            case 5:
                changed[at : at + length] = rng.choice(_TOKENS)
            case 6:
                changed[at : at + length] = changed[other : other + length]
        yield bytes(changed)

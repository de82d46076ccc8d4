"""A peer for tests, as people write their own."""

import pytest

FAKE = """
import time
import numpy as np
from bench.peer import Peer

class Fake(Peer):
    label = "Fake"
    modules = ({module!r},)
    distributions = ("fake-distribution",)
    devices = ("cpu", "cuda")
    def __init__(self, problem, threads):
        super().__init__(problem, threads)
        {at_start}
    def reset(self):
        print("a library that talks")
    def fit(self, epochs):
        time.sleep({seconds} * epochs)
    def loss(self):
        return float({loss!r})
    def predict(self, X):
        return np.zeros(len(X), int)
"""


@pytest.fixture
def fake_peer(tmp_path):
    """Makes the file of a peer, and returns its path."""

    def make(module="numpy", at_start="pass", seconds=0.002, loss="1.0"):
        path = tmp_path / "fake.py"
        path.write_text(FAKE.format(module=module, at_start=at_start, seconds=seconds, loss=loss), encoding="utf-8")
        return str(path)

    return make

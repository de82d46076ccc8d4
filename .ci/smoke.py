"""Smoke test of an installed wheel, run by `.ci/run` outside the repository: what nnbp itself depends on, alone."""

import sys
from importlib.metadata import entry_points
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import nnbp
from nnbp.graph.backend import backend_class

package = Path(nnbp.__file__).parent
site_packages = package.parent
assert site_packages.name == "site-packages", f"nnbp was imported from {package}, not from the wheel"
for folder in (site_packages / "backends", site_packages / "bench", package / "bench"):
    assert not folder.exists(), f"the wheel installs {folder}"
assert (package / "py.typed").is_file(), "py.typed is missing from the wheel"
assert (package / "backends" / "cpu" / "backend.py").is_file(), "nnbp.backends is missing from the wheel"
assert list((package / "backends" / "cuda" / "kernels").glob("*.cu")), "the CUDA kernels are missing from the wheel"
assert list((package / "backends" / "cpu").glob("_native.*")), "the compiled part is missing from the wheel"
assert (reason := backend_class("numpy").compiled()) is None, f"the compiled part is not used: {reason}"
assert {entry.name for entry in entry_points(group="nnbp.backends")} == {"cupy", "numpy"}

rng = np.random.default_rng(0)
X = rng.normal(size=(200, 2))
y = (X[:, 0] * X[:, 1] > 0).astype(int)
net = nnbp.Network([2, 16, 2], activation="tanh", loss="cross_entropy", device="cpu", seed=0)
history = net.fit(X, y, epochs=60, learning_rate=0.02, progress=False)
accuracy = float(np.mean(net.predict(X) == y))
assert history["loss"][-1] < history["loss"][0] / 2, history["loss"]
assert accuracy > 0.9, accuracy

with TemporaryDirectory() as folder:
    net.save(Path(folder) / "xor.safetensors")
    again = nnbp.Network.load(Path(folder) / "xor.safetensors", device="cpu")
assert np.array_equal(again.forward(X), net.forward(X)), "a saved network computes something else"

optional = {"cupy", "matplotlib", "pandas", "scipy", "sklearn", "torch", "tqdm"}
imported = optional & sys.modules.keys()
assert not imported, f"optional libraries were imported: {imported}"
print(f"{package}: accuracy {accuracy:.3f}, loss {history['loss'][0]:.3f} to {history['loss'][-1]:.3f}")

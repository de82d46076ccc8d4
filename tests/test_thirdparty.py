"""A package from outside, in an environment of its own, adds an activation, a layer and a backend by public names."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tests" / "doubles" / "thirdparty"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter that has what this one has, and the package."""
    folder = tmp_path_factory.mktemp("thirdparty")
    source, environment = shutil.copytree(PACKAGE, folder / "source"), folder / "environment"
    venv.create(environment)
    place = {"base": str(environment), "platbase": str(environment)}
    site = Path(sysconfig.get_path("purelib", "venv", place))
    # As a site directory, so that an editable nnbp is found there, too.
    (site / "parent.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    arguments = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", "install", *arguments, str(source)], check=True, timeout=120)
    return str(Path(sysconfig.get_path("scripts", "venv", place)) / Path(sys.executable).name)


def run(python: str, code: str, folder: Path) -> str:
    done = subprocess.run(
        [python, "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


SETUP = """
import numpy as np
import nnbp
from nnbp_thirdparty import Scale, Softsign

rng = np.random.default_rng(0)
X, y = rng.normal(size=(60, 3)), rng.integers(0, 2, 60)

def network(device, dtype="float64"):
    layers = [3, Scale(), nnbp.Dense(8, Softsign()), nnbp.Dropout(0.2), nnbp.Dense(2)]
    return nnbp.Network(layers, loss="cross_entropy", weight_decay=1e-3, device=device, dtype=dtype, seed=1)
"""


def test_an_activation_and_a_layer_have_right_gradients(python: str, tmp_path: Path) -> None:
    code = SETUP + (
        "report = nnbp.check_gradients(network('cpu'), X, y)\n"
        "assert report.passed, report\n"
        "print(*(row.name for row in report.rows))"
    )
    assert "s1" in run(python, code, tmp_path).split()


def test_a_backend_trains_as_the_library_s_own_do(python: str, tmp_path: Path) -> None:
    """Same bits of shuffles and masks, and so the same parameters up to rounding; both kinds of results are checked."""
    code = SETUP + (
        "nets = [network(device) for device in ('cpu', 'plain')]\n"
        "assert [net.device for net in nets] == ['cpu', 'plain']\n"
        "for net in nets:\n"
        "    net.fit(X, y, epochs=5, batch_size=16, optimizer='adam', validation_split=0.2, progress=False)\n"
        "np.testing.assert_allclose(*(net.parameters for net in nets), rtol=1e-9)\n"
        "np.testing.assert_array_equal(*(net.predict(X) for net in nets))\n"
        "assert nnbp.compare_devices(network('cpu'), X, y, devices=('cpu', 'plain')).passed"
    )
    run(python, code, tmp_path)


@pytest.mark.parametrize("module", ["activation", "layer", "backend"])
def test_the_guide_shows_the_package(module: str) -> None:
    """docs/extending.md has the modules word for word, so that what it shows is what is tested."""
    guide = (ROOT / "docs" / "extending.md").read_text()
    source = (PACKAGE / "nnbp_thirdparty" / f"{module}.py").read_text()
    shown = re.findall(r"^```python\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)
    assert source in shown

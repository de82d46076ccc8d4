"""What is installed: a light import, entry points that resolve, and metadata that promise what is there."""

from __future__ import annotations

import ast
import importlib
import os
import pickle
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import nnbp
from nnbp.requirements import CUDA, LIBRARIES

ROOT = Path(__file__).parents[1]
OPTIONAL = {"cupy", "matplotlib", "onnx", "onnxruntime", "pandas", "scipy", "sklearn", "torch", "tqdm"}
EXTRAS = {"bench", "cuda12", "cuda13", "demo", "dev", "mpi", "onnx", "plot", "sklearn", "tables", "test"}
LATER = {
    *("nnbp.device", "nnbp.engine.epoch", "nnbp.engine.model", "nnbp.engine.passes", "nnbp.engine.updater"),
    *("nnbp.metrics", "nnbp.nn.normalization", "nnbp.optim", "nnbp.requirements", "nnbp.serialization", "nnbp.tabular"),
    *("nnbp.testing", "nnbp.training.callbacks", "nnbp.training.progress", "nnbp.training.trainer"),
    *("safetensors", "threadpoolctl"),
    *("difflib", "hashlib", "importlib.metadata", "json", "secrets"),
}
"""Modules that `import nnbp` leaves to the first use."""


def run_python(code: str, folder: Path) -> str:
    """What a fresh interpreter that starts in ``folder``, where nnbp is only found as installed, prints."""
    command = [sys.executable, "-W", "error", "-c", code]
    # Bytecode is cached, as it is where users import: not to compile the sources each time is what an import costs.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def loaded_by(statement: str, folder: Path) -> set[str]:
    """The modules that a fresh interpreter holds after a statement."""
    return set(run_python(f"import sys; {statement}; print(*sys.modules)", folder).split())


def test_import_brings_no_optional_library(tmp_path: Path) -> None:
    loaded = loaded_by("import nnbp", tmp_path)
    assert "numpy" in loaded
    assert not OPTIONAL.intersection(loaded)
    assert not [name for name in loaded if name.startswith("nnbp.backends")]


def test_import_loads_little_more_than_numpy(tmp_path: Path) -> None:
    """Few programs use all of nnbp: what belongs to one task is imported when the task begins."""
    added = loaded_by("import nnbp", tmp_path) - loaded_by("import numpy, numpy.typing", tmp_path)
    assert "nnbp.network" in added
    assert not added & LATER
    assert not {name.partition(".")[0] for name in added} - {"nnbp"} - sys.stdlib_module_names


@pytest.mark.parametrize("order", ["__all__", "reversed(__all__)"])
def test_every_public_name_is_found_and_listed(order: str, tmp_path: Path) -> None:
    code = (
        "import nnbp\n"
        "print(set(nnbp.__all__) - set(dir(nnbp)) or 'listed')\n"
        f"for name in {order.replace('__all__', 'nnbp.__all__')}:\n"
        "    assert getattr(nnbp, name) is getattr(nnbp, name)\n"
        "print(nnbp.metrics.RMSE().name, nnbp.schedules.__name__, nnbp.testing.__name__, nnbp.LBFGS.__name__)"
    )
    assert run_python(code, tmp_path).split() == ["listed", "rmse", "nnbp.optim.schedules", "nnbp.testing", "LBFGS"]


def test_onnx_is_found_and_hides_no_library(tmp_path: Path) -> None:
    """`nnbp.onnx` is there without an import of its own, and is not what a star import calls `onnx`."""
    code = "import nnbp; print(nnbp.onnx.export.__module__); from nnbp import *; print('onnx' in globals())"
    assert run_python(code, tmp_path).split() == ["nnbp.onnx", "False"]
    assert not OPTIONAL.intersection(loaded_by("import nnbp.onnx", tmp_path))


def test_a_star_import_brings_every_public_name(tmp_path: Path) -> None:
    code = "from nnbp import *; import nnbp; print(set(nnbp.__all__) <= set(globals()), Adam is nnbp.Adam)"
    assert run_python(code, tmp_path).split() == ["True", "True"]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'nnbp' has no attribute 'Netwrok'$"):
        getattr(nnbp, "Netwrok")  # noqa: B009  (type checkers know that there is none)
    with pytest.raises(ImportError, match="cannot import name 'Netwrok' from 'nnbp'"):
        exec("from nnbp import Netwrok")


@pytest.mark.parametrize("name", ["adam", "lbfgs"])
def test_an_optimizer_is_found_by_name_right_after_the_import(name: str, tmp_path: Path) -> None:
    code = (
        "import nnbp\n"
        "net = nnbp.Network([2, 1], device='cpu', seed=0)\n"
        f"net.fit([[0, 1], [1, 0]], [0, 1], epochs=1, batch_size=None, optimizer={name!r}, progress=False)\n"
        f"print({name!r} in nnbp.Optimizer.registry)"
    )
    assert run_python(code, tmp_path).split() == ["True"]


def test_classes_of_a_user_serve_right_after_the_import(tmp_path: Path) -> None:
    code = (
        "import nnbp\n"
        "class Square(nnbp.Activation):\n"
        "    name = 'square'\n"
        "    def f(self, z): return z * z\n"
        "    def df(self, z, a): return 2.0 * z\n"
        "class Fixed(nnbp.Optimizer):\n"
        "    name, default_rate = 'fixed', 0.1\n"
        "    def update(self, theta, g, eta): return theta - eta * g\n"
        "try:\n"
        "    type('Mine', (nnbp.Optimizer,), {'name': 'lbfgs'})\n"
        "except ValueError as error:\n"
        "    print('lbfgs' in str(error))\n"
        "net = nnbp.Network([2, 3, 1], activation='square', device='cpu', seed=0)\n"
        "print(net.fit([[0, 1], [1, 0]], [0, 1], epochs=2, optimizer='fixed', progress=False).epochs)"
    )
    assert run_python(code, tmp_path).split() == ["True", "2"]


def test_a_network_is_unpickled_in_a_fresh_process(tmp_path: Path) -> None:
    net = nnbp.Network([2, 3, 1], device="cpu", seed=0).partial_fit([[0.0, 1.0]], [1.0])
    (tmp_path / "net.pickle").write_bytes(pickle.dumps(net))
    code = (
        "import pathlib, pickle\n"
        "net = pickle.loads(pathlib.Path('net.pickle').read_bytes())\n"
        "print(net.partial_fit([[1.0, 0.0]], [0.0]).predict([[0.5, 0.5]]).tolist())"
    )
    expected = net.partial_fit([[1.0, 0.0]], [0.0]).predict([[0.5, 0.5]]).tolist()
    assert run_python(code, tmp_path).strip() == str(expected)


def test_entry_points_name_the_backends() -> None:
    entries = {entry.name: entry for entry in metadata.entry_points(group="nnbp.backends")}
    assert entries["numpy"].value == "nnbp.backends.cpu.backend:NumpyBackend"
    assert entries["cupy"].value == "nnbp.backends.cuda.backend:CupyBackend"
    backend = entries["numpy"].load()
    assert backend.__name__ == "NumpyBackend"
    assert backend.__module__ == "nnbp.backends.cpu.backend"


def test_console_script_resolves_to_a_callable() -> None:
    (script,) = metadata.entry_points(group="console_scripts", name="nnbp")
    assert script.value == "nnbp.cli.main:main"
    assert callable(script.load())


def test_only_nnbp_and_its_backends_are_installed(tmp_path: Path) -> None:
    names = ("backends", "bench", "nnbp.bench", "nnbp.backends")
    code = f"from importlib.util import find_spec; print(*(name for name in {names} if find_spec(name)))"
    assert run_python(code, tmp_path).split() == ["nnbp.backends"]


def test_public_names_are_listed_once() -> None:
    assert len(set(nnbp.__all__)) == len(nnbp.__all__)


def test_metadata_need_three_libraries() -> None:
    requirements = metadata.requires("nnbp") or []
    plain = {re.split(r"[^\w-]", text)[0].lower() for text in requirements if "extra ==" not in text}
    assert plain == {"numpy", "safetensors", "threadpoolctl"}


def test_metadata_name_extras_licence_and_python() -> None:
    about = metadata.metadata("nnbp")
    assert set(about.get_all("Provides-Extra") or []) == EXTRAS
    assert about["License-Expression"] == "MIT"
    assert about["Requires-Python"] == ">=3.11"
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", about["Version"])


def test_the_compiled_part_is_small() -> None:
    """So that one can read it, and a wheel stays light."""
    native = ROOT / "backends" / "cpu" / "native"
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in native.iterdir()) <= 600
    for built in native.parent.glob("_native.*"):
        assert built.stat().st_size < 200_000


def test_the_package_says_that_it_is_typed() -> None:
    assert nnbp.__file__ is not None
    assert (Path(nnbp.__file__).parent / "py.typed").is_file()


def imported_names(path: Path) -> set[str]:
    """The absolute names of all that a source file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def importing(pattern: str, sources: list[Path]) -> dict[str, str]:
    """The files that import a name which matches, and the name."""
    return {path.name: name for path in sources for name in imported_names(path) if re.match(pattern, name)}


def test_nothing_imports_a_backend_statically() -> None:
    """The rule that import-linter cannot see: only an installation makes `nnbp.backends` of `backends/`."""
    assert nnbp.__file__ is not None
    package = Path(nnbp.__file__).parent
    backends = Path(str(importlib.import_module("nnbp.backends").__file__)).parent
    sources = [path for path in package.rglob("*.py") if backends not in path.parents]
    assert len(sources) > 1
    assert not importing(r"(nnbp\.)?backends(\.|$)", sources)


def test_no_test_imports_a_second_copy_of_the_backends() -> None:
    """In a checkout `backends` is importable beside `nnbp.backends`; its classes would be other ones."""
    assert not importing(r"backends(\.|$)", list(Path(__file__).parent.rglob("*.py")))


def test_messages_name_the_requirements_of_the_extras() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = {name: set(needed) for name, needed in tomllib.loads(text)["project"]["optional-dependencies"].items()}
    assert {12: extras["cuda12"], 13: extras["cuda13"]} == {version: set(names) for version, names in CUDA.items()}
    assert "cuda-core>=0.5" in extras["cuda12"] & extras["cuda13"], "nvmath-python cannot be imported without it"
    named = ("sklearn", "tables", "plot", "demo", "onnx", "mpi")
    assert set(LIBRARIES.values()) == set().union(*(extras[name] for name in named))


def test_no_command_installs_nnbp_from_a_package_index() -> None:
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    files += [path for name in ("nnbp", "backends", "bench") for path in (ROOT / name).rglob("*.py")]
    assert len(files) > 100
    wanted = re.compile(r"nnbp\[|install (--?\S+ )*[\"']*nnbp\b")
    assert not [path.name for path in files if wanted.search(path.read_text(encoding="utf-8"))]


def test_only_the_cuda_extras_bring_cupy_and_each_brings_one_wheel() -> None:
    """Two CuPy wheels in one environment break each other."""
    requirements = [text for text in metadata.requires("nnbp") or [] if text.startswith("cupy")]
    wheels = {re.split(r"extra == ", text)[1].strip("\"'"): text.split("[")[0] for text in requirements}
    assert len(requirements) == len(wheels)
    assert wheels == {"cuda12": "cupy-cuda12x", "cuda13": "cupy-cuda13x"}


def test_the_citation_is_that_of_this_version() -> None:
    """Plain `key: value` lines, which every YAML reader takes the same way."""
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    found = dict(re.findall(r"^([a-z-]+): (.+)$", text, re.MULTILINE))
    assert found["version"] == nnbp.__version__
    assert (found["cff-version"], found["title"], found["license"]) == ("1.2.0", "nnbp", "MIT")
    assert "\nauthors:\n  - name: nnbp contributors\n" in text

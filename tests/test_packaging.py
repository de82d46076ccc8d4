"""What is installed: a light import, entry points that resolve, and metadata that promise what is there."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import nnbp
from nnbp.requirements import CUDA, LIBRARIES

ROOT = Path(__file__).parents[1]
OPTIONAL = {"cupy", "matplotlib", "pandas", "scipy", "sklearn", "torch", "tqdm"}
EXTRAS = {"bench", "cuda12", "cuda13", "demo", "dev", "plot", "sklearn", "tables", "test"}
IMPORT_COST_LIMIT = 0.1  # seconds that `import nnbp` may take more than `import numpy`


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


def seconds_to_import(module: str, folder: Path) -> float:
    code = f"import time; t = time.process_time(); import {module}; print(time.process_time() - t)"
    return float(run_python(code, folder))


def test_import_brings_no_optional_library(tmp_path: Path) -> None:
    loaded = run_python("import sys, nnbp; print(*sys.modules)", tmp_path).split()
    assert "numpy" in loaded
    assert not OPTIONAL.intersection(loaded)
    assert not [name for name in loaded if name.startswith("nnbp.backends.cuda")]


def test_import_costs_little_more_than_numpy(tmp_path: Path) -> None:
    seconds_to_import("nnbp", tmp_path)  # the first import may have to write bytecode
    pairs = [(seconds_to_import("nnbp", tmp_path), seconds_to_import("numpy", tmp_path)) for _ in range(9)]
    # Of processor times on a busy machine the least is the one that the others disturbed least.
    numpy_alone = min(numpys for _, numpys in pairs)
    extra = min(ours for ours, _ in pairs) - numpy_alone
    # Where a machine is slow, NumPy takes longer, too.
    assert extra <= max(IMPORT_COST_LIMIT, numpy_alone), f"import nnbp costs {extra:.3f} s more than import numpy"


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


def test_every_public_name_exists() -> None:
    missing = [name for name in nnbp.__all__ if not hasattr(nnbp, name)]
    assert not missing
    assert len(set(nnbp.__all__)) == len(nnbp.__all__)


def test_metadata_need_three_libraries_of_which_import_takes_two(tmp_path: Path) -> None:
    requirements = metadata.requires("nnbp") or []
    plain = {re.split(r"[^\w-]", text)[0].lower() for text in requirements if "extra ==" not in text}
    assert plain == {"numpy", "safetensors", "threadpoolctl"}
    code = "import nnbp, sys; print('safetensors' in sys.modules, 'threadpoolctl' in sys.modules)"
    assert run_python(code, tmp_path).split()[1] == "False"


def test_metadata_name_extras_licence_and_python() -> None:
    about = metadata.metadata("nnbp")
    assert set(about.get_all("Provides-Extra") or []) == EXTRAS
    assert about["License-Expression"] == "MIT"
    assert about["Requires-Python"] == ">=3.11"
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", about["Version"])


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
    assert set(LIBRARIES.values()) == extras["sklearn"] | extras["tables"] | extras["plot"] | extras["demo"]


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

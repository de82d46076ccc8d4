"""Optional libraries: what pip installs for each, and the command for it.

nnbp is on no package index, so messages name the requirements and not an extra of nnbp. They are the same as in the
extras of `pyproject.toml`; a test compares them.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from nnbp.errors import MissingDependencyError

LIBRARIES = {
    "sklearn": "scikit-learn>=1.6",
    "pyarrow": "pyarrow>=17",
    "matplotlib": "matplotlib>=3.9",
    "tqdm": "tqdm>=4.66",
    "tomli_w": "tomli-w>=1",
    "onnx": "onnx>=1.17",
    "onnxruntime": "onnxruntime>=1.20",
    "mpi4py": "mpi4py>=4",
}
"""The requirement of each optional library, by the name under which Python imports it."""

CUDA = {
    12: ("cupy-cuda12x[ctk]>=14", "nvmath-python>=0.5", "cuda-bindings>=12.9,<13", "cuda-core>=0.5"),
    13: ("cupy-cuda13x[ctk]>=14", "nvmath-python>=0.5", "cuda-bindings>=13,<14", "cuda-core>=0.5"),
}
"""The requirements of a GPU, by CUDA's major version: CuPy, its CUDA libraries, and NVIDIA's bindings to cuBLAS."""


def pip_install(*requirements: str) -> str:
    """The shell command that installs these requirements."""
    return " ".join(["python -m pip install", *(f'"{requirement}"' for requirement in requirements)])


def importable(package: str) -> bool:
    """Whether Python finds a package of this name; does not import it."""
    try:
        return find_spec(package) is not None
    except ValueError:
        return True  # a module without a spec, which somebody put into sys.modules


def optional(module: str, purpose: str) -> Any:
    """A module of an optional library, imported now.

    Args:
        module: its name; the library is one of `LIBRARIES`.
        purpose: of the import, as the subject of "needs": "reading Parquet".

    Raises:
        MissingDependencyError: it cannot be imported; the message names the command that installs the library.
    """
    try:
        return import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise MissingDependencyError(
            f"{purpose} needs {library}, which cannot be imported ({error}). "
            f"Install it: {pip_install(LIBRARIES[library])}"
        ) from error

"""What all tests share: devices to run on, and what happens to tests of a GPU where none works."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from _pytest.doctest import DoctestModule
from strict_backend import StrictBackend

from nnbp import Activation, Layer, Loss, Metric, Optimizer
from nnbp.device.select import devices, gpu_required, open_backend
from nnbp.graph.backend import Backend
from nnbp.nn.initializers import Initializer
from nnbp.optim.schedules import Schedule

pytest_plugins = ["nnbp.testing.pytest_plugin", "pytester", "browser"]

_NAMED: list[Any] = [Activation, Initializer, Layer, Loss, Metric, Optimizer, Schedule]

collect_ignore = ["doubles"]
"""They have no tests, and would be imported once more under another name."""


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> Generator[None, list[Any], list[Any]]:
    """Tests have no doctests; were they searched, a test module that cannot be imported would be skipped in silence."""
    found = yield
    return [collector for collector in found if not isinstance(collector, DoctestModule)]


@cache
def _no_gpu() -> str | None:
    """Why no GPU works here, or None where one does."""
    gpus = devices()[1:]
    return None if any(gpu.works for gpu in gpus) else "; ".join(map(str, gpus))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """All cores for the whole suite; this process alone for tests that are picked, or that share one GPU."""
    picked = config.args_source is pytest.Config.ArgsSource.ARGS or config.option.keyword
    return 0 if picked or "gpu" in config.option.markexpr else None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `gpu` are skipped with the reason; with NNBP_REQUIRE_GPU=1 they fail with it."""
    if item.get_closest_marker("cupy") is not None and find_spec("cupy") is None:
        pytest.skip("CuPy is not installed")
    if item.get_closest_marker("gpu") is not None and (reason := _no_gpu()) is not None:
        if gpu_required():
            pytest.fail(f"NNBP_REQUIRE_GPU is set, and {reason}", pytrace=False)
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    """Classes that a test defines leave the registries with it."""
    kept = [(base.registry, dict(base.registry)) for base in _NAMED]
    yield
    for registry, before in kept:
        registry.clear()
        registry.update(before)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """A device by its name."""
    name: str = request.param
    return name


@pytest.fixture(params=["numpy", "strict", pytest.param("cupy", marks=pytest.mark.gpu)])
def backend(request: pytest.FixtureRequest) -> Backend:
    """A backend, opened."""
    if request.param == "strict":
        return StrictBackend()
    return open_backend("cpu" if request.param == "numpy" else "cuda", fallback=False)

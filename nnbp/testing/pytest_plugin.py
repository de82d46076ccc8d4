"""A pytest plugin: it runs tests on a GPU if one works, else on the CPU, and compares with recorded references.

Enable it in the top conftest.py of a suite: ``pytest_plugins = ["nnbp.testing.pytest_plugin"]``.

>>> def test_training(nnbp_device, nnbp_reference):  # doctest: +SKIP
...     net = nnbp.Network([4, 8, 3], loss="cross_entropy", device=nnbp_device, seed=0)
...     nnbp_reference(net, X, y)
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnbp.device.select import gpu_required, open_backend
from nnbp.errors import DeviceUnavailableError
from nnbp.formatting import json_text, shown
from nnbp.network import Network
from nnbp.serialization.model_file import State
from nnbp.testing.parity import ParityReport
from nnbp.testing.records import Record, compare_with, record
from nnbp.testing.runs import Problem

_PROPERTY = "nnbp"

_TAKEN = pytest.StashKey[dict[Path, tuple[str, int]]]()
"""For each reference, its test and its number within the test."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the plugin's options."""
    group = parser.getgroup("nnbp", "nnbp: devices and recorded references")
    add = group.addoption
    add("--nnbp-device", default="auto", metavar="D", help="auto, cpu, cuda or cuda:N; the CPU if it does not work")
    add("--nnbp-record", action="store_true", help="write references instead of comparing with them")
    where = "where they are (default: a folder 'references' beside each test module)"
    add("--nnbp-references", metavar="FOLDER", help=where)
    add("--nnbp-report", metavar="FILE", help="write the findings of the comparisons as JSON")


def pytest_configure(config: pytest.Config) -> None:
    """Prepares the report; the processes of pytest-xdist send their findings to the main process."""
    path = config.getoption("--nnbp-report")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Findings(Path(path)), "nnbp report")


def pytest_report_header(config: pytest.Config) -> str:
    """Says which device the tests use, and the reason if it is not the requested one."""
    device, reason = _device(config)
    return f"nnbp: device {device}" + (f" in place of {config.getoption('--nnbp-device')}: {reason}" if reason else "")


def _device(config: pytest.Config) -> tuple[str, str | None]:
    """The device of the tests, and the reason if it is the CPU in place of another device."""
    name = config.getoption("--nnbp-device")
    try:
        return open_backend(name, fallback=False).device, None
    except DeviceUnavailableError as error:
        return "cpu", str(error)
    except ValueError as error:
        raise pytest.UsageError(f"--nnbp-device: {error}") from error


class _Findings:
    """Collects the findings of comparisons in all processes, and writes them at the end."""

    def __init__(self, path: Path) -> None:
        self._path, self._found = path, list[dict[str, Any]]()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            found = [value for name, value in report.user_properties if name.startswith(f"{_PROPERTY}.")]
            self._found += [{"test": report.nodeid, **json.loads(str(text))} for text in found]

    def pytest_sessionfinish(self) -> None:
        self._path.write_text(json_text(self._found) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def nnbp_device(request: pytest.FixtureRequest) -> str:
    """The device of --nnbp-device if it works, else "cpu"; with NNBP_REQUIRE_GPU=1, a missing GPU fails the tests."""
    device, reason = _device(request.config)
    if reason is not None and gpu_required():
        pytest.fail(f"NNBP_REQUIRE_GPU is set, and {reason}", pytrace=False)
    return device


@pytest.fixture
def nnbp_reference(
    request: pytest.FixtureRequest, nnbp_device: str, record_property: Callable[[str, object], None]
) -> Callable[..., ParityReport | None]:
    """A function of a network and data that compares the results of `nnbp_device` with a recorded reference.

    ``nnbp_reference(net, X, y, sample_weight=None, *, isolate=False, custom=(), **options)``; the options are those of
    `nnbp.testing.record`. It returns the report, or fails the test and shows the report. With --nnbp-record, it writes
    the reference and returns None; without it, a missing reference fails the test. The verdict is a property of the
    test, and so appears in a JUnit report.
    """
    numbers, config = count(1), request.config
    taken = config.stash.setdefault(_TAKEN, {})
    folder = config.getoption("--nnbp-references")
    beside = request.path.parent / "references" / request.path.stem
    place = Path(folder) / _relative(request.path, config.rootpath) if folder else beside
    test = request.node.nodeid.partition("::")[2]

    def check(
        net: Network,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        isolate: bool = False,
        custom: Sequence[type] = (),
        **options: Any,
    ) -> ParityReport | None:
        number = next(numbers)
        name = re.sub(r"[^\w.]+", "-", test).strip("-") + (f"-{number}" if number > 1 else "")
        path = place / f"{name}.safetensors"
        if taken.setdefault(path, (test, number)) != (test, number):
            pytest.fail(f"{taken[path][0]} and {test} have the same reference, {name}. Rename one.", pytrace=False)
        if config.getoption("--nnbp-record"):
            place.mkdir(parents=True, exist_ok=True)
            record(net.copy(device=nnbp_device), X, y, path, sample_weight, **options)
            return None
        if not path.exists():
            pytest.fail(
                f"There is no reference {shown(str(path))}. Write it with `pytest --nnbp-record` on the device that is "
                "to be the reference.",
                pytrace=False,
            )
        other = ", ".join(_differing(net, X, y, sample_weight, path, custom, options))
        if other:
            pytest.fail(
                f"The test and its reference {shown(str(path))} differ in {other}. If that is intended, record the "
                "reference again with `pytest --nnbp-record`.",
                pytrace=False,
            )
        report = compare_with(path, device=nnbp_device, isolate=isolate, custom=custom)
        worst = max(report.rows, key=lambda row: row.ratio)
        found = {
            "reference": name, "passed": report.passed, "devices": report.devices, "arithmetic": report.arithmetic,
            "largest ratio to the bound": worst.ratio, "of": worst.name,
            "faults": [f"{row.name} on {row.device}: {row.verdict}" for row in report.rows if not row.passed],
        }  # fmt: skip
        record_property(f"{_PROPERTY}.{name}", json_text(found))
        if not report.passed:
            pytest.fail(str(report), pytrace=False)
        return report

    return check


def _relative(path: Path, root: Path) -> Path:
    """The path of a test module from the root of the suite, without its suffix."""
    return (path.relative_to(root) if path.is_relative_to(root) else Path(path.name)).with_suffix("")


def _differing(
    net: Network, X: Any, y: Any, w: Any, path: Path, custom: Sequence[type], options: dict[str, Any]
) -> Iterator[str]:
    """The parts in which the test differs from the problem of its reference."""
    recorded, own = Record.read(path, custom), net.copy(device="cpu")
    own.prepare(X, y)
    now, then = Problem.of(own, X, y, w, **options), recorded.problem
    file = own.to_file(own.model.parameters.values, State({}))
    if file.architecture != recorded.file.architecture or net.precision != recorded.precision:
        yield "network"
    elif any(not np.allclose(array, recorded.file.arrays[name], rtol=1e-5) for name, array in file.arrays.items()):
        yield "parameters"
    for name in ("X", "y", "w"):
        pair = getattr(now, name), getattr(then, name)
        if not (all(array is None for array in pair) or _same(*pair)):
            yield "sample_weight" if name == "w" else name
    if (repr(now.rule), now.learning_rate, now.epochs, now.batch_size) != (
        repr(then.rule), then.learning_rate, then.epochs, then.batch_size,
    ):  # fmt: skip
        yield "training"


def _same(one: Any, other: Any) -> bool:
    return one is not None and other is not None and np.array_equal(one, other, equal_nan=True)

"""The probe: each reason for which a GPU does not work, shown by a fake CuPy, and the real CuPy without a driver."""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import warnings
from types import ModuleType
from typing import Any

import pytest
from fake_cupy import CASES, CUDARuntimeError, FakeCupy

from nnbp.device import probe as probe_module
from nnbp.device.probe import Reason, cuda_name, probe, refresh


def test_every_reason_has_a_case() -> None:
    # An index that does not exist is asked for in tests of its own.
    assert {reason for reason, *_ in CASES.values()} == set(Reason) - {Reason.NO_SUCH_INDEX}


def test_each_failure_has_its_reason_message_and_fix(case: tuple[Reason, str, str]) -> None:
    reason, message, fix = case
    verdict = probe()
    assert verdict.reason is reason
    assert not verdict.works
    assert message in verdict.message
    assert fix in verdict.fix
    assert verdict.fix.count("`") % 2 == 0
    for text in (verdict.message, verdict.fix):
        assert "\n" not in text
        assert not text.endswith((".", " "))


def test_hidden_devices_are_named_as_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCupy(count=0).install(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    verdict = probe()
    assert (verdict.reason, verdict.fix) == (Reason.NO_DEVICE, "`unset CUDA_VISIBLE_DEVICES`")
    assert "CUDA_VISIBLE_DEVICES is ''" in verdict.message


@pytest.mark.parametrize(("platform", "said"), [("win32", "nvidia.com/drivers"), ("darwin", "macOS has no driver")])
def test_other_systems_get_other_advice(monkeypatch: pytest.MonkeyPatch, platform: str, said: str) -> None:
    monkeypatch.setattr(probe_module.sys, "platform", platform)
    FakeCupy(installed=False, wheels={}, driver=0).install(monkeypatch)
    assert said in probe().fix
    assert "ubuntu" not in probe().fix


def test_a_gpu_is_probed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCupy(count=2).install(monkeypatch)
    assert all(probe(index).works for index in (1, 0, 1, 0))
    assert fake.entered == [1, 0]
    refresh()
    probe(1)
    assert fake.entered == [1, 0, 1]


def test_a_forked_child_probes_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCupy().install(monkeypatch)
    assert probe().works
    fake.kernel_error = CUDARuntimeError("cudaErrorInitializationError: initialization error")
    assert probe().works
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert probe().reason is Reason.DEVICE_ERROR


def test_a_module_that_is_no_cupy_does_not_make_the_probe_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCupy().install(monkeypatch)
    monkeypatch.setitem(sys.modules, "cupy", ModuleType("cupy"))
    verdict = probe()
    assert verdict.reason is Reason.CUPY_IMPORT_FAILED
    assert "has no attribute 'cuda'" in verdict.message


def test_an_interrupt_is_not_taken_for_a_broken_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCupy(gemm_error=KeyboardInterrupt()).install(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        probe()


def test_warnings_of_cupy_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCupy().install(monkeypatch)
    cupy = sys.modules["cupy"]
    matmul = cupy.matmul
    monkeypatch.setattr(cupy, "matmul", lambda a, b: (warnings.warn("TF32", stacklevel=1), matmul(a, b))[1])
    assert probe().works
    assert fake.entered == [0]


class FakeDriver:
    """libcuda, as ctypes loads it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def cuDriverGetVersion(self, pointer: Any) -> int:
        pointer._obj.value = self.number
        return 0


@pytest.mark.parametrize(("number", "found"), [(13020, 13020), (0, None)])
def test_the_driver_tells_its_cuda_version(monkeypatch: pytest.MonkeyPatch, number: int, found: int | None) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver(number))
    assert probe_module.cuda_of_driver() == found


def test_without_libcuda_there_is_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> FakeDriver:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert probe_module.cuda_of_driver() is None


def test_cuda_versions_read_as_people_write_them() -> None:
    assert [cuda_name(number) for number in (11080, 12000, 13020)] == ["11.8", "12.0", "13.2"]


def in_fresh_python(code: str, **environment: str) -> Any:
    """What a new interpreter, free of fakes, prints as JSON."""
    inherited = {name: value for name, value in os.environ.items() if name != "NNBP_REQUIRE_GPU"}
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=inherited | environment,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


needs_cupy_alone = pytest.mark.skipif(
    not probe_module.cupy_distributions() or probe_module.cuda_of_driver() is not None,
    reason="needs the CuPy wheel on a machine without an NVIDIA driver",
)


@pytest.mark.cupy
@needs_cupy_alone
def test_real_cupy_without_a_driver_is_told_from_an_old_driver() -> None:
    code = """
import json, warnings
from nnbp.device.select import devices, open_backend
from nnbp.device.probe import probe
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    opened = [open_backend(device).device for device in ("auto", "cuda", "cuda:1")]
print(json.dumps({
    "reason": probe().reason, "opened": opened, "rows": [info.name for info in devices()],
    "warnings": [[item.category.__name__, str(item.message)] for item in caught],
}))
"""
    found = in_fresh_python(code)
    assert found["reason"] == "no-driver"
    assert found["opened"] == ["cpu", "cpu", "cpu"]
    assert found["rows"] == ["cpu", "cuda"]
    assert [name for name, _ in found["warnings"]] == ["DeviceFallbackWarning"] * 2
    assert all("no NVIDIA driver is installed. To fix it: " in text for _, text in found["warnings"])


@pytest.mark.cupy
@needs_cupy_alone
def test_real_cupy_without_a_driver_fails_where_a_gpu_is_required() -> None:
    code = """
import json
from nnbp.device.select import open_backend
from nnbp.errors import DeviceUnavailableError
try:
    print(json.dumps(open_backend("auto").device))
except DeviceUnavailableError as error:
    print(json.dumps(str(error)))
"""
    assert "no NVIDIA driver is installed" in in_fresh_python(code, NNBP_REQUIRE_GPU="1")


@pytest.mark.cupy
@needs_cupy_alone
@pytest.mark.parametrize("library", ["nvrtc", "cublas"])
def test_what_real_cupy_says_of_a_missing_library_is_understood(library: str) -> None:
    """The texts are CuPy's, cuda-pathfinder's and the loader's own, and change with their versions."""
    code = f"""
import json, cupy
from nnbp.device.probe import _diagnose, cupy_distributions
try:
    if {library!r} == "nvrtc":
        cupy.cuda.nvrtc.getVersion()
    else:
        import cupy_backends.cuda.libs.cublas
except Exception as error:
    verdict = _diagnose(error, cupy.cuda.runtime, *cupy_distributions())
    print(json.dumps([verdict.reason, verdict.message]))
else:
    print("null")
"""
    found = in_fresh_python(code)
    if found is None:
        pytest.skip(f"{library} is installed here")
    assert found[0] == "cuda-library-missing"
    assert re.match(rf"(lib)?{library}\S* is missing", found[1])

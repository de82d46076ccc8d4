"""Devices: what users may write, which backend opens, and what is said and raised where no GPU works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_cupy import FakeCupy

from nnbp.device import select
from nnbp.device.probe import Reason, probe
from nnbp.device.select import DeviceInfo, DeviceSpec, devices, open_backend, parse_device
from nnbp.errors import DeviceFallbackWarning, DeviceUnavailableError


@pytest.mark.parametrize(
    ("device", "spec"),
    [
        ("auto", DeviceSpec("auto")),
        ("cpu", DeviceSpec("cpu")),
        ("cuda", DeviceSpec("cuda")),
        ("cuda:0", DeviceSpec("cuda", 0)),
        ("cuda:12", DeviceSpec("cuda", 12)),
    ],
)
def test_parse_device(device: str, spec: DeviceSpec) -> None:
    assert parse_device(device) == spec


@pytest.mark.parametrize(
    "device", ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:1.0", "cuda: 1", "cuda:1\n", "cuda:١", "cpu:0"]
)
def test_what_is_no_device_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match='one of "auto", "cpu", "cuda" and "cuda:N"') as caught:
        open_backend(device)
    assert repr(device) in str(caught.value)


@pytest.mark.parametrize("device", [None, 0, b"cuda"])
def test_what_is_no_text_is_refused(device: Any) -> None:
    with pytest.raises(TypeError, match=re.escape(f"received {device!r}")):
        parse_device(device)


def test_cuda_falls_back_with_one_warning_at_the_callers_line(case: tuple[Reason, str, str]) -> None:
    with pytest.warns(DeviceFallbackWarning) as caught:
        backend = open_backend("cuda")
    assert backend.device == "cpu"
    (warning,) = caught
    assert case[1] in str(warning.message)
    assert case[2] in str(warning.message)
    assert Path(warning.filename) == Path(__file__)


def test_auto_falls_back_in_silence(case: tuple[Reason, str, str]) -> None:
    assert open_backend("auto").device == "cpu"
    assert open_backend().device == "cpu"


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0"])
def test_without_fallback_the_same_text_is_an_error(case: tuple[Reason, str, str], device: str) -> None:
    verdict = probe()
    with pytest.raises(DeviceUnavailableError, match="fallback=False") as caught:
        open_backend(device, fallback=False)
    assert f"device={device!r}: {verdict.message}. To fix it: {verdict.fix}." in str(caught.value)


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0"])
def test_a_required_gpu_is_no_fallback(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    FakeCupy(count=0).install(monkeypatch)
    monkeypatch.setenv("NNBP_REQUIRE_GPU", "1")
    with pytest.raises(DeviceUnavailableError, match=r"finds no GPU.*NNBP_REQUIRE_GPU is set"):
        open_backend(device)
    assert open_backend("cpu").device == "cpu"


@pytest.mark.parametrize("value", ["", "0"])
def test_a_gpu_is_not_required_by_nothing_or_0(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    FakeCupy(count=0).install(monkeypatch)
    monkeypatch.setenv("NNBP_REQUIRE_GPU", value)
    assert open_backend("auto").device == "cpu"


def test_each_call_warns_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCupy(count=0).install(monkeypatch)

    def twice() -> None:
        open_backend("cuda")
        open_backend("cuda:0")

    with pytest.warns(DeviceFallbackWarning) as caught:
        twice()
    assert [warning.lineno for warning in caught] == [caught[0].lineno, caught[0].lineno + 1]
    assert "device='cuda'" in str(caught[0].message)
    assert "device='cuda:0'" in str(caught[1].message)


def test_the_warning_skips_the_frames_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Network(device="cuda")` reaches `open_backend` through other modules of nnbp; users are shown their own line."""
    FakeCupy(count=0).install(monkeypatch)
    inside: dict[str, Any] = {"open_backend": open_backend}
    code = "def inner():\n    return open_backend('cuda')\ndef outer():\n    return inner()\n"
    exec(compile(code, str(Path(select.__file__).parents[1] / "network.py"), "exec"), inside)
    line = sys._getframe().f_lineno
    with pytest.warns(DeviceFallbackWarning) as caught:
        inside["outer"]()
    assert [(Path(warning.filename), warning.lineno) for warning in caught] == [(Path(__file__), line + 2)]


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0"])
def test_a_gpu_that_works_is_taken(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    fake = FakeCupy().install(monkeypatch)
    backend = open_backend(device, fallback=False)
    assert (backend.name, backend.device) == ("cupy", "cuda:0")
    assert fake.entered == [0]


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:1"])
def test_the_first_gpu_that_works_is_taken(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    FakeCupy(count=3, wrong=(0,)).install(monkeypatch)
    assert open_backend(device).device == "cuda:1"


def test_a_named_gpu_is_not_replaced_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCupy(count=3, wrong=(0,)).install(monkeypatch)
    with pytest.warns(DeviceFallbackWarning, match="GPU 0 computes wrongly"):
        assert open_backend("cuda:0").device == "cpu"


@pytest.mark.parametrize(("count", "there"), [(1, "1 GPU, cuda:0"), (2, "2 GPUs, cuda:0 to cuda:1")])
def test_an_index_that_does_not_exist(monkeypatch: pytest.MonkeyPatch, count: int, there: str) -> None:
    fake = FakeCupy(count=count).install(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    assert probe(count).reason is Reason.NO_SUCH_INDEX
    verdict = probe(7)
    assert (verdict.reason, verdict.count, fake.entered) == (Reason.NO_SUCH_INDEX, count, [])
    assert f"there is no cuda:7: CuPy sees {there}" in verdict.message
    assert 'device="cuda:0"' in verdict.fix
    assert "CUDA_VISIBLE_DEVICES is '3,4'" in verdict.fix
    with pytest.warns(DeviceFallbackWarning, match="there is no cuda:7"):
        assert open_backend("cuda:7").device == "cpu"


def test_devices_lists_the_cpu_and_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCupy(count=2, wrong=(1,), driver=13020).install(monkeypatch)
    cpu, first, second = devices()
    assert (cpu.name, cpu.works, cpu.reason) == ("cpu", True, None)
    assert cpu.description
    expected = DeviceInfo(
        "cuda:0", True, None, "", "", "Fake GPU 0", 4 * 2**30, 3 * 2**30, "9.0", "13.2", "13.0", "580.65.06"
    )
    assert first == expected
    assert (second.name, second.works, second.reason) == ("cuda:1", False, Reason.WRONG_RESULT)
    assert str(first) == (
        "cuda:0 (Fake GPU 0, 4.0 GiB, 3.0 GiB free, compute capability 9.0, driver 580.65.06 for CUDA 13.2, "
        "CUDA runtime 13.0) works"
    )
    assert "cuda:1 (Fake GPU 1" in str(second)
    assert ") does not work: GPU 1 computes wrongly" in str(second)


def test_devices_has_one_row_with_the_reason_where_no_gpu_is_counted(case: tuple[Reason, str, str]) -> None:
    cpu, *gpus = devices()
    assert cpu.name == "cpu"
    (gpu,) = gpus
    assert gpu.name == ("cuda:0" if probe().count else "cuda")
    assert gpu.reason is case[0]
    assert case[1] in str(gpu)
    assert case[2] in str(gpu)


def test_a_card_that_tells_nothing_is_listed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCupy(wrong=(0,)).install(monkeypatch)
    monkeypatch.delattr(sys.modules["cupy.cuda.runtime"], "getDeviceProperties")
    assert str(devices()[1]).startswith("cuda:0 does not work: GPU 0")


def test_host_memory_is_plausible() -> None:
    cpu = devices()[0]
    if sys.platform != "win32":
        assert cpu.memory_total is not None
        assert cpu.memory_total > 2**26
    assert cpu.memory_free is None or cpu.memory_total is None or 0 < cpu.memory_free <= cpu.memory_total


def test_a_system_without_proc_still_has_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path, **_: object) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    cpu = devices()[0]
    assert cpu.works
    assert cpu.description
    assert cpu.memory_free is None


def test_the_cpu_needs_no_cupy() -> None:
    code = (
        "import sys; from nnbp.device.select import open_backend; print(open_backend('cpu').device); "
        "print([name for name in sys.modules if name.startswith('cupy')])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["cpu", "[]"]

"""`nnbp doctor`: its page, its JSON, its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from fake_cupy import INSUFFICIENT, CUDARuntimeError, FakeCupy

from nnbp.cli import doctor
from nnbp.cli.main import main
from nnbp.device.host import blas
from nnbp.device.probe import refresh
from nnbp.graph.backend import backend_class
from nnbp.requirements import CUDA, LIBRARIES, pip_install


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("NNBP_REQUIRE_GPU", "CUDA_VISIBLE_DEVICES", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "90")
    yield
    refresh()


def run(*arguments: str) -> int:
    return main(["doctor", *arguments])


def test_the_page_is_aligned_and_breaks_no_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    FakeCupy(installed=False, wheels={}, driver=0).install(monkeypatch)
    assert run() == 0
    lines = capsys.readouterr().out.splitlines()
    titles = [line for line in lines if line and not line.startswith(" ")]
    assert titles == ["Software", "Machine", "Devices"]
    rows = [line for line in lines if line.startswith("  ")]
    column = len("  threadpoolctl  ")
    assert {line[column - 2 : column] for line in rows} == {"  "}
    assert all(line[column] != " " for line in rows)
    assert max(len(line) for line in lines if "pip install" not in line) <= 90
    assert not [line for line in lines if line != line.rstrip()]
    fix = " ".join(line.strip() for line in lines[lines.index("Devices") :])
    assert "cpu works cuda does not work: " in " ".join(fix.split())
    for command in ("`sudo ubuntu-drivers install`", f"`{pip_install(*CUDA[12])}`"):
        assert sum(command in line for line in lines) == 1 or sys.platform != "linux"


def test_the_page_shows_each_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    FakeCupy(count=2, wrong=(1,), driver=13020).install(monkeypatch)
    assert run() == 0
    page = capsys.readouterr().out
    words = " ".join(page.split())
    assert "cupy 14.2.0 (cupy-cuda13x), NVRTC 13.0, cuBLAS 13.1.0, nvmath-python 1.0.0 " in words
    assert (
        "cuda:0 works: Fake GPU 0, 4.0 GiB, 3.0 GiB free, compute capability 9.0, "
        "driver 580.65.06 for CUDA 13.2, CUDA runtime 13.0"
    ) in words
    assert "cuda:1 does not work: GPU 1 computes wrongly" in words
    assert "Fake GPU 1" in words
    assert "fix: `python -m pip install --upgrade --force-reinstall" in words


def test_the_page_says_which_cuda_library_does_not_load(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = RuntimeError('Failure finding "libnvrtc.so.13": No such file')
    FakeCupy(compiler_error=missing, nvmath=None, driver_name=None).install(monkeypatch)
    run()
    words = " ".join(capsys.readouterr().out.split())
    assert "cupy 14.2.0 (cupy-cuda13x) NVRTC does not load" in words
    assert 'does not load: RuntimeError: Failure finding "libnvrtc.so.13": No such file nvmath-python not inst' in words
    assert words.count(pip_install(*CUDA[13])) == 1, "the fix of the device is that of the libraries"
    assert "cuBLAS" not in words
    assert "compute capability 9.0, driver for CUDA 13.0" in words
    FakeCupy(cublas_error=OSError("libcublas.so.13: cannot open")).install(monkeypatch)
    run("--json")
    found = {library["name"]: library for library in json.loads(capsys.readouterr().out)["cuda_libraries"]}
    assert {name: library["loads"] for name, library in found.items()} == {
        "CuPy": True, "NVRTC": True, "cuBLAS": False, "nvmath-python": True,
    }  # fmt: skip
    assert found["cuBLAS"] == {
        "name": "cuBLAS", "installed": True, "version": None, "message": "OSError: libcublas.so.13: cannot open",
        "loads": False,
    }  # fmt: skip


def test_without_a_driver_the_page_says_what_else_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_driver = {"count_error": CUDARuntimeError(INSUFFICIENT), "driver": 0}
    FakeCupy(cublas_error=OSError("no libcuda.so.1"), **no_driver).install(monkeypatch)
    run()
    page = capsys.readouterr().out
    assert "cuBLAS" not in page, "it needs the driver"
    assert "pip install" not in page.partition("Machine")[0]
    FakeCupy(nvmath=None, **no_driver).install(monkeypatch)
    run()
    words = " ".join(capsys.readouterr().out.split())
    assert f"nvmath-python not installed fix: `{pip_install(*CUDA[13])}`" in words


def test_without_cupy_its_libraries_are_not_on_the_page(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    FakeCupy(installed=False, wheels={}, driver=0).install(monkeypatch)
    run()
    page = capsys.readouterr().out
    assert "NVRTC" not in page
    run("--json")
    libraries = json.loads(capsys.readouterr().out)["cuda_libraries"]
    assert {library["name"]: library["installed"] for library in libraries}["CuPy"] is False


def test_json_holds_what_the_page_shows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    FakeCupy(count=0).install(monkeypatch)
    assert run("--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["python"]["version"] == ".".join(map(str, sys.version_info[:3]))
    assert set(report["packages"]) == {"nnbp", "numpy", "safetensors", "threadpoolctl"}
    assert all(report["packages"].values())
    assert report["cupy"] == {"cupy-cuda13x": "14.2.0"}
    assert report["system"]["cores"] >= report["system"]["usable_cores"] >= 1
    assert report["blas"]["name"]
    assert [device["name"] for device in report["devices"]] == ["cpu", "cuda"]
    assert report["devices"][1]["reason"] == "no-device"
    assert report["devices"][1]["fix"]


def test_json_holds_the_facts_of_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    FakeCupy().install(monkeypatch)
    assert run("--json") == 0
    gpu = json.loads(capsys.readouterr().out)["devices"][1]
    assert gpu == {
        "name": "cuda:0", "works": True, "reason": None, "message": "", "fix": "", "description": "Fake GPU 0",
        "memory_total": 4 * 2**30, "memory_free": 3 * 2**30, "compute_capability": "9.0", "cuda_driver": "13.0",
        "cuda_runtime": "13.0", "driver": "580.65.06",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fake", "code"), [(FakeCupy(), 0), (FakeCupy(count=2, wrong=(0,)), 0), (FakeCupy(count=0), 6)]
)
def test_a_required_gpu_decides_the_exit_code(monkeypatch: pytest.MonkeyPatch, fake: FakeCupy, code: int) -> None:
    fake.install(monkeypatch)
    assert run("--require-gpu") == code
    assert run() == 0


def test_threads_without_threadpoolctl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    FakeCupy(count=0).install(monkeypatch)
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    run()
    words = " ".join(capsys.readouterr().out.split())
    assert "threads unknown: threadpoolctl is not installed, OPENBLAS_NUM_THREADS=3" in words


@pytest.mark.parametrize(
    ("reason", "row"),
    [
        (None, "Compiled part used: steps on the CPU run in C"),
        ("it is too old", "Compiled part not used: it is too old"),
    ],
)
def test_the_page_says_whether_the_compiled_part_is_used(
    reason: str | None, row: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    FakeCupy(count=0).install(monkeypatch)
    monkeypatch.setattr(backend_class("numpy"), "compiled", staticmethod(lambda: reason))
    run()
    assert row in " ".join(capsys.readouterr().out.split())
    run("--json")
    assert json.loads(capsys.readouterr().out)["compiled"] == {"used": reason is None, "reason": reason}


def test_threads_are_those_of_the_blas() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    with threadpoolctl.threadpool_limits(1, "blas"):
        assert blas()["threads"] == 1


def test_missing_libraries_have_one_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    FakeCupy(count=0).install(monkeypatch)
    monkeypatch.setattr(doctor, "installed", {"nnbp": "0.1.0", "matplotlib": "3.9", "tqdm": "4.66"}.get)
    run()
    words = " ".join(capsys.readouterr().out.split())
    assert "optional matplotlib 3.9, tqdm 4.66 " in words
    missing = [requirement for library, requirement in LIBRARIES.items() if library not in {"matplotlib", "tqdm"}]
    names = ", ".join(requirement.partition(">=")[0] for requirement in missing)
    assert f"not installed {names}; to add: `{pip_install(*missing)}`" in words
    assert "numpy not installed safetensors" in words


def test_optional_libraries_are_not_imported() -> None:
    code = (
        "import argparse, sys; from nnbp.cli import doctor; "
        "doctor.run(argparse.Namespace(json=True, require_gpu=False)); "
        "print(*sys.modules, file=sys.stderr)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "NNBP_REQUIRE_GPU"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["devices"][0]["name"] == "cpu"
    loaded = set(result.stderr.split())
    assert "numpy" in loaded
    assert not loaded & {"sklearn", "pandas", "pyarrow", "matplotlib", "tqdm", "tomli_w"}

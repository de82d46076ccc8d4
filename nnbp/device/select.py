"""Devices: "auto", "cpu", "cuda", "cuda:1" become a backend that works, or the reason why not.

``"auto"`` takes a GPU that works, else the CPU, and says nothing. ``"cuda"`` and ``"cuda:1"`` fall back to the CPU
with one `DeviceFallbackWarning`. ``fallback=False``, and NNBP_REQUIRE_GPU=1 in the environment, allow no CPU in
place of a GPU: if none works, all three raise `DeviceUnavailableError`. ``"cpu"`` is always the CPU.

A backend that another package registers as ``name`` in the entry-point group ``nnbp.backends`` is opened by ``"name"``,
its class called without arguments, or by ``"name:1"``, its class called with the number. Nothing stands in for it.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnbp.device import host
from nnbp.device.cuda_libraries import driver_version
from nnbp.device.probe import Reason, cuda_name, probe
from nnbp.errors import DeviceFallbackWarning, DeviceUnavailableError, NnbpError
from nnbp.formatting import shown
from nnbp.graph.backend import Backend, backend_class, registered

_SHIPPED = ("numpy", "cupy")
"""The backends of "cpu" and of "cuda", which go by these names of devices."""

_PACKAGE = str(Path(__file__).parents[1]) + os.sep


@dataclass(frozen=True)
class DeviceSpec:
    """A device as users write it, taken apart."""

    kind: str
    index: int | None = None


def parse_device(device: str) -> DeviceSpec:
    """Takes a device apart.

    Raises:
        ValueError, TypeError: it is none of the forms above.

    >>> parse_device("cuda:1")
    DeviceSpec(kind='cuda', index=1)
    """
    rule = f'A device is one of "auto", "cpu", "cuda" and "cuda:N", N counted from 0; received {shown(device)}.'
    if not isinstance(device, str):
        raise TypeError(f'{rule} Give a string, such as device="cuda:0".')
    match = re.fullmatch(r"(auto|cpu|cuda)|cuda:([0-9]+)", device)
    if match is not None:
        return DeviceSpec(match[1] or "cuda", None if match[2] is None else int(match[2]))
    own = [name for name in registered() if name not in _SHIPPED]
    kind, colon, index = device.partition(":")
    if kind in own and (not colon or re.fullmatch("[0-9]+", index)):
        return DeviceSpec(kind, int(index) if colon else None)
    near = 'Write "cuda" for a GPU.' if device.lower().startswith(("gpu", "cu")) else 'Write "auto" for the best one.'
    others = f" Backends of other packages here: {', '.join(own)}." if own else ""
    raise ValueError(f"{rule} {near}{others}")


def reopening(backend: Backend) -> str:
    """The device that opens such a backend again, in another process, too.

    Raises:
        NnbpError: the backend is one that no package has registered.
    """
    if backend.name in _SHIPPED:
        return backend.device
    if backend.name not in registered():
        raise NnbpError(
            "Only a backend that is an entry point in the group 'nnbp.backends' is found again in another process; "
            f"received one of the name {backend.name!r}, which is none. Register it, or move the network first, as by "
            "net.copy().to('cpu')."
        )
    _, colon, index = backend.device.rpartition(":")
    return f"{backend.name}:{index}" if colon and index.isdecimal() else backend.name


def gpu_required() -> bool:
    """Whether the environment demands a GPU: NNBP_REQUIRE_GPU is set, and to something else than 0."""
    return os.environ.get("NNBP_REQUIRE_GPU", "") not in ("", "0")


def open_backend(device: str = "auto", *, fallback: bool = True) -> Backend:
    """A backend on the device that was asked for, or on the CPU by the rules at the top of this module.

    Args:
        device: "auto", "cpu", "cuda" (the first GPU that works), "cuda:N", or a registered backend's name.
        fallback: whether the CPU may stand in for a GPU.

    Raises:
        ValueError, TypeError: this is no device.
        DeviceUnavailableError: no GPU works, and `fallback` is False or NNBP_REQUIRE_GPU is set.

    >>> open_backend("cpu").device
    'cpu'
    """
    spec = parse_device(device)
    if spec.kind == "cpu":
        return backend_class("numpy")()
    if spec.kind not in ("auto", "cuda"):
        return backend_class(spec.kind)(*(() if spec.index is None else (spec.index,)))
    index = _first_working() if spec.index is None else spec.index
    verdict = probe(index)
    if verdict.works:
        return backend_class("cupy")(index)
    text = f"No GPU works for device={device!r}: {verdict.message}. To fix it: {verdict.fix}."
    if not fallback or gpu_required():
        rule = "NNBP_REQUIRE_GPU is set" if gpu_required() else "fallback=False"
        raise DeviceUnavailableError(f"{text} The CPU does not stand in for it: {rule}.")
    if spec.kind != "auto":
        text += ' The CPU stands in for it; device="auto" does the same without this warning.'
        warnings.warn(text, DeviceFallbackWarning, stacklevel=_users_level())
    return backend_class("numpy")()


def _first_working() -> int:
    """The index of the first GPU that works; 0, whose reason is then reported, if none does."""
    return next((index for index in range(probe(0).count) if probe(index).works), 0)


def _users_level() -> int:
    """The `stacklevel` at which a warning of the caller points at the first line outside this package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    return level


@dataclass(frozen=True)
class DeviceInfo:
    """A device of this machine, and whether it works.

    Attributes:
        name: as users write it; "cuda" for all GPUs if they could not be counted.
        works: whether the engine can run on it.
        reason: why not; None if it works.
        message: the reason as a text.
        fix: what would mend it; commands stand in backticks.
        description: the model of the card or processor; empty if unknown.
        memory_total: in bytes; None if unknown, as all that follows.
        memory_free: in bytes.
        compute_capability: of the card, "9.0".
        cuda_driver: the newest CUDA version that the driver knows, "13.0".
        cuda_runtime: the CUDA version that CuPy brings, "12.9".
        driver: the version of the driver, "580.65.06".
    """

    name: str
    works: bool
    reason: Reason | None = None
    message: str = ""
    fix: str = ""
    description: str = ""
    memory_total: int | None = None
    memory_free: int | None = None
    compute_capability: str | None = None
    cuda_driver: str | None = None
    cuda_runtime: str | None = None
    driver: str | None = None

    def facts(self) -> str:
        """What is known of the device, in one line."""
        parts = (
            self.description,
            "" if self.memory_total is None else f"{self.memory_total / 2**30:.1f} GiB",
            "" if self.memory_free is None else f"{self.memory_free / 2**30:.1f} GiB free",
            self.compute_capability and f"compute capability {self.compute_capability}",
            self.cuda_driver and " ".join(filter(None, ("driver", self.driver, f"for CUDA {self.cuda_driver}"))),
            self.cuda_runtime and f"CUDA runtime {self.cuda_runtime}",
        )
        return ", ".join(filter(None, parts))

    def __str__(self) -> str:
        name = f"{self.name} ({self.facts()})" if self.facts() else self.name
        return f"{name} works" if self.works else f"{name} does not work: {self.message}. To fix it: {self.fix}."


def devices() -> list[DeviceInfo]:
    """What is there: the CPU first, then each GPU; one row "cuda" with the reason if no GPU could be counted."""
    total, free = host.memory()
    cpu = DeviceInfo("cpu", True, description=host.processor(), memory_total=total, memory_free=free)
    first = probe(0)
    if first.count == 0:
        return [cpu, DeviceInfo("cuda", False, first.reason, first.message, first.fix)]
    return [cpu, *map(_gpu, range(first.count))]


def _gpu(index: int) -> DeviceInfo:
    """A card that was counted; a card that fails may also fail to tell about itself."""
    verdict = probe(index)
    cupy = sys.modules["cupy"]
    facts: dict[str, Any] = {"driver": driver_version()}
    with suppress(Exception):
        card = cupy.cuda.Device(index)
        facts["description"] = cupy.cuda.runtime.getDeviceProperties(index)["name"].decode()
        facts["compute_capability"] = f"{card.compute_capability[:-1]}.{card.compute_capability[-1]}"
        facts["cuda_driver"] = cuda_name(cupy.cuda.runtime.driverGetVersion())
        facts["cuda_runtime"] = cuda_name(cupy.cuda.runtime.runtimeGetVersion())
        facts["memory_free"], facts["memory_total"] = card.mem_info
    return DeviceInfo(f"cuda:{index}", verdict.works, verdict.reason, verdict.message, verdict.fix, **facts)

"""`nnbp doctor`: versions, the machine, which devices work, and the commands that fix or add the rest."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import textwrap
from dataclasses import asdict
from typing import Any

from nnbp.cli.common import Exit
from nnbp.cli.options import add_shared
from nnbp.cli.output import two_columns
from nnbp.device.cuda_libraries import libraries
from nnbp.device.host import blas
from nnbp.device.probe import Reason, cuda_command, cupy_distributions
from nnbp.device.select import DeviceInfo, devices
from nnbp.formatting import counted, json_text
from nnbp.graph.backend import backend_class
from nnbp.requirements import LIBRARIES, pip_install
from nnbp.version import installed

_GLUE = "\N{NO-BREAK SPACE}"

_NEEDED = ("nnbp", "numpy", "safetensors", "threadpoolctl")

_OPTIONAL = {requirement.partition(">")[0]: requirement for requirement in LIBRARIES.values()}
"""The requirement of each optional library, by the name under which it is installed."""

HELP = "show versions, BLAS, memory, and which devices work or how to fix them"
DESCRIPTION = "Shows versions, BLAS and memory, and for each device that it works, or the reason and the fix."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `nnbp doctor`."""
    add_shared(parser, "--json")
    parser.add_argument("--require-gpu", action="store_true", help=f"exit {Exit.RESOURCES} if no GPU works")


def run(arguments: argparse.Namespace) -> int:
    """Prints the report; 0, or 6 if a GPU is required and none works."""
    found = devices()
    report = _report(found)
    print(json_text(report) if arguments.json else _page(report, found))
    works = any(device.works for device in found if device.name != "cpu")
    return Exit.RESOURCES if arguments.require_gpu and not works else Exit.DONE


def _report(found: list[DeviceInfo]) -> dict[str, Any]:
    cpu = found[0]
    return {
        "python": {
            "version": platform.python_version(),
            "implementation": platform.python_implementation(),
            "executable": sys.executable,
        },
        "packages": {name: installed(name) for name in _NEEDED},
        "cupy": cupy_distributions(),
        "cuda_libraries": [asdict(library) | {"loads": library.loads} for library in libraries()],
        "optional": {name: installed(name) for name in _OPTIONAL},
        "system": {
            "name": f"{platform.system()} {platform.release()}",
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_total": cpu.memory_total,
            "memory_free": cpu.memory_free,
        },
        "blas": blas(),
        "compiled": _compiled(),
        "devices": [asdict(device) for device in found],
    }


def _compiled() -> dict[str, Any]:
    """Whether steps on the CPU run in the compiled part of the backend, and the reason if not."""
    numpy_backend: Any = backend_class("numpy")
    reason = numpy_backend.compiled()
    return {"used": reason is None, "reason": reason}


def _page(report: dict[str, Any], found: list[DeviceInfo]) -> str:
    sections = {
        "Software": _software(report),
        "Machine": _machine(report, found[0]),
        "Devices": [row for device in found for row in _device_rows(device)],
    }
    rows = []
    for title, section in sections.items():
        rows += [("", ""), (title, ""), *((f"  {name}", _glued(text)) for name, text in section)]
    width = max(60, min(shutil.get_terminal_size((100, 24)).columns, 110))
    return two_columns(rows[1:], width).replace(_GLUE, " ")


def _glued(text: str) -> str:
    """The text with commands in backticks that no line break falls into."""
    parts = text.split("`")
    parts[1::2] = [part.replace(" ", _GLUE) for part in parts[1::2]]
    return "`".join(parts)


def _software(report: dict[str, Any]) -> list[tuple[str, str]]:
    python = report["python"]
    rows = [("Python", f"{python['version']} ({python['implementation']}), {python['executable']}")]
    rows += [(name, number or "not installed") for name, number in report["packages"].items()]
    rows += _cuda(report)
    present = [f"{name} {number}" for name, number in report["optional"].items() if number]
    if present:
        rows.append(("optional", ", ".join(present)))
    absent = [name for name, number in report["optional"].items() if not number]
    if absent:
        command = pip_install(*(_OPTIONAL[name] for name in absent))
        rows.append(("not installed", f"{', '.join(absent)}; to add: `{command}`"))
    return rows


def _cuda(report: dict[str, Any]) -> list[tuple[str, str]]:
    """CuPy with the versions of its libraries, then each library that does not load, with the reason."""
    cupy, *others = report["cuda_libraries"]
    if not cupy["installed"]:
        return [("cupy", "not installed")]
    wheels, devices = report["cupy"], report["devices"]
    versions = [f"{number} ({name})" for name, number in wheels.items()] or [cupy["version"] or "unknown version"]
    versions += [f"{library['name']} {library['version']}" for library in others if library["loads"]]
    rows = [("cupy", ", ".join(versions))]
    # Without CuPy or a driver nothing else loads, and the rows of the devices say so.
    if not cupy["loads"]:
        return rows
    no_driver = any(device["reason"] == Reason.NO_DRIVER for device in devices)
    for library in others:
        if library["loads"] or (library["name"] == "cuBLAS" and (no_driver or not library["installed"])):
            continue
        message = textwrap.shorten(library["message"], 100, placeholder=" …")
        rows.append((library["name"], f"does not load: {message}" if library["installed"] else "not installed"))
    if len(rows) > 1 and len(wheels) == 1:
        fix = cuda_command(*wheels)
        if not any(fix in device["fix"] for device in devices):
            rows.append(("", f"fix: {fix}"))
    return rows


def _machine(report: dict[str, Any], cpu: DeviceInfo) -> list[tuple[str, str]]:
    system, blas, compiled = report["system"], report["blas"], report["compiled"]
    cores = counted(system["cores"], "core")
    if system["usable_cores"] != system["cores"]:
        cores += f", {system['usable_cores']} of them for this process"
    memory = [f"{system['memory_total'] / 2**30:.1f} GiB"] if system["memory_total"] else ["unknown"]
    if system["memory_free"]:
        memory.append(f"{system['memory_free'] / 2**30:.1f} GiB free")
    threads = counted(blas["threads"], "thread") if blas["threads"] else f"threads unknown: {blas['threads_from']}"
    limits = "".join(f", {name}={value}" for name, value in blas["environment"].items())
    return [
        ("System", f"{system['name']}, {system['machine']}"),
        ("Processor", f"{cpu.description}, {cores}"),
        ("Memory", ", ".join(memory)),
        ("BLAS", f"{blas['name']} {blas['version']}".strip() + f", {threads}{limits}"),
        ("Compiled part", "used: steps on the CPU run in C" if compiled["used"] else f"not used: {compiled['reason']}"),
    ]


def _device_rows(device: DeviceInfo) -> list[tuple[str, str]]:
    # The section about the machine describes the CPU.
    facts = "" if device.name == "cpu" else device.facts()
    if device.works:
        return [(device.name, f"works: {facts}" if facts else "works")]
    seen = [("", facts)] if facts else []
    return [(device.name, f"does not work: {device.message}"), *seen, ("", f"fix: {device.fix}")]

"""Every kernel, made wrong on purpose, is noticed: what a network computes then differs from the CPU.

Kernels are found, not listed: those of ``kernels/*.cu`` and those that the backends write. A new one is met here by the
workload, which has to launch it, and by a mutation that suits any kernel: the sign of what it stores last. What is more
subtle stands in FAULTS. The workload runs twice: kernel by kernel, and with whole steps in one kernel.

No mutation makes a kernel read or write beyond its arrays: that would prove nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nnbp.backends.cuda
import numpy as np
import pytest
from emulated_cupy import Device, Memory, emulated_backend_class
from kernel_samples import needs_compiler
from nnbp.backends.cuda import codegen_fused, persistent

from nnbp import Dense, Dropout, Network
from nnbp.graph.backend import backend_class
from nnbp.testing.parity import ParityReport, compare_devices

Change = Callable[[str, str], str]
"""What a kernel of this name and source is made of it."""

FAULTS = [
    # the kernel, what it does, and the text that goes with the one that makes it so
    ("elementwise", "takes the bias away", "x0 + x1;", "x0 - x1;"),
    ("elementwise", "takes a root twice", "= sqrt(", "= T(2) * sqrt("),
    ("elementwise", "keeps what is to be dropped", " >= T(", " < T("),
    ("columns", "misses what one thread has of a column", "int k = 1;", "int k = 2;"),
    ("columns", "takes any class for the target", "x0 == x1;", "x0 != x1;"),
    ("columns", "adds the largest", "x0 - x1;", "x0 + x1;"),
    ("columns", "leaves the last column out", "column < columns;", "column < columns - 1;"),
    ("row_sums", "misses the first term", "column = first + thread;", "column = first + 1 + thread;"),
    ("row_sums", "misses the sum of a thread", " + half];", " + half] * T(half > 1);"),
    ("gather", "takes the next row", "row = rows[i];", "row = rows[i] + 1;"),
    ("gather", "does not find the batch", "counter[0] * stride", "0 * counter[0] * stride"),
    ("uniform", "begins one block early", "Word(block) + 1", "Word(block)"),
    ("uniform", "takes the wrong half of a word", "j % 2 ?", "j % 2 == 0 ?"),
    ("uniform", "leaves out a round", "round < 10", "round < 9"),
    ("advance", "goes one too far", "+= size;", "+= size + 1;"),
    ("product", "misses the terms of one thread", "int s = 1; s < shares", "int s = 2; s < shares"),
    ("product", "misses the last term", "k - begin < DEPTH ? k - begin", "k - begin < DEPTH ? k - begin - 1"),
    (
        "product",
        "takes a column twice",
        "of - above * abreast) + place % 4",
        "of - above * abreast) + place % 4 / 2 * 2",
    ),
    ("steps", "leaves one out", "step < times", "step < times - 1"),
    ("steps", "does not wait for the other blocks", "__cluster_barrier_wait();", ""),
]

RACES = ("does not wait for the other blocks",)
"""Faults that make a kernel's result a matter of chance on a GPU. The emulation orders threads so that they show."""

HOLDERS = {"product": "steps"}
"""Kernels that are nothing but functions of others."""


(FOLDER,) = map(Path, nnbp.backends.cuda.__path__)
FILES = [path for path in sorted(FOLDER.rglob("*")) if path.suffix in (".cu", ".py")]
PRELUDE = (FOLDER / "kernels" / "prelude.cu").read_text("utf-8")


def names(text: str) -> list[str]:
    """The kernels that a text defines, or writes the definition of."""
    return re.findall(r"__global__\s+void\s+(\w+)\(", text)


KERNELS = sorted({name for path in FILES for name in names(path.read_text("utf-8"))})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_names_of_all_kernels_are_found(path):
    text = path.read_text("utf-8")
    written = re.findall(r"__global__\s+void\s+\S", text)
    assert len(names(text)) == len(written), "a kernel whose name is not read here"
    assert names(text) or path.suffix == ".py" or text == PRELUDE, "a file of kernels without any"


@pytest.fixture(
    scope="module", params=[pytest.param("emulated", marks=needs_compiler), pytest.param("cupy", marks=pytest.mark.gpu)]
)
def opened(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Opens a backend. Every comparison needs one of its own: a backend keeps kernels by the source that it wrote.

    CuPy and the emulation keep them by the source that they were given, so a wrong kernel never stands in for a right
    one. Still CuPy is left without any: it writes none to its folder, and forgets those in memory.
    """
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "emulated":
            # Threads that take turns take most of the time.
            patch.setattr(codegen_fused, "THREADS", 32)
            patch.setattr(persistent, "_CLUSTER", 2)
            patch.setattr(persistent, "_LEAST", 1)
            patch.setattr(Device, "compute_capability", "90")
            patch.setitem(Device.attributes, "MultiProcessorCount", 16)
            patch.setattr(Memory, "limit", 2**26)
            yield emulated_backend_class()
            return
        patch.setenv("CUPY_CACHE_IN_MEMORY", "1")
        yield backend_class("cupy")
        backend_class("cupy").xp.clear_memo()  # type: ignore[attr-defined]


def compared(backend: Any, change: Change) -> ParityReport:
    """Training with every kernel against the CPU, in float64, where each kernel is compiled as `change` makes it."""
    compiler, rng = backend.xp.RawKernel, np.random.default_rng(0)
    net = Network(
        [2, Dense(3, "tanh"), Dropout(0.25), Dense(2)], loss="cross_entropy", dtype="float64", seed=0, device="cpu"
    )
    # A softmax that does not take the largest of such numbers away overflows.
    net.set_parameters(net.weights, [rng.normal(size=3), 400 + rng.normal(size=2)])
    X, y = rng.normal(size=(9, 2)), np.arange(9) % 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend.xp, "RawKernel", lambda code, name: compiler(change(name, code), name))
        return compare_devices(net, X, y, devices=("cpu", backend), steps=3)


def options(kernel: str) -> dict[str, Any]:
    """Of the backend that launches it."""
    return {"persistent": 1 if HOLDERS.get(kernel, kernel) == "steps" else None}


@pytest.fixture(scope="module")
def launched(opened: Callable[..., Any]) -> dict[str, list[str]]:
    """The sources of all kernels of the workload, by their names; with these the devices agree."""
    found: dict[str, list[str]] = {}

    def keep(name: str, code: str) -> str:
        found.setdefault(name, []).append(code)
        return code

    for kernel in ("steps", "columns"):
        report = compared(opened(**options(kernel)), keep)
        assert report.passed, f"the kernels as they are do not agree with the CPU\n{report}"
    # The steps of training, and not predictions.
    found["steps"] = [max(found["steps"], key=len)]
    return found


def versions(kernel: str, launched: dict[str, list[str]]) -> list[str]:
    """The sources of a kernel."""
    holder = HOLDERS.get(kernel, kernel)
    assert holder in launched, f"no workload launches the kernel {kernel}: give `compared` one that does"
    return launched[holder]


def noticed(backend: Any, right: str, wrong: str) -> bool:
    """Whether the devices disagree where one kernel is another."""
    try:
        return not compared(backend, lambda _, code: wrong if code == right else code).passed
    except ValueError as error:
        # A sum of squares below 0 leaves training no norm of its parameters. Kernels that do not compile end otherwise.
        # The second message is that of Python 3.14.
        if not str(error).startswith(("math domain error", "expected a nonnegative input")):
            raise
        return True


def parts(code: str) -> tuple[str, str]:
    """What every kernel begins with, and what is its own."""
    head, prelude, own = code.partition(PRELUDE)
    return head + prelude, own


def replaced(name: str, code: str, old: str, new: str) -> str:
    """The source with the text changed wherever it stands after the prelude."""
    head, own = parts(code)
    wrong = head + own.replace(old, new)
    assert wrong != code, f"replacing {old!r} changes nothing in the kernel {name}: what would it prove?"
    return wrong


def with_other_sign(name: str, code: str) -> str:
    """The source in which the last store to an array of the arguments has the other sign."""
    signature = re.search(rf"(?:__global__|__noinline__)\s+void\s+{name}\(([^)]*)\)", code)
    assert signature, f"the source of {name} does not define it"
    end = code.find("\n}\n", signature.end())
    pointers = re.findall(r"(?:^|,)\s*+(?!const\b)[\w ]+\* ?(\w+)", signature[1])
    store = re.compile(rf"\b(?:{'|'.join(pointers)})\[[^=;\n]*\] \+?= ([^;\n]+);")
    stores = list(store.finditer(code, signature.end(), end if end > 0 else len(code))) if pointers else []
    assert stores, f"no store to an array was found in the kernel {name}: nothing was made wrong"
    start, end = stores[-1].span(1)
    return f"{code[:start]}-({code[start:end]}){code[end:]}"


@pytest.mark.parametrize("kernel", [name for name in KERNELS if name != "steps"])
def test_a_kernel_of_the_other_sign_is_noticed(opened, launched, kernel):
    """Of the kernels that are written for the workload, each by itself; that of whole steps stores nothing itself."""
    for right in versions(kernel, launched):
        wrong = with_other_sign(kernel, right)
        assert noticed(opened(**options(kernel)), right, wrong), f"nothing notices this kernel:\n{parts(wrong)[1]}"


@pytest.mark.parametrize(("kernel", "fault", "old", "new"), FAULTS, ids=[" ".join(fault[:2]) for fault in FAULTS])
def test_a_fault_is_noticed(request, opened, launched, kernel, fault, old, new):
    """In the first kernel of this name that it can be made in."""
    if fault in RACES and request.node.get_closest_marker("gpu") is not None:
        pytest.skip("a race need not show on a GPU")
    right = next((code for code in versions(kernel, launched) if old in parts(code)[1]), "")
    assert right, f"{old!r} stands in none of the kernels {kernel}: the fault was not made"
    assert noticed(opened(**options(kernel)), right, replaced(kernel, right, old, new))


def test_all_that_is_launched_was_found(launched):
    assert set(launched) <= set(KERNELS)


def test_right_kernels_are_right_again_after_wrong_ones(opened, launched):
    right = launched["gather"][0]
    wrong = with_other_sign("gather", right)
    assert noticed(opened(**options("gather")), right, wrong)
    assert not noticed(opened(**options("gather")), right, right)


def test_a_kernel_that_nothing_launches_fails():
    with pytest.raises(AssertionError, match="no workload launches the kernel double_up"):
        versions("double_up", {"halve": [""]})


def test_a_mutation_that_changes_nothing_is_no_proof():
    code = PRELUDE + "__global__ void double_up(const T* x, T* out, I n) { NNBP_LOOP(i, n) { out[i] = x[i] + x[i]; } }"
    assert "{ out[i] = -(x[i] + x[i]); }" in with_other_sign("double_up", code)
    with pytest.raises(AssertionError, match="no store to an array was found in the kernel double_up"):
        with_other_sign("double_up", code.replace("out[i]", "x[i]"))
    with pytest.raises(AssertionError, match="no store to an array"):
        with_other_sign("double_up", code.replace("T* out", "const T* out"))
    with pytest.raises(AssertionError, match="changes nothing in the kernel double_up"):
        replaced("double_up", code, "x[i] - x[i]", "x[i]")

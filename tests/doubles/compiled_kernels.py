"""Every kernel that the CuPy backend writes, and NVIDIA's compiler to hold them to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from emulated_cupy import EmulatedArray
from kernel_samples import library_formulas, operation_formulas
from nnbp.backends.cuda import codegen, codegen_fused
from nnbp.backends.cuda.codegen import Launch
from nnbp.backends.cuda.codegen_fused import row_sums

from nnbp.graph.formula import trace
from nnbp.graph.ops import Map, Reduce

ARCHITECTURES = ("75", "80", "90", "100", "120")


def kernels(dtype: Any) -> list[Launch]:
    """Every kernel file, and kernels made of the library's formulas in several layouts, with both widths of index."""
    m, row, column, one = (np.zeros(shape, dtype).view(EmulatedArray) for shape in ((4, 6), (1, 6), (4, 1), (1, 1)))
    position, u = np.zeros(1, np.int64), np.zeros((4, 6), np.float32)
    long = np.zeros((1, 10_000), dtype).view(EmulatedArray)
    launches = []
    for limit in (2**30, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(codegen, "NARROW", limit)
            launches += [
                codegen.gather(m, position, position, 1, m),
                codegen.uniform(position, (1, 2), u, 0, 6),
                codegen.uniform(position, (1, 2), u, 3, 20),
                codegen.advance(position, 1),
                codegen_fused.columns(
                    [
                        Map(trace(lambda z, b: z + b, "z", "b"), (m, column), (m,)),
                        Reduce("maximum", m, 0, row),
                        Map(trace(lambda z, r, s: np.exp(z - r) * s, "z", "r", "s"), (m, row, m[:, ::-1]), (m.copy(),)),
                        Reduce("sum", m, 0, row),
                    ]
                ),
                *row_sums(Map(trace(lambda a, b: a * b, "a", "b"), (m, row), (m,)), 0, column, _empty),
                *row_sums(Map(trace(lambda a, b: a * b, "a", "b"), (long, long), ()), 0, one, _empty),
                codegen.elementwise(
                    Map(
                        trace(lambda a, b, c, d, e, u: (a * b + c, np.where(u > 0.5, d, e)), *"abcdeu"),
                        [m, row, column, one, m[:, ::-1], u],
                        [m, m.copy()],
                    )
                ),
            ]
    launches += [codegen.elementwise(Map(trace(lambda a: a, "a"), [m], [np.zeros((4, 6), np.uint16)]))]
    limits = trace(lambda a: np.minimum(np.maximum(a, -np.inf), np.inf) * (a == np.nan), "a")
    launches += [codegen.elementwise(Map(limits, [m], [m]))]
    formulas = [trace(function, *arguments) for function, arguments in library_formulas().values()]
    for formula in (*operation_formulas().values(), *formulas):
        inputs, outputs = ([m.copy() for _ in names] for names in (formula.inputs, formula.results))
        launches.append(codegen.elementwise(Map(formula, inputs, outputs)))
    return launches


def _empty(shape: tuple[int, ...], dtype: Any) -> EmulatedArray:
    return np.zeros(shape, dtype).view(EmulatedArray)


def nvrtc_compile(source: str, *options: str, ptx: bool = False) -> bytes:
    """What NVIDIA's compiler makes of a source, with CuPy's dialect of C++ and its treatment of denormals."""
    nvrtc = pytest.importorskip("cupy_backends.cuda.libs.nvrtc")
    try:
        program = nvrtc.createProgram(source, "kernels.cu", (), ())
    except Exception as error:  # CuPy raises what its loader of libraries raises
        pytest.skip(f"NVRTC is not installed: {error}")
    try:
        nvrtc.compileProgram(program, ("--std=c++17", "-ftz=true", *options))
        compiled: bytes = nvrtc.getPTX(program) if ptx else nvrtc.getCUBIN(program)
    except nvrtc.NVRTCError as error:
        raise AssertionError(nvrtc.getProgramLog(program)) from error
    finally:
        nvrtc.destroyProgram(program)
    return compiled

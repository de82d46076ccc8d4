"""The limit on a GPU: the products of a training step, and nothing else, through PyTorch's and CuPy's cuBLAS."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from .cases import Case
from .limits import Product, arranged
from .timing import seconds_per_call

__all__ = ["WAYS", "limit"]

WAYS = ("torch", "cupy")
"""torch.matmul, replayed as one CUDA graph; cupy.matmul, launched one by one, without bf16, which CuPy has not."""

_WARM_UP = 3


def limit(case: Case, seconds: float) -> dict[str, float]:
    """Seconds of a step's products, each way that is installed and has the precision.

    Raises:
        ModuleNotFoundError: neither is.
    """
    makers: dict[str, Callable[[Case], tuple[Callable[[], None], Callable[[], None]]]] = {"torch": _torch}
    if case.precision != "bf16":
        makers["cupy"] = _cupy
    found = {}
    for way, make in makers.items():
        if find_spec(way) is not None:
            run, wait = make(case)
            found[way] = seconds_waited(run, wait, seconds / len(makers))
    if not found:
        raise ModuleNotFoundError(
            f"The products alone need one of {', '.join(makers)} here, and none is installed: python -m pip install "
            "torch"
        )
    return found


def seconds_waited(run: Callable[[], None], wait: Callable[[], None], seconds: float) -> float:
    """Mean time of a call that only asks the device: so many calls follow each other that one wait weighs nothing.

    Args:
        run: asks.
        wait: until all is done.
        seconds: of the measurement, about.
    """

    def several(calls: int) -> None:
        for _ in range(calls):
            run()
        wait()

    several(_WARM_UP)
    once = seconds_per_call(lambda: several(_WARM_UP), seconds / 4) / _WARM_UP
    calls = max(_WARM_UP, round(seconds / 4 / once))
    return seconds_per_call(lambda: several(calls), seconds / 2) / calls


def _torch(case: Case) -> tuple[Callable[[], None], Callable[[], None]]:
    """The products through PyTorch, and how to wait for them."""
    import torch

    torch.set_float32_matmul_precision("high" if case.precision == "tf32" else "highest")
    dtype = torch.bfloat16 if case.precision == "bf16" else getattr(torch, case.dtype)

    def matrix(rows: int, columns: int) -> Any:
        return torch.randn(rows, columns, device=case.device, dtype=dtype)

    samples, sums = arranged(case, matrix, lambda x: torch.empty(x.shape, device=case.device, dtype=dtype))

    def multiply() -> None:
        for a, b, out in [*samples, *sums]:
            torch.matmul(a, b, out=out)

    if not case.on_gpu:
        return multiply, lambda: None
    cuda = torch.cuda
    stream = cuda.Stream(case.device)
    stream.wait_stream(cuda.current_stream(case.device))
    with cuda.stream(stream):
        for _ in range(_WARM_UP):
            multiply()
    graph = cuda.CUDAGraph()
    with cuda.graph(graph, stream=stream):
        multiply()
    return graph.replay, lambda: cuda.synchronize(case.device)


def _cupy(case: Case) -> tuple[Callable[[], None], Callable[[], None]]:
    """The products through CuPy, and how to wait for them."""
    import cupy
    from cupy._core import _routines_linalg as linalg

    with cupy.cuda.Device(int(case.device.partition(":")[2] or 0)) as device:

        def matrix(rows: int, columns: int) -> Any:
            return cupy.random.standard_normal((rows, columns), cupy.float32).astype(case.dtype, copy=False)

        samples, sums = arranged(case, matrix, lambda x: cupy.empty(x.shape, x.dtype))
        products: list[Product] = [*samples, *sums]
    kind = linalg.COMPUTE_TYPE_TF32 if case.precision == "tf32" else linalg.COMPUTE_TYPE_FP32

    def multiply() -> None:
        # CuPy keeps its compute type to a thread; another case may have set it.
        linalg.set_compute_type(cupy.float32, kind)
        with device:
            for a, b, out in products:
                cupy.matmul(a, b, out=out)

    return multiply, device.synchronize

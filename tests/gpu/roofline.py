"""What the device reaches at its best: matrix products by side and precision, copies by working set, energy."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tests.gpu import clocks
from tests.gpu.step import Context

_SIDES = (256, 512, 1024, 2048, 4096, 8192, 16384)
_COPIES_BYTES = tuple(1 << power for power in range(16, 34, 2))
_SMALL_COUNT = 2
_ENERGY_S = 1.0
_ENERGY_SIDE = 8192


def roofline(context: Context) -> None:
    """Products, copies, and watts at the largest product."""
    wait = clocks.waiter(context.device)
    count = _SMALL_COUNT if context.small else len(_SIDES)
    precisions = ("float32", "bfloat16") if context.small else ("float32", "tf32", "bfloat16", "float16")
    with torch.inference_mode():
        for precision in precisions:
            with _precision(precision) as dtype:
                for side in _SIDES[:count]:
                    with context.attempt("products", precision=precision, side=side) as found:
                        a, b = (torch.randn(side, side, device=context.device).to(dtype) for _ in range(2))
                        out = torch.empty_like(a)
                        seconds = clocks.best_s(lambda: torch.mm(a, b, out=out), wait, 3)  # noqa: B023
                        found.update({"ms": seconds * 1e3, "tflop_per_s": 2 * side**3 / seconds * 1e-12})
        for size in _COPIES_BYTES[:count] if context.small else _COPIES_BYTES:
            with context.attempt("copies", working_set_mib=size / 2**20) as found:
                source = torch.randn(size // 8, device=context.device)
                target = torch.empty_like(source)
                seconds = clocks.best_s(lambda: target.copy_(source), wait, 3)  # noqa: B023
                found["gb_per_s"] = size / seconds * 1e-9
        if context.device == "cuda":
            _energy(context)


@contextmanager
def _precision(name: str) -> Iterator[torch.dtype]:
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    try:
        yield {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(name, torch.float32)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def _energy(context: Context) -> None:
    """Joules by NVML's counter over a second of products, and of rest."""
    with context.attempt("energy", what="rest") as found:
        counter_j = _counter_j
        before_j, began = counter_j(), time.monotonic()
        time.sleep(_ENERGY_S)
        found["watts"] = (counter_j() - before_j) / (time.monotonic() - began)
    with context.attempt("energy", what=f"bfloat16 products of side {_ENERGY_SIDE}") as found:
        a = torch.randn(_ENERGY_SIDE, _ENERGY_SIDE, device="cuda", dtype=torch.bfloat16)
        torch.mm(a, a)
        torch.cuda.synchronize()
        before_j, began, count = _counter_j(), time.monotonic(), 0
        while time.monotonic() - began < _ENERGY_S:
            for _ in range(20):
                torch.mm(a, a)
            torch.cuda.synchronize()
            count += 20
        used_j, seconds = _counter_j() - before_j, time.monotonic() - began
        found.update({"watts": used_j / seconds, "joules_per_product": used_j / count})


def _counter_j() -> float:
    import pynvml

    pynvml.nvmlInit()
    return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByIndex(0))) * 1e-3

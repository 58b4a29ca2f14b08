"""Latency here, in seconds and, on the CPU, in units of the reference workload that travels along."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.verifier.artifacts import bind_workload
from pipeline.verifier.gpu import on_gpu
from pipeline.verifier.outcome import Unable

_ROUNDS_COUNT, _LEAST_ROUNDS_COUNT, _BLOCK_S, _TIMED_S = 30, 6, 0.002, 0.4
_P99_CALLS_COUNT = 459
"""The fewest calls of which the largest is above the 99th percentile with 99 % confidence."""


def latency(
    np: Any, folder: Path, bundle: Mapping[str, Any], shipped: Mapping[str, Any], artifact: Any
) -> list[dict[str, Any]]:
    """Median time per bound call at each batch size, the reference workload timed in turn with it.

    That workload runs on the CPU: of a time on a GPU it is no unit, and is left out.
    """
    workload = None if on_gpu(shipped["options"]) else bind_workload(np, folder / bundle["workload"])
    figures = []
    for rows in bundle["timed_rows"]:
        calls = {"model": artifact.bind(first_rows(folder, bundle, rows))}
        if workload is not None:
            calls["workload"] = workload
        samples = _interleaved(calls)
        low_s, median_s, high_s = _median(samples["model"])
        figures.append({
            "batch_rows": rows, "median_s": median_s, "low_s": low_s, "high_s": high_s,
            "workload_s": _median(samples["workload"])[1] if workload else None,
        })  # fmt: skip
    return figures


def _interleaved(calls: Mapping[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Seconds per call of each, a sample being the mean of a block; blocks take turns."""
    counts: dict[str, int] = {}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for name, call in calls.items():
        call()
        counts[name] = max(1, min(100_000, int(_BLOCK_S / max(_timed(call, 1), 1e-7))))
        _timed(call, counts[name])
    began_s = time.monotonic()
    for done_count in range(_ROUNDS_COUNT):
        if done_count >= _LEAST_ROUNDS_COUNT and time.monotonic() - began_s >= _TIMED_S:
            break
        for name, call in calls.items():
            samples[name].append(_timed(call, counts[name]))
    return samples


def p99(folder: Path, bundle: Mapping[str, Any], artifact: Any) -> dict[str, Any] | None:
    """The 99th percentile of single calls under the recipe's own load, if it limits that."""
    limits = bundle["limits"]
    if limits["max_p99_ms"] is None:
        return None
    inputs = first_rows(folder, bundle, limits["batch_rows"])
    callers_count = limits["callers_count"]
    calls_count = max(_P99_CALLS_COUNT, 4 * _P99_CALLS_COUNT // callers_count)
    samples: list[list[float]] = [[] for _ in range(callers_count)]

    def caller(samples_s: list[float]) -> None:
        artifact.call(inputs)
        for _ in range(calls_count):
            samples_s.append(_timed(lambda: artifact.call(inputs), 1))

    threads = [threading.Thread(target=caller, args=(samples_s,)) for samples_s in samples]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ordered = sorted(sample_s for samples_s in samples for sample_s in samples_s)
    # The lower end of the percentile's 95 % interval, by the normal approximation of its order statistic.
    low = max(0, int(0.99 * len(ordered) - 1.96 * (len(ordered) * 0.99 * 0.01) ** 0.5) - 1)
    return {"value_s": ordered[int(0.99 * len(ordered))], "low_s": ordered[low], "calls_count": len(ordered)}


def first_rows(folder: Path, bundle: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """The inputs of the first golden call, repeated or cut to so many rows; of one that has so many, where a function
    drew whole calls.

    Raises:
        Unable: no such call is golden.
    """
    import numpy as np

    shapes = {tensor["name"]: tensor["shape"] for tensor in bundle["signature"]["inputs"]}
    batch, call = bundle["batch"], bundle["golden"][0]
    if batch is not None and any(":" in tensor.get("draw", "") for tensor in bundle["signature"]["inputs"]):
        whole = [golden for golden in bundle["golden"] if golden["sizes"] == call["sizes"] | {batch: rows}]
        if not whole:
            raise Unable(
                f"no golden call has {batch}={rows}, and calls that a function of the recipe drew are not cut: "
                f"add {rows} to parity.batch_rows"
            )
        call = whole[0]
    inputs = {}
    for name, path in call["inputs"].items():
        array = np.load(folder / path, allow_pickle=False)
        for axis, dim in enumerate(shapes[name]):
            if batch is not None and dim == batch:
                array = np.take(array, np.arange(rows) % max(array.shape[axis], 1), axis=axis)
        inputs[name] = np.ascontiguousarray(array)
    return inputs


def _timed(call: Callable[[], Any], count: int) -> float:
    """Mean seconds of so many calls."""
    began_s = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began_s) / count


def _median(samples_s: list[float]) -> tuple[float, float, float]:
    """The median between the order statistics that bound it with 95 % confidence."""
    ordered, count = sorted(samples_s), len(samples_s)
    reach = int(0.98 * count**0.5) + 1
    return ordered[max(0, count // 2 - reach)], ordered[count // 2], ordered[min(count - 1, count // 2 + reach)]

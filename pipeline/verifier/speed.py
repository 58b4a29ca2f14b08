"""Latency here, in seconds and in units of the calibration kernel that travels along."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.verifier.artifacts import bind_workload

_ROUNDS, _BLOCK_S, _TIMED_S = 30, 0.002, 0.4
_P99_CALLS = 459
"""The fewest calls of which the largest is above the 99th percentile with 99 % confidence."""


def latency(np: Any, folder: Path, bundle: Mapping[str, Any], artifact: Any) -> list[dict[str, Any]]:
    """Median time per bound call at each batch size, the calibration kernel timed in turn with it."""
    kernel = bind_workload(np, folder / bundle["kernel"])
    found = []
    for rows in bundle["timed_rows"]:
        call = artifact.bind(first_rows(folder, bundle, rows))
        calls = {"model": call} if kernel is None else {"model": call, "kernel": kernel}
        counts, samples = {}, {name: [] for name in calls}  # type: dict[str, int], dict[str, list[float]]
        for name, one in calls.items():
            one()
            once = _timed(one, 1)
            counts[name] = max(1, min(100_000, int(_BLOCK_S / max(once, 1e-7))))
            _timed(one, counts[name])
        began = time.monotonic()
        while len(samples["model"]) < _ROUNDS and (len(samples["model"]) < 6 or time.monotonic() - began < _TIMED_S):
            for name, one in calls.items():
                samples[name].append(_timed(one, counts[name]))
        low, median, high = _median(samples["model"])
        found.append({
            "batch_rows": rows, "median_s": median, "low_s": low, "high_s": high,
            "kernel_s": _median(samples["kernel"])[1] if kernel else None,
        })  # fmt: skip
    return found


def p99(np: Any, folder: Path, bundle: Mapping[str, Any], artifact: Any) -> dict[str, Any] | None:
    """The 99th percentile of single calls under the recipe's own load, if it limits that."""
    limits = bundle["limits"]
    if limits["max_p99_ms"] is None:
        return None
    inputs = first_rows(folder, bundle, limits["batch_rows"])
    callers = limits["callers_count"]
    each = max(_P99_CALLS, 4 * _P99_CALLS // callers)
    found: list[list[float]] = [[] for _ in range(callers)]

    def calls(mine: list[float]) -> None:
        artifact.call(inputs)
        for _ in range(each):
            began = time.perf_counter()
            artifact.call(inputs)
            mine.append(time.perf_counter() - began)

    threads = [threading.Thread(target=calls, args=(mine,)) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = sorted(one for mine in found for one in mine)
    # The lower end of the percentile's 95 % interval, by the normal approximation of its order statistic.
    low = max(0, int(0.99 * len(every) - 1.96 * (len(every) * 0.99 * 0.01) ** 0.5) - 1)
    return {"value_s": every[int(0.99 * len(every))], "low_s": every[low], "calls_count": len(every)}


def first_rows(folder: Path, bundle: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """The inputs of the first golden call, repeated or cut to so many rows."""
    import numpy as np

    specs = {one["name"]: one["shape"] for one in bundle["signature"]["inputs"]}
    batch = bundle["batch"]
    found = {}
    for name, place in bundle["golden"][0]["inputs"].items():
        array = np.load(folder / place, allow_pickle=False)
        for axis, dim in enumerate(specs[name]):
            if batch is not None and dim == batch:
                array = np.take(array, np.arange(rows) % max(array.shape[axis], 1), axis=axis)
        found[name] = np.ascontiguousarray(array)
    return found


def _timed(call: Callable[[], Any], count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began) / count


def _median(samples: list[float]) -> tuple[float, float, float]:
    """The median between the order statistics that bound it with 95 % confidence."""
    ordered, n = sorted(samples), len(samples)
    reach = int(0.98 * n**0.5) + 1
    return ordered[max(0, n // 2 - reach)], ordered[n // 2], ordered[min(n - 1, n // 2 + reach)]

"""What was found, as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def report(found: Mapping[str, Any]) -> Iterator[str]:
    """What a person reads of what was found, a line each."""
    if "sha256" in found:
        files = f"{found['files_count']} files, {_size(found['size_bytes'])}"
        yield f"hashes      {files}, as the manifest says ({found['hashed_s']:.2f} s)"
        yield f"bundle      sha256:{found['sha256']}"
    if "signature" in found:
        yield f"signature   {found['signature']}"
    for name, why in found.get("forms", {}).items():
        yield f"runs here   {name}: {'yes' if why is None else 'no: ' + why}"
    for name, run in found.get("artifacts", {}).items():
        claim, golden = found["claims"][name], run["golden"]
        yield f"lineage     {run['lineage']}"
        summary = f"{golden['worst_share']:.2g} of the allowed error at most ({golden['worst_call']})"
        if golden["sqnr_db"] is not None:
            summary = f"{golden['sqnr_db']:.1f} dB of signal over quantisation noise"
        yield f"parity      {name}: {golden['calls_count']} golden calls, {golden['values_count']} values, {summary}"
        there = f" ({claim['cold_s']:.2g} s where it was shipped)" if claim else ""
        yield f"cold start  {name}: {run['cold_s']:.2g} s{there}, peak memory {_size(run['peak_bytes'])}"
        before = {one["batch_rows"]: one for one in claim["latency"]} if claim else {}
        for one in run.get("latency", ()):
            line = f"latency     {name}: batch {one['batch_rows']}: {_seconds(one['median_s'])}"
            if (then := before.get(one["batch_rows"])) is not None:
                line += f" ({_seconds(then['median_s'])} where it was shipped"
                if one["kernel_s"] and then["kernel_s"]:
                    ratio = (one["median_s"] / one["kernel_s"]) / (then["median_s"] / then["kernel_s"])
                    line += f"; {ratio:.2f} times that in units of the calibration kernel"
                line += ")"
            yield line
        if run.get("p99"):
            yield f"p99         {name}: {_seconds(run['p99']['value_s'])} of {run['p99']['calls_count']} calls"


def _size(count: int | None) -> str:
    return "unknown" if count is None else (f"{count / 1e6:.3g} MB" if count >= 1e6 else f"{count / 1e3:.3g} kB")


def _seconds(value: float) -> str:
    return f"{value * 1e6:.3g} us" if value < 1e-3 else f"{value * 1e3:.3g} ms"

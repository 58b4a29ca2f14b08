"""The findings of a check, as a person reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def report(findings: Mapping[str, Any]) -> Iterator[str]:
    """A line each, as far as the check came."""
    if "sha256" in findings:
        files = f"{findings['files_count']} files, {_size(findings['size_bytes'])}"
        yield f"hashes      {files}, as the manifest says ({findings['hashed_s']:.2f} s)"
        yield f"bundle      sha256:{findings['sha256']}"
    if "signature" in findings:
        yield f"signature   {findings['signature']}"
    for name, reason in findings.get("forms", {}).items():
        yield f"runs here   {name}: {'yes' if reason is None else 'no: ' + reason}"
    for name, run in findings.get("artifacts", {}).items():
        yield from _artifact(name, run, findings["claims"][name])


def _artifact(name: str, run: Mapping[str, Any], claim: Mapping[str, Any] | None) -> Iterator[str]:
    golden = run["golden"]
    yield f"lineage     {run['lineage']}"
    summary = f"{golden['worst_share']:.2g} of the allowed error at most ({golden['worst_call']})"
    if golden["sqnr_db"] is not None:
        summary = f"{golden['sqnr_db']:.1f} dB of signal over quantisation noise"
    yield f"parity      {name}: {golden['calls_count']} golden calls, {golden['values_count']} values, {summary}"
    if run.get("elsewhere_count"):
        yield f"placement   {name}: {run['elsewhere_count']} of its nodes do not run on the GPU"
    shipped_s = f" ({claim['cold_s']:.2g} s where it was shipped)" if claim else ""
    yield f"cold start  {name}: {run['cold_s']:.2g} s{shipped_s}, peak memory {_size(run['peak_bytes'])}"
    claimed = {figure["batch_rows"]: figure for figure in claim["latency"]} if claim else {}
    for here in run.get("latency", ()):
        beside = _beside(here, claimed.get(here["batch_rows"]))
        yield f"latency     {name}: batch {here['batch_rows']}: {_seconds(here['median_s'])}{beside}"
    if run.get("p99"):
        yield f"p99         {name}: {_seconds(run['p99']['value_s'])} of {run['p99']['calls_count']} calls"


def _beside(here: Mapping[str, Any], claimed: Mapping[str, Any] | None) -> str:
    """The claimed latency at the same batch size, in brackets; machines are compared by the reference workload."""
    if claimed is None:
        return ""
    text = f"{_seconds(claimed['median_s'])} where it was shipped"
    if here["workload_s"] and claimed["workload_s"]:
        ratio = (here["median_s"] / here["workload_s"]) / (claimed["median_s"] / claimed["workload_s"])
        text += f"; {ratio:.2f} times that in units of the reference workload"
    return f" ({text})"


def _size(size_bytes: int | None) -> str:
    if size_bytes is None:
        return "unknown"
    return f"{size_bytes / 1e6:.3g} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.3g} kB"


def _seconds(value_s: float) -> str:
    return f"{value_s * 1e6:.3g} us" if value_s < 1e-3 else f"{value_s * 1e3:.3g} ms"

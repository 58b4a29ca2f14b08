"""The project's own commands on the device, and what their records say."""

from __future__ import annotations

import json
import statistics
import time
import xml.etree.ElementTree
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.gpu.step import Context, python

_SHORT = (
    "--backends", "eager", "torchscript", "onnx", "--required", "onnx", "--bench.processes-count", "2",
    "--bench.rounds-count", "5", "--bench.cold-starts-count", "1",
)  # fmt: skip
"""A dry run's flags."""
_DEVICE = ("--bench.processes-count", "2", "--bench.cold-starts-count", "1")
"""A process that opens a GPU takes many seconds to start: one start of each artifact, two processes that time."""


def gpu_tests(context: Context) -> None:
    """``pytest -m gpu``; the figures of its report, and a line for each test that is not green."""
    report = context.work / "gpu-tests.xml"
    done = python(
        "-m", "pytest", "-m", "gpu", "-q", "-n", "5", "--benchmark-disable", "-p", "no:cacheprovider",
        f"--junitxml={report}", "tests/test_gpu.py",
    )  # fmt: skip
    if report.exists():
        _read_report(context, report)
    _demand(done.code, "pytest")


def _read_report(context: Context, report: Path) -> None:
    cases = list(xml.etree.ElementTree.parse(report).getroot().iter("testcase"))
    red = {case: [one for one in case if one.tag in {"failure", "error", "skipped"}] for case in cases}
    context.put("tests_count", len(cases))
    context.put("green_count", sum(not found for found in red.values()))
    for case, found in red.items():
        for one in found:
            message = " ".join((one.get("message") or "").split())[:300]
            context.row("not green", test=case.get("name"), seconds=case.get("time"), kind=one.tag, message=message)
    for case in sorted(cases, key=lambda case: -float(case.get("time") or 0))[:8]:
        context.row("slowest", test=case.get("name"), seconds=case.get("time"))


def seed_parity(context: Context) -> None:
    """The default recipe up to parity."""
    _parity(context, "seed")


def digits_parity(context: Context) -> None:
    """The convolutional one up to parity."""
    _parity(context, "digits")


def seed_measure(context: Context) -> None:
    """The default recipe's timings."""
    _measure(context, "seed")


def digits_measure(context: Context) -> None:
    """The convolutional one's timings."""
    _measure(context, "digits")


def seed_all(context: Context) -> None:
    """The default recipe's verdict and bundle."""
    _all(context, "seed")


def digits_all(context: Context) -> None:
    """The convolutional one's verdict and bundle."""
    _all(context, "digits")


def pipeline(context: Context, recipe: str, *flags: str) -> int:
    """``python -m pipeline.all`` on the device; its exit code."""
    short = _SHORT if context.small else _DEVICE
    started = time.monotonic()
    done = python(
        "-m", "pipeline.all", recipe, "--device", context.device, "--out", str(context.runs), *short, *flags
    )  # fmt: skip
    context.put("command_s", time.monotonic() - started)
    context.put("exit_code", done.code)
    return done.code


def _parity(context: Context, recipe: str) -> None:
    code = pipeline(context, recipe, "--only", "parity")
    folder = context.run_folder(recipe)
    for path in sorted(folder.glob("artifacts/*/artifact.json")) if folder else []:
        artifact = _json(path)
        report = _json(path.parents[2] / "parity" / f"{artifact.get('name')}.json")
        witness = report.get("witness") or {}
        ratios = [one.get("peak_ratio") for one in report.get("outputs", []) if one.get("peak_ratio") is not None]
        context.row(
            "artifacts",
            artifact=artifact.get("name"),
            build_s=artifact.get("observed", {}).get("duration_s"),
            parity=report.get("status"),
            parity_s=report.get("observed", {}).get("duration_s"),
            largest_error_in_eagers=max(ratios, default=None),
            fallback=witness.get("fallback"),
            evidence=witness.get("evidence"),
            reasons=report.get("reasons"),
        )
    _demand(code, "pipeline.all")


def _measure(context: Context, recipe: str) -> None:
    code = pipeline(context, recipe, "--only", "measure")
    folder = context.run_folder(recipe)
    for path in sorted(folder.glob("measurements/*.json")) if folder else []:
        record = _json(path)
        for rows in sorted({one["batch_rows"] for one in record.get("samples", [])}):
            kept = [one for one in record["samples"] if one["batch_rows"] == rows]
            context.row(
                "timings",
                artifact=record.get("artifact"),
                batch_rows=rows,
                block_us=_median_us(one["samples_s"] for one in kept),
                single_call_us=_median_us(one["calls_s"] for one in kept),
                checked_us=_median_us(one["checked_s"] for one in kept),
                joules_per_call=_median(one["joules_per_call"] for one in kept if one["joules_per_call"] is not None),
            )
        for one in record.get("cold_starts", [])[:1]:
            context.row("cold starts", artifact=record.get("artifact"), **one)
        if "roofline" in record:
            context.put("own_roofline", record["roofline"])
            context.put("empty_block_s", record.get("empty_block_s"))
    _demand(code, "pipeline.all")


def _all(context: Context, recipe: str) -> None:
    code = pipeline(context, recipe)
    folder = context.run_folder(recipe)
    verdict = _json(folder / "verdict.json") if folder else {}
    for name in ("winner", "good", "reasons", "warnings", "metrics"):
        context.put(name, verdict.get(name))
    for row in verdict.get("rows", []):
        context.row(
            "rows",
            artifact=row.get("name"),
            parity=row.get("parity"),
            shippable=row.get("shippable"),
            reasons=row.get("reasons"),
        )
    if folder is not None:
        context.put("bundle", sorted(path.name for path in folder.glob("bundle/*")))
    _demand(code, "pipeline.all")


def _demand(code: int, what: str) -> None:
    """End the step as a failed one; its figures stay."""
    if code:
        raise SystemExit(f"{what} ended with {code}")


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _median_us(series: Iterable[list[float]]) -> float | None:
    """Microseconds: the median over processes of each one's median."""
    found = _median(statistics.median(one) for one in series if one)
    return None if found is None else found * 1e6


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None

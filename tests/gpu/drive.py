"""Runs steps in processes of their own, within their limits and the budget, and writes down what each one found."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tests.gpu.plan import Step
from tests.gpu.step import ROOT, environ

LINES, LOG, RUNS = "gpu.jsonl", "log.txt", "runs.tar.gz"
"""All that is brought back: a line a step, the steps' output, and the records of the pipeline's runs."""
DONE = "done"
_POLL_S = 0.1
_LOG_BYTES = 400_000
_KEPT = (
    "recipe.json", "verdict.json", "report.html", "checkpoint/checkpoint.json", "program/program.json",
    "artifacts/*/artifact.json", "parity/*.json", "measurements/*.json", "log/*.log", "log/*.sh",
)  # fmt: skip
"""What is brought back of a run: its records and logs, no tensors."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to run, and within what."""

    steps: Sequence[Step]
    device: str
    out: Path
    work: Path
    budget_s: float
    beside_count: int
    """How many steps that measure no time run side by side."""


@dataclass
class _Running:
    step: Step
    process: subprocess.Popen[bytes]
    started_s: float
    limit_s: float
    log: BinaryIO


def drive(plan: Plan) -> int:
    """Run every step that is not done yet; 0 if all are done in the end, else 1."""
    plan.out.mkdir(parents=True, exist_ok=True)
    (plan.work / "steps").mkdir(parents=True, exist_ok=True)
    finished = {name for name, line in latest(plan.out / LINES).items() if line["status"] == DONE}
    waiting = [step for step in plan.steps if step.name not in finished]
    deadline_s = time.monotonic() + plan.budget_s
    running: list[_Running] = []
    with _killed_at_the_end(running):
        while waiting or running:
            while waiting and _may_start(waiting[0], running, plan.beside_count):
                step = waiting.pop(0)
                left_s = deadline_s - time.monotonic()
                if step.expected_s > left_s:
                    reason = f"{left_s:.0f} s were left, it takes about {step.expected_s:g}"
                    _write_down(plan, step, "skipped", 0.0, reason)
                else:
                    running.append(_start(plan, step, min(step.limit_s, left_s)))
            time.sleep(_POLL_S)
            for one in list(running):
                if (status := _status(one)) is not None:
                    running.remove(one)
                    _end(plan, one, status)
    _bring_back(plan)
    lines = latest(plan.out / LINES)
    return int(any(lines[step.name]["status"] != DONE for step in plan.steps))


def latest(path: Path) -> dict[str, dict[str, Any]]:
    """The last line of every step, in the order of the first ones."""
    text = path.read_text() if path.exists() else ""
    return {line["step"]: line for line in map(json.loads, filter(None, text.splitlines()))}


def _may_start(step: Step, running: Sequence[_Running], beside_count: int) -> bool:
    if step.alone or any(one.step.alone or one.step.name in step.after for one in running):
        return not running
    return len(running) < beside_count


def _start(plan: Plan, step: Step, limit_s: float) -> _Running:
    figures = _figures(plan, step)
    figures.unlink(missing_ok=True)
    figures.touch()
    log = (plan.work / "steps" / f"{step.name}.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.gpu.step", step.function, plan.device, str(plan.work), str(figures)],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, env=environ(), start_new_session=True,
    )  # fmt: skip
    return _Running(step, process, time.monotonic(), limit_s, log)


def _status(one: _Running) -> str | None:
    """How it ended; None while it runs and may."""
    code = one.process.poll()
    if code is not None:
        return DONE if code == 0 else "failed"
    if time.monotonic() - one.started_s <= one.limit_s:
        return None
    _kill(one)
    return "timeout"


def _end(plan: Plan, one: _Running, status: str) -> None:
    _kill(one)  # what it may have left running
    one.log.close()
    reason = None
    if status == "timeout":
        reason = f"killed after {one.limit_s:.0f} s"
    elif status != DONE:
        lines = Path(one.log.name).read_text(errors="replace").strip().splitlines()
        reason = f"exit code {one.process.returncode}: {lines[-1] if lines else 'no output'}"[:500]
    _write_down(plan, one.step, status, time.monotonic() - one.started_s, reason)


def _write_down(plan: Plan, step: Step, status: str, seconds: float, reason: str | None) -> None:
    """Append the step's line, and bring everything else that leaves the machine up to date."""
    line = {
        "step": step.name,
        "status": status,
        "seconds": round(seconds, 2),
        "reason": reason,
        "device": plan.device,
        "about": step.about,
        "figures": _read_figures(_figures(plan, step)) if status != "skipped" else {},
    }
    with (plan.out / LINES).open("a") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())
    print(f"{step.name:<18} {status:<8} {seconds:6.1f} s  {reason or ''}", flush=True)
    if status != "skipped":
        _bring_back(plan)


def _figures(plan: Plan, step: Step) -> Path:
    return plan.work / "steps" / f"{step.name}.jsonl"


def _read_figures(path: Path) -> dict[str, Any]:
    """Single figures by name, tables as lists of their lines."""
    found: dict[str, Any] = {}
    for text in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):  # the last line of a step that was killed while writing it
            line = json.loads(text)
            if "table" in line:
                found.setdefault(line["table"], []).append(line["row"])
            else:
                found[line["name"]] = line["value"]
    return found


def _bring_back(plan: Plan) -> None:
    """All logs in one file, all records of runs in another: few files may leave the machine."""
    logs = sorted((plan.work / "steps").glob("*.log"), key=lambda path: path.stat().st_mtime)
    with (plan.out / LOG).open("wb") as target:
        for log in logs:
            content = log.read_bytes()
            target.write(f"\n===== {log.stem} ({len(content)} bytes)\n".encode() + content[-_LOG_BYTES:])
    partial = plan.out / f".{RUNS}"
    with tarfile.open(partial, "w:gz", compresslevel=4) as archive:
        for path in _records(plan.work / "runs"):
            archive.add(path, arcname=str(path.relative_to(plan.work)))
    partial.replace(plan.out / RUNS)


def _records(runs: Path) -> list[Path]:
    folders = [path.parent for path in runs.glob("*/*/recipe.json") if not path.parent.is_symlink()]
    found = (path for folder in folders for pattern in _KEPT for path in folder.glob(pattern))
    return sorted(path for path in found if path.is_file())


@contextlib.contextmanager
def _killed_at_the_end(running: list[_Running]) -> Iterator[None]:
    """Whatever ends the driver, SIGTERM included, ends the steps."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        for one in running:
            _kill(one)


def _kill(one: _Running) -> None:
    """The step's whole process group, which it leads."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(one.process.pid, signal.SIGKILL)
    one.process.wait()

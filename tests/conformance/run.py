"""One architecture through the command that users type, within a time limit."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.conformance.outcome import BACKENDS, Outcome, cells
from tests.conformance.suite import Architecture
from tests.conftest import ROOT, environ

LIMIT_S = 400.0
_GOOD, _NOT_GOOD = 0, 1


def run(architecture: Architecture, limit_s: float = LIMIT_S) -> Outcome:
    """Parity of every backend, each exported anew in a folder that is not kept."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        command = (
            sys.executable, "-m", "pipeline.all", architecture.place, "--only", "parity", "--out", folder,
            "--backends", *BACKENDS, "--required", "eager",
        )  # fmt: skip
        printed, ending = _ended(command, limit_s)
        seconds = time.monotonic() - started
        judged = cells(Path(folder), architecture.name, printed, ending)
    return Outcome(name=architecture.name, kind=architecture.kind, seconds=round(seconds, 1), cells=judged)


def _ended(command: tuple[str, ...], limit_s: float) -> tuple[str, str | None]:
    """What a command printed, and why it ended too early; None if it did not."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=limit_s, cwd=ROOT, env=environ()
        )
    except subprocess.TimeoutExpired as expired:
        printed = expired.stdout or b""
        text = printed.decode(errors="replace") if isinstance(printed, bytes) else printed
        return text, f"the run took more than {limit_s:g} s"
    if done.returncode in {_GOOD, _NOT_GOOD}:
        return done.stdout, None
    return done.stdout, f"the run ended: {_error(done.stderr)}"


def _error(text: str) -> str:
    """The command's own message on one line; without one, its last line."""
    message = re.search(r"^error: (.*?)(?:\nThe whole story:|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    lines = text.strip().splitlines()
    return " ".join((message.group(1) if message else lines[-1] if lines else "no output").split())[:400]

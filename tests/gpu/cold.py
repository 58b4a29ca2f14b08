"""Cold start by a clock outside the process, and the device memory that nvidia-smi counts for it.

The child prints marks of the machine's monotonic clock, and then waits to be looked at.
"""

from __future__ import annotations

import time

STARTED_S = time.monotonic()
"""The child's first line: before this the interpreter started."""

import json  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from tests.gpu.step import ROOT, Context, environ  # noqa: E402

_MARK = "cold: "
_MIB = 2**20


def cold(context: Context) -> None:
    """A line for each artifact that ships; the project's own figures of the same artifact beside it."""
    for recipe in ("seed",) if context.small else ("seed", "digits"):
        run = context.run_folder(recipe)
        for folder in sorted(run.glob("artifacts/*/artifact.json")) if run else []:
            name = folder.parent.name
            if name == "eager":
                continue  # needs the model's source
            with context.attempt("cold starts", recipe=recipe, artifact=name) as found:
                before_mib = _used_mib()
                found.update(_one(folder.parent, context.device, before_mib))
                assert run is not None
                found.update(_own(run / "measurements" / f"{name}.json"))


def _one(folder: Path, device: str, before_mib: float | None) -> dict[str, Any]:
    began_s = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.gpu.cold", str(folder), device],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environ(),
    )  # fmt: skip
    assert child.stdout is not None
    line = next((line for line in child.stdout if line.startswith(_MARK)), None)
    outside_s = time.monotonic() - began_s
    if line is None:
        raise RuntimeError(f"no answer, exit code {child.wait()}")
    marks = json.loads(line.removeprefix(_MARK))
    after_mib = _used_mib()
    child.communicate("")
    return {
        "outside_s": outside_s,
        "interpreter_s": marks["started"] - began_s,
        "import_s": marks["imported"] - marks["started"],
        "load_s": marks["loaded"] - marks["imported"],
        "first_call_s": marks["answered"] - marks["loaded"],
        "reserved_by_torch_mib": marks["reserved_mib"],
        "nvidia_smi_mib": None if before_mib is None or after_mib is None else after_mib - before_mib,
    }


def _own(path: Path) -> dict[str, object]:
    """What the project measured: the sum of the parts that it times, and device memory."""
    if not path.exists():
        return {}
    starts = json.loads(path.read_text()).get("cold_starts", [])
    if not starts:
        return {}
    seconds = [sum(value or 0.0 for name, value in one.items() if name.endswith("_s")) for one in starts]
    sizes = [one["device_bytes"] for one in starts if one.get("device_bytes") is not None]
    return {"own_s": min(seconds), "own_device_mib": max(sizes) / _MIB if sizes else None}


def _used_mib() -> float | None:
    """Memory in use on the first GPU by all processes; per process the driver of a virtual machine may not tell."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0"]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0])


def _answer(folder: Path, device: str) -> None:
    """The child."""
    from tests.gpu import adapter

    marks: dict[str, Any] = {"started": STARTED_S, "imported": time.monotonic(), "reserved_mib": None}
    runner = adapter.load(folder, device)  # which imports the runtime
    marks["loaded"] = time.monotonic()
    runner(adapter.example(runner, 1))
    marks["answered"] = time.monotonic()
    if device == "cuda":
        import torch

        marks["reserved_mib"] = torch.cuda.memory_reserved() / _MIB
    print(_MARK + json.dumps(marks), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _answer(Path(sys.argv[1]), sys.argv[2])

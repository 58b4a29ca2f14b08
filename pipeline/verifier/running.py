"""One artifact run in a process of its own, with limits on its time and memory."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.verifier.artifacts import OnnxArtifact, TorchstoneArtifact
from pipeline.verifier.golden import check_golden
from pipeline.verifier.outcome import Refused, Unable
from pipeline.verifier.speed import first_rows, latency, p99

CHILD = "--child"
ACCEPTED, REFUSED, USAGE = 0, 1, 2
_RUNTIME = 3
"""The child's exit code where the words are the runtime's own."""
_ANSWER_BYTES = 1 << 20
_OWN_MIB = 4096
"""Address space that Python, NumPy and a runtime reserve for themselves."""


class Bounds(NamedTuple):
    """What a run may take."""

    time_s: float = 300.0
    memory_mb: int | None = None
    """Address space of the process; None: by the size of the artifact."""
    speed: bool = True
    """Whether latency is measured as well."""


def run_artifact(
    folder: Path, bundle: Mapping[str, Any], shipped: Mapping[str, Any], options: Bounds
) -> dict[str, Any]:
    """Golden answers, cold start and latency of one artifact, from a fresh process.

    Raises:
        Refused: the process failed, or took more time or memory than it may.
        Unable: what it imports is not installed.
    """
    job: dict[str, Any] = {
        "folder": str(folder),
        "bundle": bundle,
        "shipped": shipped,
        "memory_mb": options.memory_mb,
        "speed": options.speed,
    }
    command, environ = _child_command()
    job["began_s"] = time.monotonic()
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ,
        start_new_session=True,
    )  # fmt: skip
    try:
        output, errors = child.communicate(json.dumps(job).encode(), timeout=options.time_s)
    except subprocess.TimeoutExpired:
        raise Refused(f"{shipped['name']} did not answer within {options.time_s:g} s") from None
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()
    last = output[-_ANSWER_BYTES:].decode("utf-8", "replace").rpartition("\x1e")[2]
    if child.returncode == 0:
        answer: dict[str, Any] = json.loads(last)
        return answer
    if child.returncode == REFUSED and last:
        raise Refused(last)
    if child.returncode == USAGE and last:
        raise Unable(last)
    cause = last if child.returncode == _RUNTIME else errors[-2000:].decode("utf-8", "replace").strip()
    if child.returncode < 0:
        cause = f"killed by signal {-child.returncode}. {cause}"
    raise Refused(f"{shipped['name']} does not run here: {cause[-600:] or f'exit code {child.returncode}'}")


def _child_command() -> tuple[list[str], dict[str, str]]:
    """How to start the child: this very file where it stands alone, else the package's command."""
    environ = dict(os.environ)
    if not __package__:
        return [sys.executable, os.path.abspath(__file__), CHILD], environ
    home = str(Path(__file__).resolve().parents[2])
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, (home, environ.get("PYTHONPATH"))))
    return [sys.executable, "-P", "-m", "pipeline.verify", CHILD], environ


def child() -> int:
    """The run itself: a job on the standard input, the answer after a record separator on the standard output."""
    entered_s = time.monotonic()
    job = json.loads(sys.stdin.buffer.read())
    try:
        answer = json.dumps(_run(job, entered_s))
        code = 0
    except Refused as error:
        answer, code = str(error), REFUSED
    except Unable as error:
        answer, code = str(error), USAGE
    except MemoryError:
        answer, code = "it takes more memory than it may", _RUNTIME
    except Exception as error:  # noqa: BLE001 - each runtime refuses a file in its own type
        answer, code = f"{type(error).__name__}: {' '.join(str(error).split())}"[:600], _RUNTIME
    sys.stdout.write("\x1e" + answer)
    sys.stdout.flush()
    os._exit(code)  # a runtime's own teardown has nothing left to say


def _run(job: Mapping[str, Any], entered_s: float) -> dict[str, Any]:
    folder, bundle, shipped = Path(job["folder"]), job["bundle"], job["shipped"]
    _bound_memory(job["memory_mb"], shipped)
    importing = time.monotonic()
    try:
        import numpy
    except ImportError as error:
        raise Unable(f"{error}: pip install numpy {shipped['runtime']}") from None
    numpy.seterr(all="ignore")
    artifact = (OnnxArtifact if shipped["runtime"] == "onnxruntime" else TorchstoneArtifact)(folder, bundle, shipped)
    loading = time.monotonic()
    artifact.load()
    loaded = time.monotonic()
    calls = bundle["golden"]
    inputs = first_rows(folder, bundle, bundle["timed_rows"][0])
    calling = time.monotonic()
    artifact.call(inputs)
    answered = time.monotonic()
    found = {
        "start_s": entered_s - job["began_s"],
        "import_s": loading - importing,
        "load_s": loaded - loading,
        "first_call_s": answered - calling,
        "golden": check_golden(numpy, folder, calls, artifact, shipped),
    }
    found["cold_s"] = found["start_s"] + found["import_s"] + found["load_s"] + found["first_call_s"]
    if job["speed"]:
        found["latency"] = latency(numpy, folder, bundle, artifact)
        found["p99"] = p99(numpy, folder, bundle, artifact)
    found["peak_bytes"] = _peak_bytes()
    return found


def _bound_memory(memory_mb: int | None, shipped: Mapping[str, Any]) -> None:
    """No more address space than the artifact can need; not where CUDA maps the whole of a GPU's."""
    if shipped["options"]["device"] != "cpu" or (memory_mb is None and shipped["runtime"] != "onnxruntime"):
        return
    try:
        import resource
    except ImportError:
        return  # no such limit on this system; the one on time holds
    most = (memory_mb << 20) if memory_mb else (_OWN_MIB << 20) + 16 * shipped["size_bytes"] + 4 * shipped["peak_bytes"]
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _peak_bytes() -> int | None:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found.group(1)) << 10 if found else None

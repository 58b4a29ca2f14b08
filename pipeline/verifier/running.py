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
from typing import Any, NamedTuple, NoReturn

from pipeline.verifier import CHILD
from pipeline.verifier.artifacts import OnnxArtifact, TorchstoneArtifact
from pipeline.verifier.golden import check_golden
from pipeline.verifier.location import ARCHIVE, HOME, installation
from pipeline.verifier.outcome import Refused, Unable
from pipeline.verifier.speed import first_rows, latency, p99

ACCEPTED, REFUSED, USAGE = 0, 1, 2
_RUNTIME_FAILED = 3
"""The child's exit code where the message is the runtime's own."""
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


def run_artifact(folder: Path, bundle: Mapping[str, Any], shipped: Mapping[str, Any], bounds: Bounds) -> dict[str, Any]:
    """Golden answers, cold start and latency of one artifact, from a fresh process.

    Raises:
        Refused: the process failed, or took more time or memory than it may.
        Unable: what it imports is not installed.
    """
    job: dict[str, Any] = {
        "folder": str(folder),
        "bundle": bundle,
        "shipped": shipped,
        "memory_mb": bounds.memory_mb,
        "speed": bounds.speed,
    }
    command, environ = child_command(folder)
    job["began_s"] = time.monotonic()
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ,
        start_new_session=True,
    )  # fmt: skip
    try:
        output, errors = process.communicate(json.dumps(job).encode(), timeout=bounds.time_s)
    except subprocess.TimeoutExpired:
        raise Refused(f"{shipped['name']} did not answer within {bounds.time_s:g} s") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    last = output[-_ANSWER_BYTES:].decode("utf-8", "replace").rpartition("\x1e")[2]
    if process.returncode == ACCEPTED:
        run: dict[str, Any] = json.loads(last)
        return run
    if process.returncode == REFUSED and last:
        raise Refused(last)
    if process.returncode == USAGE and last:
        raise Unable(last)
    cause = last if process.returncode == _RUNTIME_FAILED else errors[-2000:].decode("utf-8", "replace").strip()
    if process.returncode < 0:
        cause = f"killed by signal {-process.returncode}. {cause}"
    raise Refused(f"{shipped['name']} does not run here: {cause[-600:] or f'exit code {process.returncode}'}")


def child_command(folder: Path) -> tuple[list[str], dict[str, str]]:
    """How to start the child on the bundle in ``folder``, so that no file of it shadows a module.

    An archive needs nothing of the environment, so its child does not look at PYTHONPATH (``-E``), nor at the user's
    own packages where this process does not either (``-I``). A package may itself have been found by PYTHONPATH, which
    its child takes over, but for the current folder and what lies in the bundle.
    """
    environ = dict(os.environ)
    if ARCHIVE is not None:
        isolated = "-I" if sys.flags.no_user_site else "-E"
        encoding = f"utf8={sys.flags.utf8_mode}"  # which PYTHONUTF8 may have set: names of files must mean the same
        return [sys.executable, isolated, "-X", encoding, str(ARCHIVE), CHILD], environ
    bundle, current = folder.resolve(), Path.cwd()
    places = [Path(place).resolve() for place in environ.get("PYTHONPATH", "").split(os.pathsep)]
    kept = [str(place) for place in places if place != current and bundle not in (place, *place.parents)]
    environ["PYTHONPATH"] = os.pathsep.join([str(HOME), *kept])
    return [sys.executable, "-P", "-m", "pipeline.verifier", CHILD], environ


def child() -> NoReturn:
    """The run itself: a job on the standard input, the answer after a record separator on the standard output."""
    entered_s = time.monotonic()
    job = json.loads(sys.stdin.buffer.read())
    try:
        answer = json.dumps(_run(job, entered_s))
        code = ACCEPTED
    except Refused as error:
        answer, code = str(error), REFUSED
    except Unable as error:
        answer, code = str(error), USAGE
    except MemoryError:
        answer, code = "it takes more memory than it may", _RUNTIME_FAILED
    except Exception as error:  # noqa: BLE001 - each runtime refuses a file in its own type
        answer, code = f"{type(error).__name__}: {' '.join(str(error).split())}"[:600], _RUNTIME_FAILED
    sys.stdout.buffer.write(b"\x1e" + answer.encode("utf-8", "backslashreplace"))
    sys.stdout.flush()
    os._exit(code)  # a runtime's own teardown has nothing left to say


def _run(job: Mapping[str, Any], entered_s: float) -> dict[str, Any]:
    folder, bundle, shipped = Path(job["folder"]), job["bundle"], job["shipped"]
    _bound_memory(job["memory_mb"], shipped)
    importing_s = time.monotonic()
    try:
        import numpy
    except ImportError as error:
        raise Unable(f"{error}: {installation('numpy')}") from None
    numpy.seterr(all="ignore")
    artifact = (OnnxArtifact if shipped["runtime"] == "onnxruntime" else TorchstoneArtifact)(folder, bundle, shipped)
    loading_s = time.monotonic()
    artifact.load()
    loaded_s = time.monotonic()
    inputs = first_rows(folder, bundle, bundle["timed_rows"][0])
    calling_s = time.monotonic()
    artifact.call(inputs)
    answered_s = time.monotonic()
    run = {
        "start_s": entered_s - job["began_s"],
        "import_s": loading_s - importing_s,
        "load_s": loaded_s - loading_s,
        "first_call_s": answered_s - calling_s,
        "golden": check_golden(numpy, folder, bundle["golden"], artifact, shipped),
    }
    run["cold_s"] = run["start_s"] + run["import_s"] + run["load_s"] + run["first_call_s"]
    if job["speed"]:
        run["latency"] = latency(numpy, folder, bundle, artifact)
        run["p99"] = p99(folder, bundle, artifact)
    run["peak_bytes"] = _peak_bytes()
    return run


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
    """The most memory that this process held; None where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    line = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(line.group(1)) << 10 if line else None

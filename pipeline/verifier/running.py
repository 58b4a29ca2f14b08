"""One artifact run in a process of its own, with limits on its time and memory."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

from pipeline.verifier import CHILD
from pipeline.verifier.artifacts import OnnxArtifact, TorchstoneArtifact
from pipeline.verifier.golden import check_golden
from pipeline.verifier.location import ARCHIVE, HOME, installation
from pipeline.verifier.orphan import die_with
from pipeline.verifier.outcome import Refused, Unable
from pipeline.verifier.private import private_folder
from pipeline.verifier.speed import first_rows, latency, p99

ACCEPTED, REFUSED, USAGE = 0, 1, 2
_RUNTIME_FAILED = 3
"""The child's exit code where the message is the runtime's own."""
_ANSWER_BYTES = 1 << 20
_OWN_MIB = 4096
"""Memory that Python, NumPy and a runtime may take for themselves."""
_SEPARATOR = "\x1e"
_POLL_S = 0.05


class Bounds(NamedTuple):
    """What a run may take."""

    time_s: float = 300.0
    memory_mb: int | None = None
    """Resident memory of the process; None: by the size of the artifact, at most three quarters of the machine's."""
    speed: bool = True
    """Whether latency is measured as well."""


def run_artifact(folder: Path, bundle: Mapping[str, Any], shipped: Mapping[str, Any], bounds: Bounds) -> dict[str, Any]:
    """Golden answers, cold start and latency of one artifact, from a fresh process.

    Raises:
        Refused: the process failed, or took more time or memory than it may.
        Unable: what it imports is not installed.
    """
    with private_folder() as scratch:
        code, output, errors = _run_child(folder, bundle, shipped, bounds, scratch)
    last = output.decode("utf-8", "replace").rpartition(_SEPARATOR)[2]
    if code == ACCEPTED:
        run: dict[str, Any] = json.loads(last)
        return run
    if code == REFUSED and last:
        raise Refused(last)
    if code == USAGE and last:
        raise Unable(last)
    cause = last if code == _RUNTIME_FAILED else errors[-2000:].decode("utf-8", "replace").strip()
    if code < 0:
        cause = f"killed by signal {-code}. {cause}"
    raise Refused(f"{shipped['name']} does not run here: {cause[-600:] or f'exit code {code}'}")


def _run_child(
    folder: Path, bundle: Mapping[str, Any], shipped: Mapping[str, Any], bounds: Bounds, scratch: Path
) -> tuple[int, bytes, bytes]:
    """Exit code, and the ends of what the process wrote to its two streams.

    They are files and not pipes: a process that it left behind could keep a pipe open for ever. Its temporary files
    lie in ``scratch`` as well.
    """
    command, environ = child_command(folder)
    temporary = scratch / "tmp"
    temporary.mkdir()
    with (
        open(scratch / "job", "w+b") as job,
        open(scratch / "output", "w+b") as output,
        open(scratch / "errors", "w+b") as errors,
    ):
        fields = {"folder": str(folder), "bundle": bundle, "shipped": shipped}
        began_s = time.monotonic()
        more = {"speed": bounds.speed, "began_s": began_s, "parent_pid": os.getpid()}
        job.write(json.dumps({**fields, **more}).encode())
        job.seek(0)
        process = subprocess.Popen(
            command, stdin=job, stdout=output, stderr=errors, env={**environ, "TMPDIR": str(temporary)},
            start_new_session=True,
        )  # fmt: skip
        try:
            _wait(process, shipped["name"], bounds.time_s, _most_bytes(bounds, shipped))
        finally:
            _kill_group(process)
        return process.returncode, _tail(output), _tail(errors)


def _most_bytes(bounds: Bounds, shipped: Mapping[str, Any]) -> int:
    """The resident memory that an artifact may take; what the bundle says of its needs cannot raise it at will."""
    if bounds.memory_mb is not None:
        return bounds.memory_mb << 20
    needed = (_OWN_MIB << 20) + 16 * int(shipped["size_bytes"]) + 4 * int(shipped["peak_bytes"])
    machine_bytes = _machine_bytes()
    return min(needed, machine_bytes * 3 // 4) if machine_bytes else needed


def _wait(process: subprocess.Popen[bytes], name: str, limit_s: float, most_bytes: int) -> None:
    """Until the process ends by itself.

    Raises:
        Refused: it takes more time or resident memory than it may.
    """
    began_s = time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_S)
            return
        if time.monotonic() - began_s > limit_s:
            raise Refused(f"{name} did not answer within {limit_s:g} s")
        if (used := _resident_bytes(process.pid)) > most_bytes:
            raise Refused(
                f"{name} takes {used >> 20} MiB, more than the {most_bytes >> 20} MiB that it may: "
                "--memory-limit-mb allows more"
            )


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """The process, and whatever it started and left running."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):  # all have ended
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _tail(file: BinaryIO) -> bytes:
    """The end of what was written."""
    size_bytes = file.seek(0, os.SEEK_END)
    file.seek(max(0, size_bytes - _ANSWER_BYTES))
    return file.read()


def _machine_bytes() -> int:
    """The machine's memory; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0


def _resident_bytes(pid: int) -> int:
    """What a process holds in memory now; 0 where the system does not say, or if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


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
    die_with(job["parent_pid"])
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
    sys.stdout.buffer.write((_SEPARATOR + answer).encode("utf-8", "backslashreplace"))
    sys.stdout.flush()
    os._exit(code)  # a runtime's own teardown has nothing left to say


def _run(job: Mapping[str, Any], entered_s: float) -> dict[str, Any]:
    folder, bundle, shipped = Path(job["folder"]), job["bundle"], job["shipped"]
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
        run["latency"] = latency(numpy, folder, bundle, shipped, artifact)
        run["p99"] = p99(folder, bundle, artifact)
    if (elsewhere_count := getattr(artifact, "elsewhere_count", None)) is not None:
        run["elsewhere_count"] = elsewhere_count
    run["peak_bytes"] = _peak_bytes()
    return run


def _peak_bytes() -> int | None:
    """The most memory that this process held; None where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    line = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(line.group(1)) << 10 if line else None

"""Work in a process of its own: a crash, a hang or an exhausted memory becomes an outcome, and the others go on.

``run_child`` starts ``python -m export.worker JOB``; the child resolves the job's function, calls it with the job's
payload and leaves a result file. The parent watches the wall clock and the resident memory of the whole process tree
(an address-space limit would break CUDA). A child dies with its parent, so that a killed run leaves nothing behind.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import importlib.abc
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

import psutil

from export.errors import NO_SPACE, TorchstoneError
from export.record import Record, from_json, read, to_json, write, write_atomically

Status = Literal["done", "failed", "crashed", "timeout", "out-of-memory"]
_POLL_S = 0.1
_PR_SET_PDEATHSIG = 1
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_EXIT_NO_SPACE = 74
"""A child's exit code where the disk is full: it may have no room for an answer. sysexits.h calls it EX_IOERR."""
_ROOT = str(Path(__file__).resolve().parents[1])


@dataclass(frozen=True, kw_only=True)
class ProcessLimits:
    """What a child may use before it is killed."""

    wall_s: float = 900.0
    memory_bytes: int = 0
    """Resident bytes of the process tree; 0 stands for three quarters of the machine's memory."""

    def __post_init__(self) -> None:
        if self.wall_s <= 0:
            raise ValueError(f"wall_s must be > 0, got {self.wall_s}")
        if self.memory_bytes < 0:
            raise ValueError(f"memory_bytes must be >= 0, got {self.memory_bytes}")


@dataclass(frozen=True, kw_only=True)
class Job(Record):
    """What a child is to do."""

    SCHEMA: ClassVar[str] = "torchstone.job/1"

    function: str
    """``package.module:function``, called with ``payload``; returns something that ``record.to_json`` takes."""
    payload: Any
    result: str
    """Where the child leaves its answer."""
    hidden: tuple[str, ...] = ()
    """Packages that the child must not be able to import: the model's source, for source-free work."""
    import_path: tuple[str, ...] = ()
    """Folders in which the child finds the user's own modules."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a child leaves: a value, or why there is none."""

    value: Any = None
    cause: str | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a child ended."""

    status: Status
    cause: str | None
    """One line; None when done."""
    value: Any
    duration_s: float
    log: Path
    reproduce: Path
    """A shell script that runs the same job again."""


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Where the papers of children lie: logs, jobs and reproduce scripts, one each per child, by name."""

    folder: Path
    limits: ProcessLimits = field(default_factory=ProcessLimits)
    hidden: tuple[str, ...] = ()
    import_path: tuple[str, ...] = ()


def run_child(
    name: str,
    function: str,
    payload: object,
    workspace: Workspace,
    *,
    source_free: bool = False,
    poll_s: float = _POLL_S,
) -> Outcome:
    """Run ``function(payload)`` in a fresh Python and wait for it.

    ``source_free`` hides the packages of ``desk.hidden`` from the child.

    Raises:
        OSError: the disk is full, which no other child would survive either.
    """
    workspace.folder.mkdir(parents=True, exist_ok=True)
    job_file, result_file, log = (
        workspace.folder / f"{name}{suffix}" for suffix in (".job.json", ".result.json", ".log")
    )
    result_file.unlink(missing_ok=True)
    write(
        job_file,
        Job(
            function=function,
            payload=to_json(payload),
            result=str(result_file),
            hidden=workspace.hidden if source_free else (),
            import_path=() if source_free else workspace.import_path,
        ),
    )
    command = [sys.executable, "-P", "-m", "export.worker", str(job_file)]
    reproduce = workspace.folder / f"{name}.sh"
    environment = _child_environment()
    write_atomically(reproduce, _script(command, environment).encode())
    reproduce.chmod(0o755)
    started = time.monotonic()
    with log.open("wb") as output:
        child = psutil.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd=workspace.folder
        )
        ended = _watch(child, workspace.limits, poll_s)
    duration_s = time.monotonic() - started
    status, cause, value = ended if ended else _collect(child.returncode, result_file, log)
    if status == "done":
        for paper in (job_file, result_file, reproduce):
            paper.unlink()
    return Outcome(status=status, cause=cause, value=value, duration_s=duration_s, log=log, reproduce=reproduce)


def resolve(function: str) -> Callable[..., Any]:
    """The function behind ``package.module:name``."""
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _watch(child: psutil.Popen, limits: ProcessLimits, poll_s: float) -> tuple[Status, str, None] | None:
    """Wait for the child; kill its tree past a limit. None if it ended by itself."""
    memory_bytes = limits.memory_bytes or psutil.virtual_memory().total * 3 // 4
    deadline = time.monotonic() + limits.wall_s
    try:
        while True:
            try:
                child.wait(timeout=poll_s)
                return None
            except psutil.TimeoutExpired:
                pass
            if time.monotonic() > deadline:
                _kill_tree(child)
                return "timeout", f"stopped after its limit of {limits.wall_s:g} s", None
            if (used := _tree_rss_bytes(child)) > memory_bytes:
                _kill_tree(child)
                return "out-of-memory", f"stopped at {used >> 20} MiB, over its limit of {memory_bytes >> 20} MiB", None
    except BaseException:
        _kill_tree(child)
        raise


def _collect(returncode: int, result_file: Path, log: Path) -> tuple[Status, str | None, Any]:
    if result_file.exists():
        answer = from_json(Answer, json.loads(result_file.read_bytes()), str(result_file))
        return ("failed", answer.cause, None) if answer.cause else ("done", None, answer.value)
    if returncode == _EXIT_NO_SPACE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(log.parent))
    if returncode < 0:
        return "crashed", f"killed by {signal.Signals(-returncode).name}", None
    lines = log.read_text(errors="replace").strip().splitlines()
    return "crashed", f"exit code {returncode}: {lines[-1] if lines else 'no output'}", None


def _child_environment() -> dict[str, str]:
    """The parent's environment; our packages importable, strict float32 on CUDA before it starts."""
    path = os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH", "")]))
    return os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "NVIDIA_TF32_OVERRIDE": "0"}


def _script(command: Sequence[str], environment: dict[str, str]) -> str:
    return f"#!/bin/sh\nPYTHONPATH={shlex.quote(environment['PYTHONPATH'])} exec {shlex.join(command)}\n"


def _tree_rss_bytes(child: psutil.Process) -> int:
    total = 0
    for process in _tree(child):
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue  # it ended between the listing and the look
    return total


def _kill_tree(child: psutil.Process) -> None:
    processes = _tree(child)
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=10)


def _tree(child: psutil.Process) -> list[psutil.Process]:
    try:
        return [child, *child.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


class _Hide(importlib.abc.MetaPathFinder):
    """Refuses to find the packages of the model's source."""

    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = frozenset(packages)

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname.partition(".")[0] in self._packages:
            raise ModuleNotFoundError(
                f"{fullname} is hidden: this process runs without the model's source", name=fullname
            )


def _die_with_parent() -> None:
    """Linux: SIGKILL when the parent ends. Elsewhere an orphan ends with its job."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(job_file: Path) -> int:
    """The child: do the job, leave an answer; 0 when done, 1 when it failed, 74 when the disk is full."""
    _die_with_parent()
    job = read(Job, job_file)
    sys.path[:0] = job.import_path
    sys.meta_path.insert(0, _Hide(job.hidden))
    try:
        return _answer(job)
    except KeyboardInterrupt:
        return 130
    except OSError as error:  # of writing the traceback, or the answer
        if _no_space(error):
            return _EXIT_NO_SPACE
        raise


def _answer(job: Job) -> int:
    try:
        answer, code = Answer(value=to_json(resolve(job.function)(job.payload))), 0
    except Exception as error:  # noqa: BLE001 - the boundary of the process: the traceback goes to the log, the cause to the parent
        traceback.print_exc()
        if _no_space(error):
            return _EXIT_NO_SPACE
        answer, code = Answer(cause=_one_line(error)), 1
    write_atomically(Path(job.result), json.dumps(to_json(answer)).encode())
    return code


def _no_space(error: BaseException) -> bool:
    return any(isinstance(one, OSError) and one.errno in NO_SPACE for one in _chain(error))


def _chain(error: BaseException) -> list[BaseException]:
    """The error, and what caused it, in turn."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    return chain


def _one_line(error: BaseException) -> str:
    """The types of an error and of what caused it, and the first cause's words; our own errors speak for themselves."""
    chain = _chain(error)
    message = " ".join(_ANSI.sub("", str(chain[-1])).split())[:500]
    if isinstance(error, TorchstoneError):
        return " ".join(str(error).split())[:500]
    return ": ".join([*(type(one).__name__ for one in chain), message])


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))

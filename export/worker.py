"""Work in a process of its own: a crash, a hang or an exhausted memory becomes an outcome, and the others go on.

``Workspace.run`` starts ``python -m export.child JOB``; the child finds the task by its name, does the job and leaves a
result file. The parent watches the wall clock and the resident memory of the whole process tree (an address-space limit
would break CUDA). A child has a session of its own; it and all that it started end with it, and with its parent.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import psutil

from export.device import CHILD_ENVIRONMENT
from export.files import write_atomically
from export.forked import Forked, fork_server
from export.record import Record, from_json, write
from export.task import J, R, Task

FailedStatus = Literal["failed", "crashed", "timeout", "out-of-memory"]
EXIT_NO_SPACE = 74
"""A child's exit code where the disk is full: it may have no room for an answer. sysexits.h calls it EX_IOERR."""
_POLL_S = 0.1
_STUBBORN_S = 10.0
"""How long a killed process may take to be gone: one in the kernel's hands cannot be waited for."""
_LAST_BYTES = 1 << 16
"""Where the last line of a log lies."""
_ROOT = str(Path(__file__).resolve().parents[1])
T = TypeVar("T")


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
class JobFile(Record):
    """What a child is to do."""

    SCHEMA: ClassVar[str] = "torchstone.job/2"

    task: str
    """``package.module:name`` of the task."""
    payload: Any
    """Its job; as JSON values when it was read."""
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
class Done(Generic[T]):
    """A child that did its job."""

    result: T
    duration_s: float


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A child that did not end well."""

    status: FailedStatus
    cause: str
    """One line."""
    duration_s: float
    log: Path
    reproduce: Path
    """A shell script that runs the same job again."""

    @property
    def summary(self) -> str:
        """``crashed: killed by SIGSEGV``."""
        return f"{self.status}: {self.cause}"


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Where children work, and within which limits: a log each, and while they run, or after they failed, a job file
    and a script that reproduces it.
    """

    folder: Path
    limits: ProcessLimits = field(default_factory=ProcessLimits)
    hidden: tuple[str, ...] = ()
    """Packages of the model's source, which source-free work must not see."""
    import_path: tuple[str, ...] = ()

    def run(
        self,
        task: Task[J, R],
        job: J,
        name: str,
        *,
        source_free: bool = False,
        fresh: bool = False,
        poll_s: float = _POLL_S,
        stop: threading.Event | None = None,
    ) -> Done[R] | Failed:
        """Do ``task`` in a process of its own and wait for it; ``name`` is that of its files.

        ``source_free`` hides the model's source from the child. ``fresh`` is for what is timed, or must not share even
        an imported torch with others: a new Python; the others are forked from one that has only imported
        (export/forked.py). ``poll_s`` is how often the parent looks at the child;
        once ``stop`` is set it is killed, and its end is that of a failure.

        Raises:
            OSError: the disk is full, which no other child would survive either.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        files = _Files(self.folder, name)
        files.result.unlink(missing_ok=True)
        record = JobFile(
            task=task.name,
            payload=job,
            result=str(files.result),
            hidden=self.hidden if source_free else (),
            import_path=() if source_free else self.import_path,
        )
        write(files.job, record)
        command = [sys.executable, "-P", "-m", "export.child", str(files.job)]
        environment = _child_environment()
        write_atomically(files.reproduce, _script(command, environment).encode())
        files.reproduce.chmod(0o755)
        started = time.monotonic()
        with files.log.open("wb") as output:
            child: psutil.Popen | Forked
            if fresh or sys.platform != "linux":
                child = psutil.Popen(
                    [*command, str(os.getpid())], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    env=environment, cwd=self.folder, start_new_session=True,
                )  # fmt: skip
            else:
                child = fork_server(environment).start(files.job, output)
            stopped = _watch(child, self.limits, poll_s, stop or threading.Event())
        duration_s = time.monotonic() - started
        answer = stopped or _collect(child.wait(), files)
        if isinstance(answer, Answer):
            for path in (files.job, files.result, files.reproduce):
                path.unlink()
            return Done(result=task.result(answer.value), duration_s=duration_s)
        status, cause = answer
        return Failed(status=status, cause=cause, duration_s=duration_s, log=files.log, reproduce=files.reproduce)


@dataclass(frozen=True)
class _Files:
    """The files of one child."""

    folder: Path
    name: str

    @property
    def job(self) -> Path:
        return self.folder / f"{self.name}.job.json"

    @property
    def result(self) -> Path:
        return self.folder / f"{self.name}.result.json"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def reproduce(self) -> Path:
        return self.folder / f"{self.name}.sh"


def expect_children() -> None:
    """Start what forks the children, if it does not run: it imports while the parent does something else."""
    if sys.platform == "linux":
        fork_server(_child_environment())


def _watch(
    child: psutil.Popen | Forked, limits: ProcessLimits, poll_s: float, stop: threading.Event
) -> tuple[FailedStatus, str] | None:
    """Wait for the child; kill its tree past a limit, or when told to stop. None if it ended by itself."""
    memory_bytes = memory_limit_bytes(limits)
    deadline = time.monotonic() + limits.wall_s
    try:
        while True:
            try:
                child.wait(timeout=poll_s)
                return None
            except psutil.TimeoutExpired:
                pass
            if stop.is_set():
                _kill_tree(child)
                return "failed", "stopped: it was no longer needed"
            if time.monotonic() > deadline:
                _kill_tree(child)
                return "timeout", f"stopped after its limit of {limits.wall_s:g} s"
            if (used := _tree_rss_bytes(child)) > memory_bytes:
                _kill_tree(child)
                return "out-of-memory", f"stopped at {used >> 20} MiB, over its limit of {memory_bytes >> 20} MiB"
    except BaseException:
        _kill_tree(child)
        raise


def _collect(returncode: int, files: _Files) -> Answer | tuple[FailedStatus, str]:
    if files.result.exists():
        answer = from_json(Answer, json.loads(files.result.read_bytes()), str(files.result))
        return answer if answer.cause is None else ("failed", answer.cause)
    if returncode == EXIT_NO_SPACE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(files.folder))
    if returncode < 0:
        return "crashed", f"killed by {signal_name(-returncode)}"
    lines = _end_of(files.log).strip().splitlines()
    return "crashed", f"exit code {returncode}: {lines[-1] if lines else 'no output'}"


def memory_limit_bytes(limits: ProcessLimits) -> int:
    """The limit in bytes on this machine."""
    return limits.memory_bytes or psutil.virtual_memory().total * 3 // 4


def signal_name(number: int) -> str:
    """``SIGSEGV``; those of real time have no names."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end_of(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LAST_BYTES))
        return file.read().decode(errors="replace")


def _child_environment() -> dict[str, str]:
    """The parent's environment; our packages importable, strict float32 on CUDA before it starts."""
    path = os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"} | CHILD_ENVIRONMENT
    environment.pop("PYTEST_CURRENT_TEST", None)  # no setting; it would need a fork server for every test
    return environment


def _script(command: Sequence[str], environment: dict[str, str]) -> str:
    return f"#!/bin/sh\nPYTHONPATH={shlex.quote(environment['PYTHONPATH'])} exec {shlex.join(command)}\n"


def _tree_rss_bytes(child: psutil.Process) -> int:
    """Without a leader, which computes nothing and shares its memory with what it leads."""
    total = 0
    led = 1 if sys.platform == "linux" else 0
    for process in _tree(child)[led:]:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue  # it ended between the listing and the look
    return total


def _kill_tree(child: psutil.Process) -> None:
    """The child and all below it; those that start meanwhile too. Its leader goes last, whose they become."""
    deadline = time.monotonic() + _STUBBORN_S
    while (below := _tree(child)[1:]) and time.monotonic() < deadline:
        _kill(below)
    _kill([child])


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=_STUBBORN_S)


def _tree(child: psutil.Process) -> list[psutil.Process]:
    try:
        return [child, *child.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []

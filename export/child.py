"""The child's side of export/worker.py: ``python -m export.child JOB`` does one job and leaves an answer.

On Linux a leader stands between the two (export/leader.py), which keeps the log within bounds: the parent names itself
by ``python -m export.child JOB PARENT_PID``.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import importlib
import importlib.abc
import json
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

from export.errors import TorchstoneError, causes
from export.files import is_full, no_space, write_atomically
from export.log import BoundedLog
from export.record import read, to_json
from export.task import resolve
from export.worker import EXIT_NO_SPACE, Answer, JobFile

if TYPE_CHECKING:
    from export.leader import Member

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class _Hide(importlib.abc.MetaPathFinder):
    """Refuses to find the packages of the model's source."""

    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = frozenset(packages)

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname.partition(".")[0] in self._packages:
            raise ModuleNotFoundError(
                f"{fullname} is hidden: this process runs without the model's source", name=fullname
            )


def _be_led(parent_pid: int) -> None:
    """Go on in a new process, whose leader copies what it prints to the log and ends with ``parent_pid``."""
    from export import leader

    leader.die_with_parent(signal.SIGTERM, parent_pid)
    source, sink = os.pipe()

    def follow(member: Member) -> int:
        os.close(sink)
        log = BoundedLog(sys.stdout.fileno())
        listening: int | None = source
        while member.code is None and not member.asked:
            chunk = member.wait(listening, None)
            if chunk:
                log.add(chunk)
            elif chunk is not None:
                listening = None
        leader.end_all()  # what it left could print for ever
        os.set_blocking(source, False)
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(source, 1 << 16):
                log.add(chunk)
        log.close()
        return -signal.SIGTERM if member.code is None else member.code

    leader.lead(follow)
    os.close(source)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(sink, stream.fileno())
    os.close(sink)


def main(job_file: Path, parent_pid: int | None = None) -> int:
    """The child: do the job, leave an answer; 0 when done, 1 when it failed, 74 when the disk is full."""
    if sys.platform == "linux" and parent_pid is not None:
        _be_led(parent_pid)
    faulthandler.enable()  # where a crash happened stands in the log
    job = read(JobFile, job_file)
    for package in {"bench", "pipeline"} - set(job.hidden):  # no file of the recipe's folder can take their names then
        importlib.import_module(package)
    sys.path[:0] = job.import_path
    sys.meta_path.insert(0, _Hide(job.hidden))
    try:
        return _answer(job)
    except KeyboardInterrupt:
        return 130
    except OSError as error:  # of writing the traceback, or the answer
        if no_space(error):
            return EXIT_NO_SPACE
        raise


def leave(code: int) -> NoReturn:
    """End as ``multiprocessing`` ends what it forks: threads are waited for, what waits for the end is done, and
    nothing is taken apart.

    Taking torch apart costs a third of a second of a processor, to free memory that goes with the process.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except OSError as error:
        code = EXIT_NO_SPACE if no_space(error) else code or 1
    os._exit(code)


def _answer(job: JobFile) -> int:
    try:
        answer, code = Answer(value=resolve(job.task).from_payload(job.payload)), 0
    except Exception as error:  # noqa: BLE001 - the boundary of the process: the traceback goes to the log, the cause to the parent
        traceback.print_exc()
        if no_space(error) or is_full(Path(job.result).parent):
            return EXIT_NO_SPACE
        answer, code = Answer(cause=_one_line(error)), 1
    write_atomically(Path(job.result), json.dumps(to_json(answer)).encode())
    return code


def _one_line(error: BaseException) -> str:
    """An error in the user's terms, else its type and its causes', and the first cause's words.

    Our own errors speak for themselves.
    """
    from export.explanations import explain

    if isinstance(error, TorchstoneError):
        return " ".join(str(error).split())[:500]
    if (explanation := explain(_ANSI.sub("", "".join(traceback.format_exception(error))))) is not None:
        return " ".join(explanation.sentence.split())[:500]
    chain = causes(error)
    message = " ".join(_ANSI.sub("", str(chain[-1])).split())[:500]
    return ": ".join([*(type(link).__name__ for link in chain), message])


if __name__ == "__main__":
    leave(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))

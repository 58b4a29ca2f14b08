"""What the stages share: work side by side in child processes, and failures that do not stop the others."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

import psutil

from bench.tune import Tuning
from bench.verdict.judge import Failure
from export.artifact import Artifact
from export.backend import LoadOptions
from export.device import device
from export.environment import cores_count, machine
from export.errors import RecordError, TorchstoneError, UserError
from export.explanations import explain, in_users_words
from export.files import is_full, no_space, write_atomically
from export.record import Record, digest, read, write
from export.worker import Done, Failed
from pipeline.process.guard import under_way
from pipeline.process.room import at_once
from pipeline.run import Run

Failures = dict[str, Failure]
"""By backend: the step that did not end well."""
_users_turn = threading.RLock()
T = TypeVar("T")
R = TypeVar("R", bound=Record)


class ChildFailed(Exception):  # noqa: N818 - carries an outcome through a stage's rollback, never shown
    """A child process did not end well."""

    def __init__(self, end: Failed) -> None:
        super().__init__(end.cause)
        self.end = end


def demand(end: Done[T] | Failed) -> T:
    """The child's result.

    Raises:
        ChildFailed: it has none.
    """
    if isinstance(end, Failed):
        raise ChildFailed(end)
    return end.result


def failure(run: Run, step: str, end: Failed) -> Failure:
    """A row's failure, with its log and script relative to the run.

    Raises:
        OSError: the disk is full: that is no fault of the row, and the other rows would fail too.
    """
    if is_full(run.folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(run.folder))
    return Failure(
        step=step,
        cause=end.summary,
        log=str(end.log.relative_to(run.folder)),
        reproduce=str(end.reproduce.relative_to(run.folder)),
    )


@contextlib.contextmanager
def users_code(run: Run, what: str, *, limited: bool = True) -> Iterator[None]:
    """Around code of the recipe's: what it raises, ``sys.exit()`` too, becomes one message; the traceback a log.

    It need not bear threads: while it runs in one, the others that come to it wait.
    However else it ends the process, its leader says so; ``limited``: a hang, and too much memory, as well.

    Raises:
        UserError: anything but our own errors, an interruption and a full disk.
    """
    try:
        with _users_turn, under_way(what, run.found.recipe.process if limited else None):
            yield
    except TorchstoneError:
        raise
    except (Exception, SystemExit) as error:
        if is_full(run.folder) or no_space(error):
            raise
        log = run.workspace.folder / "recipe.log"
        write_atomically(log, traceback.format_exc().encode())
        explanation = explain(traceback.format_exc())
        cause = explanation.sentence if explanation else in_users_words(error)
        raise UserError(f"{what} failed: {cause}\nThe whole story: {log}") from error


def side_by_side(
    run: Run,
    stage: str,
    names: Iterable[str],
    work: Callable[[str], T | Failure],
    failures: Failures,
    *,
    beside: Callable[[], object] = lambda: None,
) -> dict[str, T]:
    """Do ``work`` for every name, as many at once as have room; part the good from the failed, in table order.

    What is done ``beside`` takes the first place; what it raises is raised when the work is done.
    """
    results: dict[str, T] = {}
    order = list(names)
    futures: dict[Future[T | Failure], str] = {}
    others: dict[Future[Any], str] = {}

    def running() -> list[str]:
        return [name for future, name in [*futures.items(), *others.items()] if future.running()]

    weights = run.files.weights
    workers_count = at_once(device(run.device), weights.stat().st_size if weights.exists() else 0)
    with run.console.bar(stage, len(order), running) as advance, _pool(workers_count) as pool:
        others[pool.submit(beside)] = "what is made beside them"
        futures |= {pool.submit(work, name): name for name in order}
        for done, future in enumerate(as_completed(futures), 1):
            advance(done)
            name, result = futures[future], future.result()
            if isinstance(result, Failure):
                failures[name] = result
                run.console.stage(stage, f"{name}: {result.cause}")
            else:
                results[name] = result
        for other in others:
            other.result()
    return {name: results[name] for name in run.found.recipe.entries if name in results}


@contextlib.contextmanager
def _pool(workers_count: int) -> Iterator[ThreadPoolExecutor]:
    """So many threads, each waiting for a child; an interruption ends the children and starts no more."""
    with ThreadPoolExecutor(workers_count) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            raise


def reused(run: Run, kind: type[R], path: Path, key: str) -> R | None:
    """A record that this run, or another of the same recipe, has under ``key``."""
    for candidate in run.places(path):
        try:
            record = read(kind, candidate)
        except RecordError as error:
            run.console.say(f"rebuilt: {error}")
            continue
        if record.key == key:  # type: ignore[attr-defined]  # every record of a stage has one
            if candidate != path:
                write(path, record)
            return record
    return None


def load_options(run: Run, artifact: Artifact) -> LoadOptions:
    """How an artifact is run, the same for parity and measurement: as it was tuned on this machine, else by default."""
    for path in run.places(run.files.tuning(artifact.name)):
        tuning = read(Tuning, path)
        here = (tuning.artifact_sha256, tuning.machine) == (digest(artifact), machine())
        if here and tuning.options != tuning.before:  # where nothing was faster, that is no setting that was asked for
            return tuning.options
    return LoadOptions(device=run.device, threads_count=cores_count())

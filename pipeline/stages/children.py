"""What the stages share: work side by side in child processes, and failures that do not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

from bench.verdict import Failure
from export.backend import LoadOptions
from export.environment import cores_count
from export.errors import RecordError
from export.record import Record, read, write
from export.worker import Outcome
from pipeline.run import Run

Failures = dict[str, Failure]
"""By backend: the step that did not end well."""
T = TypeVar("T")
R = TypeVar("R", bound=Record)


class ChildFailed(Exception):  # noqa: N818 - carries an outcome through a stage's rollback, never shown
    """A child process did not end well."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.cause)
        self.outcome = outcome


def demand(outcome: Outcome) -> None:
    """Raise ``ChildFailed`` unless the child is done."""
    if outcome.status != "done":
        raise ChildFailed(outcome)


def failure(run: Run, step: str, outcome: Outcome) -> Failure:
    """A row's failure, with its papers relative to the run."""
    return Failure(
        step=step,
        cause=f"{outcome.status}: {outcome.cause}",
        log=str(outcome.log.relative_to(run.folder)),
        reproduce=str(outcome.reproduce.relative_to(run.folder)),
    )


def side_by_side(
    run: Run, stage: str, names: Iterable[str], one: Callable[[str], T | Failure], failures: Failures
) -> dict[str, T]:
    """Do ``one`` for every name, as many at once as there are cores; part the good from the failed, in table order."""
    results: dict[str, T] = {}
    order = list(names)
    with run.console.bar(stage, len(order)) as advance, ThreadPoolExecutor(cores_count()) as pool:
        futures = {pool.submit(one, name): name for name in order}
        for done, future in enumerate(as_completed(futures), 1):
            advance(done)
            name, result = futures[future], future.result()
            if isinstance(result, Failure):
                failures[name] = result
                run.console.stage(stage, f"{name}: {result.cause}")
            else:
                results[name] = result
    return {name: results[name] for name in run.found.recipe.backends if name in results}


def reused(run: Run, kind: type[R], path: Path, key: str) -> R | None:
    """A record that this run, or another of the same recipe, has under ``key``."""
    relative = path.relative_to(run.folder)
    for candidate in [path, *sorted(run.folder.parent.glob(f"*/{relative}"))]:
        if not candidate.exists():
            continue
        try:
            record = read(kind, candidate)
        except RecordError as error:
            run.console.say(f"made again: {error}")
            continue
        if record.key == key:  # type: ignore[attr-defined]  # every record of a stage has one
            if candidate != path:
                write(path, record)
            return record
    return None


def load_options(run: Run) -> LoadOptions:
    """How this run's artifacts are run: the same for parity and measurement."""
    return LoadOptions(device=run.device, threads_count=cores_count())

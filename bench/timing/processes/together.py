"""All candidates in several fresh processes, or who brought one of these down."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from bench.timing.contender import Candidate
from bench.timing.processes.session import Session
from bench.timing.processes.turns import Turn, before_the_first, loads_at_once, wait_loaded
from bench.timing.sample import NOBODY, Sampled, SampleJob, sample
from export.device import device
from export.errors import UserError
from export.worker import Done, Failed, Workspace

POLL_S = 0.5
"""How often the parent looks at a measuring child: seldom, since looking costs a core that is being measured."""


@dataclass(frozen=True, kw_only=True)
class Culprit:
    """Who was at work when a process ended badly, and how it ended."""

    label: str
    """A candidate's, or ``NOBODY``."""
    end: Failed


def sample_processes(
    session: Session, candidates: tuple[Candidate, ...], workspace: Workspace, advance: Callable[[int], None]
) -> list[Sampled] | Culprit:
    """What every fresh process measured; ``advance`` hears how many are done.

    Raises:
        OSError: the disk is full.
    """
    spec = session.spec
    count = loads_at_once(candidates, device(candidates[0].options.device), spec.processes, workspace.folder)
    sampled: list[Sampled] = []
    while len(sampled) < session.spec.processes:
        first = len(sampled)
        numbers = range(first, min(first + count, session.spec.processes))
        jobs = [
            SampleJob(
                candidates=candidates,
                source=session.source,
                spec=spec,
                samples=session.samples_file,
                seed=session.seed + number,
                process=number,
                current=str(workspace.folder / f"measure-{number}.current"),
                turn=_turn(workspace, number) if len(numbers) > 1 else None,
            )
            for number in numbers
        ]
        ends = _in_turn(jobs, workspace, lambda done, before=first: advance(before + done))  # type: ignore[misc]
        if isinstance(ends, Culprit):
            return ends
        sampled += ends
        # What one process found too slow the others need not try.
        left_out = {rows for process in ends for rows in process.left_out}
        spec = replace(spec, batch_rows=tuple(rows for rows in spec.batch_rows if str(rows) not in left_out))
    return sampled


def _turn(workspace: Workspace, number: int) -> Turn:
    lock, too_slow, loaded = ("measure.turn", "measure.too-slow", f"measure-{number}.loaded")
    return Turn(
        lock=str(workspace.folder / lock),
        too_slow=str(workspace.folder / too_slow),
        loaded=str(workspace.folder / loaded),
    )


def _in_turn(
    jobs: Sequence[SampleJob], workspace: Workspace, advance: Callable[[int], None]
) -> list[Sampled] | Culprit:
    """Every job in a process of its own: they load at once, and are timed one after another.

    Where one ends badly, or takes longer than a process may to load or in its turn, the others are stopped.
    """
    turns = [job.turn for job in jobs if job.turn is not None]
    files = [Path(job.current) for job in jobs]
    files += [Path(file) for turn in turns for file in (turn.lock, turn.too_slow, turn.loaded)]
    _remove(files)
    limit_s = workspace.limits.wall_s
    # Its own limit would count while it waits; below, somebody counts from the last that ended.
    patient = replace(workspace, limits=replace(workspace.limits, wall_s=limit_s * (len(jobs) + 1)))
    stop, poll_s = threading.Event(), POLL_S * len(jobs)
    sampled: dict[int, Sampled] = {}
    processes: dict[Future[Done[Sampled] | Failed], SampleJob] = {}
    with ThreadPoolExecutor(len(jobs)) as pool:
        try:
            with before_the_first(turns):
                processes = {
                    pool.submit(
                        patient.run, sample, job, f"measure-{job.process}", fresh=True, poll_s=poll_s, stop=stop
                    ): job
                    for job in jobs
                }
                left = set(processes) if wait_loaded(turns, list(processes), limit_s) else set()
            while left:
                done, left = wait(left, timeout=limit_s, return_when=FIRST_COMPLETED)
                if not done:
                    break
                for process in done:
                    job, end = processes[process], process.result()
                    if isinstance(end, Failed):
                        return Culprit(label=_at_work(job), end=end)
                    sampled[job.process] = end.result
                    advance(len(sampled))
            if len(sampled) < len(jobs):
                return _too_long(jobs, {job.process: process for process, job in processes.items()}, stop, limit_s)
            return [sampled[job.process] for job in jobs]
        finally:
            stop.set()
            wait(processes)
            _remove(files)


def _too_long(
    jobs: Sequence[SampleJob], ends: Mapping[int, Future[Done[Sampled] | Failed]], stop: threading.Event, limit_s: float
) -> Culprit:
    """Who took too long: the process whose candidate is at work, where the others wait."""
    busy = next((job for job in jobs if _at_work(job) != NOBODY), jobs[0])
    label = _at_work(busy)
    stop.set()
    end = ends[busy.process].result()
    if isinstance(end, Done):  # it was done at the last moment
        raise UserError(f"measuring took longer than its limit of {limit_s:g} s: raise --process.wall-s")
    return Culprit(label=label, end=replace(end, status="timeout", cause=f"stopped after its limit of {limit_s:g} s"))


def _at_work(job: SampleJob) -> str:
    """The label that the process left."""
    current = Path(job.current)
    return current.read_text(encoding="utf-8") if current.exists() else NOBODY


def _remove(files: Sequence[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)

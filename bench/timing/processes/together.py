"""All candidates in several fresh processes, or who brought one of these down."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

from bench.timing.contender import Candidate
from bench.timing.processes.session import Session
from bench.timing.processes.turns import Turn, before_the_first, loads_at_once, wait_loaded
from bench.timing.sample import NOBODY, Sampled, SampleJob, sample
from export.device import device
from export.worker import Failed, Workspace

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
    folders = list({candidate.folder: Path(candidate.folder) for candidate in candidates}.values())
    count = loads_at_once(folders, device(candidates[0].options.device), spec.processes)
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
    return Turn(lock=str(workspace.folder / "measure.turn"), loaded=str(workspace.folder / f"measure-{number}.loaded"))


def _in_turn(
    jobs: Sequence[SampleJob], workspace: Workspace, advance: Callable[[int], None]
) -> list[Sampled] | Culprit:
    """Every job in a process of its own: they load at once, and are timed one after another.

    Where one ends badly, the others are stopped.
    """
    turns = [job.turn for job in jobs if job.turn is not None]
    files = [Path(job.current) for job in jobs] + [Path(file) for turn in turns for file in (turn.lock, turn.loaded)]
    workspace.folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        file.unlink(missing_ok=True)
    limits = replace(workspace.limits, wall_s=workspace.limits.wall_s * len(jobs))  # it counts while they wait, too
    patient, stop, poll_s = replace(workspace, limits=limits), threading.Event(), POLL_S * len(jobs)
    with ThreadPoolExecutor(len(jobs)) as pool:
        try:
            with before_the_first(turns):
                processes = {
                    pool.submit(
                        patient.run, sample, job, f"measure-{job.process}", fresh=True, poll_s=poll_s, stop=stop
                    ): job
                    for job in jobs
                }
                wait_loaded(turns, list(processes))
            sampled: dict[int, Sampled] = {}
            for process in as_completed(processes):
                job, end = processes[process], process.result()
                if isinstance(end, Failed):
                    current = Path(job.current)
                    return Culprit(label=current.read_text(encoding="utf-8") if current.exists() else NOBODY, end=end)
                sampled[job.process] = end.result
                advance(len(sampled))
        finally:
            stop.set()
    for file in files:
        file.unlink(missing_ok=True)
    return [sampled[job.process] for job in jobs]

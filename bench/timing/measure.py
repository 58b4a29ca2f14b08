"""Measure all candidates in several fresh processes, and keep every sample.

A candidate that brings a process down is named, left out and given its cause; the measurement starts again without it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.timing.cold import ColdJob, ColdStart, first_answer
from bench.timing.contender import Candidate
from bench.timing.inputs import batch_sizes
from bench.timing.measurement import CONTROL, Measurement, Samples, SessionRecord
from bench.timing.processes.session import Session
from bench.timing.processes.together import POLL_S, Culprit, sample_processes
from bench.timing.roofline import Roofline, RooflineJob, counted, reached
from bench.timing.sample import NOBODY, Sampled
from export import registry
from export.artifact import PROGRAM_FILE, PROGRAM_RECORD, ProgramRecord, read_artifact
from export.device import device
from export.environment import cores_count, environment
from export.errors import UserError
from export.files import verify_files
from export.record import digest, observed, read
from export.worker import Failed, Workspace


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a session found."""

    session: SessionRecord | None
    """None if nothing could be measured."""
    measurements: dict[str, Measurement]
    """By artifact, also of one whose cold start failed: as the A/A control it still tells the noise."""
    dropped: dict[str, Failed]
    """By artifact: how one that could not be measured, or did not start, ended."""


def measure_together(session: Session, workspace: Workspace, advance: Callable[[int], None]) -> Measured:
    """Every candidate in as many fresh processes as were asked for, then their cold starts.

    ``advance`` hears how many steps are done, of ``steps_count``.

    Raises:
        UserError: a process ended badly while no candidate was at work: leaving one out would mend nothing.
    """
    folders = dict(session.folders)
    dropped: dict[str, Failed] = {}
    started, sampling = time.monotonic(), workspace
    while folders:
        candidates = _candidates(session, folders)
        sampled = sample_processes(session, candidates, sampling, advance)
        if not isinstance(sampled, Culprit):
            left_out = {rows: reason for process in sampled for rows, reason in process.left_out.items()}
            cold, cold_failed = _cold_starts(session, folders, left_out, workspace, advance)
            dropped |= cold_failed
            counts = {candidate.options.threads_count for candidate in candidates}
            ceiling = _roofline(session, left_out, sorted(counts), workspace)
            return Measured(
                session=_session_record(session, folders, sampled, left_out, ceiling, started),
                measurements={
                    name: _record(session, folders, name, sampled, left_out, cold[name], started) for name in folders
                },
                dropped=dropped,
            )
        if sampled.label == NOBODY:
            raise UserError(
                f"measuring {sampled.end.summary}, while no candidate was at work\nThe whole story: {sampled.end.log}"
            )
        name = _control_name(folders) if sampled.label == CONTROL else sampled.label.partition("@")[0]
        dropped[name] = sampled.end
        del folders[name]
        # Elsewhere, so that the log and the script of who was dropped stay.
        sampling = replace(workspace, folder=workspace.folder / f"measure-without-{'-'.join(dropped)}")
    return Measured(session=None, measurements={}, dropped=dropped)


def steps_count(session: Session) -> int:
    """How often ``advance`` is heard."""
    return session.spec.cold_starts * len(session.folders) + session.spec.processes


def _control_name(folders: Mapping[str, Path]) -> str:
    """The artifact whose noise is taken for all: the last one that ships, ONNX where there is one; else eager."""
    shipped = [name for name, folder in folders.items() if read_artifact(folder).source_free]
    return next(iter(shipped[::-1] or folders))


def _candidates(session: Session, folders: Mapping[str, Path]) -> tuple[Candidate, ...]:
    """Every artifact as it was tested; its second self; and other thread counts where the artifact allows them.

    On a GPU the host's threads compute nothing.
    """
    control = _control_name(folders)
    candidates = [
        Candidate(label=name, folder=str(folder), options=session.options[name]) for name, folder in folders.items()
    ]
    candidates.append(
        Candidate(label=CONTROL, folder=str(folders[control]), options=session.options[control], whole=False)
    )
    for name, folder in folders.items():
        options = session.options[name]
        if device(options.device).asynchronous or registry.get(read_artifact(folder).backend).threads == "build":
            continue
        wanted = (1, cores_count()) if session.spec.threads is None else session.spec.threads
        candidates += [
            Candidate(
                label=f"{name}@{count}",
                folder=str(folder),
                options=replace(options, threads_count=count),
                energy=False,
            )
            for count in wanted
            if count != options.threads_count
        ]
    return tuple(candidates)


def _cold_starts(
    session: Session,
    folders: Mapping[str, Path],
    left_out: Mapping[str, str],
    workspace: Workspace,
    advance: Callable[[int], None],
) -> tuple[dict[str, list[ColdStart]], dict[str, Failed]]:
    """Cold starts of every artifact, in random order; and how those ended that did not answer."""
    starts: dict[str, list[ColdStart]] = {name: [] for name in folders}
    failed: dict[str, Failed] = {}
    order = random.Random(session.seed)
    done = session.spec.processes
    for _ in range(session.spec.cold_starts):
        names = list(folders)
        order.shuffle(names)
        for name in names:
            done += 1
            if name in failed:
                continue
            artifact = read_artifact(folders[name])
            sizes = batch_sizes(session.spec, artifact.signature)
            job = ColdJob(
                artifact=str(folders[name]),
                options=session.options[name],
                source=None if artifact.source_free else session.source,
                batch_rows=tuple(rows for rows in sizes if str(rows) not in left_out),
                samples=session.samples_file,
                began_s=time.monotonic(),
            )
            end = workspace.run(
                first_answer, job, f"cold-{name}", source_free=artifact.source_free, fresh=True, poll_s=POLL_S
            )
            if isinstance(end, Failed):
                failed[name] = end
            else:
                starts[name].append(end.result)
            advance(done)
    return starts, failed


def _roofline(
    session: Session, left_out: Mapping[str, str], threads_counts: Sequence[int], workspace: Workspace
) -> Roofline | str:
    """The roofline, or why there is none."""
    if session.program is None:
        return "the model could not be traced, so its work cannot be counted"
    record = read(ProgramRecord, session.program / PROGRAM_RECORD)
    verify_files(session.program, record.files)
    options = list(session.options.values())
    job = RooflineJob(
        program=str(session.program / PROGRAM_FILE),
        signature=record.signature,
        spec=replace(session.spec, batch_rows=tuple(n for n in session.spec.batch_rows if str(n) not in left_out)),
        device=options[0].device,
        threads_counts=tuple(threads_counts),
        samples=session.samples_file,
    )
    work = workspace.run(counted, job, "work")
    if isinstance(work, Failed):
        return work.summary
    ceilings = workspace.run(reached, job, "roofline", poll_s=POLL_S)
    return ceilings.summary if isinstance(ceilings, Failed) else replace(ceilings.result, work=work.result.work)


def _session_record(
    session: Session,
    folders: Mapping[str, Path],
    sampled: Sequence[Sampled],
    left_out: dict[str, str],
    ceiling: Roofline | str,
    started: float,
) -> SessionRecord:
    control = _control_name(folders)
    return SessionRecord(
        key=session.key,
        artifacts=tuple(folders),
        spec=session.spec,
        control=control,
        control_samples=_samples(sampled, CONTROL, left_out),
        empty_block_s=tuple(process.empty_block_s for process in sampled),
        empty_call_s=tuple(process.empty_call_s for process in sampled),
        conditions=tuple(process.conditions for process in sampled),
        roofline=ceiling if isinstance(ceiling, Roofline) else None,
        roofline_failure=ceiling if isinstance(ceiling, str) else None,
        left_out=left_out,
        environment=environment(),
        observed=observed(time.monotonic() - started),
    )


def _record(
    session: Session,
    folders: Mapping[str, Path],
    name: str,
    sampled: Sequence[Sampled],
    left_out: Mapping[str, str],
    cold_starts: Sequence[ColdStart],
    started: float,
) -> Measurement:
    labels = {label for process in sampled for label in process.series}
    others = sorted(
        (label for label in labels if label.startswith(f"{name}@")), key=lambda label: int(label.partition("@")[2])
    )
    every = [samples for label in (name, *others) for samples in _samples(sampled, label, left_out)]
    concurrency = [
        concurrent for process in sampled for label in (name, *others) for concurrent in process.concurrency[label]
    ]
    artifact = read_artifact(folders[name])
    return Measurement(
        key=session.key,
        artifact=name,
        artifact_sha256=digest(artifact),
        precision=artifact.precision,
        options=session.options[name],
        samples=tuple(every),
        concurrency=tuple(sorted(concurrency, key=lambda concurrent: (concurrent.process, concurrent.callers_count))),
        cold_starts=tuple(cold_starts),
        observed=observed(time.monotonic() - started),
    )


def _samples(sampled: Sequence[Sampled], label: str, left_out: Mapping[str, str]) -> tuple[Samples, ...]:
    every = (samples for process in sampled for samples in process.series.get(label, ()))
    return tuple(samples for samples in every if str(samples.batch_rows) not in left_out)

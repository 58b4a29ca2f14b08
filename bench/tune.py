"""The fastest settings of each artifact, by measuring: successive halving over what its runtime can be told.

Every setting of every artifact races in the same rounds of the same fresh processes. The faster half goes on to twice
the rounds, until at most two are left beside the settings that the artifact has; those are compared as any two
candidates are. Only a setting that is shown to be faster is taken: noise changes nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from bench.stats.effects import Effect, effects, noise_floor, paired_logs
from bench.timing.measure import Session, sample_processes
from bench.timing.measurement import CONTROL
from bench.timing.sample import Candidate, Sampled
from export import backend as backends
from export.artifact import Artifact
from export.backend import LoadOptions
from export.environment import Machine
from export.record import Observed, Record
from export.worker import Workspace

_LEFT = 2
_FIRST_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Tuning(Record):
    """The settings that were found best for one artifact on one machine."""

    SCHEMA: ClassVar[str] = "torchstone.tuning/1"

    key: str
    """Of what was searched: the artifact, the machine, the limits and how it was measured."""
    artifact: str
    artifact_sha256: str
    machine: Machine
    before: LoadOptions
    options: LoadOptions
    """Those to use; ``before`` where nothing was shown to be faster."""
    gains: dict[str, Effect]
    """By setting, as ``spelled``: its time over that of ``before``, of the last comparison that it took part in."""
    refused: dict[str, str]
    """By setting: why one that was faster was not taken."""
    observed: Observed


def settings(artifact: Artifact, before: LoadOptions, cores_count: int) -> list[LoadOptions]:
    """What the artifact's runtime can be told otherwise: threads; and ONNX Runtime how far to rewrite the graph, and
    whether its idle threads spin, which answers sooner and keeps cores busy that others may want; on CUDA also whether
    a bound call is captured as a graph.
    """
    backend = backends.get(artifact.backend)
    threads = [before.threads_count]
    if backend.THREADS != "build":
        threads = sorted({1, *(1 << power for power in range(1, cores_count.bit_length())), cores_count})
    rewrites = "onnxruntime" in backend.MODULES
    levels: tuple[Literal["extended", "all"], ...] = ("all", "extended") if rewrites else ("all",)
    found = [
        replace(before, threads_count=count, optimization=level, spinning=spinning, cuda_graph=graph)
        for count in threads
        if count <= cores_count
        for level in levels
        for spinning in ((False, True) if rewrites and count > 1 else (False,))
        for graph in ((False, True) if rewrites and before.device == "cuda" else (False,))
    ]
    return [options for options in found if options != before]


def spelled(options: LoadOptions) -> str:
    """``2 threads, optimization all, spinning``."""
    more = (", spinning" if options.spinning else "") + (", CUDA graph" if options.cuda_graph else "")
    return f"{options.threads_count} threads, optimization {options.optimization}{more}"


def search(
    session: Session, choices: Mapping[str, Sequence[LoadOptions]], workspace: Workspace, say: Callable[[str], None]
) -> dict[str, dict[LoadOptions, Effect]]:
    """By artifact and setting: its time over that of the artifact's present settings.

    Raises:
        RuntimeError: a candidate brought the process down.
    """
    left = {name: list(options) for name, options in choices.items() if options}
    rounds_count = _FIRST_ROUNDS
    while any(len(options) > _LEFT for options in left.values()):
        quick = replace(session.spec, processes_count=2, rounds_count=rounds_count, min_rounds_count=2)
        found = _race(replace(session, spec=quick), left, workspace, say)
        left = {name: _faster_half(found[name]) for name in left}
        rounds_count *= 2
    return _race(session, left, workspace, say) if left else {}


def _faster_half(found: Mapping[LoadOptions, Effect]) -> list[LoadOptions]:
    ranked = sorted(found, key=lambda options: found[options].ratio.value)
    return ranked[: max(_LEFT, len(ranked) // 2)]


def _race(
    session: Session, left: Mapping[str, Sequence[LoadOptions]], workspace: Workspace, say: Callable[[str], None]
) -> dict[str, dict[LoadOptions, Effect]]:
    """One comparison of what is left with the present settings, in fresh processes."""
    count = sum(map(len, left.values()))
    say(f"{count} settings in {session.spec.processes} processes of {session.spec.rounds_count} rounds")
    labels = {(name, options): f"{name}#{index}" for name in left for index, options in enumerate(left[name])}
    candidates = [
        Candidate(label=label, folder=str(session.folders[name]), options=options, whole=False)
        for (name, options), label in labels.items()
    ]
    candidates += [
        Candidate(label=name, folder=str(session.folders[name]), options=session.options[name], whole=False)
        for name in left
    ]
    twin = next(iter(left))
    candidates.append(
        Candidate(label=CONTROL, folder=str(session.folders[twin]), options=session.options[twin], whole=False)
    )
    sampled, failed = sample_processes(session, tuple(candidates), workspace, lambda _: None)
    if failed is not None:
        label, outcome = failed
        raise RuntimeError(f"{label} {outcome.status}: {outcome.cause}\nThe whole story: {outcome.log}")
    logs = {key: _logs(sampled, label, key[0]) for key, label in labels.items()}
    floor = noise_floor(_logs(sampled, CONTROL, twin))
    compared = effects(logs, lambda _: floor, session.spec.tie_ratio)
    return {name: {options: compared[name, options] for options in left[name]} for name in left}


def _logs(sampled: Sequence[Sampled], label: str, other: str) -> list[float]:
    """Per process, the mean over batch sizes of the paired log-ratio of two candidates."""
    return [
        statistics.mean(
            paired_logs([ours.samples_s], [theirs.samples_s])[0]
            for ours, theirs in zip(one.series[label], one.series[other], strict=True)
        )
        for one in sampled
    ]


def gain(effect: Effect) -> str:
    """``1.31x faster [1.28, 1.34]``, or that it makes no difference."""
    if effect.comparison != "faster":
        return f"{effect.comparison}: {effect.ratio.value:.2f} [{effect.ratio.low:.2f}, {effect.ratio.high:.2f}] of the time"
    low, high = 1 / effect.ratio.high, 1 / effect.ratio.low
    return f"{1 / effect.ratio.value:.2f}x faster [{low:.2f}, {high:.2f}]"


def tuning_file(run: Path, artifact: str) -> Path:
    """Where a run keeps it."""
    return run / "tuning" / f"{artifact}.json"

"""The fastest settings of each artifact, by measuring: successive halving over what its runtime can be told.

Every setting of every artifact races in the same rounds of the same fresh processes. The faster half goes on to twice
the rounds, until at most two are left beside the settings that the artifact has; those are compared as any two
candidates are. Only a setting that is shown to be faster is taken: noise changes nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from bench.stats.effects import Effect, effects, noise_floor, paired_logs
from bench.timing.contender import Candidate
from bench.timing.measure import Session, sample_processes
from bench.timing.measurement import CONTROL
from bench.timing.sample import Sampled
from export.backend import LoadOptions
from export.environment import Machine
from export.record import Observed, Record
from export.worker import Workspace

_LEFT = 2
_FIRST_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Tuning(Record):
    """The settings that were found best for one artifact on one machine."""

    SCHEMA: ClassVar[str] = "torchstone.tuning/2"

    key: str
    """The key of what was searched: the artifact, the machine, the limits and how it was measured."""
    artifact: str
    artifact_sha256: str
    machine: Machine
    before: LoadOptions
    options: LoadOptions
    """Those to use; ``before`` where nothing was shown to be faster."""
    gains: dict[str, Effect]
    """By ``LoadOptions.summary``: its time over that of ``before``, in the last comparison that it took part in."""
    refused: dict[str, str]
    """By ``LoadOptions.summary``: why a faster setting was not taken."""
    observed: Observed


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
        compared = _race(replace(session, spec=quick), left, workspace, say)
        left = {name: _faster_half(compared[name]) for name in left}
        rounds_count *= 2
    return _race(session, left, workspace, say) if left else {}


def _faster_half(compared: Mapping[LoadOptions, Effect]) -> list[LoadOptions]:
    ranked = sorted(compared, key=lambda options: compared[options].ratio.value)
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
    control = next(iter(left))
    candidates.append(
        Candidate(label=CONTROL, folder=str(session.folders[control]), options=session.options[control], whole=False)
    )
    sampled, failed = sample_processes(session, tuple(candidates), workspace, lambda _: None)
    if failed is not None:
        label, failure = failed
        raise RuntimeError(f"{label} {failure.summary}\nThe whole story: {failure.log}")
    logs = {key: _logs(sampled, label, key[0]) for key, label in labels.items()}
    floor = noise_floor(_logs(sampled, CONTROL, control))
    compared = effects(logs, lambda _: floor, session.spec.tie_ratio)
    return {name: {options: compared[name, options] for options in left[name]} for name in left}


def _logs(sampled: Sequence[Sampled], label: str, other: str) -> list[float]:
    """Per process, the mean over batch sizes of the paired log-ratio of two candidates."""
    return [
        statistics.mean(
            paired_logs([samples.samples_s], [other_samples.samples_s])[0]
            for samples, other_samples in zip(process.series[label], process.series[other], strict=True)
        )
        for process in sampled
    ]


def gain(effect: Effect) -> str:
    """``1.31x faster [1.28, 1.34]``, or that it makes no difference."""
    if effect.comparison != "faster":
        return f"{effect.comparison}: {effect.ratio.spelled()} of the time"
    times, _, interval = effect.ratio.inverse.spelled().partition(" ")
    return f"{times}x faster {interval}"

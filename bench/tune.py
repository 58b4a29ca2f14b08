"""The fastest settings of each artifact, by measuring: successive halving over what its runtime can be told.

Every setting of every artifact races in the same rounds of the same fresh processes. The faster half goes on to twice
the rounds, until at most two are left beside the settings that the artifact has; those are compared as any two
candidates are. Only a setting that is shown to be faster is taken: noise changes nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from bench.stats.effects import Effect, effects, noise_floor, paired_logs
from bench.timing.contender import Candidate
from bench.timing.measurement import CONTROL
from bench.timing.processes.session import Session
from bench.timing.processes.together import Culprit, sample_processes
from bench.timing.sample import Sampled
from export.backend import LoadOptions
from export.environment import Machine
from export.record import OMITTED, Observed, Record
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
    failed: dict[str, str] = field(default_factory=dict, metadata=OMITTED)
    """By ``LoadOptions.summary``: why it could not be timed."""
    observed: Observed


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What came out of one artifact's settings."""

    effects: dict[LoadOptions, Effect] = field(default_factory=dict)
    """Those of the last comparison: their time over that of the artifact's present settings."""
    failed: dict[LoadOptions, str] = field(default_factory=dict)
    """Those with which it could not be timed: why."""


def search(
    session: Session, choices: Mapping[str, Sequence[LoadOptions]], workspace: Workspace, say: Callable[[str], None]
) -> dict[str, Searched]:
    """By artifact; a setting that fails is left out, and the others race on.

    Raises:
        RuntimeError: an artifact failed with its present settings, or what failed was none of the candidates.
    """
    searched = {name: Searched() for name in choices}
    left = {name: list(options) for name, options in choices.items() if options}
    rounds_count = _FIRST_ROUNDS
    while any(len(options) > _LEFT for options in left.values()):
        quick = replace(session.spec, processes_count=2, rounds_count=rounds_count, min_rounds_count=2)
        compared = _race(replace(session, spec=quick), left, searched, workspace, say)
        left = {name: _faster_half(compared[name]) for name in left if compared.get(name)}
        rounds_count *= 2
    if left:
        for name, effects_of in _race(session, left, searched, workspace, say).items():
            searched[name].effects.update(effects_of)
    return searched


def _faster_half(compared: Mapping[LoadOptions, Effect]) -> list[LoadOptions]:
    ranked = sorted(compared, key=lambda options: compared[options].ratio.value)
    return ranked[: max(_LEFT, len(ranked) // 2)]


def _race(
    session: Session,
    left: Mapping[str, Sequence[LoadOptions]],
    searched: Mapping[str, Searched],
    workspace: Workspace,
    say: Callable[[str], None],
) -> dict[str, dict[LoadOptions, Effect]]:
    """One comparison of what is left with the present settings, in fresh processes; ``searched`` is told what fails."""
    labels = {(name, options): f"{name}#{index}" for name in left for index, options in enumerate(left[name])}
    while labels:
        say(f"{len(labels)} settings in {session.spec.processes} processes of {session.spec.rounds_count} rounds")
        sampled = sample_processes(session, _candidates(session, labels), workspace, lambda _: None)
        if not isinstance(sampled, Culprit):
            return _compared(session, labels, sampled)
        failure = sampled.end
        setting = next((key for key, known in labels.items() if known == sampled.label), None)
        if setting is None:
            raise RuntimeError(f"{sampled.label or 'measuring'} {failure.summary}\nThe whole story: {failure.log}")
        name, options = setting
        say(f"{name}, {options.summary}: {failure.summary}")
        searched[name].failed[options] = failure.summary
        del labels[setting]
    return {}


def _candidates(session: Session, labels: Mapping[tuple[str, LoadOptions], str]) -> tuple[Candidate, ...]:
    """Every setting, the present ones of their artifacts, and one of these again as the control."""
    candidates = [
        Candidate(label=label, folder=str(session.folders[name]), options=options, whole=False)
        for (name, options), label in labels.items()
    ]
    candidates += [
        Candidate(label=name, folder=str(session.folders[name]), options=session.options[name], whole=False)
        for name in _names(labels)
    ]
    control = _names(labels)[0]
    candidates.append(
        Candidate(label=CONTROL, folder=str(session.folders[control]), options=session.options[control], whole=False)
    )
    return tuple(candidates)


def _compared(
    session: Session, labels: Mapping[tuple[str, LoadOptions], str], sampled: Sequence[Sampled]
) -> dict[str, dict[LoadOptions, Effect]]:
    names = _names(labels)
    logs = {key: _logs(sampled, label, key[0]) for key, label in labels.items()}
    floor = noise_floor(_logs(sampled, CONTROL, names[0]))
    compared = effects(logs, lambda _: floor, session.spec.tie_ratio)
    return {name: {options: effect for (of, options), effect in compared.items() if of == name} for name in names}


def _names(labels: Mapping[tuple[str, LoadOptions], str]) -> list[str]:
    """The artifacts that settings are of, each once."""
    return list(dict.fromkeys(name for name, _ in labels))


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

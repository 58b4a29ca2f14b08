"""From raw samples to figures: typical times, percentiles, ratios to eager with what may be said of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.parity.levels.fidelity import rounds_by_intent
from bench.stats.effects import Effect, effects, median_s, noise_floor, paired_logs
from bench.stats.quantiles import Percentile, percentile
from bench.stats.steady import levels, settled_at
from bench.timing.cold import ColdStart
from bench.timing.measurement import Measurement, Samples, SessionRecord
from bench.timing.roofline import Floor, Term, floor
from bench.verdict.spoilt import spoilt
from export.record import OMITTED

_SHARES = (0.5, 0.9, 0.99)
_IMPOSSIBLE: dict[Term, float] = {"arithmetic": 2.5, "memory": 1.1, "dispatch": 1.1}
"""A call so many times faster than its floor was counted or timed wrongly; fast convolutions (Winograd) do up to 2.25
times less than is counted."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One artifact at one batch size, with the settings that it was proved with."""

    batch_rows: int
    median_s: float
    """Per bound call, waited for: inputs and outputs stay where the model runs."""
    queued_s: float | None = field(default=None, metadata=OMITTED)
    """Per bound call of many that a GPU is given at once: throughput, not what a caller waits; None on the CPU."""
    checked_s: float | None
    """Per checked call, NumPy in and out, fresh outputs."""
    rows_per_s: float
    """With calls queued where they can be."""
    percentiles: tuple[Percentile, ...]
    """Those of single calls, where these last long enough to be timed and are enough."""
    settled: bool
    """Whether its times had a steady level in most processes."""
    to_eager: Effect | None
    """Its time over eager's; None for eager itself, or where eager was not measured with it."""
    at_threads: dict[str, float]
    """Median seconds per call at other thread counts, by count."""
    least_s: float | None
    """The roofline floor; None where work could not be counted, or is not float32's."""
    binds: Term | None
    joules_per_call: float | None
    spoilt: str | None = field(default=None, metadata=OMITTED)
    """Why the times are not the artifact's own, so that nothing is concluded from them; None if they are."""

    @property
    def efficiency(self) -> float | None:
        """The floor over the measured time: 1 is as fast as this machine can."""
        return None if self.least_s is None else self.least_s / self.median_s


@dataclass(frozen=True, kw_only=True)
class ConcurrencyFigures:
    """Several callers on one runner."""

    callers_count: int
    batch_rows: int
    rows_per_s: float
    calls_count: int
    p50_s: float
    p99: Percentile | None


@dataclass(frozen=True, kw_only=True)
class ColdFigures:
    """Cold starts and memory: medians over fresh processes."""

    start_s: float
    import_s: float
    load_s: float
    first_call_s: float
    total_s: float
    """From no process to the first answer."""
    first_bytes: int | None
    """Peak resident memory at the first answer, the largest seen; None where the system does not tell."""
    peak_bytes: int | None
    """The same after a call at every batch size."""
    device_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Figures:
    """All that was measured of one artifact."""

    speeds: tuple[Speed, ...] = ()
    concurrency: tuple[ConcurrencyFigures, ...] = ()
    cold: ColdFigures | None = None

    @property
    def impossible(self) -> list[str]:
        """Times below the roofline floor: work counted, or time taken, wrongly."""
        return [
            f"batch {speed.batch_rows} took {speed.median_s:.3g} s, its floor is {speed.least_s:.3g} s "
            f"({speed.binds}): the measurement is wrong"
            for speed in self.speeds
            if speed.efficiency is not None and speed.binds is not None and speed.efficiency > _IMPOSSIBLE[speed.binds]
        ]


def figures(rounds: Rounds, baseline: str | None) -> dict[str, Figures]:
    """Figures by artifact; ``baseline`` is the artifact that ratios are taken to, if it was measured."""
    compared = rounds.effects_to(baseline) if baseline is not None and baseline in rounds.measurements else {}
    return {
        name: Figures(
            speeds=tuple(
                _speed(rounds, name, rows, compared.get((name, rows)))
                for rows in rounds.batches
                if (name, rows) in rounds.samples
            ),
            concurrency=_concurrency(measurement),
            cold=_cold(measurement.cold_starts),
        )
        for name, measurement in rounds.measurements.items()
    }


class Rounds:
    """The samples of a session, by artifact and batch size, at the thread count that each is compared with.

    They are cut to the rounds in which all were steady. The A/A control is held to its own thread count.
    """

    def __init__(self, session: SessionRecord, measurements: Mapping[str, Measurement]) -> None:
        session.check_own(measurements.values())
        self.session = session
        self.measurements = measurements
        self.batches = sorted(
            {samples.batch_rows for measured in measurements.values() for samples in measured.samples}
        )
        whole = {
            name: by_batch(measured.samples, measured.options.threads_count) for name, measured in measurements.items()
        }
        control = by_batch(session.control_samples, None)
        twice = next((samples.threads_count for samples in session.control_samples), None)
        itself = by_batch(measurements[session.control].samples, twice) if session.control in measurements else {}
        self.samples: dict[tuple[str, int], list[Sequence[float]]] = {}
        self._control: dict[int, tuple[list[Sequence[float]], list[Sequence[float]]]] = {}
        self._unsettled: dict[tuple[str, int], int] = {}
        self._spoilt = {
            (name, rows): spoilt(samples for samples in _tested(measured) if samples.batch_rows == rows)
            for name, measured in measurements.items()
            for rows in self.batches
        }
        for rows in self.batches:
            names = [name for name in whole if rows in whole[name]]
            firsts = []
            for process in range(session.spec.processes):
                common = levels([whole[name][rows][process] for name in names])
                settled = {name: settled_at(whole[name][rows][process], common) for name in names}
                for name, at in settled.items():
                    self._unsettled[name, rows] = self._unsettled.get((name, rows), 0) + (at is None)
                firsts.append(max((at for at in settled.values() if at is not None), default=0))
            for name in names:
                self.samples[name, rows] = [times_s[at:] for times_s, at in zip(whole[name][rows], firsts, strict=True)]
            if rows in control and rows in itself:
                both = (
                    [times_s[at:] for times_s, at in zip(series[rows], firsts, strict=True)]
                    for series in (control, itself)
                )
                self._control[rows] = (next(both), next(both))

    def settled(self, name: str, rows: int) -> bool:
        """Whether it had a steady level in most processes."""
        return self._unsettled[name, rows] * 2 <= self.session.spec.processes

    def spoilt(self, name: str, rows: int) -> str | None:
        """Why its times at a batch size are not its own; None if they are."""
        return self._spoilt[name, rows]

    def spoilt_anywhere(self, name: str, batches: Sequence[int]) -> str | None:
        """The same of the first of these batch sizes at which they are not."""
        reasons = ((rows, self._spoilt[name, rows]) for rows in batches)
        return next((f"{why} at batch {rows}" for rows, why in reasons if why is not None), None)

    def control_logs(self, rows: int) -> list[float]:
        """Per process, the log-ratio of the artifact that was measured twice to itself."""
        return paired_logs(*self._control[rows])

    def process_times(self, name: str, batches: Sequence[int]) -> list[float]:
        """Per process, the mean over these batch sizes of the log of its median time."""
        return [
            statistics.mean(math.log(statistics.median(self.samples[name, rows][process])) for rows in batches)
            for process in range(self.session.spec.processes)
        ]

    def noise_over_batches(self, batches: Sequence[int]) -> float:
        """The noise floor of ``process_times``, as a log-ratio: the A/A control over the same batch sizes."""
        by_batch = [self.control_logs(rows) for rows in batches]
        return noise_floor([statistics.mean(logs) for logs in zip(*by_batch, strict=True)])

    def logs_to(self, baseline: str) -> dict[tuple[str, int], list[float]]:
        """By artifact and batch size, per process: the log of its time over the baseline's, where both are true."""
        return {
            (name, rows): paired_logs(samples, self.samples[baseline, rows])
            for (name, rows), samples in self.samples.items()
            if name != baseline
            and self.settled(name, rows)
            and not self.spoilt(name, rows)
            and not self.spoilt(baseline, rows)
        }

    def noise_floors(self) -> dict[int, float]:
        """By batch size, as a log-ratio: what an artifact differed from itself."""
        return {rows: noise_floor(self.control_logs(rows)) for rows in self._control}

    def effects_to(self, baseline: str) -> dict[tuple[str, int], Effect]:
        """The effect of every artifact at every batch size, as one family."""
        floors = self.noise_floors()
        return effects(self.logs_to(baseline), lambda key: floors.get(key[1], 0.0), self.session.spec.tie_ratio)


def by_batch(series: Sequence[Samples], threads_count: int | None) -> dict[int, list[Sequence[float]]]:
    """Block times of each process, by batch size."""
    table: dict[int, list[Sequence[float]]] = {}
    for samples in sorted(series, key=lambda samples: (samples.batch_rows, samples.process)):
        if threads_count in {None, samples.threads_count}:
            table.setdefault(samples.batch_rows, []).append(samples.samples_s)
    return table


def _tested(measured: Measurement) -> list[Samples]:
    """Those at the thread count that it is compared with."""
    return [samples for samples in measured.samples if samples.threads_count == measured.options.threads_count]


def _speed(rounds: Rounds, name: str, rows: int, effect: Effect | None) -> Speed:
    measured = rounds.measurements[name]
    threads_count = measured.options.threads_count
    series = [samples for samples in _tested(measured) if samples.batch_rows == rows]
    others = sorted({samples.threads_count for samples in measured.samples} - {threads_count})
    typical_s = median_s(rounds.samples[name, rows])
    calls_s = [call_s for samples in series for call_s in samples.calls_s]
    checked = [samples.checked_s for samples in series if samples.checked_s]
    queued = [samples.queued_s for samples in series if samples.queued_s]
    queued_s = median_s(queued) if queued else None
    joules = [samples.joules_per_call for samples in series if samples.joules_per_call is not None]
    least = None if rounds_by_intent(measured.precision) else _floor(rounds.session, rows, threads_count)
    return Speed(
        batch_rows=rows,
        median_s=typical_s,
        queued_s=queued_s,
        checked_s=median_s(checked) if checked else None,
        rows_per_s=rows / (queued_s or typical_s),
        percentiles=tuple(quantile for share in _SHARES if calls_s and (quantile := percentile(calls_s, share))),
        settled=rounds.settled(name, rows),
        to_eager=effect,
        at_threads={
            str(count): median_s(by_batch(measured.samples, count)[rows])
            for count in others
            if rows in by_batch(measured.samples, count)
        },
        least_s=least.least_s if least else None,
        binds=least.term if least else None,
        joules_per_call=statistics.median(joules) if joules else None,
        spoilt=rounds.spoilt(name, rows),
    )


def _floor(session: SessionRecord, rows: int, threads_count: int) -> Floor | None:
    if session.roofline is None:
        return None
    work = next((work for work in session.roofline.work if work.batch_rows == rows), None)
    ceilings = next(
        (ceilings for ceilings in session.roofline.ceilings if ceilings.threads_count == threads_count), None
    )
    return floor(work, ceilings) if work and ceilings else None


def _concurrency(measured: Measurement) -> tuple[ConcurrencyFigures, ...]:
    concurrency = []
    at_count = [
        sample for sample in measured.concurrency if sample.threads_count in {None, measured.options.threads_count}
    ]
    for key in sorted({(sample.batch_rows, sample.callers_count) for sample in at_count}):
        samples = [sample for sample in at_count if (sample.batch_rows, sample.callers_count) == key]
        latencies_s = [latency for sample in samples for latency in sample.latencies_s]
        concurrency.append(
            ConcurrencyFigures(
                batch_rows=key[0],
                callers_count=key[1],
                rows_per_s=statistics.median(
                    sample.calls_count * sample.batch_rows / sample.duration_s for sample in samples
                ),
                calls_count=len(latencies_s),
                p50_s=statistics.median(latencies_s),
                p99=percentile(latencies_s, 0.99),
            )
        )
    return tuple(concurrency)


def _cold(starts: Sequence[ColdStart]) -> ColdFigures | None:
    if not starts:
        return None
    return ColdFigures(
        start_s=statistics.median(start.start_s for start in starts),
        import_s=statistics.median(start.import_s for start in starts),
        load_s=statistics.median(start.load_s for start in starts),
        first_call_s=statistics.median(start.first_call_s for start in starts),
        total_s=statistics.median(start.total_s for start in starts),
        first_bytes=_most(start.first_bytes for start in starts),
        peak_bytes=_most(start.peak_bytes for start in starts),
        device_bytes=_most(start.device_bytes for start in starts),
    )


def _most(sizes: Iterable[int | None]) -> int | None:
    return max((size for size in sizes if size is not None), default=None)

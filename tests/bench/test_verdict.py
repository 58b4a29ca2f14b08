from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.parity.check import Check, CheckStatus
from bench.parity.report import OutputParity, ParityReport, ParityStatus
from bench.parity.spec import ParitySpec, Thresholds
from bench.timing.cold import ColdStart
from bench.timing.concurrency import ConcurrencySample
from bench.timing.measurement import Measurement, Samples, SessionRecord
from bench.timing.roofline import Ceilings, Roofline, Work
from bench.timing.spec import BenchSpec
from bench.verdict.judge import Evidence, Failure, Requirements, Verdict, judge
from bench.verdict.limits import Limits
from export.artifact import Artifact
from export.backend import LoadOptions, Witness
from export.environment import environment
from export.errors import UserError
from export.record import Observed, digest, read
from tests.models import SIGNATURES

OBSERVED = Observed(at="2026-01-01T00:00:00+00:00", duration_s=1.0, host="h")
SPEC = BenchSpec(batch_rows=(1,), processes_count=3)


def artifact(name: str) -> Artifact:
    return Artifact(
        name=name,
        backend=name,
        device="cpu",
        precision="float32",
        source_free=name != "eager",
        key="k",
        checkpoint_sha256="c",
        program_sha256="p",
        signature=SIGNATURES["Mlp"],
        files=(),
        facts={},
        observed=OBSERVED,
    )


def parity(name: str, status: ParityStatus = "pass", ratio: float = 1.0) -> ParityReport:
    output = OutputParity(
        name="y",
        rms_ratio=1.0,
        peak_ratio=ratio,
        peak_case="rows 0 to 255",
        max_abs_error=1e-7,
        ulps=None,
        slope_ulps=None,
        flips=None,
        compared_count=1,
        undefined_count=0,
    )
    finding: CheckStatus = "fail" if status == "fail" else "pass"
    check = Check(level="error", subject="y", status=finding, message="it is so", value=ratio, limit=4.0)
    return ParityReport(
        key="k",
        artifact=name,
        artifact_sha256="a",
        reference_sha256="r",
        status=status,
        reasons=() if status == "pass" else ("it is wrong",),
        spec=ParitySpec(),
        thresholds=Thresholds(max_rms_ratio=2, max_peak_ratio=4, max_slope_ulps=4),
        options=LoadOptions(),
        checks=(check,),
        tested_sizes={},
        outputs=(output,),
        witness=Witness(device="cpu"),
        observed=OBSERVED,
    )


def samples(times_us: tuple[float, ...]) -> tuple[Samples, ...]:
    """One time per process, the same in each of its rounds."""
    return tuple(
        Samples(
            process=process,
            threads_count=1,
            batch_rows=1,
            calls_per_sample_count=4,
            warmup_calls_count=8,
            warmup_s=0.1,
            samples_s=(us * 1e-6,) * 5,
            checked_s=(us * 2e-6,) * 5,
            calls_s=(us * 1e-6,) * 200,
            joules_per_call=None,
        )
        for process, us in enumerate(times_us)
    )


def cold(total_s: float, peak_mib: int) -> ColdStart:
    return ColdStart(
        start_s=0.1,
        import_s=total_s - 0.1,
        load_s=0.0,
        first_call_s=0.0,
        first_bytes=peak_mib << 20,
        peak_bytes=peak_mib << 20,
        device_bytes=None,
    )


def measurement(
    name: str, times_us: tuple[float, float, float], cold_s: float = 1.0, peak_mib: int = 100
) -> Measurement:
    return Measurement(
        key="k",
        artifact=name,
        artifact_sha256="a",
        precision="float32",
        options=LoadOptions(),
        samples=samples(times_us),
        concurrency=tuple(
            ConcurrencySample(
                process=process,
                callers_count=4,
                batch_rows=1,
                duration_s=1.0,
                calls_count=1000,
                latencies_s=(times_us[process] * 1e-6,) * 200,
            )
            for process in range(3)
        ),
        cold_starts=(cold(cold_s, peak_mib),),
        observed=OBSERVED,
    )


def session(control_us: tuple[float, float, float] = (20.0, 20.0, 20.0), left_out: str | None = None) -> SessionRecord:
    """The A/A control is eager; by default it takes what eager takes, and so nothing is noise."""
    return SessionRecord(
        key="k",
        artifacts=("all",),
        spec=SPEC,
        control="eager",
        control_samples=samples(control_us),
        empty_block_s=(2e-8,) * 3,
        empty_call_s=(9e-8,) * 3,
        conditions=(),
        roofline=None,
        roofline_failure=None,
        left_out={"1024": left_out} if left_out else {},
        environment=environment(),
        observed=OBSERVED,
    )


def evidence(
    name: str,
    times_us: tuple[float, float, float],
    status: ParityStatus = "pass",
    *,
    required: bool = False,
    cold_s: float = 1.0,
    peak_mib: int = 100,
) -> Evidence:
    return Evidence(
        name=name,
        backend=name,
        required=required,
        artifact=artifact(name),
        parity=parity(name, status),
        measurement=measurement(name, times_us, cold_s, peak_mib) if status == "pass" else None,
    )


EAGER = evidence("eager", (20.0, 20.0, 20.0))


def verdict(
    *rows: Evidence,
    limits: Limits | None = None,
    allow: bool = False,
    shared: SessionRecord | None = None,
    eager: Evidence = EAGER,
) -> Verdict:
    metrics = {"accuracy": 0.9}
    shared = shared or session()
    required = Requirements(limits=limits or Limits(), metrics=metrics, allow_no_reference=allow)
    return judge("k", "r", [eager, *rows], shared, required)


def test_the_fastest_shippable_one_wins_with_its_reason() -> None:
    result = verdict(evidence("onnx", (2.0, 2.02, 1.98)), evidence("torchscript", (10.0, 10.1, 9.9)))
    assert (result.winner, result.tied, result.good) == ("onnx", (), True)
    assert result.reasons == (
        "onnx is the fastest over batch 1: the next, torchscript, takes 5.00 [5.00, 5.00] times as long",
    )


def test_ratios_to_eager_are_paired_with_their_interval() -> None:
    result = verdict(evidence("onnx", (2.0, 2.02, 1.98)))
    speed = result.rows[1].speeds[0]
    assert speed.to_eager is not None
    assert speed.to_eager.comparison == "faster"
    assert speed.to_eager.ratio.value == pytest.approx(0.1, rel=1e-3)
    assert speed.rows_per_s == pytest.approx(1 / 2e-6)
    assert speed.checked_s == pytest.approx(4e-6)
    assert [one.share for one in speed.percentiles] == [0.5, 0.9, 0.99]


def test_a_difference_within_the_noise_is_a_tie_and_the_simplest_is_taken() -> None:
    """An artifact against itself differed by up to 10 %: five per cent are no reason to take the less simple one."""
    noisy = session(control_us=(20.6, 19.4, 20.8))
    result = verdict(evidence("aotinductor", (2.0, 2.5, 1.8)), evidence("onnx", (2.1, 2.6, 1.9)), shared=noisy)
    assert result.winner == "onnx"
    assert result.tied == ("aotinductor", "onnx")
    assert "a tie" in result.reasons[0]
    assert "onnx is the simplest to deploy" in result.reasons[0]


def test_one_that_is_likely_faster_is_taken_though_it_is_not_settled_and_that_is_said() -> None:
    result = verdict(evidence("aotinductor", (2.0, 3.5, 1.8)), evidence("onnx", (4.1, 4.3, 4.0)))
    assert (result.winner, result.tied) == ("aotinductor", ())
    assert result.reasons[0].endswith(", not settled: run again with --bench.processes-count 4")


@pytest.mark.parametrize(
    ("times_us", "summary"),
    [
        ((40.0, 40.4, 39.6), "onnx wins and is slower than eager at batch 1: it takes 2.00 [1.95, 2.05] times eager's"),
        ((20.0, 20.0, 20.0), "onnx wins and is as fast as eager at batch 1: it takes 1.00 [1.00, 1.00] times eager's"),
        ((15.0, 25.0, 21.0), "onnx wins and is not shown to be faster than eager at batch 1: it takes 0.99"),
    ],
)
def test_a_winner_that_eager_matches_or_beats_is_said_to_be_so(
    times_us: tuple[float, float, float], summary: str
) -> None:
    result = verdict(evidence("onnx", times_us))
    assert result.winner == "onnx"
    assert result.reasons[1].startswith(summary)


@pytest.mark.parametrize(
    ("spec", "needed_count", "flags"),
    [
        (BenchSpec(), 4, "--bench.depth standard"),
        (BenchSpec(depth="standard"), 4, "--bench.depth claim"),
        (BenchSpec(), 21, "--bench.processes-count 21"),
        (BenchSpec(processes_count=4), 3, "--bench.processes-count 5"),
    ],
)
def test_what_settles_a_comparison_is_a_flag_that_brings_more_processes(
    spec: BenchSpec, needed_count: int, flags: str
) -> None:
    assert spec.flags_for(needed_count) == flags


def test_losers_are_told_why_and_the_front_has_those_that_are_best_at_something() -> None:
    result = verdict(
        evidence("aotinductor", (2.0, 2.0, 2.0), cold_s=3.0, peak_mib=300),
        evidence("onnx", (4.0, 4.0, 4.0), cold_s=0.2, peak_mib=60),
        evidence("exported", (9.0, 9.0, 9.0), cold_s=4.0, peak_mib=400),
    )
    assert result.winner == "aotinductor"
    rows = {row.name: row for row in result.rows}
    assert [row.name for row in result.rows if row.on_pareto_front] == ["aotinductor", "onnx"]
    assert rows["onnx"].why_not is not None
    assert rows["onnx"].why_not.startswith(
        "takes 2.00 [2.00, 2.00] times aotinductor's time; less peak memory and cold"
    )
    assert rows["exported"].why_not == "takes 4.50 [4.50, 4.50] times aotinductor's time"
    assert rows["aotinductor"].why_not is None


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(max_memory_mb=50), "peak memory 100 MiB, at most 50 MiB is allowed"),
        (Limits(max_cold_start_s=0.5), "cold start 1 s, at most 0.5 s is allowed"),
        (Limits(max_p99_ms=0.001, callers_count=4), "p99 at batch 1 with 4 callers (upper end of its interval) 0.002"),
        (Limits(max_p99_ms=1.0, callers_count=9), "was not measured: set bench.callers_rows to 1 and add 9"),
        (Limits(portable=True), "runs only on machines like the one that built it"),
    ],
)
def test_every_limit_keeps_an_artifact_from_shipping(limits: Limits, reason: str) -> None:
    result = verdict(evidence("aotinductor", (2.0, 2.0, 2.0)), limits=limits)
    assert result.winner is None
    assert reason in result.rows[1].reasons[0]
    met = Limits(max_memory_mb=150, max_cold_start_s=2, max_p99_ms=1.0, callers_count=4, max_size_mb=1)
    assert verdict(evidence("aotinductor", (2.0, 2.0, 2.0)), limits=met).winner == "aotinductor"


def test_a_time_below_the_roofline_floor_is_a_wrong_measurement() -> None:
    ceilings = Ceilings(threads_count=1, flops_per_s=1e9, bytes_per_s={"1000": 1e9}, dispatch_s=1e-7)
    counted = Roofline(work=(Work(batch_rows=1, flops=10**6, bytes=8),), ceilings=(ceilings,))
    result = verdict(evidence("onnx", (2.0, 2.0, 2.0)), shared=replace(session(), roofline=counted))
    assert "took 2e-06 s, its floor is 0.001 s (arithmetic): the measurement is wrong" in result.rows[1].reasons[0]
    assert result.winner is None


def test_a_measurement_of_another_session_is_refused_by_name() -> None:
    given = evidence("onnx", (2.0, 2.0, 2.0))
    assert given.measurement is not None
    foreign = replace(given, measurement=replace(given.measurement, key="f" * 64))
    with pytest.raises(
        UserError, match=r"onnx was measured .* in another session \(ffffffffffff\).*measure them together"
    ):
        verdict(foreign)


def test_the_faster_wrong_one_never_wins() -> None:
    result = verdict(evidence("aotinductor", (0.1, 0.1, 0.1), "fail", required=True), evidence("onnx", (2.0, 2.0, 2.0)))
    assert result.winner == "onnx"
    assert not result.good
    assert result.rows[1].reasons == ("parity fail: it is wrong",)
    assert "aotinductor is required: parity fail: it is wrong" in result.reasons


def test_eager_never_wins_however_fast() -> None:
    slow = evidence("onnx", (50.0, 50.0, 50.0))
    result = verdict(slow)
    assert result.winner == "onnx"
    assert result.rows[1].speeds[0].to_eager is not None
    assert result.rows[1].speeds[0].to_eager.comparison == "slower"
    assert not result.rows[0].shippable


@pytest.mark.parametrize("allow", [True, False])
def test_no_reference_ships_only_where_the_recipe_says_so(allow: bool) -> None:
    result = verdict(evidence("onnx", (2.0, 2.0, 2.0), "no-reference"), allow=allow)
    assert result.rows[1].shippable is allow


def test_inconclusive_never_ships() -> None:
    result = verdict(evidence("onnx", (2.0, 2.0, 2.0), "inconclusive"), allow=True)
    assert not result.rows[1].shippable
    assert result.winner is None
    assert not result.good


def test_a_stated_limit_that_fails_keeps_an_artifact_from_shipping() -> None:
    row = evidence("onnx", (2.0, 2.0, 2.0))
    assert verdict(row, limits=Limits(max_median_ms=0.003)).winner == "onnx"
    late = verdict(row, limits=Limits(max_median_ms=0.001))
    assert late.winner is None
    assert late.rows[1].reasons == ("median at batch 1 0.002 ms, at most 0.001 ms is allowed",)
    unknown = verdict(row, limits=Limits(max_median_ms=1.0, batch_rows=64))
    assert "was not measured" in unknown.rows[1].reasons[0]


@pytest.mark.parametrize(("least", "good"), [(0.89, True), (0.91, False)])
def test_a_metric_below_its_limit_ships_nothing(least: float, good: bool) -> None:
    result = verdict(evidence("onnx", (2.0, 2.0, 2.0)), limits=Limits(min_metrics={"accuracy": least}))
    assert result.good is good
    assert (result.winner is not None) is good


def test_an_unknown_metric_is_a_failed_limit() -> None:
    result = verdict(evidence("onnx", (2.0, 2.0, 2.0)), limits=Limits(min_metrics={"recall": 0.1}))
    assert not result.good
    assert "recall is nan" in result.reasons[0]


def test_a_failed_step_is_the_rows_reason() -> None:
    failed = Evidence(
        name="compile",
        backend="compile",
        required=True,
        failure=Failure(step="build", cause="timeout: stopped", log="log/x"),
    )
    result = verdict(evidence("onnx", (2.0, 2.0, 2.0)), failed)
    assert result.rows[2].reasons == ("build: timeout: stopped",)
    assert result.rows[2].log == "log/x"
    assert not result.good


def test_the_built_runs_chain_of_digests_holds(built: Path) -> None:
    from bench.parity.reference import Reference
    from export.artifact import ProgramRecord, open_artifact
    from pipeline.training.checkpoint import Checkpoint

    checkpoint = read(Checkpoint, built / "checkpoint" / "checkpoint.json")
    program = read(ProgramRecord, built / "program" / "program.json")
    reference = read(Reference, built / "parity" / "reference" / "reference.json")
    assert program.checkpoint_sha256 == reference.checkpoint_sha256 == digest(checkpoint)
    for row in read(Verdict, built / "verdict.json").rows:
        one = open_artifact(built / "artifacts" / row.name)
        report = read(ParityReport, built / "parity" / f"{row.name}.json")
        timed = read(Measurement, built / "measurements" / f"{row.name}.json")
        assert (one.checkpoint_sha256, one.program_sha256) == (digest(checkpoint), digest(program))
        assert (report.artifact_sha256, report.reference_sha256) == (digest(one), digest(reference))
        assert timed.artifact_sha256 == digest(one)
        assert (row.artifact_sha256, row.parity_sha256, row.measurement_sha256) == (
            digest(one),
            digest(report),
            digest(timed),
        )


def test_raw_samples_are_kept_for_every_process_and_batch(built: Path) -> None:
    shared = read(SessionRecord, built / "measurements" / "session.json")
    assert shared.control == "onnx"
    assert {(one.process, one.batch_rows) for one in shared.control_samples} == {
        (p, b) for p in range(2) for b in (1, 32, 1024)
    }
    for name in shared.artifacts:
        timed = read(Measurement, built / "measurements" / f"{name}.json")
        mine = [one for one in timed.samples if one.threads_count == timed.options.threads_count]
        assert {(one.process, one.batch_rows) for one in mine} == {(p, b) for p in range(2) for b in (1, 32, 1024)}
        assert all(len(one.samples_s) == len(one.checked_s) >= 5 and min(one.samples_s) > 0 for one in mine)
        assert all(one.warmup_calls_count >= 5 and one.warmup_s >= 0.02 for one in mine)
        assert {one.callers_count for one in timed.concurrency} == {1, 4}
        assert len(timed.cold_starts) == 1


def test_a_batch_that_was_left_out_is_said() -> None:
    result = verdict(evidence("onnx", (2.0, 2.0, 2.0)))
    assert not [reason for reason in result.reasons if "left out" in reason]
    judged = verdict(evidence("onnx", (2.0, 2.0, 2.0)), shared=session(left_out="a call of eager takes 9.0 s"))
    assert "batch 1024 was left out: a call of eager takes 9.0 s" in judged.reasons

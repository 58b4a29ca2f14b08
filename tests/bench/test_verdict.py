from __future__ import annotations

from pathlib import Path

import pytest

from bench.measure import Measurement, Samples
from bench.parity.report import OutputParity, ParityReport, ParityStatus
from bench.parity.spec import ParitySpec, Thresholds
from bench.sample import BenchSpec
from bench.verdict import Evidence, Failure, Limits, Verdict, weigh
from export.artifact import Artifact
from export.backend import LoadOptions, Witness
from export.environment import environment
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
        checks=(),
        proved={},
        outputs=(output,),
        witness=Witness(device="cpu"),
        observed=OBSERVED,
    )


def measurement(name: str, times_us: tuple[float, float, float], session: tuple[str, ...] = ("all",)) -> Measurement:
    """One time per process, the same in each of its rounds."""
    samples = tuple(
        Samples(
            process=process,
            batch_rows=1,
            calls_per_sample_count=4,
            warmup_calls_count=8,
            warmup_s=0.1,
            samples_s=(us * 1e-6,) * 5,
        )
        for process, us in enumerate(times_us)
    )
    return Measurement(
        key="k",
        artifact=name,
        artifact_sha256="a",
        session=session,
        options=LoadOptions(),
        spec=SPEC,
        samples=samples,
        left_out={"1024": "a call of eager takes 9.0 s"} if name == "slow" else {},
        environment=environment(),
        observed=OBSERVED,
    )


def evidence(
    name: str,
    times_us: tuple[float, float, float],
    status: ParityStatus = "pass",
    *,
    required: bool = False,
    session: tuple[str, ...] = ("all",),
) -> Evidence:
    return Evidence(
        name=name,
        backend=name,
        required=required,
        artifact=artifact(name),
        parity=parity(name, status),
        measurement=measurement(name, times_us, session) if status == "pass" else None,
    )


EAGER = evidence("eager", (20.0, 20.2, 19.8))


def verdict(*rows: Evidence, limits: Limits | None = None, allow: bool = False) -> Verdict:
    return weigh("k", "r", [EAGER, *rows], limits or Limits(), {"accuracy": 0.9}, allow_no_reference=allow)


def test_the_fastest_shippable_one_wins_with_its_reason() -> None:
    result = verdict(evidence("onnx", (2.0, 2.02, 1.98)), evidence("torchscript", (10.0, 10.1, 9.9)))
    assert (result.winner, result.tied, result.good) == ("onnx", (), True)
    assert result.reasons == (
        "onnx is the fastest over batch 1: the next, torchscript, takes 5.00 [5.00, 5.00] times as long",
    )


def test_ratios_to_eager_are_paired_with_their_interval() -> None:
    result = verdict(evidence("onnx", (2.0, 2.02, 1.98)))
    speed = result.rows[1].speeds[0]
    assert speed.word == "faster"
    assert speed.ratio_to_eager is not None
    assert speed.ratio_to_eager.value == pytest.approx(0.1)
    assert speed.rows_per_s == pytest.approx(1 / 2e-6)


def test_a_difference_within_the_noise_is_a_tie_and_the_simplest_is_taken() -> None:
    result = verdict(evidence("aotinductor", (2.0, 2.5, 1.8)), evidence("onnx", (2.1, 2.3, 2.0)))
    assert result.winner == "onnx"
    assert result.tied == ("aotinductor", "onnx")
    assert "a tie" in result.reasons[0]
    assert "onnx is the simplest to deploy" in result.reasons[0]


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
    assert result.rows[1].speeds[0].word == "slower"
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
    assert late.rows[1].reasons == ("median 0.002 ms at batch 1, at most 0.001 ms is allowed",)
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


def test_measurements_of_another_session_are_not_compared() -> None:
    result = verdict(evidence("onnx", (2.0, 2.0, 2.0), session=("other",)))
    assert result.rows[1].speeds[0].ratio_to_eager is None


def test_the_built_runs_chain_of_digests_holds(built: Path) -> None:
    from bench.parity.jobs import Reference
    from export.artifact import ProgramRecord, open_artifact
    from pipeline.train import Checkpoint

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
    for path in (built / "measurements").glob("*.json"):
        timed = read(Measurement, path)
        assert {(one.process, one.batch_rows) for one in timed.samples} == {
            (p, b) for p in range(3) for b in (1, 32, 1024)
        }
        assert all(len(one.samples_s) >= 5 and min(one.samples_s) > 0 for one in timed.samples)
        assert all(one.warmup_calls_count >= 5 and one.warmup_s >= 0.05 for one in timed.samples)


def test_a_batch_that_was_left_out_is_said() -> None:
    result = verdict(evidence("onnx", (2.0, 2.0, 2.0)))
    assert not [reason for reason in result.reasons if "left out" in reason]
    slow = Evidence(
        name="slow",
        backend="onnx",
        required=False,
        artifact=artifact("onnx"),
        parity=parity("onnx"),
        measurement=measurement("slow", (2.0, 2.0, 2.0)),
    )
    assert "batch 1024 was left out: a call of eager takes 9.0 s" in verdict(slow).reasons

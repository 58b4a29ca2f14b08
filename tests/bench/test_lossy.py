"""Int8 is judged by what it is for: the metric and the signal-to-noise ratio; and never by nothing."""

from __future__ import annotations

import numpy as np
import pytest

from bench.parity.answers import Answers
from bench.parity.cases import Case
from bench.parity.check import Check, CheckStatus
from bench.parity.levels.fidelity import FidelityTally, is_quantized, judged_by_fidelity

CASE = Case(group="rows", name="rows 0 to 255", sizes={"batch": 256})


def fidelity(noise: float, group: str = "rows") -> list[Check]:
    wide = np.random.default_rng(0).standard_normal((256, 4))
    got = (wide + noise * np.random.default_rng(1).standard_normal(wide.shape)).astype(np.float32)
    tally = FidelityTally("y")
    case = Case(group=group, name="case", sizes={"batch": 256})  # type: ignore[arg-type]
    tally.add(Answers(case, wide, wide.astype(np.float32), got))
    return tally.checks()


@pytest.mark.parametrize(("noise", "status"), [(0.01, "pass"), (0.09, "pass"), (0.12, "fail"), (1.0, "fail")])
def test_twenty_decibels_are_a_tenth_of_the_signal(noise: float, status: str) -> None:
    (check,) = fidelity(noise)
    assert (check.level, check.status) == ("fidelity", status)


def test_made_up_extremes_are_not_held_against_it() -> None:
    assert fidelity(1.0, "extremes") == []
    assert [check.status for check in fidelity(1.0, "sizes")] == ["fail"]


def finding(level: str, status: CheckStatus) -> Check:
    return Check(level=level, subject="y", status=status, message="w")


def test_what_only_an_exact_artifact_meets_is_reported_and_the_rest_still_fails() -> None:
    exact = [finding(level, "fail") for level in ("error", "weights", "decisions", "systematic", "values")]
    hard = [finding(level, "fail") for level in ("structure", "refusals", "layouts", "determinism", "execution")]
    metric = finding("metric", "pass")
    judged = judged_by_fidelity([*exact, *hard, metric])
    assert [check.status for check in judged] == ["reported"] * 5 + ["fail"] * 5 + ["pass"]


def test_without_a_metric_nothing_is_proved() -> None:
    (check,) = judged_by_fidelity([])
    assert (check.level, check.status) == ("metric", "inconclusive")
    assert judged_by_fidelity([finding("metric", "fail")])[-1].status == "fail"


def test_only_int8_is_lossy() -> None:
    assert is_quantized("int8")
    assert not is_quantized("float32")

"""Int8 is judged by what it is for: the metric and the signal-to-noise ratio; and never by nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.parity.answers import Answers
from bench.parity.cases import Case
from bench.parity.check import Check
from bench.parity.equivalent import thresholds
from bench.parity.levels import LEVELS
from bench.parity.levels.fidelity import FidelityTally, as_intended, is_quantized
from bench.parity.levels.level import Context
from bench.parity.levels.metric import Metric
from bench.parity.levels.other_inputs import Sizes
from bench.parity.levels.structure import Structure
from export import registry
from export.artifact import open_artifact
from export.backend import Witness
from tests.bench.conftest import ModelRuns, right
from tests.model_run import ModelRun

CASE = Case(group="rows", name="rows 0 to 255", sizes={"batch": 256})


def fidelity(noise: float, group: str = "rows") -> list[Check]:
    wide = np.random.default_rng(0).standard_normal((256, 4))
    got = (wide + noise * np.random.default_rng(1).standard_normal(wide.shape)).astype(np.float32)
    tally = FidelityTally("y")
    case = Case(group=group, name="case", sizes={"batch": 256})  # type: ignore[arg-type]
    tally.add(Answers(output="y", case=case, wide=wide, eager=wide.astype(np.float32), got=got))
    return tally.checks()


@pytest.mark.parametrize(("noise", "status"), [(0.01, "pass"), (0.09, "pass"), (0.12, "fail"), (1.0, "fail")])
def test_twenty_decibels_are_a_tenth_of_the_signal(noise: float, status: str) -> None:
    (check,) = fidelity(noise)
    assert (check.level, check.status) == ("fidelity", status)


def test_made_up_extremes_are_not_held_against_it() -> None:
    assert fidelity(1.0, "extremes") == []
    assert [check.status for check in fidelity(1.0, "sizes")] == ["fail"]


def test_what_only_an_exact_artifact_meets_is_reported_and_the_rest_still_fails() -> None:
    assert {level.name for level in LEVELS if level.exact} == {
        "weights", "attributes", "error", "systematic", "decisions", "calls", "values", "sizes", "extremes",
        "non-finite",
    }  # fmt: skip


@pytest.mark.parametrize(("precision", "status"), [("int8", "inconclusive"), ("float32", None)])
def test_without_a_metric_int8_is_not_judged(precision: str, status: str | None, runs: ModelRuns) -> None:
    context = a_context(runs("Pointwise"), precision)
    assert [check.status for check in Metric().checks(context)] == ([status] if status else [])


def test_a_metric_that_fails_is_the_verdict(runs: ModelRuns) -> None:
    measured = Check(level="metric", subject="accuracy", status="fail", message="changed")
    context = replace(a_context(runs("Pointwise"), "int8"), observed=(measured,))
    assert list(Metric().checks(context)) == [measured]


@pytest.mark.parametrize("precision", ["int8", "float16 from float32"])
def test_no_precision_is_a_reason_to_refuse_a_size(precision: str, runs: ModelRuns) -> None:
    context = a_context(runs("Pointwise"), precision)
    number = next(number for number, case in enumerate(context.cases) if case.group == "sizes")
    context = replace(context, refusals={number: "RuntimeError: 7 is not 4"})
    (refused,) = Sizes().checks(replace(context, has_reference=False))
    assert as_intended(refused, Sizes(), context).status == "fail"
    error = replace(refused, cases=("zeros",))  # the twin: what was answered, and differs
    assert as_intended(error, Sizes(), context).status == "reported"


@pytest.mark.parametrize(("case", "status"), [("near overflow", "reported"), ("zeros", "fail"), ("tiny", "fail")])
def test_float16_is_excused_for_what_is_large_alone(case: str, status: str, runs: ModelRuns) -> None:
    context = a_context(runs("Pointwise"), "float16 from float32")
    found = Check(level="structure", subject="y", status="fail", message="1 is not finite", cases=(case,))
    assert as_intended(found, Structure(), context).status == status


def a_context(run: ModelRun, precision: str) -> Context:
    """What levels see of an artifact about which nothing was found."""
    artifact = replace(open_artifact(right(run, "exported")), precision=precision)
    return Context(
        artifact=artifact,
        backend=registry.get(artifact.backend),
        outputs=artifact.signature.output_names,
        spec=run.spec,
        limits=thresholds(run.spec, ()),
        cases=run.reference.cases,
        own_rows=True,
        has_reference=True,
        operators=(),
        errors={},
        witness=Witness(device="cpu"),
        refusals={},
        observed=(),
    )


def test_only_int8_is_quantized() -> None:
    assert is_quantized("int8")
    assert not is_quantized("float32")

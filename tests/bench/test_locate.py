"""The locator's parts: bisection, faults made by optimisation and compilation, the range audit."""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.locate import passes
from bench.locate.compared import LIMIT, local_ratio
from bench.locate.inductor import compiled_fault
from bench.locate.job import LocateJob, likeliest_cases, locate
from bench.locate.passes import guilty_passes, narrowed
from bench.locate.ranges import RangeJob, audit
from bench.parity.spec import ParitySpec
from export.arrays import to_torch
from export.artifact import open_artifact, verified_program
from export.backend import LoadOptions
from export.build import Source
from export.program import load_exported
from export.runtimes.onnxruntime import open_session
from export.taps.trace import Trace
from tests.faults import models
from tests.faults.planted import ModelRuns
from tests.model_run import ModelRun
from tests.models import SIGNATURES


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> ModelRuns:
    return ModelRuns(tmp_path_factory.mktemp("locate"))


def traced(run: ModelRun) -> tuple[Any, Trace, dict[str, Any]]:
    """The program, its trace on one call, and that call's inputs."""
    exported = load_exported(verified_program(run.program))
    inputs = run.signature.example(run.signature.sizes_at(16), seed=0)
    trace = Trace(exported)
    trace.run([to_torch(array) for array in inputs.values()])
    return exported, trace, inputs


@pytest.mark.parametrize(("guilty", "expected"), [({"c"}, ("c",)), ({"b", "d"}, ("b", "d")), ({"z"}, ())])
def test_bisection_finds_the_passes_that_make_a_fault(guilty: set[str], expected: tuple[str, ...]) -> None:
    """The fault goes when all guilty passes are off; one that is not in the list cannot be found."""
    assert narrowed(lambda disabled: not guilty <= set(disabled), ("a", "b", "c", "d", "e")) == expected


@pytest.mark.slow
def test_a_fault_made_by_graph_optimisation_is_found_by_level_and_pass(
    runs: ModelRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime, told to approximate GELU, computes another function: no tapped value shows it, the whole does."""
    run = runs("Encoder")
    folder = runs.right("Encoder", "onnx")
    _, trace, inputs = traced(run)

    def told_to_approximate(model: str, *arguments: Any, **more: Any) -> Any:
        import onnxruntime

        plain = onnxruntime.SessionOptions

        class Approximating(plain):  # type: ignore[misc, valid-type]
            def __init__(self) -> None:
                super().__init__()
                self.add_session_config_entry("optimization.enable_gelu_approximation", "1")

        monkeypatch.setattr(onnxruntime, "SessionOptions", Approximating)
        try:
            return open_session(model, *arguments, **more)
        finally:
            monkeypatch.setattr(onnxruntime, "SessionOptions", plain)

    assert "nor the whole" in guilty_passes(folder, open_artifact(folder), trace, inputs, LoadOptions())
    monkeypatch.setattr(passes, "open_session", told_to_approximate)
    message = guilty_passes(folder, open_artifact(folder), trace, inputs, LoadOptions())
    assert "from level extended on" in message
    assert "it goes without GeluApproximation" in message


def test_a_fault_made_by_compilation_is_found_by_compiling_beginnings(runs: ModelRuns) -> None:
    """A compiler that computes softsign for tanh."""
    exported, trace, inputs = traced(runs("Mlp"))

    def wrong(graph: torch.fx.GraphModule) -> Callable[..., Any]:
        for node in graph.graph.nodes:
            if node.target == torch.ops.aten.tanh.default:
                node.target = torch.nn.functional.softsign
        graph.recompile()
        return graph

    assert compiled_fault(exported, trace, list(inputs.values()), wrong) == "tanh"
    assert compiled_fault(exported, trace, list(inputs.values()), lambda graph: graph) is None


def test_inductor_compiles_every_beginning_right(runs: ModelRuns) -> None:
    exported, trace, inputs = traced(runs("Mlp"))
    assert compiled_fault(exported, trace, list(inputs.values())) is None


@pytest.mark.slow
def test_a_wrong_weight_in_compiled_code_leads_to_its_operator(runs: ModelRuns, tmp_path: Path) -> None:
    run = runs("Mlp")
    folder = run.build("aotinductor", tmp_path / "off", models.source("Mlp", fault="one weight x 1.001"))
    report = run.judge(folder)
    job = LocateJob(
        artifact=str(folder),
        program=str(run.program),
        reference=str(run.reference_folder),
        weights=str(run.weights),
        cases=likeliest_cases(report, run.reference),
        options=LoadOptions(),
    )
    suspect = locate(job).suspect
    assert suspect is not None
    assert (suspect.module, suspect.operator) == ("second", "aten.linear.default")
    assert "self.gate(self.second(hidden))" in suspect.line


class Overflowing(nn.Module):
    """Values beyond float16 in the middle, ordinary ones at both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.blow_up = nn.Linear(4, 4)
        nn.init.constant_(self.blow_up.weight, 1e5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.blow_up(x) * 1e-6)


def overflowing(argument: str) -> nn.Module:
    return Overflowing().eval()


def test_the_range_audit_names_the_module_that_overflows(tmp_path: Path) -> None:
    source = Source(function="tests.bench.test_locate:overflowing", argument="")
    run = ModelRun(source, SIGNATURES["Pointwise"], tmp_path / "o", ParitySpec(rows_count=64))
    job = RangeJob(
        program=str(run.program),
        reference=str(run.reference_folder),
        signature=run.signature,
        cases=tuple(run.reference.indices("rows")),
    )
    first = audit(job).outside[0]
    assert first.module == "blow_up"
    assert "it overflows" in first.message


def test_a_masks_huge_values_do_not_hide_an_error_among_ordinary_ones() -> None:
    truth = np.random.default_rng(0).standard_normal((64, 64))
    truth[:, ::2] -= 1e9
    eager = truth.astype(np.float32)
    got = eager.copy()
    got[:, 1::2] *= np.float32(1.001)
    assert local_ratio(truth, eager, eager) <= 1.0
    assert local_ratio(truth, eager, got) > LIMIT


@pytest.mark.parametrize(
    "spoil",
    [
        lambda got: got.astype(np.float64),
        lambda got: got[:-1],
        lambda got: np.where(np.arange(got.size).reshape(got.shape) == 3, np.nan, got).astype(np.float32),
    ],
)
def test_another_dtype_shape_or_nan_is_beyond_any_ratio(spoil: Callable[[Any], Any]) -> None:
    truth = np.random.default_rng(0).standard_normal((8, 8))
    eager = truth.astype(np.float32)
    assert operator.eq(local_ratio(truth, eager, spoil(eager)), np.inf)

"""The locator's parts: bisection, faults made by optimisation and compilation, the range audit."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
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
from export.artifact import verified_program
from export.backend import LoadOptions
from export.build import Source
from export.program import load_exported
from export.record import to_json
from export.runtimes.onnxruntime import open_session
from export.taps.trace import Trace
from tests.faults import models
from tests.faults.planted import Provers
from tests.models import SIGNATURES
from tests.prover import Prover


@pytest.fixture(scope="module")
def provers(tmp_path_factory: pytest.TempPathFactory) -> Provers:
    return Provers(tmp_path_factory.mktemp("locate"))


def traced(prover: Prover) -> tuple[Any, Trace, dict[str, Any]]:
    """The program, its trace on one call, and that call's inputs."""
    exported = load_exported(verified_program(prover.program))
    inputs = prover.signature.example(prover.signature.sizes_at(16), seed=0)
    trace = Trace(exported)
    trace.run([to_torch(array) for array in inputs.values()])
    return exported, trace, inputs


@pytest.mark.parametrize(("guilty", "expected"), [({"c"}, ("c",)), ({"b", "d"}, ("b", "d")), ({"z"}, ())])
def test_bisection_finds_the_passes_that_make_a_fault(guilty: set[str], expected: tuple[str, ...]) -> None:
    """The fault goes when all guilty passes are off; one that is not in the list cannot be found."""
    assert narrowed(lambda disabled: not guilty <= set(disabled), ("a", "b", "c", "d", "e")) == expected


def test_a_fault_made_by_graph_optimisation_is_found_by_level_and_pass(
    provers: Provers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime, told to approximate GELU, computes another function: no tapped value shows it, the whole does."""
    prover = provers("Encoder")
    folder = provers.right("Encoder", "onnx")
    _, trace, inputs = traced(prover)

    def told_to_approximate(model: str, options: LoadOptions, disabled: Sequence[str] = ()) -> Any:
        import onnxruntime

        plain = onnxruntime.SessionOptions

        class Approximating(plain):  # type: ignore[misc, valid-type]
            def __init__(self) -> None:
                super().__init__()
                self.add_session_config_entry("optimization.enable_gelu_approximation", "1")

        monkeypatch.setattr(onnxruntime, "SessionOptions", Approximating)
        try:
            return open_session(model, options, disabled)
        finally:
            monkeypatch.setattr(onnxruntime, "SessionOptions", plain)

    assert "nor the whole" in guilty_passes(folder, prover.signature, trace, inputs, LoadOptions())
    monkeypatch.setattr(passes, "open_session", told_to_approximate)
    message = guilty_passes(folder, prover.signature, trace, inputs, LoadOptions())
    assert "from level extended on" in message
    assert "it goes without GeluApproximation" in message


def test_a_fault_made_by_compilation_is_found_by_compiling_beginnings(provers: Provers) -> None:
    """A compiler that computes softsign for tanh."""
    exported, trace, inputs = traced(provers("Mlp"))

    def wrong(graph: torch.fx.GraphModule) -> Callable[..., Any]:
        for node in graph.graph.nodes:
            if node.target == torch.ops.aten.tanh.default:
                node.target = torch.nn.functional.softsign
        graph.recompile()
        return graph

    assert compiled_fault(exported, trace, list(inputs.values()), wrong) == "tanh"
    assert compiled_fault(exported, trace, list(inputs.values()), lambda graph: graph) is None


def test_inductor_compiles_every_beginning_right(provers: Provers) -> None:
    exported, trace, inputs = traced(provers("Mlp"))
    assert compiled_fault(exported, trace, list(inputs.values())) is None


def test_a_wrong_weight_in_compiled_code_leads_to_its_operator(provers: Provers, tmp_path: Path) -> None:
    prover = provers("Mlp")
    folder = prover.build("aotinductor", tmp_path / "off", models.source("Mlp", fault="one weight x 1.001"))
    report = prover.judge(folder)
    job = LocateJob(
        artifact=str(folder),
        program=str(prover.program),
        reference=str(prover.reference_folder),
        weights=str(prover.weights),
        cases=likeliest_cases(report, prover.reference),
        options=LoadOptions(),
    )
    suspect = locate(to_json(job)).suspect
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
    prover = Prover(source, SIGNATURES["Pointwise"], tmp_path / "o", ParitySpec(rows_count=64))
    job = RangeJob(
        program=str(prover.program),
        reference=str(prover.reference_folder),
        signature=prover.signature,
        cases=tuple(prover.reference.indices("rows")),
    )
    first = audit(to_json(job)).outside[0]
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

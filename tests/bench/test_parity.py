"""Wrong artifacts must fail, right ones must pass. Every fault is a really edited artifact file or model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from bench.parity.cases import ParitySpec, case_inputs, case_sizes
from bench.parity.jobs import INPUTS, Outputs, OutputsJob, Reference, ReferenceJob, outputs, reference
from bench.parity.report import ParityReport, compare
from export.artifact import RECORD, Artifact, open_artifact
from export.backend import LoadOptions, Witness
from export.build import Source
from export.program import complete
from export.record import digest_files, from_json, read, to_json, write
from export.signature import Signature, SizeRange
from tests.conftest import Builder
from tests.models import SIGNATURES, make, rows, source

SPEC = ParitySpec()
Edit = Callable[[onnx.ModelProto], None]


class Judge:
    """Proves artifacts of one model of tests/models.py against its own reference."""

    def __init__(self, model: str, folder: Path, model_source: Source | None = None) -> None:
        self.folder = folder
        self.signature = complete(make(model), SIGNATURES[model], seed=0)
        self.sizes = case_sizes(self.signature, SPEC.batch_rows)
        folder.mkdir(parents=True)
        job = ReferenceJob(
            source=model_source or source(model),
            signature=self.signature,
            sizes=self.sizes,
            samples=None,
            seed=0,
            device="cpu",
            key="k",
            checkpoint_sha256="c",
            folder=str(folder),
        )
        reference(to_json(job))
        self.reference = read(Reference, folder / "reference.json")

    def __call__(self, artifact: Path, *, check: bool = True) -> ParityReport:
        """The report; ``check=False`` compares the artifact with its own answers: the twin that never fails."""
        answers = self.folder / "answers.safetensors"
        job = OutputsJob(
            artifact=str(artifact),
            options=LoadOptions(threads_count=2),
            source=None,
            inputs=str(self.folder / INPUTS),
            sizes=self.sizes,
            outputs=str(answers),
        )
        answered = from_json(Outputs, to_json(outputs(to_json(job))))
        folder = self.folder
        if not check:
            folder = self.folder / "unchecked"
            folder.mkdir(exist_ok=True)
            for name in ("eager.safetensors", "float64.safetensors"):
                shutil.copy(answers, folder / name)
        return compare(open_artifact(artifact), self.reference, folder, answered, answers, SPEC, "k", 0.0)


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Judge]:
    base = tmp_path_factory.mktemp("judges")
    known: dict[str, Judge] = {}

    def judge(model: str) -> Judge:
        return known.setdefault(model, known.get(model) or Judge(model, base / model))

    return judge


def edited(original: Path, target: Path, edit: Edit) -> Path:
    """A copy of an ONNX artifact whose file was edited, and whose record vouches for the edited file."""
    shutil.copytree(original, target)
    model = onnx.load(target / "model.onnx")
    edit(model)
    onnx.save(model, target / "model.onnx")
    artifact = read(Artifact, target / RECORD)
    write(target / RECORD, replace(artifact, files=digest_files(target, [target / "model.onnx"])))
    return target


def weight(model: onnx.ModelProto, least_rank: int = 2) -> tuple[onnx.TensorProto, np.ndarray[Any, Any]]:
    """The first weight matrix, to be changed in place with ``put``."""
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        if array.ndim >= least_rank and array.dtype == np.float32:
            return tensor, array
    raise AssertionError("the model has no weight matrix")


def put(tensor: onnx.TensorProto, array: np.ndarray[Any, Any]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), tensor.name))


def one_weight_a_thousandth_larger(model: onnx.ModelProto) -> None:
    tensor, array = weight(model)
    array.flat[np.abs(array).argmax()] *= 1.001
    put(tensor, array)


def weights_in_half_precision(model: onnx.ModelProto) -> None:
    tensor, array = weight(model)
    put(tensor, array.astype(np.float16))


def two_rows_swapped(model: onnx.ModelProto) -> None:
    tensor, array = weight(model)
    put(tensor, array[[1, 0, *range(2, len(array))]])


def one_weight_not_a_number(model: onnx.ModelProto) -> None:
    tensor, array = weight(model)
    array.flat[0] = np.nan
    put(tensor, array)


def activation_replaced(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type in {"Tanh", "Relu"})
    node.op_type = "Softsign"


FAULTS = [
    one_weight_a_thousandth_larger,
    weights_in_half_precision,
    two_rows_swapped,
    one_weight_not_a_number,
    activation_replaced,
]


@pytest.mark.parametrize("model", ["Mlp", "ConvNorm"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_artifact_fails_and_without_the_check_it_would_not(
    fault: Edit, model: str, build_model: Builder, judges: Callable[[str], Judge], tmp_path: Path
) -> None:
    folder = edited(build_model(model, "onnx")[0], tmp_path / "onnx", fault)
    report = judges(model)(folder)
    assert report.status == "fail"
    assert report.reasons
    assert judges(model)(folder, check=False).status == (
        "pass" if fault is not one_weight_not_a_number else "inconclusive"
    )


@pytest.mark.parametrize("model", ["Mlp", "ConvNorm", "Nested", "Namesake"])
@pytest.mark.parametrize("backend", ["torchscript", "exported", "onnx"])
def test_a_right_artifact_passes(
    model: str, backend: str, build_model: Builder, judges: Callable[[str], Judge]
) -> None:
    report = judges(model)(build_model(model, backend)[0])
    assert (report.status, report.reasons) == ("pass", ())
    assert report.worst_ratio is not None
    assert report.worst_ratio <= 4


def test_outputs_in_another_order_fail(build_model: Builder, judges: Callable[[str], Judge], tmp_path: Path) -> None:
    def swap(model: onnx.ModelProto) -> None:
        other = {"logits": "extras.pair.1", "extras.pair.1": "logits"}
        for node in model.graph.node:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    names[index] = other.get(name, name)
        for value in model.graph.output:
            value.type.ClearField("value")

    folder = edited(build_model("Nested", "onnx")[0], tmp_path / "onnx", swap)
    report = judges("Nested")(folder)
    assert report.status == "fail"
    assert "logits must be float32, got int64" in report.reasons[0]


def test_a_frozen_batch_fails_and_the_dimension_is_named(
    build_model: Builder, judges: Callable[[str], Judge], tmp_path: Path
) -> None:
    """A package traced without a dynamic batch, under a record that promises one."""
    folder = tmp_path / "exported"
    shutil.copytree(build_model("Mlp", "exported")[0], folder)
    torch.export.save(torch.export.export(make("Mlp"), (torch.zeros(3, 4),)), folder / "model.pt2")
    artifact = read(Artifact, folder / RECORD)
    write(folder / RECORD, replace(artifact, files=digest_files(folder, [folder / "model.pt2"])))
    report = judges("Mlp")(folder)
    assert report.status == "fail"
    assert report.reasons[0].startswith("refused at batch=1: ")
    assert [reason.split(":")[0] for reason in report.reasons] == [f"refused at batch={n}" for n in (1, 2, 7, 32, 257)]


def test_an_output_that_ignores_the_batch_is_named_as_frozen(
    build_model: Builder, judges: Callable[[str], Judge], tmp_path: Path
) -> None:
    """An ONNX file that answers only the first row, whatever it is asked."""

    def first_row_only(model: onnx.ModelProto) -> None:
        last = model.graph.node[-1]
        last.output[0] = "all_rows"
        index = numpy_helper.from_array(np.zeros(1, np.int64), "first")
        model.graph.initializer.append(index)
        model.graph.node.append(onnx.helper.make_node("Gather", ["all_rows", "first"], ["y"], axis=0))

    folder = edited(build_model("Mlp", "onnx")[0], tmp_path / "onnx", first_row_only)
    report = judges("Mlp")(folder)
    assert report.status == "fail"
    assert any("y must have size 7 in dimension 0 ('batch'), got 1" in reason for reason in report.reasons)


def test_stale_weights_fail(build_model: Builder, tmp_path: Path) -> None:
    """The artifact of other weights than the checkpoint's."""
    report = Judge("Mlp", tmp_path / "other", Source(function="tests.bench.test_parity:retrained", argument=""))(
        build_model("Mlp", "onnx")[0]
    )
    assert report.status == "fail"


def retrained(argument: str) -> nn.Module:
    torch.manual_seed(8)
    return type(make("Mlp"))().eval()


def test_a_witness_of_a_fallback_fails(build_model: Builder, judges: Callable[[str], Judge]) -> None:
    folder, artifact = build_model("Mlp", "onnx")
    judge = judges("Mlp")
    assert judge(folder).status == "pass"
    answered = Outputs(witness=Witness(device="cuda", fallback="3 nodes ran on the CPU"), refusals={})
    answers = judge.folder / "answers.safetensors"
    report = compare(artifact, judge.reference, judge.folder, answered, answers, SPEC, "k", 0.0)
    assert (report.status, report.reasons) == ("fail", ("3 nodes ran on the CPU",))


class OnlyFloat32(nn.Module):
    """Refuses float64, as custom operators do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.float32:
            raise TypeError("this operator takes float32")
        return x * 2


def only_float32(argument: str) -> nn.Module:
    return OnlyFloat32()


def test_a_model_without_a_float64_answer_is_said_to_have_no_reference(build_model: Builder, tmp_path: Path) -> None:
    judge = Judge(
        "Pointwise", tmp_path / "narrow", Source(function="tests.bench.test_parity:only_float32", argument="")
    )
    report = judge(build_model("Pointwise", "onnx")[0])
    assert report.status == "no-reference"
    assert report.reasons == ("the model does not run in float64: TypeError: this operator takes float32",)


def test_real_rows_come_first_then_perturbed_ones() -> None:
    signature = Signature(inputs=(rows("x", 2),), ranges={"batch": SizeRange()})
    real = {"x": np.arange(10, dtype=np.float32).reshape(5, 2)}
    drawn = case_inputs(signature, {"batch": 12}, real, seed=0)["x"]
    assert np.array_equal(drawn[:5], real["x"])
    assert not np.array_equal(drawn[5:10], real["x"])
    assert np.abs(drawn[5:10] - real["x"]).max() < 5 * 0.1 * real["x"].std()
    few = case_inputs(signature, {"batch": 3}, real, seed=0)["x"]
    assert np.array_equal(few, real["x"][:3])


def test_cases_cover_batches_in_range_and_every_other_dimension() -> None:
    sizes = case_sizes(SIGNATURES["Nested"], (1, 2, 257, 301))
    assert [one["batch"] for one in sizes[:3]] == [1, 2, 257]
    assert {one["length"] for one in sizes} == {2, 4, 9}
    assert case_sizes(Signature(inputs=(rows("x"),), ranges={"batch": SizeRange(min=4, max=9)}), (1, 32)) == (
        {"batch": 4},
    )


@pytest.mark.parametrize("spec", [{"batch_rows": ()}, {"max_rms_ratio": 0.5}, {"max_peak_ratio": float("nan")}])
def test_thresholds_must_make_sense(spec: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ParitySpec(**spec)


def test_the_built_run_says_why_it_passes(built: Path) -> None:
    for path in (built / "parity").glob("*.json"):
        report = json.loads(path.read_bytes())
        assert report["status"] == "pass"
        assert report["outputs"][0]["compared_count"] == 1 + 2 + 7 + 32 + 257

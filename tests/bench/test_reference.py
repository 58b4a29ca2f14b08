"""The reference: the model's own answers in float64, and where there are none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.parity.calibrate import CalibrationJob, calibrate
from bench.parity.spec import ParitySpec
from export.build import Source
from export.errors import UserError
from export.record import read, write
from tests.bench.conftest import right
from tests.faults import models as counting
from tests.model_run import ModelRun
from tests.models import SIGNATURES


class OnlyFloat32(nn.Module):
    """Refuses float64, as custom operators do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.float32:
            raise TypeError("this operator takes float32")
        return x * 2


class CastsInside(nn.Module):
    """Runs in float64, but not throughout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.out = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.out(x).float())


class CastsAndWidens(CastsInside):
    """Narrow in the middle, float64 again at the end: the answer looks like float64 and is not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).to(x.dtype)


def casts_and_widens(argument: str) -> nn.Module:
    return CastsAndWidens().eval()


def only_float32(argument: str) -> nn.Module:
    return OnlyFloat32()


def casts_inside(argument: str) -> nn.Module:
    return CastsInside().eval()


def _source(function: str) -> Source:
    return Source(function=f"{__name__}:{function}", argument="")


@pytest.mark.parametrize("casts", ["casts_inside", "casts_and_widens"])
def test_a_cast_inside_is_widened_in_the_traced_program(casts: str, tmp_path: Path) -> None:
    run = ModelRun(_source(casts), SIGNATURES["Pointwise"], tmp_path / "casts")
    assert (run.reference.float64_by, run.reference.failure) == ("program", None)
    assert run.judge(right(run, "exported")).status == "pass"


def test_a_model_without_a_float64_answer_is_said_to_have_no_reference(tmp_path: Path) -> None:
    from export.artifact import PROGRAM_RECORD, ProgramRecord

    class NotTraced(ModelRun):
        """As if the tracer had failed, so that nobody can answer in float64."""

        def capture(self, source: Source, folder: Path) -> None:
            super().capture(source, folder)
            path = folder / PROGRAM_RECORD
            write(path, replace(read(ProgramRecord, path), failure="not traced"))

    run = NotTraced(_source("only_float32"), SIGNATURES["Pointwise"], tmp_path / "narrow")
    report = run.judge(run.build("torchscript", tmp_path / "torchscript"))
    assert report.status == "no-reference"
    assert "TypeError: this operator takes float32" in report.reasons[0]
    assert report.outputs == ()


def test_a_model_with_state_has_no_null_variants_and_cannot_be_calibrated(tmp_path: Path) -> None:
    """A fresh copy of it answers otherwise: such variants would raise the thresholds to anything."""
    run = ModelRun(
        counting.source("Counting"), counting.SIGNATURES["Counting"], tmp_path / "c", ParitySpec(rows_count=64)
    )
    assert run.reference.variants == ()
    job = CalibrationJob(
        source=run.source,
        signature=run.signature,
        spec=run.spec,
        program=str(run.program),
        reference=str(run.reference_folder),
        reference_sha256="r",
        cases=run.reference.cases,
        seed=0,
        device="cpu",
        key="k",
    )
    with pytest.raises(UserError, match="keeps state between calls"):
        calibrate(job)

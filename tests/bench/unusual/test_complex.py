"""Complex numbers: inside as they are, outside as pairs of real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench.parity.remarks import PAIRS
from bench.parity.spec import ParitySpec
from export.build import Source
from export.flat import FlatModule
from export.float64 import double_precision
from export.signature import Signature, SizeRange, TensorSpec
from tests.model_run import ModelRun

SIGNATURE = Signature(inputs=(TensorSpec("x", "float32", ("batch", 6)),), ranges={"batch": SizeRange(max=64)})


class Spectrum(nn.Module):
    """Its weights are complex, and so is one of its answers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 5, dtype=torch.complex64))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = torch.fft.fft(x) @ self.weight
        return {"spectrum": y.conj(), "power": y.abs()}


def make(seed: str) -> nn.Module:
    torch.manual_seed(int(seed))
    return Spectrum().eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ModelRun:
    folder = tmp_path_factory.mktemp("complex") / "run"
    return ModelRun(Source(function=f"{__name__}:make", argument="0"), SIGNATURE, folder, ParitySpec(rows_count=256))


def test_a_complex_answer_comes_in_pairs_which_is_said(run: ModelRun) -> None:
    x = torch.randn(3, 6)
    spectrum, power = FlatModule(make("0"), run.signature)(x)
    assert (spectrum.shape, spectrum.dtype, power.shape) == ((3, 5, 2), torch.float32, (3, 5))
    torch.testing.assert_close(torch.view_as_complex(spectrum), make("0")(x)["spectrum"])
    assert PAIRS.format("'spectrum'") in run.reference.remarks


def test_the_truth_of_complex_weights_is_complex_in_float64(run: ModelRun) -> None:
    assert (run.reference.float64_by, run.reference.failure) == ("module", None)
    x = torch.randn(4, 6, dtype=torch.float64)
    module = make("0")
    wanted = np.fft.fft(x.numpy()) @ module.get_parameter("weight").detach().numpy().astype(np.complex128)
    np.testing.assert_allclose(
        double_precision(module)(x)["spectrum"].detach().resolve_conj().numpy(), wanted.conj(), rtol=1e-12
    )


@pytest.mark.parametrize("backend", ["exported", pytest.param("onnx", marks=pytest.mark.slow)])
def test_an_artifact_is_held_to_both_parts(backend: str, run: ModelRun, tmp_path: Path) -> None:
    report = run.judge(run.build(backend, tmp_path / backend))
    assert report.status == "pass", report.reasons
    other = Source(function=f"{__name__}:make", argument="1")
    assert run.judge(run.build(backend, tmp_path / "other", other)).status == "fail"

"""Short Fourier transforms go to ONNX as products with their matrices, which are right; as ``DFT`` they are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim

from bench.parity.spec import ParitySpec
from export.build import Source
from export.exporters.fourier import with_matrices
from export.signature import Signature, SizeRange, TensorSpec
from tests.model_run import ModelRun

SERIES = Signature(
    inputs=(TensorSpec("x", "float32", ("batch", "length", 12)),),
    ranges={"batch": SizeRange(max=8), "length": SizeRange(min=4, max=24)},
)
TRANSFORMS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "of tokens and features": lambda x: torch.fft.fftn(x, dim=(1, 2)).real,
    "features alone": lambda x: torch.fft.fft(x).real,
    "orthonormal": lambda x: torch.view_as_real(torch.fft.fft(x, dim=1, norm="ortho")),
    "one-sided": lambda x: torch.view_as_real(torch.fft.rfft(x, dim=2)),
    "there and back": lambda x: torch.fft.irfft(torch.fft.rfft(x, n=2 * x.shape[1], dim=1), n=2 * x.shape[1], dim=1),
    "back to any length": lambda x: torch.fft.irfft(torch.fft.rfft(x, dim=1), n=x.shape[1], dim=1),
    "back in two dimensions": lambda x: torch.fft.irfftn(
        torch.fft.rfftn(x, dim=(1, 2)), s=(x.shape[1], 12), dim=(1, 2)
    ),
    "inverse": lambda x: torch.fft.ifft(torch.fft.fft(x, dim=1) * (1 + 2j), dim=1, norm="forward").imag,
}

QUICK = {"back to any length"}


class Transform(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return TRANSFORMS[self.name](x)


def make(name: str) -> nn.Module:
    return Transform(name).eval()


def program(name: str) -> torch.export.ExportedProgram:
    sizes = {0: Dim("batch", max=8), 1: Dim("length", min=4, max=24)}
    return torch.export.export(make(name), (torch.randn(3, 5, 12),), dynamic_shapes={"x": sizes})


def transforms_left(exported: torch.export.ExportedProgram) -> list[str]:
    return [str(node.target) for node in exported.graph.nodes if "fft" in str(node.target)]


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TRANSFORMS]
)
def test_the_product_is_the_transform_at_every_length(name: str) -> None:
    exported = program(name)
    products = with_matrices(exported)
    assert transforms_left(exported)
    assert not transforms_left(products)
    for length in (4, 7, 24):
        x = torch.randn(3, length, 12)
        with torch.no_grad():
            wanted = make(name)(x)
            torch.testing.assert_close(products.module()(x), wanted, rtol=1e-5, atol=1e-6 * float(wanted.abs().max()))


@pytest.mark.parametrize(("size", "left"), [(16, True), (12, False), (1026, True)])
def test_a_power_of_two_and_what_is_long_stay_as_they_are(size: int, left: bool) -> None:
    exported = torch.export.export(make("features alone"), (torch.randn(2, 3, size),))
    assert bool(transforms_left(with_matrices(exported))) == left
    assert bool(transforms_left(with_matrices(exported, powers_too=True))) == (size > 1024)
    plain = torch.export.export(nn.Tanh(), (torch.randn(2, size),))
    assert with_matrices(plain) is plain


@pytest.mark.slow
def test_in_onnx_runtime_the_product_is_several_times_as_exact_as_its_own_transform() -> None:
    exported, x = program("of tokens and features"), torch.randn(3, 24, 12)
    truth = make("of tokens and features")(x.double())
    errors = [
        float((torch.onnx.export(made, (), dynamo=True, verbose=False)(x)[0] - truth).square().mean())  # type: ignore[misc]
        for made in (with_matrices(exported), exported)
    ]
    assert 9 * errors[0] < errors[1]


@pytest.mark.slow
def test_of_any_length_the_product_is_as_exact_as_the_model_and_the_transform_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, spec = Source(function=f"{__name__}:make", argument="of tokens and features"), ParitySpec(rows_count=64)
    run = ModelRun(source, SERIES, tmp_path / "run", spec)
    report = run.judge(run.build("onnx", tmp_path / "onnx"))
    assert report.status == "pass", report.reasons
    monkeypatch.setattr("export.exporters.fourier.with_matrices", lambda exported, **_: exported)
    assert run.judge(run.build("onnx", tmp_path / "twin")).status == "fail"

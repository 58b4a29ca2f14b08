from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

from export import registry
from export.artifact import Artifact
from export.backend import BuildInput
from export.completion import complete
from export.errors import UserError
from export.open_layers import LSTM, open_layers, open_length
from export.program import Program, capture, quiet
from export.signature import Signature, SizeRange, TensorSpec

SERIES = Signature(
    inputs=(TensorSpec("x", "float32", ("batch", "length", 8)),),
    ranges={"batch": SizeRange(max=64), "length": SizeRange(min=2, max=32)},
)


class Steps(nn.Module):
    def __init__(self, layer: Callable[..., nn.Module], **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = layer(8, 4, num_layers=2, batch_first=True, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps: torch.Tensor = self.layer(x)[0]
        return steps


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        written: torch.Tensor = self.decoder(x, x, tgt_mask=causal)
        return written


def captured(module: nn.Module, signature: Signature = SERIES) -> Program:
    return capture(module, complete(module.eval(), signature, seed=0), seed=0)


MODELS = pytest.mark.parametrize(
    ("module", "refusal"),
    [
        (Steps(nn.LSTM), "'length' is declared, but torch.export fixes it"),
        pytest.param(
            Steps(nn.GRU, bidirectional=True),
            "'length' is declared, but torch.export fixes it",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            Steps(nn.RNN, bidirectional=True, nonlinearity="relu"),
            "'length' is declared, but torch.export fixes it",
            marks=pytest.mark.slow,
        ),
        (Decoder(), "cannot be traced"),
    ],
    ids=["lstm", "gru", "rnn", "decoder"],
)


@MODELS
def test_the_program_answers_as_the_model_at_every_length(module: nn.Module, refusal: str) -> None:
    program = captured(module).exported.module()
    for sizes in ((1, 2), (1, 31), (5, 32), (64, 7)):
        x = torch.randn(*sizes, 8)
        with torch.no_grad():
            torch.testing.assert_close(program(x)[0], module(x), atol=1e-5, rtol=1e-5)


@MODELS
def test_as_the_layers_come_it_is_refused(module: nn.Module, refusal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin. It follows the others: PyTorch has to forget the loops."""
    monkeypatch.setattr("export.capture_roads.open_layers", lambda module: nullcontext())
    with pytest.raises(UserError, match=refusal):
        captured(module)


def test_an_open_length_is_seen_and_a_fixed_one_is_none() -> None:
    series = captured(Steps(nn.LSTM)).exported
    assert open_length(series) == LSTM
    assert open_length(series, besides=LSTM) is None
    fixed = replace(SERIES, inputs=(TensorSpec("x", "float32", ("batch", 5, 8)),), ranges={"batch": SizeRange(max=64)})
    assert open_length(captured(Steps(nn.LSTM), fixed).exported) is None


def test_aotinductor_would_unroll_a_gru_for_its_examples_steps_and_says_so(tmp_path: Path) -> None:
    module, file = Steps(nn.GRU).eval(), tmp_path / "program.pt2"
    sizes = {0: Dim("batch", max=64), 1: Dim("length", min=2, max=32)}
    with quiet(), torch.no_grad(), open_layers(module):
        exported = torch.export.export(module, (torch.randn(3, 5, 8),), dynamic_shapes={"x": sizes})
        torch.export.save(exported, file)
    source = BuildInput(
        signature=SERIES, seed=0, device="cpu", module=nn.Identity, program_file=file, program_failure=None,
        calibration=None,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"AOTInductor unrolls aten.gru.input for the number of steps that its example"):
        registry.get("aotinductor").build(source, tmp_path)


def test_compile_would_unroll_every_length_and_says_so(
    build_model: Callable[..., tuple[Path, Artifact]],
) -> None:
    with pytest.raises(UserError, match=r"torch.compile unrolls aten.lstm.input, a graph for every number of steps"):
        build_model("Recurrent", "compile")

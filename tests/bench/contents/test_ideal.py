"""Half precision is judged by evidence: an ideal that shares no error of the build's, and files that show the dtype."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import export
from torch.nn.utils.fusion import fuse_conv_bn_weights

from bench.parity.check import Check
from bench.parity.contents.ideal import dtype_checks, ideal_checks, in_units
from bench.parity.contents.opened import Opened
from bench.parity.contents.probe import Call
from export.artifact import Artifact
from export.contents import Contents
from export.exporters import folded
from export.exporters.narrowing import halved_program
from export.program import quiet
from export.record import observed
from export.signature import Signature, SizeRange, TensorSpec


class Normed(nn.Module):
    """``(batch, 3, 8, 8)`` to ``(batch, 8)``: a norm that is folded into a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        nn.init.normal_(self.norm.bias)
        self.norm.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (torch.relu(self.norm(self.conv(x))).mean((2, 3)),)


class Linear(nn.Module):
    """``(batch, 4)`` to the same."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.out(x),)


class Between(nn.Module):
    """``(batch, 4)`` to the same: 1e5 on the way, which ``tanh`` hides."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (torch.tanh((x.square() + 1) * 1e5 * 1e-5),)


class Distances(nn.Module):
    """``(batch, 4)`` to ``(batch, batch)``: PyTorch has no kernel for it in half precision."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist"),)


class Casting(nn.Module):
    """``(batch, 4)`` to the same, by way of bfloat16 within a branch."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (torch.cond(x.sum() > 0, lambda x: x.bfloat16().float(), lambda x: x + 1, (x,)),)


def opened(module: nn.Module, x: torch.Tensor, contents: Contents | None = None) -> Opened:
    """An artifact of the model in float16 from float32, of which only record, program and contents are looked at."""
    with quiet():
        program = export(module.eval(), (x,))
    signature = Signature(
        inputs=(TensorSpec("x", "float32", ("batch",)),),
        output_names=("y",),
        outputs=(TensorSpec("y", "float32", ("batch",)),),
        ranges={"batch": SizeRange(max=64)},
    )
    artifact = Artifact(
        name="half",
        backend="onnx-fp16",
        device="cpu",
        precision="float16 from float32",
        source_free=True,
        key="k",
        checkpoint_sha256="c",
        program_sha256="p",
        signature=signature,
        files=(),
        facts={},
        observed=observed(0.0),
    )
    made = Opened(artifact, Path(), None)
    made.__dict__.update(traced=program, contents=contents)
    return made


def call(module: nn.Module, x: torch.Tensor, answer: torch.Tensor) -> list[Call]:
    with torch.no_grad():
        (truth,) = module.double()(x.double())
    module.float()
    return [({"x": x.numpy()}, {"y": truth.numpy()}, {"y": answer.detach().numpy()})]


def statuses(checks: Sequence[Check]) -> list[str]:
    return [check.status for check in checks]


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_an_error_of_folding_is_not_shared_by_the_ideal(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    right = fuse_conv_bn_weights

    def fuse(*values: object, **settings: bool) -> object:
        weight, bias = right(*values, **settings)  # type: ignore[arg-type]
        return nn.Parameter(weight * factor), bias

    monkeypatch.setattr(folded, "fuse_conv_bn_weights", fuse)
    torch.manual_seed(0)
    module, x = Normed(), torch.randn(64, 3, 8, 8)
    half = opened(module, x)
    assert half.traced is not None
    (answer,) = halved_program(half.traced, torch.float16, ()).module()(x)
    expected = "pass" if factor == 1 else "fail"
    assert expected in statuses(checks := list(ideal_checks(half, lambda: call(module, x, answer)))), checks
    assert factor != 1 or set(statuses(checks)) == {"pass"}


def test_what_overflows_on_the_way_fails_though_the_answers_are_right() -> None:
    module, x = Between(), torch.linspace(0.1, 1, 16).reshape(4, 4)
    (check, *_) = ideal_checks(opened(module, x), lambda: call(module, x, module(x)[0]))
    assert (check.status, "are past what float16 holds" in check.message) == ("fail", True)
    kept = opened(module, x)
    kept.artifact.facts["out_of_range"] = "mul"
    assert set(statuses(list(ideal_checks(kept, lambda: call(module, x, module(x)[0]))))) == {"pass"}  # the twin


@pytest.mark.parametrize("answer", [float("inf"), float("nan")])
def test_an_answer_that_is_not_finite_fails_where_the_truth_is(answer: float) -> None:
    module, x = Linear(), torch.randn(8, 4)
    half, given = opened(module, x), module(x)[0].detach().clone()
    assert set(statuses(list(ideal_checks(half, lambda: call(module, x, given))))) == {"pass"}
    given[0, 0] = answer
    assert set(statuses(list(ideal_checks(half, lambda: call(module, x, given))))) == {"fail"}


@pytest.mark.parametrize(
    "message", ["PyTorch has no float16 kernels for this model on the CPU", "the ideal float16 fails"]
)
def test_an_ideal_that_cannot_be_computed_is_inconclusive_with_its_own_reason(
    message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, x = Distances(), torch.randn(4, 4)
    if "fails" in message:
        monkeypatch.setattr("bench.parity.contents.ideal._NO_KERNEL", ("another reason",))
    (check,) = ideal_checks(opened(module, x), lambda: call(module, x, module(x)[0]))
    assert check.status == "inconclusive"
    assert check.message.startswith(message)


def test_without_answers_nothing_is_vouched_for() -> None:
    assert statuses(list(ideal_checks(opened(Between(), torch.ones(4, 4)), list))) == ["inconclusive"]


def test_an_error_where_the_ideal_has_none_is_infinitely_large() -> None:
    assert (in_units(1e-3, 0.0), in_units(0.0, 0.0), in_units(3.0, 2.0)) == (float("inf"), 0.0, 1.5)


@pytest.mark.parametrize(
    ("contents", "status"),
    [
        (None, ["inconclusive"]),
        (Contents(how="package (this torch cannot read its constants)"), ["inconclusive"]),
        (Contents(how="file", weights={"w": np.ones(3, np.float32)}), ["inconclusive"]),
        (Contents(how="file", weights={"w": np.ones(3, np.float16)}), []),
        (Contents(how="file", casts=("float16", "float32")), []),
        (Contents(how="file", casts=("bfloat16", "float16")), ["fail"]),
    ],
)
def test_files_must_show_the_dtype_and_no_other(contents: Contents | None, status: list[str]) -> None:
    assert statuses(list(dtype_checks(opened(Between(), torch.ones(4, 4), contents)))) == status


def test_a_model_that_casts_itself_may() -> None:
    contents = Contents(how="file", casts=("bfloat16", "float16"))
    assert list(dtype_checks(opened(Casting(), torch.ones(4, 4), contents))) == []

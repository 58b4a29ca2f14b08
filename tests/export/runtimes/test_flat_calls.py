"""Programs called flat: the same answers as through ``module()``, and the same guards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from export import program, registry
from export.artifact import PROGRAM_FILE
from export.backend import LoadOptions
from export.program import FlatCall, _flat, checked_call, flat_call, load_exported
from tests.conftest import Builder, _build


class Sized(nn.Module):
    """Another rule for large calls: the tracer takes the small one for granted, and guards it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.shape[0] * x.shape[1] > 900 else x + 1


def traced() -> torch.export.ExportedProgram:
    sizes = {0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("items", max=64)}
    return torch.export.export(Sized(), (torch.ones(4, 5),), dynamic_shapes=(sizes,))


def _unguarded(exported: torch.export.ExportedProgram) -> FlatCall:
    return _flat(exported.module(check_guards=False))


@pytest.mark.parametrize("model", ["Mlp", "ConvNorm", "Masked", "Nested", "Recurrent"])
def test_a_flat_call_answers_as_the_module_does(model: str, build_model: Builder) -> None:
    folder, artifact = build_model(model, "exported")
    file, signature = folder.parent / "program" / PROGRAM_FILE, artifact.signature
    calls = [flat_call(load_exported(file)), checked_call(load_exported(file))]
    for rows in (1, 3, 3):
        tensors = [torch.from_numpy(array) for array in signature.example(signature.sizes_at(rows), seed=rows).values()]
        expected = tuple(load_exported(file).module()(*tensors))
        assert len(expected) == len(signature.outputs)
        for call in calls:
            torch.testing.assert_close(tuple(call(*tensors)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("call", [flat_call, checked_call])
def test_what_the_tracer_took_for_granted_is_guarded(call: Callable[..., FlatCall]) -> None:
    flat = call(traced())
    small, large = torch.ones(4, 6), torch.ones(40, 40)
    for _ in range(2):
        torch.testing.assert_close(flat(small)[0], small + 1)
        with pytest.raises(AssertionError, match="Guard failed"):
            flat(large)
    torch.testing.assert_close(_unguarded(traced())(large)[0], large + 1)  # the twin: eager answers large * 2


def test_an_artifact_of_an_older_version_holds_the_kernels_of_the_flat_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 0.1 compiled ``module()``; sizes that no weight fixes are told by guards alone."""
    with monkeypatch.context() as older:
        older.setattr(program, "flat_call", lambda exported: exported.module())
        folder, _ = _build(tmp_path, "ConvNorm", "compile")
    options = LoadOptions(threads_count=torch.get_num_threads())  # kernels have theirs built in
    assert registry.load(folder, options).witness().fallback is None
    monkeypatch.setattr(program, "flat_call", _unguarded)  # the twin: other kernels
    torch._dynamo.reset()
    assert "the cache did not hold" in str(registry.load(folder, options).witness().fallback)

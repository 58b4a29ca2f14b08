"""Programs called flat: the same answers as through ``module()``, the signature's check instead of torch's guards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from export import program, registry
from export.artifact import PROGRAM_FILE
from export.backend import LoadOptions
from export.errors import ContractError
from export.program import flat_call, load_exported
from tests.conftest import Builder, _build


@pytest.mark.parametrize("model", ["Mlp", "ConvNorm", "Masked", "Nested", "Recurrent"])
def test_a_flat_call_answers_as_the_module_does(model: str, build_model: Builder) -> None:
    folder, artifact = build_model(model, "exported")
    file, signature = folder.parent / "program" / PROGRAM_FILE, artifact.signature
    for rows in (1, 3):
        tensors = [torch.from_numpy(array) for array in signature.example(signature.sizes_at(rows), seed=rows).values()]
        answers = flat_call(load_exported(file))(*tensors)
        assert len(answers) == len(signature.outputs)
        torch.testing.assert_close(tuple(answers), tuple(load_exported(file).module()(*tensors)), rtol=0, atol=0)


def test_what_a_guard_would_refuse_the_signature_does(build_model: Builder) -> None:
    folder, artifact = build_model("Mlp", "exported")
    (given,) = artifact.signature.example({"batch": 3}, seed=0).values()
    wrong = given[:, :-1]
    with pytest.raises(AssertionError, match="Guard failed"):
        load_exported(folder.parent / "program" / PROGRAM_FILE).module()(torch.from_numpy(wrong.copy()))
    with pytest.raises(ContractError):
        registry.load(folder, LoadOptions())({"x": wrong})


def test_an_artifact_of_an_older_version_holds_the_kernels_of_the_flat_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 0.1 compiled ``module()``."""
    with monkeypatch.context() as older:
        older.setattr(program, "flat_call", lambda exported: exported.module())
        folder, artifact = _build(tmp_path, "Mlp", "compile")
    runner = registry.load(folder, LoadOptions())
    assert np.isfinite(runner(artifact.signature.example({"batch": 3}, seed=0))["y"]).all()
    witness = runner.witness()
    assert (witness.fallback, witness.evidence["objects_compiled_at_load"]) == (None, "0")

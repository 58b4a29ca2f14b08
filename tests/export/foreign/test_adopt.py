"""A foreign file is taken in as it was when the run began, or not at all."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from export.artifact import ProgramRecord, open_artifact
from export.errors import UserError
from export.foreign import files
from export.foreign.adopt import AdoptJob, adopt
from export.record import read


def test_a_file_that_changed_meanwhile_is_not_loaded(built: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.pt2"
    shutil.copyfile(built / "artifacts" / "exported" / "model.pt2", file)
    (tmp_path / "adopted").mkdir()
    job = AdoptJob(
        name="mine",
        file=str(file),
        file_sha256=files.sha256({"mine": file}),
        device="cpu",
        signature=read(ProgramRecord, built / "program" / "program.json").signature,
        key="k",
        checkpoint_sha256="c",
        program=str(built / "program"),
        folder=str(tmp_path / "adopted"),
    )
    with pytest.raises(UserError, match=r"model\.pt2 has changed since the run began"):
        adopt(replace(job, file_sha256={"mine: model.pt2": "0" * 64}))
    assert not list((tmp_path / "adopted").iterdir())
    adopt(job)
    artifact = open_artifact(tmp_path / "adopted")
    assert (artifact.name, artifact.backend, artifact.is_foreign) == ("mine", "exported", True)
    assert artifact.facts["order"] == "x"

"""Bundles as tests handle them: checked, run, edited, and forged up to what hashes cannot tell."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import rfc8785
from onnx import numpy_helper

from export.record import digest_files, write
from pipeline.bundle.pack import ARCHIVE_NAME
from pipeline.bundle.record import Manifest
from pipeline.verifier import verify as command
from pipeline.verifier.lineage import record_digest
from pipeline.verifier.running import Bounds
from tests.conftest import ROOT, environ


def check(folder: Path, **bounds: Any) -> dict[str, Any]:
    """The findings of the check, in this process."""
    findings: dict[str, Any] = {}
    command.verify(folder, command.Request(bounds=Bounds(speed=False, **bounds)), findings)
    return findings


def run_check(
    folder: Path, *flags: str | Path, alone: bool = False, python: Sequence[str | Path] = (sys.executable,),
    cwd: Path = ROOT.parent, **env: str,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """The command as a person starts it; ``alone`` as the file in the bundle, without Torchstone."""
    files = (folder / name for name in (ARCHIVE_NAME, "verify.py"))  # a text in bundles of version 1
    start = [next(file for file in files if file.exists())] if alone else ["-m", "pipeline.verify", folder]
    variables = environ(**env)
    if alone and "PYTHONPATH" not in env:
        del variables["PYTHONPATH"]
    return subprocess.run(
        [str(part) for part in (*python, *start, *flags)], capture_output=True, text=True, check=False, cwd=cwd,
        env=variables,
    )  # fmt: skip


def forge(folder: Path) -> None:
    """A manifest that fits what lies there now: what somebody can do who can write every file."""
    fields = json.loads((folder / "manifest.json").read_bytes())
    files = digest_files(folder, (p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json"))
    write(folder / "manifest.json", Manifest(key=fields["key"], files=files))


def forge_all(folder: Path) -> None:
    """Every digest of the chain too: what hashes alone cannot tell from the truth."""
    records = folder / "records"
    model = digest_files(folder, [folder / "model.onnx"])[0]

    def artifact(fields: Any) -> None:
        fields["files"][0].update(size_bytes=model.size_bytes, sha256=model.sha256)

    def digest(name: str) -> str:
        return record_digest((records / name).read_bytes())

    edit(records / "artifacts" / "onnx.json", artifact)
    edit(records / "parity" / "onnx.json", lambda fields: fields.update(artifact_sha256=digest("artifacts/onnx.json")))
    named = {"artifact_sha256": digest("artifacts/onnx.json"), "parity_sha256": digest("parity/onnx.json")}
    edit(
        records / "verdict.json",
        lambda fields: next(row for row in fields["rows"] if row["name"] == "onnx").update(named),
    )
    edit(folder / "bundle.json", lambda fields: fields["shipped"][0].update(named))
    edit(folder / "bundle.json", lambda fields: fields.update(verdict_sha256=digest("verdict.json")))
    forge(folder)


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """A record changed, in canonical form again."""
    fields = json.loads(path.read_bytes())
    path.write_bytes(rfc8785.dumps(change(fields) or fields))


def alter_weight(folder: Path, factor: float) -> None:
    """Another model: one weight of the first layer, in the shipped file."""
    model = onnx.load(str(folder / "model.onnx"))
    tensor = max(model.graph.initializer, key=lambda one: np.prod(one.dims))
    weights = numpy_helper.to_array(tensor).copy()
    weights.flat[0] *= factor
    tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    onnx.save(model, str(folder / "model.onnx"))
    forge_all(folder)

"""Bundles as tests handle them: checked, run, edited, and forged up to what hashes cannot tell."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import rfc8785
from onnx import numpy_helper

from export.files import digest_files
from export.record import read, to_json, write
from pipeline.bundle.pack import ARCHIVE_NAME
from pipeline.bundle.record import Bundle, Manifest
from pipeline.bundle.serving import write_serving
from pipeline.verifier import verify as command
from pipeline.verifier.lineage import record_digest
from pipeline.verifier.running import Bounds
from tests.conftest import ROOT, environ


def check(folder: Path, *names: str, trusted: bool = False, **bounds: Any) -> dict[str, Any]:
    """The findings of the check, in this process."""
    findings: dict[str, Any] = {}
    request = command.Request(artifacts=names, origin_known=trusted, bounds=Bounds(speed=False, **bounds))
    command.verify(folder, request, findings)
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


def forge_all(folder: Path, name: str = "onnx") -> None:
    """Every digest of the chain too: what hashes alone cannot tell from the truth."""
    records, place = folder / "records", folder if name == "onnx" else folder / "artifacts" / name
    record = records / "artifacts" / f"{name}.json"

    def artifact(fields: Any) -> None:
        files = digest_files(place, [place / file["path"] for file in fields["files"]])
        fields["files"] = [to_json(file) for file in files]

    def digest(path: str) -> str:
        return record_digest((records / path).read_bytes())

    edit(record, artifact)
    if name != "onnx":
        shutil.copyfile(record, place / "artifact.json")
    named = {"artifact_sha256": digest(f"artifacts/{name}.json")}
    edit(records / "parity" / f"{name}.json", lambda fields: fields.update(named))
    named["parity_sha256"] = digest(f"parity/{name}.json")
    edit(records / "verdict.json", lambda fields: _row(fields["rows"], name).update(named))
    edit(folder / "bundle.json", lambda fields: _row(fields["shipped"], name).update(named))
    edit(folder / "bundle.json", lambda fields: fields.update(verdict_sha256=digest("verdict.json")))
    forge(folder)


def _row(rows: list[Any], name: str) -> Any:
    return next(row for row in rows if row["name"] == name)


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """A record changed, in canonical form again."""
    fields = json.loads(path.read_bytes())
    path.write_bytes(rfc8785.dumps(change(fields) or fields))


def served(
    bundle: Path,
    folder: Path,
    change: Callable[[Bundle], Bundle] = lambda record: record,
    base_image: str | None = None,
) -> Path:
    """The serving forms, written once more into a copy of a bundle, as of another ``bundle.json``."""
    shutil.copytree(bundle, folder)
    shutil.rmtree(folder / "serving")
    write_serving(folder, change(read(Bundle, bundle / "bundle.json")), None, base_image)
    return folder / "serving"


def alter_weight(folder: Path, factor: float) -> None:
    """Another model: one weight of the first layer, in the shipped file."""
    model = onnx.load(str(folder / "model.onnx"))
    tensor = max(model.graph.initializer, key=lambda one: np.prod(one.dims))
    weights = numpy_helper.to_array(tensor).copy()
    weights.flat[0] *= factor
    tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    onnx.save(model, str(folder / "model.onnx"))
    forge_all(folder)

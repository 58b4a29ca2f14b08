"""From a good verdict to the bundle: the last stage of a run."""

from __future__ import annotations

import shutil
from pathlib import Path

from bench.verdict.judge import Verdict
from export.environment import machine
from export.record import digest
from pipeline.bundle.record import Manifest
from pipeline.bundle.writer import Choice, make
from pipeline.run import Run
from pipeline.verifier.files import MANIFEST


def bundle(run: Run, verdict: Verdict) -> Path | None:
    """The folder of the bundle; None if the verdict is that nothing may ship: an older bundle then goes."""
    folder = run.files.bundle
    if not verdict.good or verdict.winner is None:
        shutil.rmtree(folder, ignore_errors=True)
        return None
    key = run.key(
        "bundle",
        tools=("bench", "export", "ship"),
        packages=("numpy", "onnx", "onnxruntime"),
        verdict=digest(verdict),
        machine=machine(),
    )
    manifest, made = run.stage(folder, Manifest, MANIFEST, key, lambda partial: make(run.files, partial, key, Choice()))
    if made:
        run.console.stage("bundle", f"{len(manifest.files)} files, checked: {folder}")
    return folder

"""Bundles for a GPU, and Pythons of hosts that may run them: with one build of ONNX Runtime or another, a GPU or none.

On a recording host the real ONNX Runtime computes on the CPU what it is asked to compute on a GPU, and writes down how
it was asked.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from pipeline.bundle.pack import ARCHIVE_NAME, write_archive
from tests.conftest import ROOT
from tests.pipeline.bundles import edit, forge_all

GOLDEN = ROOT / "tests" / "golden" / "bundle-2"
_RECORDING = """
import json, os, onnxruntime
from onnxruntime.capi import onnxruntime_inference_collection as real

def note(**fields):
    with open(os.environ["RECORDED"], "a") as file:
        file.write(json.dumps(fields) + chr(10))

Session, Binding, from_numpy = onnxruntime.InferenceSession, real.IOBinding, onnxruntime.OrtValue.ortvalue_from_numpy

class Recording(Session):
    def __init__(self, model, settings=None, providers=None, **more):
        fallback = False
        try:
            fallback = settings.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
        except (AttributeError, RuntimeError):
            pass  # no settings were given, or none of this name
        self.asked = [one if isinstance(one, str) else one[0] for one in providers]
        if self.asked != ["CPUExecutionProvider"]:
            note(providers=providers, cpu_refused=fallback, more=more)
        super().__init__(model, settings, providers=["CPUExecutionProvider"], **more)
    def get_providers(self):
        return self.asked

    def run_with_iobinding(self, binding, run_options=None):
        graph = None
        try:
            graph = run_options.get_run_config_entry("gpu_graph_id")
        except (AttributeError, RuntimeError):
            pass  # no settings were given, or none of this name
        if self.asked != ["CPUExecutionProvider"]:
            note(bound_graph=graph)
        super().run_with_iobinding(binding, run_options)

Binding.bind_output = (lambda plain: lambda self, name, *device: plain(self, name))(Binding.bind_output)
onnxruntime.OrtValue.ortvalue_from_numpy = staticmethod(lambda array, *device: from_numpy(array))
onnxruntime.InferenceSession = Recording
onnxruntime.preload_dlls = lambda: None
"""


def gpu_bundle(folder: Path, *, graph: bool = False, wanted: str | None = None) -> Path:
    """The golden bundle as if it had been judged on a GPU, with the check of today; ``wanted`` is another runtime's."""
    shutil.copytree(GOLDEN, folder)
    options: dict[str, Any] = {"device": "cuda", "threads_count": 1, "runtime": {"cuda_graph": True} if graph else {}}

    def judged(fields: Any) -> None:
        fields["options"] = options

    def shipped(fields: Any) -> None:
        for one in fields["shipped"]:
            one["options"] = options
            plain = one["needs"].pop("onnxruntime")
            one["needs"] |= {"onnxruntime-gpu": wanted or plain, "gpu": "nvidia"}

    edit(folder / "records" / "parity" / "onnx.json", judged)
    edit(folder / "bundle.json", shipped)
    (folder / ARCHIVE_NAME).unlink()
    write_archive(folder / ARCHIVE_NAME)
    forge_all(folder)
    return folder


def host(folder: Path, runtime: str, *, recording: bool = False) -> Path:
    """A Python with NumPy and the real ONNX Runtime, which was installed as ``runtime``: ``onnxruntime_gpu-1.31.1``."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for module in (onnxruntime, np):
        place = Path(str(module.__file__)).parent
        for part in (place, *place.parent.glob(f"{place.name}.libs")):
            (packages / part.name).symlink_to(part)
    information = packages / f"{runtime}.dist-info"
    information.mkdir()
    name, _, version = runtime.partition("-")
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if recording:
        (packages / "recording_host.py").write_text(_RECORDING)
        (packages / "recording_host.pth").write_text("import recording_host\n")
    return folder / "bin" / "python"


def put_gpu(folder: Path) -> str:
    """A PATH on which the driver's tool shows a GPU."""
    folder.mkdir()
    tool = folder / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 9.0\n")
    tool.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"

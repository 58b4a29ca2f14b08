"""The environment names the GPUs that a process may use, and what stands between them and torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, environ

NVML = """
import sys
from tests.fake_nvml import FakeGpu, FakeNvml
sys.modules["pynvml"] = FakeNvml(FakeGpu(), FakeGpu(uuid="GPU-b"))
"""
SHOW = "import json; from export.environment import environment; from export.record import to_json; "
SHOW += "print(json.dumps(to_json(environment())))"


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A torch that must not be imported, built with CUDA, and a Triton."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (tmp_path / "torch" / "version.py").write_text("from typing import Optional\ncuda: Optional[str] = '13.0'\n")
    (tmp_path / "triton-3.6.0.dist-info").mkdir()
    (tmp_path / "triton-3.6.0.dist-info" / "METADATA").write_text("Name: triton\nVersion: 3.6.0\n")
    return tmp_path


def seen(packages: Path, **settings: str) -> Any:
    """The environment of a process with these packages before all others."""
    place = f"{packages}:{ROOT}"
    variables = {name: value for name, value in environ().items() if name != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(
        [sys.executable, "-c", SHOW], capture_output=True, text=True, check=False, cwd=packages,
        env=variables | {"PYTHONPATH": place} | settings,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_visible_gpus_are_named_with_the_versions_of_driver_and_toolkit(packages: Path) -> None:
    (packages / "pynvml.py").write_text(NVML)
    found = seen(packages)
    assert found["machine"]["gpus"] == ["NVIDIA H100"] * 2
    versions = found["versions"]
    assert (versions["NVIDIA driver"], versions["CUDA"], versions["triton"]) == ("580.159.04", "13.0", "3.6.0")
    assert seen(packages, CUDA_VISIBLE_DEVICES="GPU-b")["machine"]["gpus"] == ["NVIDIA H100"]


def test_without_a_visible_gpu_nothing_of_gpus_is_said(packages: Path) -> None:
    """What such a machine's records and keys held before, whatever is installed."""
    bare = seen(packages, CUDA_VISIBLE_DEVICES="")
    (packages / "pynvml.py").write_text(NVML)
    assert seen(packages, CUDA_VISIBLE_DEVICES="") == bare
    assert bare["machine"]["gpus"] == []
    assert not {"NVIDIA driver", "CUDA", "triton"} & set(bare["versions"])


def test_a_torch_without_cuda_has_no_toolkit(packages: Path) -> None:
    (packages / "pynvml.py").write_text(NVML)
    (packages / "torch" / "version.py").write_text("cuda: Optional[str] = None\n")
    assert "CUDA" not in seen(packages)["versions"]

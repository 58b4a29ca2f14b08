"""ONNX Runtime reports home and leaves an id of the machine in HOME, unless it is told not to: it is, everywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import environ

SWITCHES = ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED")


def left_in_home(home: Path, *arguments: str | Path) -> list[str]:
    """What a process leaves in an empty HOME, with the switches as a user has them: not set."""
    home.mkdir()
    plain = {name: value for name, value in environ(HOME=str(home)).items() if name not in SWITCHES}
    subprocess.run([sys.executable, *map(str, arguments)], env=plain, check=True, capture_output=True)
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


def test_onnxruntime_leaves_nothing_in_home_once_a_package_of_ours_is_imported(tmp_path: Path) -> None:
    if not left_in_home(tmp_path / "twin", "-c", "import onnxruntime"):
        pytest.skip("this ONNX Runtime keeps nothing in HOME by itself")
    assert left_in_home(tmp_path / "home", "-c", "import export, onnxruntime") == []


def test_the_check_of_a_bundle_leaves_nothing_in_home(built: Path, tmp_path: Path) -> None:
    assert left_in_home(tmp_path / "home", built / "bundle" / "verify.pyz") == []


def test_servers_are_told_too(built: Path) -> None:
    serving = built / "bundle" / "serving"
    image = (serving / "Dockerfile").read_text()
    model = yaml.safe_load((serving / "kserve.yaml").read_text())["spec"]["predictor"]["model"]
    for name in SWITCHES:
        assert f"{name}=1" in image.partition("\nENV ")[2].partition("\n")[0].split()
        assert {"name": name, "value": "1"} in model["env"]

"""The wheel is complete: what it holds, and what runs where nothing but it is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from export.version import VERSION
from tests.conftest import ROOT, environ
from tests.measure.architecture import PACKAGES

STEM = f"torchstone-{VERSION}"
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
"""What ``python -m build`` calls, without the new environment, into which it would load setuptools."""
UNWANTED = ("tests/test_planted.py", "artifacts/seed/model.onnx", "examples/planted.py", "docs/planted.md")


def build(kind: str, source: Path, out: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-c", BUILD, f"build_{kind}", str(out)],
        cwd=source, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, in which lies what must not get in."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in UNWANTED:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("planted")
    return build("sdist", copy, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist, as an index's users build it where they take no wheel."""
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    return build("wheel", unpacked / STEM, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the wheel's content and nothing besides."""
    folder = tmp_path_factory.mktemp("installed")
    command = ["pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile", "--target", str(folder)]
    done = subprocess.run([sys.executable, "-m", *command, str(wheel)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def run(installed: Path, cwd: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd, env=environ(PYTHONPATH=str(installed)), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def source_files() -> set[str]:
    paths = (path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file())
    return {path.relative_to(ROOT).as_posix() for path in paths if "__pycache__" not in path.parts}


def test_the_wheel_holds_the_packages_with_their_types_and_templates_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    metadata = {name for name in names if name.startswith(f"{STEM}.dist-info/")}
    assert f"{STEM}.dist-info/licenses/LICENSE" in metadata
    assert names - metadata == source_files() - {"bench/baseline.json"}  # figures of one machine, for the checkout
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert "pipeline/report/templates/page.css" in names


def test_the_sdist_builds_the_wheel_and_holds_neither_tests_nor_artifacts(sdist: Path, wheel: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml"} <= names
    assert [name for name in names if name.startswith(("tests", "artifacts", "examples", "docs"))] == []
    assert wheel.name == f"{STEM}-py3-none-any.whl"


def test_the_command_works_from_another_folder_by_its_script_and_by_its_module(installed: Path, tmp_path: Path) -> None:
    assert run(installed, tmp_path, "-m", "torchstone", "--version").strip() == f"torchstone {VERSION}"
    assert run(installed, tmp_path, str(installed / "bin" / "torchstone"), "--version").strip().endswith(VERSION)
    listed = json.loads(run(installed, tmp_path, "-m", "torchstone", "list", "--json"))
    assert {"seed", "digits"} <= {recipe["name"] for recipe in listed["recipes"]}
    assert {"eager", "onnx"} <= {backend["name"] for backend in listed["backends"] if backend["missing"] is None}
    assert os.listdir(tmp_path) == []


def test_every_public_name_is_there_and_the_check_of_bundles_is_complete(installed: Path, tmp_path: Path) -> None:
    script = """
import sys, torchstone
from pathlib import Path
from pipeline.bundle.pack import write_archive
print([name for name in torchstone.__all__ if getattr(torchstone, name) is None])
homes = {sys.modules[name].__file__ for name in ("torchstone", "pipeline", "export", "bench")}
print({Path(home).parents[1] for home in homes} == {Path(sys.argv[1])})
write_archive(Path("verify.pyz"))
"""
    assert run(installed, tmp_path, "-c", script, str(installed)).split() == ["[]", "True"]
    with zipfile.ZipFile(tmp_path / "verify.pyz") as archive:
        packed = {name for name in archive.namelist() if name.startswith("pipeline/verifier/")}
    assert packed == {name for name in source_files() if name.startswith("pipeline/verifier/")}
    assert "usage" in run(installed, tmp_path, "verify.pyz", "--help")

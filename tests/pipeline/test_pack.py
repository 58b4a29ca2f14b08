"""The check as one file: the same bytes every time, for older Pythons too, and nothing that lies around runs in it."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import venv
import zipapp
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from pipeline.bundle.pack import ARCHIVE_NAME, write_archive
from pipeline.verifier import artifacts, running
from pipeline.verifier.outcome import Unable
from tests.conftest import ROOT
from tests.pipeline.bundles import forge, run_check

SOURCES = [ROOT / "pipeline" / "__init__.py", *sorted((ROOT / "pipeline" / "verifier").glob("*.py"))]
BEFORE_ANY_CODE = {"importlib", "types", "warnings"}
"""What some Pythons import to start a module with -m: no code of ours has run by then."""


# --- the archive ------------------------------------------------------------------------------------------------------


def test_the_archive_has_the_same_bytes_every_time_and_holds_the_check_alone(tmp_path: Path) -> None:
    for name in ("first", "second"):
        mask = os.umask(0o077 if name == "second" else 0o022)
        write_archive(tmp_path / name)
        os.umask(mask)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    with zipfile.ZipFile(tmp_path / "first") as archive:
        assert archive.namelist() == ["__main__.py", *(path.relative_to(ROOT).as_posix() for path in SOURCES)]
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert all(archive.read(path.relative_to(ROOT).as_posix()) == path.read_bytes() for path in SOURCES)


def test_what_zipapp_writes_itself_depends_on_dates(tmp_path: Path) -> None:
    """The twin: why the archive is not left to it."""
    shutil.copytree(ROOT / "pipeline" / "verifier", tmp_path / "check", ignore=shutil.ignore_patterns("__pycache__"))
    for name, seconds in (("first", 1_000_000_000), ("second", 1_500_000_000)):
        os.utime(tmp_path / "check" / "files.py", (seconds, seconds))
        zipapp.create_archive(tmp_path / "check", tmp_path / name)
    assert (tmp_path / "first").read_bytes() != (tmp_path / "second").read_bytes()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_what_is_packed_is_python_3_9_and_imports_the_standard_library_alone(path: Path) -> None:
    for name in imports(ast.parse(path.read_text(), feature_version=(3, 9))):
        assert name.partition(".")[0] in sys.stdlib_module_names or name.startswith("pipeline.verifier")


def imports(tree: ast.Module) -> Iterator[str]:
    """What a module imports when it is imported itself."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_newer_python_is_noticed() -> None:
    """The twin."""
    with pytest.raises(SyntaxError):
        ast.parse("match 1:\n    case 1:\n        pass\n", feature_version=(3, 9))


# --- what it needs ----------------------------------------------------------------------------------------------------


@pytest.fixture
def bare_python(tmp_path: Path) -> Path:
    """A Python with numpy and onnxruntime, where whatever else the check could reach for raises when it is imported."""
    venv.create(tmp_path / "bare", symlinks=True)
    (packages,) = (tmp_path / "bare").glob("lib/python*/site-packages")
    for package in ("numpy", next(name for name in ("onnxruntime-gpu", "onnxruntime") if _is_installed(name))):
        files = metadata.files(package) or []
        for top in {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}:
            (packages / top).symlink_to(str(metadata.distribution(package).locate_file(top)))
    for name in ("torch", "onnx", "export", "bench", "msgspec", "tyro", "rich"):
        _raising(packages / name / "__init__.py", name)
    return tmp_path / "bare" / "bin" / "python"


def _is_installed(package: str) -> bool:
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


def _raising(path: Path, name: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"raise RuntimeError('{name} was imported')")


def test_the_archive_needs_numpy_and_onnxruntime_alone(bundle: Path, bare_python: Path, tmp_path: Path) -> None:
    forbidden = tmp_path / "forbidden"
    for name in ("torch", "onnx", "export", "pipeline", "bench", "msgspec", "tyro", "rich"):
        _raising(forbidden / name / "__init__.py", name)
    elsewhere = Path(shutil.copytree(bundle, tmp_path / "elsewhere"))
    for python in ((bare_python,), (bare_python, "-I"), (sys.executable,)):
        done = run_check(elsewhere, "--json", alone=True, python=python, PYTHONPATH=str(forbidden))
        assert done.returncode == 0, done.stdout + done.stderr
        findings = json.loads(done.stdout)
        assert findings["outcome"] == "accepted"
        assert findings["artifacts"]["onnx"]["golden"]["calls_count"] >= 8
        assert 0 < findings["artifacts"]["onnx"]["golden"]["worst_share"] < 1


def test_the_bare_python_has_nothing_else(bare_python: Path) -> None:
    """The twin: what would have been imported would have been noticed."""
    for name in ("torch", "export", "tyro"):
        done = subprocess.run([bare_python, "-I", "-c", f"import {name}"], capture_output=True, text=True, check=False)
        assert f"{name} was imported" in done.stderr


def test_without_numpy_it_says_what_to_install(bundle: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "empty", symlinks=True)
    fields = json.loads((bundle / "bundle.json").read_bytes())
    assert fields["shipped"][0]["needs"].keys() >= {"onnxruntime"}
    done = run_check(bundle, alone=True, python=(tmp_path / "empty" / "bin" / "python",))
    assert (done.returncode, "which is not installed: " in done.stdout) == (1, True), done.stdout + done.stderr
    assert "-m pip install onnxruntime" in done.stdout


def test_an_artifact_of_torch_needs_torchstone_where_the_archive_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "export", None)
    shipped = {"name": "torchscript", "options": {"device": "cpu"}}
    with pytest.raises(Unable, match="the artifact torchscript needs Torchstone: "):
        artifacts.TorchstoneArtifact(Path("bundle"), {}, shipped)
    monkeypatch.setattr(artifacts, "ARCHIVE", Path("bundle") / ARCHIVE_NAME)
    with pytest.raises(Unable, match=r"installed in this Python .* python -m pipeline.verify bundle does"):
        artifacts.TorchstoneArtifact(Path("bundle"), {}, shipped)


# --- shadows ----------------------------------------------------------------------------------------------------------


def plant(folder: Path, ran: Path, *names: str) -> None:
    """Modules that leave a mark when they are imported."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.py").write_text(f"open({str(ran)!r}, 'a').write({name!r})\nraise ImportError('planted')\n")


def _imported() -> set[str]:
    """What the check imports of the standard library."""
    names = {name.partition(".")[0] for path in SOURCES for name in imports(ast.parse(path.read_text()))}
    return names - {"pipeline"}


def _loaded_at_start() -> set[str]:
    """What Python and its site-packages import before any command: PYTHONPATH comes first for those already."""
    command = [sys.executable, "-c", "import runpy, sys; print(*sys.modules)"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("alone", [True, False], ids=["archive", "package"])
@pytest.mark.parametrize("path", ["", "."], ids=["no path", "the current folder in PYTHONPATH"])
def test_from_inside_a_folder_full_of_shadows_nothing_of_it_runs(
    alone: bool, path: str, bundle: Path, tmp_path: Path
) -> None:
    shadows, ran = tmp_path / "shadows", tmp_path / "ran"
    names = _imported() - _loaded_at_start() if path else sys.stdlib_module_names - BEFORE_ANY_CODE
    assert {"json", "hashlib", "argparse"} <= names
    plant(shadows, ran, *names, "numpy", "onnxruntime")
    search = os.pathsep.join(filter(None, (path, "" if alone else str(ROOT))))
    done = run_check(bundle, "--no-speed", alone=alone, cwd=shadows, PYTHONPATH=search)
    assert (done.returncode, ran.exists() and ran.read_text()) == (0, False), done.stdout + done.stderr


@pytest.mark.parametrize("alone", [True, False], ids=["archive", "package"])
def test_from_inside_a_bundle_nothing_that_was_added_runs(alone: bool, bundle: Path, tmp_path: Path) -> None:
    """An unverified ``json.py`` beside the archive would be imported before anything was checked."""
    ran = tmp_path / "ran"
    search = "" if alone else str(ROOT)
    plant(bundle, ran, "json")
    done = run_check(bundle, alone=alone, cwd=bundle, PYTHONPATH=search)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "refused: json.py is not in the manifest")
    plant(bundle, ran, "runpy", "__future__", "zipimport", "re", "numpy", "onnxruntime")
    done = run_check(bundle, alone=alone, cwd=bundle, PYTHONPATH=search)
    assert (done.returncode, "more files than the manifest lists" in done.stdout) == (1, True)
    for name in _loaded_at_start():
        (bundle / f"{name}.py").unlink(missing_ok=True)  # PYTHONPATH would give it to the start of Python itself
    forge(bundle)  # a manifest that lists them: what somebody can do who can write every file
    for path in (search, os.pathsep.join((search, str(bundle))), os.pathsep.join((search, "."))):
        done = run_check(bundle, "--no-speed", alone=alone, cwd=bundle, PYTHONPATH=path.strip(os.pathsep))
        assert (done.returncode, ran.exists() and ran.read_text()) == (0, False), done.stdout + done.stderr


def test_what_is_planted_runs_where_nothing_keeps_it_out(bundle: Path, tmp_path: Path) -> None:
    """The twin: Python itself prefers the current folder, and a child that took PYTHONPATH over would import it."""
    plant(bundle, tmp_path / "ran", "json")
    subprocess.run([sys.executable, "-c", "import json"], cwd=bundle, capture_output=True, check=False)
    assert (tmp_path / "ran").read_text() == "json"
    command, variables = running.child_command(tmp_path / "another")
    kept = variables | {"PYTHONPATH": os.pathsep.join((variables["PYTHONPATH"], str(bundle)))}
    subprocess.run(command, env=kept, cwd=bundle, capture_output=True, check=False)
    assert (tmp_path / "ran").read_text() == "jsonjson"


def test_a_folder_named_pipeline_in_the_bundle_is_kept_out_by_safe_path(bundle: Path, tmp_path: Path) -> None:
    """With ``-m`` alone it wins before any code of ours runs, as docs/shipping.md says."""
    plant(bundle / "pipeline", tmp_path / "ran", "__init__")
    done = run_check(bundle, cwd=bundle, python=(sys.executable, "-P"), PYTHONPATH=str(ROOT))
    assert done.stdout.splitlines()[-1] == "refused: pipeline/__init__.py is not in the manifest"
    assert not (tmp_path / "ran").exists()
    assert run_check(bundle, cwd=bundle, alone=True).returncode == 1
    assert not (tmp_path / "ran").exists()


def test_the_archive_knows_its_own_bundle(bundle: Path, tmp_path: Path) -> None:
    """By a relative name, through the link of a serving folder; elsewhere it wants a folder."""
    (tmp_path / "current").symlink_to(bundle.name)
    done = subprocess.run(
        [sys.executable, ARCHIVE_NAME, "--no-speed"],
        cwd=tmp_path / "current",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "accepted"), done.stdout + done.stderr
    shutil.copy(bundle / ARCHIVE_NAME, tmp_path / ARCHIVE_NAME)
    for flags, code in (((), 2), ((bundle, "--no-speed"), 0)):
        done = run_check(tmp_path, *flags, alone=True)
        assert done.returncode == code, done.stdout + done.stderr
        assert code == 0 or "usage: python verify.pyz" in done.stderr

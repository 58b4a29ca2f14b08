"""The house stays in order: one direction of imports, small files, records described, versions equal."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from export.version import VERSION
from tests.conftest import ROOT

MAY_IMPORT = {"export": {"export"}, "bench": {"export", "bench"}, "pipeline": {"export", "bench", "pipeline"}}
RUNTIMES = {
    "onnxruntime": "export/runtimes/onnxruntime.py",
    "openvino": "export/runtimes/openvino.py",
    "nncf": "export/runtimes/openvino.py",
    "torch.jit": "export/backends/torchscript.py",
    "torch.onnx": "export/exporters/onnx.py",
}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", sources("pipeline", "export", "bench"), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way_and_files_stay_small(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    for name in imports(path):
        top = name.partition(".")[0]
        assert top not in MAY_IMPORT or top in MAY_IMPORT[folder], f"{path} imports {name}"
    if path.parent.name == "backends":
        assert not [name for name in imports(path) if name.startswith("export.backends.")]
    assert len(path.read_text().splitlines()) <= 320
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize(("runtime", "file"), RUNTIMES.items())
def test_a_runtime_is_touched_by_its_backend_alone(runtime: str, file: str) -> None:
    users = [
        path
        for path in sources("pipeline", "export", "bench")
        if path.parent.name != "verifier"  # stands alone, where there is no Torchstone
        and re.search(rf"^[^#\"]*\b{re.escape(runtime)}\b[.(]?(?!`)", _code(path), flags=re.MULTILINE)
    ]
    assert [path.relative_to(ROOT).as_posix() for path in users] == [file]


def _code(path: Path) -> str:
    """The source without its docstrings, comments and messages."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.unparse(tree)


def test_every_schema_is_described() -> None:
    described = (ROOT / "FORMAT.md").read_text()
    schemas = {
        schema
        for path in sources("pipeline", "export", "bench")
        for schema in re.findall(r'"(torchstone\.\w+/\d+)"', path.read_text())
    }
    assert len(schemas) >= 8
    assert not [schema for schema in schemas if f"`{schema}`" not in described]


def test_the_version_is_the_newest_changelog_entry() -> None:
    newest = re.search(r"^## \[?([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert newest is not None
    assert newest.group(1) == VERSION


def test_every_direct_dependency_is_pinned() -> None:
    pinned = set(re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE))
    declared = set(re.findall(r'^    "([\w-]+)[>\[]', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE))
    extras = set(re.findall(r'"([\w-]+)>=', (ROOT / "pyproject.toml").read_text()))
    assert (declared | extras) - {"setuptools", "torchstone"} <= pinned


def test_outputs_are_not_tracked() -> None:
    tracked = subprocess.run(["git", "ls-files", "artifacts"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    assert tracked.stdout.split() == ["artifacts/README.md"]


def test_every_backend_has_its_place_in_every_order() -> None:
    from bench.verdict.ranking import SIMPLEST_FIRST
    from export.backend import BACKENDS, get
    from pipeline.stages.build import _SLOWEST_FIRST

    assert set(_SLOWEST_FIRST) == set(BACKENDS)
    assert set(SIMPLEST_FIRST) == {name for name in BACKENDS if get(name).SOURCE_FREE}

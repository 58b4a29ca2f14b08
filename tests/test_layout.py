"""The source stays in order: one direction of imports, small files, records described, versions equal."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

from export.version import VERSION
from pipeline.stages.tools import SHAPES_NOTHING, TOOLS
from tests.conftest import ROOT
from tests.measure.architecture import ACCEPTED, PACKAGES, figures, places, worse

MAY_IMPORT = {
    "export": {"export"},
    "bench": {"export", "bench"},
    "pipeline": {"export", "bench", "pipeline"},
    "torchstone": {*PACKAGES},
}
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


@pytest.mark.parametrize("path", sources(*PACKAGES), ids=lambda path: str(path.relative_to(ROOT)))
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
    use = rf"^[^#\"]*(?<!export\.runtimes\.)\b{re.escape(runtime)}\b[.(]?(?!`)"
    users = [
        path
        for path in sources(*PACKAGES)
        if path.parent.name != "verifier"  # stands alone, where there is no Torchstone
        and re.search(use, _code(path), flags=re.MULTILINE)
    ]
    assert [path.relative_to(ROOT).as_posix() for path in users] == [file]


@cache
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
        schema for path in sources(*PACKAGES) for schema in re.findall(r'"(torchstone\.\w+/\d+)"', path.read_text())
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


def test_no_figure_of_the_architecture_is_worse_than_the_accepted_one() -> None:
    assert worse(figures(ROOT), json.loads(ACCEPTED.read_text())) == []


def test_a_worse_architecture_is_seen(tmp_path: Path) -> None:
    """A circle, a path of a run, a device's name, too many parameters and an old word, planted into an empty tree."""
    for folder in ("pipeline", "export", "bench", "tests"):
        (tmp_path / folder).mkdir()
    parameters = ", ".join(f"a{number}" for number in range(8))
    (tmp_path / "export" / "a.py").write_text("import export.b\n")
    (tmp_path / "export" / "b.py").write_text(
        '"""On cuda: the desk."""\nfrom typing import TYPE_CHECKING\nfrom export import a\n'
        f'class C:\n    def f(self, {parameters}): return self.run / "parity" / "cuda:0"\n'
        'desk = "a folder"\nif TYPE_CHECKING:\n    import bench.c\n'
    )
    (tmp_path / "bench" / "c.py").write_text('"""Only a name."""\nfrom export import b\n')
    counts = {name: count for name, count in figures(tmp_path).items() if count and not name.startswith("lines")}
    assert counts == {
        "circles of imports": 1,
        "circles of imports, those for type checking among them": 1,
        "functions of more than 7 parameters": 1,
        "files that name cuda": 1,
        "places that spell a run's path": 1,
        "files that spell a run's path": 1,
        "old word: desk": 1,
        "old terms, in docstrings and comments too": 2,
    }
    assert "bench.c" in places(tmp_path)["circles of imports, those for type checking among them"][0]
    assert "bench.c" not in places(tmp_path)["circles of imports"][0]


def test_every_file_of_ours_is_in_the_digest_of_what_it_shapes_or_shapes_nothing() -> None:
    """Else a change of it would leave stale records in use."""
    held = {
        path for patterns in (*TOOLS.values(), SHAPES_NOTHING) for pattern in patterns for path in ROOT.glob(pattern)
    }
    assert not [path for path in sources(*PACKAGES) if path not in held]
    shaping = {path for patterns in TOOLS.values() for pattern in patterns for path in ROOT.glob(pattern)}
    assert ROOT / "pipeline" / "training" / "metrics.py" in shaping
    assert not [pattern for pattern in (*chain(*TOOLS.values()), *SHAPES_NOTHING) if not list(ROOT.glob(pattern))]

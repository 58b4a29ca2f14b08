"""A compiler that has no link to the shared C++ runtime: an image with the library but without its development files.

It links the archive instead, and the process that loads the result has two runtimes: that crashed torch's own loader on
a GPU machine (docs/measured/gpu.md).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from export import registry
from export.backend import LoadOptions
from export.errors import UserError
from export.exporters.inductor import check_runtime, runtime_libraries
from export.runtimes.needed_libraries import needed_libraries
from tests.conftest import Builder
from tests.models import make

SOURCE = '#include <regex>\nbool f(const char *s) { return std::regex_match(s, std::regex("[a-z]+")); }\n'
COMPILER = """#!/bin/sh
case "$*" in
  *-print-file-name=libstdc++.so) echo libstdc++.so ;;
  *) exec {compiler} -static-libstdc++ "$@" ;;
esac
"""
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@pytest.fixture
def without_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A g++ that finds ``libstdc++.a`` alone, and is what Inductor compiles with."""
    compiler = tmp_path / "g++"
    compiler.write_text(COMPILER.format(compiler=shutil.which("g++")))
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    return compiler


def compiled(folder: Path, libraries: list[str]) -> Path:
    """A library with a regular expression, linked with these."""
    (folder / "regex.cpp").write_text(SOURCE)
    library = folder / "regex.so"
    linked = [f"-l{name}" for name in libraries]
    command = [os.environ.get("CXX", "g++"), "-shared", "-fPIC", "regex.cpp", "-o", library.name, *linked]
    subprocess.run(command, cwd=folder, check=True)
    return library


def test_an_ordinary_compiler_is_told_nothing(tmp_path: Path) -> None:
    assert runtime_libraries() == []
    check_runtime(compiled(tmp_path, []))


def test_a_library_with_a_runtime_of_its_own_is_refused(without_link: Path, tmp_path: Path) -> None:
    library = compiled(tmp_path, [])
    assert not [name for name in needed_libraries(library) if "stdc++" in name]
    with pytest.raises(UserError, match=r"its runtime statically \(regex.so needs libgcc_s.so.1.*apt-get install"):
        check_runtime(library)


def test_the_shared_runtime_is_linked_by_its_own_name(without_link: Path, tmp_path: Path) -> None:
    library = compiled(tmp_path, runtime_libraries())
    assert "libstdc++.so.6" in needed_libraries(library)
    check_runtime(library)


@pytest.mark.slow
def test_a_package_built_by_such_a_compiler_loads(without_link: Path, build_model: Builder) -> None:
    folder, artifact = build_model("Mlp", "aotinductor")
    inputs = artifact.signature.example({"batch": 3}, seed=0)
    answer = registry.load(folder, LoadOptions(), lambda: make("Mlp"))(inputs)
    assert np.isfinite(answer["y"]).all()

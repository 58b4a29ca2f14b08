"""A short run of the fuzzer; ``python -m tests.measure.fuzz 10`` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.verifier import files
from tests.measure.fuzz import fuzz


@pytest.mark.parametrize("name", ["manifest", "record", pytest.param("bundle", marks=pytest.mark.slow), "ONNX file"])
def test_readers_refuse_damage_in_their_own_words(name: str, tmp_path: Path) -> None:
    assert fuzz(name, tmp_path / "bundle", 400, start=1) > 50


def test_the_fuzzer_finds_a_reader_that_forgot_a_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: without the check that a path stays inside, one of another kind of error comes out."""
    monkeypatch.setattr(files, "is_inside", lambda path: path.startswith("."))
    monkeypatch.setattr(files, "_canonical", lambda value: value["files"][0]["path"].encode())
    with pytest.raises((AssertionError, KeyError, TypeError, IndexError, AttributeError)):
        fuzz("manifest", tmp_path / "bundle", 2000, start=1)

"""Bundles of every version of the format, as they were committed: they stay readable, and stay right.

To make one: ``python -m pipeline.all tests/recipes/tiny.py``, then copy ``artifacts/tiny/latest/bundle`` to
``tests/golden/bundle-<version>``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.bundle.record import Bundle, Manifest
from tests.conftest import ROOT
from tests.pipeline.bundles import check, run_check

GOLDEN = sorted((ROOT / "tests" / "golden").glob("bundle-*"))


def test_there_is_one_of_the_present_version() -> None:
    assert f"bundle-{Bundle.SCHEMA.rpartition('/')[2]}" in [path.name for path in GOLDEN]


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda path: path.name)
def test_an_old_bundle_is_still_accepted(folder: Path) -> None:
    found = check(folder)
    assert found["artifacts"]["onnx"]["golden"]["worst_share"] < 1
    schemas = [json.loads((folder / name).read_bytes())["schema"] for name in ("manifest.json", "bundle.json")]
    assert schemas == [Manifest.SCHEMA, Bundle.SCHEMA] or folder.name != GOLDEN[-1].name


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda path: path.name)
def test_its_own_check_still_accepts_it(folder: Path) -> None:
    done = run_check(folder, "--no-speed", alone=True)
    assert done.returncode == 0, done.stdout + done.stderr

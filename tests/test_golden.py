"""Bundles of every version of the format, as they were committed: they stay readable, and stay right.

To make one: ``python -m pipeline.all tests/recipes/tiny.py``, then copy ``artifacts/tiny/latest/bundle`` to
``tests/golden/bundle-<version>``.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pipeline.bundle.record import Bundle, Manifest
from pipeline.verifier import contents, lineage
from pipeline.verifier.outcome import Refused
from pipeline.verifier.upgrade import BUNDLE_SCHEMAS, nested_options, runtime_option
from tests.conftest import ROOT
from tests.pipeline.bundles import check, run_check

GOLDEN = sorted((ROOT / "tests" / "golden").glob("bundle-*"))


def test_there_is_one_of_the_present_version() -> None:
    assert f"bundle-{Bundle.SCHEMA.rpartition('/')[2]}" in [path.name for path in GOLDEN]


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda path: path.name)
def test_an_old_bundle_is_still_accepted(folder: Path) -> None:
    findings = check(folder)
    assert findings["artifacts"]["onnx"]["golden"]["worst_share"] < 1
    schemas = [json.loads((folder / name).read_bytes())["schema"] for name in ("manifest.json", "bundle.json")]
    assert schemas == [Manifest.SCHEMA, f"torchstone.bundle/{folder.name.rpartition('-')[2]}"]
    assert schemas[1] in BUNDLE_SCHEMAS


@pytest.mark.parametrize(("reader", "upgrade"), [(contents, "upgrade_bundle"), (lineage, "upgrade_parity")])
def test_without_the_upgrade_an_old_bundle_is_refused(
    reader: ModuleType, upgrade: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin: the names of version 1 are not those that the check reads."""
    monkeypatch.setattr(reader, upgrade, dict)
    with pytest.raises(Refused, match="hold together: KeyError"):
        check(GOLDEN[0])


@pytest.mark.parametrize(
    ("flat", "nested"),
    [
        ({"optimization": "all", "spinning": False, "cuda_graph": False}, {}),
        ({"optimization": "basic", "spinning": True, "cuda_graph": False}, {"optimization": "basic", "spinning": True}),
    ],
    ids=str,
)
def test_options_of_either_shape_say_the_same(flat: dict[str, Any], nested: dict[str, Any]) -> None:
    common = {"device": "cpu", "threads_count": 2}
    assert nested_options(common | flat) == common | {"runtime": nested} == nested_options(common | {"runtime": nested})
    for name, value in flat.items():
        assert runtime_option(common | flat, name) == value == runtime_option(common | {"runtime": nested}, name)


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda path: path.name)
def test_its_own_check_still_accepts_it(folder: Path) -> None:
    done = run_check(folder, "--no-speed", alone=True)
    assert done.returncode == 0, done.stdout + done.stderr

"""The bill of materials: valid CycloneDX 1.6 for any recipe, and true."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.verdict.judge import Verdict
from export.environment import DRIVER, TOOLKIT
from export.files import digest_file
from export.record import read
from pipeline.bundle.bom import BOM, content_sha256, write_bom
from pipeline.bundle.record import Bundle
from pipeline.training.checkpoint import Checkpoint


def _wrong(text: str) -> str | None:
    """What the published schema has against it."""
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    return None if error is None else str(error)


def test_the_bundles_bill_is_valid_and_names_what_is_there(built: Path) -> None:
    bundle, checkpoint = read(Bundle, built / "bundle" / "bundle.json"), built / "checkpoint" / "checkpoint.json"
    text = (built / "bundle" / BOM).read_text()
    assert _wrong(text) is None
    bill: dict[str, Any] = json.loads(text)
    components = {component["bom-ref"]: component for component in bill["components"]}
    for shipped in bundle.shipped:
        (hashed,) = components[f"file:{shipped.file}"]["hashes"]
        assert hashed == {"alg": "SHA-256", "content": digest_file(built / "bundle" / shipped.file)}
    packages = {component["name"]: component["version"] for component in components.values() if "purl" in component}
    assert packages == bundle.environment.versions
    tensors = {one["value"] for one in components["data"]["properties"]}
    assert tensors == set(read(Checkpoint, checkpoint).data_sha256.values())
    model = bill["metadata"]["component"]
    assert model["modelCard"]["modelParameters"]["inputs"] == [{"format": "x: float32 (batch, 2)"}]
    assert {ref for edge in bill["dependencies"] for ref in [edge["ref"], *edge.get("dependsOn", [])]} == {
        "model", *components
    }  # fmt: skip


BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "a component without a name": lambda bill: bill["components"][0].pop("name"),
    "a digest that is none": lambda bill: bill["components"][1]["hashes"][0].update(content="abc"),
    "a field that the format does not have": lambda bill: bill["metadata"]["component"].update(weights="none"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_the_schema_sees_a_broken_one(kind: str, built: Path) -> None:
    """The twin."""
    bill = json.loads((built / "bundle" / BOM).read_text())
    BROKEN[kind](bill)
    assert _wrong(json.dumps(bill)) is not None


@pytest.fixture(scope="module")
def folder(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the shared run's bundle."""
    return Path(shutil.copytree(built / "bundle", tmp_path_factory.mktemp("bom") / "bundle"))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None)
@given(name=TEXT, licence=TEXT | st.sampled_from(["MIT", "Apache-2.0 OR (MIT AND BSD-3-Clause)"]), metric=TEXT)
def test_no_name_of_a_recipes_makes_it_invalid(name: str, licence: str, metric: str, folder: Path) -> None:
    bundle = replace(read(Bundle, folder / "bundle.json"), name=name, licence=licence)
    verdict = replace(read(Verdict, folder / "records" / "verdict.json"), metrics={metric: 0.5})
    checkpoint = read(Checkpoint, folder / "records" / "checkpoint.json")
    write_bom(folder, bundle, verdict, replace(checkpoint, data_sha256={f"train.{name}": "0" * 64}))
    written = (folder / BOM).read_text()
    assert _wrong(written) is None
    assert json.loads(written)["metadata"]["component"]["name"] == name


@pytest.mark.parametrize("name", [DRIVER, TOOLKIT])
def test_a_driver_is_no_package(name: str, built: Path, tmp_path: Path) -> None:
    """On a GPU the environment holds versions that no package index knows."""
    folder = Path(shutil.copytree(built / "bundle", tmp_path / "bundle"))
    bundle, before = read(Bundle, folder / "bundle.json"), (folder / BOM).read_bytes()
    versions = bundle.environment.versions | {name: "13.0"}
    bundle = replace(bundle, environment=replace(bundle.environment, versions=versions))
    records = folder / "records"
    write_bom(folder, bundle, read(Verdict, records / "verdict.json"), read(Checkpoint, records / "checkpoint.json"))
    assert (folder / BOM).read_bytes() == before


def test_a_packages_digest_is_that_of_its_wheel_wherever_it_is_installed(tmp_path: Path) -> None:
    def installed(place: str, code: str, *notes: str) -> metadata.Distribution:
        folder = tmp_path / place / "one-1.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: one\nVersion: 1.0\n")
        (folder / "RECORD").write_text("\n".join([f"one/__init__.py,sha256={code},1", *notes]))
        return metadata.PathDistribution(folder)

    plain = content_sha256(installed("a", "AAAA"))
    installers = ("../../bin/one,sha256=BBBB,3", "one/__pycache__/x.pyc,,", "one-1.0.dist-info/INSTALLER,sha256=CCCC,4")
    assert plain == content_sha256(installed("b", "AAAA", *installers))
    assert plain != content_sha256(installed("c", "AAAB"))
    assert content_sha256(metadata.PathDistribution(tmp_path)) is None

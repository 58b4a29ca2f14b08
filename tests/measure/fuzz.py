"""Fuzzing of what reads a bundle before anything is trusted: manifest, records, and ONNX files by their bytes.

    python -m tests.measure.fuzz [MINUTES]

Hypothesis draws damage to real files and documents of its own; every reader must either accept what it was given as
right, or refuse it in its own words, in bounded time. Prints how many examples were tried; ends with the smallest one
that did otherwise.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from pipeline.bundle.workload import write_workload
from pipeline.verifier import verify as command
from pipeline.verifier.files import read_manifest, verify_files
from pipeline.verifier.lineage import record_digest
from pipeline.verifier.onnx_file import scan_onnx
from pipeline.verifier.outcome import Refused, Unable, parse_json
from pipeline.verifier.upgrade import upgrade_bundle

SLOWEST_S = 5.0
_GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "bundle-1"
_ROUND = 2000


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A real file with bytes changed, cut out, doubled or put in."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.integers(0, 16))
        match draw(st.sampled_from(("set", "cut", "double", "insert", "truncate"))):
            case "set" if data:
                data[place] = draw(st.integers(0, 255))
            case "cut":
                del data[place : place + length]
            case "double":
                data[place:place] = data[place : place + length]
            case "insert":
                data[place:place] = draw(st.binary(max_size=16))
            case "truncate":
                del data[place:]
    return bytes(data)


_TEXT = st.text(max_size=40) | st.sampled_from(["..", ".", "/", "a/../b", "manifest.json", "\\", "c:", "\0", "A", "a"])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)


def _manifests(whole: bytes) -> st.SearchStrategy[bytes]:
    """Damage, documents of any kind, and manifests whose entries are anything."""
    entries = st.fixed_dictionaries({"path": _TEXT, "size_bytes": st.integers(-1, 9), "sha256": st.just("0" * 64)})
    shaped = st.fixed_dictionaries(
        {"schema": st.just("torchstone.manifest/1"), "key": _TEXT, "files": st.lists(entries | _JSON, max_size=4)}
    )
    spelled = (shaped | _JSON).map(
        lambda value: json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
            "utf-8", "replace"
        )
    )
    return damaged(whole) | spelled | st.binary(max_size=64)


@st.composite
def _altered(draw: st.DrawFn, whole: bytes) -> bytes:
    """A real record with one value in it, at any depth, replaced by anything or taken away."""
    fields = json.loads(whole)
    inside = fields
    while True:
        key = (
            draw(st.sampled_from(sorted(inside))) if isinstance(inside, dict) else draw(st.integers(0, len(inside) - 1))
        )
        value = inside[key]
        if not isinstance(value, dict | list) or not value or draw(st.integers(0, 3)) == 0:
            break
        inside = value
    if draw(st.booleans()):
        inside[key] = draw(_JSON)
    else:
        del inside[key]
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def _bundle_reader(folder: Path) -> tuple[st.SearchStrategy[bytes], Callable[[bytes], object]]:
    """A whole bundle with another ``bundle.json`` under a manifest that fits it; nothing of it is run."""
    shutil.copytree(_GOLDEN, folder)
    whole = (folder / "bundle.json").read_bytes()
    manifest = json.loads((folder / "manifest.json").read_bytes())
    entry = next(one for one in manifest["files"] if one["path"] == "bundle.json")

    def read(data: bytes) -> None:
        (folder / "bundle.json").write_bytes(data)
        entry.update(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        (folder / "manifest.json").write_bytes(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode())
        with mock.patch.object(command, "run_artifact", side_effect=Refused("it would have been run")):
            command.verify(folder, command.Request(), {})

    upgraded = json.dumps(upgrade_bundle(json.loads(whole)), sort_keys=True, separators=(",", ":")).encode()
    return _altered(whole) | _altered(upgraded) | damaged(whole) | damaged(upgraded), read


def readers(folder: Path) -> dict[str, tuple[st.SearchStrategy[bytes], Callable[[bytes], object]]]:
    """By name: what to try, and who reads it; ``folder`` takes a small bundle."""
    bundle = _bundle_reader(folder.parent / "whole")
    folder.mkdir()
    write_workload(folder / "workload.onnx")
    model = (folder / "workload.onnx").read_bytes()
    graph = model[:400] + model[-200:]
    record = b'{"key":"k","observed":{"at":"","duration_s":1,"host":"h"},"schema":"torchstone.program/3"}'
    from export.files import digest_files
    from export.record import encode
    from pipeline.bundle.record import Manifest

    whole = encode(Manifest(key="k", files=digest_files(folder, [folder / "workload.onnx"])))
    scratch = folder.parent / "scratch.onnx"

    def onnx_file(data: bytes) -> None:
        scratch.write_bytes(data)
        scan_onnx(scratch, {"workload.onnx": len(model)}, "")

    def manifest(data: bytes) -> None:
        listed = read_manifest(data)
        if data != whole:
            try:
                verify_files(folder, listed)
            except Refused:
                return
            # What fits the folder though its bytes differ can differ in the key alone.
            assert json.loads(data)["files"] == json.loads(whole)["files"]

    def chained(data: bytes) -> None:
        if isinstance(parse_json(data, "record"), dict):
            record_digest(data)

    return {
        "manifest": (_manifests(whole), manifest),
        "record": (damaged(record) | _JSON.map(lambda value: json.dumps(value).encode()), chained),
        "bundle": bundle,
        "ONNX file": (damaged(model) | damaged(graph) | st.binary(max_size=200), onnx_file),
    }


def fuzz(name: str, folder: Path, examples_count: int, start: int) -> int:
    """Try so many examples on one reader; returns how many it refused.

    Raises:
        Exception: whatever a reader raised but ``Refused``, with Hypothesis's smallest example.
    """
    examples, read = readers(folder)[name]
    refused = 0

    @seed(start)
    @settings(
        max_examples=examples_count, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink), report_multiple_bugs=False,
    )  # fmt: skip
    @given(examples)
    def one(data: bytes) -> None:
        nonlocal refused
        began = time.monotonic()
        try:
            read(data)
        except (Refused, Unable):
            refused += 1
        assert time.monotonic() - began < SLOWEST_S

    one()
    return refused


def main(minutes: float) -> int:
    until = time.process_time() + 60 * minutes
    tried: dict[str, list[int]] = {}
    start = 0
    with tempfile.TemporaryDirectory() as base:
        while time.process_time() < until:
            for name in ("manifest", "record", "bundle", "ONNX file"):
                folder = Path(tempfile.mkdtemp(dir=base)) / "bundle"
                counts = tried.setdefault(name, [0, 0])
                counts[0] += _ROUND
                counts[1] += fuzz(name, folder, _ROUND, start)
                shutil.rmtree(folder.parent)
            start += 1
    for name, (count, refused) in tried.items():
        print(f"{name}: {count} examples, {refused} refused, the others accepted as right; nothing else")
    print(f"{time.process_time() / 60:.1f} CPU-minutes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(float(sys.argv[1]) if sys.argv[1:] else 10.0))

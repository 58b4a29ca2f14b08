"""``bundle.json``: read, held against the bundle's own files, in the names of the present version."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from pipeline.verifier.outcome import Refused, parse_json, read_regular
from pipeline.verifier.upgrade import BUNDLE_SCHEMAS, upgrade_bundle

BUNDLE, ONNX_FILE = "bundle.json", "model.onnx"
_LONGEST_S = 1e9


def read_bundle(folder: Path, files: Container[str]) -> dict[str, Any]:
    """The record of a version that is known here, every path in it one of the bundle's ``files``.

    Raises:
        Refused: another schema, a path that is not in the bundle, a name or a claim that cannot be one.
        KeyError, TypeError, AttributeError: a member is missing or of another type.
    """
    bundle = parse_json(read_regular(folder / BUNDLE, BUNDLE), BUNDLE)
    if not isinstance(bundle, dict) or bundle.get("schema") not in BUNDLE_SCHEMAS:
        raise Refused(f"{BUNDLE} must have the schema {' or '.join(map(repr, BUNDLE_SCHEMAS))}")
    bundle = upgrade_bundle(bundle)
    paths = [bundle["workload"], *(shipped["file"] for shipped in bundle["shipped"])]
    for call in bundle["golden"]:
        paths += call["inputs"].values()
        paths += [output[kind] for output in call["outputs"].values() for kind in ("expected", "allowed")]
    for path in paths:
        if not isinstance(path, str) or path not in files:
            raise Refused(f"{BUNDLE} names {str(path)[:200]!r}, which is not a file of the bundle")
    for shipped in bundle["shipped"]:
        _check_shipped(shipped)
    return bundle


def _check_shipped(shipped: Mapping[str, Any]) -> None:
    name = shipped["name"]
    if not re.fullmatch(r"[\w-]+", name):
        raise Refused(f"{BUNDLE}: {name[:200]!r} is not a name of an artifact")
    home, file = f"artifacts/{name}/", shipped["file"]
    if shipped["runtime"] == "onnxruntime":
        if file != ONNX_FILE and not (file.startswith(home) and file.endswith(".onnx")):
            raise Refused(f"{BUNDLE}: {file} is neither {ONNX_FILE} nor an ONNX file in {home}")
    elif not file.startswith(home):
        raise Refused(f"{BUNDLE}: {file} does not lie in {home}")
    if shipped["claim"] is not None and not _is_claim(shipped["claim"]):
        raise Refused(f"{BUNDLE}: the claim on {name} is not made of times in seconds")


def _is_claim(claim: Mapping[str, Any]) -> bool:
    """Whether every figure can be shown beside the one that is measured here."""
    seconds = [claim["cold_s"], *(figure["median_s"] for figure in claim["latency"])]
    seconds += [figure["workload_s"] for figure in claim["latency"] if figure["workload_s"] is not None]
    times = all(type(value) in (int, float) and 0 < value < _LONGEST_S for value in seconds)
    return times and all(type(figure["batch_rows"]) is int for figure in claim["latency"])

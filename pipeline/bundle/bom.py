"""The bundle's bill of materials, as CycloneDX 1.6 JSON: model, data, files, and the packages that they were made with.

https://cyclonedx.org/docs/1.6/json/. Everything comes from the bundle's records, but for the packages' digests.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import uuid
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.verdict.judge import Verdict
from export.environment import DRIVER, TOOLKIT, Environment
from export.files import digest_file
from export.signature import TensorSpec
from pipeline.bundle.record import Bundle, Shipped
from pipeline.training.checkpoint import Checkpoint

BOM = "bom.cdx.json"
_EXPRESSION = re.compile(r"\(*[A-Za-z0-9.+-]+(\)*( (AND|OR|WITH) \(*[A-Za-z0-9.+-]+))*\)*")
_MODEL, _DATA = "model", "data"


def write_bom(folder: Path, bundle: Bundle, verdict: Verdict, checkpoint: Checkpoint) -> None:
    """Write it into the bundle's folder, where the artifacts lie already; the same bytes for the same bundle."""
    text = json.dumps(_bom(folder, bundle, verdict, checkpoint), indent=1, sort_keys=True, ensure_ascii=False)
    (folder / BOM).write_text(f"{text}\n", encoding="utf-8")


def _bom(folder: Path, bundle: Bundle, verdict: Verdict, checkpoint: Checkpoint) -> dict[str, Any]:
    data = [_data(bundle, checkpoint)] if checkpoint.data_sha256 else []
    files = [_file(folder, shipped) for shipped in bundle.shipped]
    packages = [_package(name, version) for name, version in _distributions(bundle.environment)]
    maker = {"type": "application", "name": "torchstone", "version": bundle.version}
    components = [*data, *files, *packages]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.UUID(bundle.verdict_sha256[:32], version=4)}",
        "version": 1,
        "metadata": {
            "timestamp": checkpoint.observed.at,
            "tools": {"components": [maker]},
            "component": _model(bundle, verdict, with_data=bool(data)),
        },
        "components": components,
        "dependencies": [
            {"ref": _MODEL, "dependsOn": sorted(component["bom-ref"] for component in components)},
            *({"ref": component["bom-ref"]} for component in components),
        ],
    }


def _model(bundle: Bundle, verdict: Verdict, *, with_data: bool) -> dict[str, Any]:
    signature = bundle.signature
    parameters: dict[str, Any] = {
        "inputs": [{"format": _format(spec)} for spec in signature.inputs],
        "outputs": [{"format": _format(spec)} for spec in signature.outputs],
    }
    if with_data:
        parameters["datasets"] = [{"ref": _DATA}]
    facts: dict[str, Any] = {"modelParameters": parameters}
    if verdict.metrics:
        metrics = [{"type": name, "value": f"{value:.9g}"} for name, value in sorted(verdict.metrics.items())]
        facts["quantitativeAnalysis"] = {"performanceMetrics": metrics}
    licences = {"licenses": [_licence(bundle.licence)]} if bundle.licence else {}
    return {
        "type": "machine-learning-model",
        "bom-ref": _MODEL,
        "name": bundle.name,
        "version": bundle.verdict_sha256[:12],
        "modelCard": facts,
        "properties": [{"name": "torchstone:verdict:sha256", "value": bundle.verdict_sha256}],
        **licences,
    }


def _format(spec: TensorSpec) -> str:
    return f"{spec.name}: {spec.dtype} ({', '.join(map(str, spec.shape))})"


def _licence(licence: str) -> dict[str, Any]:
    return {"expression": licence} if _EXPRESSION.fullmatch(licence) else {"license": {"name": licence}}


def _data(bundle: Bundle, checkpoint: Checkpoint) -> dict[str, Any]:
    """The data that the model was trained and tested on, by the digest of every tensor."""
    return {
        "type": "data",
        "bom-ref": _DATA,
        "name": f"data of {bundle.name}",
        "data": [{"type": "dataset", "name": f"data of {bundle.name}"}],
        "properties": [
            {"name": f"torchstone:tensor:{name}:sha256", "value": sha256}
            for name, sha256 in sorted(checkpoint.data_sha256.items())
        ],
    }


def _file(folder: Path, shipped: Shipped) -> dict[str, Any]:
    properties = {
        "backend": shipped.backend,
        "precision": shipped.precision,
        "parity": shipped.parity,
        "parity:sha256": shipped.parity_sha256,
        "artifact:sha256": shipped.artifact_sha256,
        **{f"needs:{need}": value for need, value in sorted(shipped.needs.items())},
    }
    return {
        "type": "file",
        "bom-ref": f"file:{shipped.file}",
        "name": shipped.file,
        "hashes": [{"alg": "SHA-256", "content": digest_file(folder / shipped.file)}],
        "properties": [{"name": f"torchstone:{name}", "value": str(value)} for name, value in properties.items()],
    }


def _distributions(environment: Environment) -> list[tuple[str, str]]:
    """The versions that are of packages: a driver is none."""
    return [item for item in sorted(environment.versions.items()) if item[0] not in (DRIVER, TOOLKIT)]


@cache
def _package(name: str, version: str) -> dict[str, Any]:
    purl = f"pkg:pypi/{name.lower()}@{version.replace('+', '%2B')}"
    fingerprint = content_sha256(metadata.distribution(name))
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        **({"hashes": [{"alg": "SHA-256", "content": fingerprint}]} if fingerprint else {}),
        "properties": [{"name": "torchstone:hash-of", "value": "path and SHA-256 of every installed file, sorted"}],
    }


def content_sha256(distribution: metadata.Distribution) -> str | None:
    """One digest of what a wheel installed: the same wherever that wheel is; None where its files have no digests.

    Over ``path,hex`` and a line end for every file that the wheel brought, sorted; not over what the installer adds:
    scripts outside of the packages, and the installer's own notes.
    """
    lines = sorted(_lines(distribution))
    return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else None


def _lines(distribution: metadata.Distribution) -> Iterator[str]:
    for file in distribution.files or ():
        is_installers = file.parts[0] == ".." or (file.parent.suffix == ".dist-info" and file.name in _INSTALLERS)
        if file.hash is not None and file.hash.mode == "sha256" and not is_installers:
            value = file.hash.value
            yield f"{file.as_posix()},{base64.urlsafe_b64decode(value + '=' * (-len(value) % 4)).hex()}\n"


_INSTALLERS = {"INSTALLER", "REQUESTED", "RECORD", "direct_url.json"}

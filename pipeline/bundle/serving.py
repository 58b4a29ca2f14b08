"""The serving forms of a bundle: for ONNX Triton, KServe, Kubernetes and MLflow, for AOTInductor Triton."""

from __future__ import annotations

from pathlib import Path

from export import registry
from export.device import device
from export.files import digest_files
from export.record import key_of, to_json
from pipeline.bundle.forms.kserve import write_kserve, write_kserve_openvino
from pipeline.bundle.forms.kubernetes import BASE_IMAGE, write_deployment
from pipeline.bundle.forms.mlflow import write_mlmodel
from pipeline.bundle.forms.objects import label
from pipeline.bundle.forms.server import environment, triton_arguments
from pipeline.bundle.forms.triton import aoti_refuses, write_aoti_repository, write_onnx_repository
from pipeline.bundle.record import Bundle, Shipped
from pipeline.verifier.contents import ONNX_FILE
from pipeline.verifier.speed import first_rows

_FOLDER = "serving"
_TRITON, _TRITON_AOTI = f"{_FOLDER}/triton", f"{_FOLDER}/triton-aoti"
_CONTENT_DIGITS = 12


def write_serving(folder: Path, bundle: Bundle, storage_uri: str | None, base_image: str | None) -> None:
    """Fill ``serving/`` in the bundle's ``folder``, and what MLflow wants beside ``model.onnx``."""
    for shipped in bundle.shipped:
        if shipped.file == ONNX_FILE:
            _write_onnx_forms(folder, bundle, shipped, storage_uri, base_image or BASE_IMAGE)
        elif registry.get(shipped.backend).serving_form == "torch_aoti" and aoti_refuses(bundle.signature) is None:
            package = folder / shipped.file
            repository, joins = folder / _TRITON_AOTI, not bundle.rows_together
            write_aoti_repository(repository, label(bundle.name), package, bundle.signature, shipped, joins=joins)


def _write_onnx_forms(folder: Path, bundle: Bundle, shipped: Shipped, storage_uri: str | None, base_image: str) -> None:
    repository, name = folder / _TRITON, label(bundle.name)
    rows = first_rows(folder, to_json(bundle), _warm_rows(bundle, shipped))
    model, joins = folder / ONNX_FILE, not bundle.rows_together
    write_onnx_repository(repository, name, model, bundle.signature, shipped, rows, joins=joins)
    files = digest_files(repository, (path for path in repository.rglob("*") if path.is_file()))
    started = {"environment": environment(shipped), "arguments": triton_arguments(shipped)}
    content = key_of(base_image=base_image, files=files, started=started)[:_CONTENT_DIGITS]
    uri = storage_uri or f"pvc://{name}/{_TRITON}"
    write_kserve(folder / _FOLDER / "kserve.yaml", name, shipped, uri, content)
    if not device(shipped.options.device).asynchronous:  # OpenVINO runs on the CPU, where nobody judged the others
        write_kserve_openvino(folder / _FOLDER / "kserve-openvino.yaml", name, shipped, uri, content)
    write_deployment(folder / _FOLDER, name, shipped, content, base_image)
    write_mlmodel(folder, ONNX_FILE, bundle.signature, shipped)


def _warm_rows(bundle: Bundle, shipped: Shipped) -> int:
    """The fewest rows that were tested; of the first timed call where functions draw whole calls."""
    if bundle.signature.has_draw_functions:
        return bundle.timed_rows[0]
    tested = shipped.tested_sizes.get(bundle.batch) if bundle.batch else None
    return max(tested.min, 1) if tested else 1

"""What the server says of itself and of its models: metadata, the repository's index, OpenAPI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from export.signature import Signature
from export.tensor import TensorSpec
from export.version import VERSION
from pipeline.serving.protocol.datatypes import DATATYPES

if TYPE_CHECKING:
    from pipeline.serving.entry import Entry, Served
    from pipeline.serving.model import Model

_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_REFUSALS = {
    "400": "what is wrong with the request, by name", "401": "a key is needed", "403": "another origin's page",
    "404": "no such model", "405": "another method", "408": "the body came too slowly", "413": "the body is too large",
    "415": "the body is of another type", "422": "the answer holds what JSON cannot carry",
    "503": "too much waits (Retry-After), or the model does not answer", "504": "the answer would come too late",
}  # fmt: skip


def server() -> dict[str, Any]:
    """``$metadata_server_response``."""
    return {"name": "torchstone", "version": VERSION, "extensions": ["binary_tensor_data", "model_repository"]}


def model(model: Model) -> dict[str, Any]:
    """``$metadata_model_response``."""
    signature = model.signature
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": f"{model.shipped['runtime']}_{model.shipped['backend']}",
        "inputs": [_tensor(spec) for spec in signature.inputs],
        "outputs": [_tensor(spec) for spec in signature.outputs],
    }


def config(model: Model) -> dict[str, Any]:
    """The part of Triton's model configuration that its tools ask for."""
    return {
        "name": model.name,
        "platform": f"{model.shipped['runtime']}_{model.shipped['backend']}",
        "backend": model.shipped["runtime"],
        "max_batch_size": 0,  # shapes are the model's own, rows included
        "input": [_config(spec) for spec in model.signature.inputs],
        "output": [_config(spec) for spec in model.signature.outputs],
    }


def index(entries: Mapping[str, Entry]) -> list[dict[str, str]]:
    """``$repository_index_response``."""
    rows = []
    for name, entry in entries.items():
        version = entry.served.model.version if entry.served else entry.tried
        state = "READY" if entry.is_ready else "UNAVAILABLE"
        reason = "a newer version was refused" if entry.refused else "" if entry.served else "unloaded"
        rows.append({"name": name, "version": version, "state": state, "reason": reason})
    return rows


def openapi(models: Sequence[Served]) -> dict[str, Any]:
    """All routes as OpenAPI 3.1, the requests of each model by its own signature."""
    paths: dict[str, Any] = {
        "/v2": _get("What this server is"),
        "/v2/health/live": _get("Whether the server runs"),
        "/v2/health/ready": _get("Whether every model answers"),
        "/v2/repository/index": {"post": _operation("The models that there are", {"type": "array"})},
        "/metrics": _get("Figures for Prometheus", "text/plain"),
    }
    for served in models:
        name = served.model.name
        place = f"/v2/models/{name}"
        paths[place] = _get(f"The inputs and outputs of {name}")
        paths[f"{place}/ready"] = _get(f"Whether {name} answers")
        paths[f"{place}/infer"] = {"post": _infer(served.model.signature, name)}
    return {"openapi": "3.1.0", "info": {"title": "Open Inference Protocol v2", "version": "2"}, "paths": paths}


def _infer(signature: Signature, name: str) -> dict[str, Any]:
    inputs = [_input_schema(spec) for spec in signature.inputs]
    request = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "inputs": {"type": "array", "items": {"oneOf": inputs}, "minItems": len(inputs), "maxItems": len(inputs)},
        },
    }
    operation = _operation(f"Ask {name}", {"type": "object", "required": ["model_name", "outputs"]})
    operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": request}}}
    return operation


def _input_schema(spec: TensorSpec) -> dict[str, Any]:
    shape = [{"const": dim} if isinstance(dim, int) else {"type": "integer", "title": dim} for dim in spec.shape]
    element = {"bool": "boolean"}.get(spec.dtype, "integer" if spec.is_integer else "number")
    properties = {
        "name": {"const": spec.name},
        "datatype": {"const": DATATYPES[spec.dtype]},
        "shape": {"type": "array", "prefixItems": shape, "minItems": len(shape), "maxItems": len(shape)},
        "data": {"type": "array", "items": {"type": element}},
    }
    return {"type": "object", "required": [*properties], "properties": properties}


def _get(summary: str, content_type: str = "application/json") -> dict[str, Any]:
    return {"get": _operation(summary, {"type": "string"} if content_type == "text/plain" else {}, content_type)}


def _operation(summary: str, answer: Mapping[str, Any], content_type: str = "application/json") -> dict[str, Any]:
    refusals = {
        status: {"description": text, "content": {"application/json": {"schema": _ERROR}}}
        for status, text in _REFUSALS.items()
    }
    good = {"description": "the answer", "content": {content_type: {"schema": answer}}}
    return {"summary": summary, "responses": {"200": good, **refusals}}


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": _shape(spec)}


def _config(spec: TensorSpec) -> dict[str, Any]:
    datatype = DATATYPES[spec.dtype]
    return {"name": spec.name, "data_type": f"TYPE_{datatype}", "dims": _shape(spec)}


def _shape(spec: TensorSpec) -> list[int]:
    """-1 where a size moves."""
    return [dim if isinstance(dim, int) else -1 for dim in spec.shape]

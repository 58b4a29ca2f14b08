"""A Triton model repository: ``<repository>/<model>/config.pbtxt`` and ``<version>/<file>``.

The configuration is a protobuf message, printed by protobuf. Only what these repositories use of Triton's
``model_config.proto`` is declared here, with its names and numbers, so that nothing but protobuf (which ONNX brings) is
needed to ship; a test parses every file with Triton's own message. Shapes come from the signature, the largest batch
from the tested sizes.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from export.record import to_json
from export.signature import Signature, TensorSpec
from pipeline.bundle.record import Shipped
from pipeline.verifier.upgrade import runtime_option

VERSION = "1"
GPU_CONFIG = "gpu"
"""``tritonserver --model-config-name=gpu`` takes this variant."""
_WARM_ROWS = 32
_PACKAGE = "torchstone.triton"
_TYPES = {
    "bool": "TYPE_BOOL", "uint8": "TYPE_UINT8", "uint16": "TYPE_UINT16", "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64", "int8": "TYPE_INT8", "int16": "TYPE_INT16", "int32": "TYPE_INT32", "int64": "TYPE_INT64",
    "float16": "TYPE_FP16", "float32": "TYPE_FP32", "float64": "TYPE_FP64",
}  # fmt: skip
_LEVELS = {"basic": -1, "extended": 1}
"""What Triton's ONNX Runtime backend calls the levels of optimisation; without one it takes all."""
_ENUMS: dict[str, tuple[str, ...]] = {
    "DataType": ("TYPE_INVALID", *_TYPES.values()),
    "Kind": ("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"),
}
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    # field: (number, type); * is repeated, % a map from text
    "ModelInput": {"name": (1, "string"), "data_type": (2, "DataType"), "dims": (4, "*int64")},
    "ModelOutput": {"name": (1, "string"), "data_type": (2, "DataType"), "dims": (3, "*int64")},
    "ModelInstanceGroup": {"count": (2, "int32"), "kind": (4, "Kind")},
    "ModelDynamicBatching": {},
    "Graph": {"level": (1, "int32")},
    "ModelOptimizationPolicy": {"graph": (1, "Graph")},
    "ModelParameter": {"string_value": (1, "string")},
    "WarmupInput": {"data_type": (1, "DataType"), "dims": (2, "*int64"), "input_data_file": (5, "string")},
    "ModelWarmup": {"name": (1, "string"), "batch_size": (2, "uint32"), "inputs": (3, "%WarmupInput")},
    "ModelConfig": {
        "name": (1, "string"),
        "platform": (2, "string"),
        "backend": (17, "string"),
        "max_batch_size": (4, "int32"),
        "input": (5, "*ModelInput"),
        "output": (6, "*ModelOutput"),
        "instance_group": (7, "*ModelInstanceGroup"),
        "dynamic_batching": (11, "ModelDynamicBatching"),
        "optimization": (12, "ModelOptimizationPolicy"),
        "parameters": (14, "%ModelParameter"),
        "model_warmup": (16, "*ModelWarmup"),
    },
}


def write_onnx_repository(
    repository: Path,
    name: str,
    model: Path,
    signature: Signature,
    shipped: Shipped,
    row: Mapping[str, np.ndarray[Any, Any]],
) -> None:
    """The repository of an ONNX file: ``config.pbtxt`` for CPUs, ``configs/gpu.pbtxt`` for GPUs, warm-up from ``row``.

    ``row`` holds real inputs by name, with one row where the model counts rows. The file (and its external data, if it
    has any) is linked, not copied, where the file system can.
    """
    folder = repository / name
    (folder / VERSION).mkdir(parents=True)
    for file in (model, *model.parent.glob(f"{model.name}.*")):
        link(file, folder / VERSION / file.name)
    batched = most_rows(signature, shipped)
    warmup = folder / "warmup"
    warmup.mkdir()
    for tensor, array in row.items():
        (warmup / tensor).write_bytes(np.ascontiguousarray(array).tobytes())
    for kind, place in (
        ("KIND_CPU", folder / "config.pbtxt"),
        ("KIND_GPU", folder / "configs" / f"{GPU_CONFIG}.pbtxt"),
    ):
        config = _config(name, signature, batched)
        config.backend = "onnxruntime"
        config.instance_group.add(count=1, kind=kind)
        if kind == "KIND_CPU":
            config.parameters["intra_op_thread_count"].string_value = str(shipped.options.threads_count)
        if (level := _LEVELS.get(runtime_option(to_json(shipped.options), "optimization"))) is not None:
            config.optimization.graph.level = level
        _warm_up(config, signature, batched, row)
        _print(config, place)


def write_aoti_repository(repository: Path, name: str, package: Path, signature: Signature, shipped: Shipped) -> None:
    """The repository of an AOTInductor package: tensors are named by place, and the server does not batch.

    Both are rules of Triton's PyTorch backend for the platform ``torch_aoti`` (releases from 26.03 on).
    """
    folder = repository / name
    (folder / VERSION).mkdir(parents=True)
    link(package, folder / VERSION / "model.pt2")
    config = _config(name, signature, 0)
    for prefix, tensors in (("INPUT", config.input), ("OUTPUT", config.output)):
        for index, tensor in enumerate(tensors):
            tensor.name = f"{prefix}__{index}"
    config.platform = "torch_aoti"
    config.instance_group.add(count=1, kind="KIND_CPU" if shipped.options.device == "cpu" else "KIND_GPU")
    _print(config, folder / "config.pbtxt")


def most_rows(signature: Signature, shipped: Shipped) -> int:
    """Triton's ``max_batch_size``: the most rows tested, where it may join requests; 0 where it may not.

    It may if the symbol that counts rows is the first dimension of every tensor and stands nowhere else, and one row
    was tested.
    """
    batch = signature.batch
    if batch is None or batch not in shipped.tested_sizes or shipped.tested_sizes[batch].min > 1:
        return 0
    tensors = (*signature.inputs, *signature.outputs)
    joined = all(spec.shape[:1] == (batch,) and batch not in spec.shape[1:] for spec in tensors)
    return shipped.tested_sizes[batch].max if joined else 0


def link(source: Path, target: Path) -> None:
    """One file in two places of the bundle, stored once where the file system can."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def _config(name: str, signature: Signature, batched: int) -> Any:
    config = _message("ModelConfig")
    config.name = name
    config.max_batch_size = batched
    for spec in signature.inputs:
        config.input.add(name=spec.name, data_type=_TYPES[spec.dtype], dims=_dims(spec, batched))
    for spec in signature.outputs:
        config.output.add(name=spec.name, data_type=_TYPES[spec.dtype], dims=_dims(spec, batched))
    if batched > 1:
        config.dynamic_batching.SetInParent()  # and nothing more: a queue policy makes the core wait in steps of 0.5 s
    return config


def _dims(spec: TensorSpec, batched: int) -> list[int]:
    """Sizes without the batch; -1 for one that changes."""
    shape = spec.shape[1:] if batched else spec.shape
    return [dim if isinstance(dim, int) else -1 for dim in shape]


def _warm_up(config: Any, signature: Signature, batched: int, row: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """One request of one row, and one of several; the server repeats the row."""
    for rows in sorted({1, min(_WARM_ROWS, batched)}) if batched else (0,):
        warmup = config.model_warmup.add(name=f"batch {rows}" if rows else "golden", batch_size=max(rows, 1))
        for spec in signature.inputs:
            entry = warmup.inputs[spec.name]
            entry.data_type = _ENUMS["DataType"].index(_TYPES[spec.dtype])
            entry.dims.extend(row[spec.name].shape[1:] if batched else row[spec.name].shape)
            entry.input_data_file = spec.name


def _print(config: Any, place: Path) -> None:
    from google.protobuf import text_format

    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text_format.MessageToString(config))


@cache
def _classes() -> Mapping[str, Any]:
    """The messages, by name."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="torchstone_triton.proto", package=_PACKAGE, syntax="proto3")
    for name, values in _ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, (number, kind) in fields.items():
            _declare(message, field_name, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES
    }


def _declare(message: Any, name: str, number: int, kind: str) -> None:
    """A field of a message: its type as in ``_MESSAGES``."""
    from google.protobuf import descriptor_pb2

    field = descriptor_pb2.FieldDescriptorProto
    scalars = {
        "string": field.TYPE_STRING,
        "int32": field.TYPE_INT32,
        "int64": field.TYPE_INT64,
        "uint32": field.TYPE_UINT32,
    }
    label = field.LABEL_REPEATED if kind[0] in "*%" else field.LABEL_OPTIONAL
    declared, plain = message.field.add(name=name, number=number, label=label), kind.lstrip("*%")
    if kind[0] == "%":
        entry = message.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, label=field.LABEL_OPTIONAL, type=field.TYPE_STRING)
        value = entry.field.add(name="value", number=2, label=field.LABEL_OPTIONAL, type=field.TYPE_MESSAGE)
        value.type_name = f".{_PACKAGE}.{plain}"
        declared.type, declared.type_name = field.TYPE_MESSAGE, f".{_PACKAGE}.{message.name}.{entry.name}"
    elif plain in scalars:
        declared.type = scalars[plain]
    else:
        declared.type = field.TYPE_ENUM if plain in _ENUMS else field.TYPE_MESSAGE
        declared.type_name = f".{_PACKAGE}.{plain}"


def _message(name: str) -> Any:
    return _classes()[name]()

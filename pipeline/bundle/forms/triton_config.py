"""Triton's model configuration as a protobuf message, without Triton.

Only what our repositories use of Triton's ``model_config.proto`` is declared, with its names and numbers, so that
nothing but protobuf (which ONNX brings) is needed to ship; a test parses every file with Triton's own message.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

_PACKAGE = "torchstone.triton"
TYPES = {
    "bool": "TYPE_BOOL", "uint8": "TYPE_UINT8", "uint16": "TYPE_UINT16", "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64", "int8": "TYPE_INT8", "int16": "TYPE_INT16", "int32": "TYPE_INT32", "int64": "TYPE_INT64",
    "float16": "TYPE_FP16", "float32": "TYPE_FP32", "float64": "TYPE_FP64",
}  # fmt: skip
_ENUMS: dict[str, tuple[str, ...]] = {
    "DataType": ("TYPE_INVALID", *TYPES.values()),
    "Kind": ("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"),
}
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    # field: (number, type); * is repeated, % a map from text
    "ModelTensorReshape": {"shape": (1, "*int64")},
    "ModelInput": {
        "name": (1, "string"),
        "data_type": (2, "DataType"),
        "dims": (4, "*int64"),
        "reshape": (5, "ModelTensorReshape"),
    },
    "ModelOutput": {
        "name": (1, "string"),
        "data_type": (2, "DataType"),
        "dims": (3, "*int64"),
        "reshape": (5, "ModelTensorReshape"),
    },
    "ModelInstanceGroup": {"count": (2, "int32"), "kind": (4, "Kind")},
    "ModelDynamicBatching": {},
    "Graph": {"level": (1, "int32")},
    "Accelerator": {"name": (1, "string"), "parameters": (2, "%string")},
    "ExecutionAccelerators": {"gpu_execution_accelerator": (1, "*Accelerator")},
    "ModelOptimizationPolicy": {"graph": (1, "Graph"), "execution_accelerators": (4, "ExecutionAccelerators")},
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


def new_config() -> Any:
    """An empty ``ModelConfig``."""
    return _classes()["ModelConfig"]()


def type_number(dtype: str) -> int:
    """The number of a dtype: where a message is a map's value, protobuf takes no names."""
    return _ENUMS["DataType"].index(TYPES[dtype])


def write_config(config: Any, place: Path, comment: str = "") -> None:
    """The message in protobuf's text format, below the comment."""
    from google.protobuf import text_format

    place.parent.mkdir(parents=True, exist_ok=True)
    text = text_format.MessageToString(config)
    place.write_text(f"# {comment}\n{text}" if comment else text, encoding="utf-8")


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
        _declare(entry, "value", 2, plain)
        declared.type, declared.type_name = field.TYPE_MESSAGE, f".{_PACKAGE}.{message.name}.{entry.name}"
    elif plain in scalars:
        declared.type = scalars[plain]
    else:
        declared.type = field.TYPE_ENUM if plain in _ENUMS else field.TYPE_MESSAGE
        declared.type_name = f".{_PACKAGE}.{plain}"
